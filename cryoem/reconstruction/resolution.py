"""Resolution of density maps and images: Fourier shell and ring correlation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoem.images import hermitian_weights
from cryoem.validation import finite_array, positive_number

HALF_MAP_THRESHOLD = 0.143  # for two half-maps: Rosenthal and Henderson, J. Mol. Biol. 333 (2003) 721
ELEMENTS = 2**20  # elements of a transform that are compared at a time


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

    def shells_above(self, threshold: float) -> int:
        """Return the number of shells before the curve first falls below a threshold."""
        below = np.flatnonzero(self.correlation < threshold)
        return int(below[0]) if len(below) else len(self.correlation)

    def resolution_angstrom(self, threshold: float) -> float:
        """Return the resolution at which the curve first falls below a threshold, interpolated linearly.

        The threshold must be between 0 and 1. If the curve never falls below the threshold, the Nyquist resolution is
        returned. If it starts below the threshold, the resolution of shell 1, which is the box width, is returned; see
        ``resolution_or_none``.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
        i = self.shells_above(threshold)
        if i == len(self.correlation):
            return float(1 / self.frequency[-1])
        if i == 0:
            return float(1 / self.frequency[0])
        high, low = self.correlation[i - 1], self.correlation[i]
        t = (high - threshold) / (high - low)
        return float(1 / (self.frequency[i - 1] + t * (self.frequency[i] - self.frequency[i - 1])))

    def resolution_or_none(self, threshold: float) -> float | None:
        """Return the resolution in angstrom, or None if the curve starts below the threshold, so that there is none."""
        resolution = self.resolution_angstrom(threshold)
        return resolution if self.shells_above(threshold) else None


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


def shell_index(n: int, *, ndim: int = 3, rows: slice = slice(None)) -> np.ndarray:
    """Return the index of the shell nearest to each ``rfftn`` element of an (n, n, n) volume or (n, n) image.

    ``rows`` selects elements along the first axis.
    """
    full, half = np.fft.fftfreq(n) * n, np.fft.rfftfreq(n) * n
    axes = [full[rows], *[full] * (ndim - 2), half]
    return np.rint(np.sqrt(sum(np.square(axis) for axis in np.ix_(*axes)))).astype(np.int32)


def _correlate(a, b, pixel_angstrom: float, *, ndim: int, mask: np.ndarray | None = None) -> FSC:
    """Correlate volumes in shells, or images in rings."""
    fa, fb = (scipy.fft.rfftn(v, workers=-1) for v in matching_volumes(a, b, mask, ndim=ndim))
    n = len(fa)
    weights, sums = hermitian_weights(n, ndim=2), np.zeros((3, n // 2 + 1))
    # volumes plane by plane, some planes at a time
    count = max(1, ELEMENTS // n**2) if ndim == 3 else n
    for start in range(0, n, count):
        rows = slice(start, start + count)
        # in double precision, because single precision cannot store the squares of all its values
        one, other = fa[rows].astype(np.complex128), fb[rows].astype(np.complex128)
        shells = shell_index(n, ndim=ndim, rows=rows)
        counted = np.broadcast_to(weights if ndim == 3 else weights[rows], shells.shape)
        kept = shells <= n // 2
        products = (one * other.conj()).real, np.abs(one) ** 2, np.abs(other) ** 2
        for total, product in zip(sums, products, strict=True):
            total += np.bincount(shells[kept], (counted * product)[kept], minlength=n // 2 + 1)
    cross, power_a, power_b = sums[:, 1:]
    correlation = cross / np.sqrt(np.maximum(power_a * power_b, 1e-300))
    return FSC(np.arange(1, n // 2 + 1) / (n * pixel_angstrom), correlation)


def matching_volumes(a, b, mask: np.ndarray | None = None, *, ndim: int = 3) -> Iterator[np.ndarray]:
    """Check two volumes, or two images, and yield each of them multiplied by a mask."""
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a and b must have the same shape, got {np.shape(a)} and {np.shape(b)}")
    yield _masked("a", a, ndim, mask)
    yield _masked("b", b, ndim, mask)


def _masked(name: str, values: np.ndarray, ndim: int, mask: np.ndarray | None) -> np.ndarray:
    single = getattr(values, "dtype", None) == np.float32  # half the memory for maps from files
    values = finite_array(values, name=name, ndim=ndim, dtype=np.float32 if single else np.float64)
    if len(set(values.shape)) != 1 or len(values) < 2:
        kind = "cubic volume at least 2 voxels" if ndim == 3 else "square image at least 2 px"
        raise ValueError(f"{name} must be a {kind} wide, got shape {values.shape}")
    if mask is not None:
        mask = finite_array(mask, name="mask", ndim=3, dtype=values.dtype)
        if mask.shape != values.shape:
            raise ValueError(
                f"mask must have the same shape as the volumes, {values.shape}, got {mask.shape}"
            )
        values = values * mask
    if not values.any():
        where = "" if mask is None else " under the mask"
        raise ValueError(f"{name} must contain non-zero values{where}, got only zeros")
    return values
