"""Expectation step: the posterior of the poses of images on rings, over all in-plane angles at once.

The log-likelihood of an image x, given a reference c rotated by psi, is the sum over rings and harmonics of
``2 Re(conj(x) c exp(-i m psi)) - |c|^2``, divided by the noise variance. For each harmonic, this is a product of real
matrices over the rings. The sums over the harmonics are computed for the angles psi and -psi together: they have the
cosine terms in common, and sine terms of opposite sign.

In 3D, the references are central slices of a map; in 2D, they are class averages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from cryoem.orientations.rings import RingImages, harmonics_of, values_of

POSTERIOR_VALUES = 1_000_000  # posterior values computed at a time, few enough for the cache
LEAST_VARIANCE = 1e-3  # of the noise of a ring, relative to the power of the images
NEGLIGIBLE = np.float32(
    -16
)  # log of the probability, relative to the best pose, below which a pose is neglected


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
    references : (d, k, angles) complex64 array
        References without CTF, on the first k rings of the images. The sums are computed on these rings.
    noise : (k,) array
        Noise variance of each ring.
    rings : int
        Number of rings that determine the posterior, at most k.
    angles : int
        Number of in-plane angles on the full circle: an even number.
    offsets_px : (s, 2) array, optional
        Displacements to try, relative to ``centres_px``. Default: none.
    centres_px : (n, 2) array, optional
        Centre of the displacements of each image. Default: zero.
    shift_deviation_px : float
        Standard deviation of the Gaussian prior of the displacements.
    temperature : float
        Divisor of the log-likelihoods.
    """
    n, (d, on_rings, _), grid = len(images), references.shape, images.grid
    offsets = np.zeros((1, 2)) if offsets_px is None else np.asarray(offsets_px, float)
    centres = np.zeros((n, 2)) if centres_px is None else centres_px
    moved, s = bool(offsets.any() or centres.any()), len(offsets)
    count = min(grid.harmonics, angles // 2, 2 * rings + 8)
    of_references = harmonics_of(references, count)  # (m, d, rings)
    power = np.mean(np.abs(references) ** 2, axis=2)  # (d, rings)
    precision = np.zeros(on_rings, np.float32)
    precision[:rings] = images.coverage * np.pi * np.arange(1, rings + 1) / noise[:rings] / temperature
    doubled = np.where(np.arange(count) == 0, 1, 2).astype(np.float32)[:, None, None]
    weighted = (2 * doubled * precision * of_references).transpose(0, 2, 1)  # (m, rings, d)
    real = np.concatenate([weighted.real, weighted.imag], axis=1)
    imaginary = np.concatenate([weighted.imag, -weighted.real], axis=1)
    turns = 2 * np.pi / angles * np.arange(angles // 2 + 1)[:, None] * np.arange(count)
    cosines, sines = np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)  # (angles / 2 + 1, m)
    frequencies = grid.frequencies[: on_rings * grid.angles] / images.image_size  # cycles per pixel
    step = max(1, POSTERIOR_VALUES // (angles * s * d))
    sums = np.zeros((count, d, on_rings), np.complex64)
    weights, image_power = np.zeros((d, on_rings)), np.zeros(on_rings)
    parts = []
    for start in range(0, n, step):
        block = slice(start, start + step)
        some, transfers = images.values[block, :on_rings], images.transfers[block, :on_rings]
        k = len(some)
        image_power += np.mean(np.abs(some) ** 2, axis=2).sum(axis=0)
        values = some * transfers[..., None]
        tried = centres[block, None] + offsets  # (k, s, 2)
        if moved:  # undo each displacement
            phases = np.exp(2j * np.pi * (tried.reshape(-1, 2) @ frequencies.T)).astype(np.complex64)
            values = (values[:, None] * phases.reshape(k, s, *some.shape[1:])).reshape(k * s, *some.shape[1:])
        of_images = harmonics_of(values, count)  # (m, k s, rings)
        both = np.concatenate([of_images.real, of_images.imag], axis=2)
        logs = np.empty((2, len(turns), k * s * d), np.float32)
        np.matmul(cosines, np.matmul(both, real).reshape(count, -1), out=logs[0])
        np.matmul(sines, np.matmul(both, imaginary).reshape(count, -1), out=logs[1])
        prior = np.square(tried).sum(axis=2) / (2 * shift_deviation_px**2)
        bias = ((transfers**2 * precision) @ power.T)[:, None] + prior[..., None]
        bias = bias.reshape(k, s * d).astype(np.float32)
        best, evidence, marginal = np.empty(k, int), np.empty(k), np.zeros((k, s * d), np.float32)
        _exponentiate(logs.reshape(2, len(turns), k, s * d), bias, best, evidence, marginal)
        share = 1 / marginal.sum(axis=1)
        psi, at, which = np.unravel_index(best, (angles, s, d))
        marginal = (marginal * share[:, None]).reshape(k, s, d)
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
        both *= np.repeat(share, s)[:, None]
        even = np.matmul(cosines.T, logs[0]).reshape(count, k * s, d).transpose(0, 2, 1) @ both
        odd = np.matmul(sines.T, logs[1]).reshape(count, k * s, d).transpose(0, 2, 1) @ both
        sums.real += even[..., :on_rings] - odd[..., on_rings:]
        sums.imag += even[..., on_rings:] + odd[..., :on_rings]
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


@numba.njit(parallel=True, fastmath=True, cache=True)
def _exponentiate(logs, bias, best, evidence, marginal):
    """Convert log-likelihoods into posteriors in place, without dividing by their sum.

    ``logs`` is (2, angles / 2 + 1, n, poses): the terms that angles psi and -psi have in common, and the terms of
    opposite sign. They are replaced by the sum and the difference of the two posteriors, relative to the most probable
    pose. ``bias`` (n, poses) is subtracted from the log-likelihoods. For each image, ``best`` is the index of the most
    probable angle and pose, ``evidence`` is the log of the sum, and ``marginal`` is the sum over the angles.
    """
    _, rows, n, poses = logs.shape
    for i in numba.prange(n):
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
