"""Steps on particle files, block by block: they are the steps on arrays, however large the blocks."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from cryoem import blockwise, imaging, particles, siamese
from cryoem.contrast import ContrastTransfer
from cryoem.gauge import fix_gauge
from cryoem.reconstruction import reconstruct
from cryoem.rotations import random_rotations
from cryoem.volumes import DensityMap

N, SIZE, PIXEL = 61, 24, 5.0
FLOAT32 = 1e-5  # relative to the largest value
CTF = ContrastTransfer(defocus_angstrom=(4_000.0, 9_000.0), inverted=True)


@pytest.fixture(scope="module")
def simulated(particle):
    density = DensityMap(particle[4:28, 4:28, 4:28], PIXEL)
    return imaging.simulate(density, N, ctf=CTF, shift_limit_px=1.5, noise_variance=0.1, rng=0)


@pytest.fixture(scope="module")
def job(simulated, tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "job.star"
    particles.write_particles(path, simulated)
    return particles.open_particles(path)


@pytest.fixture(params=[1, 7, 1000])
def block(request, monkeypatch):
    """Images of a block."""
    monkeypatch.setattr(blockwise.blocks, "BLOCK_BYTES", request.param * 4 * SIZE**2)
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["no shifts", "shifts"])
def encoder(request):
    """An encoder of 16 px, as it is built, and its settings."""
    keras.utils.set_random_seed(0)
    settings = siamese.EncoderSettings(16, channels=6, blocks=1, with_shifts=request.param)
    return settings.build(), settings


def test_distances_are_those_of_the_images(simulated, job, encoder, block):
    done = []
    found = blockwise.learned_distances(job, *encoder, callback=done.append)
    assert done == [*range(block, N, block), N]
    flipped = imaging.flip_phases(
        simulated.images, CTF, simulated.defocus_angstrom, pixel_size_angstrom=PIXEL
    )
    small = imaging.downsample(flipped, 16)
    shifts = np.zeros((N, 2))
    if encoder[1].with_shifts:
        shifts = siamese.predict_shifts(encoder[0], small)
        assert np.abs(shifts).max() > 0.01
    expected = siamese.predict_distances(encoder[0], imaging.shift(small, -shifts))
    np.testing.assert_allclose(found.distances, expected, atol=2e-3)  # arccos steepens rounding near 0
    np.testing.assert_allclose(found.shifts_px, shifts * SIZE / 16, atol=1e-3)


def test_distances_to_landmarks_are_columns_of_all_distances(job, encoder, monkeypatch):
    monkeypatch.setattr(blockwise.distances, "ROWS", 10)
    every = blockwise.learned_distances(job, *encoder)
    some = blockwise.learned_distances(job, *encoder, landmarks=15, rng=3)
    assert len(set(some.landmarks)) == 15
    np.testing.assert_allclose(some.distances, every.distances[:, some.landmarks], atol=2e-3)
    among = some.distances[some.landmarks]
    np.testing.assert_array_equal(among, among.T)
    assert not among.diagonal().any()
    np.testing.assert_array_equal(some.shifts_px, every.shifts_px)


@pytest.mark.parametrize("landmarks", [11, N + 1])
def test_landmarks_must_be_some_of_the_images(job, encoder, landmarks):
    message = rf"^landmarks must be from 12 to the {N} images, got {landmarks}$"
    with pytest.raises(ValueError, match=message):
        blockwise.learned_distances(job, *encoder, landmarks=landmarks)


def test_images_smaller_than_the_encoder_are_refused(job, encoder):
    large = siamese.EncoderSettings(25, channels=6, blocks=1)
    with pytest.raises(
        ValueError, match=r"job\.star must hold images of at least the encoder's 25 px, got 24 px$"
    ):
        blockwise.learned_distances(job, encoder[0], large)
    with pytest.raises(ValueError, match=r"job\.star must hold at least 2 images to have a distance, got 1$"):
        blockwise.learned_distances(job.subset([3]), *encoder)


# --- gauge


def test_the_gauge_is_that_of_the_images(simulated, job):
    turned = random_rotations(1, rng=5)[0] * simulated.rotations.inv()
    found = blockwise.fix_gauge_of(job, turned, shifts_px=simulated.shifts_px, rng=3)
    images = imaging.flip_phases(simulated.images, CTF, simulated.defocus_angstrom, pixel_size_angstrom=PIXEL)
    expected = fix_gauge(imaging.shift(images, -simulated.shifts_px), turned, rng=3)
    assert found.inverted == expected.inverted
    assert found.score == pytest.approx(expected.score, abs=1e-4)
    assert (found.rotations * expected.rotations.inv()).magnitude().max() < 1e-3


def test_some_images_settle_the_gauge_of_all(simulated, job):
    turned = random_rotations(1, rng=5)[0] * simulated.rotations
    few = blockwise.fix_gauge_of(job, turned, shifts_px=simulated.shifts_px, most_images=40, rng=3)
    assert len(few.rotations) == N
    # one turn of all orientations, or of all their inverses
    oriented = turned.inv() if few.inverted else turned
    assert (few.rotations * oriented.inv() * few.turn.inv()).magnitude().max() < 1e-9
    every = blockwise.fix_gauge_of(job, turned, shifts_px=simulated.shifts_px, rng=3)
    assert few.inverted == every.inverted


def test_a_gauge_needs_one_orientation_each(simulated, job):
    with pytest.raises(ValueError, match=rf"^rotations must be as many as the images, {N}, got 3$"):
        blockwise.fix_gauge_of(job, simulated.rotations[:3])
    with pytest.raises(ValueError, match=r"^most_images must be a whole number of at least 3, got 2$"):
        blockwise.fix_gauge_of(job, simulated.rotations, most_images=2)


# --- map


def map_of(stack, chosen=slice(None), **options):
    return reconstruct(
        stack.images[chosen],
        stack.rotations[chosen],
        pixel_size_angstrom=PIXEL,
        shifts_px=stack.shifts_px[chosen],
        ctf=stack.ctf,
        defocus_angstrom=stack.defocus_angstrom[chosen],
        **options,
    ).data


@pytest.mark.parametrize("symmetry", ["C1", "C2"])
def test_a_map_made_in_blocks_is_the_map_made_at_once(simulated, job, block, symmetry):
    done = []
    made = blockwise.reconstruct_particles(job, symmetry=symmetry, callback=done.append)
    at_once = -(-blockwise.maps.IMAGES_PER_PX * SIZE // block) * block
    assert done == [*range(at_once, N, at_once), N]
    halves = zip(made.half_maps, (slice(0, None, 2), slice(1, None, 2)), strict=True)
    for found, chosen in ((made.map, slice(None)), *halves):
        expected = map_of(simulated, chosen, symmetry=symmetry)
        np.testing.assert_allclose(found.data, expected, atol=20 * FLOAT32 * np.abs(expected).max())
        assert found.voxel_size_angstrom == PIXEL


def test_halves_are_relions_where_the_table_has_them(simulated, job, block):
    first = np.arange(N) < 20
    path = job.path.with_name("subset.star")
    particles.write_star(path, job.table.assign(rlnRandomSubset=np.where(first, 1, 2)), optics=job.optics)
    made = blockwise.reconstruct_particles(particles.open_particles(path))
    for half, chosen in zip(made.half_maps, (first, ~first), strict=True):
        expected = map_of(simulated, chosen)
        np.testing.assert_allclose(half.data, expected, atol=20 * FLOAT32 * np.abs(expected).max())


@pytest.mark.parametrize("subset", [np.ones(N), np.arange(N), np.where(np.arange(N) == 4, 0, 1)])
def test_halves_that_are_none_are_refused(job, subset):
    table = job.table.assign(rlnRandomSubset=subset)
    path = job.path.with_name("wrong.star")
    particles.write_star(path, table, optics=job.optics)
    with pytest.raises(
        ValueError, match=r"wrong\.star must have both 1 and 2, and nothing else, in rlnRandomSubset"
    ):
        blockwise.reconstruct_particles(particles.open_particles(path))


def test_another_method_reads_all_images_at_once(particle, tmp_path):
    stack = imaging.simulate(DensityMap(particle[8:24, 8:24, 8:24], PIXEL), 9, shift_limit_px=1, rng=1)
    particles.write_particles(tmp_path / "a.star", stack)
    made = blockwise.reconstruct_particles(particles.open_particles(tmp_path / "a.star"), method="cgls")
    assert made.half_maps is None
    expected = reconstruct(
        stack.images, stack.rotations, pixel_size_angstrom=PIXEL, shifts_px=stack.shifts_px, method="cgls"
    ).data
    np.testing.assert_allclose(made.map.data, expected, atol=1e-3 * np.abs(expected).max())


def test_what_a_map_cannot_be_made_of(job, tmp_path):
    particles.write_stack(tmp_path / "a.mrcs", job.read([0, 1]), pixel_size_angstrom=PIXEL)
    with pytest.raises(
        ValueError, match=r"a\.mrcs must give the orientations of its images, and gives none$"
    ):
        blockwise.reconstruct_particles(particles.open_particles(tmp_path / "a.mrcs"))
    with pytest.raises(ValueError, match=r"job\.star must hold at least 2 images to make a map, got 1$"):
        blockwise.reconstruct_particles(job.subset([0]))
    with pytest.raises(ValueError, match=r"^method must be one of fourier, cgls, got 'sirt'$"):
        blockwise.reconstruct_particles(job, method="sirt")
