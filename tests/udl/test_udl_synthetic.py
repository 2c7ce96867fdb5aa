"""Synthetic particle images: geometry, noise level, and class averages from files."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.io

from cryoem.images import circular_mask
from cryoem.particles.mrc import write_stack
from cryoem.udl import synthetic
from cryoem.udl.registration import align_images
from cryoem.udl.rotation import rotate_images

SIZE = 48
FLOAT32 = 1e-4


def test_particles_are_the_average_rotated_and_shifted(average):
    particles = synthetic.synthetic_set(average, 5, noise="clean", shift_limit_px=3, ctf=None, rng=0)
    assert np.abs(particles.shifts_px).max() <= 3
    expected = rotate_images(np.repeat(average.image[None], 5, 0), particles.angles_rad, particles.shifts_px)
    np.testing.assert_allclose(particles.images, expected, atol=FLOAT32)
    inside = circular_mask(SIZE, edge_px=4.0) > 0
    for image in align_images(particles.images, particles.angles_rad, particles.shifts_px):
        assert np.corrcoef(image[inside], average.image[inside])[0, 1] > 0.99


def test_noise_has_the_stated_strength(average):
    clean, white, coloured = (
        synthetic.synthetic_set(average, 300, noise=noise, rng=5) for noise in synthetic.NOISES
    )
    np.testing.assert_array_equal(clean.angles_rad, coloured.angles_rad)  # the same particles for all three
    ratio = (white.images - clean.images).var(axis=(1, 2)) / clean.images.var(axis=(1, 2))
    assert ratio.mean() == pytest.approx(10, rel=0.02)
    added = np.abs(np.fft.fft2(coloured.images - white.images))
    mean = np.abs(np.fft.fft2(white.images)).mean(axis=(1, 2))
    reach = 10 / average.pixel_size_angstrom
    frequency = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(SIZE) * SIZE]))
    assert added[:, frequency > reach + 1e-6].max() < 1e-3 * mean.max()
    within = frequency <= reach
    expected = 2 * 3**2 * (mean**2).mean()  # real and imaginary part
    assert (added[:, within] ** 2).mean() == pytest.approx(expected, rel=0.05)
    for column in np.flatnonzero(within.any(axis=0)):  # including those that are their own mirror images
        power = (added[:, within[:, column], column] ** 2).mean()
        assert power == pytest.approx(expected, rel=0.25), column


def test_a_seed_determines_the_particles(average):
    one, two, other = (synthetic.synthetic_set(average, 300, noise="ssnr", rng=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.images, two.images)
    assert not np.array_equal(one.images, other.images)


def test_class_averages_are_read_and_resized(tmp_path, average):
    picture = np.full((64, 64), 50, np.uint8)
    picture[20:40, 25:40] = 200
    skimage.io.imsave(tmp_path / "average.png", picture, check_contrast=False)
    read = synthetic.read_class_average(tmp_path / "average.png", pixel_size_angstrom=2.0, image_size=32)
    assert read.image.shape == (32, 32)
    assert read.pixel_size_angstrom == 4.0
    assert read.image.std() == pytest.approx(1, rel=FLOAT32)
    assert abs(read.image[0, 0]) < 0.05
    write_stack(tmp_path / "classes.mrcs", average.image[None], pixel_size_angstrom=3.0)
    of_stack = synthetic.read_class_average(
        tmp_path / "classes.mrcs", pixel_size_angstrom=3.0, image_size=SIZE
    )
    given = synthetic.class_average_from_array(average.image, pixel_size_angstrom=3.0, image_size=SIZE)
    np.testing.assert_allclose(of_stack.image, given.image, atol=FLOAT32)
    assert of_stack.pixel_size_angstrom == given.pixel_size_angstrom == 3.0


def test_unsuitable_class_averages_are_refused(tmp_path):
    skimage.io.imsave(tmp_path / "flat.png", np.full((20, 20), 9, np.uint8), check_contrast=False)
    skimage.io.imsave(tmp_path / "wide.png", np.eye(20, 30, dtype=np.uint8), check_contrast=False)
    (tmp_path / "text.png").write_text("not a picture")
    for name, sentence in (
        ("flat.png", "must not be constant"),
        ("wide.png", "must be square, got shape"),
        ("text.png", "is not a JPEG, PNG or TIFF file"),
        ("absent.png", "absent.png does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            synthetic.read_class_average(tmp_path / name, pixel_size_angstrom=1.0)


@pytest.mark.parametrize("limit", [-1, 2.9, SIZE // 2 + 1, np.nan])
def test_shifts_stay_inside_the_image(average, limit):
    with pytest.raises(ValueError, match="shift_limit_px must be"):
        synthetic.synthetic_set(average, 2, shift_limit_px=limit)
