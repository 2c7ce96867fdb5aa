"""Alignment of images in memory: angles, shifts, twins, scales, and a reference that is given."""

from __future__ import annotations

import numpy as np
import pytest
from alignment_files import SIZE

from cryoem.udl.align import align, template_aligner
from cryoem.udl.classical import wrapped
from cryoem.udl.registration import circular_mask
from cryoem.udl.rotation import rotate_images


def misalignment(found, truth) -> tuple[np.ndarray, np.ndarray]:
    """Errors of angles (rad) and shifts (px) up to the reference's own pose: one rotation and one displacement."""
    error = found.angles_rad - truth.angles_rad
    offset = np.angle(np.exp(1j * error).mean())
    turned = np.stack(
        [
            np.cos(found.angles_rad),
            -np.sin(found.angles_rad),
            np.sin(found.angles_rad),
            np.cos(found.angles_rad),
        ],
        1,
    ).reshape(-1, 2, 2)
    in_frame = np.einsum("nji,nj->ni", turned, found.shifts_px - truth.shifts_px)
    return wrapped(error - offset, 2 * np.pi), in_frame - np.median(in_frame, axis=0)


def test_clean_images_are_aligned_twins_and_shifts_included(clean, aligner):
    found = align(clean.images, aligner)
    angles, shifts = misalignment(found, clean)
    assert np.abs(angles).max() < np.deg2rad(1)  # a wrong twin would be off by 180 degrees
    assert np.abs(shifts).max() < 0.3
    assert found.correlation.min() > 0.9
    assert 0.5 < found.correntropy.min() <= found.correntropy.max() <= 1
    spread = found.aligned_images(clean.images).std(axis=0).mean()
    assert spread < 0.2 * clean.images.std(axis=0).mean()
    np.testing.assert_allclose(found.average, found.aligned_images(clean.images).mean(axis=0), atol=1e-5)


def test_images_come_back_in_the_pose_of_a_given_reference(average, clean, aligner):
    for angle in (0.0, 1.0):
        reference = rotate_images(average.image[None], np.array([angle]))[0]
        found = align(clean.images, aligner, reference=reference)
        error = wrapped(found.angles_rad - (clean.angles_rad - angle), 2 * np.pi)
        assert np.abs(error).max() < np.deg2rad(1.5)
        assert np.abs(found.shifts_px - clean.shifts_px).max() < 0.5
        assert np.corrcoef(found.average.ravel(), reference.ravel())[0, 1] > 0.95


def test_the_template_needs_no_training(clean):
    angles, _ = misalignment(align(clean.images, template_aligner(clean.images)), clean)
    assert np.abs(angles).max() < np.deg2rad(1)


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e3, 1e25])
@pytest.mark.parametrize("kind", ["the model's reference", "a given reference", "a new template"])
def test_the_scale_of_the_images_changes_nothing(kind, scale, average, clean, aligner):
    scaled = clean.images * np.float32(scale)

    def aligned(images):
        if kind == "a new template":
            return align(images, template_aligner(images))
        return align(images, aligner, reference=average.image if kind == "a given reference" else None)

    expected, found = aligned(clean.images), aligned(scaled)
    assert np.abs(wrapped(found.angles_rad - expected.angles_rad, 2 * np.pi)).max() < 1e-4
    np.testing.assert_allclose(found.shifts_px, expected.shifts_px, atol=1e-3)
    np.testing.assert_allclose(found.correlation, expected.correlation, atol=1e-4)
    np.testing.assert_allclose(found.correntropy, expected.correntropy, atol=1e-4)


def test_images_beyond_single_precision_are_refused(clean, aligner):
    with pytest.raises(ValueError, match=r"images must have a standard deviation .* got 9.97e\+35"):
        align(clean.images * np.float32(1e36), aligner)


def test_structure_outside_the_circle_alone_is_none(clean, aligner):
    images = clean.images.copy()
    images[4][circular_mask(SIZE) > 0] = 3.0
    assert np.ptp(images[4]) > 1
    with pytest.raises(ValueError, match="images must have structure, got 1 constant ones, first 4"):
        aligner.angles(images)
    with pytest.raises(ValueError, match="reference must have structure, got a constant image"):
        align(clean.images, aligner, reference=images[4])
