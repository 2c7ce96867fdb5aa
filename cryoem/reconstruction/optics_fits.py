"""Defocus and scale of each image, fitted by comparing the image with its slice of a map of other images.

A single image constrains its defocus only weakly, so each estimate is a posterior mean. Its prior, a normal
distribution over the images, is estimated from the same fits: images without information keep the stated defocus and
the average scale. The scale is the contrast of an image relative to that of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline

from cryoem.contrast import Optics
from cryoem.projection.fourier import VolumeTransform, read_slices
from cryoem.reconstruction.pose_steps import WorkingImages
from cryoem.rotations import Poses

RANGE_ANGSTROM = 2_000.0  # largest change of the defocus, in either direction
PHASE_STEP = np.pi / 4  # of the CTF at the finest compared frequency, between two defoci that are tried
FINER = 8  # interpolated defoci per step
PRIOR_ROUNDS = 50  # most rounds of the estimate of a prior
PRIOR_TOLERANCE = 1e-3  # relative change of a prior in its last round
LEAST_SCALE = 0.1  # images without a particle would otherwise get 0
SIGNIFICANT = 3.0  # standard errors of the mean scale, below which the images contain no signal
IMAGES = 1024  # fitted at a time
TINY = 1e-20


@dataclass(frozen=True)
class OpticsEvidence:
    """Likelihood of the defocus and scale of n images.

    ``changes`` (k,) are the tried changes of the defocus in angstrom. ``cross`` (n, k) are the inner products of images
    and slices, and ``power`` (n, k) those of slices with themselves, both multiplied by the CTF and divided by the
    noise: ``scale * cross - scale**2 * power / 2`` is the log-likelihood.
    """

    changes: np.ndarray
    cross: np.ndarray
    power: np.ndarray

    @classmethod
    def concatenate(cls, parts: list[OpticsEvidence]) -> OpticsEvidence:
        """Concatenate the evidence of several sets of images."""
        cross, power = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("cross", "power")
        )
        return cls(parts[0].changes, cross, power)

    def __getitem__(self, index: np.ndarray) -> OpticsEvidence:
        """Select a subset of the images."""
        return replace(self, cross=self.cross[index], power=self.power[index])


def defocus_changes(optics: Optics, finest_per_angstrom: float) -> np.ndarray:
    """Return changes of the defocus in angstrom, as dense as the finest compared frequency requires.

    Return only 0 if even the largest change would hardly affect the CTF up to this frequency (at 300 kV, if the finest
    detail is coarser than about 12 Å).
    """
    step = PHASE_STEP / (np.pi * optics.ctf.wavelength_angstrom * finest_per_angstrom**2)
    steps = int(np.ceil(RANGE_ANGSTROM / step)) if step <= RANGE_ANGSTROM else 0
    return step * np.arange(-steps, steps + 1)


def optics_evidence(
    reference: VolumeTransform, work: WorkingImages, poses: Poses, stated: Optics, changes: np.ndarray
) -> OpticsEvidence:
    """Compare images with their slices at several changes of their stated defocus.

    The shifts in ``poses`` are in coarse pixels. The noise in each shell is the mean residual of the images, times the
    noise level of each image.
    """
    slices = read_slices(reference, poses.rotations.as_matrix(), work.frequencies)
    planes = work.moved(-poses.shifts_px).planes if poses.shifts_px.any() else work.planes
    residual = np.abs(planes - work.transfers * slices) ** 2
    shell = np.rint(np.hypot(*work.frequencies.T) * work.size).astype(int)
    noise = np.bincount(shell, residual.mean(axis=0)) / np.maximum(np.bincount(shell), 1)
    noise = np.maximum(noise[shell], TINY)
    level = np.maximum(np.mean(residual / noise, axis=1, keepdims=True), TINY)
    weights = (2 * work.weights / (level * noise)).astype(np.float32)  # of real and imaginary parts
    products, powers = weights * (planes.conj() * slices).real, weights * np.abs(slices) ** 2

    # a change of the defocus adds psi to the phase of the CTF, and sin(phase + psi) is a sum of sine and cosine
    frequencies = work.frequencies / work.pixel_px
    phase_shift = stated.ctf.phase_shift_rad if stated.phase_shift_rad is None else stated.phase_shift_rad
    sine, cosine = (
        replace(
            stated, scale=None, phase_shift_rad=np.broadcast_to(phase_shift + turn, len(planes))
        ).transfers(frequencies)
        for turn in (0.0, np.pi / 2)
    )
    squared = (frequencies**2).sum(axis=1) / stated.pixel_size_angstrom**2
    psi = np.pi * stated.ctf.wavelength_angstrom * np.outer(squared, changes)
    c, s = np.cos(psi).astype(np.float32), np.sin(psi).astype(np.float32)
    cross = (products * sine) @ c + (products * cosine) @ s
    power = (powers * sine**2) @ c**2 + (powers * 2 * sine * cosine) @ (c * s) + (powers * cosine**2) @ s**2
    return OpticsEvidence(changes, cross, np.maximum(power, TINY))


def fitted_optics(stated: Optics, evidence: OpticsEvidence) -> Optics:
    """Return the optics of n images with the fitted defocus and scale of each.

    The mean of the scales, weighted with the scales themselves so that images without a particle do not count, is 1.
    """
    change, cross, power = _fitted_defocus(evidence)
    scale = np.ones(len(change))
    if cross.sum() > SIGNIFICANT * np.sqrt(power.sum()):
        scale = np.maximum(_shrunk(cross / power, 1 / power), 0)
        scale = np.maximum(scale / np.average(scale, weights=scale), LEAST_SCALE)
    columns = 1.0 if stated.defocus_angstrom.ndim == 1 else np.array([1.0, 1.0, 0.0])
    defocus = stated.defocus_angstrom + np.multiply.outer(change, columns)
    return replace(stated, defocus_angstrom=defocus, scale=scale)


def _fitted_defocus(evidence: OpticsEvidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the posterior mean of the change of the defocus of each image, and ``cross`` and ``power`` there: (n,)."""
    changes, n = evidence.changes, len(evidence.cross)
    if len(changes) == 1:
        return np.zeros(n), evidence.cross[:, 0], evidence.power[:, 0]
    step = (changes[1] - changes[0]) / FINER
    fine = np.linspace(-RANGE_ANGSTROM, RANGE_ANGSTROM, 2 * int(np.ceil(RANGE_ANGSTROM / step)) + 1)
    parts = [slice(start, start + IMAGES) for start in range(0, n, IMAGES)]

    def interpolated(part: slice) -> list[np.ndarray]:
        sums = evidence.cross[part], evidence.power[part]
        return [CubicSpline(changes, values, axis=1)(fine) for values in sums]

    likelihood = np.empty((n, len(fine)), np.float32)
    for part in parts:
        cross, power = interpolated(part)
        likelihood[part] = np.clip(cross, 0, None) ** 2 / (2 * np.maximum(power, TINY))

    def moments(variance: float) -> np.ndarray:
        """Return the first and second moment of each image's posterior: (2, n)."""
        found = np.empty((2, n))
        for part in parts:
            logarithm = likelihood[part] - fine**2 / (2 * variance)
            posterior = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
            found[:, part] = (
                posterior @ np.stack([fine, fine**2], axis=1) / posterior.sum(axis=1)[:, None]
            ).T
        return found

    # the mean of the prior is 0, because the map can adapt to a common error of all defoci
    variance = RANGE_ANGSTROM**2 / 3
    for _ in range(PRIOR_ROUNDS):
        before, variance = variance, max(moments(variance)[1].mean(), step**2)
        if abs(variance - before) < PRIOR_TOLERANCE * before:
            break
    change = moments(variance)[0]
    own = np.rint((change - fine[0]) / (fine[1] - fine[0])).astype(int)[:, None]
    at_own = [
        [np.take_along_axis(each, own[part], axis=1)[:, 0] for each in interpolated(part)] for part in parts
    ]
    cross, power = (np.concatenate(each) for each in zip(*at_own, strict=True))
    return change, cross, np.maximum(power, TINY)


def _shrunk(estimates: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return the posterior means of n values with a common normal prior, which is estimated from them."""
    mean, spread = np.average(estimates, weights=1 / variances), estimates.var()
    for _ in range(PRIOR_ROUNDS):
        share = spread / (spread + variances)
        posterior = mean + share * (estimates - mean)
        before, mean = spread, posterior.mean()
        spread = np.mean((posterior - mean) ** 2 + share * variances)
        if abs(spread - before) <= PRIOR_TOLERANCE * before:
            break
    return posterior
