"""How far a map can be trusted, shell by shell, and the map that images are compared with accordingly."""

from __future__ import annotations

import numpy as np
import scipy.fft

from cryoem.reconstruction import SliceSums
from cryoem.resolution import FSC, fourier_shell_correlation, particle_mask, shell_index

FOLDS = 8  # the more, the less noise in the maps that images are compared with, and the more work
LEAST_TRUSTED = 0.143


def total(sums: list[SliceSums]) -> SliceSums:
    """Of some folds."""
    return sum(sums[1:], sums[0])


def trust(sums: list[SliceSums]) -> tuple[FSC, np.ndarray]:
    """FSC between two halves of the folds inside the mask of the particle, and that mask."""
    a, b = total(sums[::2]).invert(), total(sums[1::2]).invert()
    mask = particle_mask(a, b)
    return fourier_shell_correlation(a, b, mask=mask), mask


def last_trusted_shell(fsc: FSC) -> int:
    """The first shell that half-maps do not agree on, at least 4."""
    below = np.flatnonzero(fsc.correlation < LEAST_TRUSTED)
    return max(int(below[0]) if len(below) else len(fsc.correlation), 4)


def filtered(sums: SliceSums, fsc: FSC, mask: np.ndarray) -> np.ndarray:
    """The masked map of some of the folds, Wiener-filtered: half-maps of FSC f have a signal-to-noise of f /
    (1 - f).
    """
    correlation = np.clip(np.concatenate([[1.0], fsc.correlation]), 0, 0.9999)
    correlation[last_trusted_shell(fsc) + 1 :] = 0
    ratio = correlation / (1 - correlation) * 2 * (FOLDS - 1) / FOLDS
    weight = np.append(ratio / (1 + ratio), 0).astype(np.float32)
    shells = np.minimum(shell_index(sums.size), len(weight) - 1)
    spectrum = scipy.fft.rfftn(sums.invert(), workers=-1) * weight[shells]
    return scipy.fft.irfftn(spectrum, s=(sums.size,) * 3, workers=-1) * mask
