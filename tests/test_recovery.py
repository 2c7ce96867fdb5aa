"""Recovery from distances: exact, noisy, with few images and with many."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.distances.exact import spread_landmarks
from cryoem.orientations import recovery as recovery_module
from cryoem.orientations.evaluation import recovery_error
from cryoem.orientations.recovery import locate_all, read_rows, recover_orientations, release_pages
from cryoem.rotations import (
    COVERAGES,
    geodesic_distance,
    point_group,
    random_rotations,
    random_small_rotations,
)

EXACT = 1e-5  # radians: E_OR from exact distances
# The prototype's E_OR for 1,650 images and all pairs is 0.07 sigma. The error of an image falls with the square root of
# its number of distances.
E_OR_OVER_SIGMA = 0.07 * np.sqrt(1650)


def distances_of(rotations: Rotation, sigma: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return all distances, with symmetric Gaussian noise of standard deviation ``sigma`` off the diagonal."""
    noise = np.triu(np.random.default_rng(seed).normal(scale=sigma or 1, size=2 * (len(rotations),)), 1)
    distances = geodesic_distance(rotations, rotations)
    return distances + noise + noise.T if sigma else distances


def clustered(n: int, radius: float, seed: int = 0) -> Rotation:
    (centre,) = random_rotations(1, rng=seed)
    return Rotation.from_rotvec(random_small_rotations((n,), radius=radius, rng=seed)) * centre


def error_of(rotations: Rotation, distances: np.ndarray, **options) -> float:
    return recovery_error(rotations, recover_orientations(distances, **{"rng": 0} | options).rotations)


# --- exact distances


@pytest.mark.parametrize("method", ["spectral", "spectral+gauss_newton"])
@pytest.mark.parametrize("coverage", COVERAGES)
def test_exact_distances_give_exact_orientations(coverage, method):
    rotations = random_rotations(200, coverage=coverage, rng=1)
    assert error_of(rotations, distances_of(rotations), method=method) < EXACT


def opposite_clusters(n: int) -> Rotation:
    a, b = clustered(n // 2, 0.3, seed=1), clustered(n // 2, 0.3, seed=2)
    far = b * (b[0].inv() * Rotation.from_rotvec([0, np.pi - 0.1, 0]) * a[0])
    return Rotation.concatenate([a, far])


@pytest.mark.parametrize(
    "rotations",
    [
        *(random_rotations(n, rng=100 * n + k) for n in (5, 6, 8, 13, 40) for k in range(2)),
        random_rotations(1650, rng=1),  # same number as in the paper
        *(clustered(n, radius) for n in (6, 12, 150) for radius in (1.0, 0.3, 0.01)),
        *(opposite_clusters(n) for n in (20, 100)),
        *(random_rotations(n // 2, rng=n)[np.arange(n) // 2] for n in (20, 24, 100)),  # duplicates
    ],
)
def test_exact_distances_of_any_sample_give_exact_orientations(rotations):
    recovery = recover_orientations(distances_of(rotations), rng=0)
    assert recovery_error(rotations, recovery.rotations) < EXACT
    assert recovery.losses[-1] < EXACT**2


@pytest.mark.parametrize("n", [6, 15, 100])
def test_a_tilt_series_is_recovered(n):
    angles = np.linspace(-1.6, 1.4, n) + 0.05 * np.sin(7 * np.arange(n))
    rotations = Rotation.from_rotvec(angles[:, None] * [0, 1, 0]) * random_rotations(1, rng=0)[0]
    # distances change only with the square of a step out of the common circle
    assert error_of(rotations, distances_of(rotations)) < np.sqrt(EXACT)


@pytest.mark.parametrize(
    "rotations",
    [
        random_rotations(12, rng=0),  # no cap of 12 images anywhere
        Rotation.from_rotvec(np.linspace(-1.6, 1.4, 40)[:, None] * [0, 1, 0]),  # caps on a common circle
        random_rotations(9, coverage="quarter", rng=0)[np.arange(60) % 9],  # caps of 9 different images
    ],
    ids=["few", "tilt series", "copies"],
)
def test_without_a_cap_of_enough_different_images_the_start_is_enumerated(rotations):
    recovery = recover_orientations(distances_of(rotations), rng=0)
    assert recovery.start == "enumerated"
    assert recovery_error(rotations, recovery.rotations) < EXACT


def test_distances_of_exactly_zero_and_pi_are_met():
    half_turns = Rotation.from_rotvec(np.pi * np.eye(3))
    start = random_rotations(20, rng=0)
    rotations = Rotation.concatenate([start, *(start * turn for turn in half_turns), start])
    distances = distances_of(rotations)
    assert distances.max() == pytest.approx(np.pi)
    assert error_of(rotations, distances) < EXACT
    identical = recover_orientations(np.zeros((20, 20)), rng=0).rotations
    assert geodesic_distance(identical, identical).max() < EXACT


# --- landmarks


@pytest.mark.parametrize("landmarks", [12, 199, 200])
def test_landmarks_suffice_for_exact_distances(landmarks):
    rotations = random_rotations(200, rng=1)
    assert error_of(rotations, distances_of(rotations), landmarks=landmarks) < EXACT


def test_only_distances_to_landmarks_are_used():
    rotations = random_rotations(60, rng=1)
    distances = distances_of(rotations)
    expected = recover_orientations(distances, landmarks=30, rng=5).rotations
    chosen = spread_landmarks(lambda i: distances[:, i], 60, 30, rng=np.random.default_rng(5))
    others = np.setdiff1d(np.arange(60), chosen)
    distances[np.ix_(others, others)] = 1.0
    found = recover_orientations(distances, landmarks=30, rng=5).rotations
    np.testing.assert_array_equal(found.as_quat(), expected.as_quat())


def test_distances_to_landmarks_may_be_in_a_file(tmp_path, monkeypatch):
    """Use float32 and more images than a block; pages of the file are released block by block."""
    n, block, released = 300, 200, []
    monkeypatch.setattr(recovery_module, "BLOCK", block)
    monkeypatch.setattr(
        recovery_module, "release_pages", lambda part: released.append((type(part), len(part)))
    )
    rotations, numbers = random_rotations(n, rng=1), np.arange(0, 200, 10)[::-1]
    columns = np.memmap(tmp_path / "distances", np.float32, "w+", shape=(n, 20))
    columns[:] = geodesic_distance(rotations, rotations[numbers])
    recovery = recover_orientations(columns, landmarks=numbers, rng=0)
    assert recovery_error(rotations, recovery.rotations) < 1e-3  # rounding of small distances to float32
    assert released == [(np.memmap, count) for count in (n, n, block, 100)]


def test_images_of_a_symmetric_particle_are_located_the_same_in_blocks_of_any_size(monkeypatch):
    rotations = random_rotations(90, rng=1)
    columns = geodesic_distance(rotations, rotations[:40], symmetry="C2").astype(np.float32)
    options = {"rounds": 30, "robust_width": np.inf, "group": point_group("C2")}
    for block in (17, 1000):
        monkeypatch.setattr(recovery_module, "BLOCK", block)
        visited, losses = locate_all(columns, rotations[:40].as_quat(), **options)
        found = Rotation.from_quat(visited[-1])
        assert geodesic_distance(found, rotations, symmetry="C2").diagonal().max() < 1e-2
        assert losses[-1] < 1e-6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not report mapped memory")
@pytest.mark.parametrize("offset", [0, 4 * 1024 * 3])
def test_released_pages_do_not_count_as_memory_and_are_read_again(tmp_path, offset):
    def mapped_mb() -> float:
        (line,) = [s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("RssFile")]
        return int(line.split()[1]) / 1024

    megabytes = 64
    np.arange(megabytes * 2**18, dtype=np.float32).tofile(tmp_path / "rows")
    rows = np.memmap(tmp_path / "rows", np.float32, "r", offset=offset).reshape(-1, 1024)
    before, total = mapped_mb(), rows.sum(dtype=float)
    assert mapped_mb() > before + 0.9 * megabytes
    release_pages(rows)
    assert mapped_mb() < before + 0.1 * megabytes
    numbers = np.random.default_rng(0).permutation(len(rows))[:50]
    found = read_rows(rows, numbers)
    assert mapped_mb() < before + 0.1 * megabytes
    np.testing.assert_array_equal(found, rows[numbers])
    assert rows.sum(dtype=float) == total
    private = np.memmap(tmp_path / "rows", np.float32, "c")
    private[6] = -2
    release_pages(private)
    assert private[6] == -2


# --- noisy distances


@pytest.mark.parametrize("sigma", [0.2, 0.8])
def test_noise_averages_out(sigma):
    n, landmarks = 600, 150
    rotations = random_rotations(n, rng=1)
    noisy = distances_of(rotations, sigma)
    refined, spectral = (error_of(rotations, noisy, method=m) for m in ("spectral+gauss_newton", "spectral"))
    expected = E_OR_OVER_SIGMA * sigma / np.sqrt(n)
    assert 0.3 * expected < refined < 1.15 * expected  # noise cannot vanish, because the truth is not used
    assert refined < spectral < 1.6 * refined
    if sigma == 0.2:
        some = error_of(rotations, noisy, landmarks=landmarks)
        assert refined < some < 1.25 * refined * np.sqrt(n / landmarks)


def test_a_robust_loss_resists_outliers():
    rotations = random_rotations(300, rng=1)
    distances = distances_of(rotations, 0.02)
    rng = np.random.default_rng(2)
    wild = np.triu(rng.uniform(size=distances.shape) < 0.15, 1)
    distances[wild | wild.T] = np.pi / 2
    plain, robust = error_of(rotations, distances), error_of(rotations, distances, robust_width=0.1)
    assert robust < 0.3 * plain
    assert robust < 0.01


def test_the_result_has_its_losses_and_the_orientations_of_each_round():
    rotations = random_rotations(150, rng=1)
    noisy = distances_of(rotations, 0.3)
    recovery = recover_orientations(noisy, rng=0)
    residual = geodesic_distance(recovery.rotations, recovery.rotations) - noisy
    off_diagonal = ~np.eye(150, dtype=bool)
    assert recovery.losses[-1] == pytest.approx(np.mean(residual[off_diagonal] ** 2), rel=1e-6)
    assert (np.diff(recovery.losses) <= 0).all()
    assert recovery.losses[-1] < 0.3**2  # the fit absorbs some of the noise
    np.testing.assert_array_equal(recovery.frames[-1].as_quat(), recovery.rotations.as_quat())
    assert {len(frame) for frame in recovery.frames} == {150}
    assert recovery.start == "spectral"


@pytest.mark.parametrize(("n", "options"), [(16, {}), (100, {"landmarks": 12})])
def test_the_seed_determines_the_orientations(n, options):
    noisy = distances_of(random_rotations(n, rng=1), 0.1)
    first, second = (recover_orientations(noisy, rng=3, **options).rotations.as_quat() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_order_layout_and_diagonal_do_not_matter():
    rotations = random_rotations(80, rng=1)
    noisy, exact = distances_of(rotations, 0.2), distances_of(rotations)
    order = np.random.default_rng(0).permutation(80)
    expected = error_of(rotations, noisy)
    assert error_of(rotations[order], noisy[np.ix_(order, order)]) == pytest.approx(expected, rel=0.01)
    exact.flags.writeable = False
    for disguise in (exact, exact.astype(np.float32), exact.tolist(), (exact + 5 * np.eye(80)).T):
        assert error_of(rotations, disguise) < EXACT


# --- errors

GOOD, COLUMNS = distances_of(random_rotations(12, rng=0)), np.ones((30, 13))
ASYMMETRIC, INCOMPLETE = GOOD.copy(), GOOD.copy()
ASYMMETRIC[[0, 1], [1, 0]] = 1.0, 1.5
INCOMPLETE[0, 1] = np.nan
# neighbours on a ring of five are identical; the others are half a turn apart
PENTAGON = np.pi * np.array([[min((i - j) % 5, (j - i) % 5) > 1 for j in range(5)] for i in range(5)])


@pytest.mark.parametrize(
    ("distances", "options", "message"),
    [
        (GOOD[:5, :6], {}, r"distances must be a square \(n, n\) matrix, got shape \(5, 6\)"),
        (1.0, {}, r"distances must be a square \(n, n\) matrix, got shape \(\)"),
        (GOOD[:4, :4], {}, "at least 5 images are required, got distances between 4"),
        (INCOMPLETE, {}, "distances must be finite, got NaN or infinity in 1 of 144 values"),
        (ASYMMETRIC, {}, r"distances must be symmetric, got a difference of 0\.5 rad from the transpose"),
        (-GOOD, {}, r"distances must be in radians, .*got a median of -2\..*"),
        (np.rad2deg(GOOD), {}, r"distances must be in radians, .*got a median of 1\d\d.*"),
        (PENTAGON, {}, "the distances are not consistent with any set of orientations"),
        (GOOD, {"method": "magic"}, r"method must be one of spectral, .*, published, got 'magic'"),
        (GOOD, {"landmarks": 11}, "landmarks must be an integer >= 12, got 11"),
        (GOOD, {"landmarks": 13}, "landmarks must be at most 12, the number of images, got 13"),
        (GOOD, {"rounds": -1}, "rounds must be an integer >= 0, got -1"),
        (GOOD, {"robust_width": np.nan}, "robust_width must be positive, got nan"),
        (GOOD, {"steps": 1.5}, r"steps must be an integer >= 1, got 1\.5"),
        (GOOD, {"learning_rate": 0.0}, r"learning_rate must be a positive number, got 0\.0"),
        (
            GOOD,
            {"method": "sgd", "symmetry": "D2"},
            "symmetry must be C1 for stochastic descent, got 'D2'",
        ),
        (
            COLUMNS,
            {"method": "sgd", "landmarks": np.arange(13)},
            "method 'sgd' uses the distances between all pairs, so landmarks must be None",
        ),
        (
            GOOD,
            {"method": "published", "landmarks": 15},
            "method 'published' uses the distances between all pairs, so landmarks must be None",
        ),
        (COLUMNS, {"landmarks": np.arange(12)}, r"landmarks must be 13 integer indices, .* of shape \(12,\)"),
        (
            COLUMNS,
            {"landmarks": np.arange(13.0)},
            r"landmarks must be 13 integer indices, .*, got float64 of .*",
        ),
        (COLUMNS, {"landmarks": np.full(13, 2)}, r"landmarks must be distinct indices from 0 to 29, got .*"),
        (COLUMNS, {"landmarks": np.arange(13) + 20}, r"landmarks must be distinct indices from 0 to 29.*"),
        (COLUMNS[:, :5], {"landmarks": np.arange(5)}, "at least 12 landmarks are required, got 5"),
    ],
)
def test_unfit_arguments_are_one_sentence(distances, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        recover_orientations(distances, **options)


def test_a_distance_to_a_landmark_that_is_not_finite_is_located():
    columns = distances_of(random_rotations(30, rng=1))[:, :20]
    columns[25, 3] = np.nan
    with pytest.raises(ValueError, match=r"^distances must be finite, got NaN or infinity in row 25$"):
        recover_orientations(columns, landmarks=np.arange(20))
