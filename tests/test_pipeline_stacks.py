"""Particle stacks as the arrays of a phase, and back."""

import numpy as np
import pytest

from cryoem import imaging, pipeline
from cryoem.contrast import ContrastTransfer
from cryoem.particles import ParticleStack
from cryoem.volumes import DensityMap, phantom

MICROSCOPE = ContrastTransfer(200.0, 1.4, 0.1, 30.0, (4e3, 9e3), 0.3, inverted=True)


@pytest.mark.parametrize("ctf", [None, MICROSCOPE])
def test_what_is_known_of_a_stack_comes_back_from_its_file(tmp_path, ctf):
    density = DensityMap(phantom(size=16).data, 8.0)
    stack = imaging.simulate(density, 5, ctf=ctf, shift_limit_px=2, symmetry="C2", rng=0)
    path = tmp_path / "stack.h5"
    pipeline.save_arrays(path, pipeline.arrays_of(stack), parameters={})
    found = pipeline.stack_of(pipeline.load_arrays(path), symmetry="C2")
    assert found.ctf == ctf
    assert (found.symmetry, found.pixel_size_angstrom) == ("C2", 8.0)
    np.testing.assert_array_equal(found.images, stack.images)
    np.testing.assert_array_equal(found.shifts_px, stack.shifts_px)
    np.testing.assert_allclose(found.rotations.as_quat(), stack.rotations.as_quat(), atol=1e-15)
    if ctf is None:
        assert found.defocus_angstrom is None
    else:
        np.testing.assert_array_equal(found.defocus_angstrom, stack.defocus_angstrom)


def test_what_is_not_known_stays_unknown(tmp_path):
    path = tmp_path / "stack.h5"
    stack = ParticleStack(np.eye(6)[None], 2.0)
    pipeline.save_arrays(path, pipeline.arrays_of(stack), parameters={})
    found = pipeline.stack_of(pipeline.load_arrays(path))
    assert (found.rotations, found.shifts_px, found.defocus_angstrom, found.ctf) == (None,) * 4
