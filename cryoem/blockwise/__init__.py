"""Steps of the pipeline on particle files, block by block, as a file may be larger than memory.

Distances from a trained encoder, the gauge, a map: each reads what it needs of a ``particles.ParticleFile`` and takes
the contrast transfer, shifts and orientations that the file knows.
"""

from cryoem.blockwise.distances import LearnedDistances, learned_distances
from cryoem.blockwise.gauge import fix_gauge_of
from cryoem.blockwise.maps import Reconstruction, reconstruct_particles

__all__ = ["LearnedDistances", "Reconstruction", "fix_gauge_of", "learned_distances", "reconstruct_particles"]
