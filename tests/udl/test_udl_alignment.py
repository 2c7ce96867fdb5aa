"""Registration and alignment of images in memory: angles, shifts, twins, scales, references."""

from __future__ import annotations

import numpy as np
import pytest

from cryoem.contrast import Optics
from cryoem.images import circular_mask
from cryoem.particles.stack import ParticleStack
from cryoem.udl.aligner import align, template_aligner
from cryoem.udl.registration import filter_reference, mean_power, register
from cryoem.udl.rotation import rotate_images, rotate_vectors, wrap_angles

SIZE = 48


def misalignment(found, truth) -> tuple[np.ndarray, np.ndarray]:
    """Errors of angles (rad) and shifts (px) up to the pose of the reference: one rotation and one displacement."""
    error = found.angles_rad - truth.angles_rad
    offset = np.angle(np.exp(1j * error).mean())
    in_frame = rotate_vectors(found.shifts_px - truth.shifts_px, -found.angles_rad)
    return wrap_angles(error - offset, 2 * np.pi), in_frame - np.median(in_frame, axis=0)


def test_registration_finds_twins_shifts_and_angles(average):
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 30)
    shifts = rng.uniform(-4, 4, (30, 2))
    images = rotate_images(np.repeat(average.image[None], 30, 0), angles, shifts)
    reference = filter_reference(average.image, mean_power(images))
    start = angles + np.deg2rad(2) * rng.choice([-1, 1], 30) + np.pi * rng.integers(0, 2, 30)
    found = register(images, reference, start, steps=5)
    assert np.abs(wrap_angles(found.angles_rad - angles, 2 * np.pi)).max() < np.deg2rad(0.5)
    assert np.abs(found.shifts_px - shifts).max() < 0.2
    coarse = register(images, reference, start, steps=0)
    assert np.abs(wrap_angles(coarse.angles_rad - start, np.pi)).max() < 1e-9


def test_clean_images_are_aligned_with_their_twins_and_shifts(clean, aligner):
    found = align(ParticleStack(clean.images, Optics(3.5)), aligner)
    angles, shifts = misalignment(found, clean)
    assert np.abs(angles).max() < np.deg2rad(1)  # a wrong twin would be off by 180 degrees
    assert np.abs(shifts).max() < 0.3
    assert found.correlation.min() > 0.9
    assert 0.5 < found.correntropy.min() <= found.correntropy.max() <= 1
    aligned = found.aligned_images(clean.images)
    assert aligned.std(axis=0).mean() < 0.2 * clean.images.std(axis=0).mean()
    np.testing.assert_allclose(found.average, aligned.mean(axis=0), atol=1e-5)


def test_a_given_reference_sets_the_pose(average, clean, aligner):
    for angle in (0.0, 1.0):
        reference = rotate_images(average.image[None], np.array([angle]))[0]
        found = align(clean.images, aligner, reference=reference)
        error = wrap_angles(found.angles_rad - (clean.angles_rad - angle), 2 * np.pi)
        assert np.abs(error).max() < np.deg2rad(1.5)
        assert np.abs(found.shifts_px - clean.shifts_px).max() < 0.5
        assert np.corrcoef(found.average.ravel(), reference.ravel())[0, 1] > 0.95


def test_the_template_needs_no_training(clean):
    angles, _ = misalignment(align(clean.images, template_aligner(clean.images)), clean)
    assert np.abs(angles).max() < np.deg2rad(1)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_the_images_has_no_effect(scale, average, clean, aligner):
    scaled = clean.images * np.float32(scale)
    for model, model_scaled, reference in (
        (aligner, aligner, None),
        (aligner, aligner, average.image),
        (template_aligner(clean.images), template_aligner(scaled), None),
    ):
        expected = align(clean.images, model, reference=reference)
        found = align(scaled, model_scaled, reference=reference)
        assert np.abs(wrap_angles(found.angles_rad - expected.angles_rad, 2 * np.pi)).max() < 1e-4
        np.testing.assert_allclose(found.shifts_px, expected.shifts_px, atol=1e-3)
        np.testing.assert_allclose(found.correlation, expected.correlation, atol=1e-4)
        np.testing.assert_allclose(found.correntropy, expected.correntropy, atol=1e-4)


def test_unsuitable_images_and_references_are_refused(clean, aligner):
    with pytest.raises(ValueError, match=r"images must have a standard deviation .* got 9.97e\+35"):
        align(clean.images * np.float32(1e36), aligner)
    images = clean.images.copy()
    images[4][circular_mask(SIZE, edge_px=4.0) > 0] = 3.0  # structure outside the circle only
    assert np.ptp(images[4]) > 1
    with pytest.raises(ValueError, match="got 1 such images, the first at index 4"):
        aligner.angles(images)
    with pytest.raises(ValueError, match="reference must not be constant inside the largest circle"):
        align(clean.images, aligner, reference=images[4])
    with pytest.raises(ValueError, match=r"reference must have the images' shape \(48, 48\), got \(32, 32\)"):
        align(clean.images, aligner, reference=images[4, :32, :32])
    with pytest.raises(ValueError, match="images must have 48 px a side for this model, got 32"):
        align(clean.images[:, :32, :32], aligner)
