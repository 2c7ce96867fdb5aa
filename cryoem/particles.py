"""A stack of particle images and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


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
        images = np.asarray(self.images, np.float32)
        if images.ndim != 3 or images.shape[1] != images.shape[2] or images.size == 0:
            raise ValueError(f"images must be (n, y, x) with y == x, not empty, got {images.shape}")
        bad = images.size - np.count_nonzero(np.isfinite(images))
        if bad:
            raise ValueError(f"images must be finite, got {bad} NaN or infinite values of {images.size}")
        if not self.pixel_size_angstrom > 0:
            raise ValueError(f"pixel_size_angstrom must be positive, got {self.pixel_size_angstrom}")
        for name in ("rotations", "shifts_px", "defocus_angstrom"):
            value = getattr(self, name)
            if value is not None and len(value) != len(images):
                raise ValueError(f"{name} must be one for each of the {len(images)} images, got {len(value)}")
        object.__setattr__(self, "images", images)

    def __len__(self) -> int:
        return len(self.images)
