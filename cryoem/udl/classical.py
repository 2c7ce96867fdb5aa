"""Alignment without learning: a baseline for networks and the starting point of their training.

The angles between pairs of images come from the circular correlation of their polar spectra or from the Fourier-Mellin
transform. One angle per image is then found by synchronising many pairs, or by repeated alignment to the mean spectrum.
All angles are determined modulo the period of the spectra, which is half a turn for a class without symmetry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.sparse

from cryoem.udl.aligner import Aligner
from cryoem.udl.registration import class_average, image_mask
from cryoem.udl.rotation import unit_vectors, wrap_angles
from cryoem.udl.spectra import PolarGrid, polar_grid, polar_spectra, subtract_ring_means
from cryoem.validation import finite_array, square_images, whole_number

BLOCK = 500
PARTNERS = 8  # pairs per image for synchronisation and training
PAIRS_BLOCK = 2000
SYNCHRONISED_ROUNDS = 5


def pair_angles(first: np.ndarray, second: np.ndarray, *, period_rad: float = np.pi) -> np.ndarray:
    """Measure the angle from the first to the second polar spectrum of each pair: (n,) in [0, period_rad).

    Parameters
    ----------
    first, second : (n, n_angles, n_radii) array
        Spectra from ``polar_spectra``. Either of them may contain a single spectrum, (1, n_angles, n_radii).
    period_rad : float
        Period of the angles. Default: pi.
    """
    first = finite_array(first, name="first", ndim=3)
    second = finite_array(second, name="second", ndim=3)
    if first.shape[1:] != second.shape[1:] or 1 not in (len(first), len(second), len(first) // len(second)):
        raise ValueError(f"first and second must have the same shape, got {first.shape} and {second.shape}")
    n = max(len(first), len(second))
    angles = np.empty(n)
    for start in range(0, n, BLOCK):
        a, b = (x if len(x) == 1 else x[start : start + BLOCK] for x in (first, second))
        spectra = [scipy.fft.rfft(subtract_ring_means(x), axis=1, workers=-1) for x in (a, b)]
        products = np.sum(np.conj(spectra[0]) * spectra[1], axis=2)
        correlation = scipy.fft.irfft(products, n=first.shape[1], axis=1)
        angles[start : start + BLOCK] = _peak(correlation) * period_rad / first.shape[1]
    return np.mod(angles, period_rad)


def angles_of_pairs(spectra: np.ndarray, pairs: np.ndarray, grid: PolarGrid) -> np.ndarray:
    """Measure the angle from the first to the second spectrum for each of (m, 2) pairs of indices: (m,)."""
    blocks = np.array_split(pairs, -(-len(pairs) // PAIRS_BLOCK))
    return np.concatenate(
        [pair_angles(spectra[p[:, 0]], spectra[p[:, 1]], period_rad=grid.period_rad) for p in blocks]
    )


def fourier_mellin_angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Measure the rotation between the two images of each pair by the Fourier-Mellin transform: (n,) in [0, pi).

    Each image is filtered with a difference of Gaussians. The logarithms of the Fourier magnitudes are resampled on
    log-polar grids, and the two grids of each pair are cross-correlated. All steps use scikit-image.

    Parameters
    ----------
    first, second : (n, y, x) array
        The first and the second image of each pair.
    """
    import skimage.filters
    import skimage.registration
    import skimage.transform

    first, second = square_images(first, name="first"), square_images(second, name="second")
    if first.shape != second.shape:
        raise ValueError(f"first and second must have the same shape, got {first.shape} and {second.shape}")
    size = first.shape[1]
    mask = image_mask(size)

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


def random_pairs(n: int, partners: int, *, rng: np.random.Generator | int | None = None) -> np.ndarray:
    """Pair each of n images with ``partners`` random images other than itself: (n * partners, 2) indices."""
    rng = np.random.default_rng(rng)
    steps = rng.choice(np.arange(1, n), size=min(partners, n - 1), replace=False)
    order = rng.permutation(n)
    return np.concatenate([np.stack([order, np.roll(order, -step)], axis=1) for step in steps])


def synchronise(pairs: np.ndarray, angles_rad: np.ndarray, *, period_rad: float = np.pi) -> np.ndarray:
    """Estimate one angle per image from the angles of pairs, using the leading eigenvector of their phases.

    The (m, 2) indices ``pairs`` contain every image at least once. ``angles_rad`` are the (m,) angles from the first to
    the second image; many of them may be wrong. The resulting (n,) angles are in [0, period_rad) and are determined up
    to a constant.

    Source: Singer, Appl. Comput. Harmon. Anal. 30 (2011) 20.
    """
    n = pairs.max() + 1
    phase = np.exp(2j * np.pi * angles_rad / period_rad)
    phases = scipy.sparse.coo_array((phase, (pairs[:, 1], pairs[:, 0])), shape=(n, n)).tocsr()
    phases = phases + phases.conj().T
    degree = np.maximum(np.asarray(abs(phases).sum(axis=1)).ravel(), 1)
    # power iteration of (1 + D^-1 W) / 2, which has no negative eigenvalues
    vector = np.exp(2j * np.pi * np.arange(n) * (np.sqrt(5) - 1) / 2)
    for _ in range(200):
        vector = vector + (phases @ vector) / degree
        vector /= np.linalg.norm(vector)
    return np.mod(np.angle(vector) * period_rad / (2 * np.pi), period_rad)


def mean_spectrum(spectra: np.ndarray, angles_rad: np.ndarray, *, period_rad: float = np.pi) -> np.ndarray:
    """Average polar spectra, each rotated back by its angle, after subtracting their ring means.

    Returns (n_angles, n_radii) float32.
    """
    total = np.zeros((spectra.shape[1] // 2 + 1, spectra.shape[2]), complex)
    harmonics = np.arange(len(total)) * 2 * np.pi / period_rad
    for start in range(0, len(spectra), BLOCK):
        transform = scipy.fft.rfft(subtract_ring_means(spectra[start : start + BLOCK]), axis=1, workers=-1)
        phases = np.exp(1j * angles_rad[start : start + BLOCK, None] * harmonics)
        total += np.einsum("na,nar->ar", phases, transform)
    return scipy.fft.irfft(total / len(spectra), n=spectra.shape[1], axis=0).astype(np.float32)


def iterated_template(
    spectra: np.ndarray, *, start: np.ndarray | None = None, rounds: int = 20, period_rad: float = np.pi
) -> tuple[np.ndarray, np.ndarray]:
    """Iteratively align polar spectra to their own mean.

    Parameters
    ----------
    spectra : (n, n_angles, n_radii) array
        Spectra from ``polar_spectra``.
    start : (n_angles, n_radii) array, optional
        Initial template. Default: the first spectrum.
    rounds : int
        Maximum number of rounds. The iteration stops earlier if no angle changes by more than 1/100 of the angular
        step. Default: 20.
    period_rad : float
        Period of the angles. Default: pi.

    Returns
    -------
    angles_rad : (n,) array
        Angles relative to the template, in [0, period_rad).
    template : (n_angles, n_radii) array
        Mean of the aligned spectra.
    """
    spectra = finite_array(spectra, name="spectra", ndim=3)
    rounds = whole_number(rounds, name="rounds", at_least=1)
    template = subtract_ring_means(spectra[:1])[0] if start is None else start
    tolerance = 0.01 * period_rad / spectra.shape[1]
    angles = None
    for _ in range(rounds):
        previous, angles = angles, pair_angles(template[None], spectra, period_rad=period_rad)
        template = mean_spectrum(spectra, angles, period_rad=period_rad)
        if previous is not None and np.abs(wrap_angles(angles - previous, period_rad)).max() < tolerance:
            break
    return angles, template


def aligned_template(spectra: np.ndarray, grid: PolarGrid) -> tuple[np.ndarray, np.ndarray]:
    """Return the angles and the template of spectra, by synchronising pairs and then iterating the template."""
    pairs = random_pairs(len(spectra), PARTNERS, rng=0)
    angles = synchronise(pairs, angles_of_pairs(spectra, pairs, grid), period_rad=grid.period_rad)
    template = mean_spectrum(spectra, angles, period_rad=grid.period_rad)
    return iterated_template(spectra, start=template, rounds=SYNCHRONISED_ROUNDS, period_rad=grid.period_rad)


@dataclass(frozen=True)
class TemplateMatcher:
    """Template matching with the interface of a network: (b, n_angles, n_radii) spectra -> (b, 2) unit vectors."""

    template: np.ndarray
    grid: PolarGrid

    def __call__(self, spectra: np.ndarray) -> np.ndarray:
        angles = pair_angles(self.template[None], spectra, period_rad=self.grid.period_rad)
        return unit_vectors(angles, periods=self.grid.periods)


def template_aligner(images: np.ndarray, *, symmetry: str = "C1") -> Aligner:
    """Build an aligner without training, from a template of the image spectra and the class average.

    The template is the mean spectrum after iterative alignment.

    Parameters
    ----------
    images : (n, y, x) array
        At least two images of one class, as an array or a particle stack.
    symmetry : str
        Cyclic in-plane symmetry of the class: ``"C1"``, ``"C2"``, ... Default: ``"C1"``.

    Returns
    -------
    Aligner
        Aligner with method ``"template"``.

    Raises
    ------
    ValueError
        If there are fewer than two images; if the images do not have shape (n, y, y), are constant, or contain NaN or
        infinity; or if the symmetry is not cyclic.
    """
    images = square_images(images, at_least=2, smallest_px=16)
    grid = polar_grid(images.shape[1], symmetry=symmetry)
    angles, template = aligned_template(polar_spectra(images, grid), grid)
    return Aligner(TemplateMatcher(template, grid), grid, class_average(images, angles)[0], "template")


def _peak(correlation: np.ndarray) -> np.ndarray:
    """Locate the maximum of each row of a (n, n_angles) array, periodic and interpolated between samples: (n,)."""
    rows, n = np.arange(len(correlation)), correlation.shape[1]
    k = correlation.argmax(axis=1)
    before, at, after = (correlation[rows, (k + step) % n] for step in (-1, 0, 1))
    bend = before - 2 * at + after
    return k + np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, -1), 0)
