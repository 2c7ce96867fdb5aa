"""Projection and its adjoint: agreement with RELION, exact Fourier transforms and calculus; backends; errors."""

from unittest.mock import Mock

import finufft
import mrcfile
import numpy as np
import pytest
import starfile
from small_maps import cropped_to_64, ribosome
from small_projections import FLOAT32, INTERPOLATION, correlations, cpu, cpu_adjoint, relative, smooth_noise

from cryoem import volumes
from cryoem.images import plane_frequencies
from cryoem.projection import fourier, projectors
from cryoem.projection.projectors import Projector, backproject, describe_backend, project
from cryoem.rotations import from_relion_euler_deg, random_rotations

ADJOINT = 1e-5  # relative
SHAPES = [(24, 20, 22), (21, 21, 21), (16, 17, 15), (32, 32, 32), (4, 5, 6)]
THIN_SHAPES = [(1, 1, 1), (2, 2, 2), (3, 3, 3), (16, 16, 1), (16, 16, 3), (1, 16, 16), (16, 2, 8)]


def exact_slices(volume, rotations, size) -> np.ndarray:
    """Compute the half-planes of ``size``-pixel images by a non-uniform FFT in double precision: (n, m)."""
    frequencies = plane_frequencies(size).astype(np.float64)  # (m, 2)
    slices = []
    for matrix in rotations.as_matrix():
        kx, ky, kz = np.ascontiguousarray(2 * np.pi * (frequencies @ matrix[:2]).T)
        slices.append(finufft.nufft3d2(kz, ky, kx, volume.astype(complex), eps=1e-9, isign=-1))
    return np.array(slices)


# --- the same images made by RELION


def relion_projections(folder, name):
    """Images (n, y, x), their orientations, and the displacement (x, y) of their content in pixels."""
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
def test_images_are_those_of_relion_in_an_odd_box_and_the_wrong_hand_and_transpose_are_not(real_data, name):
    images, rotations, displacement = relion_projections(real_data, name)
    volume = ribosome(real_data)
    for image, shift in zip(images, displacement, strict=True):
        x, y = np.rint(shift).astype(int) + 1  # in odd boxes, RELION is one pixel further along x and y
        image[:] = np.roll(image, (-y, -x), axis=(0, 1))
    ours = cpu(volume, rotations)
    assert correlations(ours, images).min() > 0.99
    for wrong in (cpu(volume, rotations.inv()), cpu(volume[::-1], rotations), ours[:, ::-1]):
        assert correlations(wrong, images).max() < 0.95


def test_images_are_those_of_relion_in_an_even_box(real_data):
    images, rotations, _ = relion_projections(real_data, "rln_proj_64")
    ours = cpu(cropped_to_64(ribosome(real_data)), rotations)
    assert correlations(ours, images).min() > 0.99


# --- accuracy


@pytest.mark.parametrize("size", [12, 33])
@pytest.mark.parametrize("shape", SHAPES + THIN_SHAPES)
def test_images_agree_with_an_exact_fourier_transform(shape, size):
    volume, rotations = smooth_noise(shape), random_rotations(3, rng=1)
    working = max(size, *shape)
    slices = exact_slices(volume, rotations, working)
    exact = np.fft.irfft2(slices.reshape(3, working, -1), s=(working, working))
    start = working // 2 - size // 2
    exact = np.fft.fftshift(exact, axes=(1, 2))[:, start : start + size, start : start + size]
    assert relative(cpu(volume, rotations, image_size=size), exact) <= INTERPOLATION
    # and no element of the half-plane stands out
    spectrum = fourier.transform(volume)
    ours = fourier.read_slices(spectrum, rotations.as_matrix(), plane_frequencies(working))
    assert relative(ours, slices) <= INTERPOLATION
    assert np.abs(ours - slices).max() <= 10 * INTERPOLATION * np.sqrt(np.mean(np.abs(slices) ** 2))


@pytest.mark.parametrize("size", [24, 33])
@pytest.mark.parametrize("offset", [(0, 0, 0), (2.25, -3.5, 1.75)])
def test_a_gaussian_projects_to_the_gaussian_that_calculus_gives(offset, size):
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


@pytest.mark.parametrize(
    ("shape", "size"),
    [*((shape, size) for shape in SHAPES for size in (12, 33)), *((s, 16) for s in THIN_SHAPES)],
)
def test_backprojection_is_the_adjoint_of_projection(shape, size):
    volume, rotations = smooth_noise(shape), random_rotations(5, rng=1)
    images = smooth_noise((5, size, size), seed=2)
    projected = cpu(volume, rotations, image_size=size).astype(float)
    smeared = cpu_adjoint(images, rotations, shape)
    assert smeared.shape == shape
    assert smeared.dtype == np.float32
    difference = np.vdot(projected, images) - np.vdot(volume.astype(float), smeared)
    assert abs(difference) <= ADJOINT * np.linalg.norm(projected) * np.linalg.norm(images)


# --- blocks, sizes and types


def test_batches_do_not_change_the_result_and_a_projector_transforms_its_volume_once(
    small_volume, monkeypatch
):
    rotations = random_rotations(7, rng=1)
    images = cpu(small_volume, rotations)
    smeared = cpu_adjoint(images, rotations, small_volume.shape)
    transform = Mock(wraps=fourier.transform)
    monkeypatch.setattr(fourier, "transform", transform)
    projector = Projector(small_volume, backend="fourier")
    blocks = [projector(rotations[start : start + 3]) for start in (0, 3, 6)]
    np.testing.assert_array_equal(np.concatenate(blocks), images)
    assert transform.call_count == 1
    monkeypatch.setattr(projectors, "BATCH", 1)
    np.testing.assert_array_equal(cpu(small_volume, rotations), images)
    batched = cpu_adjoint(np.tile(images, (3, 1, 1)), rotations[list(range(7)) * 3], small_volume.shape)
    np.testing.assert_allclose(batched, 3 * smeared, atol=FLOAT32 * np.abs(batched).max())


@pytest.mark.parametrize("size", [2, 9, 31])
def test_image_size_crops_and_pads(small_volume, size):
    rotations = random_rotations(3, rng=1)
    images = cpu(small_volume, rotations, image_size=size)
    if size <= 24:
        start = 24 // 2 - size // 2
        window = cpu(small_volume, rotations)[:, start : start + size, start : start + size]
        np.testing.assert_array_equal(images, window)
    else:
        padded = volumes.crop_or_pad(volumes.DensityMap(small_volume, 1.0), size).data
        assert relative(images, cpu(padded, rotations)) <= 2 * INTERPOLATION


def test_layout_and_type_do_not_matter_and_arguments_stay(small_volume):
    rotations = random_rotations(2, rng=1)
    images = cpu(small_volume, rotations)
    smeared = cpu_adjoint(images, rotations, small_volume.shape)
    for disguise in (
        lambda v: v.astype(np.float64),
        lambda v: v.astype(">f4"),
        np.asfortranarray,
        lambda v: np.repeat(v, 2, axis=2)[..., ::2],
        lambda v: v.tolist(),
    ):
        disguised = disguise(small_volume)
        np.testing.assert_array_equal(cpu(disguised, rotations), images)
        np.testing.assert_array_equal(np.asarray(disguised, np.float32), small_volume)
        np.testing.assert_array_equal(cpu_adjoint(disguise(images), rotations, small_volume.shape), smeared)


def test_one_orientation_and_none_at_all(small_volume):
    rotations = random_rotations(1, rng=1)
    images = cpu(small_volume, rotations)
    assert (images.shape, images.dtype) == ((1, 24, 24), np.float32)
    np.testing.assert_array_equal(cpu(small_volume, rotations[0]), images)
    smeared = cpu_adjoint(images, rotations, small_volume.shape)
    np.testing.assert_array_equal(cpu_adjoint(images, rotations[0], small_volume.shape), smeared)
    assert cpu(small_volume, rotations[:0]).shape == (0, 24, 24)


# --- errors


CUBE, VIEWS, TWO = np.ones((4, 4, 4)), np.ones((2, 8, 8)), random_rotations(2, rng=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"volume": CUBE[0]}, r"volume must be a non-empty 3-D array, got shape \(4, 4\)"),
        ({"volume": np.nan * CUBE}, "volume must be finite, got NaN or infinity in 64 of 64 values"),
        ({"rotations": np.eye(3)}, "rotations must be a scipy Rotation, got ndarray"),
        ({"image_size": 1}, "image_size must be an integer >= 2, got 1"),
        ({"backend": "cuda"}, "backend must be one of auto, fourier, astra, got 'cuda'"),
    ],
)
def test_unfit_arguments_of_project_are_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        project(**({"volume": CUBE, "rotations": TWO} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": VIEWS[:, 1:]}, r"images must be \(n, y, x\) with y == x, got \(2, 7, 8\)"),
        ({"images": VIEWS[:1]}, "images and rotations must be equal in number, got 1 images and 2 rotations"),
        ({"rotations": np.eye(3)}, "rotations must be a scipy Rotation, got ndarray"),
        ({"volume_shape": 8}, r"volume_shape must be three sizes \(z, y, x\), got 8"),
        ({"volume_shape": (8, 8)}, r"volume_shape must be three sizes \(z, y, x\), got \(8, 8\)"),
        ({"volume_shape": (8, 0, 8)}, "each size in volume_shape must be an integer >= 1, got 0"),
        ({"backend": "cuda"}, "backend must be one of auto, fourier, astra, got 'cuda'"),
    ],
)
def test_unfit_arguments_of_backproject_are_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        backproject(**({"images": VIEWS, "rotations": TWO, "volume_shape": (8, 8, 8)} | arguments))


# --- ASTRA


def test_astra_without_a_gpu_is_one_sentence_and_no_dead_process(small_volume, monkeypatch):
    monkeypatch.setenv("CRYOEM_DEVICE", "auto")
    monkeypatch.setattr(projectors, "astra_is_usable", lambda: False)
    rotations = random_rotations(2, rng=0)
    with pytest.raises(RuntimeError, match=r'^backend="astra" needs astra-toolbox and a visible GPU'):
        project(small_volume, rotations, backend="astra")
    with pytest.raises(RuntimeError, match=r'^backend="astra" needs'):
        backproject(np.ones((2, 8, 8)), rotations, volume_shape=(8, 8, 8), backend="astra")
    np.testing.assert_array_equal(project(small_volume, rotations), cpu(small_volume, rotations))


def test_the_projector_is_described_with_the_reason_why_it_is_not_astra(monkeypatch):
    monkeypatch.setenv("CRYOEM_DEVICE", "auto")
    monkeypatch.setattr(projectors, "astra_is_usable", lambda: True)
    slices = "Fourier slices on the CPU, because "
    assert describe_backend() == describe_backend("astra") == "ASTRA on the GPU"
    assert describe_backend("fourier") == slices + 'backend is "fourier"'
    monkeypatch.setenv("CRYOEM_DEVICE", "cpu")
    assert describe_backend() == slices + "CRYOEM_DEVICE is set to cpu"
    monkeypatch.setenv("CRYOEM_DEVICE", "auto")
    monkeypatch.setattr(projectors, "astra_is_usable", lambda: False)
    monkeypatch.setattr(projectors, "find_spec", lambda name: name)
    assert describe_backend() == slices + "astra-toolbox finds no usable GPU"
    monkeypatch.setattr(projectors, "find_spec", lambda name: None)
    assert describe_backend() == slices + "astra-toolbox is not installed"
    with pytest.raises(RuntimeError, match=r'^backend="astra" needs'):
        describe_backend("astra")


def test_detector_coordinates_are_the_first_two_rows():
    rotations = random_rotations(10, rng=1)
    ray, centre, u, v = np.split(projectors.detector_vectors(rotations.as_matrix()), 4, axis=1)
    point = np.array([3.0, -1.0, 2.0])
    x, y, z = rotations.apply(point).T
    # the ray through the point hits the detector where centre + x u + y v = point - z ray
    np.testing.assert_allclose(centre + x[:, None] * u + y[:, None] * v, point - z[:, None] * ray, atol=1e-12)
    np.testing.assert_allclose(np.cross(u, v), ray, atol=1e-12)


@pytest.mark.parametrize(("shape", "size"), [((16, 16, 16), 17), ((17, 17, 17), 16), ((14, 15, 18), 17)])
def test_astra_geometry_puts_the_origin_at_the_middle_voxel_and_pixel(shape, size):
    pytest.importorskip("astra")
    rotations = random_rotations(3, rng=1)
    volume, projection = projectors.astra_geometries(rotations.as_matrix(), shape, size)
    assert [volume[f"Grid{axis}Count"] for axis in ("Slice", "Row", "Col")] == list(shape)
    for axis, n in zip("ZYX", shape, strict=True):
        assert volume["option"][f"WindowMin{axis}"] + 0.5 == -(n // 2)
        assert volume["option"][f"WindowMax{axis}"] - 0.5 == n - 1 - n // 2
    ray, centre, u, v = np.split(projection["Vectors"], 4, axis=1)
    pixel = size // 2 - (size - 1) / 2  # from the centre of the detector to the pixel of the origin
    np.testing.assert_allclose(centre + pixel * (u + v), 0, atol=1e-12)
    np.testing.assert_allclose(ray, rotations.as_matrix()[:, 2], atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [24, 25, 31])
def test_astra_agrees_with_fourier_slices(small_volume, monkeypatch, size):
    monkeypatch.setenv("CRYOEM_DEVICE", "auto")
    if not projectors.astra_is_usable():
        pytest.skip("ASTRA sees no GPU")
    rotations = random_rotations(6, rng=1)
    images = project(small_volume, rotations, image_size=size, backend="astra")
    expected = cpu(small_volume, rotations, image_size=size)
    assert images.shape == expected.shape
    assert correlations(images, expected).min() > 0.995
    assert relative(images, expected) < 0.1  # values along rays are interpolated linearly
    smeared = backproject(expected, rotations, volume_shape=small_volume.shape, backend="astra")
    forth, back = np.vdot(images.astype(float), expected), np.vdot(small_volume.astype(float), smeared)
    assert back == pytest.approx(forth, rel=0.01)
