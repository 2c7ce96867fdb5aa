"""Refinement of poses by projection matching, from the images alone.

Each round grids the images, in eight folds, at their current poses.  The Fourier shell correlation of four folds
against four measures how far each shell can be trusted.  Every image is then compared with slices of the map of the
*other* folds, Wiener-filtered by that correlation and masked: a map that contains the image's own noise would pull it
back to its old pose.  Orientations move by random search in a shrinking ball in the first rounds, then by Gauss-Newton
steps.  All work is done at the coarsest image size that contains the trusted shells.  Shifts are refined with the
orientations; a contrast transfer multiplies the slices and is corrected in gridding.

The half-maps that give the resolution are refined separately: two halves of the images are refined in the same way from
the same start, and never share a map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.reconstruction.maps import FourierAccumulator
from cryoem.reconstruction.pose_steps import FullImages, full_images, working_images
from cryoem.reconstruction.resolution import FSC, masked_half_map_fsc
from cryoem.reconstruction.rounds import FOLDS, RefinementSchedule, RoundSettings, half_map_fsc, run_rounds
from cryoem.rotations import Poses, as_poses, origin_displacements, point_group
from cryoem.validation import square_images
from cryoem.volumes.density import DensityMap


@dataclass(frozen=True)
class Refinement:
    """Refined poses and the map that they give.

    Attributes
    ----------
    poses : Poses
        Refined orientations and shifts of the n images.
    map : DensityMap
        Reconstruction from all images.
    half_maps : tuple of DensityMap
        Reconstructions from two random halves, each refined separately from the same start.
    subset : (n,) int array
        Half that each image belongs to, 0 or 1.
    mask : (y, y, y) array
        Soft mask made from the half-maps.
    fsc : FSC
        Correlation of the half-maps under that mask, corrected for it by phase randomisation.
    history : list of dict
        One entry per round: ``round``, ``kind`` (search or gradient), ``score`` (mean correlation of images and
        slices), ``moved_rad`` (mean change of orientation), ``resolution_angstrom`` (of two halves of the folds, at
        0.143 under the mask; it steers the refinement and must not be quoted as a resolution).
    """

    poses: Poses
    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap]
    subset: np.ndarray
    mask: np.ndarray
    fsc: FSC
    history: list[dict]

    @property
    def rotations(self) -> Rotation:
        """Refined orientations."""
        return self.poses.rotations

    @property
    def shifts_px(self) -> np.ndarray:
        """(n, 2) refined displacements (x, y)."""
        return self.poses.shifts_px


def refine(
    images: np.ndarray,
    poses: Poses | Rotation,
    *,
    pixel_size_angstrom: float | None = None,
    optics: Optics | None = None,
    symmetry: str = "C1",
    refine_shifts: bool | None = None,
    schedule: RefinementSchedule | None = None,
    rng: np.random.Generator | int | None = None,
    callback: Callable[[dict, Rotation], None] | None = None,
) -> Refinement:
    """Refine poses against the map that they give, round by round, without ground truth.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        At least 16 images of at least 12 px.  Particles are brighter than their surroundings; with a contrast transfer,
        its sign determines their contrast.
    poses : Poses or Rotation
        Start: n orientations in the images' gauge (see ``orientations.fix_gauge``) and shifts; a bare Rotation means
        centred particles.
    pixel_size_angstrom : float, optional
        Side of a pixel; that of the optics by default.
    optics : Optics, optional
        Contrast transfer of the images; the map is corrected for it.  By default ``images.optics``, if it exists.
    symmetry : str
        Point group of the particle in the frame of ``rotations.point_group``; imposed on maps.
    refine_shifts : bool, optional
        Whether to refine shifts; by default only if any shift of ``poses`` is not zero.
    schedule : RefinementSchedule, optional
        Rounds and their sizes.
    rng : Generator or int, optional
    callback : callable, optional
        Called after each round with its history entry and the orientations.

    Raises
    ------
    ValueError
        If images are not (n, y, y), too few or too small, not finite or constant; the number of poses or optics is not
        that of the images; or the point group is unknown.

    References
    ----------
    Projection matching: Penczek et al., Ultramicroscopy 53 (1994) 251.
    """
    optics = known_optics(images, optics)
    images = square_images(images, at_least=2 * FOLDS, smallest_px=12)
    n = len(images)
    start = as_poses(poses, count=n)
    optics = optics_of(optics, pixel_size_angstrom, count=n)
    settings = RoundSettings(
        optics.pixel_size_angstrom,
        point_group(symmetry).as_matrix(),
        schedule or RefinementSchedule(),
        bool(start.shifts_px.any()) if refine_shifts is None else refine_shifts,
    )
    rng = np.random.default_rng(rng)
    full = full_images(images, optics)

    # all images together
    final = run_rounds(settings, full, start, rng, callback)
    refined = final.outcome()

    # two halves from the same start, which never share a map
    members = np.array_split(rng.permutation(n), 2)
    halves = []
    for half in members:
        found = run_rounds(settings, full[half], start[half], rng).outcome()
        # each half may drift as a whole: take only its frame from the refinement of all images
        halves.append(remove_drift(found, refined[half], symmetry))

    # final maps at full size, in the images' own units
    def gridded(some: FullImages, found: Poses) -> FourierAccumulator:
        work = working_images(some, found, full.size // 2)
        return work.gridded(found.rotations.as_matrix(), settings.group)

    half_sums = [gridded(full[half], found) for half, found in zip(members, halves, strict=True)]
    a, b = (sums.invert() * full.unit for sums in half_sums)
    whole = gridded(full, refined).invert() * full.unit
    _, mask = half_map_fsc(half_sums)
    fsc = masked_half_map_fsc(a, b, mask, voxel_size_angstrom=optics.pixel_size_angstrom, rng=0)
    whole, a, b = (DensityMap(v.astype(np.float32), optics.pixel_size_angstrom) for v in (whole, a, b))
    subset = np.isin(np.arange(n), members[1]).astype(int)
    return Refinement(refined, whole, (a, b), subset, mask, fsc, list(final.history))


def remove_drift(found: Poses, reference: Poses, symmetry: str) -> Poses:
    """Move poses into the frame and to the origin of others, as far as the symmetry leaves these free."""
    if len(point_group(symmetry)) == 1:
        frame = (found.rotations.inv() * reference.rotations).mean()
    else:
        angles = (found.rotations.inv() * reference.rotations).as_rotvec()[:, 2]
        frame = Rotation.from_rotvec([0, 0, np.median(angles) if str(symmetry).upper()[0] == "C" else 0.0])
    rotations = found.rotations * frame
    moved = origin_displacements(rotations, reference.shifts_px - found.shifts_px, symmetry=symmetry)
    return Poses(rotations, found.shifts_px + moved)
