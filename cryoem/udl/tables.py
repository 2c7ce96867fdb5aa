"""The alignment of a file's images as tables for RELION and XMIPP."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoem.particles import ParticleFile, relion_tables, write_star, write_xmd, xmipp_table
from cryoem.udl.registration import Registration

STAR_FILE, XMD_FILE = "aligned.star", "aligned.xmd"


def write_tables(
    particles: ParticleFile, names: list[str], found: Registration, correntropy: np.ndarray, folder: Path
) -> None:
    """Write ``aligned.star`` and ``aligned.xmd``, the alignment of the original images, into a folder."""
    has_relion_table = particles.table is not None and particles.path.suffix.lower() == ".star"
    table, optics = relion_tables(
        names,
        found.angles_rad,
        found.shifts_px,
        pixel_size_angstrom=particles.pixel_size_angstrom,
        image_size=particles.image_size,
        scores={"cryoemCorrelation": found.correlation, "cryoemCorrentropy": correntropy},
        table=particles.table if has_relion_table else None,
        optics=particles.optics if has_relion_table else None,
    )
    write_star(folder / STAR_FILE, table, optics=optics)
    write_xmd(
        folder / XMD_FILE, xmipp_table(names, found.angles_rad, found.shifts_px, max_cc=found.correlation)
    )
