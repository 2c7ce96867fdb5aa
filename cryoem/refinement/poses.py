"""Where each particle of a set of images is and how it is turned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations import origin_displacements, point_group


@dataclass(frozen=True)
class Poses:
    """``rotations``: n orientations; ``shifts_px`` (n, 2) (x, y): displacement of each particle."""

    rotations: Rotation
    shifts_px: np.ndarray

    def as_array(self) -> np.ndarray:
        """(n, 6): quaternion xyzw, and displacement (x, y)."""
        return np.concatenate([self.rotations.as_quat(), self.shifts_px], axis=1)

    @staticmethod
    def from_array(array: np.ndarray) -> Poses:
        """What ``as_array`` made an array of."""
        return Poses(Rotation.from_quat(array[:, :4]), array[:, 4:])

    def of(self, members: np.ndarray) -> Poses:
        """Those of some of the images."""
        return Poses(self.rotations[members], self.shifts_px[members])

    def followed_by(self, found: Poses, pixel_px: float) -> Poses:
        """Found orientations, and these displacements and the found ones, which are in coarse pixels, together."""
        return Poses(found.rotations, self.shifts_px + pixel_px * found.shifts_px)


def mean_poses(several: list[Poses]) -> Poses:
    """The mean of poses that are close to each other, image by image."""
    last = several[-1].rotations
    turns = np.mean([(poses.rotations * last.inv()).as_rotvec() for poses in several], axis=0)
    return Poses(Rotation.from_rotvec(turns) * last, np.mean([poses.shifts_px for poses in several], axis=0))


def without_drift(found: Poses, wanted: Poses, symmetry: str) -> Poses:
    """Poses in the frame and about the origin of others, as far as the symmetry leaves these free."""
    if len(point_group(symmetry)) == 1:
        frame = (found.rotations.inv() * wanted.rotations).mean()
    else:
        turns = (found.rotations.inv() * wanted.rotations).as_rotvec()[:, 2]
        frame = Rotation.from_rotvec([0, 0, np.median(turns) if str(symmetry).upper()[0] == "C" else 0.0])
    rotations = found.rotations * frame
    moved = origin_displacements(rotations, wanted.shifts_px - found.shifts_px, symmetry=symmetry)
    return Poses(rotations, found.shifts_px + moved)
