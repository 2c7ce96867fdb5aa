"""The fall of a map's amplitudes with frequency: Guinier plot, B factor and sharpening."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoem.images import hermitian_weights
from cryoem.reconstruction.resolution import FSC, HALF_MAP_THRESHOLD, shell_index
from cryoem.validation import finite_array, positive_number
from cryoem.volumes.density import DensityMap

FITTED_FROM_ANGSTROM = 10.0  # below this frequency, the shape of the particle determines the amplitudes
FEWEST_SHELLS = 3


@dataclass(frozen=True)
class Guinier:
    """Guinier plot of a map, with the straight line whose slope is the B factor.

    Attributes
    ----------
    frequency_squared : (shells,) array
        Squared frequency of each shell in 1/angstrom squared.
    log_amplitude : (shells,) array
        Natural logarithm of the root-mean-square amplitude in each shell, weighted by the FSC if one was given.
    b_factor_angstrom2 : float
        B factor in angstrom squared: amplitudes fall as exp(-B s^2 / 4) with the frequency s.
    intercept : float
        Value of the fitted line at zero frequency.
    fitted : (shells,) bool array
        Shells to which the line was fitted.
    """

    frequency_squared: np.ndarray
    log_amplitude: np.ndarray
    b_factor_angstrom2: float
    intercept: float
    fitted: np.ndarray

    @property
    def line(self) -> np.ndarray:
        """Fitted line at each shell: (shells,)."""
        return self.intercept - self.b_factor_angstrom2 / 4 * self.frequency_squared


def guinier(
    density_map: DensityMap,
    *,
    fsc: FSC | None = None,
    from_angstrom: float | None = None,
    to_angstrom: float | None = None,
) -> Guinier:
    """Fit the B factor of a map in its Guinier plot.

    Parameters
    ----------
    density_map : DensityMap
        Map in a cubic box.
    fsc : FSC, optional
        FSC of the half-maps. Amplitudes are weighted by sqrt(2 FSC / (1 + FSC)), the expected correlation with the true
        map, so that noise does not flatten the plot. Default: no weighting.
    from_angstrom, to_angstrom : float, optional
        Resolution range of the fit. Default: from 10 angstrom, or from half the frequency of the end if the end is
        coarser than 5 angstrom, to the resolution at which ``fsc`` falls below 0.143, or to Nyquist without ``fsc``.

    Returns
    -------
    Guinier

    Raises
    ------
    ValueError
        If the box is not cubic, ``fsc`` has a different number of shells, or the range contains fewer than 3 shells
        with positive amplitudes.

    References
    ----------
    Rosenthal and Henderson, J. Mol. Biol. 333 (2003) 721.
    """
    n, frequency = _shells_of(density_map)
    spectrum = scipy.fft.rfftn(density_map.data, workers=-1)
    weights, shells = hermitian_weights(n, ndim=3).ravel(), shell_index(n).ravel()
    squares = np.square(np.abs(spectrum.ravel()), dtype=float)
    power = np.bincount(shells, weights * squares, minlength=n)[1 : n // 2 + 1]
    amplitude = np.sqrt(power / np.bincount(shells, weights, minlength=n)[1 : n // 2 + 1])
    end = frequency[-1]
    if fsc is not None:
        amplitude = amplitude * _reliability(fsc, frequency)
        end = 1 / fsc.resolution_angstrom(HALF_MAP_THRESHOLD)
    if to_angstrom is not None:
        end = 1 / positive_number(to_angstrom, name="to_angstrom")
    start = min(1 / FITTED_FROM_ANGSTROM, end / 2)
    if from_angstrom is not None:
        start = 1 / positive_number(from_angstrom, name="from_angstrom")
    fitted = (frequency >= start * (1 - 1e-9)) & (frequency <= end * (1 + 1e-9)) & (amplitude > 0)
    if fitted.sum() < FEWEST_SHELLS:
        raise ValueError(
            f"a B factor requires at least {FEWEST_SHELLS} shells with positive amplitudes, and there are "
            f"{fitted.sum()} from {1 / start:.3g} to {1 / end:.3g} angstrom"
        )
    squared, log_amplitude = frequency**2, np.log(np.maximum(amplitude, np.finfo(float).tiny))
    slope, intercept = np.polyfit(squared[fitted], log_amplitude[fitted], 1)
    return Guinier(squared, log_amplitude, float(-4 * slope), float(intercept), fitted)


def sharpen(
    density_map: DensityMap,
    *,
    b_factor_angstrom2: float,
    fsc: FSC | None = None,
) -> DensityMap:
    """Undo the fall of a map's amplitudes with frequency.

    Parameters
    ----------
    density_map : DensityMap
        Map in a cubic box.
    b_factor_angstrom2 : float
        B factor to undo, in angstrom squared, such as that of ``guinier``. Amplitudes are multiplied by exp(B s^2 / 4).
        A negative value blurs the map.
    fsc : FSC, optional
        FSC of the half-maps. Amplitudes are also multiplied by sqrt(2 FSC / (1 + FSC)), which suppresses frequencies
        that are mostly noise. Default: no weighting.

    Returns
    -------
    DensityMap

    Raises
    ------
    ValueError
        If the box is not cubic, the B factor is not finite, or ``fsc`` has a different number of shells.

    References
    ----------
    Rosenthal and Henderson, J. Mol. Biol. 333 (2003) 721.
    """
    n, frequency = _shells_of(density_map)
    if not np.isfinite(b_factor_angstrom2):
        raise ValueError(f"b_factor_angstrom2 must be finite, got {b_factor_angstrom2}")
    voxel = density_map.voxel_size_angstrom
    shells = shell_index(n)
    gain = np.exp(b_factor_angstrom2 / 4 * (np.arange(shells.max() + 1) / (n * voxel)) ** 2)
    if fsc is not None:
        # nothing is known beyond Nyquist; the mean of the map is kept
        gain *= np.concatenate([[1.0], _reliability(fsc, frequency), np.zeros(shells.max() - n // 2)])
    spectrum = scipy.fft.rfftn(density_map.data, workers=-1) * gain.astype(np.float32)[shells]
    return DensityMap(scipy.fft.irfftn(spectrum, s=(n, n, n), workers=-1), voxel, density_map.origin)


def _shells_of(density_map: DensityMap) -> tuple[int, np.ndarray]:
    shape = density_map.data.shape
    if len(set(shape)) != 1 or shape[0] < 2 * FEWEST_SHELLS:
        raise ValueError(
            f"density_map must be a cubic map at least {2 * FEWEST_SHELLS} voxels wide, got shape {shape}"
        )
    n = shape[0]
    return n, np.arange(1, n // 2 + 1) / (n * density_map.voxel_size_angstrom)


def _reliability(fsc: FSC, frequency: np.ndarray) -> np.ndarray:
    """Return the expected correlation of each shell with the true map, which is 0 from the end of the resolution."""
    correlation = finite_array(fsc.correlation, name="fsc.correlation", ndim=1)
    if len(correlation) != len(frequency):
        raise ValueError(f"fsc must have {len(frequency)} shells, as the map, got {len(correlation)}")
    correlation = np.maximum(correlation, 0)
    weight = np.sqrt(2 * correlation / (1 + correlation))
    weight[fsc.shells_above(HALF_MAP_THRESHOLD) :] = 0
    return weight
