"""Filters and masks with soft edges."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from cryoem.checks import positive_number
from cryoem.volumes.maps import DensityMap


def low_pass(density_map: DensityMap, resolution_angstrom: float, *, edge: float = 0.1) -> DensityMap:
    """Remove the detail finer than a resolution.

    Parameters
    ----------
    density_map : (z, y, x) map, taken as periodic.
    resolution_angstrom : where the amplitude is halved.
    edge : width of the raised-cosine fall-off as a fraction of the cut-off frequency, in (0, 2].

    Returns
    -------
    DensityMap of the same shape, voxel size and origin; its mean does not change.

    Raises
    ------
    ValueError : ``resolution_angstrom`` is not positive or ``edge`` is out of range.
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
    """Mask of the particle: 1 on it, falling smoothly to 0 around it.

    Parameters
    ----------
    density_map : (z, y, x) map.
    threshold : density above which a voxel belongs to the particle; by default Otsu's, which separates the
        voxels into the two classes of least variance.  Pieces smaller than a tenth of the largest are taken
        for noise.
    extend_px : how far around those voxels the mask stays 1.
    edge_px : width of the raised-cosine edge beyond.

    Returns
    -------
    (z, y, x) float32 in [0, 1].

    Raises
    ------
    ValueError : no voxel is above ``threshold``, or a width is negative.
    """
    for name, width in (("extend_px", extend_px), ("edge_px", edge_px)):
        if not (np.isfinite(width) and width >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {width}")
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
    """Ball (or disc, for two axes) around voxel n // 2 that is 1 up to ``radius_px`` and 0 from ``edge_px``
    further on.

    Returns
    -------
    float32 array of ``shape`` in [0, 1], with a raised-cosine edge.

    Raises
    ------
    ValueError : ``radius_px`` or ``edge_px`` is negative or not finite.
    """
    for name, width in (("radius_px", radius_px), ("edge_px", edge_px)):
        if not (np.isfinite(width) and width >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {width}")
    axes = np.ix_(*(np.arange(n) - n // 2 for n in shape))
    return _soft_edge(np.sqrt(sum(np.square(axis) for axis in axes)), radius_px, edge_px)


def _soft_edge(distance: np.ndarray, inner: float, width: float) -> np.ndarray:
    """1 up to the distance ``inner``, 0 from ``inner + width`` on."""
    if width == 0:
        return (distance <= inner).astype(np.float32)
    return _cosine_step((distance - inner) / width).astype(np.float32)


def _cosine_step(t: np.ndarray) -> np.ndarray:
    """Raised cosine from 1 (t <= 0) to 0 (t >= 1)."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(t, 0, 1))


def _otsu_threshold(values: np.ndarray) -> float:
    """Threshold with the largest variance between the classes below and above (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=256)
    middle = (edges[:-1] + edges[1:]) / 2
    n_below = np.cumsum(counts)[:-1]
    n_above = values.size - n_below
    sum_below = np.cumsum(counts * middle)[:-1]
    sum_above = (counts * middle).sum() - sum_below
    between = n_below * n_above * (sum_below / n_below - sum_above / n_above) ** 2
    return float(edges[1:-1][np.argmax(between)])
