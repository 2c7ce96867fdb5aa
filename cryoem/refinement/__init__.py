"""Refinement of orientations by projection matching, from the images alone.

Each round grids the images, in eight folds, with their current orientations.  Four folds against four give
half-maps, whose Fourier shell correlation says how far each shell can be trusted.  Every image is then
compared with slices of the map of the *other* folds, Wiener-filtered by that trust and masked: a map
that holds the image's own noise would pull it back to where it was.  Orientations move by random search in a
shrinking ball in the first rounds, then by Gauss-Newton steps on the slice itself.  All work is done at the
coarsest image size that holds the trusted shells.  Shifts, where there are any, move along with the orientations;
a contrast transfer is put on the slices, and taken off in gridding.

Maps are made with poses drawn from what each image's noise leaves open, not with the likeliest ones, as in a stochastic
EM algorithm; the likeliest ones, averaged over the last rounds, are what is returned.

The half-maps that the resolution is read from are refined apart: two halves of the images go the same way from
the same start, without ever sharing a map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import (
    many_rotations,
    not_negative,
    positive_number,
    shifts_of,
    square_images,
    whole_number,
)
from cryoem.contrast import ContrastTransfer, defoci_of
from cryoem.refinement.poses import Poses, without_drift
from cryoem.refinement.progress import Memory, Progress, Standing
from cryoem.refinement.rounds import Plan, first_standing, rounds
from cryoem.refinement.trust import FOLDS, trust
from cryoem.refinement.working_set import FullImages, Optics, full_images, working_set
from cryoem.resolution import FSC, masked_half_map_fsc
from cryoem.rotations import point_group
from cryoem.volumes import DensityMap


@dataclass(frozen=True)
class Refinement:
    """Refined orientations and the map that they give.

    ``rotations``: n orientations; ``shifts_px`` (n, 2) (x, y): where the particles stand; ``map``: reconstruction from
    all images; ``half_maps``: from two random halves, each refined for itself from the same start; ``subset`` (n,):
    which of the two, 0 or 1, an image belongs to; ``mask``: (y, y, y) soft mask made of them; ``fsc``: between the
    half-maps under that mask, corrected for it by phase randomisation; ``history``: one dict a round with
    ``round``, ``kind`` (search or gradient), ``score`` (mean correlation of images and slices), ``moved_rad`` (mean
    change of orientation), ``resolution_angstrom`` (of two halves of the folds, at 0.143 under the mask: it steers the
    refinement, and is not a resolution to quote).
    """

    rotations: Rotation
    shifts_px: np.ndarray
    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap]
    subset: np.ndarray
    mask: np.ndarray
    fsc: FSC
    history: list[dict]


def refine(
    images: np.ndarray,
    rotations: Rotation,
    *,
    pixel_size_angstrom: float,
    shifts_px: np.ndarray | None = None,
    ctf: ContrastTransfer | None = None,
    defocus_angstrom: np.ndarray | None = None,
    symmetry: str = "C1",
    search_rounds: int = 3,
    gradient_rounds: int = 4,
    candidates: int = 24,
    search_radius: float = 0.12,
    tolerance: float = 1e-3,
    rng: np.random.Generator | int | None = None,
    callback: Callable[[dict, Rotation], None] | None = None,
    memory: Memory | None = None,
) -> Refinement:
    """Refine orientations against the map that they give, round by round, without any ground truth.

    Parameters
    ----------
    images : (n, y, x) real, y == x, at least 16 of 12 px, the particle brighter than its surroundings; with a ``ctf``
        darker, as the transfer makes it.
    rotations : n orientations in the images' gauge (see ``gauge.fix_gauge``).
    pixel_size_angstrom : side of a pixel.
    shifts_px : (n, 2) displacement (x, y) of each particle, to start from; by default images are taken to be centred,
        and shifts are not refined.
    ctf, defocus_angstrom : the microscope's constants and the defocus of each image, (n,) or (n, 3), where images were
        seen through a contrast transfer; the map is then what it would be without one.
    symmetry : point group of the particle, in the frame of ``rotations.point_group``; maps are made with it.
    search_rounds : rounds of random search, the radius halving each time from ``search_radius`` (radians).
    gradient_rounds : rounds of Gauss-Newton steps after them, at the most.
    candidates : random rotations tried for each image in a search round.
    tolerance : radians; a gradient round that moves orientations by less than this on average is the last.
    rng : generator or seed of folds and candidates.
    callback : called after each round with its history entry and the orientations.
    memory : keeps the state after each round, see ``progress.Memory``; a refinement that was interrupted goes on from
        there, to the same numbers, and ``rng`` too is left as if it had not been interrupted.  None by default.

    Returns
    -------
    Refinement.

    Raises
    ------
    ValueError : images are not (n, y, y), too few or too small, not finite, constant, or not as many as
        rotations; shifts or defoci are not one for each, or only one of ``ctf`` and ``defocus_angstrom`` is given; a
        count is negative or a size not positive; the point group is unknown; the memory is of another refinement.

    Source: Penczek et al., Ultramicroscopy 53 (1994) 251, for projection matching.
    """
    images = square_images(images, at_least=2 * FOLDS, smallest_px=12)
    n = len(images)
    many_rotations(rotations, count=n)
    plan = Plan(
        positive_number(pixel_size_angstrom, name="pixel_size_angstrom"),
        point_group(symmetry).as_matrix(),
        whole_number(search_rounds, name="search_rounds", at_least=0),
        whole_number(gradient_rounds, name="gradient_rounds", at_least=0),
        whole_number(candidates, name="candidates", at_least=1),
        positive_number(search_radius, name="search_radius"),
        not_negative(tolerance, name="tolerance"),
        moves=shifts_px is not None,
    )
    shifts = np.zeros((n, 2)) if shifts_px is None else shifts_of(shifts_px, count=n)
    defoci = defoci_of(ctf, defocus_angstrom, count=n)
    optics = None if ctf is None else Optics(ctf, defoci, pixel_size_angstrom)
    rng = np.random.default_rng(rng)
    full, unit = full_images(images, optics)
    start = Poses(rotations, shifts)
    made_from = (images, start.as_array(), plan, symmetry, ctf, defoci)
    progress = Progress(memory, rng, made_from)

    def followed(index: int, some: FullImages, start: Poses, report=None) -> Standing:
        """One set of images, from where it stands to its end."""
        last = progress.standing(index) or first_standing(plan, some, start)
        for standing in rounds(plan, some, last, rng):
            progress.note(index, standing)
            if report is not None:
                report(standing.history[-1], Poses.from_array(standing.poses).rotations)
            last = standing
        return last

    whole = followed(0, full, start, callback)
    refined = whole.outcome()
    if progress.order is None:
        progress.order = rng.permutation(n)
    members = np.array_split(progress.order, 2)
    halves = [followed(k, full.of(half), start.of(half)).outcome() for k, half in enumerate(members, start=1)]
    # each half is free to drift as a whole; its frame, and that alone, is taken from the refinement of all images
    halves = [
        without_drift(found, refined.of(half), symmetry) for found, half in zip(halves, members, strict=True)
    ]
    return _conclude(plan, full, unit, refined, halves, members, list(whole.history))


def _conclude(
    plan: Plan, images: FullImages, unit: float, poses: Poses, halves, members, history
) -> Refinement:
    """Maps at full size, in the images' own units: of all images, and of halves that never saw each other."""

    def gridded(some: FullImages, found: Poses):
        return working_set(some, found, some.size // 2).gridded(found.rotations.as_matrix(), plan.group)

    half_sums = [gridded(images.of(half), found) for found, half in zip(halves, members, strict=True)]
    a, b = (sums.invert() * unit for sums in half_sums)
    full = gridded(images, poses).invert() * unit
    _, mask = trust(half_sums)
    fsc = masked_half_map_fsc(a, b, mask, voxel_size_angstrom=plan.pixel_size_angstrom, rng=0)
    full, a, b = (DensityMap(v.astype(np.float32), plan.pixel_size_angstrom) for v in (full, a, b))
    subset = np.isin(np.arange(len(images.planes)), members[1]).astype(int)
    return Refinement(poses.rotations, poses.shifts_px, full, (a, b), subset, mask, fsc, history)
