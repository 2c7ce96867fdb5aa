"""XMIPP's two conventions, compared with what XMIPP does to an image."""

import numpy as np
import pandas as pd
import pytest
from particle_files import correlation, moved, mrc, names_of
from scipy.spatial.transform import Rotation

from cryoem.images import shift
from cryoem.particles.files import open_particles
from cryoem.particles.star import write_xmd
from cryoem.projection.projectors import project
from cryoem.rotations import from_relion_euler_deg

MIRROR = np.diag([-1.0, 1.0])
PSI = np.array([0.0, 25.0, -140.0, 70.0])
SHIFT = {"shiftX": [2.0, -1.5, 0.5, 3.0], "shiftY": [-1.0, 2.5, 1.5, -2.0]}
FLIP = np.array([0, 0, 1, 1])


def xmipp_file(folder, columns, images=None):
    mrc(folder / "a.mrcs", np.ones((4, 6, 6), np.float32) if images is None else images)
    write_xmd(folder / "a.xmd", pd.DataFrame({"image": names_of(4), **columns}))
    return open_particles(folder / "a.xmd")


def as_read(folder, particle, columns, size):
    """Images that show the particle at the poses that the columns are read as."""
    read = xmipp_file(folder, columns)
    views = project(particle, read.rotations, image_size=size, backend="fourier")
    return np.asarray(xmipp_file(folder, columns, shift(views, read.shifts_px)))


@pytest.mark.parametrize("size", [32, 33], ids=["even", "odd"])
def test_xmipps_alignment_in_the_plane(tmp_path, particle, size):
    """XMIPP's 2D matrix: [[cos, sin], [-sin, cos]] of psi, its first row negated by a flip, then the shift."""
    images = as_read(tmp_path, particle, {"anglePsi": PSI, **SHIFT, "flip": FLIP}, size)
    reference = project(particle, Rotation.identity(1), image_size=size, backend="fourier")[0]
    for image, psi, flip, *shift_px in zip(images, np.deg2rad(PSI), FLIP, *SHIFT.values(), strict=True):
        matrix = np.array([[np.cos(psi), np.sin(psi)], [-np.sin(psi), np.cos(psi)]])
        matrix = MIRROR @ matrix if flip else matrix
        assert correlation(moved(image, matrix, shift_px), reference) > 0.98
        assert correlation(moved(image, matrix, -np.array(shift_px)), reference) < 0.95


@pytest.mark.parametrize("size", [32, 33], ids=["even", "odd"])
def test_xmipps_orientations(tmp_path, particle, size):
    """XMIPP reconstructs from images that were mirrored and shifted, and not rotated, at the Euler angles."""
    euler = {"angleRot": PSI[::-1], "angleTilt": [10.0, 60.0, 90.0, 130.0], "anglePsi": PSI}
    images = as_read(tmp_path, particle, {**euler, **SHIFT, "flip": FLIP}, size)
    rotations = from_relion_euler_deg(np.stack(list(euler.values()), axis=1))
    views = project(particle, rotations, image_size=size, backend="fourier")
    for image, view, flip, *shift_px in zip(images, views, FLIP, *SHIFT.values(), strict=True):
        matrix = MIRROR if flip else np.eye(2)
        assert correlation(moved(image, matrix, shift_px), view) > 0.98
        assert correlation(moved(image, matrix, -np.array(shift_px)), view) < 0.95


def test_other_columns_of_xmipp(tmp_path):
    columns = {
        "samplingRate": 2.0,
        "ctfVoltage": 200.0,
        "ctfSphericalAberration": 2.0,
        "ctfQ0": 0.1,
        "ctfDefocusU": [1e4, 2e4, 1e4, 2e4],
        "ctfDefocusV": 9e3,
        "ctfDefocusAngle": 45.0,
        "ctfVPPphaseshift": 90.0,
    }
    with pytest.warns(UserWarning, match=r"a.xmd states a pixel size of 2 angstrom, .* images 1.5; using 2$"):
        file = xmipp_file(tmp_path, {**columns, **SHIFT})
    assert (file.pixel_size_angstrom, file.poses) == (2.0, None)
    np.testing.assert_allclose(file.shifts_px, -np.stack(list(SHIFT.values()), axis=1))
    np.testing.assert_allclose(file.defocus_angstrom[1], [2e4, 9e3, np.pi / 4])
    assert (file.ctf.voltage_kv, file.ctf.amplitude_contrast) == (200, 0.1)
    assert file.ctf.phase_shift_rad == pytest.approx(np.pi / 2)
