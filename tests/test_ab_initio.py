"""Orientations and a map from images alone, and the expectation step over all poses."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryoem import contrast, orientations, particles
from cryoem.contrast import ContrastTransfer
from cryoem.images import image_blocks
from cryoem.orientations import expectation_maximisation, pose_search
from cryoem.orientations.expectation import expect
from cryoem.orientations.rings import RingGrid, harmonics_of, ring_images, values_of
from cryoem.projection import project
from cryoem.rotations import Poses
from cryoem.volumes import phantom
from cryoem.volumes.density import DensityMap, resample

PARTICLE = phantom(size=24)
GRID = RingGrid(rings=8, angles=32)
PLAIN = np.arange(30.0)[:, None, None] * np.ones((32, 32))


@pytest.fixture
def short(monkeypatch):
    """Use fewer rounds and coarser grids than by default."""
    for name, value in {
        "ANGLES_PER_RING": 16,
        "START_RINGS": 7,
        "LAST_RINGS": 9,
        "FIRST_DIRECTIONS": 100,
        "SURVEY": pose_search.SURVEY._replace(directions=100, offsets=20),
        "START_DIRECTIONS": 200,
        "LAST_DIRECTIONS": 300,
        "START_ROUNDS": 16,
        "LAST_ROUNDS": 3,
    }.items():
        module = pose_search if hasattr(pose_search, name) else expectation_maximisation
        monkeypatch.setattr(module, name, value)


def on_rings(rotations: Rotation, shifts_px: np.ndarray | None = None):
    stack = particles.simulate(PARTICLE, Poses(rotations, shifts_px), image_size=32, rng=0)
    return ring_images(stack.images, GRID)


def test_harmonics_represent_the_values_of_rings():
    values = on_rings(Rotation.random(3, rng=0)).values
    again = values_of(harmonics_of(values, GRID.angles), GRID.angles)
    np.testing.assert_allclose(again, values, atol=2e-3 * np.abs(values).max())


def test_rings_of_noise_have_its_variance(rng):
    noise = rng.normal(size=(1000, 32, 32)).astype(np.float32)
    values = ring_images(noise, GRID).values[:, 1:]  # the first ring is affected by the subtracted background
    assert np.mean(np.abs(values) ** 2) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("own", [False, True], ids=["common displacements", "own displacements"])
def test_the_expectation_finds_the_direction_the_angle_and_the_displacement(own, rng):
    directions = Rotation.random(40, rng=1)
    chosen, psi = rng.integers(40, size=12), 2 * np.pi / 36 * rng.integers(36, size=12)
    offsets = np.stack(np.meshgrid([-2.0, 0, 2], [-2.0, 0, 2]), axis=-1).reshape(-1, 2)
    shifts = offsets[rng.integers(9, size=12)]
    turned = Rotation.from_rotvec(np.outer(psi, [0, 0, 1])) * directions[chosen]
    images = on_rings(turned, shifts)
    references = on_rings(directions).values
    noise = np.full(GRID.rings, 0.05)
    if own:  # each image has displacements of its own, in another order
        orders = np.array([rng.permutation(9) for _ in range(12)])
        offsets = offsets[orders]
    found = expect(images, references, noise, rings=8, angles=36, offsets_px=offsets)
    np.testing.assert_array_equal(found.reference, chosen)
    np.testing.assert_allclose(np.exp(1j * found.angles_rad), np.exp(1j * psi), atol=1e-6)
    np.testing.assert_allclose(found.displacements_px, shifts)
    np.testing.assert_allclose(found.centres_px, shifts, atol=0.1)
    np.testing.assert_allclose(found.shares.sum(axis=1), 1, rtol=1e-5)
    assert found.weights.sum() == pytest.approx(12 * GRID.rings)
    # the sums are the images, rotated back onto their references
    counts = np.bincount(chosen, minlength=40)
    expected = references[counts > 0] * counts[counts > 0][:, None, None]
    np.testing.assert_allclose(found.sums[counts > 0], expected, atol=0.06 * np.abs(expected).max())
    assert (found.noise < 0.01 * np.mean(np.abs(references) ** 2)).all()


@pytest.mark.parametrize(
    ("noise_variance", "shift_limit_px", "ctf"),
    [(0.5, 0.0, None), (0.1, 2.0, ContrastTransfer(defocus_range_angstrom=(4e3, 1e4)))],
    ids=["centred", "shifted, CTF"],
)
def test_orientations_of_an_unknown_particle(noise_variance, shift_limit_px, ctf, short):
    conditions = {"noise_variance": noise_variance, "shift_limit_px": shift_limit_px, "ctf": ctf}
    stack = particles.simulate(PARTICLE, 150, image_size=32, rng=2, **conditions)
    rounds = []
    found = orientations.ab_initio(
        stack, shift_deviation_px=shift_limit_px / 2, starts=2, rng=1, callback=rounds.append
    )
    aligned = orientations.align_frame(stack.rotations, found.poses.rotations)
    assert np.mean(aligned.errors < 0.3) > 0.95
    assert aligned.median_error < 0.06
    assert len(found.likelihoods) == 2
    assert np.median(found.agreement) == 1
    assert 0.9 < found.explained < 1.02
    # the map projects to the images
    clean = project(found.map.data, found.poses.rotations, image_size=found.map.data.shape[0])
    assert clean.shape[1] * found.map.voxel_size_angstrom == pytest.approx(32 * PARTICLE.voxel_size_angstrom)
    first, second = (half.data.ravel() for half in found.half_maps)
    assert np.corrcoef(first, second)[0, 1] > 0.9
    # the rounds show the same map and the same pose of an image
    assert list(dict.fromkeys(each.stage for each in rounds)) == ["start 1", "start 2", "all images"]
    last = rounds[-1]
    assert np.corrcoef(last.map.data.ravel(), found.map.data.ravel())[0, 1] > 0.9
    views = Rotation.random(400, rng=0)
    early, late = (each.posterior(7, views) for each in (rounds[0], last))
    assert early.sum() == pytest.approx(late.sum()) == pytest.approx(1)
    assert early.max() < 0.1 < late.max()
    best = views[late.argmax()].as_matrix()[2] @ found.poses.rotations[7].as_matrix()[2]
    assert best > np.cos(0.3)


def test_images_beyond_those_searched_are_placed_in_the_same_frame(short, monkeypatch):
    monkeypatch.setattr(expectation_maximisation, "MOST_SEARCHED", 120)
    monkeypatch.setattr(
        "cryoem.orientations.projection_matching.image_blocks",
        partial(image_blocks, block_bytes=50 * 4 * 32**2),
    )
    conditions = particles.ImagingConditions(32, noise_variance=0.2)
    stack = particles.simulate_lazily(phantom(size=24, symmetry="C2"), 180, conditions, rng=2)
    rounds = []
    found = orientations.ab_initio(stack, symmetry="C2", starts=2, rng=1, callback=rounds.append)
    assert [each.number for each in rounds if each.stage == "other images"] == [50, 60]
    errors = orientations.align_frame(stack.rotations, found.poses.rotations, symmetry="C2").errors
    assert len(errors) == len(found.evidence) == len(found.agreement) == 180
    assert np.mean(errors < 0.3) > 0.95
    assert np.median(found.agreement) == 1
    assert 0.9 < found.explained < 1.02


def test_doubtful_results_are_named(short, rng):
    noise = rng.normal(size=(60, 32, 32)).astype(np.float32)
    with (
        pytest.warns(UserWarning, match="the starts disagree on the orientations of most images"),
        pytest.warns(UserWarning, match="most images are about as likely to be pure noise as to show the"),
    ):
        orientations.ab_initio(noise, pixel_size_angstrom=4.0, starts=2)
    one_view = particles.simulate(PARTICLE, 1, image_size=32, rng=0).images + 0.3 * noise
    with pytest.warns(UserWarning, match="100 % of the images show the particle from one direction"):
        orientations.ab_initio(one_view, pixel_size_angstrom=4.0, starts=1)
    stack = particles.simulate(PARTICLE, 100, image_size=32, rng=2)
    with pytest.warns(UserWarning, match="the particle probably does not have this symmetry"):
        orientations.ab_initio(stack, symmetry="D2", starts=1)
    with pytest.warns(UserWarning, match="the contrast of the images is probably inverted"):
        orientations.ab_initio(-stack.images, pixel_size_angstrom=4.0, starts=1)


@pytest.mark.parametrize("explained", [0.99, 0.7])
def test_a_symmetry_that_explains_the_signal_is_not_doubted(short, monkeypatch, explained):
    frame = Rotation.identity()
    monkeypatch.setattr(expectation_maximisation, "symmetry_frame", lambda *_, **__: (frame, 0.5))
    monkeypatch.setattr(pose_search.PoseSearch, "explained", lambda *_: explained)
    stack = particles.simulate(phantom(size=24, symmetry="C2"), 60, image_size=32, noise_variance=0.2, rng=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        orientations.ab_initio(stack, symmetry="C2", starts=1, rng=1)
    doubted = any("does not have this symmetry" in str(warning.message) for warning in caught)
    assert doubted == (explained < 0.9)


def test_a_mixture_of_particles_is_not_explained_even_if_the_starts_agree(short, monkeypatch):
    z, y, x = np.indices((24, 24, 24)) - 12
    radius = np.sqrt(x**2 + y**2 + z**2)
    bowl = DensityMap((radius > 6) & (radius < 8.5) & (z < 3) & (x < 5), PARTICLE.voxel_size_angstrom)
    images = np.empty((120, 32, 32), np.float32)
    for first, density in enumerate((PARTICLE, bowl)):
        images[first::2] = particles.simulate(
            density, 60, image_size=32, noise_variance=0.2, rng=2 + first
        ).images
    monkeypatch.setattr(expectation_maximisation, "MEASURED_IMAGES", 40)
    with pytest.warns(UserWarning, match="the map explains only .* if they show different particles"):
        # with this seed, the starts agree, as with most
        found = orientations.ab_initio(images, pixel_size_angstrom=5.0, starts=2, rng=0)
    assert np.median(found.agreement) == 1
    assert found.explained < 0.9


def test_dark_surroundings_of_a_particle_are_not_taken_for_noise(short):
    bright = phantom(size=32, rng=0)
    dark = DensityMap(bright.data - ndimage.gaussian_filter(bright.data, 3), bright.voxel_size_angstrom)
    for density, clears in ((bright, True), (dark, False)):
        stack = particles.simulate(density, 100, noise_variance=0.5, rng=0)
        stages = []
        found = orientations.ab_initio(stack, starts=2, rng=0, callback=stages.append)
        assert {each.map.data.min() >= 0 for each in stages[-3:]} == {clears}
        errors = orientations.align_frame(stack.rotations, found.poses.rotations).errors
        assert np.median(errors) < 0.15
        assert found.explained > 0.9


@pytest.mark.parametrize("radius_px", [12, 15, 16])
def test_the_explained_signal_of_particles_that_are_cut_out_is_not_known(radius_px, short):
    stack = particles.simulate(PARTICLE, 60, image_size=32, noise_variance=0.5, rng=2)
    cut_out = stack.images * (np.hypot(*(np.indices((32, 32)) - 16)) <= radius_px)
    assert np.isnan(orientations.ab_initio(cut_out, pixel_size_angstrom=4.0, starts=1).explained)


def test_the_explained_signal_of_pure_noise_is_not_known(short, rng):
    noise = rng.normal(size=(60, 32, 32)).astype(np.float32)
    search = pose_search.PoseSearch(noise, contrast.Optics(4.0), 0.0)
    state, every = search.random_state(np.arange(60), rng, clears=True), np.arange(60)
    assert np.isnan(search.explained(state, noise, np.zeros((60, 2)), every, rng))


def test_junk_has_less_evidence_than_the_particle(short):
    realism = particles.Realism(structural_noise=0.2, astigmatism_angstrom=0, junk=0.2)
    stack = particles.simulate(PARTICLE, 200, image_size=32, noise_variance=0.2, realism=realism, rng=3)
    found = orientations.ab_initio(stack, starts=1, rng=1)
    errors = orientations.align_frame(stack.rotations[~stack.junk], found.poses.rotations[~stack.junk]).errors
    assert np.mean(errors < 0.3) > 0.9
    ranks = np.argsort(np.argsort(found.evidence))
    good = ranks[~stack.junk]
    area = (good.sum() - len(good) * (len(good) - 1) / 2) / (len(good) * stack.junk.sum())
    assert area > 0.95
    assert np.mean(found.evidence[~stack.junk] > 0) > 0.95
    assert np.mean(found.evidence[stack.junk] < 0) > 0.8
    assert 0.9 < found.explained < 1.02


def test_poses_in_the_frame_of_a_known_map(short, monkeypatch):
    realism = particles.Realism(structural_noise=0, astigmatism_angstrom=0, amplitude_spread=0, junk=0.1)
    conditions = {"noise_variance": 0.2, "shift_limit_px": 2.0, "realism": realism}
    ctf = ContrastTransfer(defocus_range_angstrom=(4e3, 1e4))
    stack = particles.simulate(PARTICLE, 150, image_size=32, ctf=ctf, rng=2, **conditions)
    # arbitrary units, and voxels that are not pixels
    fine = resample(PARTICLE, 0.75 * PARTICLE.voxel_size_angstrom)
    scaled = DensityMap(1e4 * fine.data, fine.voxel_size_angstrom)
    seen = []
    small_blocks = partial(image_blocks, block_bytes=40 * 4 * 32**2)
    monkeypatch.setattr("cryoem.orientations.projection_matching.image_blocks", small_blocks)
    found = orientations.match_to_map(stack, scaled, shift_deviation_px=1.0, rng=1, callback=seen.append)
    assert seen == [40, 80, 120, 150]
    good = ~stack.junk
    errors = (found.poses.rotations * stack.rotations.inv()).magnitude()[good]
    assert np.mean(errors < 0.3) > 0.97
    assert np.median(errors) < 0.03
    assert np.linalg.norm(found.poses.shifts_px - stack.shifts_px, axis=1)[good].mean() < 0.1
    assert found.evidence[good].min() > found.evidence[stack.junk].max()


def test_a_map_of_another_particle_leaves_little_evidence(short):
    stack = particles.simulate(PARTICLE, 60, image_size=32, noise_variance=1.0, rng=2)
    own, other = (
        np.median(orientations.match_to_map(stack, density).evidence)
        for density in (PARTICLE, phantom(size=24, rng=7))
    )
    assert own > 1.5 * other


def test_the_scale_is_found_even_if_no_image_fits_the_map(short):
    stack = particles.simulate(PARTICLE, 60, image_size=32, rng=2)
    evidence = orientations.match_to_map(-stack.images, PARTICLE).evidence
    assert np.isfinite(evidence).all()
    assert np.median(evidence) < 0.5 * np.median(orientations.match_to_map(stack, PARTICLE).evidence)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((5, 32, 32)), {}, "the images are blank or smoothed"),
        (np.zeros((5, 12, 12)), {}, "images must be .* >= 16, got"),
        (np.full((5, 32, 32), np.nan), {}, "images must be finite"),
        (PLAIN, {"shift_deviation_px": -1.0}, "shift_deviation_px must be"),
    ],
)
def test_images_that_cannot_be_matched_are_one_sentence(images, options, message):
    with pytest.raises(ValueError, match=message):
        orientations.match_to_map(images, PARTICLE, **options)


def test_a_map_without_density_is_refused():
    empty = DensityMap(np.zeros((24, 24, 24)), PARTICLE.voxel_size_angstrom)
    with pytest.raises(ValueError, match="density_map must have density within the field of view"):
        orientations.match_to_map(PLAIN, empty)


def test_the_symmetry_of_a_particle_is_imposed(short):
    stack = particles.simulate(phantom(size=24, symmetry="D2"), 120, image_size=32, noise_variance=0.2, rng=2)
    found = orientations.ab_initio(stack, symmetry="D2", starts=1, rng=1)
    aligned = orientations.align_frame(stack.rotations, found.poses.rotations, symmetry="D2")
    assert np.mean(aligned.errors < 0.3) > 0.95
    assert found.symmetry_correlation > 0.9
    halfway = found.map.data[1:, 1:, 1:][::-1, ::-1]  # half a turn about z
    np.testing.assert_allclose(halfway, found.map.data[1:, 1:, 1:], atol=0.02 * found.map.data.max())


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((5, 32, 32)), {}, "at least 20 images are required, got 5"),
        (np.zeros((30, 12, 12)), {}, "12"),
        (np.ones((30, 32, 32)), {}, "all 30 images are identical"),
        (PLAIN, {"shift_deviation_px": -1.0}, "shift_deviation_px must be"),
        (PLAIN, {"starts": 0}, "starts must be"),
        (PLAIN, {"symmetry": "D"}, "symmetry must be"),
    ],
)
def test_wrong_input_is_one_sentence(images, options, message):
    with pytest.raises(ValueError, match=message):
        orientations.ab_initio(images, pixel_size_angstrom=4.0, **options)
