"""Images on rings in Fourier space, and expectation-maximisation over all in-plane angles at once.

An image is sampled in Fourier space on rings of radius r = 1, 2, ... (in units of 1 / box width) and expanded in
circular harmonics, ``c(r, m)``. Rotating the image by psi multiplies ``c(r, m)`` by ``exp(-i m psi)``. The correlation
of images with references at all in-plane angles is therefore one matrix product per harmonic, followed by a transform
over m. All sums are computed as products of real matrices. The CTF is radial: for an astigmatic image, the mean defocus
is used.

In 3D, the references are central slices of a map; in 2D, they are class averages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
import scipy.fft

from cryoem.contrast import Optics
from cryoem.images import circular_mask, subtract_background

POSTERIOR_VALUES = 2_000_000  # posterior values computed at a time, few enough for the cache
LEAST_VARIANCE = 1e-3  # of the noise of a ring, relative to the power of the images
NUFFT_TOLERANCE = 1e-4
EDGE = 0.1  # width of the soft edge of the mask, relative to the image
NEGLIGIBLE = -18.0  # log of the probability, relative to the best pose, below which a pose is neglected


@dataclass(frozen=True)
class RingGrid:
    """Rings 1 to ``rings``, each sampled at ``angles`` directions on the half circle [0, pi)."""

    rings: int
    angles: int

    @property
    def harmonics(self) -> int:
        """Number of harmonics 0, 1, ... that are used; the others are negligible or follow from these."""
        return self.angles * 3 // 4 + 1

    @property
    def frequencies(self) -> np.ndarray:
        """Points (rings * angles, 2) in units of 1 / box width."""
        angle = np.pi * np.arange(self.angles) / self.angles
        radius = np.arange(1, self.rings + 1)[:, None]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 2)

    @property
    def areas(self) -> np.ndarray:
        """Number of independent Fourier pixels for each point of a ring: (rings,) float32."""
        return (np.pi * np.arange(1, self.rings + 1) / self.angles).astype(np.float32)


@dataclass(frozen=True)
class RingImages:
    """Images on the points of a ``RingGrid``.

    Parameters
    ----------
    values : (n, rings, angles) complex64 array
        Fourier transforms, scaled so that white noise of variance s2 has variance s2 at every point.
    transfers : (n, rings) float32 array
        CTF of each image on each ring.
    grid : RingGrid
    image_size : int
        Side length of the images in pixels.
    coverage : float
        Mean of the squared mask. The number of independent Fourier pixels is smaller by this factor.
    """

    values: np.ndarray
    transfers: np.ndarray
    grid: RingGrid
    image_size: int
    coverage: float

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index) -> RingImages:
        return replace(self, values=self.values[index], transfers=self.transfers[index])


def ring_images(images: np.ndarray, grid: RingGrid, *, optics: Optics | None = None) -> RingImages:
    """Apply a soft circular mask to images (n, y, x), y == x, and sample them on rings in Fourier space."""
    import finufft

    n, size = len(images), images.shape[1]
    points = (2 * np.pi / size * grid.frequencies).astype(np.float32)
    plan = finufft.Plan(2, (size, size), eps=NUFFT_TOLERANCE, isign=-1, n_trans=min(n, 64), dtype="complex64")
    plan.setpts(points[:, 1].copy(), points[:, 0].copy())
    values = np.empty((n, len(points)), np.complex64)
    mask = circular_mask(size, edge_px=EDGE * size, profile="cosine")
    coverage = float(np.mean(mask**2))
    for start in range(0, n, plan.n_trans):
        block = np.zeros((plan.n_trans, size, size), np.complex64)
        some = images[start : start + plan.n_trans]
        block[: len(some)] = subtract_background(some) * mask
        values[start : start + len(some)] = plan.execute(block)[: len(some)]
    transfers = np.ones((n, grid.rings), np.float32)
    if optics is not None and optics.ctf is not None:
        transfers = optics.isotropic().transfers(np.arange(1, grid.rings + 1) / size)
    values = values.reshape(n, grid.rings, grid.angles) / np.float32(size * np.sqrt(coverage))
    return RingImages(values, transfers, grid, size, coverage)


def harmonics_of(values: np.ndarray, count: int) -> np.ndarray:
    """Expand (k, rings, angles) values on the half circle in harmonics 0 to count - 1: (count, k, rings) complex64."""
    circle = np.concatenate([values, values.conj()], axis=-1)
    harmonics = scipy.fft.fft(circle, axis=-1, workers=-1)[..., :count] / circle.shape[-1]
    return np.ascontiguousarray(np.moveaxis(harmonics, -1, 0), np.complex64)


def values_of(harmonics: np.ndarray, angles: int) -> np.ndarray:
    """Evaluate (count, k, rings) harmonics on the half circle: (k, rings, angles) complex64."""
    count = len(harmonics)
    circle = np.zeros((2 * angles, *harmonics.shape[1:]), np.complex64)
    circle[:count] = harmonics
    # values at opposite points are conjugate, so c(-m) = (-1)^m c(m)*
    signs = (-1.0) ** np.arange(1, count)
    circle[2 * angles - np.arange(1, count)] = signs[:, None, None] * harmonics[1:].conj()
    values = scipy.fft.ifft(circle, axis=0, workers=-1)[:angles] * (2 * angles)
    return np.ascontiguousarray(np.moveaxis(values, 0, -1), np.complex64)


@dataclass(frozen=True)
class Expectation:
    """Result of the E step over n images, d references, and all in-plane angles and displacements.

    Attributes
    ----------
    evidence : (n,) array
        Log-likelihood of each image, marginalised over its pose and relative to pure noise.
    reference, angles_rad, displacements_px : (n,), (n,) and (n, 2) arrays
        Most probable pose: index of the reference, in-plane angle psi by which the reference is rotated to match the
        image, and displacement (x, y).
    centres_px : (n, 2) array
        Mean displacement.
    sums : (d, rings, angles) complex64 array
        Sum of the images, rotated back onto each reference and weighted with the posterior and the CTF.
    weights : (d, rings) array
        Sum of the posterior, weighted with the squared CTF.
    noise : (rings,) array
        Mean squared difference from the references, which estimates the noise variance of each ring.
    """

    evidence: np.ndarray
    reference: np.ndarray
    angles_rad: np.ndarray
    displacements_px: np.ndarray
    centres_px: np.ndarray
    sums: np.ndarray
    weights: np.ndarray
    noise: np.ndarray


def expect(
    images: RingImages,
    references: np.ndarray,
    noise: np.ndarray,
    *,
    rings: int,
    angles: int,
    offsets_px: np.ndarray | None = None,
    centres_px: np.ndarray | None = None,
    shift_deviation_px: float = np.inf,
    temperature: float = 1.0,
) -> Expectation:
    """Compute the posterior of the poses of all images, and the posterior sums for the M step.

    Parameters
    ----------
    images : RingImages
    references : (d, rings, angles) complex64 array
        References without CTF.
    noise : (rings,) array
        Noise variance of each ring.
    rings : int
        Number of rings that determine the posterior. The sums contain all rings.
    angles : int
        Number of in-plane angles on the full circle.
    offsets_px : (s, 2) array, optional
        Displacements to try, relative to ``centres_px``. Default: none.
    centres_px : (n, 2) array, optional
        Centre of the displacements of each image. Default: zero.
    shift_deviation_px : float
        Standard deviation of the Gaussian prior of the displacements.
    temperature : float
        Divisor of the log-likelihoods.
    """
    n, d, grid = len(images), len(references), images.grid
    offsets = np.zeros((1, 2)) if offsets_px is None else np.asarray(offsets_px, float)
    centres = np.zeros((n, 2)) if centres_px is None else centres_px
    moved, s = bool(offsets.any() or centres.any()), len(offsets)
    count = min(grid.harmonics, angles // 2, 2 * rings + 8)
    of_references = harmonics_of(references, count)  # (m, d, rings)
    power = np.mean(np.abs(references) ** 2, axis=2)  # (d, rings)
    pixels = images.coverage * np.pi * np.arange(1, rings + 1)
    precision = (pixels / noise[:rings] / temperature).astype(np.float32)
    weighted = (2 * precision * of_references[..., :rings]).transpose(0, 2, 1)  # (m, rings, d)
    real = np.concatenate([weighted.real, weighted.imag], axis=1)
    imaginary = np.concatenate([weighted.imag, -weighted.real], axis=1)
    turns = 2 * np.pi / angles * np.arange(angles)[:, None] * np.arange(count)
    waves = np.concatenate([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)  # (angles, 2 m)
    factors = np.where(np.arange(2 * count) % count == 0, 1, 2).astype(np.float32)
    frequencies = grid.frequencies / images.image_size  # cycles per pixel
    step = max(1, POSTERIOR_VALUES // (angles * s * d))
    sums = np.zeros((count, d, grid.rings), np.complex64)
    weights, image_power = np.zeros((d, grid.rings)), np.zeros(grid.rings)
    parts = []
    for start in range(0, n, step):
        block = slice(start, start + step)
        some, transfers = images.values[block], images.transfers[block]
        k = len(some)
        image_power += np.mean(np.abs(some) ** 2, axis=2).sum(axis=0)
        values = some * transfers[..., None]
        tried = centres[block, None] + offsets  # (k, s, 2)
        if moved:  # undo each displacement
            phases = np.exp(2j * np.pi * (tried.reshape(-1, 2) @ frequencies.T)).astype(np.complex64)
            values = (values[:, None] * phases.reshape(k, s, *some.shape[1:])).reshape(k * s, *some.shape[1:])
        of_images = harmonics_of(values, count)  # (m, k s, rings)
        both = np.concatenate([of_images.real[..., :rings], of_images.imag[..., :rings]], axis=2)
        products = np.empty((2 * count, k * s, d), np.float32)
        np.matmul(both, real, out=products[:count])
        np.matmul(both, imaginary, out=products[count:])
        logs = ((waves * factors) @ products.reshape(2 * count, -1)).reshape(angles, k, s * d)
        prior = np.square(tried).sum(axis=2) / (2 * shift_deviation_px**2)
        bias = ((transfers[:, :rings] ** 2 * precision) @ power[:, :rings].T)[:, None] + prior[..., None]
        best, evidence, marginal = np.empty(k, int), np.empty(k), np.zeros((k, s * d), np.float32)
        _normalise(logs, bias.reshape(k, s * d).astype(np.float32), best, evidence, marginal)
        psi, at, which = np.unravel_index(best, (angles, s, d))
        marginal = marginal.reshape(k, s, d)
        parts.append(
            (
                evidence - np.log(angles * s * d),
                which,
                2 * np.pi / angles * psi,
                tried[np.arange(k), at],
                np.einsum("ksd,ksx->kx", marginal, tried, optimize=True),
            )
        )
        weights += marginal.sum(axis=1).T @ transfers**2
        spread = (waves.T @ logs.reshape(angles, -1)).reshape(2, count, k * s, d)
        onto = np.concatenate([spread[0], spread[1]], axis=1).transpose(0, 2, 1)  # (m, d, 2 k s)
        sums.real += np.matmul(onto, np.concatenate([of_images.real, -of_images.imag], axis=1))
        sums.imag += np.matmul(onto, np.concatenate([of_images.imag, of_images.real], axis=1))
    doubled = np.where(np.arange(count) == 0, 1, 2)[:, None, None]
    explained = (doubled * (sums.conj() * of_references).real).sum(axis=(0, 1))
    residual = (image_power - 2 * explained + (weights * power).sum(axis=0)) / n
    evidence, which, psi, displacement, centre = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Expectation(
        evidence,
        which,
        psi,
        displacement,
        centre,
        values_of(sums, grid.angles),
        weights,
        np.maximum(residual, LEAST_VARIANCE * image_power / n),
    )


@numba.njit(parallel=True, fastmath=True, cache=True)
def _normalise(logs, bias, best, evidence, marginal):
    """Convert log-likelihoods (angles, n, poses) plus ``bias`` into posteriors in place, and sum them over the angles.

    For each image, ``best`` is the index of the most probable angle and pose, and ``evidence`` is the log of the sum.
    """
    n_angles, n, n_poses = logs.shape
    for i in numba.prange(n):
        highest = np.float32(-np.inf)
        for a in range(n_angles):
            for c in range(n_poses):
                value = logs[a, i, c] - bias[i, c]
                logs[a, i, c] = value
                if value > highest:
                    highest = value
                    best[i] = a * n_poses + c
        total = 0.0
        for a in range(n_angles):
            for c in range(n_poses):
                value = logs[a, i, c] - highest
                value = np.exp(value) if value > NEGLIGIBLE else np.float32(0)
                logs[a, i, c] = value
                total += value
        evidence[i] = highest + np.log(total)
        share = np.float32(1 / total)
        for a in range(n_angles):
            for c in range(n_poses):
                value = logs[a, i, c] * share
                logs[a, i, c] = value
                marginal[i, c] += value
