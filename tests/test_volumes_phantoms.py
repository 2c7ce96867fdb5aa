"""Phantoms have the symmetry of their group, fit in their box and have a well-determined orientation."""

import numpy as np
import pytest
from scipy import ndimage

from cryoem import volumes
from cryoem.rotations import point_group


@pytest.mark.parametrize(
    ("symmetry", "size", "seed"), [("C1", 32, 0), ("C1", 33, 1), ("D2", 33, 2), ("O", 32, 0)]
)
def test_phantom_is_normalised_centred_and_fits(symmetry, size, seed):
    phantom = volumes.phantom(symmetry=symmetry, size=size, rng=seed)
    assert phantom.data.shape == (size, size, size)
    assert phantom.data.min() == 0
    assert phantom.data.max() == 1
    np.testing.assert_allclose(ndimage.center_of_mass(phantom.data), [size // 2] * 3, atol=0.02)
    radius = np.linalg.norm(np.argwhere(phantom.data > 1e-4) - size // 2, axis=1)
    assert radius.max() <= 0.9 * size / 2
    occupied = np.argwhere(phantom.data > 0.05)
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert 0.6 < np.ptp(occupied @ directions.T, axis=0).max() / size < 0.8


@pytest.mark.parametrize(("symmetry", "tolerance"), [("D2", 1e-3), ("D3", 0.1)])
def test_phantom_has_the_symmetry_of_its_group_and_no_mirror(symmetry, tolerance):
    size = 41 if symmetry.endswith("3") else 40
    data = volumes.phantom(symmetry=symmetry, size=size, resolution_angstrom=14.0).data

    def turned(matrix):
        matrix = matrix[::-1, ::-1]  # (x, y, z) -> (z, y, x)
        return ndimage.affine_transform(
            data, matrix, offset=size // 2 - matrix @ np.full(3, size // 2), order=3
        )

    for g in point_group(symmetry)[1:]:
        assert np.abs(turned(g.as_matrix()) - data).max() < tolerance
    assert np.corrcoef(turned(np.diag([1.0, 1.0, -1.0])).ravel(), data.ravel())[0, 1] < 0.95
    other_axis = point_group("C4").as_matrix()[1]
    assert np.abs(turned(other_axis) - data).max() > 0.3


def test_unsymmetric_phantom_determines_its_orientation_at_20_angstrom():
    data = volumes.low_pass(volumes.phantom(size=32, voxel_size_angstrom=8.0), 20.0).data
    for matrix in point_group("I").as_matrix()[1:]:
        turned = ndimage.affine_transform(data, matrix, offset=16 - matrix @ np.full(3, 16), order=1)
        assert np.corrcoef(turned.ravel(), data.ravel())[0, 1] < 0.9


def test_phantom_follows_its_seed():
    first, same, other = (volumes.phantom(size=32, rng=seed).data for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] < 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symmetry": "X9"}, "symmetry must be .* got 'X9'"),
        ({"size": 8}, "size must be at least 16 voxels, got 8"),
        ({"voxel_size_angstrom": -4.0}, "voxel_size_angstrom must be a positive number, got -4.0"),
        ({"resolution_angstrom": 4.0}, "resolution_angstrom must be at least twice the voxel size"),
        ({"resolution_angstrom": 65.0}, "at most a quarter of the box edge of 256 angstrom, got 65.0"),
    ],
)
def test_phantom_refuses_what_it_cannot_make(arguments, message):
    with pytest.raises(ValueError, match=message):
        volumes.phantom(**arguments)
