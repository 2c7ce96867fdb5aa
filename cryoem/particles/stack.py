"""Particle images in memory, or made when they are asked for, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import many_rotations, positive_number, shifts_of, square_images
from cryoem.contrast import ContrastTransfer, defoci_of


@dataclass(frozen=True)
class ParticleStack:
    """Particle images of one pixel size.

    Attributes
    ----------
    images : (n, y, x) float32, y == x, the particle's origin at pixel y // 2 before its shift.
    pixel_size_angstrom : side of a pixel.
    rotations : n orientations, particle to microscope coordinates, or None where they are not known.
    shifts_px : (n, 2) displacement (x, y) of each particle from the origin, towards larger coordinates; or None.
    defocus_angstrom : (n,) underfocus of each image, or (n, 3) as for ``ContrastTransfer.at``; None where no contrast
        transfer is known.
    symmetry : point group of the particle.
    ctf : constants of the contrast transfer that images were seen through; with ``defocus_angstrom``.

    Raises
    ------
    ValueError : images are not (n, y, y), empty or not finite, the pixel size is not positive, something known of
        each image is not as many as the images, or only one of ``ctf`` and ``defocus_angstrom`` is given.
    """

    images: np.ndarray
    pixel_size_angstrom: float
    rotations: Rotation | None = None
    shifts_px: np.ndarray | None = None
    defocus_angstrom: np.ndarray | None = None
    symmetry: str = "C1"
    ctf: ContrastTransfer | None = None

    def __post_init__(self):
        images = square_images(self.images)
        positive_number(self.pixel_size_angstrom, name="pixel_size_angstrom")
        if self.rotations is not None:
            many_rotations(self.rotations, count=len(images))
        if self.shifts_px is not None:
            shifts_of(self.shifts_px, count=len(images))
        defoci_of(self.ctf, self.defocus_angstrom, count=len(images))
        object.__setattr__(self, "images", images)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class ParticleSeries:
    """Particle images that are made when they are asked for, in order; what is known of each is there before.

    Attributes
    ----------
    n, image_size : how many images, and their side in pixels.
    pixel_size_angstrom, rotations, shifts_px, defocus_angstrom, ctf : as of ``ParticleStack``.
    blocks : all images in order, so many at a time: ``blocks(size)`` gives (k, y, x) float32, the same at each call.
    """

    n: int
    image_size: int
    pixel_size_angstrom: float
    rotations: Rotation | None
    shifts_px: np.ndarray | None
    defocus_angstrom: np.ndarray | None
    ctf: ContrastTransfer | None
    blocks: Callable[[int], Iterator[np.ndarray]]

    def __len__(self) -> int:
        return self.n
