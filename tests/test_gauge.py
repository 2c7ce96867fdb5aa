"""The gauge from the images: hidden rotations of the image axes found again, the transposition told, no truth used."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from unfit_images import unfit_images

from cryoem import gauge
from cryoem.evaluation import mirror, pose_error
from cryoem.gauge import common_line_score, covering_rotations, fix_gauge
from cryoem.projectors import project
from cryoem.rotations import geodesic_distance, random_rotations
from cryoem.volumes import phantom

POSE = 0.01  # radians, left of the gauge in images of 32 px without noise


@pytest.fixture
def quick_search(monkeypatch):
    """A coarser grid than the default; a local climb follows it anyway."""
    monkeypatch.setattr(gauge, "CANDIDATES", 3000)


def images_of(size: int, n: int, seed: int):
    rotations = random_rotations(n, rng=seed)
    return project(phantom(size=size).data, rotations, backend="fourier"), rotations


@pytest.mark.parametrize(("size", "n", "transposed"), [(32, 100, False), (33, 60, True)])
def test_a_hidden_gauge_is_found(size, n, transposed):
    images, true = images_of(size, n, seed=n)
    a, b = random_rotations(2, rng=3)
    hidden = a * true * b
    hidden = hidden.inv() if transposed else hidden
    found = fix_gauge(images, hidden, rng=0)
    assert pose_error(true, found.rotations) < POSE
    assert found.inverted == transposed
    assert found.score > found.runner_up + 0.1
    expected = found.turn * (hidden.inv() if transposed else hidden)
    assert (expected.inv() * found.rotations).magnitude().max() < 1e-9


def test_noise_does_not_hide_the_gauge(views, quick_search):
    images, true = views[0][:100], views[1][:100]
    noisy = images + np.random.default_rng(0).normal(scale=images.std(), size=images.shape)
    (a,) = random_rotations(1, rng=3)
    found = fix_gauge(noisy, (a * true).inv(), rng=0)
    assert found.inverted
    assert pose_error(true, found.rotations) < 3 * POSE


@pytest.mark.parametrize("n", [6, 20])
def test_few_images_are_enough_without_noise(views, n, quick_search):
    images, true = views[0][:n], views[1][:n]
    (a,) = random_rotations(1, rng=3)
    assert pose_error(true, fix_gauge(images, a * true, rng=0).rotations) < 2 * POSE


def test_same_seed_same_gauge(views, quick_search):
    images, true = views[0][:50], views[1][:50]
    first, second = (fix_gauge(images, true, rng=4) for _ in range(2))
    np.testing.assert_array_equal(first.rotations.as_quat(), second.rotations.as_quat())
    assert (first.score, first.runner_up) == (second.score, second.runner_up)


def test_brightness_and_contrast_do_not_matter(views, quick_search):
    images, true = views[0][:50], views[1][:50]
    expected = fix_gauge(images, true, rng=4)
    found = fix_gauge(7 * images.astype(np.float64) + 3, true, rng=4)
    assert pose_error(expected.rotations, found.rotations) < 1e-3
    assert found.score == pytest.approx(expected.score, abs=1e-3)


# --- the score


def test_true_orientations_score_near_one_and_the_mirror_as_much(views):
    images, true = views
    score = common_line_score(images, true, rng=0)
    assert score > 0.95
    assert common_line_score(images, mirror(true), rng=0) == pytest.approx(score, abs=1e-4)
    assert common_line_score(images, true * random_rotations(1, rng=0)[0], rng=0) == pytest.approx(
        score, abs=1e-4
    )


def test_wrong_orientations_score_less(views):
    images, true = views
    score = common_line_score(images, true, rng=0)
    (a,) = random_rotations(1, rng=5)
    for wrong in (true.inv(), a * true, random_rotations(len(true), rng=6)):
        assert common_line_score(images, wrong, rng=0) < score - 0.1
    slightly = [
        common_line_score(images, Rotation.from_rotvec([0, angle, 0]) * true, rng=0)
        for angle in (0, 0.05, 0.1, 0.2)
    ]
    assert (np.diff(slightly) < 0).all()


@pytest.mark.parametrize("n", [4, 30, 60])
def test_no_score_exceeds_one(views, n, quick_search):
    images, true = views[0][:n], views[1][:n]
    assert common_line_score(images, true, rng=0) <= 1
    assert fix_gauge(images, true, rng=0).score <= 1


def test_the_search_covers_all_rotations_evenly():
    n = 4000
    grid = covering_rotations(n)
    assert len(grid) == n
    nearest = geodesic_distance(random_rotations(500, rng=0), grid).min(axis=1)
    spacing = (8 * np.pi**2 / n) ** (1 / 3)  # SO(3) has volume 8 pi^2 in radians
    assert nearest.max() < 1.2 * spacing
    np.testing.assert_array_equal(covering_rotations(n).as_quat(), grid.as_quat())


# --- refusals


def test_images_stay_as_they_were(views, quick_search):
    images = views[0][:10].copy()
    fix_gauge(images, views[1][:10], rng=0)
    np.testing.assert_array_equal(images, views[0][:10])


@pytest.mark.parametrize("function", [fix_gauge, common_line_score])
@pytest.mark.parametrize(("change", "message"), unfit_images(5, fewest=3, smallest=8))
def test_images_that_are_none_are_refused(views, function, change, message):
    with pytest.raises(ValueError, match=message):
        function(change(views[0][:5]), views[1][:5])


def test_one_orientation_for_many_images_is_refused(views):
    with pytest.raises(ValueError, match=r"rotations must hold at least one .*got a single"):
        fix_gauge(views[0][:5], views[1][0])


@pytest.mark.parametrize("pairs", [0, -1, 2.5])
@pytest.mark.parametrize(
    ("function", "name"),
    [(fix_gauge, "pairs"), (fix_gauge, "refinement_pairs"), (common_line_score, "pairs")],
)
def test_a_number_of_pairs_that_is_none_is_refused(views, function, name, pairs):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least 1, got {pairs}"):
        function(views[0][:5], views[1][:5], **{name: pairs})
