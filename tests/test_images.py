"""Images: sub-pixel shifts, CTF, Fourier cropping, noise, background, odd and even sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_projections import INTERPOLATION, relative

from cryoem import images as im
from cryoem.contrast import ContrastTransfer, Optics
from cryoem.images import add_noise, apply_ctf, correct_images, downsample, flip_phases, shift
from cryoem.projection.projectors import project
from cryoem.rotations import random_rotations
from cryoem.volumes.density import DensityMap, resample

FLOAT32 = 1e-5  # several transforms of numbers of order 1 in single precision
SIGMAS = 5  # for a statistical estimate: one false alarm in a million
PARITIES = [(32, 24), (32, 31), (33, 24), (33, 21)]


def blob(size: int, centre_px, width_px: float, *, period: float | None = None) -> np.ndarray:
    """Return a Gaussian at (x, y) from the origin, periodic over ``size`` samples: (size, size) float64."""
    period = size if period is None else period
    position = (np.arange(size) - size // 2) * period / size
    x, y = (
        sum(np.exp(-((position - c + k * period) ** 2) / (2 * width_px**2)) for k in (-1, 0, 1))
        for c in centre_px
    )
    return y[:, None] * x


def optics(n: int, *, pixel=2.5, **constants) -> Optics:
    return Optics(pixel, ContrastTransfer(**constants), np.linspace(5e3, 2e4, n))


# --- Fourier half-planes


@pytest.mark.parametrize("size", [2, 3, 8, 9])
def test_half_planes_invert_and_their_weights_count_the_full_plane(size, rng):
    images = rng.normal(size=(2, size, size)).astype(np.float32)
    planes = im.half_planes_from_images(images)
    np.testing.assert_allclose(im.images_from_half_planes(planes, size), images, atol=FLOAT32)
    for ndim in (2, 3):
        values = rng.normal(size=(size,) * ndim)
        half = np.abs(np.fft.rfftn(values)) ** 2 * im.hermitian_weights(size, ndim=ndim)
        assert half.sum() == pytest.approx((np.abs(np.fft.fftn(values)) ** 2).sum())
    disc = im.fourier_disc(size)
    full = np.stack(np.meshgrid(*2 * [np.fft.fftfreq(size)]), axis=-1).reshape(-1, 2)
    assert 2 * disc.weights.sum() == np.count_nonzero(np.hypot(*full.T) < 0.5)
    np.testing.assert_array_equal(im.plane_frequencies(size)[disc.index], disc.frequencies)


def test_blocks_of_images_cover_all_of_them_once():
    images = np.zeros((10, 4, 4))
    for block_bytes, lengths in ((1, [1] * 10), (3 * 64, [3, 3, 3, 1]), (10**9, [10])):
        blocks = list(im.image_blocks(images, block_bytes=block_bytes))
        assert [block.stop - block.start for block in blocks] == lengths
        np.testing.assert_array_equal(np.concatenate([np.arange(10)[block] for block in blocks]), range(10))


@pytest.mark.parametrize("size", [16, 17])
def test_circular_masks_fall_within_their_edge(size):
    distance = im.distance_from_origin(size)
    assert distance[size // 2, size // 2] == 0
    radius = (size - 1) // 2
    for profile in ("linear", "cosine"):
        mask = im.circular_mask(size, edge_px=3.0, profile=profile)
        assert (mask[distance <= radius - 3] == 1).all()
        assert (mask[distance >= radius] == 0).all()
        inside = (distance > radius - 3) & (distance < radius)
        assert ((mask[inside] > 0) & (mask[inside] < 1)).all()


# --- shift


@pytest.mark.parametrize("size", [32, 33])
def test_a_blob_moves_by_a_fraction_of_a_pixel(size):
    moves = np.array([[2.3, 0.0], [0.0, 2.3], [-1.7, 3.6], [0.5, -0.5]])  # (x, y)
    start = np.array([1.0, -2.0])
    images = np.repeat(blob(size, start, 2.0)[None], len(moves), axis=0)
    moved = shift(images, moves)
    assert moved.shape == images.shape
    assert moved.dtype == np.float32
    for image, move in zip(moved, moves, strict=True):
        np.testing.assert_allclose(image, blob(size, start + move, 2.0), atol=FLOAT32)
    np.testing.assert_allclose(correct_images(moved, shifts_px=moves), images, atol=FLOAT32)


@settings(max_examples=25)
@given(
    size=st.integers(1, 16),
    shifts=arrays(int, (3, 2), elements=st.integers(-40, 40)),
    seed=st.integers(0, 99),
)
def test_whole_shifts_roll_pixels(size, shifts, seed):
    images = np.random.default_rng(seed).normal(size=(3, size, size)).astype(np.float32)
    moved = [np.roll(image, (y, x), axis=(0, 1)) for image, (x, y) in zip(images, shifts, strict=True)]
    np.testing.assert_allclose(shift(images, shifts.astype(float)), moved, atol=2e-4)


# --- CTF


@pytest.mark.parametrize("size", [24, 25])
def test_contrast_multiplies_the_transform_and_flipping_removes_its_signs(size, rng):
    images = rng.normal(size=(3, size, size)).astype(np.float32)
    seen = apply_ctf(images, optics(3))
    ky, kx = np.meshgrid(*2 * [np.fft.fftfreq(size, d=2.5)], indexing="ij")
    defoci = optics(3).defocus_angstrom
    transfer = ContrastTransfer().at(np.hypot(kx, ky).ravel(), defoci).reshape(3, size, size)
    np.testing.assert_allclose(seen, np.fft.ifft2(np.fft.fft2(images) * transfer).real, atol=FLOAT32)
    assert seen.dtype == np.float32
    flipped = np.fft.ifft2(np.fft.fft2(images) * np.abs(transfer)).real
    np.testing.assert_allclose(flip_phases(seen, optics(3)), flipped, atol=FLOAT32)
    np.testing.assert_array_equal(flip_phases(images, Optics(2.5)), images)
    # particles are dark at underfocus
    dark = apply_ctf(blob(64, (0, 0), 6.0)[None], Optics(3.0, ContrastTransfer(), np.array([5e3])))[0]
    assert dark[32, 32] == dark.min() < 0


@pytest.mark.parametrize(("full", "size"), [(24, 15), (25, 17)])
def test_one_pass_of_corrections_equals_one_after_another(full, size, rng):
    images = rng.normal(size=(3, full, full)).astype(np.float32)
    moves = rng.uniform(-3, 3, (3, 2))
    small = downsample(images, size)  # odd size, because the highest frequency of an even image has no phase
    coarse = Optics(2.5 * full / size, optics(3).ctf, optics(3).defocus_angstrom)
    expected = shift(flip_phases(small, coarse), -moves * size / full)
    found = correct_images(images, optics=optics(3), shifts_px=moves, size=size)
    np.testing.assert_allclose(found, expected, atol=FLOAT32)


# --- downsample


@pytest.mark.parametrize(("full", "size"), PARITIES)
def test_the_origin_and_the_values_stay_when_pixels_grow(full, size):
    for centre_px in ((0.0, 0.0), (2.4, -1.1)):
        small = downsample(blob(full, centre_px, 3.0)[None], size)
        assert small.shape == (1, size, size)
        expected = blob(size, centre_px, 3.0, period=full)
        np.testing.assert_allclose(small[0], expected, atol=FLOAT32)
    point = np.zeros((1, full, full), np.float32)
    point[0, full // 2, full // 2] = 1
    small = downsample(point, size)[0]
    assert np.unravel_index(small.argmax(), small.shape) == (size // 2, size // 2)
    around = small[1 - size % 2 :, 1 - size % 2 :]  # without the row and column that have no counterpart
    np.testing.assert_allclose(around, around[::-1, ::-1], atol=FLOAT32)
    np.testing.assert_allclose(small, small.T, atol=FLOAT32)


@pytest.mark.parametrize(("full", "size"), [(32, 24), (33, 21)])
def test_downsampling_is_projecting_a_coarser_map(full, size):
    position = np.arange(full) - full // 2
    z, y, x = np.meshgrid(position, position, position, indexing="ij")
    centres = [(-2, 1, 3), (3, -2, 0), (1, 4, -3), (-3, -3, -2)]
    density = sum(np.exp(-((z - c) ** 2 + (y - b) ** 2 + (x - a) ** 2) / (2 * 2.6**2)) for a, b, c in centres)
    fine = DensityMap(density, 2.0)
    rotations = random_rotations(5, rng=1)
    small = downsample(project(fine.data, rotations), size)
    step = full / size
    coarse = project(resample(fine, 2.0 * step).data, rotations, image_size=size) * step  # voxels along z
    assert relative(small, coarse) < INTERPOLATION


@pytest.mark.parametrize(("full", "size"), PARITIES)
def test_white_noise_shrinks_with_the_band_and_stays_white_with_flipped_phases(full, size, rng):
    noise = rng.normal(scale=3.0, size=(300, full, full)).astype(np.float32)
    strong = optics(300, pixel=1.0, b_factor_angstrom2=5000.0, amplitude_contrast=0.0)
    expected = 9.0 * (size / full) ** 2
    # at the highest frequency of an even image, in one row and column of the spectrum, only the real part is kept
    lost = 0.0 if size % 2 else 1 / size
    for small in (downsample(noise, size), correct_images(noise, optics=strong, size=size)):
        statistical = SIGMAS * np.sqrt(2 / small.size)
        assert 1 - lost - statistical < small.var() / expected < 1 + statistical


# --- noise and background


def test_noise_has_a_seed_and_its_variance():
    images = np.zeros((50, 32, 32), np.float32)
    a, b = add_noise(images, 2.0, rng=4), add_noise(images, 2.0, rng=np.random.default_rng(4))
    np.testing.assert_array_equal(a, b)
    assert a.dtype == np.float32
    assert a.var() == pytest.approx(2.0, rel=SIGMAS * np.sqrt(2 / a.size))
    assert not images.any()
    np.testing.assert_array_equal(add_noise(images, 0.0, rng=4), images)


def test_the_background_of_each_image_is_subtracted(rng):
    images = rng.normal(size=(3, 20, 20)).astype(np.float32)
    offsets = np.array([5.0, -3.0, 100.0], np.float32)[:, None, None]
    found = im.subtract_background(images + offsets)
    np.testing.assert_allclose(found, im.subtract_background(images), atol=1e-4)
    assert np.abs(found[:, 0, 0] - images[:, 0, 0]).max() < 1


# --- refusals

THREE = np.zeros((3, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (shift, (THREE, np.zeros((2, 2))), r"shifts_px must be \(3, 2\), got \(2, 2\)"),
        (apply_ctf, (THREE, Optics(1.0)), "optics must include a CTF, got ctf=None"),
        (
            apply_ctf,
            (THREE, optics(2)),
            "defocus_angstrom must have one entry for each of the 3 images, got 2",
        ),
        (downsample, (THREE, 10), "size must be between 2 and 8, the image size in pixels, got 10"),
        (add_noise, (THREE, -1), "variance must be a finite, non-negative number, got -1"),
    ],
)
def test_wrong_arguments_are_one_sentence(function, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        function(*arguments)
