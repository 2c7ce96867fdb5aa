"""Maps from images: the truth comes back, at its scale and in its place, whichever method makes it."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from unfit_images import unfit_images

from cryoem.projectors import project
from cryoem.reconstruction import METHODS, disc_frequencies, grid_slices, once_each, reconstruct
from cryoem.resolution import fourier_shell_correlation
from cryoem.rotations import point_group, random_rotations
from cryoem.volumes import phantom

FLOAT32 = 1e-5  # relative to the largest value


def rebuilt(images, rotations, method="fourier", **options):
    return reconstruct(
        images, rotations, **{"pixel_size_angstrom": 4.0, "method": method, "backend": "fourier"} | options
    ).data


def correlation(a, b) -> np.ndarray:
    return fourier_shell_correlation(a, b).correlation


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [32, 33])
def test_exact_projections_give_the_map_back(size, method):
    density = phantom(size=size).data
    rotations = random_rotations(300, rng=1)
    found = rebuilt(project(density, rotations, backend="fourier"), rotations, method)
    assert found.shape == density.shape
    assert found.dtype == np.float32
    curve = correlation(density, found)
    assert (curve[:-2] > 0.99).all()
    assert curve.min() > 0.9
    scale = np.vdot(found, density) / np.vdot(density, density)
    assert scale == pytest.approx(1, abs=0.02)
    assert found.sum() == pytest.approx(density.sum(), rel=0.02)


def test_both_methods_agree(views):
    images, rotations = views
    direct, least_squares = (rebuilt(images, rotations, method) for method in METHODS)
    assert (correlation(direct, least_squares)[:-2] > 0.99).all()
    assert np.vdot(direct, least_squares) == pytest.approx(np.vdot(direct, direct), rel=0.03)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("size", "offset"),
    [
        (4, (0, -1, 1)),
        (5, (1, 0, -1)),
        *((n, offset) for n in (16, 17) for offset in ((0, 0, 0), (2, -3, 4))),
    ],
)
def test_a_point_comes_back_on_its_voxel(offset, size, method):
    density = np.zeros((size,) * 3)
    voxel = tuple(size // 2 + np.array(offset))
    density[voxel] = 1
    rotations = random_rotations(150, rng=1)
    found = rebuilt(project(density, rotations, backend="fourier"), rotations, method)
    assert np.unravel_index(found.argmax(), found.shape) == voxel
    if method == "fourier":
        # all that is measured of the point are the frequencies inside a ball, and a little at its rim
        measured = np.mean(sum(f**2 for f in np.ix_(*[np.fft.fftfreq(size)] * 3)) < 0.25)
        assert measured < found.max() < 1.35 * measured
    around = np.abs(found).copy()
    around[tuple(slice(v - 1, v + 2) for v in voxel)] = 0
    assert around.max() < 0.2 * found.max()


@pytest.mark.parametrize("method", METHODS)
def test_the_map_turns_with_its_orientations(views, method):
    images, rotations = views
    (frame,) = point_group("O")[[5]]
    axes = frame.as_matrix()
    found = rebuilt(images, rotations, method)
    # R B^T sees the particle turned by B
    turned = rebuilt(images, rotations * frame.inv(), method)
    index = np.indices(found.shape)[::-1].reshape(3, -1) - 16  # x, y, z
    moved = np.rint(axes @ index).astype(int)
    inside = (np.abs(moved) < 16).all(axis=0) & (np.abs(index) < 16).all(axis=0)
    x, y, z = index[:, inside] + 16
    a, b, c = moved[:, inside] + 16
    np.testing.assert_allclose(turned[c, b, a], found[z, y, x], atol=0.02 * found.max())


@pytest.mark.parametrize("method", METHODS)
def test_reconstruction_is_linear(views, method):
    images, rotations = views[0][:50], views[1][:50]
    other = np.random.default_rng(0).normal(size=images.shape)
    options = {"method": method, **({"iterations": 3} if method == "cgls" else {})}
    np.testing.assert_allclose(
        rebuilt(3 * images, rotations, **options), 3 * rebuilt(images, rotations, **options), atol=1e-4
    )
    if method == "fourier":  # the steps of conjugate gradients depend on the images
        apart = rebuilt(images, rotations) + rebuilt(other, rotations)
        np.testing.assert_allclose(
            rebuilt(images + other, rotations), apart, atol=FLOAT32 * np.abs(apart).max()
        )


def test_noise_averages_out_over_images(views):
    images, rotations = views
    noisy = images + np.random.default_rng(0).normal(scale=2 * images.std(), size=images.shape)
    clean = rebuilt(images, rotations)
    error = [np.linalg.norm(rebuilt(noisy[:n], rotations[:n]) - clean) for n in (75, 300)]
    assert error[1] < 0.65 * error[0]


def test_residual_of_least_squares_falls_all_the_way(views):
    images, rotations = views[0][:60], views[1][:60]
    calls = []
    found = rebuilt(images, rotations, "cgls", iterations=12, callback=lambda *call: calls.append(call))
    assert [iteration for iteration, _ in calls] == list(range(12))
    residual = np.array([value for _, value in calls])
    assert (np.diff(residual) < 0).all()
    left = images - project(found, rotations, backend="fourier")
    assert residual[-1] == pytest.approx(np.linalg.norm(left) / np.linalg.norm(images), abs=1e-4)


def test_more_iterations_continue_the_same_way(views):
    images, rotations = views[0][:30], views[1][:30]
    short, long = [], []
    rebuilt(images, rotations, "cgls", iterations=3, callback=lambda _, value: short.append(value))
    rebuilt(images, rotations, "cgls", iterations=5, callback=lambda _, value: long.append(value))
    assert long[:3] == short


def test_sums_of_slices_add_and_subtract(views):
    rotations = views[1][:40]
    _, frequencies = disc_frequencies(32)
    planes = np.random.default_rng(0).normal(size=(40, len(frequencies))).astype(np.complex64)
    matrices = rotations.as_matrix()
    every = grid_slices(planes, matrices, frequencies, 32)
    part = grid_slices(planes[:15], matrices[:15], frequencies, 32)
    rest = grid_slices(planes[15:], matrices[15:], frequencies, 32)
    for name in ("values", "density"):
        whole = getattr(every, name)
        atol = FLOAT32 * np.abs(whole).max()
        np.testing.assert_allclose(getattr(part + rest, name), whole, atol=atol)
        np.testing.assert_allclose(getattr(every - part, name), getattr(rest, name), atol=2 * atol)


@pytest.mark.parametrize("size", [8, 9])
def test_every_frequency_of_the_disc_counts_once(size):
    _, frequencies = disc_frequencies(size)
    assert np.hypot(*frequencies.T).max() < 0.5
    full = np.stack(np.meshgrid(*2 * [np.fft.fftfreq(size)]), axis=-1).reshape(-1, 2)
    assert 2 * once_each(frequencies).sum() == np.count_nonzero(np.hypot(*full.T) < 0.5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [2, 3, 10])
def test_few_images_and_one_view_alone_make_a_finite_map(views, n, method):
    images, rotations = views
    assert np.isfinite(rebuilt(images[:n], rotations[:n], method)).all()
    same = rebuilt(images[[0] * n], rotations[[0] * n], method)
    seen = project(same, rotations[:1], backend="fourier")[0]
    assert np.corrcoef(seen.ravel(), images[0].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("method", METHODS)
def test_empty_images_make_an_empty_map(method):
    assert not rebuilt(np.zeros((4, 16, 16)), random_rotations(4, rng=0), method).any()


@pytest.mark.parametrize("method", METHODS)
def test_arguments_stay_and_results_repeat(views, method):
    images, rotations = views[0][:40].copy(), views[1][:40]
    options = {"method": method, **({"iterations": 3} if method == "cgls" else {})}
    first = rebuilt(images, rotations, **options)
    np.testing.assert_array_equal(images, views[0][:40])
    np.testing.assert_array_equal(rebuilt(images, rotations, **options), first)
    disguised = np.asfortranarray(images.astype(np.float64))
    np.testing.assert_allclose(rebuilt(disguised, rotations, **options), first, atol=FLOAT32 * first.max())


def test_the_map_knows_its_voxel_size(views):
    assert reconstruct(views[0][:5], views[1][:5], pixel_size_angstrom=2.5).voxel_size_angstrom == 2.5


# --- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [case for case in unfit_images(5, fewest=2, smallest=4) if case.id != "constant"],  # those have a map
)
def test_images_that_are_none_are_refused(views, change, message):
    with pytest.raises(ValueError, match=message):
        rebuilt(change(views[0][:5]), views[1][:5])


def test_one_orientation_for_many_images_is_refused(views):
    with pytest.raises(ValueError, match=r"rotations must hold at least one .*got a single"):
        rebuilt(views[0][:5], Rotation.identity())


@pytest.mark.parametrize(
    ("name", "value", "asked"),
    [
        ("pixel_size_angstrom", 0.0, "be a positive number"),
        ("pixel_size_angstrom", -4.0, "be a positive number"),
        ("pixel_size_angstrom", np.nan, "be a positive number"),
        ("damping", 0.0, "be a positive number"),
        ("damping", -1.0, "be a positive number"),
        ("damping", np.nan, "be a positive number"),
        ("iterations", 0, "be a whole number of at least 1"),
        ("iterations", 1.5, "be a whole number of at least 1"),
        ("method", "sirt", "be one of fourier, cgls"),
        ("backend", "cuda", "be one of auto, fourier, astra"),
    ],
)
def test_options_that_make_no_sense_are_refused(views, name, value, asked):
    options = {"method": "cgls", name: value}
    with pytest.raises(ValueError, match=f"^{name} must {asked}, got {value!r}$"):
        rebuilt(views[0][:5], views[1][:5], **options)
