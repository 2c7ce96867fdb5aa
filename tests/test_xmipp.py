"""XMIPP's two conventions, each held against what XMIPP does to an image."""

import numpy as np
import pandas as pd
import pytest
from particle_files import PIXEL, correlation, moved, mrc, names_of, one_sentence
from scipy.spatial.transform import Rotation

from cryoem import imaging
from cryoem.particles import open_particles, write_xmd
from cryoem.projectors import project
from cryoem.rotations import from_relion_euler_deg

MIRROR = np.diag([-1.0, 1.0])


def written(folder, particle, rotations, shifts, columns, size):
    """A file whose images show the particle at what its columns are read as."""
    views = imaging.shift(project(particle, rotations, image_size=size, backend="fourier"), shifts)
    mrc(folder / "a.mrcs", views)
    write_xmd(folder / "a.xmd", pd.DataFrame({"image": names_of(len(views)), **columns}))
    return open_particles(folder / "a.xmd")


PSI = np.array([0.0, 25.0, -140.0, 70.0])
SHIFT = {"shiftX": [2.0, -1.5, 0.5, 3.0], "shiftY": [-1.0, 2.5, 1.5, -2.0]}
FLIP = np.array([0, 0, 1, 1])


def read_as(folder, columns):
    """What columns without images are read as."""
    mrc(folder / "a.mrcs", np.ones((4, 6, 6), np.float32))
    write_xmd(folder / "a.xmd", pd.DataFrame({"image": names_of(4), **columns}))
    file = open_particles(folder / "a.xmd")
    return file.rotations, file.shifts_px


@pytest.mark.parametrize("size", [32, 33], ids=["even", "odd"])
def test_an_alignment_in_the_plane_undoes_what_it_is_read_as(tmp_path, particle, size):
    """XMIPP's 2D matrix: [[cos, sin], [-sin, cos]] of psi, its first row negated by a flip, then the shift."""
    columns = {"anglePsi": PSI, **SHIFT, "flip": FLIP}
    file = written(tmp_path, particle, *read_as(tmp_path, columns), columns, size)
    reference = project(particle, Rotation.identity(1), image_size=size, backend="fourier")[0]
    for image, psi, flip, *shift in zip(
        file.read(slice(None)), np.deg2rad(PSI), FLIP, *SHIFT.values(), strict=True
    ):
        matrix = np.array([[np.cos(psi), np.sin(psi)], [-np.sin(psi), np.cos(psi)]])
        matrix = MIRROR @ matrix if flip else matrix
        assert correlation(moved(image, matrix, shift), reference) > 0.98
        assert correlation(moved(image, matrix, -np.array(shift)), reference) < 0.95


@pytest.mark.parametrize("size", [32, 33], ids=["even", "odd"])
def test_shifts_of_an_orientation_come_first(tmp_path, particle, size):
    """XMIPP reconstructs from images that were mirrored and shifted, and not rotated, at the Euler angles."""
    columns = {
        "angleRot": PSI[::-1],
        "angleTilt": [10.0, 60.0, 90.0, 130.0],
        "anglePsi": PSI,
        **SHIFT,
        "flip": FLIP,
    }
    file = written(tmp_path, particle, *read_as(tmp_path, columns), columns, size)
    euler = from_relion_euler_deg(
        np.stack([columns[f"angle{name}"] for name in ("Rot", "Tilt", "Psi")], axis=1)
    )
    views = project(particle, euler, image_size=size, backend="fourier")
    for image, view, flip, *shift in zip(file.read(slice(None)), views, FLIP, *SHIFT.values(), strict=True):
        matrix = MIRROR if flip else np.eye(2)
        assert correlation(moved(image, matrix, shift), view) > 0.98
        assert correlation(moved(image, matrix, -np.array(shift)), view) < 0.95


def test_all_else_that_a_file_says(tmp_path):
    mrc(tmp_path / "a.mrcs", np.ones((2, 6, 6), np.float32), pixel=0)
    columns = {
        "samplingRate": PIXEL,
        "ctfVoltage": 200.0,
        "ctfSphericalAberration": 2.0,
        "ctfQ0": 0.1,
        "ctfDefocusU": [1e4, 2e4],
        "ctfDefocusV": [9e3, 2e4],
        "ctfDefocusAngle": [45.0, 90.0],
        "ctfVPPphaseshift": 90.0,
    }
    write_xmd(tmp_path / "a.xmd", pd.DataFrame({"image": names_of(2), **columns}))
    file = open_particles(tmp_path / "a.xmd")
    assert file.pixel_size_angstrom == PIXEL
    assert (file.rotations, file.shifts_px) == (None, None)
    np.testing.assert_allclose(file.defocus_angstrom, [[1e4, 9e3, np.pi / 4], [2e4, 2e4, np.pi / 2]])
    assert (file.ctf.voltage_kv, file.ctf.amplitude_contrast) == (200, 0.1)
    assert file.ctf.phase_shift_rad == pytest.approx(np.pi / 2)
    with pytest.raises(
        ValueError, match=r"a.xmd must have optics groups to take optics_group=1, got none"
    ) as error:
        open_particles(tmp_path / "a.xmd", optics_group=1)
    one_sentence(error)


def test_shifts_alone_are_those_of_the_image(tmp_path):
    assert read_as(tmp_path, SHIFT)[0] is None
    np.testing.assert_allclose(read_as(tmp_path, SHIFT)[1], -np.stack(list(SHIFT.values()), axis=1))
