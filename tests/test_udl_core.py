"""Spectra, classical methods, synthetic particles, registration and training of the two-dimensional alignment."""

from __future__ import annotations

import numpy as np
import pytest

from cryoem.particles import write_stack
from cryoem.udl import classical, registration, spectra, synthetic, training
from cryoem.udl.aligner import Aligner
from cryoem.udl.network import build_polar_network
from cryoem.udl.rotation import rotate_images

SIZE = 48
FLOAT32 = 1e-4


@pytest.fixture(scope="module")
def average():
    return synthetic.phantom_class_average(image_size=SIZE)


@pytest.fixture(scope="module")
def noisy(average):
    return synthetic.simulate_particles(average, 120, noise="noise", shift_limit_px=3, rng=3)


# --- spectra


@pytest.mark.parametrize("size", [47, 48])
def test_a_turn_moves_the_spectrum_on_and_a_shift_leaves_it(average, size):
    image = synthetic.phantom_class_average(image_size=size).image[None]
    grid = spectra.polar_grid(size)
    turned = rotate_images(image, np.array([10 * grid.period_rad / grid.n_angles]))
    still, moved = (spectra.without_rings(spectra.polar_spectra(x, grid))[0] for x in (image, turned))
    strong = slice(0, 10)  # rings that hold the particle
    assert np.corrcoef(np.roll(still, 10, axis=0)[:, strong].ravel(), moved[:, strong].ravel())[0, 1] > 0.99
    shifted = np.roll(image, (3, -2), axis=(1, 2))
    after = spectra.without_rings(spectra.polar_spectra(shifted, grid))[0]
    assert np.corrcoef(still[:, strong].ravel(), after[:, strong].ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("symmetry", "periods"), [("C1", 2), ("C2", 2), ("C3", 6), ("C4", 4), ("C5", 10), ("c6", 6)]
)
def test_symmetry_divides_the_period(symmetry, periods):
    grid = spectra.polar_grid(64, symmetry=symmetry)
    assert grid.periods == periods
    assert grid.period_rad == pytest.approx(2 * np.pi / periods)


def test_a_symmetric_class_is_read_within_its_period(average):
    third = rotate_images(np.repeat(average.image[None], 3, 0), 2 * np.pi * np.arange(3) / 3).mean(axis=0)
    angles = np.array([0.1, 0.5, 0.9])
    images = rotate_images(np.repeat(third[None], 3, 0), angles)
    grid = spectra.polar_grid(SIZE, symmetry="C3")
    polar = spectra.polar_spectra(images, grid)
    found = classical.pair_angles(polar[:1], polar, period_rad=grid.period_rad)
    error = classical.wrapped(found - (angles - angles[0]), grid.period_rad)
    assert np.abs(error).max() < np.deg2rad(0.5)


@pytest.mark.parametrize("symmetry", ["D2", "C0", "C", "", 3, None])
def test_only_cyclic_groups_lie_in_the_plane(symmetry):
    with pytest.raises(ValueError, match="symmetry must be a cyclic group"):
        spectra.polar_grid(64, symmetry=symmetry)


def test_spectra_refuse_what_has_none():
    grid = spectra.polar_grid(SIZE)
    images = np.random.default_rng(0).standard_normal((3, SIZE, SIZE))
    images[1] = 4
    with pytest.raises(ValueError, match="got 1 constant ones, first 1"):
        spectra.polar_spectra(images, grid)
    with pytest.raises(ValueError, match=f"images must be {SIZE} px a side for this model, got 32"):
        spectra.polar_spectra(images[:, :32, :32], grid)
    with pytest.raises(ValueError, match="below the Nyquist frequency 24"):
        spectra.PolarGrid(48, n_radii=40)


# --- classical


def test_pairs_of_clean_images_are_read_to_a_fraction_of_a_degree(average):
    particles = synthetic.simulate_particles(average, 20, noise="clean", shift_limit_px=3, ctf=None, rng=0)
    polar = spectra.polar_spectra(particles.images, spectra.polar_grid(SIZE))
    found = classical.pair_angles(polar[:-1], polar[1:])
    error = classical.wrapped(found - np.diff(particles.angles_rad), np.pi)
    assert np.abs(error).max() < np.deg2rad(1)
    mellin = classical.fourier_mellin_angles(particles.images[:-1], particles.images[1:])
    mellin_error = classical.wrapped(mellin - np.diff(particles.angles_rad), np.pi)
    assert np.median(np.abs(mellin_error)) < np.deg2rad(3)


def test_pairs_of_different_numbers_are_refused():
    with pytest.raises(ValueError, match=r"first and second must match, got \(4, 8, 3\) and \(2, 8, 3\)"):
        classical.pair_angles(np.ones((4, 8, 3)), np.ones((2, 8, 3)))


@pytest.mark.parametrize(("wrong", "tolerance_deg"), [(0.0, 1e-6), (0.3, 12.0)])
def test_angles_of_pairs_are_synchronised(wrong, tolerance_deg):
    rng = np.random.default_rng(0)
    true = rng.uniform(0, np.pi, 200)
    pairs = classical.neighbour_pairs(200, 8, rng=1)
    assert np.all(pairs[:, 0] != pairs[:, 1])
    angles = true[pairs[:, 1]] - true[pairs[:, 0]]
    bad = rng.random(len(pairs)) < wrong
    angles[bad] = rng.uniform(0, np.pi, bad.sum())
    found = classical.synchronise(pairs, angles)
    assert training.joint_error_deg(found, true) < tolerance_deg


def test_the_template_of_all_beats_pairs(noisy):
    polar = spectra.polar_spectra(noisy.images, spectra.polar_grid(SIZE))
    pairs = classical.pair_angles(polar[:-1], polar[1:])
    pair_error = np.degrees(np.abs(classical.wrapped(pairs - np.diff(noisy.angles_rad), np.pi)).mean())
    angles, template = classical.iterated_template(polar)
    assert template.shape == polar.shape[1:]
    assert training.joint_error_deg(angles, noisy.angles_rad) < 0.5 * pair_error


# --- synthetic particles


def test_particles_are_the_average_turned_and_shifted(average):
    particles = synthetic.simulate_particles(average, 5, noise="clean", shift_limit_px=3, ctf=None, rng=0)
    assert np.abs(particles.shifts_px).max() <= 3
    expected = rotate_images(np.repeat(average.image[None], 5, 0), particles.angles_rad, particles.shifts_px)
    np.testing.assert_allclose(particles.images, expected, atol=FLOAT32)
    back = registration.align_images(particles.images, particles.angles_rad, particles.shifts_px)
    inside = registration.circular_mask(SIZE) > 0
    for image in back:
        assert np.corrcoef(image[inside], average.image[inside])[0, 1] > 0.99


def test_noise_has_the_strength_it_says(average):
    clean, white, coloured = (
        synthetic.simulate_particles(average, 300, noise=noise, rng=5) for noise in synthetic.NOISES
    )
    np.testing.assert_array_equal(clean.angles_rad, coloured.angles_rad)  # the same particles in all three
    ratio = (white.images - clean.images).var(axis=(1, 2)) / clean.images.var(axis=(1, 2))
    assert ratio.mean() == pytest.approx(10, rel=0.02)
    added = np.abs(np.fft.fft2(coloured.images - white.images))
    mean = np.abs(np.fft.fft2(white.images)).mean(axis=(1, 2))
    reach = 10 / average.pixel_size_angstrom
    frequency = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(SIZE) * SIZE]))
    assert added[:, frequency > reach + 1e-6].max() < 1e-3 * mean.max()
    within = frequency <= reach
    power = (added[:, within] ** 2).mean() / (mean**2).mean()
    assert power == pytest.approx(2 * 3**2, rel=0.05)  # real and imaginary part each
    for column in np.flatnonzero(within.any(axis=0)):
        power = (added[:, within[:, column], column] ** 2).mean() / (mean**2).mean()
        assert power == pytest.approx(2 * 3**2, rel=0.25), column  # of few elements, some columns


def test_the_same_seed_gives_the_same_particles(average):
    one, two, other = (
        synthetic.simulate_particles(average, 300, noise="ssnr", rng=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.images, two.images)
    assert not np.array_equal(one.images, other.images)


def test_class_averages_are_read_and_resized(tmp_path):
    import skimage.io

    picture = np.full((64, 64), 50, np.uint8)
    picture[20:40, 25:40] = 200
    skimage.io.imsave(tmp_path / "average.png", picture, check_contrast=False)
    average = synthetic.read_class_average(tmp_path / "average.png", pixel_size_angstrom=2.0, image_size=32)
    assert average.image.shape == (32, 32)
    assert average.pixel_size_angstrom == 4.0
    assert average.image.std() == pytest.approx(1, rel=FLOAT32)
    assert abs(average.image[0, 0]) < 0.05
    skimage.io.imsave(tmp_path / "flat.png", np.full((20, 20), 9, np.uint8), check_contrast=False)
    skimage.io.imsave(tmp_path / "wide.png", picture[:30], check_contrast=False)
    (tmp_path / "text.png").write_text("no picture")
    for name, sentence in (
        ("flat.png", "must have structure"),
        ("wide.png", "must be square, got shape"),
        ("text.png", "must be a JPEG, PNG or TIFF file"),
        ("absent.png", "no picture at"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            synthetic.read_class_average(tmp_path / name, pixel_size_angstrom=1.0)


def test_class_averages_come_from_stacks_and_arrays_too(tmp_path, average):
    write_stack(tmp_path / "classes.mrcs", average.image[None], pixel_size_angstrom=3.0)
    read = synthetic.read_class_average(tmp_path / "classes.mrcs", pixel_size_angstrom=3.0, image_size=SIZE)
    given = synthetic.class_average(average.image, pixel_size_angstrom=3.0, image_size=SIZE)
    np.testing.assert_allclose(read.image, given.image, atol=FLOAT32)
    assert read.pixel_size_angstrom == given.pixel_size_angstrom == 3.0


@pytest.mark.parametrize("limit", [-1, 2.9, SIZE // 2 + 1, np.nan])
def test_shifts_stay_within_the_image(average, limit):
    with pytest.raises(ValueError, match="shift_limit_px must be"):
        synthetic.simulate_particles(average, 2, shift_limit_px=limit)


# --- registration


def test_registration_finds_twins_shifts_and_angles(average):
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 30)
    shifts = rng.uniform(-4, 4, (30, 2))
    images = rotate_images(np.repeat(average.image[None], 30, 0), angles, shifts)
    reference = registration.filter_reference(average.image, registration.mean_power(images))
    start = angles + np.deg2rad(2) * rng.choice([-1, 1], 30) + np.pi * rng.integers(0, 2, 30)
    found = registration.register(images, reference, start, steps=5)
    assert np.abs(classical.wrapped(found.angles_rad - angles, 2 * np.pi)).max() < np.deg2rad(0.5)
    assert np.abs(found.shifts_px - shifts).max() < 0.2
    coarse = registration.register(images, reference, start, steps=0)
    assert np.abs(classical.wrapped(coarse.angles_rad - start, np.pi)).max() < 1e-9


def test_registration_needs_a_reference_with_structure():
    power = np.ones((SIZE, SIZE // 2 + 1))
    with pytest.raises(ValueError, match="reference must have structure"):
        registration.filter_reference(np.ones((SIZE, SIZE)), power)


# --- network and training


def test_the_network_turns_with_its_spectra():
    grid = spectra.polar_grid(SIZE)
    polar = np.random.default_rng(0).standard_normal((4, grid.n_angles, grid.n_radii)).astype(np.float32)
    network = build_polar_network(grid)
    network.set_weights(
        [w + 0.1 * np.random.default_rng(1).standard_normal(w.shape) for w in network.get_weights()]
    )
    aligner = Aligner(network, grid)
    still, moved = (aligner.angles_of_spectra(x) for x in (polar, np.roll(polar, 7, axis=1)))
    step = 7 * grid.period_rad / grid.n_angles
    assert np.abs(classical.wrapped(moved - still - step, grid.period_rad)).max() < 1e-4


def test_a_warm_start_is_the_template():
    grid = spectra.polar_grid(SIZE)
    template = np.random.default_rng(0).standard_normal((grid.n_angles, grid.n_radii)).astype(np.float32)
    template = spectra.without_rings(template)
    network = build_polar_network(grid)
    network.get_layer("template").warm_start(template)
    steps = np.array([0, 5, 90])
    turned = np.stack([np.roll(template, step, axis=0) for step in steps])
    expected = steps * grid.period_rad / grid.n_angles
    found = Aligner(network, grid).angles_of_spectra(turned)
    assert np.abs(classical.wrapped(found - expected, grid.period_rad)).max() < 1e-3


@pytest.mark.parametrize("method", training.METHODS)
def test_training_keeps_a_history_and_watches_the_truth_only(noisy, method):
    watched = training.train(
        noisy.images, method=method, epochs=2, batch_size=32, true_angles_rad=noisy.angles_rad
    )
    blind = training.train(noisy.images, method=method, epochs=2, batch_size=32)
    assert {"loss", "val_loss", "val_error_deg", "seconds", "step"} <= set(watched.history)
    assert all(len(values) == 2 for values in watched.history.values())
    np.testing.assert_allclose(
        watched.aligner.angles(noisy.images), blind.aligner.angles(noisy.images), atol=1e-3
    )
    assert training.joint_error_deg(blind.aligner.angles(noisy.images), noisy.angles_rad) < 10
    assert (blind.aligner.reference is None) == (method == "udl")
    same = blind.aligner.between(noisy.images[:5], noisy.images[:5])
    assert np.abs(classical.wrapped(same, np.pi)).max() < 1e-6  # no bias to calibrate


def test_training_teaches_what_the_start_lacks(average):
    particles = synthetic.simulate_particles(average, 600, noise="clean", shift_limit_px=3, rng=3)
    watch = {"epochs": 3, "batch_size": 16, "true_angles_rad": particles.angles_rad}
    joint = training.train(particles.images, method="judl", **watch)
    assert joint.history["val_error_deg"][-1] < 0.85 * joint.untrained["val_error_deg"]
    pairs = training.train(particles.images, method="udl", warm_start=False, learning_rate=3e-3, **watch)
    assert pairs.untrained["val_error_deg"] > 20
    assert pairs.history["val_error_deg"][-1] < 2
    assert pairs.history["val_loss"][-1] < 0.1 * pairs.untrained["val_loss"]


def test_an_interrupted_training_goes_on_with_the_same_numbers(noisy, tmp_path):
    arguments = {"method": "udl", "batch_size": 32, "epochs": 3}
    whole = training.train(noisy.images, **arguments)
    training.train(noisy.images, **arguments, seconds=1e-9, checkpoints=tmp_path / "state")
    resumed = training.train(noisy.images, **arguments, checkpoints=tmp_path / "state")
    assert len(resumed.history["loss"]) == 3
    np.testing.assert_allclose(resumed.history["val_loss"], whole.history["val_loss"], rtol=1e-4)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"method": "judl"}, "method 'udl' and not 'judl';"),
        ({"epochs": 4}, "epochs 3 and not 4;"),
        ({"rng": 1}, "rng '.{16}' and not '.{16}';"),
        ({"learning_rate": 2e-3}, "learning_rate 0.001 and not 0.002;"),
        ({"images": slice(None, None, -1)}, "images '.{16}' and not '.{16}';"),
    ],
)
def test_the_state_of_another_training_is_refused(noisy, tmp_path, changed, sentence):
    arguments = {"method": "udl", "batch_size": 32, "epochs": 3, "checkpoints": tmp_path}
    training.train(noisy.images, **arguments, seconds=1e-9)
    changed = changed.copy()
    images = noisy.images[changed.pop("images", slice(None))]
    with pytest.raises(ValueError, match=f"are of another training, with {sentence}"):
        training.train(images, **(arguments | changed))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "magic"}, "method must be one of udl, judl, got 'magic'"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be a positive number"),
        ({"seconds": -5}, "seconds must be a positive number, got -5"),
        ({"validation_fraction": 0.9}, "validation_fraction must be above 0 and at most 0.5, got 0.9"),
        ({"true_angles_rad": np.zeros(3)}, "true_angles_rad must be 120, got 3"),
        ({"symmetry": "D7"}, "symmetry must be a cyclic group"),
    ],
)
def test_training_says_what_is_wrong(noisy, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        training.train(noisy.images, **arguments)


def test_errors_are_counted_modulo_the_period():
    true = np.array([0.0, 1.0, 2.0, 3.0])
    assert training.joint_error_deg(true + 0.7 + np.pi * np.arange(4), true) == pytest.approx(0, abs=0.02)
    assert training.pair_error_deg(true + np.pi, true) == pytest.approx(0, abs=1e-9)
    off = true + np.array([0, 0.1, 0, 0.1])
    assert training.pair_error_deg(off, true) == pytest.approx(np.degrees(0.1))
    assert training.joint_error_deg(off, true) == pytest.approx(np.degrees(0.05), abs=0.02)
