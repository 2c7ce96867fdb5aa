"""Projection: RELION's own images, an exact Fourier transform, the adjoint, and where a point lands."""

import finufft
import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from cryoem import projectors, volumes
from cryoem.projectors import astra_gpu, backproject, fourier, plane_frequencies, project
from cryoem.projectors.matching import correlate_candidates, gauss_newton_steps
from cryoem.reconstruction import once_each
from cryoem.rotations import from_relion_euler_deg, point_group, random_rotations

INTERPOLATION = 2e-3  # relative L2 error of a slice, as docs/conventions.md states it
ADJOINT = 1e-5  # relative
FLOAT32 = 1e-5  # the same computation in another order, relative to the largest value

SHAPES = [(24, 20, 22), (21, 21, 21), (16, 17, 15), (32, 32, 32), (4, 5, 6)]


def origin(shape) -> np.ndarray:
    return np.array([n // 2 for n in shape])


def smooth_noise(shape, seed=0) -> np.ndarray:
    """White noise: every frequency, up to the faces of the box."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def exact_slices(volume, rotations, size) -> np.ndarray:
    """The half-planes of images of ``size`` pixels by a non-uniform FFT in double precision: (n, m)."""
    frequencies = plane_frequencies(size).astype(np.float64)  # (m, 2)
    slices = []
    for matrix in rotations.as_matrix():
        kx, ky, kz = np.ascontiguousarray(2 * np.pi * (frequencies @ matrix[:2]).T)
        slices.append(finufft.nufft3d2(kz, ky, kx, volume.astype(complex), eps=1e-9, isign=-1))
    return np.array(slices)


def relative(a, b) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def cpu(volume, rotations, **options):
    return project(volume, rotations, backend="fourier", **options)


def cpu_adjoint(images, rotations, volume_shape):
    return backproject(images, rotations, volume_shape=volume_shape, backend="fourier")


# --- RELION made the same images


def relion_projections(folder, name):
    """Images (n, y, x), their orientations, and the displacement (x, y) px of their content."""
    with mrcfile.open(folder / "particles" / f"{name}.mrcs", permissive=True) as stack:
        images = stack.data.copy()
    table = starfile.read(folder / "particles" / f"{name}.star")
    table = table["particles"] if isinstance(table, dict) else table
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    displacement = np.zeros((len(table), 2))
    if "rlnOriginX" in table:
        displacement = -table[["rlnOriginX", "rlnOriginY"]].to_numpy()
    return images, from_relion_euler_deg(angles), displacement


def ribosome(folder) -> np.ndarray:
    with pytest.warns(UserWarning, match="no cell size"):
        return volumes.read_map(folder / "maps" / "ribosome-70S_65px.mrc").data


def cropped_to_64(volume) -> np.ndarray:
    """The map as it was cropped for RELION: in Fourier space, about voxel 0 instead of the centre."""
    spectrum = np.fft.fftshift(np.fft.fftn(volume))[:-1, :-1, :-1]  # frequencies -32 ... 31
    return np.fft.ifftn(np.fft.ifftshift(spectrum)).real * (64 / 65) ** 3


def correlations(a, b) -> np.ndarray:
    a, b = (v.reshape(len(v), -1) - v.mean(axis=(1, 2))[:, None] for v in (a, b))
    return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


@pytest.mark.parametrize("name", ["rln_proj_65", "rln_proj_65_shifted"])
def test_images_are_those_of_relion_in_an_odd_box(real_data, name):
    images, rotations, displacement = relion_projections(real_data, name)
    ours = cpu(ribosome(real_data), rotations)
    for image, shift in zip(ours, displacement, strict=True):
        x, y = np.rint(shift).astype(int) + 1  # RELION's odd boxes sit one pixel further along x and y
        image[:] = np.roll(image, (y, x), axis=(0, 1))
    assert correlations(ours, images).min() > 0.99


def test_images_are_those_of_relion_in_an_even_box(real_data):
    images, rotations, _ = relion_projections(real_data, "rln_proj_64")
    ours = cpu(cropped_to_64(ribosome(real_data)), rotations)
    assert correlations(ours, images).min() > 0.99


def test_the_wrong_hand_and_the_transpose_are_not_relions(real_data):
    images, rotations, _ = relion_projections(real_data, "rln_proj_65")
    volume = ribosome(real_data)
    for wrong in (
        cpu(volume, rotations.inv()),
        cpu(volume[::-1], rotations),
        cpu(volume, rotations)[:, ::-1],
    ):
        assert correlations(np.roll(wrong, (1, 1), axis=(1, 2)), images).max() < 0.95


# --- accuracy


@pytest.mark.parametrize("size", [None, 12, 33, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_agree_with_an_exact_fourier_transform(shape, size):
    volume, rotations = smooth_noise(shape), random_rotations(3, rng=1)
    n = max(shape) if size is None else size
    working = max(n, *shape)
    planes = exact_slices(volume, rotations, working).reshape(3, working, -1)
    exact = np.fft.fftshift(np.fft.irfft2(planes, s=(working, working)), axes=(1, 2))
    start = working // 2 - n // 2
    exact = exact[:, start : start + n, start : start + n]
    assert relative(cpu(volume, rotations, image_size=size), exact) <= INTERPOLATION


@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_of_the_half_plane_is_accurate(shape):
    volume, rotations = smooth_noise(shape), random_rotations(4, rng=2)
    size = max(shape)
    ours = fourier.read_slices(fourier.transform(volume), rotations.as_matrix(), plane_frequencies(size))
    exact = exact_slices(volume, rotations, size)
    assert relative(ours, exact) <= INTERPOLATION
    typical = np.sqrt(np.mean(np.abs(exact) ** 2))
    assert np.abs(ours - exact).max() <= 10 * INTERPOLATION * typical  # and none stands out


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (16, 16, 1), (16, 16, 3), (1, 16, 16), (16, 2, 8)]
)
def test_thin_volumes_project_too(shape):
    volume, rotations = smooth_noise(shape), random_rotations(3, rng=1)
    size = max(2, *shape)
    planes = exact_slices(volume, rotations, size).reshape(3, size, -1)
    exact = np.fft.fftshift(np.fft.irfft2(planes, s=(size, size)), axes=(1, 2))
    assert relative(cpu(volume, rotations, image_size=size), exact) <= INTERPOLATION
    images = smooth_noise(exact.shape, seed=3)
    forth = np.vdot(cpu(volume, rotations, image_size=size).astype(float), images)
    back = np.vdot(volume.astype(float), cpu_adjoint(images, rotations, shape))
    assert abs(forth - back) <= ADJOINT * np.linalg.norm(exact) * np.linalg.norm(images)


@pytest.mark.parametrize("size", [24, 25, 33])
@pytest.mark.parametrize("offset", [(0, 0, 0), (2.25, -3.5, 1.75)])
def test_a_gaussian_projects_to_the_gaussian_that_calculus_says(offset, size):
    width, shape = 1.5, (25, 22, 24)
    axes = np.ix_(*(np.arange(n) - n // 2 for n in shape))
    x0, y0, z0 = offset
    squared = (axes[0] - z0) ** 2 + (axes[1] - y0) ** 2 + (axes[2] - x0) ** 2
    rotations = random_rotations(6, rng=1)
    images = cpu(np.exp(-squared / (2 * width**2)), rotations, image_size=size)
    y, x = np.ix_(*2 * (np.arange(size) - size // 2,))
    for image, (at_x, at_y, _) in zip(images, rotations.apply(offset), strict=True):
        expected = np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * width**2)) * width * np.sqrt(2 * np.pi)
        assert np.abs(image - expected).max() <= INTERPOLATION * expected.max()


# --- adjoint


@pytest.mark.parametrize("size", [12, 24, 33])
@pytest.mark.parametrize("shape", SHAPES)
def test_backprojection_is_the_adjoint_of_projection(shape, size):
    volume, rotations = smooth_noise(shape), random_rotations(5, rng=1)
    images = smooth_noise((5, size, size), seed=2)
    projected = cpu(volume, rotations, image_size=size).astype(float)
    smeared = cpu_adjoint(images, rotations, shape)
    assert smeared.shape == shape
    assert smeared.dtype == np.float32
    difference = np.vdot(projected, images) - np.vdot(volume.astype(float), smeared)
    assert abs(difference) <= ADJOINT * np.linalg.norm(projected) * np.linalg.norm(images)


def test_backprojection_smears_a_pixel_along_its_line_of_sight():
    image = np.zeros((1, 17, 17))
    image[0, 8 - 3, 8 + 2] = 1  # y = -3, x = 2
    smeared = cpu_adjoint(image, Rotation.identity(1), (17, 17, 17))
    np.testing.assert_allclose(smeared[:, 5, 10], 1, atol=5 * INTERPOLATION)
    smeared[:, 5, 10] = 0
    assert np.abs(smeared).max() < 5 * INTERPOLATION


def test_many_images_are_the_same_as_one_at_a_time(small_volume, monkeypatch):
    rotations = random_rotations(7, rng=1)
    images = cpu(small_volume, rotations)
    smeared = cpu_adjoint(images, rotations, small_volume.shape)
    monkeypatch.setattr(projectors, "BATCH", 1)
    one_by_one = np.concatenate([cpu(small_volume, r) for r in rotations])
    np.testing.assert_array_equal(cpu(small_volume, rotations), images)
    np.testing.assert_allclose(one_by_one, images, atol=FLOAT32 * images.max())
    summed = sum(cpu_adjoint(images[i : i + 1], rotations[i], small_volume.shape) for i in range(7))
    np.testing.assert_allclose(summed, smeared, atol=FLOAT32 * np.abs(smeared).max())
    batched = cpu_adjoint(np.tile(images, (3, 1, 1)), rotations[list(range(7)) * 3], small_volume.shape)
    np.testing.assert_allclose(batched, 3 * smeared, atol=FLOAT32 * np.abs(batched).max())


def test_a_volume_that_is_projected_again_and_again_is_transformed_once(small_volume, monkeypatch):
    transforms = []

    def counted(volume, transform=fourier.transform):
        transforms.append(volume.shape)
        return transform(volume)

    rotations = random_rotations(7, rng=1)
    expected = cpu(small_volume, rotations)
    monkeypatch.setattr(fourier, "transform", counted)
    projector = projectors.Projector(small_volume, backend="fourier")
    blocks = [projector(rotations[start : start + 3]) for start in (0, 3, 6)]
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    assert len(transforms) == 1


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("shape", [(16, 16, 16), (9, 12, 17)])
def test_a_transform_is_that_of_the_whole_padded_volume(shape, kind):
    """Axis by axis, with a guard that repeats the grid, and its twin across k_x = 0."""
    volume = (10 * np.random.default_rng(0).normal(size=shape)).astype(kind)
    spectrum = fourier.transform(volume)
    assert spectrum.values.dtype == np.complex64
    grid, guard = spectrum.shape.full, fourier._GUARD
    padded = np.zeros(grid)
    padded[fourier._box(spectrum.shape)] = volume / spectrum.shape.roll_off
    whole = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(padded)), axes=(0, 1))
    around = [np.arange(-guard, n + guard) % n for n in grid[:2]]
    expected = whole[np.ix_(*around, np.arange(-guard, grid[2] // 2 + 1 + guard) % grid[2])]
    np.testing.assert_allclose(spectrum.values, expected, atol=FLOAT32 * np.abs(expected).max())


# --- geometry


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 17, 17), (14, 17, 16)])
def test_a_voxel_lands_on_its_pixel_at_every_axis_aligned_orientation(shape):
    offset = np.array([4, -3, 2])  # x, y, z
    volume = np.zeros(shape)
    volume[tuple(origin(shape) + offset[::-1])] = 1
    rotations = point_group("O")
    images = cpu(volume, rotations, image_size=17)
    for image, (x, y, _) in zip(images, np.rint(rotations.apply(offset)).astype(int), strict=True):
        expected = np.zeros((17, 17))
        expected[8 + y, 8 + x] = 1
        np.testing.assert_allclose(image, expected, atol=5 * INTERPOLATION)


@pytest.mark.parametrize(
    ("angles", "expected_xy"),
    [
        ((0, 0, 0), (4, -3)),
        ((0, 180, 0), (-4, -3)),
        ((90, 0, 0), (-3, -4)),
        ((0, 0, 90), (-3, -4)),
        ((0, 90, 0), (-2, -3)),
    ],
)
def test_a_voxel_lands_on_its_pixel_at_known_euler_angles(angles, expected_xy):
    volume = np.zeros((16, 16, 16))
    volume[8 + 2, 8 - 3, 8 + 4] = 1
    (image,) = cpu(volume, from_relion_euler_deg([angles]))
    y, x = np.unravel_index(image.argmax(), image.shape)
    assert (x - 8, y - 8) == expected_xy
    assert image.max() == pytest.approx(1, abs=5 * INTERPOLATION)


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 17, 17), (15, 16, 17)])
def test_the_central_voxel_never_moves(shape):
    volume = np.zeros(shape)
    volume[tuple(origin(shape))] = 1
    for size in (16, 17):
        images = cpu(volume, random_rotations(20, rng=1), image_size=size)
        peaks = images.reshape(20, -1).argmax(axis=1)
        np.testing.assert_array_equal(peaks, (size // 2) * size + size // 2)


def test_moving_the_volume_moves_the_image(small_volume):
    size, by = 36, np.array([2, -1, 3])  # x, y, z
    volume = volumes.crop_or_pad(volumes.DensityMap(small_volume, 1.0), size).data
    rotations = random_rotations(5, rng=1)
    moved = cpu(np.roll(volume, by[::-1], axis=(0, 1, 2)), rotations)
    frequencies = plane_frequencies(size)
    phases = np.exp(-2j * np.pi * frequencies @ rotations.apply(by)[:, :2].T).T
    planes = projectors.half_planes_from_images(cpu(volume, rotations)) * phases
    assert relative(moved, projectors.images_from_half_planes(planes, size)) <= 2 * INTERPOLATION


@pytest.mark.parametrize("size", [26, 27])
def test_the_opposite_view_is_the_mirror_image(small_volume, size):
    rotations = random_rotations(5, rng=1)
    front = cpu(small_volume, rotations, image_size=size)
    back = cpu(small_volume, Rotation.from_rotvec([0, np.pi, 0]) * rotations, image_size=size)
    first = 1 - size % 2  # in an even box column 0 has no partner
    assert relative(back[:, :, first:], front[:, :, first:][:, :, ::-1]) <= 2 * INTERPOLATION


def test_turning_the_microscope_turns_the_image(small_volume):
    rotations = random_rotations(5, rng=1)
    images = cpu(small_volume, rotations, image_size=25)
    turned = cpu(small_volume, Rotation.from_rotvec([0, 0, np.pi / 2]) * rotations, image_size=25)
    expected = images[:, ::-1].swapaxes(1, 2)  # x' = -y, y' = x
    assert relative(turned, expected) <= 2 * INTERPOLATION


@pytest.mark.parametrize("edge", [26, 27])
def test_the_mirrored_map_gives_the_same_images_at_mirrored_orientations(small_volume, edge):
    volume = volumes.crop_or_pad(volumes.DensityMap(small_volume, 1.0), edge).data
    mirrored = volume[::-1] if edge % 2 else np.roll(volume[::-1], 1, axis=0)
    rotations = random_rotations(5, rng=1)
    j = np.diag([1, 1, -1])
    images = cpu(mirrored, Rotation.from_matrix(j @ rotations.as_matrix() @ j))
    assert relative(images, cpu(volume, rotations)) <= 2 * INTERPOLATION


def test_orientations_of_a_symmetric_particle_give_the_same_image():
    volume = volumes.phantom(symmetry="D2", size=24).data
    (rotation,) = random_rotations(1, rng=1)
    images = cpu(volume, Rotation.concatenate([rotation * g for g in point_group("D2")]))
    for image in images[1:]:
        assert relative(image, images[0]) < 0.02  # the phantom is symmetric up to its sampling


# --- sizes and types


def test_an_image_holds_the_density_of_the_volume(small_volume):
    images = cpu(small_volume, random_rotations(10, rng=1), image_size=40)
    np.testing.assert_allclose(images.sum(axis=(1, 2)), small_volume.sum(dtype=float), rtol=INTERPOLATION)


def test_projection_is_linear(small_volume):
    rotations, other = random_rotations(3, rng=1), smooth_noise(small_volume.shape)
    together = cpu(2 * small_volume - other, rotations)
    apart = 2 * cpu(small_volume, rotations) - cpu(other, rotations)
    np.testing.assert_allclose(together, apart, atol=FLOAT32 * np.abs(apart).max())


@pytest.mark.parametrize("size", [2, 9, 16, 23])
def test_a_smaller_image_is_the_middle_of_the_larger(small_volume, size):
    rotations = random_rotations(3, rng=1)
    full = cpu(small_volume, rotations)
    start = 24 // 2 - size // 2
    window = full[:, start : start + size, start : start + size]
    np.testing.assert_array_equal(cpu(small_volume, rotations, image_size=size), window)


@pytest.mark.parametrize("size", [24, 31, 40])
def test_a_padded_volume_gives_the_same_images(small_volume, size):
    rotations = random_rotations(3, rng=1)
    padded = volumes.crop_or_pad(volumes.DensityMap(small_volume, 1.0), size).data
    assert (
        relative(cpu(small_volume, rotations, image_size=size), cpu(padded, rotations)) <= 2 * INTERPOLATION
    )


@pytest.mark.parametrize(
    "disguise",
    [
        lambda v: v.astype(np.float64),
        lambda v: v.astype(">f4"),
        np.asfortranarray,
        lambda v: np.repeat(v, 2, axis=2)[..., ::2],
        lambda v: v[::-1].copy()[::-1],
        lambda v: v.tolist(),
    ],
)
def test_the_memory_behind_an_array_does_not_matter(small_volume, disguise):
    rotations = random_rotations(2, rng=1)
    images = cpu(small_volume, rotations)
    np.testing.assert_array_equal(cpu(disguise(small_volume), rotations), images)
    smeared = cpu_adjoint(images, rotations, small_volume.shape)
    np.testing.assert_array_equal(cpu_adjoint(disguise(images), rotations, small_volume.shape), smeared)


def test_integers_and_read_only_arrays_project():
    counts = np.random.default_rng(0).integers(0, 9, (8, 8, 8))
    rotations = random_rotations(2, rng=1)
    expected = cpu(counts.astype(np.float32), rotations)
    counts.flags.writeable = False
    np.testing.assert_array_equal(cpu(counts, rotations), expected)


def test_arguments_stay_as_they_were(small_volume):
    volume, rotations = small_volume.copy(), random_rotations(3, rng=1)
    images = cpu(volume, rotations)
    np.testing.assert_array_equal(volume, small_volume)
    before = images.copy()
    cpu_adjoint(images, rotations, volume.shape)
    np.testing.assert_array_equal(images, before)


def test_one_orientation_and_none_at_all(small_volume):
    rotations = random_rotations(1, rng=1)
    images = cpu(small_volume, rotations)
    assert images.shape == (1, 24, 24)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(cpu(small_volume, rotations[0]), images)
    np.testing.assert_array_equal(
        cpu_adjoint(images, rotations[0], small_volume.shape),
        cpu_adjoint(images, rotations, small_volume.shape),
    )
    assert cpu(small_volume, rotations[:0]).shape == (0, 24, 24)


# --- refusals


def with_nan(array):
    array = array.copy()
    array.flat[3] = np.nan
    return array


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"volume": np.ones((4, 4))}, r"volume must .*got shape \(4, 4\)"),
        ({"volume": np.ones((4, 0, 4))}, r"volume must .*got shape \(4, 0, 4\)"),
        ({"volume": with_nan(np.ones((4, 4, 4)))}, "volume must be finite, got 1 non-finite values of 64"),
        ({"volume": np.full((4, 4, 4), 1e300)}, "volume must be finite, got 64"),  # in single precision
        ({"volume": np.ones((4, 4, 4), complex)}, "volume must hold real numbers, got complex128"),
        ({"rotations": np.eye(3)}, "rotations must be a scipy Rotation, got ndarray"),
        ({"image_size": 1}, "image_size must be a whole number of at least 2, got 1"),
        ({"image_size": 8.5}, r"image_size must .*got 8\.5"),
        ({"image_size": np.nan}, r"image_size must .*got nan"),
        ({"image_size": np.inf}, r"image_size must .*got inf"),
        ({"backend": "cuda"}, "backend must be one of auto, fourier, astra, got 'cuda'"),
    ],
)
def test_project_refuses(arguments, message):
    call = {"volume": np.ones((4, 4, 4)), "rotations": random_rotations(2, rng=0)} | arguments
    with pytest.raises(ValueError, match=message):
        project(**call)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.ones((2, 8, 7))}, r"images must be \(n, y, x\) with y == x, got \(2, 8, 7\)"),
        ({"images": np.ones((3, 8, 8))}, "images must be one for each of the 2 rotations, got 3"),
        ({"images": np.ones((8, 8))}, r"images must .*got shape \(8, 8\)"),
        ({"images": with_nan(np.ones((2, 8, 8)))}, "images must be finite, got 1 non-finite values of 128"),
        ({"rotations": np.eye(3)}, "rotations must be a scipy Rotation, got ndarray"),
        ({"volume_shape": 8}, r"volume_shape must be three sizes \(z, y, x\), got 8"),
        ({"volume_shape": (8, 8)}, r"volume_shape must be three sizes \(z, y, x\), got \(8, 8\)"),
        ({"volume_shape": (8, 0, 8)}, "volume_shape must be a whole number of at least 1, got 0"),
        ({"volume_shape": (8.5, 8, 8)}, r"volume_shape must .*got 8\.5"),
        ({"backend": "cuda"}, "backend must be one of auto, fourier, astra, got 'cuda'"),
    ],
)
def test_backproject_refuses(arguments, message):
    call = {"images": np.ones((2, 8, 8)), "rotations": random_rotations(2, rng=0), "volume_shape": (8, 8, 8)}
    with pytest.raises(ValueError, match=message):
        backproject(**(call | arguments))


# --- ASTRA


def test_astra_without_a_gpu_is_one_sentence_and_no_dead_process(small_volume, monkeypatch):
    if astra_gpu.is_usable():
        monkeypatch.setattr(astra_gpu, "is_usable", lambda: False)
    rotations = random_rotations(2, rng=0)
    with pytest.raises(RuntimeError, match=r'^backend="astra" needs astra-toolbox and a visible GPU'):
        project(small_volume, rotations, backend="astra")
    with pytest.raises(RuntimeError, match=r'^backend="astra" needs'):
        backproject(np.ones((2, 8, 8)), rotations, volume_shape=(8, 8, 8), backend="astra")
    np.testing.assert_array_equal(project(small_volume, rotations), cpu(small_volume, rotations))


def test_auto_takes_astra_where_a_gpu_is_usable(small_volume, monkeypatch):
    monkeypatch.setattr(astra_gpu, "is_usable", lambda: True)
    monkeypatch.setattr(astra_gpu, "project", lambda volume, matrices, size: ("astra", matrices.shape, size))
    assert project(small_volume, random_rotations(2, rng=0)) == ("astra", (2, 3, 3), 24)
    assert project(small_volume, random_rotations(2, rng=0)[0], image_size=9) == ("astra", (1, 3, 3), 9)


def test_detector_coordinates_are_the_first_two_rows():
    rotations = random_rotations(10, rng=1)
    ray, centre, u, v = np.split(astra_gpu.detector_vectors(rotations.as_matrix()), 4, axis=1)
    point = np.array([3.0, -1.0, 2.0])
    x, y, z = rotations.apply(point).T
    # the ray through the point meets the detector where centre + x u + y v = point - z ray
    np.testing.assert_allclose(centre + x[:, None] * u + y[:, None] * v, point - z[:, None] * ray, atol=1e-12)
    np.testing.assert_allclose(np.cross(u, v), ray, atol=1e-12)


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 17, 17), (14, 15, 18)])
def test_astra_geometry_puts_the_origin_at_the_middle_voxel_and_pixel(shape, size):
    pytest.importorskip("astra")
    rotations = random_rotations(3, rng=1)
    volume, projection = astra_gpu._geometries(rotations.as_matrix(), shape, size)
    assert [volume[f"Grid{axis}Count"] for axis in ("Slice", "Row", "Col")] == list(shape)
    for axis, n in zip("ZYX", shape, strict=True):
        first_centre = volume["option"][f"WindowMin{axis}"] + 0.5
        assert first_centre == -(n // 2)
        assert volume["option"][f"WindowMax{axis}"] - 0.5 == n - 1 - n // 2
    ray, centre, u, v = np.split(projection["Vectors"], 4, axis=1)
    pixel = size // 2 - (size - 1) / 2  # from the middle of the detector to the origin's pixel
    np.testing.assert_allclose(centre + pixel * (u + v), 0, atol=1e-12)
    np.testing.assert_allclose(ray, rotations.as_matrix()[:, 2], atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [24, 25, 31])
def test_astra_agrees_with_fourier_slices(small_volume, size):
    if not astra_gpu.is_usable():
        pytest.skip("ASTRA sees no GPU")
    rotations = random_rotations(6, rng=1)
    images = project(small_volume, rotations, image_size=size, backend="astra")
    expected = cpu(small_volume, rotations, image_size=size)
    assert images.shape == expected.shape
    assert correlations(images, expected).min() > 0.995
    assert relative(images, expected) < 0.1  # rays interpolate linearly
    smeared = backproject(expected, rotations, volume_shape=small_volume.shape, backend="astra")
    forth, back = np.vdot(images.astype(float), expected), np.vdot(small_volume.astype(float), smeared)
    assert back == pytest.approx(forth, rel=0.01)


# --- comparing images with slices


def test_the_true_orientation_correlates_best(small_volume):
    rotations = random_rotations(4, rng=1)
    planes = projectors.half_planes_from_images(cpu(small_volume, rotations))
    frequencies = plane_frequencies(24)
    candidates = np.stack([rotations.as_matrix(), random_rotations(4, rng=2).as_matrix()], axis=1)
    scores = correlate_candidates(
        fourier.transform(small_volume), planes, candidates, frequencies, once_each(frequencies)
    )
    assert scores.shape == (4, 2)
    np.testing.assert_allclose(scores[:, 0], 1, atol=INTERPOLATION)
    assert (scores[:, 1] < 0.95).all()
    assert (np.abs(scores) <= 1 + FLOAT32).all()
    against = correlate_candidates(
        fourier.transform(-small_volume), planes, candidates, frequencies, once_each(frequencies)
    )
    np.testing.assert_allclose(against, -scores, atol=FLOAT32)


def test_a_gauss_newton_step_undoes_a_small_turn(small_volume):
    true = random_rotations(6, rng=1)
    turn = 0.02 * np.random.default_rng(2).normal(size=(6, 3))
    planes = 3 * projectors.half_planes_from_images(cpu(small_volume, true))  # the contrast is free
    frequencies = plane_frequencies(24)
    step, _ = gauss_newton_steps(
        fourier.transform(small_volume),
        planes,
        Rotation.from_rotvec(turn) * true,
        frequencies,
        once_each(frequencies),
        difference=0.01,
    )
    assert np.abs(step + turn).max() < 0.15 * np.abs(turn).max()
