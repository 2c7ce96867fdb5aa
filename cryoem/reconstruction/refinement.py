"""Refinement of poses by projection matching, from the images alone.

Each round grids the images in eight folds at their current poses. The Fourier shell correlation between two halves of
the folds measures up to which shell images can be compared. Each image is then compared with slices of the map of the
*other* folds, which is masked and filtered by its local signal-to-noise ratio, and from which negative density that
noise can explain is removed (see ``variation.locally_filtered``). A map that contains the image's own noise would pull
the image back to its old pose. In the first rounds, orientations move by random search within a shrinking ball; then
they move by Gauss-Newton steps, the first of which starts from two poses if another one, far away, may be better (see
``alternatives``). All steps use the coarsest image size that includes the compared shells. Shifts, and the defocus and
scale of each image (see ``optics_fits``), can be refined together with the orientations. The CTF multiplies the slices
and is corrected for in gridding.

First, two halves of the images are refined in this way from the same start, and never share a map; their half-maps give
the resolution. Then the poses of all images are refined together for at most two rounds, with maps from twice as many
images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.stats import trim_mean

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.reconstruction import accumulation
from cryoem.reconstruction.maps import checked_subset
from cryoem.reconstruction.masks import masked_half_map_fsc, particle_mask
from cryoem.reconstruction.pose_steps import BLOCK_BYTES, KEPT_BYTES, FullImages, full_images
from cryoem.reconstruction.resolution import FSC
from cryoem.reconstruction.rounds import (
    FOLDS,
    RefinementSchedule,
    RefinementState,
    RoundSettings,
    first_state,
    next_round,
)
from cryoem.rotations import Poses, as_poses, origin_displacements, point_group
from cryoem.validation import unread_images
from cryoem.volumes.density import DensityMap

JOINT_ROUNDS = 2
# in memory at the same time
COPIES_OF_BLOCK = 6  # the transforms of a block of images, at several sizes
COPIES_OF_SUMS = 17  # those of the eight folds, and the maps of three folds that are computed at a time
CTF_BYTES = 5_000  # for the likelihoods of the defoci of an image, at a resolution of 2 Å
TRIMMED = 0.25  # share of the largest and of the smallest turns that do not determine the drift


@dataclass(frozen=True)
class Refinement:
    """Refined poses and the maps reconstructed with them.

    Attributes
    ----------
    poses : Poses
        Refined orientations and shifts of the n images.
    map : DensityMap
        Reconstruction from all images.
    half_maps : tuple of DensityMap
        Reconstructions from two halves of the images, refined separately from the same start.
    subset : (n,) int array
        Half to which each image belongs, 0 or 1.
    mask : (y, y, y) array
        Soft mask computed from the half-maps.
    fsc : FSC
        Correlation of the half-maps under the mask, corrected for the mask by phase randomisation.
    history : list of dict
        One entry per round with these keys:

        - ``round``: number of the round
        - ``kind``: ``"search"`` or ``"gradient"`` for rounds of the two halves, and ``"joint"`` for those of all images
        - ``score``: mean correlation between images and slices
        - ``moved_rad``: mean change of orientation, without relocated images
        - ``relocated``: number of images located again, at an orientation more than 0.3 rad away
        - ``resolution_angstrom``: resolution at which the masked FSC between two halves of the eight folds falls below
          0.143; it steers the refinement and must not be quoted as the resolution of the map

        In the rounds of the halves, the numbers are means over both, and ``relocated`` is their sum. As each half has
        half of the images, the resolution improves at the first joint round.
    optics : Optics
        Optics of the images, with the fitted defocus and scale if these were refined.
    """

    poses: Poses
    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap]
    subset: np.ndarray
    mask: np.ndarray
    fsc: FSC
    history: list[dict]
    optics: Optics

    @property
    def rotations(self) -> Rotation:
        """Refined orientations."""
        return self.poses.rotations

    @property
    def shifts_px(self) -> np.ndarray:
        """Refined displacements (x, y), as an (n, 2) array."""
        return self.poses.shifts_px


def refine(
    images,
    poses: Poses | Rotation,
    *,
    pixel_size_angstrom: float | None = None,
    optics: Optics | None = None,
    symmetry: str = "C1",
    subset: np.ndarray | None = None,
    refine_shifts: bool | None = None,
    refine_ctf: bool = False,
    schedule: RefinementSchedule | None = None,
    rng: np.random.Generator | int | None = None,
    callback: Callable[[dict, Rotation], None] | None = None,
) -> Refinement:
    """Refine poses against the map reconstructed with them, round by round, without ground truth.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        At least 16 images, at least 12 px wide. Without a CTF, particles must be brighter than their surroundings; with
        a CTF, the contrast is determined by the sign of the CTF. Particle stacks in files are read block by block.
    poses : Poses or Rotation
        Initial poses: n orientations in the gauge of the images (see ``orientations.fix_gauge``), and shifts. A bare
        ``Rotation`` means that the particles are centred.
    pixel_size_angstrom : float, optional
        Pixel size. Default: the pixel size in ``optics``.
    optics : Optics, optional
        Optics of the images. The map is corrected for the CTF. Default: ``images.optics`` if available, otherwise no
        CTF.
    symmetry : str
        Point group of the particle, in the frame of ``rotations.point_group``. The symmetry is imposed on the maps.
        Default: ``"C1"``.
    subset : (n,) array, optional
        Half to which each image belongs, 0 or 1; at least 8 images in each. Images that show the same copy of the
        particle, such as a tilt series, belong in the same half. Default: ``images.random_subset`` if available, as in
        a particle file from a refinement in RELION or cryoSPARC, and otherwise random halves.
    refine_shifts : bool, optional
        Whether to refine shifts. Default: True if any shift in ``poses`` is non-zero, otherwise False.
    refine_ctf : bool
        Whether to fit the scale of each image (its contrast relative to the others), which replaces any scale in
        ``optics``, and its defocus, to within 2000 angstrom of the value in ``optics``, in the gradient rounds. The
        defocus is fitted if details finer than about 12 angstrom (at 300 kV) are compared; astigmatism is kept.
        Default: False.
    schedule : RefinementSchedule, optional
        Numbers of rounds and step sizes. Default: ``RefinementSchedule()``.
    rng : Generator or int, optional
        Random number generator or seed.
    callback : callable, optional
        Function called after each round with its history entry and the orientations of all images. In the rounds of the
        halves, each half may drift as a whole.

    Returns
    -------
    Refinement

    Raises
    ------
    ValueError
        If there are fewer than 16 images; if the images do not have shape (n, y, y), are too small or constant, or
        contain NaN or infinity; if ``subset`` does not contain 0 or 1 for each image, each of them at least 8 times; if
        ``poses`` or ``optics`` describes a different number of images; if the pixel size or the point group is unknown;
        or if ``refine_ctf`` is True for images without a CTF or without gradient rounds.

    References
    ----------
    Projection matching: Penczek et al., Ultramicroscopy 53 (1994) 251. Defocus of each image: Zivanov et al., eLife 7
    (2018) e42166.
    """
    optics = known_optics(images, optics)
    subset = getattr(images, "random_subset", None) if subset is None else subset
    images = unread_images(images, at_least=2 * FOLDS, smallest_px=12)
    n = len(images)
    start = as_poses(poses, count=n)
    optics = optics_of(optics, pixel_size_angstrom, count=n)
    settings = RoundSettings(
        optics.pixel_size_angstrom,
        point_group(symmetry).as_matrix(),
        schedule or RefinementSchedule(),
        bool(start.shifts_px.any()) if refine_shifts is None else refine_shifts,
        refine_ctf,
    )
    if refine_ctf and optics.ctf is None:
        raise ValueError("refine_ctf requires images with a known CTF, but optics has none")
    if refine_ctf and settings.schedule.gradient_rounds == 0:
        raise ValueError("refine_ctf requires at least one gradient round, got gradient_rounds 0")
    if subset is not None:
        subset = checked_subset(subset, count=n, at_least=FOLDS)
    rng = np.random.default_rng(rng)
    full = full_images(images, optics)

    history: list[dict] = []

    def report(entry: dict, rotations: Rotation) -> None:
        history.append(entry | {"round": len(history) + 1})
        if callback is not None:
            callback(history[-1], rotations)

    members = [np.sort(rows) for rows in np.array_split(rng.permutation(n), 2)]
    if subset is not None:
        members = [np.flatnonzero(subset == half) for half in (0, 1)]
    states = _refine_halves(settings, full, start, members, rng, report)
    # each half may drift as a whole, so move it back to the frame and origin of all images
    halves = [
        remove_drift(state.outcome(), start[rows], symmetry)
        for state, rows in zip(states, members, strict=True)
    ]
    order = np.argsort(np.concatenate(members))
    merged = Poses.concatenate(halves)[order]
    fitted = Optics.concatenate([state.optics for state in states])[order]
    refined, optics = _refine_jointly(settings, full, merged, fitted, states, rng, report)
    halves = [remove_drift(half, refined[rows], symmetry) for half, rows in zip(halves, members, strict=True)]

    # reconstruct the final maps at full size, in the units of the images
    nyquist, group = full.size // 2, settings.group
    a, b = (
        replace(full[rows], optics=state.optics).gridded(half, nyquist, group).invert() * full.unit
        for half, state, rows in zip(halves, states, members, strict=True)
    )
    whole = replace(full, optics=optics).gridded(refined, nyquist, group).invert() * full.unit
    mask = particle_mask(a, b)
    fsc = masked_half_map_fsc(a, b, mask, voxel_size_angstrom=optics.pixel_size_angstrom, rng=0)
    whole, a, b = (DensityMap(v.astype(np.float32), optics.pixel_size_angstrom) for v in (whole, a, b))
    subset = np.isin(np.arange(n), members[1]).astype(int)
    return Refinement(refined, whole, (a, b), subset, mask, fsc, history, optics)


def memory_bytes(count: int, size: int, *, refine_ctf: bool = False) -> int:
    """Return about how much memory in bytes the refinement of images (count, size, size) in files takes."""
    return (
        min(KEPT_BYTES, 4 * count * size**2)
        + COPIES_OF_BLOCK * BLOCK_BYTES
        + COPIES_OF_SUMS * accumulation.memory_bytes(size, half_maps=False)
        + (CTF_BYTES * count if refine_ctf else 0)
    )


def _refine_halves(
    settings: RoundSettings,
    full: FullImages,
    start: Poses,
    members: list[np.ndarray],
    rng: np.random.Generator,
    report: Callable[[dict, Rotation], None],
) -> list[RefinementState]:
    """Refine two halves, which never share a map."""
    order = np.argsort(np.concatenate(members))
    states = [first_state(settings, start[rows], full.optics[rows], full.size // 2) for rows in members]
    while not all(state.ended for state in states):
        states = [
            state if state.ended else next_round(settings, full[rows], state, rng)
            for rows, state in zip(members, states, strict=True)
        ]
        report(mean_entry(states), Poses.concatenate([state.poses for state in states])[order].rotations)
    return states


def _refine_jointly(
    settings: RoundSettings,
    full: FullImages,
    start: Poses,
    optics: Optics,
    halves: list[RefinementState],
    rng: np.random.Generator,
    report: Callable[[dict, Rotation], None],
) -> tuple[Poses, Optics]:
    """Refine all images together for a few rounds of Gauss-Newton steps, after their two ``halves``."""
    rounds = min(settings.schedule.gradient_rounds, JOINT_ROUNDS)
    schedule = replace(settings.schedule, search_rounds=0, gradient_rounds=rounds)
    joint = replace(settings, schedule=schedule)
    finest_shell = max(half.finest_shell for half in halves)
    explained = float(np.mean([half.explained for half in halves]))
    state = first_state(joint, start, optics, finest_shell, explained=explained)
    while not state.ended:
        state = next_round(joint, full, state, rng)
        report(state.history[-1] | {"kind": "joint"}, state.poses.rotations)
    return state.outcome(), state.optics


def mean_entry(states: list[RefinementState]) -> dict:
    """Return the mean of the last history entries of two halves, over the images that moved in the last round."""
    last = max(len(state.history) for state in states)
    moved = [state for state in states if len(state.history) == last]
    weights = [len(state.poses) for state in moved]
    numbers = ("score", "moved_rad", "resolution_angstrom")
    means = {
        name: float(np.average([state.history[-1][name] for state in moved], weights=weights))
        for name in numbers
    }
    return (
        moved[0].history[-1] | means | {"relocated": sum(state.history[-1]["relocated"] for state in moved)}
    )


def remove_drift(found: Poses, reference: Poses, symmetry: str) -> Poses:
    """Move poses into the frame and to the origin of ``reference``, as far as the symmetry leaves these free.

    The frame is a trimmed mean, so that images that were located far from their reference hardly turn it.
    """
    if len(point_group(symmetry)) == 1:
        free = np.ones(3)
    else:
        free = np.array([0, 0, str(symmetry).upper()[0] == "C"])
    turns = (found.rotations.inv() * reference.rotations).as_rotvec()
    frame = Rotation.from_rotvec(trim_mean(turns, TRIMMED, axis=0) * free)
    rotations = found.rotations * frame
    moved = origin_displacements(rotations, reference.shifts_px - found.shifts_px, symmetry=symmetry)
    return Poses(rotations, found.shifts_px + moved)
