"""Symmetry axes of maps: they are found, maps are moved onto them, and the point group is named."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryoem import orientations
from cryoem.orientations.symmetry_axes import symmetry_frame
from cryoem.rotations import point_group
from cryoem.volumes import phantom
from cryoem.volumes.density import DensityMap

PARTICLE = phantom(size=24)


def rotated(volume: np.ndarray, frame: Rotation) -> np.ndarray:
    """Return the map x -> volume(frame @ x), about its centre."""
    matrix, centre = frame.as_matrix()[::-1, ::-1], np.array(volume.shape) // 2  # (z, y, x)
    return ndimage.affine_transform(volume, matrix, offset=centre - matrix @ centre)


@pytest.mark.parametrize("symmetry", ["C3", "O"])
def test_the_axes_of_a_symmetric_map_are_found(symmetry, rng):
    group, frame = point_group(symmetry), Rotation.random(rng=3)
    volume = rotated(phantom(size=24, symmetry=symmetry).data, frame)
    found, correlation = symmetry_frame(volume, group, rng=rng)
    assert correlation > 0.95
    # the elements of the group, in the frame of the map, are the true ones in any order
    true = frame.inv() * group * frame
    for element in found.inv() * group * found:
        assert (element.inv() * true).magnitude().min() < 0.03


@pytest.mark.parametrize("symmetry", ["C4", "D3", "T"])
def test_a_symmetric_map_is_moved_onto_its_axes(symmetry, rng):
    on_axes = phantom(size=24, symmetry=symmetry)
    same, correlation = orientations.align_symmetry(on_axes, symmetry)
    assert same is on_axes
    assert correlation > 0.98
    # in a corner of a larger box that is no cube, with noise and half-way between voxels
    tilted = np.zeros((38, 36, 33), np.float32)
    turned = rotated(on_axes.data, Rotation.random(rng=4))
    tilted[:24, 10:34, :24] = ndimage.shift(turned, 0.5, order=1)
    tilted += 0.01 * turned.max() * rng.normal(size=tilted.shape)
    aligned, correlation = orientations.align_symmetry(DensityMap(tilted, 5.0), symmetry)
    assert aligned.voxel_size_angstrom == 5.0
    assert correlation > 0.95
    assert orientations.align_symmetry(aligned, symmetry)[0] is aligned
    turned = rotated(aligned.data, point_group(symmetry)[1])
    assert np.corrcoef(aligned.data.ravel(), turned.ravel())[0, 1] > 0.9


def test_a_map_that_does_not_have_the_symmetry_is_not_moved():
    padded = DensityMap(np.pad(PARTICLE.data, 20), 5.0)
    for density_map in (PARTICLE, padded):
        same, correlation = orientations.align_symmetry(density_map, "D3")
        assert same is density_map
        assert correlation < orientations.SYMMETRIC
        assert orientations.nearest_symmetry(density_map)[1] < orientations.SYMMETRIC
        doubt = orientations.describe_symmetry_doubt(density_map, "D3", correlation)
        assert doubt.endswith("the particle probably does not have this symmetry")
        assert orientations.describe_symmetry_doubt(density_map, "C1", 1.0) == ""
    assert orientations.align_symmetry(PARTICLE, "C1") == (PARTICLE, 1.0)


@pytest.mark.parametrize("symmetry", ["C3", "C6", "D2", "D4"])
def test_the_symmetry_of_a_map_is_named(symmetry):
    tilted = DensityMap(rotated(phantom(size=24, symmetry=symmetry).data, Rotation.random(rng=5)), 5.0)
    found, correlation = orientations.nearest_symmetry(tilted)
    assert found == symmetry
    assert correlation > 0.95
    assert f"under {symmetry} " in orientations.describe_symmetry_doubt(tilted, "C1", 1.0)
    assert orientations.describe_symmetry_doubt(tilted, symmetry, correlation) == ""
