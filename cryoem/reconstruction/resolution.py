"""Resolution of density maps: Fourier shell correlation with the true map and between half-maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoem.images import hermitian_weights
from cryoem.validation import finite_array, positive_number
from cryoem.volumes.density import DensityMap, low_pass, soft_mask, soft_sphere


@dataclass(frozen=True)
class FSC:
    """Fourier shell correlation curve.

    Attributes
    ----------
    frequency : (shells,) array
        Centres of the shells from shell 1 to Nyquist, in 1/angstrom.
    correlation : (shells,) array
        Correlation in each shell, in [-1, 1].
    phase_randomised : (shells,) array, optional
        Correlation after phase randomisation, if the curve is corrected for a mask.
    """

    frequency: np.ndarray
    correlation: np.ndarray
    phase_randomised: np.ndarray | None = None

    def resolution_angstrom(self, threshold: float) -> float:
        """Return the resolution at which the curve first falls below a threshold, interpolated linearly.

        The threshold must be between 0 and 1. If the curve never falls below the threshold, the Nyquist resolution is
        returned.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
        below = np.flatnonzero(self.correlation < threshold)
        if len(below) == 0:
            return float(1 / self.frequency[-1])
        i = below[0]
        if i == 0:
            return float(1 / self.frequency[0])
        high, low = self.correlation[i - 1], self.correlation[i]
        t = (high - threshold) / (high - low)
        return float(1 / (self.frequency[i - 1] + t * (self.frequency[i] - self.frequency[i - 1])))


def fourier_shell_correlation(
    a: np.ndarray, b: np.ndarray, *, voxel_size_angstrom: float = 1.0, mask: np.ndarray | None = None
) -> FSC:
    """Compute the Fourier shell correlation of two volumes.

    Parameters
    ----------
    a, b : (n, n, n) array
        Real volumes.
    voxel_size_angstrom : float
        Voxel size. Default: 1.
    mask : (n, n, n) array, optional
        Mask with values in [0, 1], by which both volumes are multiplied. Default: no mask.

    Returns
    -------
    FSC
        Curve of n // 2 shells, each one Fourier voxel wide.

    Raises
    ------
    ValueError
        If the volumes differ in shape, are not cubic, contain NaN or infinity, or are zero everywhere (under the mask);
        if the mask has a different shape; or if the voxel size is not positive.

    References
    ----------
    Harauz and van Heel, Optik 73 (1986) 146.
    """
    positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    return _correlate(a, b, voxel_size_angstrom, ndim=3, mask=mask)


def fourier_ring_correlation(a: np.ndarray, b: np.ndarray, *, pixel_size_angstrom: float = 1.0) -> FSC:
    """Compute the Fourier ring correlation of two images.

    Parameters
    ----------
    a, b : (n, n) array
        Real images.
    pixel_size_angstrom : float
        Pixel size. Default: 1.

    Returns
    -------
    FSC
        Curve of n // 2 rings, each one Fourier pixel wide.

    Raises
    ------
    ValueError
        If the images differ in shape, are not square, contain NaN or infinity, or are zero everywhere; or if the pixel
        size is not positive.

    References
    ----------
    Saxton and Baumeister, J. Microsc. 127 (1982) 127.
    """
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    return _correlate(a, b, pixel_size_angstrom, ndim=2)


def masked_half_map_fsc(
    a: np.ndarray,
    b: np.ndarray,
    mask: np.ndarray,
    *,
    voxel_size_angstrom: float,
    rng: np.random.Generator | int | None = None,
) -> FSC:
    """Compute the FSC of two half-maps under a soft mask, corrected for the mask by phase randomisation.

    The phases of both maps are randomised beyond the shell at which the unmasked curve falls below 0.8. Any correlation
    that the masked maps still have beyond this shell is caused by the mask. The corrected curve is ``(FSC - FSC_random)
    / (1 - FSC_random)``.

    Parameters
    ----------
    a, b : (n, n, n) array
        Half-maps.
    mask : (n, n, n) array
        Soft mask with values in [0, 1].
    voxel_size_angstrom : float
        Voxel size.
    rng : Generator or int, optional
        Random number generator or seed for the phases.

    Returns
    -------
    FSC

    Raises
    ------
    ValueError
        Under the same conditions as for ``fourier_shell_correlation``.

    References
    ----------
    Chen et al., Ultramicroscopy 135 (2013) 24.
    """
    rng = np.random.default_rng(rng)
    plain = fourier_shell_correlation(a, b, voxel_size_angstrom=voxel_size_angstrom)
    masked = fourier_shell_correlation(a, b, voxel_size_angstrom=voxel_size_angstrom, mask=mask)
    below = np.flatnonzero(plain.correlation < 0.8)
    first = below[0] + 1 if len(below) else len(plain.correlation)
    scrambled = [_randomise_phases(v, first, rng) for v in (a, b)]
    random = fourier_shell_correlation(
        *scrambled, voxel_size_angstrom=voxel_size_angstrom, mask=mask
    ).correlation
    corrected = masked.correlation.copy()
    beyond = np.arange(1, len(corrected) + 1) > first + 1
    corrected[beyond] = ((masked.correlation - random) / np.maximum(1 - random, 1e-6))[beyond]
    return FSC(masked.frequency, corrected, random)


def particle_mask(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute a soft mask around the particle from two (n, n, n) half-maps: (n, n, n) float32 in [0, 1].

    The mean of the half-maps is low-pass filtered at twice the distance in angstrom at which their FSC falls below 0.5.
    The mask surrounds this filtered map and lies within the largest ball in the box. Raises the same errors as
    ``fourier_shell_correlation``.
    """
    size = len(a)
    sphere = soft_sphere(np.shape(a), 0.45 * size, 0.05 * size)
    coarse = fourier_shell_correlation(a, b, mask=sphere)
    blur = min(2 * coarse.resolution_angstrom(0.5), size / 3)
    blurred = low_pass(DensityMap(((a + b) / 2 * sphere).astype(np.float32), 1.0), blur)
    return sphere * soft_mask(blurred, extend_px=0.03 * size, edge_px=0.05 * size)


def shell_index(n: int, *, ndim: int = 3) -> np.ndarray:
    """Return the index of the shell nearest to each ``rfftn`` element of an (n, n, n) volume or (n, n) image."""
    full, half = np.fft.fftfreq(n) * n, np.fft.rfftfreq(n) * n
    squared = full[:, None] ** 2 + half**2
    if ndim == 3:
        squared = full[:, None, None] ** 2 + squared
    return np.rint(np.sqrt(squared)).astype(int)


def _correlate(a, b, pixel_angstrom: float, *, ndim: int, mask: np.ndarray | None = None) -> FSC:
    """Correlate volumes in shells, or images in rings."""
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a and b must have the same shape, got {np.shape(a)} and {np.shape(b)}")
    a, b = (_masked(name, values, ndim, mask) for name, values in (("a", a), ("b", b)))
    n = len(a)
    fa, fb = scipy.fft.rfftn(a, workers=-1), scipy.fft.rfftn(b, workers=-1)
    shells, weights = shell_index(n, ndim=ndim).ravel(), hermitian_weights(n, ndim=ndim)

    def total(values):
        return np.bincount(shells, (weights * values).ravel(), minlength=n)[1 : n // 2 + 1]

    cross = total((fa * fb.conj()).real)
    correlation = cross / np.sqrt(np.maximum(total(np.abs(fa) ** 2) * total(np.abs(fb) ** 2), 1e-300))
    return FSC(np.arange(1, n // 2 + 1) / (n * pixel_angstrom), correlation)


def _randomise_phases(volume: np.ndarray, first_shell: int, rng: np.random.Generator) -> np.ndarray:
    """Replace the phases from a shell outwards with those of white noise, which keeps the volume real."""
    n = volume.shape[0]
    spectrum = scipy.fft.rfftn(np.asarray(volume, np.float64), workers=-1)
    noise = scipy.fft.rfftn(rng.normal(size=volume.shape), workers=-1)
    beyond = shell_index(n) >= first_shell
    spectrum[beyond] = np.abs(spectrum[beyond]) * np.exp(1j * np.angle(noise[beyond]))
    return scipy.fft.irfftn(spectrum, s=volume.shape, workers=-1)


def _masked(name: str, values: np.ndarray, ndim: int, mask: np.ndarray | None) -> np.ndarray:
    values = finite_array(values, name=name, ndim=ndim, dtype=np.float64)
    if len(set(values.shape)) != 1 or len(values) < 2:
        kind = "cubic volume at least 2 voxels" if ndim == 3 else "square image at least 2 px"
        raise ValueError(f"{name} must be a {kind} wide, got shape {values.shape}")
    if mask is not None:
        mask = finite_array(mask, name="mask", ndim=3)
        if mask.shape != values.shape:
            raise ValueError(
                f"mask must have the same shape as the volumes, {values.shape}, got {mask.shape}"
            )
        values = values * mask
    if not values.any():
        where = "" if mask is None else " under the mask"
        raise ValueError(f"{name} must contain non-zero values{where}, got only zeros")
    return values
