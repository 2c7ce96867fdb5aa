"""Particles off the middle, seen through a contrast transfer: on the way from images to distances, and to the map."""

import keras
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem import imaging, pipeline, siamese
from cryoem.evaluation import align_shifts, pose_error
from cryoem.imaging import ContrastTransfer
from cryoem.pipeline.records import read_record, run_folder
from cryoem.projectors import half_planes_from_images, plane_frequencies, project
from cryoem.projectors.fourier import transform
from cryoem.projectors.matching import correlate_candidates, displaced, gauss_newton_steps
from cryoem.reconstruction import once_each, reconstruct
from cryoem.refinement import refine
from cryoem.refinement.poses import Poses, without_drift
from cryoem.refinement.steps import descend
from cryoem.refinement.working_set import full_images, working_set
from cryoem.resolution import fourier_shell_correlation
from cryoem.rotations import origin_displacements, random_rotations, random_small_rotations
from cryoem.volumes import DensityMap, phantom

N = 200
PIXEL_ANGSTROM = 4.0
CTF = ContrastTransfer(defocus_angstrom=(4_000.0, 9_000.0))
SINGLE = 1e-4  # relative, of values computed in single precision


@pytest.fixture(scope="module")
def small():
    return phantom(size=32)


@pytest.fixture(scope="module")
def stack(small):
    """Images without noise, up to 3 px off the middle, through a contrast transfer."""
    density = DensityMap(small.data, PIXEL_ANGSTROM)
    return imaging.simulate(density, N, shift_limit_px=3, ctf=CTF, rng=1)


def shift_error_px(true, found, rotations, symmetry="C1"):
    return np.linalg.norm(align_shifts(true, found, rotations, symmetry=symmetry) - true, axis=1).mean()


# --- comparison with slices


@pytest.fixture(scope="module")
def slices(small):
    """Transforms of three images, their orientations, frequencies and weights."""
    rotations = random_rotations(3, rng=3)
    frequencies = plane_frequencies(32)
    inside = np.hypot(*frequencies.T) < 0.35
    planes = half_planes_from_images(project(small.data, rotations, backend="fourier"))[:, inside]
    return transform(small.data), planes, rotations, frequencies[inside], once_each(frequencies[inside])


def test_a_step_finds_a_small_displacement_and_a_small_turn_together(slices):
    spectrum, planes, rotations, frequencies, weights = slices
    shifts = np.array([[0.2, -0.1], [0.0, 0.15], [-0.25, 0.05]])
    turns = 0.01 * np.array([[1.0, 0, 0], [0, -1, 0.5], [0.3, 0.2, -1]])
    steps, _ = gauss_newton_steps(
        spectrum,
        displaced(planes, frequencies, shifts),
        Rotation.from_rotvec(-turns) * rotations,
        frequencies,
        weights,
        difference=0.02,
        with_shifts=True,
    )
    np.testing.assert_allclose(steps[:, 3:], shifts, atol=0.02)
    np.testing.assert_allclose(steps[:, :3], turns, atol=0.002)


def test_a_slice_seen_through_its_own_transfer_matches_and_through_another_does_not(slices):
    spectrum, planes, rotations, frequencies, weights = slices
    per_angstrom = np.hypot(*frequencies.T) / PIXEL_ANGSTROM
    transfers = CTF.at(per_angstrom, np.array([4e3, 9e3, 2e4]))
    matrices = rotations.as_matrix()[:, None]
    own, another, none = (
        correlate_candidates(spectrum, planes * transfers, matrices, frequencies, weights, seen)
        for seen in (transfers, transfers[::-1].copy(), None)
    )
    np.testing.assert_allclose(own, 1, atol=1e-3)
    assert (another[[0, 2]] < 0.9).all()
    assert (none < 0.5).all()


# --- the origin, which no image can tell


@pytest.mark.parametrize(("symmetry", "free"), [("C1", (0, 1, 2)), ("C3", (2,)), ("D2", ())])
def test_the_origin_is_free_where_the_symmetry_leaves_it(symmetry, free):
    rotations = random_rotations(50, rng=0)
    for axis in range(3):
        moved = rotations.as_matrix()[:, :2, axis] * 1.7
        explained = origin_displacements(rotations, moved, symmetry=symmetry)
        np.testing.assert_allclose(
            explained, moved if axis in free else 0, atol=0.5 if axis not in free else 1e-9
        )
    assert origin_displacements(rotations, np.zeros((50, 2)), symmetry=symmetry) == pytest.approx(0)


@pytest.mark.parametrize("symmetry", ["C1", "C4"])
def test_half_sets_are_brought_into_one_frame_and_about_one_origin(symmetry):
    wanted = Poses(random_rotations(60, rng=1), np.random.default_rng(1).normal(size=(60, 2)))
    turn = Rotation.from_rotvec([0, 0, 0.1] if symmetry == "C4" else [0.1, -0.2, 0.1])
    origin = np.array([0, 0, 0.5]) if symmetry == "C4" else np.array([0.3, 0.4, 0.5])
    rotations = wanted.rotations * turn
    drifted = Poses(rotations, wanted.shifts_px + rotations.as_matrix()[:, :2] @ origin)
    found = without_drift(drifted, wanted, symmetry)
    assert (found.rotations * wanted.rotations.inv()).magnitude().max() < 1e-6
    np.testing.assert_allclose(found.shifts_px, wanted.shifts_px, atol=1e-6)


# --- from images to a map


def test_a_map_of_displaced_images_through_a_contrast_transfer_is_the_particle(small, stack):
    made = reconstruct(
        stack.images,
        stack.rotations,
        pixel_size_angstrom=PIXEL_ANGSTROM,
        shifts_px=stack.shifts_px,
        ctf=CTF,
        defocus_angstrom=stack.defocus_angstrom,
    )
    assert fourier_shell_correlation(made.data, small.data).correlation[:-2].min() > 0.99
    as_they_are = reconstruct(stack.images, stack.rotations, pixel_size_angstrom=PIXEL_ANGSTROM)
    assert fourier_shell_correlation(as_they_are.data, small.data).correlation[8:].max() < 0.5


@pytest.mark.parametrize("seen_through", [None, CTF], ids=["no contrast transfer", "contrast transfer"])
def test_coarse_orientations_and_shifts_become_fine(small, stack, seen_through):
    images, defocus = stack.images, stack.defocus_angstrom
    if seen_through is None:
        images = imaging.shift(project(small.data, stack.rotations), stack.shifts_px)
        defocus = None
    turns = random_small_rotations((N,), radius=0.1, rng=0)
    start = Rotation.from_rotvec(turns) * stack.rotations
    shifts = stack.shifts_px + np.random.default_rng(0).normal(scale=0.4, size=(N, 2))
    found = refine(
        images,
        start,
        pixel_size_angstrom=PIXEL_ANGSTROM,
        shifts_px=shifts,
        ctf=seen_through,
        defocus_angstrom=defocus,
        rng=0,
    )
    true = stack.rotations
    assert pose_error(true, found.rotations) < pose_error(true, start) / 6
    before, after = (
        shift_error_px(stack.shifts_px, s, r)
        for s, r in ((shifts, start), (found.shifts_px, found.rotations))
    )
    assert before == pytest.approx(0.5, rel=0.1)
    assert after < before / 6
    assert found.subset.sum() == N // 2
    assert set(found.subset) == {0, 1}


def test_without_shifts_given_none_are_looked_for(small, stack):
    images = project(small.data, stack.rotations[:40])
    found = refine(
        images, stack.rotations[:40], pixel_size_angstrom=4.0, search_rounds=0, gradient_rounds=1, rng=0
    )
    assert not found.shifts_px.any()


# --- the network


def test_shifts_turn_with_the_image(views):
    image = imaging.downsample(views[0][:1], 24)[
        :, 1:, 1:
    ]  # of odd size, so that quarter turns keep the origin
    encoder = siamese.EncoderSettings(23, channels=8, blocks=1, with_shifts=True).build()
    still, turned = (encoder(x)["shifts_px"].numpy()[0] for x in (image, np.rot90(image, -1, (1, 2)).copy()))
    # a quarter turn from x to y takes (x, y) to (-y, x)
    np.testing.assert_allclose(turned, [-still[1], still[0]], atol=SINGLE * np.abs(still).max())
    assert np.abs(still).max() > 0


def test_batches_hold_the_shifts_and_defoci_of_their_images(small):
    """Of odd size: the Nyquist frequency of an even one has no phase to move."""
    density = DensityMap(small.data, PIXEL_ANGSTROM)
    options = {"image_size": 32, "network_image_size": 31, "batch_size": 16, "steps": 2, "with_shifts": True}
    plain = siamese.ProjectionStream(density, **options)[0]
    moved = siamese.ProjectionStream(density, shift_limit_px=3, **options)[0]
    assert not plain[1]["shifts_px"].any()
    np.testing.assert_array_equal(plain[1]["features"], moved[1]["features"])
    np.testing.assert_allclose(
        imaging.shift(plain[0], moved[1]["shifts_px"]), moved[0], atol=SINGLE * plain[0].max()
    )
    narrow = ContrastTransfer(defocus_angstrom=(7_000.0, 7_000.0))
    seen, _ = siamese.ProjectionStream(density, ctf=narrow, **options)[0]
    defoci = np.full(16, 7_000.0)
    pixel = PIXEL_ANGSTROM * 32 / 31
    expected = imaging.apply_ctf(plain[0], narrow, defoci, pixel_size_angstrom=pixel)
    expected = imaging.flip_phases(expected, narrow, defoci, pixel_size_angstrom=pixel)
    units = [imaging.clean_deviation(density, image_size=32, ctf=ctf) for ctf in (None, narrow)]
    np.testing.assert_allclose(seen, expected * (units[0] / units[1]), atol=10 * SINGLE * seen.max())


def test_a_trained_network_finds_shifts(small):
    density = DensityMap(small.data, PIXEL_ANGSTROM)
    options = {"image_size": 32, "shift_limit_px": 4.0}
    settings = siamese.EncoderSettings(16, channels=16, blocks=2, with_shifts=True)
    keras.utils.set_random_seed(0)
    encoder = settings.build()
    stream = siamese.ProjectionStream(
        density, network_image_size=16, batch_size=32, steps=60, with_shifts=True, **options
    )
    held_out = imaging.simulate(density, 64, rng=3, **options)
    images, shifts = imaging.downsample(held_out.images, 16), held_out.shifts_px / 2
    history = siamese.train(
        encoder, stream, epochs=4, validation=(images, held_out.rotations.as_quat(), shifts)
    )
    assert {"distance_error_rad", "val_distance_error_rad"} <= set(history)
    found = siamese.predict_shifts(encoder, images)
    assert np.linalg.norm(found - shifts, axis=1).mean() < np.linalg.norm(shifts, axis=1).mean() / 3


def test_a_shifted_run_through_a_contrast_transfer_ends_in_a_map():
    overrides = {
        "shift_limit_px": 2.0,
        "ctf": True,
        "training_epochs": 12,
        "expected_distance_error_rad": 0.5,
        "expected_pose_error_rad": 0.5,
        "expected_refined_error_rad": 0.15,
    }
    pipeline.run(profile="toy", run="toy-shifted", overrides=overrides)
    made = read_record(run_folder("toy-shifted") / "3-reconstruction")["numbers"]
    assert made["refined_shift_error_px"] < 0.15
    assert made["refined_shift_error_px"] < 0.8 * made["shift_error_before_px"]
    assert made["refined_pose_error_rad"] < made["pose_error_before_rad"] / 2


# --- refusals


def test_shifts_and_defoci_that_do_not_suit_are_refused(stack):
    images, rotations = stack.images[:20], stack.rotations[:20]

    def refined(**options):
        return refine(images, rotations, pixel_size_angstrom=PIXEL_ANGSTROM, **options)

    with pytest.raises(ValueError, match=r"^shifts_px must be \(20, 2\), got \(19, 2\)$"):
        refined(shifts_px=np.zeros((19, 2)))
    with pytest.raises(ValueError, match=r"^ctf and defocus_angstrom must be given together, got no ctf$"):
        refined(defocus_angstrom=np.ones(20))
    with pytest.raises(ValueError, match=r"must be given together, got no defocus_angstrom$"):
        refined(ctf=CTF)
    with pytest.raises(ValueError, match=r"^defocus_angstrom must be one for each of the 20 images, got 3$"):
        refined(ctf=CTF, defocus_angstrom=np.ones(3))
    with pytest.raises(ValueError, match=r"^method must be fourier where there is a ctf, got 'cgls'$"):
        reconstruct(
            images, rotations, pixel_size_angstrom=4.0, ctf=CTF, defocus_angstrom=np.ones(20), method="cgls"
        )


def test_a_network_that_knows_no_shifts_says_so():
    encoder = siamese.EncoderSettings(16, channels=4, blocks=1).build()
    with pytest.raises(
        ValueError, match=r"^encoder must be built with_shifts to find them, got polar_encoder"
    ):
        siamese.predict_shifts(encoder, np.ones((2, 16, 16)))
    with pytest.raises(ValueError, match=r"^with_shifts must be False for the published encoder, got True$"):
        siamese.build_encoder(32, architecture="published", with_shifts=True)


# --- what the noise leaves open


def test_steps_know_how_far_off_they_are_and_draws_spread_like_it(small):
    """Many noisy copies of one view: found poses scatter as the covariances say, and so do poses drawn from them."""
    n, variance = 300, 0.5
    rotations = Rotation.concatenate([random_rotations(1, rng=5)] * n)
    images = project(small.data, rotations)
    images = imaging.add_noise(images / images.std(), variance, rng=0)
    work = working_set(full_images(images, None)[0], Poses(rotations, np.zeros((n, 2))), 12).within(12)
    coarse = fourier_cropped(small.data, work.size)
    found = descend(transform(coarse), work, rotations, steps=3, moves=True)
    predicted = np.sqrt(np.einsum("naa->na", found.covariances).mean(axis=0))
    for poses in (found.poses, found.drawn(np.random.default_rng(0))):
        reference = rotations if poses is found.poses else found.poses.rotations
        moved = poses.shifts_px - (0 if poses is found.poses else found.poses.shifts_px)
        errors = np.column_stack([(poses.rotations * reference.inv()).as_rotvec(), moved])
        np.testing.assert_allclose(errors.std(axis=0), predicted, rtol=0.2)


def fourier_cropped(volume, size):
    """A volume at fewer voxels a side, its low frequencies kept."""
    n = len(volume)
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))
    low = slice(n // 2 - size // 2, n // 2 - size // 2 + size)
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum[low, low, low])).real).astype(np.float32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ctf": True, "reconstruction_method": "cgls"},
            "^reconstruction_method must be fourier where ctf is true",
        ),
        (
            {"shift_limit_px": 2.0, "architecture": "published"},
            "^architecture must be polar, which finds shifts",
        ),
    ],
)
def test_settings_that_cannot_go_together_are_refused_before_anything_runs(settings, message):
    with pytest.raises(ValueError, match=message):
        pipeline.get_profile("toy", **settings)


def test_a_stream_without_shifts_does_not_train_a_network_that_finds_them(small):
    encoder = siamese.EncoderSettings(16, channels=4, blocks=1, with_shifts=True).build()
    stream = siamese.ProjectionStream(small, image_size=32, network_image_size=16, batch_size=4, steps=1)
    quaternions = random_rotations(4, rng=0).as_quat()
    with pytest.raises(ValueError, match=r"^stream must be made with_shifts as the encoder was, got False$"):
        siamese.train(
            encoder, stream, epochs=1, validation=(np.ones((4, 16, 16)), quaternions, np.zeros((4, 2)))
        )
    with pytest.raises(
        ValueError, match=r"^validation must hold images, quaternions and shifts .* got 2 arrays$"
    ):
        siamese.train(encoder, stream, epochs=1, validation=(np.ones((4, 16, 16)), quaternions))


def test_flipped_phases_leave_white_noise_white():
    noise = np.random.default_rng(0).normal(size=(4, 32, 32)).astype(np.float32)
    strong = ContrastTransfer(b_factor_angstrom2=5000.0, amplitude_contrast=0.0)
    flipped = imaging.flip_phases(noise, strong, np.full(4, 1e4), pixel_size_angstrom=1.0)
    assert flipped.var() == pytest.approx(noise.var(), rel=1e-2)
