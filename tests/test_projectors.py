"""Projection: sizes and types, what is refused, and which program projects."""

import numpy as np
import pytest
from small_projections import FLOAT32, INTERPOLATION, correlations, cpu, cpu_adjoint, relative, smooth_noise

from cryoem import volumes
from cryoem.projectors import astra_gpu, backproject, project
from cryoem.rotations import random_rotations

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
    monkeypatch.setenv("CRYOEM_DEVICE", "auto")
    if astra_gpu.is_usable():
        monkeypatch.setattr(astra_gpu, "is_usable", lambda: False)
    rotations = random_rotations(2, rng=0)
    with pytest.raises(RuntimeError, match=r'^backend="astra" needs astra-toolbox and a visible GPU'):
        project(small_volume, rotations, backend="astra")
    with pytest.raises(RuntimeError, match=r'^backend="astra" needs'):
        backproject(np.ones((2, 8, 8)), rotations, volume_shape=(8, 8, 8), backend="astra")
    np.testing.assert_array_equal(project(small_volume, rotations), cpu(small_volume, rotations))


def test_auto_takes_astra_where_a_gpu_is_usable(small_volume, monkeypatch):
    monkeypatch.setenv("CRYOEM_DEVICE", "auto")
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
def test_astra_agrees_with_fourier_slices(small_volume, monkeypatch, size):
    monkeypatch.setenv("CRYOEM_DEVICE", "auto")
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
