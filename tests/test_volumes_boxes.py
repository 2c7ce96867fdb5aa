"""Maps in memory: boxes, voxel sizes, filters and masks give known answers, and centres never move."""

from functools import partial

import numpy as np
import pytest
from scipy import ndimage
from small_maps import FLOAT32_TOLERANCE, centre_position, gaussian_ball, random_map

from cryoem import volumes
from cryoem.volumes import density
from cryoem.volumes.density import DensityMap

# --- boxes


SHAPES = [(6, 6, 6), (7, 7, 7), (9, 5, 4)]


@pytest.mark.parametrize("old", SHAPES)
@pytest.mark.parametrize("new", SHAPES)
def test_crop_or_pad_keeps_the_centre_voxel_and_its_position(old, new):
    data = np.zeros(old)
    data[tuple(n // 2 for n in old)] = 1
    before = DensityMap(data, 1.5, (1.0, 2.0, 3.0))
    after = volumes.crop_or_pad(before, new)
    assert after.data.shape == new
    assert after.data[tuple(n // 2 for n in new)] == 1
    assert after.data.sum() == 1
    np.testing.assert_allclose(centre_position(after), centre_position(before))
    assert volumes.cube(before).data.shape == (max(old),) * 3


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 17, 17), (16, 17, 18)])
def test_centre_moves_the_centre_of_mass_and_wraps_nothing(shape):
    before = gaussian_ball(shape, 2.0, 2.0, offset_angstrom=(6.0, -4.0, 2.0))
    after = volumes.centre(before)
    np.testing.assert_array_equal(np.unravel_index(after.data.argmax(), shape), [n // 2 for n in shape])
    # The density keeps its position in space.
    np.testing.assert_allclose(centre_position(after), centre_position(before) + np.array([2.0, -4.0, 6.0]))
    assert not after.data[-3:].any()  # shifted down along z, so the upper planes are new


@pytest.mark.parametrize("shape", [(32, 32, 32), (33, 33, 33), (32, 33, 30)])
@pytest.mark.parametrize("new_voxel", [1.0, 1.3, 2.0, 2.9])
def test_resampled_gaussian_is_the_gaussian_at_the_new_points(shape, new_voxel):
    before = gaussian_ball(shape, 2.0, 5.0)
    after = volumes.resample(before, new_voxel)
    expected = gaussian_ball(after.data.shape, new_voxel, 5.0)
    np.testing.assert_allclose(after.data, expected.data, atol=5e-3)
    assert after.data.shape == tuple(round(n * 2.0 / new_voxel) for n in shape)
    np.testing.assert_allclose(centre_position(after), centre_position(before), atol=1e-9)


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 9, 9)])
def test_resampling_finer_and_back_is_the_identity(shape):
    before = random_map(shape)
    same = volumes.resample(before, before.voxel_size_angstrom)
    np.testing.assert_allclose(same.data, before.data, atol=FLOAT32_TOLERANCE)
    finer = volumes.resample(before, before.voxel_size_angstrom / 3)
    at_old_voxels = tuple(slice(3 * n // 2 - 3 * (n // 2), None, 3) for n in shape)
    np.testing.assert_allclose(finer.data[at_old_voxels], before.data, atol=FLOAT32_TOLERANCE)


# --- filters


@pytest.mark.parametrize("n", [32, 33])
def test_low_pass_keeps_slow_waves_halves_the_cut_off_and_removes_fast_ones(n):
    x = np.arange(n)
    for k, kept in ((4, 1.0), (8, 0.5), (12, 0.0)):
        wave = DensityMap(np.broadcast_to(np.cos(2 * np.pi * k * x / n), (4, 5, n)), 2.0)
        after = volumes.low_pass(wave, 2.0 * n / 8)
        np.testing.assert_allclose(after.data, kept * wave.data, atol=FLOAT32_TOLERANCE)


def test_low_pass_keeps_the_mean():
    before = random_map()
    assert volumes.low_pass(before, 10.0).data.mean() == pytest.approx(
        before.data.mean(), abs=FLOAT32_TOLERANCE
    )


@pytest.mark.parametrize("shape", [(20, 20, 20), (21, 21, 21), (20, 21, 24), (15, 16)])
def test_soft_sphere_is_centred_and_has_its_radius(shape):
    ball = volumes.soft_sphere(shape, 5.0, 3.0)
    centre = tuple(n // 2 for n in shape)
    along_x = ball[(*centre[:-1], slice(centre[-1], None))]
    np.testing.assert_allclose(along_x[:9], [1, 1, 1, 1, 1, 1, 0.75, 0.25, 0][: len(along_x)], atol=1e-6)
    mirrored = ball[tuple(slice(1 - n % 2, None) for n in shape)]
    np.testing.assert_array_equal(mirrored, np.flip(mirrored))
    assert ball.dtype == np.float32


def test_soft_sphere_without_edge_is_binary():
    assert set(np.unique(volumes.soft_sphere((9, 9, 9), 3.0, 0.0))) == {0.0, 1.0}


def test_soft_mask_surrounds_the_particle_and_drops_dust():
    ball = DensityMap(volumes.soft_sphere((40, 40, 40), 8.0, 0.0), 2.0)
    ball.data[2, 2, 2] = 1.0
    mask = volumes.soft_mask(ball, extend_px=2.0, edge_px=3.0)
    assert mask[2, 2, 2] == 0
    profile = mask[20, 20, 20:]
    np.testing.assert_array_equal(profile[:11], 1)
    assert 0 < profile[12] < 1
    np.testing.assert_array_equal(profile[13:], 0)


BALL = DensityMap(volumes.soft_sphere((5, 5, 5), 2.0, 0.0), 2.5)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (DensityMap, (np.zeros((4, 4)), 1.0), r"data must be a non-empty 3-D array, got shape \(4, 4\)"),
        (
            DensityMap,
            (np.zeros((2, 2, 2), complex), 1.0),
            "data must contain real numbers, got dtype complex128",
        ),
        (
            DensityMap,
            ([[[np.nan, np.inf, 1.0]]], 1.0),
            "data must be finite, got NaN or infinity in 2 of 3 values",
        ),
        (DensityMap, ([[[1e300]]], 1.0), "data must be finite, got NaN or infinity in 1 of 1 values"),
        (DensityMap, ([[[1.0]]], 0.0), "voxel_size_angstrom must be a positive number, got 0.0"),
        (DensityMap, ([[[1.0]]], 1.0, (0.0, np.inf, 0.0)), "origin must be finite"),
        (DensityMap, ([[[1.0]]], 1.0, (0.0, 0.0)), "origin must be three numbers"),
        (volumes.crop_or_pad, (BALL, (4, 4)), "shape must be one or three positive integers, got"),
        (volumes.crop_or_pad, (BALL, 4.5), "shape must be one or three positive integers, got"),
        (volumes.centre, (DensityMap(np.zeros((4, 4, 4)), 1.0),), "threshold must be below .* 0.0, got 0.0"),
        (
            volumes.resample,
            (BALL, 100.0),
            r"voxel_size_angstrom must be below the shortest box edge of 12.5 angstrom, got 100",
        ),
        (volumes.low_pass, (BALL, 0), "resolution_angstrom must be a positive number, got 0"),
        (volumes.soft_sphere, ((9, 9, 9), -1.0, 0.0), "radius_px must be a finite, non-negative number, got"),
        (partial(volumes.soft_mask, threshold=2.0), (BALL,), "threshold must be below .* 1.0, got 2.0"),
        (partial(volumes.soft_mask, edge_px=-1), (BALL,), "edge_px must be a finite, non-negative number"),
    ],
)
def test_what_is_no_map_box_or_mask(function, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        function(*arguments)


def test_masks_made_in_slabs_are_those_of_the_whole_box(monkeypatch):
    inside = np.random.default_rng(0).random((23, 20, 21)) > 0.998
    inside[:, 15:] = False  # leave out a part of the box
    spots = DensityMap(inside, 1.0)
    monkeypatch.setattr(density, "SLAB_PX", 4)
    found = volumes.soft_mask(spots, threshold=0.5, extend_px=2.0, edge_px=3.0)
    distance = ndimage.distance_transform_edt(~inside)
    expected = 0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 2) / 3, 0, 1))
    assert 0.05 < (expected > 0).mean() < 0.95
    np.testing.assert_allclose(found, expected, atol=1e-6)
