"""Fourier shell correlation of half-maps under masks, corrected for the correlation that the masks cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoem.reconstruction.resolution import FSC, fourier_shell_correlation, shell_index
from cryoem.validation import positive_number
from cryoem.volumes.density import DensityMap, low_pass, soft_mask, soft_sphere

# phases are randomised from the shell at which the unmasked FSC falls below this value
RANDOMISED_BELOW = 0.8
# one randomisation of a small box, whose shells contain few frequencies, correlates by chance: average several of them
RANDOMISED_PX = 512
LOOSER = 0.06  # distance from the tight to the loose mask, relative to the box width


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
    / (1 - FSC_random)``, at least -1. In boxes of at most 256 voxels per edge, FSC_random is the mean over several
    randomisations.

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
    plain = fourier_shell_correlation(a, b, voxel_size_angstrom=voxel_size_angstrom)
    return _under_mask(a, b, mask, plain, rng)[1]


@dataclass(frozen=True)
class FSCFamily:
    """Correlations of the same two half-maps without a mask, under two masks, and corrected for the tighter one.

    Attributes
    ----------
    unmasked, loose, tight : FSC
        Correlation without a mask, under the loose mask, and under the tight mask.
    phase_randomised : FSC
        Correlation under the tight mask after phase randomisation: the part that the mask causes.
    corrected : FSC
        Correlation under the tight mask, corrected for that part. Its resolution is the one to quote.
    loose_mask, tight_mask : (n, n, n) array
        Soft masks with values in [0, 1].
    """

    unmasked: FSC
    loose: FSC
    tight: FSC
    phase_randomised: FSC
    corrected: FSC
    loose_mask: np.ndarray
    tight_mask: np.ndarray

    def curves(self) -> dict[str, tuple]:
        """Return the curves by name, for ``plots.fourier_shell_correlation``."""
        titles = {
            "no mask": self.unmasked,
            "loose mask": self.loose,
            "tight mask": self.tight,
            "tight mask, corrected": self.corrected,
        }
        curves = {title: (curve.frequency, curve.correlation) for title, curve in titles.items()}
        random = self.phase_randomised
        return curves | {"tight mask, phases randomised": (random.frequency, random.correlation, None)}


def fsc_family(
    a: np.ndarray,
    b: np.ndarray,
    *,
    voxel_size_angstrom: float,
    mask: np.ndarray | None = None,
    rng: np.random.Generator | int | None = None,
) -> FSCFamily:
    """Compute the Fourier shell correlation of two half-maps without a mask, under masks, and corrected for the mask.

    Parameters
    ----------
    a, b : (n, n, n) array
        Half-maps.
    voxel_size_angstrom : float
        Voxel size.
    mask : (n, n, n) array, optional
        Tight soft mask with values in [0, 1]. Default: ``particle_mask(a, b)``. The loose mask extends the tight one by
        6 % of the box width.
    rng : Generator or int, optional
        Random number generator or seed for the phases.

    Returns
    -------
    FSCFamily

    Raises
    ------
    ValueError
        Under the same conditions as for ``fourier_shell_correlation``.

    References
    ----------
    Chen et al., Ultramicroscopy 135 (2013) 24.
    """
    options = {"voxel_size_angstrom": positive_number(voxel_size_angstrom, name="voxel_size_angstrom")}
    plain = fourier_shell_correlation(a, b, **options)
    tight_mask = particle_mask(a, b) if mask is None else mask
    tight, corrected = _under_mask(a, b, tight_mask, plain, rng)
    size = len(a)
    extended = DensityMap(np.asarray(tight_mask, np.float32), 1.0)
    loose_mask = soft_mask(extended, threshold=0.5, extend_px=LOOSER * size, edge_px=0.05 * size)
    loose = fourier_shell_correlation(a, b, mask=loose_mask, **options)
    random = FSC(plain.frequency, corrected.phase_randomised)
    return FSCFamily(plain, loose, tight, random, corrected, loose_mask, np.asarray(tight_mask))


def _under_mask(a, b, mask, plain: FSC, rng) -> tuple[FSC, FSC]:
    """Return the FSC under a mask, and the same corrected by phase randomisation, given the FSC without a mask."""
    rng = np.random.default_rng(rng)
    voxel = 1 / (plain.frequency[0] * len(a))
    masked = fourier_shell_correlation(a, b, voxel_size_angstrom=voxel, mask=mask)
    first = min(plain.shells_above(RANDOMISED_BELOW) + 1, len(plain.correlation))
    random = np.zeros_like(masked.correlation)
    draws = max(1, RANDOMISED_PX // len(a))
    for _ in range(draws):
        scrambled = [_randomise_phases(v, first, rng) for v in (a, b)]
        random += (
            fourier_shell_correlation(*scrambled, voxel_size_angstrom=voxel, mask=mask).correlation / draws
        )
    corrected = masked.correlation.copy()
    beyond = np.arange(1, len(corrected) + 1) > first + 1
    # the ratio has no lower bound where the mask alone correlates the maps almost fully
    ratio = np.maximum((masked.correlation - random) / np.maximum(1 - random, 1e-6), -1)
    corrected[beyond] = ratio[beyond]
    return FSC(plain.frequency, masked.correlation), FSC(plain.frequency, corrected, random)


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


def _randomise_phases(volume: np.ndarray, first_shell: int, rng: np.random.Generator) -> np.ndarray:
    """Replace the phases from a shell outwards with those of white noise, which keeps the volume real."""
    n = volume.shape[0]
    volume = np.asarray(volume, np.float32 if np.asarray(volume).dtype == np.float32 else np.float64)
    spectrum = scipy.fft.rfftn(volume, workers=-1)
    noise = scipy.fft.rfftn(rng.standard_normal(volume.shape, volume.dtype), workers=-1)
    for plane, (values, white) in enumerate(zip(spectrum, noise, strict=True)):
        beyond = shell_index(n, rows=slice(plane, plane + 1))[0] >= first_shell
        values[beyond] = np.abs(values[beyond]) * white[beyond] / np.abs(white[beyond])
    return scipy.fft.irfftn(spectrum, s=volume.shape, workers=-1, overwrite_x=True)
