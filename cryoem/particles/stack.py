"""Particle images in memory, with their optics and poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics, optics_of
from cryoem.rotations import Poses, as_poses
from cryoem.validation import square_images


class KnownParticles:
    """Base of classes with ``optics`` and ``poses``: properties for the contents of both."""

    optics: Optics
    poses: Poses | None
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def image_size(self) -> int:
        """Side of the images, pixels."""
        return self.shape[1]

    @property
    def pixel_size_angstrom(self) -> float:
        """Side of a pixel."""
        return self.optics.pixel_size_angstrom

    @property
    def ctf(self) -> ContrastTransfer | None:
        """Constants of the contrast transfer, None for images without one."""
        return self.optics.ctf

    @property
    def defocus_angstrom(self) -> np.ndarray | None:
        """(n,) or (n, 3) defocus, None for images without a contrast transfer."""
        return self.optics.defocus_angstrom

    @property
    def rotations(self) -> Rotation | None:
        """Orientations, None if unknown."""
        return None if self.poses is None else self.poses.rotations

    @property
    def shifts_px(self) -> np.ndarray | None:
        """(n, 2) displacements (x, y), None if unknown."""
        return None if self.poses is None else self.poses.shifts_px


@dataclass(frozen=True, eq=False)
class ParticleStack(KnownParticles):
    """Particle images in memory.

    A stack can be passed wherever images are expected, and indexing returns a smaller stack.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Kept as float32; the origin is pixel ``y // 2``.
    optics : Optics
        Pixel size, and the contrast transfer and defocus of each image if there is one.
    poses : Poses, optional
        Orientation and shift of each particle; None if unknown.
    symmetry : str
        Point group of the particle.

    Raises
    ------
    ValueError
        If images are not (n, y, y), empty or not finite, or something is not one for each image.
    """

    images: np.ndarray
    optics: Optics
    poses: Poses | None = None
    symmetry: str = "C1"

    def __post_init__(self):
        images = square_images(self.images)
        optics_of(self.optics, None, count=len(images))
        if self.poses is not None:
            object.__setattr__(self, "poses", as_poses(self.poses, count=len(images)))
        object.__setattr__(self, "images", images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, y, x)"""
        return self.images.shape

    def __getitem__(self, index: slice | np.ndarray) -> ParticleStack:
        """Select some of the particles."""
        poses = None if self.poses is None else self.poses[index]
        return ParticleStack(self.images[index], self.optics[index], poses, self.symmetry)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.images, dtype=dtype, copy=copy)
