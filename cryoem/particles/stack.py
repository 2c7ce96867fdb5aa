"""A stack of particle images and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import finite_array, many_rotations, positive_number, square_images


@dataclass(frozen=True)
class ParticleStack:
    """Particle images of one pixel size.

    Attributes
    ----------
    images : (n, y, x) float32, y == x, the particle's origin at pixel y // 2 before its shift.
    pixel_size_angstrom : side of a pixel.
    rotations : n orientations, particle to microscope coordinates, or None where they are not known.
    shifts_px : (n, 2) displacement (x, y) of each particle from the origin, towards larger coordinates; or None.
    defocus_angstrom : (n,) underfocus of each image; None where no contrast transfer was applied.
    symmetry : point group of the particle.

    Raises
    ------
    ValueError : images are not (n, y, y), empty or not finite, the pixel size is not positive, or something known of
        each image is not as many as the images.
    """

    images: np.ndarray
    pixel_size_angstrom: float
    rotations: Rotation | None = None
    shifts_px: np.ndarray | None = None
    defocus_angstrom: np.ndarray | None = None
    symmetry: str = "C1"

    def __post_init__(self):
        images = square_images(self.images)
        positive_number(self.pixel_size_angstrom, name="pixel_size_angstrom")
        if self.rotations is not None:
            many_rotations(self.rotations, count=len(images))
        for name, shape in (("shifts_px", (len(images), 2)), ("defocus_angstrom", (len(images),))):
            value = getattr(self, name)
            if value is not None and finite_array(value, name=name, ndim=len(shape)).shape != shape:
                raise ValueError(f"{name} must be {shape}, one for each image, got {np.shape(value)}")
        object.__setattr__(self, "images", images)

    def __len__(self) -> int:
        return len(self.images)
