"""Orientations of particles with their positions in the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations.conversions import mirror
from cryoem.validation import many_rotations, shifts_of


@dataclass(frozen=True, eq=False)
class Poses:
    """Orientations of n particles and their positions in the images.

    Parameters
    ----------
    rotations : Rotation
        n orientations, from particle to microscope coordinates.
    shifts_px : (n, 2) array, optional
        Displacement (x, y) of each particle from the image centre at pixel ``size // 2``, positive towards larger
        coordinates. Default: zero.

    Raises
    ------
    ValueError
        If ``rotations`` is empty or a single rotation, or if ``shifts_px`` is not an (n, 2) array of finite numbers.
    """

    rotations: Rotation
    shifts_px: np.ndarray | None = None

    def __post_init__(self):
        count = len(many_rotations(self.rotations))
        shifts = np.zeros((count, 2)) if self.shifts_px is None else shifts_of(self.shifts_px, count=count)
        object.__setattr__(self, "shifts_px", shifts)

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, index) -> Poses:
        """Select a subset of the poses."""
        return Poses(self.rotations[index], self.shifts_px[index])

    @classmethod
    def concatenate(cls, parts: list[Poses] | tuple[Poses, ...]) -> Poses:
        """Return the poses of several sets of particles, one after another."""
        rotations = Rotation.concatenate([part.rotations for part in parts])
        return cls(rotations, np.concatenate([part.shifts_px for part in parts]))

    def replaced(self, where: np.ndarray, others: Poses) -> Poses:
        """Return the poses, with those for which ``where`` (n,) is True replaced by those of n ``others``."""
        where = where[:, None]
        quaternions = np.where(where, others.rotations.as_quat(), self.rotations.as_quat())
        return Poses(Rotation(quaternions), np.where(where, others.shifts_px, self.shifts_px))

    def moved(self, steps: np.ndarray) -> Poses:
        """Change the poses by rotation vectors, (n, 3), or by rotation vectors and displacements, (n, 5)."""
        rotations = Rotation.from_rotvec(steps[:, :3]) * self.rotations
        return Poses(rotations, self.shifts_px + steps[:, 3:] if steps.shape[1] > 3 else self.shifts_px)

    @property
    def mirrored(self) -> Poses:
        """Poses of the same images for the mirror image of the particle (z -> -z): all tilts are negated."""
        return Poses(mirror(self.rotations), self.shifts_px)


def as_poses(poses: Poses | Rotation, *, count: int | None = None) -> Poses:
    """Return ``poses`` as a ``Poses`` object; a bare ``Rotation`` means that the particles are centred.

    Raises a ``ValueError`` if ``count`` is given and differs from the number of poses.
    """
    if not isinstance(poses, Poses):
        poses = Poses(many_rotations(poses, name="poses"))
    if count is not None and len(poses) != count:
        raise ValueError(f"poses must have one entry for each of the {count} images, got {len(poses)}")
    return poses
