"""Projection matching: coarse orientations become fine, true ones stay, and nothing but the images is used."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from unfit_images import unfit_images

from cryoem.evaluation import pose_error
from cryoem.projectors import project
from cryoem.reconstruction import reconstruct
from cryoem.refinement import refine
from cryoem.resolution import fourier_shell_correlation, masked_half_map_fsc
from cryoem.rotations import random_small_rotations
from cryoem.volumes import crop_or_pad, phantom

N = 200
PIXEL_ANGSTROM = 4.0
START = 0.1  # radians, mean error of the orientations that a refinement starts from
FIXED_POINT = 0.01  # radians that it may move true orientations of a 32-px particle: 0.1 px at its rim


def disturbed(rotations: Rotation, seed: int = 0) -> Rotation:
    """Orientations with a mean error of ``START``: in a ball it is three quarters of the radius."""
    vectors = random_small_rotations((len(rotations),), radius=START / 0.75, rng=seed)
    return Rotation.from_rotvec(vectors) * rotations


def refined(images, rotations, **options):
    return refine(images, rotations, **{"pixel_size_angstrom": PIXEL_ANGSTROM, "rng": 0} | options)


@pytest.fixture(scope="module")
def images(views):
    return views[0][:N]


@pytest.fixture(scope="module")
def true(views):
    return views[1][:N]


@pytest.fixture(scope="module")
def start(true):
    return disturbed(true)


@pytest.fixture(scope="module")
def result(images, start):
    return refined(images, start)


def test_coarse_orientations_become_fine(result, true, start):
    before = pose_error(true, start)
    assert before == pytest.approx(START, rel=0.1)
    assert pose_error(true, result.rotations) < before / 4


def test_an_odd_box_is_refined_too(true):
    images = project(phantom(size=33).data, true, backend="fourier")
    start = disturbed(true)
    assert pose_error(true, refined(images, start).rotations) < pose_error(true, start) / 4


def test_noisy_images_are_refined_too(images, true, start):
    noisy = images + np.random.default_rng(0).normal(scale=images.std(), size=images.shape)
    assert pose_error(true, refined(noisy, start).rotations) < pose_error(true, start) / 2


def test_the_map_gets_better(result, particle, images, start):
    coarse = reconstruct(images, start, pixel_size_angstrom=PIXEL_ANGSTROM).data
    before, after = (fourier_shell_correlation(particle, v).correlation for v in (coarse, result.map.data))
    assert (after[:-2] > before[:-2]).all()
    assert (after[:-2] > 0.98).all()
    np.testing.assert_allclose(
        result.map.data,
        reconstruct(images, result.rotations, pixel_size_angstrom=PIXEL_ANGSTROM).data,
        atol=1e-3 * result.map.data.max(),
    )


def test_true_orientations_stay(images, true):
    found = refined(images, true)
    assert (found.rotations * true.inv()).magnitude().mean() < FIXED_POINT
    assert pose_error(true, found.rotations) < FIXED_POINT


def test_clustered_views_stay(particle):
    true = Rotation.from_rotvec(random_small_rotations((N,), radius=0.4, rng=0))
    start = disturbed(true)
    found = refined(project(particle, true, backend="fourier"), start)
    assert pose_error(true, found.rotations) < pose_error(true, start)


@pytest.mark.parametrize("n", [16, 17, 30])
def test_few_images_do_not_make_it_worse(images, true, start, n):
    assert pose_error(true[:n], refined(images[:n], start[:n]).rotations) < pose_error(true[:n], start[:n])


def test_history_and_callback_tell_each_round(images, start):
    calls = []
    found = refined(
        images[:40],
        start[:40],
        search_rounds=2,
        gradient_rounds=1,
        tolerance=0.0,
        callback=lambda entry, rotations: calls.append((entry, rotations)),
    )
    assert [entry["kind"] for entry in found.history] == ["search", "search", "gradient"]
    assert [entry["round"] for entry in found.history] == [1, 2, 3]
    assert [entry for entry, _ in calls] == found.history
    np.testing.assert_array_equal(calls[-1][1].as_quat(), found.rotations.as_quat())
    first = (calls[0][1] * start[:40].inv()).magnitude().mean()
    assert found.history[0]["moved_rad"] == pytest.approx(first, rel=1e-6)


def test_matching_gets_better_and_steps_shorter(result):
    scores = [entry["score"] for entry in result.history]
    moved = [entry["moved_rad"] for entry in result.history]
    assert scores[-1] > scores[0]
    assert max(scores) <= 1 + 1e-5
    assert moved[-1] < 0.1 * moved[0]
    assert moved[0] <= 0.12


def test_refinement_returns_what_belongs_together(result):
    a, b = result.half_maps
    assert result.map.data.shape == a.data.shape == b.data.shape == result.mask.shape == (32, 32, 32)
    assert {m.voxel_size_angstrom for m in (result.map, a, b)} == {PIXEL_ANGSTROM}
    assert result.mask.min() >= 0
    assert result.mask.max() <= 1
    expected = masked_half_map_fsc(a.data, b.data, result.mask, voxel_size_angstrom=PIXEL_ANGSTROM, rng=0)
    np.testing.assert_allclose(result.fsc.correlation, expected.correlation, atol=1e-4)
    np.testing.assert_allclose(result.fsc.frequency, expected.frequency)


@pytest.mark.parametrize("noise", [0, 4])
def test_wrong_orientations_do_not_make_half_maps_agree(images, true, noise):
    """Halves that shared their references would agree to some 20 angstrom whatever the orientations."""
    rng = np.random.default_rng(0)
    noisy = images + noise * images.std() * rng.normal(size=images.shape).astype(np.float32)
    wrong = refined(noisy, Rotation.random(len(true), rng=rng))
    right = refined(noisy, disturbed(true))
    assert pose_error(true, wrong.rotations) > 1
    nyquist = 1 / right.fsc.frequency[-1]
    assert wrong.fsc.resolution_angstrom(0.143) > 2.5 * nyquist
    assert right.fsc.resolution_angstrom(0.143) < 0.7 * wrong.fsc.resolution_angstrom(0.143)


def test_same_seed_same_result(images, start):
    options = {"search_rounds": 1, "gradient_rounds": 1}
    first, second, other = (refined(images[:60], start[:60], rng=seed, **options) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.rotations.as_quat(), second.rotations.as_quat())
    np.testing.assert_array_equal(first.map.data, second.map.data)
    assert not np.array_equal(first.rotations.as_quat(), other.rotations.as_quat())


def test_no_rounds_leave_orientations_alone(images, start):
    found = refined(images[:40], start[:40], search_rounds=0, gradient_rounds=0)
    assert (found.rotations * start[:40].inv()).magnitude().max() < 1e-7
    assert found.history == []


def test_arguments_stay_as_they_were(images, start):
    mine, quaternions = images[:20].copy(), start[:20].as_quat()
    rotations = start[:20]
    refined(mine, rotations, search_rounds=1, gradient_rounds=1)
    np.testing.assert_array_equal(mine, images[:20])
    np.testing.assert_array_equal(rotations.as_quat(), quaternions)


def with_a_blank(images):
    images = images.copy()
    images[3] = 0
    return images


@pytest.mark.parametrize(
    ("change", "scale"),
    [
        (lambda images: 1e4 * images, 1e4),
        (lambda images: 1e-4 * images, 1e-4),
        (lambda images: np.asfortranarray(images.astype(np.float64)), 1),
        (lambda images: images + 5, 1),
        (lambda images: images - images.mean(axis=(1, 2), keepdims=True), 1),
        (with_a_blank, 1),
    ],
    ids=["bright", "faint", "float64", "background", "zero mean", "one blank"],
)
def test_contrast_and_background_do_not_matter_and_the_map_has_the_units_of_the_images(
    images, true, start, particle, change, scale
):
    found = refined(change(images), start)
    assert pose_error(true, found.rotations) < pose_error(true, start) / 4
    assert np.vdot(found.map.data, particle) / np.vdot(particle, particle) == pytest.approx(scale, rel=0.02)


@pytest.mark.parametrize("size", [12, 13])
def test_the_smallest_images_make_a_map(true, start, size):
    density = crop_or_pad(phantom(size=16), size).data
    found = refined(project(density, true, backend="fourier"), start).map.data
    assert np.corrcoef(found.ravel(), density.ravel())[0, 1] > 0.95


def test_images_of_nothing_but_noise_end_in_a_map_all_the_same(true):
    noise = np.random.default_rng(0).normal(size=(N, 32, 32))
    found = refined(noise, true, search_rounds=1, gradient_rounds=1)
    assert np.isfinite(found.map.data).all()
    assert np.isfinite(found.rotations.as_quat()).all()


# --- refusals


@pytest.mark.parametrize(("change", "message"), unfit_images(20, fewest=16, smallest=12))
def test_images_that_are_none_are_refused(images, start, change, message):
    with pytest.raises(ValueError, match=message):
        refined(change(images[:20]), start[:20])


def test_one_orientation_for_many_images_is_refused(images, start):
    with pytest.raises(ValueError, match=r"rotations must hold at least one .*got a single"):
        refined(images[:20], start[0])


@pytest.mark.parametrize(
    ("name", "value", "asked"),
    [
        ("search_rounds", -1, "a whole number of at least 0"),
        ("gradient_rounds", -1, "a whole number of at least 0"),
        ("candidates", 0, "a whole number of at least 1"),
        ("pixel_size_angstrom", 0.0, "a positive number"),
        ("pixel_size_angstrom", -1.0, "a positive number"),
        ("search_radius", 0.0, "a positive number"),
        ("search_radius", np.nan, "a positive number"),
    ],
)
def test_numbers_out_of_range_are_refused(images, start, name, value, asked):
    with pytest.raises(ValueError, match=f"^{name} must be {asked}, got {value}$"):
        refined(images[:20], start[:20], **{name: value})
