"""Image formation: the unit of the images, noise, sub-pixel shifts, contrast transfer, Fourier cropping."""

import numpy as np
import pytest
from small_projections import INTERPOLATION, relative

from cryoem import imaging
from cryoem.imaging import ContrastTransfer, add_noise, apply_ctf, downsample, shift, simulate
from cryoem.projectors import project
from cryoem.rotations import random_rotations, viewing_directions
from cryoem.volumes import DensityMap, phantom, resample

FLOAT32 = 1e-5  # a few transforms of numbers of order 1 in single precision
SIGMAS = 5  # of a statistical estimate: one false alarm in a million


@pytest.fixture(scope="module")
def particle() -> DensityMap:
    return phantom(size=24)


def blob(
    size: int, centre_px, width_px: float, *, step: float = 1.0, period: float | None = None
) -> np.ndarray:
    """A periodic Gaussian at (x, y) from the origin, sampled every ``step`` px: (size, size) float64."""
    period = size * step if period is None else period
    position = (np.arange(size) - size // 2) * step
    x, y = (
        sum(np.exp(-((position - c + k * period) ** 2) / (2 * width_px**2)) for k in (-1, 0, 1))
        for c in centre_px
    )
    return y[:, None] * x


def without_nyquist(images: np.ndarray) -> np.ndarray:
    """Even images without their highest frequency, whose phase a real image cannot hold."""
    spectra = np.fft.fft2(images)
    half = images.shape[1] // 2
    spectra[:, half] = spectra[:, :, half] = 0
    return np.fft.ifft2(spectra).real.astype(np.float32)


# --- simulate: units


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("ctf", [None, ContrastTransfer()], ids=["no ctf", "ctf"])
def test_images_made_when_asked_for_are_those_of_the_simulation(particle, size, ctf):
    options = {"image_size": 20, "noise_variance": 1.0, "shift_limit_px": 2.0, "ctf": ctf, "coverage": "half"}
    expected = simulate(particle, 30, **options, rng=3)
    series = imaging.simulate_lazily(particle, 30, **options, rng=3)
    assert (len(series), series.image_size, series.pixel_size_angstrom) == (30, 20, 4.0)
    np.testing.assert_array_equal(series.rotations.as_quat(), expected.rotations.as_quat())
    np.testing.assert_array_equal(series.shifts_px, expected.shifts_px)
    np.testing.assert_array_equal(series.defocus_angstrom, expected.defocus_angstrom)
    assert series.ctf is ctf
    blocks = list(series.blocks(size))
    assert [len(block) for block in blocks] == [min(size, 30 - start) for start in range(0, 30, size)]
    np.testing.assert_array_equal(np.concatenate(blocks), expected.images)
    np.testing.assert_array_equal(np.concatenate(list(series.blocks(size))), expected.images)  # again


@pytest.mark.parametrize("coverage", ["so3", "euler", "half", "quarter", "preferred"])
def test_clean_images_have_variance_one(particle, coverage):
    images = simulate(particle, 1000, coverage=coverage, rng=3).images
    # the unit comes from a few projections, and the power of an image depends on its direction
    spread = np.square(images - images.mean()).mean(axis=(1, 2)).std()
    standard_error = spread * np.sqrt(1 / imaging.REFERENCE_PROJECTIONS + 1 / len(images))
    assert images.var() == pytest.approx(1, abs=SIGMAS * standard_error)
    assert standard_error < 0.03


@pytest.mark.parametrize("ctf", [None, ContrastTransfer()])
def test_clean_images_have_variance_1_as_they_are_seen(particle, ctf):
    images = simulate(particle, 600, ctf=ctf, rng=3).images
    assert images.var() == pytest.approx(
        1, abs=0.03
    )  # another draw of orientations and defoci than the unit's


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_scale_of_the_map_does_not_matter(particle, scale):
    images = simulate(particle, 4, rng=0).images
    scaled = DensityMap(scale * particle.data, particle.voxel_size_angstrom)
    np.testing.assert_allclose(simulate(scaled, 4, rng=0).images, images, atol=FLOAT32 * images.max())


def test_the_stack_says_what_made_the_images(particle):
    stack = simulate(particle, 5, image_size=30, coverage="quarter", symmetry="C2", rng=1)
    clean = project(particle.data, stack.rotations, image_size=30)
    deviation = imaging.clean_deviation(particle, image_size=30, coverage="quarter")
    np.testing.assert_allclose(stack.images, clean / deviation, atol=FLOAT32 * stack.images.max())
    assert stack.images.dtype == np.float32
    assert stack.pixel_size_angstrom == particle.voxel_size_angstrom
    assert stack.symmetry == "C2"
    assert not stack.shifts_px.any()
    assert stack.defocus_angstrom is None
    x, y, z = viewing_directions(simulate(particle, 50, coverage="quarter", rng=1).rotations).T
    assert (z >= 0).all()
    assert (y >= -1e-12).all()  # rounding of the sine of pi
    assert (x < 0).any()


def test_images_are_those_of_the_seed(particle):
    options = {"noise_variance": 2.0, "shift_limit_px": 3.0, "ctf": ContrastTransfer()}
    a, b, other = (simulate(particle, 3, rng=seed, **options) for seed in (1, 1, 2))
    for name in ("images", "shifts_px", "defocus_angstrom"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert not np.array_equal(getattr(a, name), getattr(other, name))
    np.testing.assert_array_equal(a.rotations.as_quat(), b.rotations.as_quat())
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(simulate(particle, 3, rng=rng, **options).images, a.images)
    assert not np.array_equal(simulate(particle, 3, rng=rng, **options).images, a.images)


def test_shift_then_contrast_then_noise(particle):
    ctf = ContrastTransfer()
    stack = simulate(particle, 400, noise_variance=4.0, shift_limit_px=3.0, ctf=ctf, rng=5)
    clean = project(particle.data, stack.rotations) / imaging.clean_deviation(
        particle, image_size=24, ctf=ctf
    )
    expected = shift(clean, stack.shifts_px)
    expected = apply_ctf(expected, ctf, stack.defocus_angstrom, pixel_size_angstrom=4.0)
    noise = stack.images - expected
    # the highest frequency of the even image is all that the order of the two filters can change
    standard_error = 4.0 * np.sqrt(2 / noise.size)
    assert noise.var() == pytest.approx(4.0, abs=SIGMAS * standard_error)
    low, high = ctf.defocus_angstrom
    assert low <= stack.defocus_angstrom.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < stack.defocus_angstrom.max() <= high


def test_shifts_are_triangular(particle):
    shifts = simulate(particle, 4000, image_size=8, shift_limit_px=2.0, rng=0).shifts_px
    assert shifts.shape == (4000, 2)
    assert 1.9 < np.abs(shifts).max() <= 2.0
    deviation = 2 / np.sqrt(6)
    np.testing.assert_allclose(shifts.mean(axis=0), 0, atol=SIGMAS * deviation / np.sqrt(4000))
    np.testing.assert_allclose(shifts.std(axis=0), deviation, rtol=SIGMAS / np.sqrt(4000))
    assert abs(np.corrcoef(shifts.T)[0, 1]) < SIGMAS / np.sqrt(4000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_variance": -0.5}, "noise_variance must be a finite number of at least 0, got -0.5"),
        ({"shift_limit_px": -1}, "shift_limit_px must be a finite number of at least 0, got -1"),
        ({"n": 0}, "n must be .*at least 1, got 0"),
        (
            {"coverage": "sphere"},
            "coverage must be one of so3, euler, half, quarter, preferred, got 'sphere'",
        ),
        ({"image_size": 1}, "image_size must be a whole number of at least 2.*, got 1"),
        ({"backend": "magic"}, "backend must be one of auto, fourier, astra, got 'magic'"),
    ],
)
def test_a_wrong_simulation_is_one_sentence(particle, options, message):
    with pytest.raises(ValueError, match=message):
        simulate(particle, **({"n": 2, "rng": 0} | options))


@pytest.mark.parametrize("name", ["noise_variance", "shift_limit_px"])
def test_nan_is_refused_by_the_name_of_its_argument(particle, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        simulate(particle, 2, rng=0, **{name: float("nan")})


def test_an_empty_map_is_refused():
    nothing = DensityMap(np.zeros((8, 8, 8)), 1.0)
    with pytest.raises(ValueError, match="density_map must have structure"):
        simulate(nothing, 2, rng=0)


# --- noise


@pytest.mark.parametrize("variance", [0.25, 16.0])
def test_noise_is_white_and_has_the_variance_asked_for(particle, variance):
    clean = simulate(particle, 400, rng=2).images
    noise = simulate(particle, 400, noise_variance=variance, rng=2).images - clean
    assert noise.var() == pytest.approx(variance, rel=SIGMAS * np.sqrt(2 / noise.size))
    assert abs(noise.mean()) < SIGMAS * np.sqrt(variance / noise.size)
    for neighbour in (np.roll(noise, 1, axis=0), np.roll(noise, 1, axis=1), np.roll(noise, 1, axis=2)):
        assert abs((noise * neighbour).mean()) < SIGMAS * variance / np.sqrt(noise.size)
    assert abs((noise * clean).mean()) < SIGMAS * np.sqrt(variance / noise.size)


def test_noise_needs_no_global_state():
    images = np.zeros((2, 8, 8), np.float32)
    a, b = add_noise(images, 2.0, rng=4), add_noise(images, 2.0, rng=np.random.default_rng(4))
    np.testing.assert_array_equal(a, b)
    assert a.dtype == np.float32
    assert not images.any()
    np.testing.assert_array_equal(add_noise(images, 0.0, rng=4), images)


def test_noise_of_negative_variance_is_refused():
    with pytest.raises(ValueError, match=r"^variance must be a finite number of at least 0, got -1"):
        add_noise(np.zeros((1, 8, 8)), -1, rng=0)


# --- shift


@pytest.mark.parametrize("size", [32, 33])
def test_a_blob_moves_by_the_fraction_asked_for(size):
    moves = np.array([[2.3, 0.0], [0.0, 2.3], [-1.7, 3.6], [0.5, -0.5]])  # (x, y)
    start = np.array([1.0, -2.0])
    images = np.repeat(blob(size, start, 2.0)[None], len(moves), axis=0)
    moved = shift(images, moves)
    assert moved.shape == images.shape
    assert moved.dtype == np.float32
    for image, move in zip(moved, moves, strict=True):
        np.testing.assert_allclose(image, blob(size, start + move, 2.0), atol=FLOAT32)


@pytest.mark.parametrize("size", [24, 25])
def test_a_whole_shift_rolls_the_pixels(size, rng):
    images = rng.normal(size=(3, size, size)).astype(np.float32)
    moves = np.array([[3, 0], [0, -2], [-5, 7]])
    rolled = [np.roll(image, (y, x), axis=(0, 1)) for image, (x, y) in zip(images, moves, strict=True)]
    np.testing.assert_allclose(shift(images, moves), rolled, atol=FLOAT32)
    np.testing.assert_allclose(shift(images, np.full((3, 2), float(size))), images, atol=FLOAT32)


@pytest.mark.parametrize("size", [24, 25])
def test_a_shift_can_be_undone(size, rng):
    images = rng.normal(size=(4, size, size)).astype(np.float32)
    if size % 2 == 0:
        images = without_nyquist(images)
    moves = rng.uniform(-4, 4, (4, 2))
    moved = shift(images, moves)
    assert relative(moved, images) > 0.5
    np.testing.assert_allclose(shift(moved, -moves), images, atol=FLOAT32)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 2), r"shifts_px must be \(3, 2\), got \(2, 2\)"),
        ((3, 3), r"shifts_px must be \(3, 2\), got \(3, 3\)"),
        ((2, 3), r"shifts_px must be \(3, 2\), got \(2, 3\)"),
        ((3,), r"shifts_px must be a non-empty array with 2 axes, got shape \(3,\)"),
    ],
)
def test_shifts_of_a_wrong_shape_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        shift(np.zeros((3, 8, 8), np.float32), np.zeros(shape))


def test_images_to_shift_must_be_square():
    with pytest.raises(ValueError, match=r"images must be \(n, y, x\) with y == x, got \(3, 8, 12\)"):
        shift(np.zeros((3, 8, 12), np.float32), np.zeros((3, 2)))


# --- contrast transfer


def test_particles_are_dark_in_underfocus():
    image = blob(64, (0, 0), 6.0)[None]
    seen = apply_ctf(image, ContrastTransfer(), np.array([5e3]), pixel_size_angstrom=3.0)[0]
    assert seen[32, 32] == seen.min() < 0


@pytest.mark.parametrize("size", [24, 25])
def test_contrast_multiplies_the_transform(size, rng):
    images = rng.normal(size=(3, size, size)).astype(np.float32)
    defocus = np.array([5e3, 1e4, 2e4])
    seen = apply_ctf(images, ContrastTransfer(), defocus, pixel_size_angstrom=2.5)
    ky, kx = np.meshgrid(*2 * [np.fft.fftfreq(size, d=2.5)], indexing="ij")
    transfer = ContrastTransfer().at(np.hypot(kx, ky).ravel(), defocus).reshape(3, size, size)
    np.testing.assert_allclose(seen, np.fft.ifft2(np.fft.fft2(images) * transfer).real, atol=FLOAT32)
    assert seen.dtype == np.float32


@pytest.mark.parametrize(
    "defocus", [np.array([5e3]), np.array([5e3, 1e4]), np.float64(5e3)], ids=["1", "2", "scalar"]
)
def test_contrast_asks_for_a_defocus_for_each_image(defocus):
    with pytest.raises(ValueError, match=r"^defocus_angstrom must"):
        apply_ctf(np.zeros((3, 8, 8), np.float32), ContrastTransfer(), defocus, pixel_size_angstrom=2.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("amplitude_contrast", 1.5), ("voltage_kv", -300.0), ("defocus_angstrom", (2e4, 5e3))],
)
def test_impossible_microscopes_are_refused(particle, name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        simulate(particle, 2, ctf=ContrastTransfer(**{name: value}), rng=0)


# --- downsample

PARITIES = [(32, 24), (32, 21), (33, 24), (33, 21), (33, 32), (32, 31)]


@pytest.mark.parametrize(("full", "size"), PARITIES)
def test_the_origin_and_the_values_stay_when_pixels_grow(full, size):
    for centre_px in ((0.0, 0.0), (2.4, -1.1)):
        image = blob(full, centre_px, 3.0)[None]
        small = downsample(image, size)
        assert small.shape == (1, size, size)
        expected = blob(size, centre_px, 3.0, step=full / size, period=full)
        np.testing.assert_allclose(small[0], expected, atol=FLOAT32)


@pytest.mark.parametrize(("full", "size"), PARITIES)
def test_a_point_at_the_origin_stays_symmetric_about_it(full, size):
    image = np.zeros((1, full, full), np.float32)
    image[0, full // 2, full // 2] = 1
    small = downsample(image, size)[0]
    assert np.unravel_index(small.argmax(), small.shape) == (size // 2, size // 2)
    around = small[1 - size % 2 :, 1 - size % 2 :]  # without the row and column that have no partner
    np.testing.assert_allclose(around, around[::-1, ::-1], atol=FLOAT32)
    np.testing.assert_allclose(small, small.T, atol=FLOAT32)


@pytest.mark.parametrize(("full", "size"), [(32, 24), (33, 24), (32, 21), (33, 21)])
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
def test_white_noise_shrinks_with_the_band(full, size, rng):
    noise = rng.normal(scale=3.0, size=(300, full, full)).astype(np.float32)
    small = downsample(noise, size)
    expected = 9.0 * (size / full) ** 2
    # the highest frequency of an even image keeps its real half: that is one row and one column of the spectrum
    lost = 0.0 if size % 2 else 1 / size
    statistical = SIGMAS * np.sqrt(2 / small.size)
    assert 1 - lost - statistical < small.var() / expected < 1 + statistical


def test_downsampling_to_the_same_size_changes_nothing(rng):
    images = rng.normal(size=(2, 9, 9)).astype(np.float32)
    np.testing.assert_array_equal(downsample(images, 9), images)


def test_downsampling_twice_is_downsampling_once():
    images = blob(45, (1.3, 0.4), 3.0)[None]
    np.testing.assert_allclose(downsample(downsample(images, 33), 25), downsample(images, 25), atol=FLOAT32)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((2, 9, 9), 10, "size must be between 2 and the images' 9 px, got 10"),
        ((2, 9, 9), 1, "size must be between 2 and the images' 9 px, got 1"),
        ((9, 9), 4, r"images must be a non-empty array with 3 axes, got shape \(9, 9\)"),
        ((2, 9, 8), 4, r"images must be \(n, y, x\) with y == x, got \(2, 9, 8\)"),
    ],
)
def test_a_wrong_downsampling_is_one_sentence(shape, size, message):
    with pytest.raises(ValueError, match=message):
        downsample(np.zeros(shape, np.float32), size)


def test_background_is_taken_off_each_image(rng):
    images = rng.normal(size=(3, 20, 20)).astype(np.float32)
    offsets = np.array([5.0, -3.0, 100.0], np.float32)[:, None, None]
    np.testing.assert_allclose(
        imaging.without_background(images + offsets), imaging.without_background(images), atol=1e-4
    )
