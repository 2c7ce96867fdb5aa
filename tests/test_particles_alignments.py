"""Poses in the conventions of RELION and XMIPP, compared with how these programs transform an image."""

import numpy as np
import pandas as pd
import pytest
import starfile
from particle_files import PIXEL, correlation, moved, mrc, names_of, optics_of
from scipy.spatial.transform import Rotation

from cryoem import particles
from cryoem.images import shift
from cryoem.particles.opening import open_particles
from cryoem.particles.relion import POSE_COLUMNS, relion_tables
from cryoem.particles.star import write_xmd
from cryoem.particles.xmipp import xmipp_table
from cryoem.projection.projectors import project
from cryoem.rotations import from_relion_euler_deg

# --- in-plane alignments as written


@pytest.fixture(params=[32, 33], ids=["even", "odd"])
def aligned(request, particle):
    """A reference, rotated and displaced images of it, and their angles (n,) and shifts (n, 2)."""
    size, rng = request.param, np.random.default_rng(3)
    angles = np.array([0.0, 0.3, -1.2, 2.9, np.pi / 2, -np.pi, 5.0])
    shifts = rng.uniform(-3, 3, (len(angles), 2))
    views = project(particle, Rotation.from_euler("z", angles[:, None]), image_size=size, backend="fourier")
    reference = project(particle, Rotation.identity(1), image_size=size, backend="fourier")[0]
    return reference, shift(views, shifts), angles, shifts


def anticlockwise(angle_rad) -> np.ndarray:
    return np.array([[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]])


def test_the_convention_is_what_it_says(aligned):
    """Rotate anticlockwise (y up), then displace: an explicit formula that uses no code from the package."""
    reference, images, angles, shifts = aligned
    for image, angle, shift_px in zip(images, angles, shifts, strict=True):
        assert correlation(moved(reference, anticlockwise(angle), shift_px), image) > 0.995
        assert (
            correlation(moved(image, anticlockwise(-angle), -anticlockwise(-angle) @ shift_px), reference)
            > 0.99
        )


def star_of(tmp_path, images, angles, shifts, pixel=PIXEL, **options):
    tables = relion_tables(
        names_of(len(images)),
        angles,
        shifts,
        pixel_size_angstrom=pixel,
        image_size=images.shape[1],
        **options,
    )
    particles.write_star(tmp_path / "a.star", tables[0], optics=tables[1])
    back = starfile.read(tmp_path / "a.star", always_dict=True)
    return back["particles"], back["optics"]


def test_relions_pose_is_the_orientation_and_the_shift(aligned, particle, tmp_path):
    _, images, angles, shifts = aligned
    table, optics = star_of(tmp_path, images, angles, shifts)
    pixel = float(optics["rlnImagePixelSize"].iloc[0])
    euler_deg = np.column_stack([np.zeros((len(table), 2)), table["rlnAnglePsi"]])
    origins_px = table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy() / pixel

    def seen_at(euler_deg, origins_px):
        views = project(
            particle, from_relion_euler_deg(euler_deg), image_size=images.shape[1], backend="fourier"
        )
        return shift(views, -origins_px)

    scale = np.abs(images).max()
    np.testing.assert_allclose(seen_at(euler_deg, origins_px), images, atol=1e-4 * scale)
    assert np.abs(seen_at(-euler_deg, origins_px) - images).max() > 0.1 * scale
    assert np.abs(seen_at(euler_deg, -origins_px) - images).max() > 0.1 * scale


def test_relions_own_way_to_apply_a_pose_aligns(aligned, tmp_path):
    """relion_stack_create --apply_transformation rotates the shifted image by psi, [[cos, -sin], [sin, cos]]."""
    reference, images, angles, shifts = aligned
    table, _ = star_of(tmp_path, images, angles, shifts)
    for image, (_, row) in zip(images, table.iterrows(), strict=True):
        matrix = anticlockwise(np.deg2rad(row["rlnAnglePsi"]))
        origin = np.array([row["rlnOriginXAngst"], row["rlnOriginYAngst"]]) / PIXEL
        assert correlation(moved(image, matrix, matrix @ origin), reference) > 0.99


def test_xmipps_way_to_apply_a_pose_aligns(aligned, tmp_path):
    """geo2TransformationMatrix returns [[cos, sin], [-sin, cos]] of anglePsi, with the shift in the last column."""
    reference, images, angles, shifts = aligned
    max_cc = np.linspace(0.1, 0.9, len(images))
    particles.write_xmd(tmp_path / "a.xmd", xmipp_table(names_of(len(images)), angles, shifts, max_cc=max_cc))
    table = particles.read_xmd(tmp_path / "a.xmd")
    assert list(table) == ["image", "enabled", "anglePsi", "shiftX", "shiftY", "flip", "maxCC"]
    assert table["enabled"].eq(1).all()
    assert table["flip"].eq(0).all()
    assert table["anglePsi"].between(-180, 180).all()
    np.testing.assert_allclose(table["maxCC"], max_cc)
    assert table["image"].tolist() == names_of(len(images))
    for image, (_, row) in zip(images, table.iterrows(), strict=True):
        psi = np.deg2rad(row["anglePsi"])
        matrix = np.array([[np.cos(psi), np.sin(psi)], [-np.sin(psi), np.cos(psi)]])
        assert correlation(moved(image, matrix, [row["shiftX"], row["shiftY"]]), reference) > 0.99


def test_known_numbers_of_a_quarter_turn():
    """The particle is rotated by +90 degrees, then moved by (2, 0) px of 1.5 angstrom."""
    arrays = ["1@a.mrcs"], [np.pi / 2], [[2.0, 0.0]]
    row = relion_tables(*arrays, pixel_size_angstrom=1.5, image_size=8)[0].iloc[0]
    found = [row["rlnAnglePsi"], row["rlnOriginXAngst"], row["rlnOriginYAngst"]]
    np.testing.assert_allclose(found, [-90, -3, 0], atol=1e-9)
    row = xmipp_table(*arrays, max_cc=[1.0]).iloc[0]
    np.testing.assert_allclose([row["anglePsi"], row["shiftX"], row["shiftY"]], [90, 0, 2], atol=1e-9)


def arrays(n=3):
    return names_of(n), np.linspace(-1, 1, n), np.arange(2.0 * n).reshape(n, 2)


def test_columns_of_the_input_are_kept_but_for_old_poses():
    kept = {"rlnDefocusU": [1.0, 2.0, 3.0], "rlnOpticsGroup": [2, 1, 2], "rlnRandomSubset": [1, 2, 1]}
    old = dict.fromkeys([*POSE_COLUMNS, "rlnImageName", "myScore"], 77.0)
    given = pd.DataFrame({**kept, **old}, index=[5, 6, 7])
    optics = pd.DataFrame({**optics_of([1, 2]), "rlnVoltage": [200, 300]})
    untouched = given.copy(), optics.copy()
    table, groups = relion_tables(
        *arrays(),
        pixel_size_angstrom=PIXEL,
        image_size=64,
        scores={"myScore": [0.5, 0.6, 0.7], "other": np.arange(3)},
        table=given,
        optics_groups=optics,
    )
    new = {"rlnImageName": names_of(3), "rlnClassNumber": [1, 1, 1], "myScore": [0.5, 0.6, 0.7]}
    for name, values in (kept | new | {"other": [0, 1, 2]}).items():
        assert table[name].tolist() == values
    assert {*table} - {*kept, *new} == {"other", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"}
    assert groups[["rlnVoltage", "rlnImageSize"]].to_numpy().tolist() == [[200, 64], [300, 64]]
    pd.testing.assert_frame_equal(given, untouched[0])
    pd.testing.assert_frame_equal(optics, untouched[1])


def test_another_pixel_size_replaces_that_of_the_optics_groups():
    given, optics = pd.DataFrame({"rlnImageName": names_of(3)}), pd.DataFrame(optics_of([4]))
    with pytest.warns(
        UserWarning, match=r"optics groups state a pixel size of 1.5 angstrom; replacing it with 3$"
    ):
        table, kept = relion_tables(
            *arrays(), pixel_size_angstrom=3, image_size=64, table=given, optics_groups=optics
        )
    assert kept["rlnImagePixelSize"].tolist() == [3]
    assert table["rlnOpticsGroup"].tolist() == [4, 4, 4]
    np.testing.assert_allclose(table["rlnOriginXAngst"], [0, -6, -12])


TABLE, OPTICS = pd.DataFrame({"rlnImageName": names_of(3)}), pd.DataFrame(optics_of([1, 2]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"angles_rad": [0.0, 1.0]}, "angles_rad must have one entry for each of the 3 images, got 2"),
        (
            {"scores": {"rlnAnglePsi": np.zeros(3)}},
            "column names in scores must be new .*, got 'rlnAnglePsi'",
        ),
        (
            {"table": TABLE[:2]},
            "table must have a column rlnImageName and one row for each of the 3 images, got 2 rows",
        ),
        (
            {"table": TABLE, "optics_groups": OPTICS},
            "table must have a column rlnOpticsGroup if there are 2 optics groups",
        ),
        (
            {"table": TABLE.assign(rlnOpticsGroup=[1, 2, 3]), "optics_groups": OPTICS},
            "optics_groups must contain the optics group of each particle, but has no group 3",
        ),
        (
            {"table": TABLE, "optics_groups": TABLE},
            "optics_groups must have a column rlnOpticsGroup and at least one row, got 3 rows",
        ),
    ],
)
def test_wrong_arguments_of_relion_tables(changed, message):
    names, angles, shifts = arrays()
    given = {"image_names": names, "angles_rad": angles, "shifts_px": shifts, "pixel_size_angstrom": PIXEL}
    with pytest.raises(ValueError, match=f"^{message}"):
        relion_tables(**{**given, "image_size": 64, **changed})


# --- XMIPP's two conventions as read


MIRROR = np.diag([-1.0, 1.0])
PSI = np.array([0.0, 25.0, -140.0, 70.0])
SHIFT = {"shiftX": [2.0, -1.5, 0.5, 3.0], "shiftY": [-1.0, 2.5, 1.5, -2.0]}
FLIP = np.array([0, 0, 1, 1])


def xmipp_file(folder, columns, images=None):
    mrc(folder / "a.mrcs", np.ones((4, 16, 16), np.float32) if images is None else images)
    write_xmd(folder / "a.xmd", pd.DataFrame({"image": names_of(4), **columns}))
    return open_particles(folder / "a.xmd")


def as_read(folder, particle, columns, size):
    """Project the particle at the poses read from the columns."""
    read = xmipp_file(folder, columns)
    views = project(particle, read.rotations, image_size=size, backend="fourier")
    return np.asarray(xmipp_file(folder, columns, shift(views, read.shifts_px)))


@pytest.mark.parametrize("size", [32, 33], ids=["even", "odd"])
def test_xmipps_alignment_in_the_plane(tmp_path, particle, size):
    """XMIPP's 2D matrix is [[cos, sin], [-sin, cos]] of psi, with the first row negated by a flip, then the shift."""
    images = as_read(tmp_path, particle, {"anglePsi": PSI, **SHIFT, "flip": FLIP}, size)
    reference = project(particle, Rotation.identity(1), image_size=size, backend="fourier")[0]
    for image, psi, flip, *shift_px in zip(images, np.deg2rad(PSI), FLIP, *SHIFT.values(), strict=True):
        matrix = np.array([[np.cos(psi), np.sin(psi)], [-np.sin(psi), np.cos(psi)]])
        matrix = MIRROR @ matrix if flip else matrix
        assert correlation(moved(image, matrix, shift_px), reference) > 0.98
        assert correlation(moved(image, matrix, -np.array(shift_px)), reference) < 0.95


@pytest.mark.parametrize("size", [32, 33], ids=["even", "odd"])
def test_xmipps_orientations(tmp_path, particle, size):
    """XMIPP reconstructs at the Euler angles from images that are mirrored and shifted but not rotated."""
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
    with pytest.warns(
        UserWarning, match=r"a.xmd states a pixel size of 2 angstrom, .* stacks state 1.5; using 2$"
    ):
        file = xmipp_file(tmp_path, {**columns, **SHIFT})
    assert (file.pixel_size_angstrom, file.poses) == (2.0, None)
    np.testing.assert_allclose(file.shifts_px, -np.stack(list(SHIFT.values()), axis=1))
    np.testing.assert_allclose(file.defocus_angstrom[1], [2e4, 9e3, np.pi / 4])
    assert (file.ctf.voltage_kv, file.ctf.amplitude_contrast) == (200, 0.1)
    assert file.ctf.phase_shift_rad == pytest.approx(np.pi / 2)
