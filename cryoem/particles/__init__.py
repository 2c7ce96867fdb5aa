"""Particle images and what is known of each: in memory, in files, and as tables that other programs read.

A stack is an array (n, y, x) of square images whose origin is pixel ``n // 2`` of both axes.
"""

from cryoem.particles.alignments import relion_tables, xmipp_table
from cryoem.particles.files import open_particles
from cryoem.particles.image_names import names_for_table
from cryoem.particles.job_writing import write_particles
from cryoem.particles.particle_file import ParticleFile
from cryoem.particles.poses import write_poses
from cryoem.particles.stack import ParticleSeries, ParticleStack
from cryoem.particles.tables import read_xmd
from cryoem.particles.writing import StackWriter, check_image_names, write_stack, write_star, write_xmd

__all__ = [
    "ParticleFile",
    "ParticleSeries",
    "ParticleStack",
    "StackWriter",
    "check_image_names",
    "names_for_table",
    "open_particles",
    "read_xmd",
    "relion_tables",
    "write_particles",
    "write_poses",
    "write_stack",
    "write_star",
    "write_xmd",
    "xmipp_table",
]
