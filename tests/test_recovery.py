"""Recovery from distances: exact from exact ones, at the noise floor from noisy ones, from few images and from many."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.evaluation import recovery_error
from cryoem.recovery import recover_orientations
from cryoem.recovery.landmarks import BLOCK, locate_all, spread_landmarks
from cryoem.recovery.spectral import spectral_start
from cryoem.rotations import (
    COVERAGES,
    geodesic_distance,
    point_group,
    random_rotations,
    random_small_rotations,
)

EXACT = 1e-5  # radians, E_OR from exact distances
# Prototype's E_OR for 1,650 images and all pairs, against sigma: a slope of 0.07; the error of an image falls with the
# square root of how many distances it has.
E_OR_OVER_SIGMA = 0.07 * np.sqrt(1650)


def distances_of(rotations: Rotation, sigma: float = 0.0, seed: int = 0) -> np.ndarray:
    """All distances, with symmetric Gaussian noise of standard deviation ``sigma`` off the diagonal."""
    noise = np.triu(np.random.default_rng(seed).normal(scale=sigma or 1, size=2 * (len(rotations),)), 1)
    distances = geodesic_distance(rotations, rotations)
    return distances + noise + noise.T if sigma else distances


def clustered(n: int, radius: float, seed: int = 0) -> Rotation:
    (centre,) = random_rotations(1, rng=seed)
    return Rotation.from_rotvec(random_small_rotations((n,), radius=radius, rng=seed)) * centre


def error_of(rotations: Rotation, distances: np.ndarray, **options) -> float:
    return recovery_error(rotations, recover_orientations(distances, **{"rng": 0} | options).rotations)


# --- exact distances


@pytest.mark.parametrize("method", ["spectral", "spectral+refine"])
@pytest.mark.parametrize("coverage", COVERAGES)
def test_exact_distances_give_exact_orientations(coverage, method):
    rotations = random_rotations(200, coverage=coverage, rng=1)
    assert error_of(rotations, distances_of(rotations), method=method) < EXACT


def test_exact_distances_of_as_many_images_as_in_the_paper():
    rotations = random_rotations(1650, rng=1)
    recovery = recover_orientations(distances_of(rotations), rng=0)
    assert recovery_error(rotations, recovery.rotations) < EXACT
    assert recovery.losses[-1] < EXACT**2


@pytest.mark.parametrize("n", [5, 6, 7, 8, 10, 13, 16, 20, 25, 30, 40, 60])
def test_few_images_are_recovered_exactly_too(n):
    for seed in range(4):
        rotations = random_rotations(n, rng=100 * n + seed)
        assert error_of(rotations, distances_of(rotations), rng=seed) < EXACT, f"seed {seed}"


@pytest.mark.parametrize("radius", [1.0, 0.3, 0.01])
@pytest.mark.parametrize("n", [6, 12, 40, 150])
def test_orientations_in_a_cluster_are_recovered_exactly(n, radius):
    rotations = clustered(n, radius)
    assert error_of(rotations, distances_of(rotations)) < EXACT


def test_two_clusters_at_opposite_views_are_recovered_exactly():
    for n in (20, 100):
        a, b = clustered(n // 2, 0.3, seed=1), clustered(n // 2, 0.3, seed=2)
        far = b * (b[0].inv() * Rotation.from_rotvec([0, np.pi - 0.1, 0]) * a[0])
        rotations = Rotation.concatenate([a, far])
        assert error_of(rotations, distances_of(rotations)) < EXACT


@pytest.mark.parametrize("n", [6, 10, 15, 40, 100])
def test_a_tilt_series_is_recovered(n):
    angles = np.linspace(-1.6, 1.4, n) + 0.05 * np.sin(7 * np.arange(n))
    rotations = Rotation.from_rotvec(angles[:, None] * [0, 1, 0]) * random_rotations(1, rng=0)[0]
    # out of the common circle a distance changes with the square of the step only
    assert error_of(rotations, distances_of(rotations)) < np.sqrt(EXACT)


@pytest.mark.parametrize(
    "rotations",
    [
        random_rotations(12, rng=0),  # nowhere a cap of 12
        Rotation.from_rotvec(np.linspace(-1.6, 1.4, 40)[:, None] * [0, 1, 0]),  # caps on a common circle
        random_rotations(9, coverage="quarter", rng=0)[np.arange(60) % 9],  # caps of 9 different images
    ],
    ids=["few", "tilt series", "copies"],
)
def test_without_a_cap_of_enough_different_images_the_start_is_enumerated(rotations):
    distances = distances_of(rotations)
    assert spectral_start(distances) is None
    recovery = recover_orientations(distances, rng=0)
    assert recovery.start == "enumerated"
    assert recovery_error(rotations, recovery.rotations) < EXACT


@pytest.mark.parametrize(("n", "seed"), [(20, 0), (20, 8), (24, 11), (40, 1), (100, 2)])
def test_images_that_come_twice_do_no_harm(n, seed):
    rotations = random_rotations(n // 2, rng=seed)[np.arange(n) // 2]
    assert error_of(rotations, distances_of(rotations), rng=seed) < EXACT


def test_identical_images_are_recovered_as_identical():
    recovery = recover_orientations(np.zeros((20, 20)), rng=0)
    assert geodesic_distance(recovery.rotations, recovery.rotations).max() < EXACT


def test_distances_of_exactly_zero_and_pi_are_met():
    half_turns = Rotation.from_rotvec(np.pi * np.eye(3))
    start = random_rotations(20, rng=0)
    rotations = Rotation.concatenate([start, *(start * turn for turn in half_turns), start])
    distances = distances_of(rotations)
    assert distances.max() == pytest.approx(np.pi)
    assert error_of(rotations, distances) < EXACT


@pytest.mark.parametrize("landmarks", [12, 20, 60, 199, 200])
def test_landmarks_suffice_for_exact_distances(landmarks):
    rotations = random_rotations(200, rng=1)
    recovery = recover_orientations(distances_of(rotations), landmarks=landmarks, rng=0)
    assert len(recovery.rotations) == 200
    assert recovery_error(rotations, recovery.rotations) < EXACT


def test_distances_that_are_not_to_landmarks_are_not_used():
    rotations = random_rotations(60, rng=1)
    distances = distances_of(rotations)
    expected = recover_orientations(distances, landmarks=30, rng=5).rotations
    chosen = spread_landmarks(lambda i: distances[:, i], 60, 30, rng=np.random.default_rng(5))
    others = np.setdiff1d(np.arange(60), chosen)
    distances[np.ix_(others, others)] = 1.0
    found = recover_orientations(distances, landmarks=30, rng=5).rotations
    np.testing.assert_array_equal(found.as_quat(), expected.as_quat())


def test_distances_to_landmarks_alone_are_enough(tmp_path):
    """In a file, as float32, and more of them than a block."""
    rotations = random_rotations(300, rng=1)
    numbers = np.arange(0, 300, 5)[::-1]
    columns = np.memmap(tmp_path / "distances", np.float32, "w+", shape=(300, 60))
    columns[:] = geodesic_distance(rotations, rotations[numbers])
    recovery = recover_orientations(columns, landmarks=numbers, rng=0)
    assert recovery_error(rotations, recovery.rotations) < 1e-3  # float32 of small distances
    every = recover_orientations(np.asarray(columns, float), landmarks=numbers, rng=0)
    assert recovery_error(rotations, every.rotations) < 1e-3


def test_rows_that_were_read_are_let_go(tmp_path, monkeypatch):
    """A mapped file counts as memory page by page: the landmarks' rows are let go, 16 at a time, and each block."""
    let_go = []
    for module in ("cryoem.mapped_arrays", "cryoem.recovery.landmarks"):
        monkeypatch.setattr(f"{module}.let_go", lambda part: let_go.append((type(part), part.shape)))
    rotations = random_rotations(BLOCK + 100, rng=1)
    numbers = np.arange(0, 200, 10)
    columns = np.memmap(tmp_path / "distances", np.float32, "w+", shape=(len(rotations), 20))
    columns[:] = geodesic_distance(rotations, rotations[numbers])
    recover_orientations(columns, landmarks=numbers, rng=0)
    assert let_go == [(np.memmap, (n, 20)) for n in (len(rotations), len(rotations), BLOCK, 100)]


@pytest.mark.parametrize("group", [None, point_group("C2")])
def test_images_are_located_the_same_in_blocks_of_any_size(group):
    symmetry = "C1" if group is None else "C2"
    rotations = random_rotations(90, rng=1)
    known = rotations[:40]
    columns = geodesic_distance(rotations, known, symmetry=symmetry).astype(np.float32)
    found = [
        locate_all(columns, known.as_quat(), rounds=30, robust_width=np.inf, group=group, block=block)
        for block in (17, 1000)
    ]
    for visited, losses in found:
        errors = geodesic_distance(Rotation.from_quat(visited[-1]), rotations, symmetry=symmetry).diagonal()
        assert errors.max() < 1e-2
        assert losses[-1] < 1e-6
    assert len(found[0][0]) == 1


def test_landmarks_cover_what_random_ones_miss():
    """Most images look from one side; landmarks are spread over all."""
    crowd = random_small_rotations((950,), radius=0.2, rng=0)
    rotations = Rotation.concatenate([Rotation.from_rotvec(crowd), random_rotations(50, rng=1)])
    distances = distances_of(rotations)
    chosen = spread_landmarks(lambda i: distances[:, i], 1000, 60, rng=np.random.default_rng(0))
    assert len(set(chosen)) == 60
    assert (np.diff(chosen) > 0).all()
    by_chance = np.random.default_rng(0).choice(1000, 60, replace=False)
    farthest = [distances[:, some].min(axis=1).max() for some in (chosen, by_chance)]
    assert farthest[0] < 0.5 * farthest[1]


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.arange(12), r"landmarks must be the 13 numbers .*, got int64 of shape \(12,\)"),
        (np.arange(13) * 1.0, r"landmarks must be the 13 numbers .*, got float64 of shape \(13,\)"),
        (np.full(13, 2), r"landmarks must be different numbers from 0 to 29, got \[2 2 2 2 2\]\.\.\."),
        (np.arange(13) + 20, r"landmarks must be different numbers from 0 to 29, got \[20 .*\]\.\.\."),
    ],
)
def test_landmarks_that_are_no_images_are_refused(landmarks, message):
    columns = np.ones((30, 13))
    with pytest.raises(ValueError, match=f"^{message}$"):
        recover_orientations(columns, landmarks=landmarks)


def test_a_distance_to_a_landmark_that_is_no_number_names_its_row():
    rotations = random_rotations(30, rng=1)
    columns = distances_of(rotations)[:, :20]
    columns[25, 3] = np.nan
    with pytest.raises(ValueError, match=r"^distances must be finite, got NaN or infinity in row 25$"):
        recover_orientations(columns, landmarks=np.arange(20))


# --- noisy distances


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.4, 0.8])
def test_noise_averages_out(sigma):
    n = 600
    rotations = random_rotations(n, rng=1)
    noisy = distances_of(rotations, sigma)
    refined, spectral = (error_of(rotations, noisy, method=m) for m in ("spectral+refine", "spectral"))
    assert refined < 1.15 * E_OR_OVER_SIGMA * sigma / np.sqrt(n)
    assert refined < spectral < 1.6 * refined
    assert refined > 0.3 * E_OR_OVER_SIGMA * sigma / np.sqrt(
        n
    )  # noise cannot vanish: nothing else was looked at


def test_landmarks_are_close_to_all_pairs():
    n, landmarks, sigma = 600, 150, 0.2
    rotations = random_rotations(n, rng=1)
    noisy = distances_of(rotations, sigma)
    every, some = error_of(rotations, noisy), error_of(rotations, noisy, landmarks=landmarks)
    assert every < some < 1.25 * every * np.sqrt(n / landmarks)


def test_a_robust_loss_does_not_mind_outliers():
    rotations = random_rotations(300, rng=1)
    distances = distances_of(rotations, 0.02)
    rng = np.random.default_rng(2)
    wild = np.triu(rng.uniform(size=distances.shape) < 0.15, 1)
    distances[wild | wild.T] = np.pi / 2
    plain, robust = error_of(rotations, distances), error_of(rotations, distances, robust_width=0.1)
    assert robust < 0.3 * plain
    assert robust < 0.01


# --- what comes with the result


def test_recovery_reports_its_loss_and_its_way():
    rotations = random_rotations(150, rng=1)
    noisy = distances_of(rotations, 0.3)
    recovery = recover_orientations(noisy, rng=0)
    residual = geodesic_distance(recovery.rotations, recovery.rotations) - noisy
    off_diagonal = ~np.eye(150, dtype=bool)
    assert recovery.losses[-1] == pytest.approx(np.mean(residual[off_diagonal] ** 2), rel=1e-6)
    assert (np.diff(recovery.losses) <= 0).all()
    assert recovery.losses[-1] < 0.3**2  # the fit takes up a little of the noise
    np.testing.assert_array_equal(recovery.frames[-1].as_quat(), recovery.rotations.as_quat())
    assert {len(frame) for frame in recovery.frames} == {150}
    assert recovery.start == "spectral"


@pytest.mark.parametrize("options", [{}, {"landmarks": 12}, {"method": "spectral"}])
@pytest.mark.parametrize("n", [16, 100])
def test_same_seed_same_orientations(n, options):
    noisy = distances_of(random_rotations(n, rng=1), 0.1)
    first, second = (recover_orientations(noisy, rng=3, **options).rotations.as_quat() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_order_of_images_does_not_matter():
    rotations = random_rotations(80, rng=1)
    noisy = distances_of(rotations, 0.2)
    order = np.random.default_rng(0).permutation(80)
    shuffled = error_of(rotations[order], noisy[np.ix_(order, order)])
    assert shuffled == pytest.approx(error_of(rotations, noisy), rel=0.01)


def test_the_type_of_the_numbers_does_not_matter():
    rotations = random_rotations(60, rng=1)
    distances = distances_of(rotations)
    assert error_of(rotations, distances.astype(np.float32)) < EXACT
    assert error_of(rotations, distances.tolist()) < EXACT
    whole = np.rint(distances).astype(int)
    assert error_of(rotations, whole) == pytest.approx(error_of(rotations, whole.astype(float)), abs=EXACT)


@pytest.mark.parametrize("disguise", [np.asfortranarray, lambda d: np.repeat(d, 2, axis=1)[:, ::2]])
def test_the_memory_behind_the_distances_does_not_matter(disguise):
    distances = distances_of(random_rotations(60, rng=1))
    expected = recover_orientations(distances, rng=0).rotations.as_quat()
    disguised = disguise(distances)
    disguised.flags.writeable = False
    found = recover_orientations(disguised, rng=0).rotations.as_quat()
    np.testing.assert_allclose(np.abs((found * expected).sum(axis=1)), 1, atol=1e-12)
    np.testing.assert_array_equal(disguised, distances)


@pytest.mark.parametrize("value", [0.5, np.pi, 5.0])
def test_the_diagonal_is_not_used(value):
    rotations = random_rotations(80, rng=1)
    distances = distances_of(rotations)
    np.fill_diagonal(distances, value)
    recovery = recover_orientations(distances, rng=0)
    assert recovery_error(rotations, recovery.rotations) < EXACT
    assert recovery.losses[-1] < EXACT**2


# --- refusals


GOOD = distances_of(random_rotations(12, rng=0))
# neighbours on a ring of five are identical, and the others half a turn apart
PENTAGON = np.pi * np.array([[min((i - j) % 5, (j - i) % 5) > 1 for j in range(5)] for i in range(5)])


def changed(**at) -> np.ndarray:
    distances = GOOD.copy()
    distances[0, 1] = at.get("upper", distances[0, 1])
    distances[1, 0] = at.get("lower", distances[1, 0])
    return distances


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (GOOD[:5, :6], r"distances must be a square \(n, n\) matrix, got shape \(5, 6\)"),
        (GOOD[0], r"distances must be a square \(n, n\) matrix, got shape \(12,\)"),
        (1.0, r"distances must be a square \(n, n\) matrix, got shape \(\)"),
        (GOOD[:4, :4], "distances must be between at least 5 images, got 4"),
        (GOOD[:0, :0], "distances must be between at least 5 images, got 0"),
        (changed(upper=np.nan), "distances must be finite, got 1 non-finite values of 144"),
        (changed(upper=np.inf, lower=np.inf), "distances must be finite, got 2 non-finite values of 144"),
        (changed(upper=1.0, lower=1.5), r"distances must be symmetric, got .* by 0\.5 rad"),
        (-GOOD, r"distances must be radians between 0 and pi .*got a median of -2\."),
        (np.rad2deg(GOOD), r"distances must be radians between 0 and pi .*got a median of 1\d\d"),
        (PENTAGON, "distances must fit orientations, and no four of these images do"),
    ],
)
def test_distances_that_are_none_are_refused(distances, message):
    with pytest.raises(ValueError, match=message):
        recover_orientations(distances)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, r"method must be one of spectral, spectral\+refine, sgd, got 'magic'"),
        ({"landmarks": 11}, "landmarks must be a whole number of at least 12, got 11"),
        ({"landmarks": 12.5}, r"landmarks must be a whole number .*got 12\.5"),
        ({"landmarks": 13}, "landmarks must be at most the 12 images, got 13"),
        ({"rounds": -1}, "rounds must be a whole number of at least 0, got -1"),
        ({"rounds": 1.5}, r"rounds must be a whole number .*got 1\.5"),
        ({"robust_width": 0.0}, r"robust_width must be positive, got 0\.0"),
        ({"robust_width": np.nan}, "robust_width must be positive, got nan"),
        ({"method": "sgd", "steps": 1.5}, r"steps must .*got 1\.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        recover_orientations(GOOD, **options)
