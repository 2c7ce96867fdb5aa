"""Maps from images and poses: correct values, scale and position, for each method, in blocks, with corrections."""

import io
import tempfile
import tracemalloc

import numba
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.particles.conditions import ImagingConditions
from cryoem.particles.simulation import simulate_lazily
from cryoem.projection.gridding import SLAB_BYTES
from cryoem.projection.projectors import project
from cryoem.reconstruction import accumulation
from cryoem.reconstruction.accumulation import accumulate, memory_bytes
from cryoem.reconstruction.maps import METHODS, reconstruct, reconstruct_halves
from cryoem.reconstruction.resolution import fourier_shell_correlation
from cryoem.rotations import Poses, point_group, random_rotations
from cryoem.volumes.phantoms import phantom

FLOAT32 = 1e-5  # relative to the largest value


def rebuilt(images, rotations, method="fourier", **options):
    return reconstruct(
        images, rotations, **{"pixel_size_angstrom": 4.0, "method": method, "backend": "fourier"} | options
    ).data


def correlation(a, b) -> np.ndarray:
    return fourier_shell_correlation(a, b).correlation


@pytest.mark.parametrize(("method", "size"), [("fourier", 32), ("fourier", 33), ("cgls", 33)])
def test_exact_projections_give_the_map_back(size, method):
    density = phantom(size=size).data
    rotations = random_rotations(300, rng=1)
    found = rebuilt(project(density, rotations, backend="fourier"), rotations, method)
    assert (found.shape, found.dtype) == (density.shape, np.float32)
    curve = correlation(density, found)
    assert (curve[:-2] > 0.99).all()
    assert curve.min() > 0.9
    scale = np.vdot(found, density) / np.vdot(density, density)
    assert scale == pytest.approx(1, abs=0.02)
    assert found.sum() == pytest.approx(density.sum(), rel=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("size", "offset"),
    [(4, (0, -1, 1)), (5, (1, 0, -1)), (16, (2, -3, 4)), (17, (2, -3, 4)), (17, (0, 0, 0))],
)
def test_a_point_is_reconstructed_on_its_voxel(offset, size, method):
    density = np.zeros((size,) * 3)
    voxel = tuple(size // 2 + np.array(offset))
    density[voxel] = 1
    rotations = random_rotations(150, rng=1)
    found = rebuilt(project(density, rotations, backend="fourier"), rotations, method)
    assert np.unravel_index(found.argmax(), found.shape) == voxel
    if method == "fourier":
        # only frequencies inside a ball, and a few at its rim, are measured for the point
        measured = np.mean(sum(f**2 for f in np.ix_(*[np.fft.fftfreq(size)] * 3)) < 0.25)
        assert measured < found.max() < 1.35 * measured
    around = np.abs(found).copy()
    around[tuple(slice(v - 1, v + 2) for v in voxel)] = 0
    assert around.max() < 0.2 * found.max()


@pytest.mark.parametrize("method", METHODS)
def test_the_map_turns_with_its_orientations(views, method):
    images, rotations = views[0][:100], views[1][:100]
    (frame,) = point_group("O")[[5]]
    found = rebuilt(images, rotations, method, iterations=5)
    # R B^T shows the particle rotated by B
    turned = rebuilt(images, rotations * frame.inv(), method, iterations=5)
    index = np.indices(found.shape)[::-1].reshape(3, -1) - 16  # x, y, z
    moved = np.rint(frame.as_matrix() @ index).astype(int)
    inside = (np.abs(moved) < 16).all(axis=0) & (np.abs(index) < 16).all(axis=0)
    x, y, z = index[:, inside] + 16
    a, b, c = moved[:, inside] + 16
    np.testing.assert_allclose(turned[c, b, a], found[z, y, x], atol=0.02 * found.max())


@pytest.mark.parametrize("method", METHODS)
def test_reconstruction_is_linear_and_repeatable_and_leaves_its_arguments(views, method):
    images, rotations = views[0][:50].copy(), views[1][:50]
    first, second = (rebuilt(images, rotations, method, iterations=3) for _ in range(2))
    np.testing.assert_array_equal(images, views[0][:50])
    np.testing.assert_array_equal(second, first)
    disguised = np.asfortranarray(3 * images.astype(np.float64))
    scaled = rebuilt(disguised, rotations, method, iterations=3)
    np.testing.assert_allclose(scaled, 3 * first, atol=1e-4)
    if method == "fourier":  # the steps of conjugate gradients depend on the images
        other = np.random.default_rng(0).normal(size=images.shape)
        apart = first + rebuilt(other, rotations)
        atol = FLOAT32 * np.abs(apart).max()
        np.testing.assert_allclose(rebuilt(images + other, rotations), apart, atol=atol)


def test_the_residual_of_least_squares_falls_all_the_way(views):
    images, rotations = views[0][:60], views[1][:60]
    calls = []
    found = rebuilt(images, rotations, "cgls", iterations=12, callback=lambda *call: calls.append(call))
    assert [iteration for iteration, _ in calls] == list(range(12))
    residual = np.array([value for _, value in calls])
    assert (np.diff(residual) < 0).all()
    left = images - project(found, rotations, backend="fourier")
    assert residual[-1] == pytest.approx(np.linalg.norm(left) / np.linalg.norm(images), abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [2, 3])
def test_few_images_and_a_single_view_make_a_finite_map(views, n, method):
    images, rotations = views
    assert np.isfinite(rebuilt(images[:n], rotations[:n], method)).all()
    same = rebuilt(images[[0] * n], rotations[[0] * n], method)
    seen = project(same, rotations[:1], backend="fourier")[0]
    assert np.corrcoef(seen.ravel(), images[0].ravel())[0, 1] > 0.99
    assert not rebuilt(np.zeros((n, 16, 16)), rotations[:n], method).any()


@pytest.mark.parametrize("method", METHODS)
def test_a_symmetric_map_is_symmetric_and_better(method):
    true, density = random_rotations(40, rng=0), phantom(symmetry="D2", size=32, rng=0).data
    images = project(density, true)
    copies = true * point_group("D2")[np.random.default_rng(3).integers(4, size=40)]
    made = rebuilt(images, copies, method, symmetry="D2", iterations=6)
    inner = made[1:, 1:, 1:]  # the part of an even box that a half turn maps onto itself
    for axes in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_allclose(np.flip(inner, axes), inner, atol=0.02 * inner.max())
    plain = rebuilt(images, true, method, iterations=6)
    assert correlation(made, density).mean() > correlation(plain, density).mean()


# --- shifts, CTF, blocks


@pytest.fixture(scope="module")
def lazy():
    """200 shifted particles with a CTF, simulated when they are read."""
    ctf = ContrastTransfer(defocus_range_angstrom=(4_000.0, 9_000.0))
    return simulate_lazily(phantom(size=32), 200, ImagingConditions(shift_limit_px=3.0, ctf=ctf), rng=1)


def test_shifts_and_the_contrast_transfer_are_corrected(lazy):
    density, images = phantom(size=32), np.asarray(lazy)
    found = reconstruct(images, lazy.poses, optics=lazy.optics)
    assert found.voxel_size_angstrom == density.voxel_size_angstrom
    assert correlation(found.data, density.data)[:-2].min() > 0.99
    uncorrected = reconstruct(images, lazy.rotations, pixel_size_angstrom=4.0).data
    assert correlation(uncorrected, density.data)[8:].max() < 0.5


@pytest.mark.parametrize(("block", "scratch"), [(7, False), (1000, True)])
def test_blocks_make_the_map_of_all_images_at_once(lazy, block, scratch, monkeypatch):
    monkeypatch.setattr(accumulation, "BLOCK_BYTES", block * 4 * 32**2)
    monkeypatch.setattr(accumulation, "IMAGES_PER_PX", 1)
    images, subset, done = np.asarray(lazy), np.arange(200) // 120, []
    everything = accumulate(images, lazy.poses, lazy.optics).invert()
    atol = 20 * FLOAT32 * np.abs(everything).max()
    np.testing.assert_allclose(reconstruct(lazy, lazy.poses).data, everything, atol=atol)
    # tasks completed in a different order, as on a cluster
    found = reconstruct_halves(
        lazy,
        lazy.poses,
        subset=subset,
        map_blocks=lambda function, items: [function(item) for item in list(items)[::-1]][::-1],
        callback=done.append,
        scratch=io.BytesIO() if scratch else None,
    )
    assert done == [32, 64, 96, 120, 152, 184, 200]  # one half after the other
    np.testing.assert_allclose(found.map.data, everything, atol=atol)
    for half, number in zip(found.half_maps, (0, 1), strict=True):
        members = np.flatnonzero(subset == number)
        expected = accumulate(images[members], lazy.poses[members], lazy.optics[members]).invert()
        np.testing.assert_allclose(half.data, expected, atol=20 * FLOAT32 * np.abs(expected).max())


@pytest.mark.parametrize(("half_maps", "limit_gb"), [(False, (0.7, 2.0)), (True, (0.75, 2.5))])
def test_a_reconstruction_takes_the_memory_it_announces_and_no_more(half_maps, limit_gb):
    size, optics = 80, Optics(4.0)
    images, rotations = np.ones((6, size, size), np.float32), random_rotations(6, rng=0)
    with tempfile.TemporaryFile() as scratch:
        tracemalloc.start()
        if half_maps:
            reconstruct_halves(images, rotations, optics=optics, scratch=scratch)
        else:
            reconstruct(images, rotations, optics=optics)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    announced = memory_bytes(size, half_maps=half_maps)
    slab = 4 * SLAB_BYTES  # a slab, its transform and the images
    assert 0.8 * announced < peak < announced + slab
    # the program takes another 0.3 GB: at most 1 GB at 256 px and 3.2 GB at 400 px in total
    for wide, gigabytes in zip((256, 400), limit_gb, strict=True):
        assert memory_bytes(wide, half_maps=half_maps) < gigabytes * 1e9


def test_halves_are_every_other_image_by_default(views):
    images, rotations = views[0][:40], views[1][:40]
    found = reconstruct_halves(images, rotations, pixel_size_angstrom=4.0, symmetry="C2")
    for half, start in zip(found.half_maps, (0, 1), strict=True):
        expected = rebuilt(images[start::2], rotations[start::2], symmetry="C2")
        np.testing.assert_allclose(half.data, expected, atol=20 * FLOAT32 * np.abs(expected).max())


def test_sums_do_not_depend_on_the_number_of_threads(views, monkeypatch):
    found = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(numba, "get_num_threads", lambda count=threads: count)
        found.append(accumulate(views[0][:40], Poses(views[1][:40]), Optics(4.0)))
    for other in found[1:]:
        np.testing.assert_array_equal(other.values, found[0].values)
        np.testing.assert_array_equal(other.density, found[0].density)


def test_accumulators_add_and_subtract(views):
    images, poses, optics = views[0][:40], Poses(views[1][:40]), Optics(4.0)
    every, part, rest = (
        accumulate(images[some], poses[some], optics) for some in (slice(None), slice(15), slice(15, None))
    )
    for name in ("values", "density"):
        whole = getattr(every, name)
        atol = FLOAT32 * np.abs(whole).max()
        np.testing.assert_allclose(getattr(part + rest, name), whole, atol=atol)
        np.testing.assert_allclose(getattr(every - part, name), getattr(rest, name), atol=2 * atol)


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize("symmetry", ["C2", "C3", "C4", "D2", "T", "O", "I"])
def test_symmetric_sums_are_those_of_all_equivalent_orientations(symmetry, size):
    images, rotations = np.random.default_rng(0).normal(size=(60, size, size)), random_rotations(60, rng=0)
    group = point_group(symmetry)
    copies = Rotation.concatenate([rotations * g for g in group])
    expected = rebuilt(np.concatenate([images] * len(group)), copies)
    # the damping differs a little, because it is relative to the mean density of all points that have any
    atol = 5e-4 * expected.max()
    np.testing.assert_allclose(rebuilt(images, rotations, symmetry=symmetry), expected, atol=atol)


# --- refusals

FIVE, ROTATIONS = np.ones((5, 8, 8)), random_rotations(5, rng=0)
CTF = Optics(4.0, ContrastTransfer(), np.full(5, 1e4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": FIVE[:1]}, "at least 2 images are required, got 1"),
        ({"images": FIVE[:, :3, :3]}, r"images must be .* with y == x >= 4, got \(5, 3, 3\)"),
        ({"images": FIVE[:4]}, "poses must have one entry for each of the 4 images, got 5"),
        ({"pixel_size_angstrom": None}, "pixel_size_angstrom or optics is required, but neither is given"),
        ({"iterations": 1.5}, "iterations must be an integer >= 1, got 1.5"),
        ({"method": "sirt"}, "method must be one of fourier, cgls, got 'sirt'"),
        ({"backend": "cuda"}, "backend must be one of auto, fourier, astra, got 'cuda'"),
        ({"symmetry": "Q"}, "symmetry must be Cn, Dn, T, O or I, got 'Q'"),
        ({"optics": CTF}, "method must be 'fourier' for images with a CTF, got 'cgls'"),
        ({"optics": CTF[:3]}, "defocus_angstrom must have one entry for each of the 5 images, got 3"),
    ],
)
def test_unfit_arguments_are_one_sentence(options, message):
    call = {"images": FIVE, "poses": ROTATIONS, "pixel_size_angstrom": 4.0, "method": "cgls"}
    with pytest.raises(ValueError, match=f"^{message}$"):
        reconstruct(**(call | options))


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (
            np.arange(5),
            r"subset must contain 0 or 1 for each of the 5 images, got 5 values \[0, 1, 2, 3, 4\]",
        ),
        ([0, 1], r"subset must contain 0 or 1 for each of the 5 images, got 2 values \[0, 1\]"),
        ([0, 0, 0.5, 1, 1], "subset must contain 0 or 1 for each of the 5 images, got 5 values .*"),
        (np.ones(5), "each half-set must have at least 1 image, got 0 and 5"),
    ],
)
def test_halves_must_be_two(subset, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        reconstruct_halves(FIVE, ROTATIONS, pixel_size_angstrom=4.0, subset=subset)
