"""Refinement: coarse poses improve, true poses stay, and only the images are used."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.images import add_noise, image_blocks
from cryoem.orientations import projection_matching
from cryoem.orientations.evaluation import align_shifts, pose_error
from cryoem.particles.simulation import simulate
from cryoem.projection.fourier import read_slices, transform
from cryoem.projection.projectors import project
from cryoem.reconstruction import pose_steps, refinement
from cryoem.reconstruction.limits import pose_limit
from cryoem.reconstruction.maps import reconstruct
from cryoem.reconstruction.masks import masked_half_map_fsc
from cryoem.reconstruction.pose_steps import descend, full_images, working_images
from cryoem.reconstruction.refinement import refine, remove_drift
from cryoem.reconstruction.resolution import fourier_shell_correlation
from cryoem.reconstruction.rounds import RefinementSchedule
from cryoem.rotations import Poses, point_group, random_rotations, random_small_rotations
from cryoem.volumes.density import DensityMap, crop_or_pad
from cryoem.volumes.phantoms import phantom

N = 150
PIXEL_ANGSTROM = 4.0
START = 0.1  # radians: mean error of the initial orientations
FIXED_POINT = 0.01  # radians: largest change of true orientations of a 32-px particle, 0.1 px at its rim
SHORT = RefinementSchedule(search_rounds=1, gradient_rounds=1)


def disturbed(rotations: Rotation, seed: int = 0) -> Rotation:
    """Disturb orientations with a mean error of ``START``, three quarters of the radius of a ball."""
    vectors = random_small_rotations((len(rotations),), radius=START / 0.75, rng=seed)
    return Rotation.from_rotvec(vectors) * rotations


def refined(images, poses, **options):
    return refine(images, poses, **{"pixel_size_angstrom": PIXEL_ANGSTROM, "rng": 0} | options)


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
def small(true):
    """Images of 24 px, which take less time than images of 32 px."""
    return project(phantom(size=24).data, true, backend="fourier")


@pytest.fixture(scope="module")
def calls():
    """Return the callback's arguments in the rounds of ``result``."""
    return []


@pytest.fixture(scope="module")
def result(images, start, calls):
    return refined(images, start, callback=lambda *call: calls.append(call))


def test_coarse_orientations_and_the_map_become_fine(result, images, true, start, particle):
    before = pose_error(true, start)
    assert before == pytest.approx(START, rel=0.1)
    assert pose_error(true, result.rotations) < before / 4
    coarse = reconstruct(images, start, pixel_size_angstrom=PIXEL_ANGSTROM).data
    before, after = (fourier_shell_correlation(particle, v).correlation for v in (coarse, result.map.data))
    assert (after[:-2] > before[:-2]).all()
    assert (after[:-2] > 0.98).all()
    expected = reconstruct(images, result.poses, pixel_size_angstrom=PIXEL_ANGSTROM).data
    np.testing.assert_allclose(result.map.data, expected, atol=1e-3 * result.map.data.max())
    assert not result.shifts_px.any()  # no shifts are given, so none are refined


def test_the_result_is_consistent(result):
    a, b = result.half_maps
    assert result.map.data.shape == a.data.shape == b.data.shape == result.mask.shape == (32, 32, 32)
    assert {m.voxel_size_angstrom for m in (result.map, a, b)} == {PIXEL_ANGSTROM}
    assert result.mask.min() >= 0
    assert result.mask.max() <= 1
    assert result.subset.sum() == N // 2
    assert set(result.subset) == {0, 1}
    expected = masked_half_map_fsc(a.data, b.data, result.mask, voxel_size_angstrom=PIXEL_ANGSTROM, rng=0)
    np.testing.assert_allclose(result.fsc.correlation, expected.correlation, atol=1e-4)
    np.testing.assert_allclose(result.fsc.frequency, expected.frequency)


def test_each_round_is_in_the_history_and_calls_the_callback(result, start, calls):
    rounds = range(1, len(result.history) + 1)
    assert [entry["round"] for entry in result.history] == list(rounds)
    kinds = [entry["kind"] for entry in result.history]
    assert kinds == sorted(kinds, key=["search", "gradient", "joint"].index)
    assert kinds.count("search") == 2
    assert 1 <= kinds.count("gradient") <= 4
    assert 1 <= kinds.count("joint") <= refinement.JOINT_ROUNDS
    assert [entry for entry, _ in calls] == result.history
    assert {len(rotations) for _, rotations in calls} == {N}
    scores, moved = ([entry[key] for entry in result.history] for key in ("score", "moved_rad"))
    assert scores[0] < scores[-1]
    assert max(scores) <= 1 + 1e-5
    assert moved[-1] < 0.1 * moved[0]
    assert moved[0] <= 0.12
    assert moved[0] == pytest.approx((calls[0][1] * start.inv()).magnitude().mean(), rel=1e-6)


def test_a_refinement_ends_at_its_tolerance_and_without_rounds_at_its_start(small, start):
    schedule = RefinementSchedule(search_rounds=0, gradient_rounds=3, tolerance=1.0)
    calls = []
    found = refined(small[:40], start[:40], schedule=schedule, callback=lambda *call: calls.append(call))
    assert [entry["kind"] for entry in found.history] == ["gradient", "joint"]
    np.testing.assert_array_equal(calls[-1][1].as_quat(), found.rotations.as_quat())
    found = refined(small[:40], start[:40], schedule=RefinementSchedule(search_rounds=0, gradient_rounds=0))
    assert (found.rotations * start[:40].inv()).magnitude().max() < 1e-7
    assert found.history == []


def test_true_orientations_stay(images, true):
    found = refined(images, true)
    assert (found.rotations * true.inv()).magnitude().mean() < FIXED_POINT
    assert pose_error(true, found.rotations) < FIXED_POINT


def test_few_images_do_not_make_it_worse(small, true, start):
    n = 17
    assert pose_error(true[:n], refined(small[:n], start[:n]).rotations) < pose_error(true[:n], start[:n])


def test_the_map_of_images_without_noise_reproduces_them(small, true):
    """Gridding alone leaves differences of several percent, which one correction reduces."""
    full = full_images(small, Optics(PIXEL_ANGSTROM))
    work = working_images(full, Poses(true), 12)
    members, differences = [np.arange(0, N, 2), np.arange(1, N, 2)], []
    for explained in (0.9, 0.99):
        first, second = pose_steps.gridded_sets(
            full, Poses(true), members, 12, np.eye(3)[None], explained=explained
        )
        predicted = read_slices(transform((first + second).invert()), true.as_matrix(), work.frequencies)
        differences.append(np.linalg.norm(work.planes - predicted) / np.linalg.norm(work.planes))
    assert differences[0] < 0.06
    assert differences[1] < differences[0] / 3


def test_wrong_orientations_do_not_make_noisy_half_maps_agree(images, true):
    """Half-maps from a shared reference would agree to about 20 angstrom for any orientations."""
    rng = np.random.default_rng(0)
    noisy = images + images.std() * rng.normal(size=images.shape).astype(np.float32)
    wrong = refined(noisy, Rotation.random(len(true), rng=rng))
    right = refined(noisy, disturbed(true))
    assert pose_error(true, right.rotations) < START / 2
    assert pose_error(true, wrong.rotations) > 1
    nyquist = 1 / right.fsc.frequency[-1]
    assert wrong.fsc.resolution_angstrom(0.143) > 2.5 * nyquist
    assert right.fsc.resolution_angstrom(0.143) < 0.7 * wrong.fsc.resolution_angstrom(0.143)


def test_the_seed_determines_the_result_and_arguments_stay(small, start):
    mine, rotations = small[:40].copy(), start[:40]
    first, second, other = (refined(mine, rotations, rng=seed, schedule=SHORT) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.rotations.as_quat(), second.rotations.as_quat())
    np.testing.assert_array_equal(first.map.data, second.map.data)
    assert not np.array_equal(first.rotations.as_quat(), other.rotations.as_quat())
    np.testing.assert_array_equal(mine, small[:40])
    np.testing.assert_array_equal(rotations.as_quat(), start[:40].as_quat())


def test_images_that_are_read_again_in_each_round_give_the_same_result(small, start, monkeypatch):
    schedule = RefinementSchedule(search_rounds=0, gradient_rounds=2)
    monkeypatch.setattr(projection_matching, "CALIBRATION_IMAGES", 7)
    kept = refined(small, start, schedule=schedule)
    monkeypatch.setattr(pose_steps, "KEPT_BYTES", 0)
    monkeypatch.setattr(pose_steps, "BLOCK_BYTES", 7 * 8 * 24 * 13)  # 7 images, less than a fold
    monkeypatch.setitem(image_blocks.__kwdefaults__, "block_bytes", 7 * 4 * 24 * 24)
    read = []

    class Stack:
        shape = small.shape

        def __len__(self):
            return len(small)

        def __getitem__(self, index):
            read.append(len(small[index]))
            return small[index]

    again = refined(Stack(), start, schedule=schedule)
    assert max(read) == 7
    assert (again.rotations.inv() * kept.rotations).magnitude().max() < 1e-3
    np.testing.assert_allclose(again.map.data, kept.map.data, atol=1e-3 * kept.map.data.max())


@pytest.mark.parametrize(("size", "scale", "background"), [(24, 1e4, 5.0), (25, 1e-4, 0.0)])
def test_contrast_and_background_do_not_matter_and_the_map_has_the_units_of_the_images(
    true, start, size, scale, background
):
    density = phantom(size=size).data
    images = project(density, true, backend="fourier")
    images[3] = 0
    found = refined(np.asfortranarray(scale * images.astype(np.float64) + background), start)
    assert pose_error(true, found.rotations) < pose_error(true, start) / 4
    assert np.vdot(found.map.data, density) / np.vdot(density, density) == pytest.approx(scale, rel=0.02)


def test_the_smallest_images_make_a_map(true, start):
    density = crop_or_pad(phantom(size=16), 12).data
    found = refined(project(density, true, backend="fourier"), start).map.data
    assert np.corrcoef(found.ravel(), density.ravel())[0, 1] > 0.95


def test_half_sets_can_be_given(small, true, start):
    """The images of one half are scrambled, which must not affect the map of the other half."""
    subset = (np.arange(N) % 3 == 0).astype(int)
    mixed = np.where(subset[:, None, None], np.random.default_rng(0).permuted(small, axis=1), small)
    found = refined(mixed, true, subset=subset, schedule=SHORT)
    np.testing.assert_array_equal(found.subset, subset)
    alone = refined(small[subset == 0], true[subset == 0], schedule=SHORT).map.data
    correlations = [np.corrcoef(half.data.ravel(), alone.ravel())[0, 1] for half in found.half_maps]
    assert correlations[0] > 0.98 > 0.5 > correlations[1]


# --- images far from their pose


def test_no_image_needs_to_be_close_to_its_pose(small):
    wrong = Rotation.random(16, rng=0)
    found = refined(small[:16], wrong, schedule=RefinementSchedule(search_rounds=0, gradient_rounds=1))
    assert ((found.rotations * wrong.inv()).magnitude() > 0.3).any()
    assert np.isfinite(found.map.data).all()


# --- shifts, CTF, symmetry


def test_coarse_shifts_become_fine_with_the_orientations_through_a_contrast_transfer():
    ctf = ContrastTransfer(defocus_range_angstrom=(4_000.0, 9_000.0))
    stack = simulate(phantom(size=24), 300, shift_limit_px=3, ctf=ctf, rng=1)
    turns = random_small_rotations((300,), radius=0.1, rng=0)
    shifts = stack.shifts_px + np.random.default_rng(0).normal(scale=0.4, size=(300, 2))
    start = Poses(Rotation.from_rotvec(turns) * stack.rotations, shifts)
    found = refine(stack, start, rng=0)
    assert pose_error(stack.rotations, found.rotations) < pose_error(stack.rotations, start.rotations) / 6
    before, after = (
        np.linalg.norm(
            align_shifts(stack.shifts_px, p.shifts_px, p.rotations) - stack.shifts_px, axis=1
        ).mean()
        for p in (start, found.poses)
    )
    assert before == pytest.approx(0.5, rel=0.1)
    assert after < before / 6


def test_shifts_move_only_if_they_are_refined(small, true):
    moved = Poses(true[:40], np.full((40, 2), 0.5))
    fixed, free, from_zero = (
        refined(small[:40], poses, refine_shifts=choice, schedule=SHORT).shifts_px
        for poses, choice in ((moved, False), (moved, None), (true[:40], True))
    )
    np.testing.assert_array_equal(fixed, moved.shifts_px)
    assert (free != moved.shifts_px).all()
    assert from_zero.any()


def test_refinement_keeps_to_the_symmetry():
    true = random_rotations(N, rng=0)
    images = project(phantom(symmetry="D2", size=32, rng=0).data, true)
    noisy = images / images.std() + np.random.default_rng(0).standard_normal(images.shape, np.float32)
    copies = true * point_group("D2")[np.random.default_rng(3).integers(4, size=N)]
    off = copies * Rotation.from_rotvec(np.random.default_rng(1).normal(scale=0.04, size=(N, 3)))
    schedule = RefinementSchedule(search_rounds=1, gradient_rounds=2)
    found = refined(noisy, off, symmetry="D2", schedule=schedule)
    before, after = (pose_error(true, r, symmetry="D2") for r in (off, found.rotations))
    assert after < 0.7 * before
    inner = found.map.data[1:, 1:, 1:]
    np.testing.assert_allclose(np.flip(inner, (0, 1)), inner, atol=0.02 * inner.max())


@pytest.mark.parametrize(
    ("symmetry", "turn", "origin"),
    [("C1", [0.1, -0.2, 0.1], [0.3, 0.4, 0.5]), ("C4", [0, 0, 0.1], [0, 0, 0.5])],
)
def test_the_drift_of_half_sets_is_removed(symmetry, turn, origin):
    wanted = Poses(random_rotations(60, rng=1), np.random.default_rng(1).normal(size=(60, 2)))
    rotations = wanted.rotations * Rotation.from_rotvec(turn)
    drifted = Poses(rotations, wanted.shifts_px + rotations.as_matrix()[:, :2] @ origin)
    found = remove_drift(drifted, wanted, symmetry)
    assert (found.rotations * wanted.rotations.inv()).magnitude().max() < 1e-6
    np.testing.assert_allclose(found.shifts_px, wanted.shifts_px, atol=1e-6)


def test_images_that_were_located_again_do_not_turn_the_frame():
    wanted = Poses(random_rotations(60, rng=1))
    again = np.arange(60) < 8
    jumped = wanted.replaced(again, Poses(wanted.rotations * Rotation.from_rotvec([0, 0, np.pi / 2])))
    found = remove_drift(jumped, wanted, "C1")
    assert (found.rotations * wanted.rotations.inv()).magnitude()[~again].max() < 1e-6


def test_steps_estimate_their_uncertainty_and_samples_spread_accordingly(particle):
    """For many noisy copies of one view, estimated and sampled poses scatter as the covariances predict."""
    rotations = random_rotations(1, rng=5)[np.zeros(300, int)]
    images = project(particle, rotations)
    images = add_noise(images / images.std(), 0.5, rng=0)
    work = working_images(full_images(images, Optics(1.0)), Poses(rotations), 12).within(12)
    # the low frequencies of the volume, with as many voxels per side as the working images have pixels
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(particle)))
    low = slice(16 - work.size // 2, 16 - work.size // 2 + work.size)
    coarse = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum[low, low, low])).real)
    found = descend(transform(coarse), work, rotations, steps=3, refine_shifts=True)
    predicted = np.sqrt(np.einsum("naa->na", found.covariances).mean(axis=0))
    for poses, reference in (
        (found.poses, Poses(rotations)),
        (found.sample(np.random.default_rng(0)), found.poses),
    ):
        turns = (poses.rotations * reference.rotations.inv()).as_rotvec()
        errors = np.column_stack([turns, poses.shifts_px - reference.shifts_px])
        np.testing.assert_allclose(errors.std(axis=0), predicted, rtol=0.2)


# --- errors

IMAGES, POSES = np.random.default_rng(0).normal(size=(20, 16, 16)), random_rotations(20, rng=0)
CTF = Optics(4.0, ContrastTransfer(), np.ones(3))


@pytest.mark.parametrize(
    ("step", "options", "message"),
    [
        (refined, {"images": IMAGES[:15]}, "at least 16 images are required, got 15"),
        (refined, {"images": IMAGES[:, :11, :11]}, r"images must be .* y == x >= 12, got \(20, 11, 11\)"),
        (
            refined,
            {"images": 0 * IMAGES},
            "images must not be constant, got constant values in all 20 images",
        ),
        (refined, {"images": IMAGES[:19]}, "poses must have one entry for each of the 19 images, got 20"),
        (refined, {"pixel_size_angstrom": 0.0}, "pixel_size_angstrom must be a positive number, got 0.0"),
        (refined, {"symmetry": "Q"}, "symmetry must be Cn, Dn, T, O or I, got 'Q'"),
        (refined, {"subset": np.arange(20) < 7}, "each half-set must have at least 8 images, got 13 and 7"),
        (refined, {"optics": CTF}, "defocus_angstrom must have one entry for each of the 20 images, got 3"),
        (RefinementSchedule, {"search_rounds": -1}, "search_rounds must be an integer >= 0, got -1"),
        (RefinementSchedule, {"candidates": 0}, "candidates must be an integer >= 1, got 0"),
        (RefinementSchedule, {"search_radius": np.nan}, "search_radius must be a positive number, got nan"),
        (
            RefinementSchedule,
            {"tolerance": -1.0},
            "tolerance must be a finite, non-negative number, got -1.0",
        ),
    ],
)
def test_unfit_arguments_are_one_sentence(step, options, message):
    defaults = {"images": IMAGES, "poses": POSES} if step is refined else {}
    with pytest.raises(ValueError, match=f"^{message}$"):
        step(**(defaults | options))


# --- limit


@pytest.mark.parametrize("shift_limit_px", [0.0, 2.0])
def test_the_limit_of_orientations_is_the_cramer_rao_bound(shift_limit_px):
    density = phantom(size=24)
    stack = simulate(density, 300, noise_variance=1.0, shift_limit_px=shift_limit_px, rng=0)
    limit = pose_limit(stack, stack.poses, density)
    errors, bounds = (np.sqrt(np.mean(x**2)) for x in (limit.errors_rad, limit.bounds_rad))
    assert errors == pytest.approx(bounds, rel=0.15)
    moved = (limit.poses.rotations * stack.rotations.inv()).magnitude()
    np.testing.assert_allclose(moved, limit.errors_rad, atol=1e-6)
    displaced = np.sqrt(np.mean((limit.poses.shifts_px - stack.shifts_px) ** 2))
    assert 0.01 < displaced < 0.3 if shift_limit_px else displaced == 0
    # half the noise variance, hence a lower limit by the square root of two
    quieter = simulate(density, stack.poses, noise_variance=0.5, rng=0)
    lower = pose_limit(quieter, quieter.poses, density)
    assert np.sqrt(np.mean(lower.bounds_rad**2)) == pytest.approx(bounds / np.sqrt(2), rel=0.05)


def test_the_limit_needs_a_map_with_the_voxels_of_the_images(small, true):
    with pytest.raises(
        ValueError, match="density must have the pixel size of the images, 4 Å, got voxels of 2 Å"
    ):
        pose_limit(
            small,
            true,
            DensityMap(phantom(size=24).data, 2.0),
            optics=Optics(4.0),
        )
