"""Half-map FSC of the folds of a refinement, and references filtered by it."""

from __future__ import annotations

import numpy as np
import scipy.fft

from cryoem.reconstruction.accumulation import FourierAccumulator, total
from cryoem.reconstruction.resolution import FSC, fourier_shell_correlation, particle_mask, shell_index

FOLDS = 8  # more folds: less noise in the references, and more work
TRUST_THRESHOLD = 0.143


def half_map_fsc(sums: list[FourierAccumulator]) -> tuple[FSC, np.ndarray]:
    """Return the FSC between two halves of the folds inside the mask of the particle, and that mask."""
    a, b = total(sums[::2]).invert(), total(sums[1::2]).invert()
    mask = particle_mask(a, b)
    return fourier_shell_correlation(a, b, mask=mask), mask


def last_trusted_shell(fsc: FSC) -> int:
    """Return the first shell at which half-maps no longer agree, at least 4."""
    below = np.flatnonzero(fsc.correlation < TRUST_THRESHOLD)
    return max(int(below[0]) if len(below) else len(fsc.correlation), 4)


def wiener_filtered(sums: FourierAccumulator, fsc: FSC, mask: np.ndarray) -> np.ndarray:
    """Reconstruct the masked, Wiener-filtered map of all folds but one.

    Half-maps with a correlation f have a signal-to-noise ratio of ``f / (1 - f)``.
    """
    correlation = np.clip(np.concatenate([[1.0], fsc.correlation]), 0, 0.9999)
    correlation[last_trusted_shell(fsc) + 1 :] = 0
    ratio = correlation / (1 - correlation) * 2 * (FOLDS - 1) / FOLDS
    weight = np.append(ratio / (1 + ratio), 0).astype(np.float32)
    shells = np.minimum(shell_index(sums.size), len(weight) - 1)
    spectrum = scipy.fft.rfftn(sums.invert(), workers=-1) * weight[shells]
    return scipy.fft.irfftn(spectrum, s=(sums.size,) * 3, workers=-1) * mask
