"""Expectation step: the posterior of the poses of images on rings, over all in-plane angles at once.

The log-likelihood of an image x, given a reference c rotated by psi, is the sum over rings and harmonics of
``2 Re(conj(x) c exp(-i m psi)) - |c|^2``, divided by the noise variance. For each harmonic, this is a product of real
matrices over the rings. The sums over the harmonics are computed for the angles psi and -psi together: they have the
cosine terms in common, and sine terms of opposite sign.

In 3D, the references are central slices of a map; in 2D, they are class averages.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import scipy.special
from threadpoolctl import threadpool_limits

from cryoem.orientations.rings import RingImages, harmonics_of, undo_displacements, values_of

POSTERIOR_VALUES = 1_000_000  # posterior values computed at a time, few enough for the cache
LEAST_VARIANCE = 1e-3  # of the noise of a ring, relative to the power of the images
# log of the probability, relative to the best pose, below which a pose is neglected
NEGLIGIBLE = np.float32(-16)
NEGLECTED = 0.01  # share of the posterior in the views and displacements that are left out of the sums


@dataclass(frozen=True)
class Expectation:
    """Result of the E step over n images, d references, s displacements of each image, and all in-plane angles.

    Attributes
    ----------
    evidence : (n,) array
        Log-likelihood of each image, marginalised over its pose and relative to pure noise.
    reference, angles_rad, displacements_px : (n,), (n,) and (n, 2) arrays
        Most probable pose: index of the reference, in-plane angle psi by which the reference is rotated to match the
        image, and displacement (x, y).
    shares : (n, s) array
        Posterior of the displacements that were tried.
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
    shares: np.ndarray
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
    junk: bool = False,
) -> Expectation:
    """Compute the posterior of the poses of all images, and the posterior sums for the M step.

    Parameters
    ----------
    images : RingImages
    references : (d, k, angles) complex64 array
        References without CTF, on the first k rings of the images. The sums are computed on these rings.
    noise : (k,) array
        Noise variance of each ring.
    rings : int
        Number of rings that determine the posterior, at most k.
    angles : int
        Number of in-plane angles on the full circle: an even number.
    offsets_px : (s, 2) or (n, s, 2) array, optional
        Displacements to try for all images or for each image, relative to ``centres_px``. Default: none.
    centres_px : (n, 2) array, optional
        Centre of the displacements of each image. Default: zero.
    shift_deviation_px : float
        Standard deviation of the Gaussian prior of the displacements.
    junk : bool
        Whether an image may also be pure noise, with a prior probability of one half. Its posterior over the poses then
        sums to the probability that it is not. Default: False.
    """
    n, on_rings = len(images), references.shape[1]
    offsets = np.zeros((1, 2)) if offsets_px is None else np.asarray(offsets_px, float)
    centres = np.zeros((n, 2)) if centres_px is None else centres_px
    tried = centres[:, None] + offsets  # (n, s, 2)
    compared = _References(references, noise, images, rings=rings, angles=angles)
    # the matrix products are small: each thread computes those of its own images
    threads = min(n, numba.get_num_threads())
    parts = [slice(n * i // threads, n * (i + 1) // threads) for i in range(threads)]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        results = list(
            pool.map(
                lambda part: compared.posterior(images[part], tried[part], shift_deviation_px, junk), parts
            )
        )
    results = list(zip(*results, strict=True))
    evidence, reference, psi, at, shares = (np.concatenate(part) for part in results[:5])
    sums, weights, image_power = (sum(part) for part in results[5:])
    sums = (sums[..., :on_rings] + 1j * sums[..., on_rings:]).transpose(1, 0, 2)  # (m, d, rings)
    explained = (compared.doubled * (sums.conj() * compared.harmonics).real).sum(axis=(0, 1))
    residual = (image_power - 2 * explained + (weights * compared.power).sum(axis=0)) / n
    return Expectation(
        evidence,
        reference,
        2 * np.pi / angles * psi,
        tried[np.arange(n), at],
        shares,
        np.einsum("ns,nsx->nx", shares, tried),
        values_of(sums, images.grid.angles),
        weights,
        np.maximum(residual, LEAST_VARIANCE * image_power / n),
    )


def best_turns(
    images: RingImages, references: np.ndarray, noise: np.ndarray, *, angles: int
) -> tuple[np.ndarray, np.ndarray]:
    """Turn each reference in the plane to match each centred image best.

    Parameters
    ----------
    images, references, noise, angles
        As for ``expect``, on all rings of the images.

    Returns
    -------
    scores, angles_rad : (n, d) array
        Log-likelihood of each of n images at the best in-plane angle of each of d references, up to a constant of the
        image, and this angle.
    """
    compared = _References(references, noise, images, rings=references.shape[1], angles=angles)
    threads = min(len(images), numba.get_num_threads())
    parts = np.array_split(np.arange(len(images)), threads)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(lambda part: compared.best_angles(images[part]), parts))
    scores, best = (np.concatenate(part) for part in zip(*results, strict=True))
    return scores, 2 * np.pi / angles * best


class _References:
    """The factors of the matrix products that the images have in common."""

    def __init__(
        self, references: np.ndarray, noise: np.ndarray, images: RingImages, *, rings: int, angles: int
    ):
        self.angles, self.count = angles, min(images.grid.harmonics, angles // 2, 2 * rings + 8)
        self.harmonics = harmonics_of(references, self.count)  # (m, d, rings)
        self.power = np.mean(np.abs(references) ** 2, axis=2)  # (d, rings)
        self.precision = np.zeros(references.shape[1], np.float32)
        self.precision[:rings] = images.coverage * np.pi * np.arange(1, rings + 1) / noise[:rings]
        self.doubled = np.where(np.arange(self.count) == 0, 1, 2).astype(np.float32)[:, None, None]
        weighted = (2 * self.doubled * self.precision * self.harmonics).transpose(0, 2, 1)  # (m, rings, d)
        self.real = np.concatenate([weighted.real, weighted.imag], axis=1)
        self.imaginary = np.concatenate([weighted.imag, -weighted.real], axis=1)
        turns = 2 * np.pi / angles * np.arange(angles // 2 + 1)[:, None] * np.arange(self.count)
        self.cosines, self.sines = np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)

    def _compare(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the harmonics of images (k, rings, angles), as (m, k, 2 rings) real numbers, and their products.

        The products (2, angles / 2 + 1, k d) are log-likelihoods without the power of the references: the terms that
        the angles psi and -psi have in common, and the terms of opposite sign.
        """
        of_images = harmonics_of(values, self.count)
        both = np.concatenate([of_images.real, of_images.imag], axis=2)
        logs = np.empty((2, self.angles // 2 + 1, len(values) * len(self.power)), np.float32)
        np.matmul(self.cosines, np.matmul(both, self.real).reshape(self.count, -1), out=logs[0])
        np.matmul(self.sines, np.matmul(both, self.imaginary).reshape(self.count, -1), out=logs[1])
        return both, logs

    def best_angles(self, images: RingImages) -> tuple[np.ndarray, np.ndarray]:
        """Return the best log-likelihood of each centred image with each reference, and the angle index: (n, d)."""
        n, d = len(images), len(self.power)
        best, angle = np.empty((n, d), np.float32), np.empty((n, d), int)
        step = max(1, POSTERIOR_VALUES // (self.angles * d))
        for start in range(0, n, step):
            block = slice(start, start + step)
            transfers = images.transfers[block]
            common, opposite = self._compare(images.values[block] * transfers[..., None])[1]
            logs = np.concatenate([common + opposite, (common - opposite)[-2:0:-1]])
            angle[block] = np.argmax(logs, axis=0).reshape(-1, d)
            best[block] = logs.max(axis=0).reshape(-1, d) - (transfers**2 * self.precision) @ self.power.T
        return best, angle

    def posterior(
        self, images: RingImages, displacements_px: np.ndarray, deviation: float, junk: bool
    ) -> tuple:
        """Compare images with the references, a block at a time.

        Returns the log of the summed likelihoods, the indices of the best reference, angle and displacement and the
        posterior of the displacements for each image; then the sums (d, m, 2 rings), their weights (d, rings), and the
        summed power of the images (rings,).
        """
        (n, s, _), (d, on_rings) = displacements_px.shape, self.power.shape
        step = max(1, POSTERIOR_VALUES // (self.angles * s * d))
        sums = np.zeros((d, self.count, 2 * on_rings), np.float32)
        weights, image_power = np.zeros((d, on_rings)), np.zeros(on_rings)
        parts = []
        for start in range(0, n, step):
            block = slice(start, start + step)
            values, transfers = images.values[block, :on_rings], images.transfers[block, :on_rings]
            k, tried = len(values), displacements_px[block]
            image_power += np.mean(np.abs(values) ** 2, axis=2).sum(axis=0)
            values = values * transfers[..., None]
            if s > 1 or tried.any():
                values = undo_displacements(values, tried, images.grid, images.image_size)
            both, logs = self._compare(values.reshape(k * s, on_rings, -1))
            prior = np.square(tried).sum(axis=2) / (2 * deviation**2)
            bias = ((transfers**2 * self.precision) @ self.power.T)[:, None] + prior[..., None]
            bias = bias.reshape(k, s * d).astype(np.float32)
            best, evidence, marginal = np.empty(k, int), np.empty(k), np.zeros((k, s * d), np.float32)
            _exponentiate(logs.reshape(2, -1, k, s * d), bias, best, evidence, marginal)
            # neglect poses that together have less than a share NEGLECTED of the posterior
            least = NEGLECTED / (s * d) * marginal.sum(axis=1, keepdims=True)
            marginal[marginal < least] = 0
            total = marginal.sum(axis=1)
            shares = marginal.reshape(k, s, d).sum(axis=2) / total[:, None]
            evidence -= np.log(self.angles * s * d)
            share = (scipy.special.expit(evidence).astype(np.float32) if junk else 1) / total
            columns = np.flatnonzero(marginal)
            which, reference = np.divmod(columns, d)
            factor = share[which // s]
            logs = logs[:, :, columns]
            even, odd = (self.cosines.T @ logs[0]) * factor, (self.sines.T @ logs[1]) * factor
            _accumulate(sums, even, odd, both, which, reference)
            marginal = (marginal * share[:, None]).reshape(k, s, d)
            weights += marginal.sum(axis=1).T @ transfers**2
            psi, at, most = np.unravel_index(best, (self.angles, s, d))
            parts.append((evidence, most, psi, at, shares))
        return *(np.concatenate(part) for part in zip(*parts, strict=True)), sums, weights, image_power


@numba.njit(inline="always", fastmath=True)
def _exp(x):
    """Approximate exp(x) for -16 <= x <= 0 with a relative error of 2e-5, without branches or table."""
    t = x / np.float32(16) + np.float32(0.5)
    value = np.float32(1 / 720) * t + np.float32(1 / 120)
    value = value * t + np.float32(1 / 24)
    value = value * t + np.float32(1 / 6)
    value = value * t + np.float32(1 / 2)
    value = (value * t + np.float32(1)) * t + np.float32(1)
    value *= value
    value *= value
    value *= value
    value *= value
    return value * np.float32(np.exp(-8.0))


@numba.njit(nogil=True, fastmath=True, cache=True)
def _exponentiate(logs, bias, best, evidence, marginal):
    """Convert log-likelihoods into posteriors in place, without dividing by their sum.

    ``logs`` is (2, angles / 2 + 1, n, poses): the terms that angles psi and -psi have in common, and the terms of
    opposite sign. They are replaced by the sum and the difference of the two posteriors, relative to the most probable
    pose. ``bias`` (n, poses) is subtracted from the log-likelihoods. For each image, ``best`` is the index of the most
    probable angle and pose, ``evidence`` is the log of the sum, and ``marginal`` is the sum over the angles.
    """
    _, rows, n, poses = logs.shape
    for i in range(n):
        b, total = bias[i], marginal[i]
        highest, best_row, negative = np.float32(-np.inf), 0, False
        for a in range(rows):
            even, odd = logs[0, a, i], logs[1, a, i]
            up = down = np.float32(-np.inf)
            for c in range(poses):
                common, opposite = even[c] - b[c], odd[c]
                even[c], odd[c] = common + opposite, common - opposite
                up, down = max(up, even[c]), max(down, odd[c])
            if max(up, down) > highest:
                highest, best_row, negative = max(up, down), a, down > up
        angle = 2 * (rows - 1) - best_row if negative else best_row
        best[i] = angle * poses + np.argmax(logs[1 if negative else 0, best_row, i])
        for a in range(rows):
            even, odd = logs[0, a, i], logs[1, a, i]
            # the angles 0 and pi are their own opposites
            factor = np.float32(0.5 if a == 0 or a == rows - 1 else 1)
            for c in range(poses):
                x, y = even[c] - highest, odd[c] - highest
                x = factor * _exp(x) if x > NEGLIGIBLE else np.float32(0)
                y = factor * _exp(y) if y > NEGLIGIBLE else np.float32(0)
                even[c], odd[c] = x + y, x - y
                total[c] += x + y
        evidence[i] = highest + np.log(total.sum())


@numba.njit(nogil=True, fastmath=True, cache=True)
def _accumulate(sums, even, odd, images, which, reference):
    """Add harmonics of images, rotated and weighted, to the sums (d, count, 2 rings) over the images of each reference.

    Column i of ``even`` and ``odd`` (count, columns) applies to image ``which[i]`` of (count, images, 2 rings). The
    last axis is the real part on all rings, followed by the imaginary part.
    """
    count, _, rings = images.shape
    rings //= 2
    for i in range(len(which)):
        for m in range(count):
            total, image, x, y = sums[reference[i], m], images[m, which[i]], even[m, i], odd[m, i]
            for r in range(rings):
                total[r] += x * image[r] - y * image[rings + r]
                total[rings + r] += x * image[rings + r] + y * image[r]
