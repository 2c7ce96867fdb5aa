"""Alignment without learning: what a network has to beat, and what to use where it does not.

- ``pair_angles``: the rotation between two images, from the circular correlation of their polar spectra;
- ``fourier_mellin_angles``: the same from log-polar spectra by phase correlation (scikit-image);
- ``synchronise``: one angle an image from noisy angles of pairs, by the leading eigenvector;
- ``iterated_template``: one angle an image against the mean of all, again and again.

All angles are known modulo the period of the spectra, half a turn without symmetry.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.sparse
import skimage.filters
import skimage.registration
import skimage.transform

from cryoem.checks import finite_array, square_images, whole_number
from cryoem.udl.registration import circular_mask
from cryoem.udl.spectra import without_rings

BLOCK = 500


def pair_angles(first: np.ndarray, second: np.ndarray, *, period_rad: float = np.pi) -> np.ndarray:
    """By how much the second of each pair of polar spectra is turned against the first.

    Parameters
    ----------
    first, second : (n, n_angles, n_radii) from ``polar_spectra``; one of them may be (1, n_angles, n_radii).

    Returns
    -------
    (n,) angles in [0, period_rad), anticlockwise, to a fraction of a sample (a parabola through the highest three).

    Raises
    ------
    ValueError : the spectra do not match.
    """
    first = finite_array(first, name="first", ndim=3)
    second = finite_array(second, name="second", ndim=3)
    if first.shape[1:] != second.shape[1:] or 1 not in (len(first), len(second), len(first) // len(second)):
        raise ValueError(f"first and second must match, got {first.shape} and {second.shape}")
    n = max(len(first), len(second))
    angles = np.empty(n)
    for start in range(0, n, BLOCK):
        a, b = (x if len(x) == 1 else x[start : start + BLOCK] for x in (first, second))
        spectra = [scipy.fft.rfft(without_rings(x), axis=1, workers=-1) for x in (a, b)]
        products = np.sum(np.conj(spectra[0]) * spectra[1], axis=2)
        correlation = scipy.fft.irfft(products, n=first.shape[1], axis=1)
        angles[start : start + BLOCK] = _peak(correlation) * period_rad / first.shape[1]
    return np.mod(angles, period_rad)


def fourier_mellin_angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rotations between pairs of images by the Fourier-Mellin transform, modulo half a turn.

    Difference-of-Gaussian filter, log-polar magnitude spectrum, phase correlation; all by scikit-image, one pair at a
    time.  ``first`` and ``second`` are (n, y, x); returns (n,) radians in [0, pi).

    Raises
    ------
    ValueError : images are not (n, y, y), or the two stacks differ in shape.
    """
    first, second = square_images(first, name="first"), square_images(second, name="second")
    if first.shape != second.shape:
        raise ValueError(f"first and second must match, got {first.shape} and {second.shape}")
    size = first.shape[1]
    mask = circular_mask(size)

    def log_polar(image):
        filtered = skimage.filters.difference_of_gaussians(image, 1, size / 4) * mask
        magnitude = np.abs(scipy.fft.fftshift(scipy.fft.fft2(filtered)))
        warped = skimage.transform.warp_polar(
            np.log1p(magnitude), center=(size // 2, size // 2), radius=size // 2, scaling="log",
            output_shape=(2 * size, size),
        )  # fmt: skip
        return warped[:size]

    angles = []
    for a, b in zip(first, second, strict=True):
        moved, *_ = skimage.registration.phase_cross_correlation(
            log_polar(b), log_polar(a), upsample_factor=10, normalization=None
        )
        angles.append(moved[0] * np.pi / size)
    return np.mod(angles, np.pi)


def neighbour_pairs(n: int, partners: int, *, rng: np.random.Generator | int | None = None) -> np.ndarray:
    """``partners`` random pairs for each of n images, no image with itself: (n partners, 2) int."""
    n = whole_number(n, name="n", at_least=2)
    rng = np.random.default_rng(rng)
    steps = rng.choice(np.arange(1, n), size=min(partners, n - 1), replace=False)
    order = rng.permutation(n)
    return np.concatenate([np.stack([order, np.roll(order, -step)], axis=1) for step in steps])


def synchronise(pairs: np.ndarray, angles_rad: np.ndarray, *, period_rad: float = np.pi) -> np.ndarray:
    """One angle an image from the angles of pairs, by the leading eigenvector of their phases.

    Parameters
    ----------
    pairs : (m, 2) indices of images, every image in at least one pair.
    angles_rad : (m,) by how much the second of each pair is turned against the first; many may be wrong.

    Returns
    -------
    (n,) angles in [0, period_rad), up to one constant.

    Source: Singer, Appl. Comput. Harmon. Anal. 30 (2011) 20.
    """
    pairs = np.asarray(pairs)
    n = pairs.max() + 1
    phase = np.exp(2j * np.pi * np.asarray(angles_rad) / period_rad)
    turns = scipy.sparse.coo_array((phase, (pairs[:, 1], pairs[:, 0])), shape=(n, n)).tocsr()
    turns = turns + turns.conj().T
    degree = np.maximum(np.asarray(abs(turns).sum(axis=1)).ravel(), 1)
    vector = np.exp(2j * np.pi * np.arange(n) * (np.sqrt(5) - 1) / 2)
    for _ in range(200):  # (1 + D^-1 W) / 2 has no negative eigenvalues, so that powers of it settle
        vector = vector + (turns @ vector) / degree
        vector /= np.linalg.norm(vector)
    return np.mod(np.angle(vector) * period_rad / (2 * np.pi), period_rad)


def mean_spectrum(spectra: np.ndarray, angles_rad: np.ndarray, *, period_rad: float = np.pi) -> np.ndarray:
    """Mean of polar spectra, rings' means removed, each turned back by its angle: (n_angles, n_radii) float32."""
    total = np.zeros((spectra.shape[1] // 2 + 1, spectra.shape[2]), complex)
    harmonics = np.arange(len(total)) * 2 * np.pi / period_rad
    for start in range(0, len(spectra), BLOCK):
        transform = scipy.fft.rfft(without_rings(spectra[start : start + BLOCK]), axis=1, workers=-1)
        turns = np.exp(1j * angles_rad[start : start + BLOCK, None] * harmonics)
        total += np.einsum("na,nar->ar", turns, transform)
    return scipy.fft.irfft(total / len(spectra), n=spectra.shape[1], axis=0).astype(np.float32)


def iterated_template(
    spectra: np.ndarray,
    *,
    start: np.ndarray | None = None,
    rounds: int = 20,
    period_rad: float = np.pi,
) -> tuple[np.ndarray, np.ndarray]:
    """Align polar spectra to their own mean, again and again.

    Parameters
    ----------
    spectra : (n, n_angles, n_radii).
    start : (n_angles, n_radii) first template; the first spectrum by default.
    rounds : at most; stops when no angle moves by more than a hundredth of a sample.

    Returns
    -------
    angles (n,) in [0, period_rad), against the template; template (n_angles, n_radii).
    """
    spectra = finite_array(spectra, name="spectra", ndim=3)
    rounds = whole_number(rounds, name="rounds", at_least=1)
    template = without_rings(spectra[:1])[0] if start is None else start
    still = 0.01 * period_rad / spectra.shape[1]
    angles = None
    for _ in range(rounds):
        before, angles = angles, pair_angles(template[None], spectra, period_rad=period_rad)
        template = mean_spectrum(spectra, angles, period_rad=period_rad)
        if before is not None and np.abs(wrapped(angles - before, period_rad)).max() < still:
            break
    return angles, template


def wrapped(angles_rad: np.ndarray, period_rad: float) -> np.ndarray:
    """Angles brought into [-period / 2, period / 2)."""
    return np.mod(angles_rad + period_rad / 2, period_rad) - period_rad / 2


def _peak(correlation: np.ndarray) -> np.ndarray:
    """Position of the highest value of each row of (n, n_angles), periodic, to a fraction of a sample."""
    rows, n = np.arange(len(correlation)), correlation.shape[1]
    k = correlation.argmax(axis=1)
    before, at, after = (correlation[rows, (k + step) % n] for step in (-1, 0, 1))
    bend = before - 2 * at + after
    return k + np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, -1), 0)
