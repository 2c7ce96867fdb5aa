"""Alternative poses of images, out of the reach of small steps.

An initial search compares images with a coarse map up to a low resolution, where other orientations can be almost as
likely as the right one, most of all those of a nearly symmetric particle. With the finer map of a refinement, all
orientations that are plausible at low resolution are compared again up to the resolution of the map, keeping the
centres of the images. Which pose is better must be decided with a map that does not contain the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.images import shift
from cryoem.orientations.pose_search import SMALLEST_PX
from cryoem.orientations.projection_matching import plausible_orientations
from cryoem.projection.fourier import transform
from cryoem.reconstruction.pose_steps import FullImages, descend, searchable_shell, working_images
from cryoem.rotations import Poses, copies_of
from cryoem.volumes.density import DensityMap

APART_RAD = 0.3  # from here on, a pose is out of the reach of small steps
# largest difference of log-likelihood at low resolution from the best orientation, and most orientations per image
PLAUSIBLE, MOST = 5.0, 4
COARSE_RAD = 0.06  # error of orientations at low resolution


def alternative_poses(
    images: FullImages,
    poses: Poses,
    volume: np.ndarray,
    shells: tuple[int, int],
    *,
    group: np.ndarray,
    refine_shifts: bool,
    rng: np.random.Generator,
) -> Poses:
    """Find the best alternative to the pose of each of n images.

    Parameters
    ----------
    images : FullImages
    poses : Poses
    volume : (y, y, y) array
        Filtered map of the images.
    shells : tuple of int
        Shell to which images are cropped for the comparison with the map, and the last one that is compared.
    group : (k, 3, 3) array
        Rotations of the point group of the map.
    refine_shifts : bool
        Whether the shifts of the alternatives are refined; otherwise, they are those of ``poses``.
    rng : Generator

    Returns
    -------
    Poses
        The same pose again for an image without an alternative. Images smaller than ``SMALLEST_PX`` have none.
    """
    if images.size < SMALLEST_PX:
        return poses
    voxel = images.optics.pixel_size_angstrom * images.size / len(volume)
    index, rotations = plausible_orientations(
        _CentredImages(images.images, images.rows, poses.shifts_px),
        DensityMap(volume.astype(np.float32), voxel),
        optics=images.optics,
        group=group,
        within=PLAUSIBLE,
        apart_rad=APART_RAD,
        most=MOST,
        rng=rng,
    )
    apart = _apart(poses.rotations[index], rotations, group)
    index, rotations = index[apart], rotations[apart]
    if not len(index):
        return poses
    reference, (finest, last) = transform(volume), shells
    found, scores = [], []
    some = images[index]
    for part in some.blocks():
        tried = Poses(rotations[part], poses.shifts_px[index[part]])
        for shell in (searchable_shell(COARSE_RAD, last), last):
            work = working_images(some[part], tried, finest).within(shell)
            result = descend(reference, work, tried.rotations, steps=2, refine_shifts=refine_shifts)
            tried = Poses(result.poses.rotations, tried.shifts_px + work.pixel_px * result.poses.shifts_px)
        found.append(tried)
        scores.append(result.scores)
    # some may have moved back to the current pose
    scores = np.concatenate(scores)
    scores[~_apart(poses.rotations[index], Poses.concatenate(found).rotations, group)] = -np.inf
    best_first = np.lexsort((-scores, index))
    which, first = np.unique(index[best_first], return_index=True)
    order = np.arange(len(poses))
    order[which] = len(poses) + best_first[first]
    return Poses.concatenate([poses, *found])[order]


def _apart(rotations: Rotation, others: Rotation, group: np.ndarray) -> np.ndarray:
    """Return which of n orientations are out of reach of all symmetric copies of the other one: (n,)."""
    copies = copies_of(others, Rotation.from_matrix(group))
    overlaps = np.abs(np.einsum("na,nka->nk", rotations.as_quat(), copies))
    return overlaps.max(axis=1) < np.cos(APART_RAD / 2)


@dataclass(frozen=True)
class _CentredImages:
    """Some of many images, which are read and centred when they are needed."""

    images: np.ndarray
    rows: np.ndarray
    shifts_px: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index) -> np.ndarray:
        read = np.asarray(self.images[self.rows[index]])
        return shift(read, -self.shifts_px[index])

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.rows), *self.images.shape[1:])
