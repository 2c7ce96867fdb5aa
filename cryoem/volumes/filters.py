"""Filters and masks with soft edges."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from cryoem.validation import not_negative, positive_number
from cryoem.volumes.density import DensityMap


def low_pass(density_map: DensityMap, resolution_angstrom: float, *, edge: float = 0.1) -> DensityMap:
    """Remove detail finer than a resolution from a map, treated as periodic; its mean is kept.

    Parameters
    ----------
    density_map : DensityMap
        The map.
    resolution_angstrom : float
        Resolution at which the amplitude is halved.
    edge : float
        Width of the raised-cosine fall-off as a fraction of the cut-off frequency, in (0, 2].

    Raises
    ------
    ValueError
        ``resolution_angstrom`` is not positive, or ``edge`` is out of range.
    """
    positive_number(resolution_angstrom, name="resolution_angstrom")
    if not 0 < edge <= 2:
        raise ValueError(f"edge must be in (0, 2], got {edge}")
    *leading, last = density_map.data.shape
    spacing = density_map.voxel_size_angstrom
    axes = [fft.fftfreq(n, spacing) for n in leading] + [fft.rfftfreq(last, spacing)]
    frequency = np.sqrt(sum(np.square(axis) for axis in np.ix_(*axes)))
    transfer = _cosine_step((frequency * resolution_angstrom - 1) / edge + 0.5)
    data = fft.irfftn(fft.rfftn(density_map.data) * transfer.astype(np.float32), s=density_map.data.shape)
    return DensityMap(data, spacing, density_map.origin)


def soft_mask(
    density_map: DensityMap, *, threshold: float | None = None, extend_px: float = 2.0, edge_px: float = 4.0
) -> np.ndarray:
    """Return a mask of the particle, (z, y, x) float32: 1 inside, falling smoothly to 0 around it.

    Parameters
    ----------
    density_map : DensityMap
        The map.
    threshold : float, optional
        Density above which a voxel belongs to the particle; by default that of Otsu, which separates the voxels into
        the two classes of least variance. Pieces smaller than a tenth of the largest are discarded as noise.
    extend_px : float
        Distance from these voxels up to which the mask is 1.
    edge_px : float
        Width of the raised-cosine edge beyond.

    Raises
    ------
    ValueError
        No voxel is above ``threshold``, or a width is negative.
    """
    not_negative(extend_px, name="extend_px")
    not_negative(edge_px, name="edge_px")
    if threshold is None:
        threshold = _otsu_threshold(density_map.data)
    inside = density_map.data > threshold
    if not inside.any():
        raise ValueError(
            f"threshold must be below the map's maximum {density_map.data.max()}, got {threshold}"
        )
    pieces, _ = ndimage.label(inside)
    volumes = np.bincount(pieces.ravel())
    volumes[0] = 0
    inside = (volumes >= volumes.max() / 10)[pieces] & inside
    distance = ndimage.distance_transform_edt(~inside)
    return _soft_edge(distance, extend_px, edge_px)


def soft_sphere(shape: tuple[int, ...], radius_px: float, edge_px: float) -> np.ndarray:
    """Return a ball (a disc in two dimensions) about voxel n // 2: 1 up to ``radius_px``, 0 from ``edge_px`` beyond.

    The edge is a raised cosine. The result is float32 of ``shape`` in [0, 1].

    Raises
    ------
    ValueError
        ``radius_px`` or ``edge_px`` is negative or not finite.
    """
    not_negative(radius_px, name="radius_px")
    not_negative(edge_px, name="edge_px")
    axes = np.ix_(*(np.arange(n) - n // 2 for n in shape))
    return _soft_edge(np.sqrt(sum(np.square(axis) for axis in axes)), radius_px, edge_px)


def _soft_edge(distance: np.ndarray, inner: float, width: float) -> np.ndarray:
    """Return 1 up to the distance ``inner``, 0 from ``inner + width`` on."""
    if width == 0:
        return (distance <= inner).astype(np.float32)
    return _cosine_step((distance - inner) / width).astype(np.float32)


def _cosine_step(t: np.ndarray) -> np.ndarray:
    """Return a raised cosine from 1 (t <= 0) to 0 (t >= 1)."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(t, 0, 1))


def _otsu_threshold(values: np.ndarray) -> float:
    """Return the threshold with the largest variance between the classes below and above it (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=256)
    middle = (edges[:-1] + edges[1:]) / 2
    n_below = np.cumsum(counts)[:-1]
    n_above = values.size - n_below
    sum_below = np.cumsum(counts * middle)[:-1]
    sum_above = (counts * middle).sum() - sum_below
    between = n_below * n_above * (sum_below / n_below - sum_above / n_above) ** 2
    return float(edges[1:-1][np.argmax(between)])
