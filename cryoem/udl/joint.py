"""One angle for each image and one average of all, without learning: what trainings and the template start from.

Angles come from synchronised pairs of spectra and an iterated template, see ``classical``; the average settles twins
and shifts, see ``registration``.
"""

from __future__ import annotations

import numpy as np

from cryoem.udl.classical import iterated_template, mean_spectrum, neighbour_pairs, pair_angles, synchronise
from cryoem.udl.registration import (
    Registration,
    align_images,
    average_aligned,
    filter_reference,
    mean_power,
    register,
    turn,
)
from cryoem.udl.spectra import PolarGrid

FEWEST_IMAGES = 4
PARTNERS = 8
SYNCHRONISED_ROUNDS = 5
REFERENCE_ROUNDS = (
    (1000, 0),
    (1000, 0),
    (3000, 2),
)  # images, Gauss-Newton steps of each round of the average


def start_together(spectra: np.ndarray, grid: PolarGrid) -> tuple[np.ndarray, np.ndarray]:
    """Angles of spectra and their template, from synchronised pairs followed by an iterated template."""
    pairs = neighbour_pairs(len(spectra), PARTNERS, rng=0)
    angles = synchronise(pairs, angles_of_pairs(spectra, pairs, grid), period_rad=grid.period_rad)
    template = mean_spectrum(spectra, angles, period_rad=grid.period_rad)
    return iterated_template(spectra, start=template, rounds=SYNCHRONISED_ROUNDS, period_rad=grid.period_rad)


def angles_of_pairs(
    spectra: np.ndarray, pairs: np.ndarray, grid: PolarGrid, *, block: int = 2000
) -> np.ndarray:
    """By how much the second spectrum of each of (m, 2) pairs is turned against the first: (m,)."""
    return np.concatenate(
        [
            pair_angles(spectra[p[:, 0]], spectra[p[:, 1]], period_rad=grid.period_rad)
            for p in np.array_split(pairs, -(-len(pairs) // block))
        ]
    )


def class_average(images: np.ndarray, angles_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The average of images whose angles are known modulo half a turn, and their mean power.

    It begins as one image and takes in more of them, twins and shifts settled against the average before.
    Returns (y, x) and (y, x // 2 + 1), see ``registration.mean_power``.
    """
    power = mean_power(images[: REFERENCE_ROUNDS[-1][0]])
    average = align_images(images[:1], angles_rad[:1], np.zeros((1, 2)))[0]
    for count, steps in REFERENCE_ROUNDS:
        some = images[:count]
        found = register(some, filter_reference(average, power), angles_rad[:count], steps=steps)
        average = average_aligned(some, found.angles_rad, _about_the_centre(found))
    return average, power


def _about_the_centre(found: Registration) -> np.ndarray:
    """Shifts against the reference moved to where the particles stand on average: (n, 2).

    Particles are picked about the middle of their images; the one image that an average begins as need not be.
    """
    offset = turn(found.shifts_px, -found.angles_rad).mean(axis=0)
    return found.shifts_px - turn(np.broadcast_to(offset, found.shifts_px.shape), found.angles_rad)
