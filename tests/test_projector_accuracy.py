"""How exact projections are: RELION's own images, an exact Fourier transform, calculus, and the adjoint."""

import finufft
import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation
from small_maps import cropped_to_64, ribosome
from small_projections import FLOAT32, INTERPOLATION, correlations, cpu, cpu_adjoint, relative, smooth_noise

from cryoem import projectors
from cryoem.projectors import fourier, plane_frequencies
from cryoem.rotations import from_relion_euler_deg, random_rotations

ADJOINT = 1e-5  # relative
SHAPES = [(24, 20, 22), (21, 21, 21), (16, 17, 15), (32, 32, 32), (4, 5, 6)]


def exact_slices(volume, rotations, size) -> np.ndarray:
    """The half-planes of images of ``size`` pixels by a non-uniform FFT in double precision: (n, m)."""
    frequencies = plane_frequencies(size).astype(np.float64)  # (m, 2)
    slices = []
    for matrix in rotations.as_matrix():
        kx, ky, kz = np.ascontiguousarray(2 * np.pi * (frequencies @ matrix[:2]).T)
        slices.append(finufft.nufft3d2(kz, ky, kx, volume.astype(complex), eps=1e-9, isign=-1))
    return np.array(slices)


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
