"""Resolution of density maps: Fourier shell correlation, against the truth and between half-maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoem.checks import finite_array, positive_number
from cryoem.volumes import DensityMap, low_pass, soft_mask, soft_sphere


@dataclass(frozen=True)
class FSC:
    """A Fourier shell correlation curve.

    ``frequency``: (shells,) 1/angstrom, the shells' middles from shell 1 to Nyquist; ``correlation``:
    (shells,) in [-1, 1]; ``phase_randomised``: the same after phase randomisation, where the curve is
    corrected for its mask.
    """

    frequency: np.ndarray
    correlation: np.ndarray
    phase_randomised: np.ndarray | None = None

    def resolution_angstrom(self, threshold: float) -> float:
        """Where the curve first falls below ``threshold``, linearly between shells; Nyquist where it never does.

        Raises
        ------
        ValueError : ``threshold`` is outside (0, 1).
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
    """Correlation of two volumes on shells of spatial frequency.

    Parameters
    ----------
    a, b : (n, n, n) real volumes of the same cubic shape.
    voxel_size_angstrom : side of a voxel.
    mask : (n, n, n) in [0, 1], multiplied into both; none by default.

    Returns
    -------
    FSC with n // 2 shells, each one Fourier voxel wide.

    Raises
    ------
    ValueError : shapes differ or are not cubic, values are not finite, a volume is zero everywhere (under the mask), or
        the voxel size is not positive.

    Source: Harauz and van Heel, Optik 73 (1986) 146.
    """
    positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a and b must have the same shape, got {np.shape(a)} and {np.shape(b)}")
    a, b = _masked("a", a, mask), _masked("b", b, mask)
    n = a.shape[0]
    fa, fb = scipy.fft.rfftn(a, workers=-1), scipy.fft.rfftn(b, workers=-1)
    return FSC(np.arange(1, n // 2 + 1) / (n * voxel_size_angstrom), _shell_correlation(fa, fb, n))


def fourier_ring_correlation(a: np.ndarray, b: np.ndarray, *, pixel_size_angstrom: float = 1.0) -> FSC:
    """Correlation of two images on rings of spatial frequency: the same as for volumes, one dimension less.

    ``a`` and ``b`` are (n, n) real images; returns an FSC with n // 2 rings.

    Raises
    ------
    ValueError : shapes differ or are not square, values are not finite, an image is zero everywhere, or the
        pixel size is not positive.

    Source: Saxton and Baumeister, J. Microsc. 127 (1982) 127.
    """
    positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a and b must have the same shape, got {np.shape(a)} and {np.shape(b)}")
    a, b = (finite_array(v, name=name, ndim=2, dtype=np.float64) for name, v in (("a", a), ("b", b)))
    n = len(a)
    if a.shape != (n, n) or n < 2:
        raise ValueError(f"a and b must be square images of at least 2 px a side, got shape {a.shape}")
    if not (a.any() and b.any()):
        raise ValueError("a and b must not be zero everywhere, got only zeros")
    fa, fb = scipy.fft.rfftn(a), scipy.fft.rfftn(b)
    return FSC(np.arange(1, n // 2 + 1) / (n * pixel_size_angstrom), _shell_correlation(fa, fb, n))


def masked_half_map_fsc(
    a: np.ndarray,
    b: np.ndarray,
    mask: np.ndarray,
    *,
    voxel_size_angstrom: float,
    rng: np.random.Generator | int | None = None,
) -> FSC:
    """FSC of two half-maps under a soft mask, corrected by phase randomisation for what the mask itself correlates.

    Beyond the shell where the unmasked curve falls below 0.8, phases of both maps are made random; what still
    correlates under the mask there is the mask's doing, and ``(FSC - FSC_random) / (1 - FSC_random)``
    remains.

    Parameters, raises: as ``fourier_shell_correlation``; rng: generator or seed of the random phases.

    Source: Chen et al., Ultramicroscopy 135 (2013) 24.
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
    """Soft mask of the particle that two half-maps (n, n, n) show: (n, n, n) float32 in [0, 1].

    It surrounds their mean, blurred to twice what they agree on (at 0.5), within the largest ball of the box.

    Raises
    ------
    ValueError : as ``fourier_shell_correlation``, or there is no particle to surround.
    """
    size = len(a)
    sphere = soft_sphere(np.shape(a), 0.45 * size, 0.05 * size)
    coarse = fourier_shell_correlation(a, b, mask=sphere)
    blur = min(2 * coarse.resolution_angstrom(0.5), size / 3)
    blurred = low_pass(DensityMap(((a + b) / 2 * sphere).astype(np.float32), 1.0), blur)
    return sphere * soft_mask(blurred, extend_px=0.03 * size, edge_px=0.05 * size)


def shell_index(n: int, *, ndim: int = 3) -> np.ndarray:
    """Nearest shell of each element of ``rfftn`` of an (n, n, n) volume, or of an (n, n) image: int, of its shape."""
    full, half = np.fft.fftfreq(n) * n, np.fft.rfftfreq(n) * n
    squared = full[:, None] ** 2 + half**2
    if ndim == 3:
        squared = full[:, None, None] ** 2 + squared
    return np.rint(np.sqrt(squared)).astype(int)


def _shell_correlation(fa: np.ndarray, fb: np.ndarray, n: int) -> np.ndarray:
    shells = shell_index(n, ndim=fa.ndim).ravel()
    twins = np.full(fa.shape, 2.0)
    twins[..., 0] = 1
    if n % 2 == 0:
        twins[..., -1] = 1

    def total(values):
        return np.bincount(shells, (twins * values).ravel(), minlength=n)[1 : n // 2 + 1]

    cross = total((fa * fb.conj()).real)
    return cross / np.sqrt(np.maximum(total(np.abs(fa) ** 2) * total(np.abs(fb) ** 2), 1e-300))


def _randomise_phases(volume: np.ndarray, first_shell: int, rng: np.random.Generator) -> np.ndarray:
    """Replace phases from a shell on by those of white noise, which keeps the volume real."""
    n = volume.shape[0]
    spectrum = scipy.fft.rfftn(np.asarray(volume, np.float64), workers=-1)
    noise = scipy.fft.rfftn(rng.normal(size=volume.shape), workers=-1)
    beyond = shell_index(n) >= first_shell
    spectrum[beyond] = np.abs(spectrum[beyond]) * np.exp(1j * np.angle(noise[beyond]))
    return scipy.fft.irfftn(spectrum, s=volume.shape, workers=-1)


def _masked(name: str, volume: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    volume = finite_array(volume, name=name, ndim=3, dtype=np.float64)
    if len(set(volume.shape)) != 1 or volume.shape[0] < 2:
        raise ValueError(
            f"{name} must be a cubic volume of at least 2 voxels a side, got shape {volume.shape}"
        )
    if mask is not None:
        mask = finite_array(mask, name="mask", ndim=3)
        if mask.shape != volume.shape:
            raise ValueError(f"mask must have the volumes' shape {volume.shape}, got {mask.shape}")
        volume = volume * mask
    if not volume.any():
        where = "everywhere" if mask is None else "everywhere under the mask"
        raise ValueError(f"{name} must not be zero {where}, got only zeros")
    return volume
