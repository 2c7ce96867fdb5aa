"""How the resolution of a map varies with the position and with the direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.sparse
from scipy.ndimage import gaussian_filter, uniform_filter

from cryoem.images import hermitian_weights
from cryoem.reconstruction.resolution import FSC, matching_volumes, shell_index
from cryoem.rotations import even_orientations, viewing_directions
from cryoem.validation import positive_number, whole_number

CONE_HALF_ANGLE_DEG = 20.0
MOST_BANDS = 24
FILTER_BANDS = 5
FILTER_WINDOW_PX = 4.0  # full width at half maximum
NOISE_WINDOW_PX = 17
# negative density of up to this many standard deviations of the noise counts as solvent
NEGATIVE_SIGMAS = 2.0


def local_resolution(
    a: np.ndarray,
    b: np.ndarray,
    *,
    voxel_size_angstrom: float,
    window_px: float | None = None,
    threshold: float = 0.5,
) -> np.ndarray:
    """Estimate the resolution around each voxel from two half-maps.

    The FSC is computed in a window around each voxel. All windows are computed together: both maps are filtered to one
    band of frequencies after the other, and their products are averaged with a Gaussian window.

    Parameters
    ----------
    a, b : (n, n, n) array
        Half-maps.
    voxel_size_angstrom : float
        Voxel size.
    window_px : float, optional
        Full width at half maximum of the window in voxels. Default: an eighth of the box, but at least 7 voxels.
    threshold : float
        Correlation between 0 and 1 below which a band is not resolved. Default: 0.5, because the correlation in small
        windows varies by chance.

    Returns
    -------
    (n, n, n) float32 array
        Resolution in angstrom at which the correlation around each voxel first falls below the threshold, between the
        Nyquist resolution and the width of the window. It has no meaning in the solvent.

    Raises
    ------
    ValueError
        Under the same conditions as for ``fourier_shell_correlation``, or if the window or the threshold is out of
        range.

    References
    ----------
    Cardone et al., J. Struct. Biol. 184 (2013) 226.
    """
    voxel = positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    a, b = (values.astype(np.float32, copy=False) for values in matching_volumes(a, b))
    n = len(a)
    window = max(n / 8, 7.0) if window_px is None else positive_number(window_px, name="window_px")
    sigma = window / np.sqrt(8 * np.log(2))
    # bands are at least as wide as the window can resolve
    count = int(np.clip(n / 2 / max(1.0, 0.5 * n / window), 4, MOST_BANDS))
    edges = np.linspace(n / window, n / 2, count + 1)  # in shells
    middles, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    shells, spectra = shell_index(n), [scipy.fft.rfftn(v, workers=-1) for v in (a, b)]
    for spectrum, values in zip(spectra, (a, b), strict=True):
        spectrum /= max(values.max(), -values.min())  # float32 cannot store the squares of all its values
    found = np.full(a.shape, n / 2, np.float32)  # in shells
    open_, before = np.ones(a.shape, bool), np.ones(a.shape, np.float32)
    for band, middle in enumerate(middles):
        inside = np.where(shells <= n // 2, smooth_band(shells, middle, width), 0)
        one, other = (scipy.fft.irfftn(s * inside, s=a.shape, workers=-1) for s in spectra)
        cross, *powers = (
            gaussian_filter(x * y, sigma) for x, y in ((one, other), (one, one), (other, other))
        )
        # filters leave tiny negative values where there is nothing
        norm = np.sqrt(np.maximum(powers[0], 0) * np.maximum(powers[1], 0))
        correlation = np.where(norm > 0, cross / np.where(norm > 0, norm, 1), 0)
        fails = open_ & (correlation < threshold)
        start = middles[band - 1] if band else edges[0]
        share = (before - threshold) / np.maximum(before - correlation, 1e-6)
        found[fails] = (start + np.clip(share, 0, 1) * (middle - start))[fails]
        open_ &= ~fails
        before = correlation
    return (n * voxel / found).astype(np.float32)


def smooth_band(shells: np.ndarray, middle: float, width: float) -> np.ndarray:
    """Return float32 weights of shells in a band with smooth edges, which rings less in real space.

    Bands whose middles are ``width`` apart add up to 1.
    """
    distance = np.minimum(np.abs(shells - middle) / width, 1)
    return (np.cos(np.pi / 2 * distance) ** 2).astype(np.float32)


def locally_filtered(
    whole: np.ndarray, halves: tuple[np.ndarray, np.ndarray], mask: np.ndarray, *, last_shell: int
) -> np.ndarray:
    """Filter a map by the signal-to-noise ratio around each voxel, in bands of frequencies, and apply a mask.

    In each band, the noise is the mean square difference of the half-maps in a wide window, and the signal is what is
    left of their mean square in a window of ``FILTER_WINDOW_PX``. Their ratio determines the weight of a Wiener filter.
    A filter that depends on the shell alone lets through the noise of the solvent, and of parts of the particle without
    fine detail. The sum of the bands is then weighted once more by the ratio of its local power to the variance that
    the filter leaves, because all bands together show most clearly where there is no particle. Finally, because the
    particle is denser than the solvent, negative density is reduced to the part that noise does not explain.

    Parameters
    ----------
    whole : (n, n, n) array
        Map of all images.
    halves : tuple of (n, n, n) arrays
        Maps of two halves of the images.
    mask : (n, n, n) array
        Soft mask with values in [0, 1].
    last_shell : int
        Centre of the last band; the weights of finer shells fall to zero within a band.

    Returns
    -------
    (n, n, n) float32 array

    References
    ----------
    Wiener filter with local statistics: Lee, IEEE Trans. Pattern Anal. Mach. Intell. 2 (1980) 165. Reduction of the
    negative density (the non-negative garrote): Gao, J. Comput. Graph. Stat. 7 (1998) 469.
    """
    n = len(whole)
    # only a cube around the mask is needed
    reach = max(int(np.abs(axis - n // 2).max(initial=0)) for axis in np.nonzero(mask))
    half = min(n // 2, scipy.fft.next_fast_len(max(reach + 2, 6), real=True))
    part = (slice(n // 2 - half, n // 2 + half),) * 3
    shells = shell_index(2 * half) * (n / (2 * half))
    spectra = [scipy.fft.rfftn(v[part], workers=-1) for v in (whole, *halves)]
    middles, width = np.linspace(0, last_shell, FILTER_BANDS, retstep=True)
    sigma = FILTER_WINDOW_PX / np.sqrt(8 * np.log(2))
    total, variance = np.zeros((2, *(2 * half,) * 3), np.float32)
    for middle in middles:
        band = smooth_band(shells, middle, width)
        both, one, other = (scipy.fft.irfftn(s * band, s=total.shape, workers=-1) for s in spectra)
        # mean squares of the half-maps and of their noise
        power = gaussian_filter((one**2 + other**2) / 2, sigma)
        noise = uniform_filter((one - other) ** 2 / 2, NOISE_WINDOW_PX)
        signal = np.maximum(power - noise, 0)
        weight = signal / np.maximum(signal + noise / 2, 1e-30)  # the whole map has half the noise
        total += weight * both
        variance += weight * noise / 2  # of the error that remains
    power = gaussian_filter(total**2, sigma)
    total *= power / np.maximum(power + gaussian_filter(variance, sigma), 1e-30)
    explained = NEGATIVE_SIGMAS**2 * variance / np.maximum(total**2, 1e-30)
    total *= np.where(total < 0, np.maximum(1 - explained, 0), 1)
    result = np.zeros(mask.shape, np.float32)
    result[part] = total * mask[part]
    return result


@dataclass(frozen=True)
class ConicalFSC:
    """Fourier shell correlations inside cones.

    Attributes
    ----------
    directions : (m, 3) array
        Unit vectors (x, y, z) along the axes of the cones, with z >= 0.
    frequency : (shells,) array
        Centres of the shells in 1/angstrom.
    correlation : (m, shells) array
        Correlation in each cone.
    half_angle_deg : float
        Angle between the axis and the surface of a cone in degrees.
    """

    directions: np.ndarray
    frequency: np.ndarray
    correlation: np.ndarray
    half_angle_deg: float

    def resolution_angstrom(self, threshold: float) -> np.ndarray:
        """Return the resolution along each cone as ``FSC.resolution_angstrom``: (m,)."""
        return np.array(
            [FSC(self.frequency, each).resolution_angstrom(threshold) for each in self.correlation]
        )


def conical_fsc(
    a: np.ndarray,
    b: np.ndarray,
    *,
    voxel_size_angstrom: float,
    mask: np.ndarray | None = None,
    directions: int = 100,
    half_angle_deg: float = CONE_HALF_ANGLE_DEG,
) -> ConicalFSC:
    """Compute the Fourier shell correlation of two half-maps inside cones around many directions.

    A direction along which few slices pass, because the viewing directions are not evenly distributed, has a lower
    resolution than the others.

    Parameters
    ----------
    a, b : (n, n, n) array
        Half-maps.
    voxel_size_angstrom : float
        Voxel size.
    mask : (n, n, n) array, optional
        Mask with values in [0, 1], by which both maps are multiplied. Default: no mask.
    directions : int
        Number of cones, whose axes are spread evenly over half a sphere. Default: 100.
    half_angle_deg : float
        Angle between the axis and the surface of each cone in degrees. Default: 20.

    Returns
    -------
    ConicalFSC

    Raises
    ------
    ValueError
        Under the same conditions as for ``fourier_shell_correlation``, or if ``directions`` or ``half_angle_deg`` is
        out of range.

    References
    ----------
    3D FSC: Tan et al., Nat. Methods 14 (2017) 793.
    """
    voxel = positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    whole_number(directions, name="directions", at_least=1)
    if not 0 < half_angle_deg <= 90:
        raise ValueError(f"half_angle_deg must be above 0 and at most 90, got {half_angle_deg}")
    a, b = matching_volumes(a, b, mask)
    n = len(a)
    axes = viewing_directions(even_orientations(2 * directions)[:directions])
    fa, fb = scipy.fft.rfftn(a, workers=-1), scipy.fft.rfftn(b, workers=-1)
    shells, weights = shell_index(n), hermitian_weights(n, ndim=3)
    ky, kx = np.meshgrid(np.fft.fftfreq(n) * n, np.fft.rfftfreq(n) * n, indexing="ij")
    totals = np.zeros((3, n // 2 + 1, directions))
    for plane, kz in enumerate(np.fft.fftfreq(n) * n):
        at = np.flatnonzero((shells[plane].ravel() <= n // 2) & (shells[plane].ravel() > 0))
        k = np.stack([kx.ravel()[at], ky.ravel()[at], np.full(len(at), kz)], axis=1)
        cosine = np.abs((k / np.linalg.norm(k, axis=1, keepdims=True)) @ axes.T)
        inside = (cosine >= np.cos(np.deg2rad(half_angle_deg)) - 1e-9).astype(
            np.float32
        )  # (elements, directions)
        one, other = (values[plane].ravel()[at].astype(np.complex128) for values in (fa, fb))
        w = weights[plane].ravel()[at]
        for total, values in zip(
            totals, ((one * other.conj()).real, np.abs(one) ** 2, np.abs(other) ** 2), strict=True
        ):
            rows = (w * values, (shells[plane].ravel()[at], np.arange(len(at))))
            total += scipy.sparse.csr_array(rows, shape=(n // 2 + 1, len(at))) @ inside
    cross, power_a, power_b = totals[:, 1:]
    # shells so coarse that no element lies in a cone count as resolved
    norm = np.sqrt(power_a * power_b)
    correlation = np.where(norm > 0, cross / np.where(norm > 0, norm, 1), 1.0)
    frequency = np.arange(1, n // 2 + 1) / (n * voxel)
    return ConicalFSC(axes, frequency, correlation.T, float(half_angle_deg))
