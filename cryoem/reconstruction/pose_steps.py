"""Steps of poses towards the best-matching slices, at the coarsest image size that includes the trusted shells."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics
from cryoem.images import (
    cropped_frequencies,
    fourier_disc,
    half_planes_from_images,
    image_blocks,
    subtract_background,
)
from cryoem.projection.fourier import VolumeTransform, read_slices, transform
from cryoem.projection.matching import correlate_candidates, displaced, take_steps
from cryoem.reconstruction.accumulation import FourierAccumulator, grid_slices
from cryoem.rotations import Poses, random_small_rotations
from cryoem.validation import finite_array

KEPT_BYTES = 2**30  # largest size of the half-planes of all images that are kept in memory
BLOCK_BYTES = 2**26  # size of the half-planes that are processed at a time
SHELLS_PER_RADIAN = 2.0  # over the search radius, finer shells rotate by more than a search can follow
NOISELESS = 0.95  # fraction of the power of the images that slices explain
LARGEST_STEP = 0.15  # radians
LARGEST_SHIFT = 1.0  # coarse pixels


# --- images


@dataclass(frozen=True)
class FullImages:
    """Selected images ``size`` px wide, with pixel values divided by ``unit``, as half-planes of their transforms.

    ``rows`` (n,) are the indices of the selected images, and ``optics`` their optics. ``planes`` (N, m) complex64 has
    the half-planes of all N images. If they would take more than ``KEPT_BYTES``, it is None, and half-planes are
    computed from ``images`` (N, y, x) whenever they are needed.
    """

    images: np.ndarray
    planes: np.ndarray | None
    rows: np.ndarray
    size: int
    optics: Optics
    unit: float

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray) -> FullImages:
        """Select a subset of the images."""
        return replace(self, rows=self.rows[index], optics=self.optics[index])

    def elements(self, index: np.ndarray) -> np.ndarray:
        """Return the elements (k,) of each half-plane: (n, k) complex64."""
        if self.planes is not None:
            return self.planes[self.rows[:, None], index]
        read = finite_array(self.images[self.rows], name="images", ndim=3, dtype=np.float32)
        planes = half_planes_from_images(subtract_background(read) / np.float32(self.unit))
        return np.ascontiguousarray(planes[:, index])

    def blocks(self) -> list[np.ndarray]:
        """Return the indices of consecutive images, a few at a time."""
        count = max(1, BLOCK_BYTES // _plane_bytes(self.size))
        return np.array_split(np.arange(len(self)), -(-len(self) // count))

    def gridded(
        self, poses: Poses, shell: int, group: np.ndarray, *, reference: VolumeTransform | None = None
    ) -> FourierAccumulator:
        """Grid all images at their poses, cropped to ``shell``, with the symmetry of ``group`` (k, 3, 3).

        What the images differ from a ``reference``, if given, is added to them.
        """
        sums = None
        for some in self.blocks():
            work = working_images(self[some], poses[some], shell)
            matrices = poses.rotations[some].as_matrix()
            if reference is not None:
                work = work.with_differences(reference, matrices)
            sums = work.gridded(matrices, group, sums)
        return sums


def gridded_sets(
    images: FullImages,
    poses: Poses,
    members: list[np.ndarray],
    shell: int,
    group: np.ndarray,
    *,
    explained: float,
) -> list[FourierAccumulator]:
    """Grid disjoint sets of images, whose indices are ``members``; other parameters as in ``FullImages.gridded``.

    Gridding averages the samples around each point, which changes amplitudes by a few percent. This is much less than
    the noise, unless the slices explain nearly all of the power of the images. If the fraction ``explained`` is above
    ``NOISELESS``, the images therefore count with the difference from the map of all sets added, as in the first step
    of an iterative inversion.
    """
    sums = [images[some].gridded(poses[some], shell, group) for some in members]
    if explained <= NOISELESS:
        return sums
    reference = transform(reduce(add, sums).invert())
    return [images[some].gridded(poses[some], shell, group, reference=reference) for some in members]


def _plane_bytes(size: int) -> int:
    return 8 * size * (size // 2 + 1)


@dataclass(frozen=True)
class WorkingImages:
    """Centred images at a coarser size, as Fourier transforms inside the Nyquist circle of that size.

    ``planes`` (n, m) are complex64, and ``frequencies`` (m, 2) are in cycles per coarse pixel. ``weights`` (m,) count
    every Hermitian pair once. ``transfers`` (n, m) are CTF values or None. ``size`` is the image width in coarse
    pixels, and ``pixel_px`` the width of a coarse pixel in original pixels.
    """

    planes: np.ndarray
    frequencies: np.ndarray
    weights: np.ndarray
    transfers: np.ndarray | None
    size: int
    pixel_px: float

    def __getitem__(self, index: np.ndarray) -> WorkingImages:
        """Select a subset of the images."""
        transfers = None if self.transfers is None else self.transfers[index]
        return replace(self, planes=self.planes[index], transfers=transfers)

    def within(self, shell: int) -> WorkingImages:
        """Select the elements up to a shell, excluding the mean."""
        radius = np.hypot(*self.frequencies.T) * self.size
        kept = np.flatnonzero((radius > 0.5) & (radius < shell + 0.5))
        return replace(
            self,
            planes=np.ascontiguousarray(self.planes[:, kept]),
            frequencies=self.frequencies[kept],
            weights=self.weights[kept],
            transfers=None if self.transfers is None else np.ascontiguousarray(self.transfers[:, kept]),
        )

    def moved(self, shifts: np.ndarray) -> WorkingImages:
        """Displace the content of the images by (n, 2) coarse pixels."""
        return replace(self, planes=displaced(self.planes, self.frequencies, shifts))

    def with_differences(self, reference: VolumeTransform, matrices: np.ndarray) -> WorkingImages:
        """Add the differences from the slices of a reference at (n, 3, 3) orientations to the images."""
        predicted = read_slices(reference, matrices, self.frequencies)
        if self.transfers is not None:
            predicted *= self.transfers
        return replace(self, planes=2 * self.planes - predicted)

    def gridded(
        self, matrices: np.ndarray, group: np.ndarray, sums: FourierAccumulator | None = None
    ) -> FourierAccumulator:
        """Grid all slices at (n, 3, 3) orientations, and add them to ``sums``, if given."""
        return grid_slices(
            self.planes,
            matrices,
            self.frequencies,
            self.size,
            weights=self.weights,
            group=group,
            transfers=self.transfers,
            sums=sums,
        )


def full_images(images: np.ndarray, optics: Optics) -> FullImages:
    """Subtract the background of (n, y, y) images and divide all images by their common standard deviation."""
    n, size, _ = images.shape
    kept = n * _plane_bytes(size) <= KEPT_BYTES
    planes = np.empty((n, size * (size // 2 + 1)), np.complex64) if kept else None
    sums = np.zeros(2)
    for block in image_blocks(images):
        some = subtract_background(finite_array(images[block], name="images", ndim=3, dtype=np.float32))
        sums += some.sum(dtype=float), np.einsum("nyx,nyx->", some, some, dtype=float)
        if kept:
            planes[block] = half_planes_from_images(some)
    mean, square = sums / (n * size**2)
    unit = float(np.sqrt(max(square - mean**2, 0)))
    if unit == 0:
        raise ValueError(f"images must not be constant, got constant values in all {n} images")
    if kept:
        planes /= np.float32(unit)
    return FullImages(images, planes, np.arange(n), size, optics, unit)


def coarse_size(size: int, shell: int) -> int:
    """Return the smallest fast even image size that includes ``shell``, at most ``size``."""
    return min(size, 2 * scipy.fft.next_fast_len(shell + 1, real=True))


def working_images(images: FullImages, poses: Poses, shell: int) -> WorkingImages:
    """Fourier-crop half-planes to the smallest fast even size that includes ``shell``, and centre them."""
    size = images.size
    coarse = coarse_size(size, shell)
    disc = fourier_disc(coarse)
    pixel_px = size / coarse
    planes = images.elements(cropped_frequencies(size, coarse)[disc.index])
    transfers = None if images.optics.ctf is None else images.optics.transfers(disc.frequencies / pixel_px)
    work = WorkingImages(planes, disc.frequencies, disc.weights, transfers, coarse, pixel_px)
    return work.moved(-poses.shifts_px / pixel_px) if poses.shifts_px.any() else work


# --- steps


@dataclass(frozen=True)
class MatchResult:
    """Result of one step of n images.

    ``poses`` contains the orientations, and the displacements from the current centres in coarse pixels. ``scores``
    (n,) are the correlations between images and slices. ``covariances`` (n, 3 or 5, 3 or 5) are those of the poses, in
    radians and coarse pixels.
    """

    poses: Poses
    scores: np.ndarray
    covariances: np.ndarray

    def displaced(self, shifts: np.ndarray) -> MatchResult:
        """Return the results relative to other centres, from which the current ones are (n, 2) coarse pixels away."""
        return replace(self, poses=Poses(self.poses.rotations, self.poses.shifts_px + shifts))

    def improved_by(self, others: MatchResult, rows: np.ndarray, *, least_rise: float) -> MatchResult:
        """Return the results, with those of the images ``rows`` (k,) replaced by others (k,) that explain more.

        ``least_rise`` is the least difference of the explained fractions of the power of an image, which are squared
        scores, relative to the unexplained fraction.
        """
        before, after = (np.maximum(scores, 0) ** 2 for scores in (self.scores[rows], others.scores))
        better = after - before > least_rise * (1 - before)
        order = np.arange(len(self.scores))
        order[rows[better]] = len(order) + np.flatnonzero(better)
        return MatchResult(
            Poses.concatenate([self.poses, others.poses])[order],
            np.concatenate([self.scores, others.scores])[order],
            np.concatenate([self.covariances, others.covariances])[order],
        )

    def sample(self, rng: np.random.Generator) -> Poses:
        """Sample each pose from its own uncertainty."""
        factors = np.linalg.cholesky(self.covariances)
        draws = np.einsum("nab,nb->na", factors, rng.standard_normal(factors.shape[:2]))
        return self.poses.moved(draws)


def searchable_shell(radius: float, finest: int) -> int:
    """Return the finest shell that a random search within a radius, in radians, can follow, at most ``finest``."""
    return min(finest, math.ceil(SHELLS_PER_RADIAN / radius))


def search(
    reference: VolumeTransform,
    work: WorkingImages,
    rotations: Rotation,
    *,
    candidates: int,
    radius: float,
    refine_shifts: bool,
    rng,
) -> MatchResult:
    """Select the best of the current orientation and random ones around it, then take one ``descend`` step.

    The random orientations are within ``radius`` of the current one.
    """
    n = len(work.planes)
    around = random_small_rotations((n, candidates), radius=radius, rng=rng)
    turns = np.concatenate([np.zeros((n, 1, 3)), around], axis=1)
    matrices = Rotation.from_rotvec(turns.reshape(-1, 3)).as_matrix().reshape(n, -1, 3, 3)
    matrices = matrices @ rotations.as_matrix()[:, None]
    scores = correlate_candidates(
        reference, work.planes, matrices, work.frequencies, work.weights, work.transfers
    )
    best = np.argmax(scores, axis=1)
    found = Rotation.from_matrix(matrices[np.arange(n), best])
    return descend(reference, work, found, steps=1, refine_shifts=refine_shifts)


def descend(
    reference: VolumeTransform, work: WorkingImages, rotations: Rotation, *, steps: int, refine_shifts: bool
) -> MatchResult:
    """Take Gauss-Newton steps of orientations and, with ``refine_shifts``, of shifts.

    A step is kept only for images whose correlation increases. ``steps`` must be at least 1.
    """
    poses, scores, inverse = take_steps(
        reference,
        work.planes,
        Poses(rotations, np.zeros((len(work.planes), 2))),
        work.frequencies,
        work.weights,
        work.transfers,
        steps=steps,
        with_shifts=refine_shifts,
        largest_step=LARGEST_STEP,
        largest_shift=LARGEST_SHIFT,
    )
    unexplained = np.mean(np.abs(work.planes) ** 2, axis=1) / 2 * np.clip(1 - scores**2, 0, 1)
    return MatchResult(
        poses, scores, unexplained[:, None, None] * inverse + 1e-16 * np.eye(inverse.shape[-1])
    )
