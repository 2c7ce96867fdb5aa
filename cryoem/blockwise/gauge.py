"""The gauge of orientations from the particles of a file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.blockwise.blocks import without_signs
from cryoem.checks import many_rotations, shifts_of, whole_number
from cryoem.gauge import Gauge, fix_gauge
from cryoem.imaging import shift
from cryoem.particles import ParticleFile

GAUGE_IMAGES = 2_000


def fix_gauge_of(
    particles: ParticleFile,
    rotations: Rotation,
    *,
    shifts_px: np.ndarray | None = None,
    symmetry: str = "C1",
    most_images: int = GAUGE_IMAGES,
    rng: np.random.Generator | int | None = None,
) -> Gauge:
    """The gauge of orientations from the images of a file; of randomly chosen ones where there are many.

    Parameters
    ----------
    particles : n images.
    rotations : n orientations as recovered, see ``gauge.fix_gauge``.
    shifts_px : (n, 2) displacement (x, y), which is taken off; none by default.
    symmetry : point group of the particle.
    most_images : so many are looked at, at the most.
    rng : generator or seed.

    Returns
    -------
    Gauge of all n orientations.

    Raises
    ------
    ValueError : rotations or shifts are not one for each image, or as ``fix_gauge``.
    """
    many_rotations(rotations, count=len(particles))
    most_images = whole_number(most_images, name="most_images", at_least=3)
    rng = np.random.default_rng(rng)
    n = len(particles)
    chosen = np.arange(n) if n <= most_images else np.sort(rng.choice(n, most_images, replace=False))
    images = without_signs(particles.subset(chosen))
    if shifts_px is not None:
        images = shift(images, -shifts_of(shifts_px, count=n)[chosen])
    gauge = fix_gauge(images, rotations[chosen], symmetry=symmetry, rng=rng)
    oriented = rotations.inv() if gauge.inverted else rotations
    return replace(gauge, rotations=gauge.turn * oriented)
