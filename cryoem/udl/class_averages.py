"""Averages of classes of aligned images, their resolution, and their power at the edge of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoem.contrast import Optics
from cryoem.images import apply_ctf, distance_from_origin, subtract_background
from cryoem.reconstruction.resolution import HALF_MAP_THRESHOLD, fourier_ring_correlation, shell_index
from cryoem.udl.registration import BLOCK, align_images, image_mask

EDGE_RADIUS = 0.75  # of the edge, relative to the largest circle in the image


@dataclass(frozen=True)
class ClassAverages:
    """Averages (k, y, x) with the count, resolution and edge power of each class, as in ``Classification``."""

    averages: np.ndarray
    counts: np.ndarray
    resolutions_angstrom: np.ndarray
    edge_powers: np.ndarray


def average_classes(
    images: np.ndarray,
    classes: np.ndarray,
    angles_rad: np.ndarray,
    shifts_px: np.ndarray,
    *,
    k: int,
    optics: Optics,
) -> ClassAverages:
    """Average (n, y, x) images by class, given the pose of each image.

    The images are multiplied by their CTF, and the sum is divided by the sum of the squared CTF. The averages of images
    with even and odd indices give the FRC; at each frequency, the average is multiplied by
    ``sqrt(2 FRC / (1 + FRC))`` (Rosenthal and Henderson, J. Mol. Biol. 333 (2003) 721). The edge power is the mean
    product of the two halves beyond ``EDGE_RADIUS`` times the radius of the largest circle, relative to the sum of that
    beyond and that within. Noise, which differs between the halves, does not contribute to it.
    """
    size, pixel = images.shape[1], optics.pixel_size_angstrom
    rings = shell_index(size, ndim=2)
    sums, weights = np.zeros((2, k, size, size)), np.zeros((2, k, rings.max() + 1))
    frequencies = np.arange(rings.max() + 1) / size
    for start in range(0, len(images), BLOCK):
        block = slice(start, start + BLOCK)
        some, squared = subtract_background(images[block]), np.ones((1, len(frequencies)))
        if optics.ctf is not None:
            some = apply_ctf(some, optics[block])
            squared = optics[block].isotropic().transfers(frequencies) ** 2
        aligned = align_images(some, angles_rad[block], shifts_px[block])
        halves = np.arange(start, start + len(some)) % 2
        np.add.at(sums, (halves, classes[block]), aligned)
        np.add.at(weights, (halves, classes[block]), squared)
    # one image with a perfect CTF is as good as no image
    damping = 0 if optics.ctf is None else 1
    total = _divided(sums.sum(axis=0), weights.sum(axis=0) + damping, rings)
    parts = [_divided(each, weight + damping, rings) for each, weight in zip(sums, weights, strict=True)]
    counts = np.bincount(classes, minlength=k)
    resolutions, edges = np.full(k, np.inf), np.full(k, np.nan)
    mask, radius = image_mask(size), distance_from_origin(size) / (size / 2)
    outer = (radius > EDGE_RADIUS) & (radius < 1)
    for c in range(k):
        halves = [(part[c] - part[c].mean()) * mask for part in parts]
        if not all(half.any() for half in halves):
            total[c] = 0
            continue
        curve = fourier_ring_correlation(*halves, pixel_size_angstrom=pixel)
        if resolution := curve.resolution_or_none(HALF_MAP_THRESHOLD):
            resolutions[c] = resolution
        correlation = np.clip(np.append(1, curve.correlation), 0, 1)  # from ring 0
        merit = np.sqrt(2 * correlation / (1 + correlation))
        total[c] = _filtered(total[c], merit, rings)
        product = parts[0][c] * parts[1][c]
        outside, within = (max(0.0, product[area].mean()) for area in (outer, radius <= EDGE_RADIUS))
        edges[c] = outside / (outside + within) if outside else 0.0
    return ClassAverages(total.astype(np.float32), counts, resolutions, edges)


def _divided(sums: np.ndarray, weights: np.ndarray, rings: np.ndarray) -> np.ndarray:
    """Divide the Fourier transforms of (k, y, x) sums by their (k, rings) weights."""
    weights = np.maximum(weights, np.finfo(np.float32).tiny)
    return np.stack([_filtered(each, 1 / weight, rings) for each, weight in zip(sums, weights, strict=True)])


def _filtered(image: np.ndarray, factors: np.ndarray, rings: np.ndarray) -> np.ndarray:
    """Multiply each Fourier ring of an image by a factor; rings without a factor are removed."""
    factors = np.append(factors, np.zeros(max(0, rings.max() + 1 - len(factors))))
    return scipy.fft.irfft2(scipy.fft.rfft2(image) * factors[rings], s=image.shape)
