"""Alternative poses of images, out of the reach of small steps.

A nearly symmetric particle looks almost the same from several directions, so an initial search, whose map is coarse,
gives some images a near copy of their pose. With the finer map of a refinement, all images are located again among all
orientations, keeping their centres. If several of them turn by the same rotation, the particle is nearly symmetric
under it, and the near copies of the other poses are tried, too. Which pose is better must be decided with a map that
does not contain the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.images import shift
from cryoem.orientations import match_to_map
from cryoem.orientations.pose_search import SMALLEST_PX
from cryoem.projection.fourier import VolumeTransform, transform
from cryoem.reconstruction.pose_steps import FullImages, search, searchable_shell, working_images
from cryoem.rotations import Poses
from cryoem.volumes.density import DensityMap

APART_RAD = 0.3  # from here on, a pose is out of the reach of small steps
ALIKE_RAD = 0.2  # turns that differ by less belong to the same near symmetry
FEWEST, LEAST_SHARE = 3, 0.02  # fewest images that turn alike, and their least share of all images that turn
MOST_TURNS, MOST_SYMMETRIES = 1000, 3  # most turns that are compared, and most near symmetries that are found
# radii in radians and numbers of candidates of the searches around poses of coarse maps, and around near copies
AROUND_COARSE = {0.12: 24, 0.06: 24, 0.03: 24}
AROUND_COPIES = {0.03: 8}
# least log-likelihood ratio of an alternative that is no near copy: of very many poses, a wrong one is often the most
# likely by a little
LEAST_GAIN = 5.0


@dataclass(frozen=True)
class Alternatives:
    """Alternatives to the poses of n images.

    ``poses`` contains the same pose again for an image without an alternative. ``least_gain`` is the least logarithm of
    the ratio of likelihoods with which an alternative replaces a pose.
    """

    poses: Poses
    least_gain: float = 0.0


def alternative_poses(
    images: FullImages,
    poses: Poses,
    volume: np.ndarray,
    last_shell: int,
    *,
    group: np.ndarray,
    refine_shifts: bool,
    rng: np.random.Generator,
) -> Alternatives:
    """Find alternatives to the poses of n images.

    Parameters
    ----------
    images : FullImages
    poses : Poses
    volume : (y, y, y) array
        Filtered map of the images.
    last_shell : int
        Last shell in which images are compared with the map.
    group : (k, 3, 3) array
        Rotations of the point group of the map.
    refine_shifts : bool
        Whether the shifts of the alternatives are refined; otherwise, they are those of ``poses``.
    rng : Generator

    Returns
    -------
    Alternatives
        Images smaller than ``SMALLEST_PX`` have none.
    """
    if images.size < SMALLEST_PX:
        return Alternatives(poses)
    voxel = images.optics.pixel_size_angstrom * images.size / len(volume)
    found = match_to_map(
        _CentredImages(images.images, images.rows, poses.shifts_px),
        DensityMap(volume.astype(np.float32), voxel),
        optics=images.optics,
        rng=rng,
    ).poses
    found = Poses(found.rotations, poses.shifts_px)
    apart = _turns(poses, found, group).magnitude() > APART_RAD
    if not apart.any():
        return Alternatives(poses)
    reference = transform(volume)
    improved = partial(_improved, reference, last_shell=last_shell, refine_shifts=refine_shifts, rng=rng)
    coarse, _ = improved(images[apart], found[apart], AROUND_COARSE)
    order = np.arange(len(poses))
    order[apart] = len(poses) + np.arange(len(coarse))
    alternatives = Poses.concatenate([poses, coarse])[order]

    # the best near copies of the other poses
    best = np.where(apart, np.inf, -np.inf)
    near_symmetries = common_turns(_turns(poses[apart], coarse, group))
    for turn in near_symmetries:
        copies = Poses(poses.rotations * turn, poses.shifts_px)
        copies, scores = improved(images, copies, AROUND_COPIES)
        alternatives = alternatives.replaced(scores > best, copies)
        best = np.maximum(best, scores)
    return Alternatives(alternatives, 0.0 if near_symmetries else LEAST_GAIN)


def _improved(
    reference: VolumeTransform,
    images: FullImages,
    poses: Poses,
    searches: dict[float, int],
    *,
    last_shell: int,
    refine_shifts: bool,
    rng: np.random.Generator,
) -> tuple[Poses, np.ndarray]:
    """Improve poses by searches, given as ``{radius: candidates}``; return them with their scores (n,)."""
    improved, scores = [], []
    for part in images.blocks():
        centres = poses[part]
        for radius, candidates in searches.items():
            shell = searchable_shell(radius, last_shell)
            work = working_images(images[part], centres, shell).within(shell)
            found = search(
                reference,
                work,
                centres.rotations,
                candidates=candidates,
                radius=radius,
                rng=rng,
                refine_shifts=refine_shifts,
            )
            centres = Poses(found.poses.rotations, centres.shifts_px + work.pixel_px * found.poses.shifts_px)
        improved.append(centres)
        scores.append(found.scores)
    return Poses.concatenate(improved), np.concatenate(scores)


def _turns(poses: Poses, others: Poses, group: np.ndarray) -> Rotation:
    """Return the rotations of the particle that lead from poses to others, to the nearest of their symmetric copies."""
    turns = (poses.rotations.inv() * others.rotations).as_matrix()[:, None] @ group
    nearest = np.argmax(np.einsum("ngaa->ng", turns), axis=1)
    return Rotation.from_matrix(turns[np.arange(len(turns)), nearest])


def common_turns(turns: Rotation) -> list[Rotation]:
    """Return the rotations by which several particles turn, and their inverses, the most frequent ones first."""
    turns = turns[:: -(-len(turns) // MOST_TURNS)]
    both = Rotation.concatenate([turns, turns.inv()])
    alike = np.abs(turns.as_quat() @ both.as_quat().T) > np.cos(ALIKE_RAD / 2)
    alike &= both.magnitude() > 2 * ALIKE_RAD  # copies that are so near need no search of their own
    found: list[Rotation] = []
    while len(found) < 2 * MOST_SYMMETRIES:
        counts = np.count_nonzero(alike[:, : len(turns)] | alike[:, len(turns) :], axis=1)
        most = np.argmax(counts)
        if counts[most] < max(FEWEST, LEAST_SHARE * len(turns)):
            break
        mean = both[np.flatnonzero(alike[most])].mean()
        for turn in (mean, mean.inv()):
            alike &= (both * turn.inv()).magnitude() > 2 * ALIKE_RAD
            if all((turn * other.inv()).magnitude() > ALIKE_RAD for other in found):
                found.append(turn)
    return found


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
