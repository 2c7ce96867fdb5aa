"""cryoSPARC particle files: fields and signs; only numbers and text are ever loaded."""

import resource

import numpy as np
import pandas as pd
import pytest
from command_line import invoke
from particle_files import (
    PIXEL,
    cs,
    mrc,
    names_of,
    one_sentence,
    optics_of,
    some_images,
    star,
    turned_opposite,
)

from cryoem.particles.cryosparc import read_cs
from cryoem.particles.opening import open_particles
from cryoem.particles.writing import write_particles, write_poses
from cryoem.rotations import (
    Poses,
    from_cryosparc_pose,
    from_relion_euler_deg,
    random_rotations,
    to_relion_euler_deg,
)

CTF = {
    "ctf__accel_kv": np.full(5, 200, np.float32),
    "ctf__cs_mm": np.full(5, 2.0, np.float32),
    "ctf__amp_contrast": np.full(5, 0.1, np.float32),
    "ctf__df1_A": np.linspace(1e4, 2e4, 5, dtype=np.float32),
    "ctf__df2_A": np.linspace(9e3, 1.9e4, 5, dtype=">f4"),
    "ctf__df_angle_rad": np.linspace(0, 1, 5, dtype=np.float32),
    "ctf__phase_shift_rad": np.full(5, 0.5, np.float32),
    "ctf__bfactor": np.full(5, 30, np.float32),
    "ctf__exp_group_id": np.array([4, 4, 7, 7, 7], np.uint32),
}


@pytest.fixture
def stack(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    return tmp_path


def test_all_that_a_file_states(stack):
    rotations, shifts = random_rotations(5, rng=0), np.random.default_rng(1).uniform(-3, 3, (5, 2))
    fields = {"alignments3D__pose": turned_opposite(rotations), "alignments3D__shift": -shifts, **CTF}
    file = open_particles(cs(stack / "a.cs", **fields, blob__idx=np.array([4, 2, 0, 1, 3], np.uint32)))
    assert (file.pixel_size_angstrom, file.image_names[0]) == (PIXEL, "000005@a.mrcs")
    np.testing.assert_array_equal(file, some_images()[[4, 2, 0, 1, 3]])
    assert (file.poses.rotations * rotations.inv()).magnitude().max() < 1e-9
    np.testing.assert_allclose(file.poses.shifts_px, shifts)
    np.testing.assert_allclose(file.optics.defocus_angstrom[1], [12500, 11500, 0.25])
    assert (file.ctf.voltage_kv, file.ctf.spherical_aberration_mm) == (200, 2.0)
    assert (file.ctf.b_factor_angstrom2, file.ctf.phase_shift_rad) == (30, 0.5)
    assert file.table["alignments3D/pose/2"].shape == (5,)
    assert file.table["ctf/df2_A"].dtype.isnative
    assert len(open_particles(stack / "a.cs", optics_group=7)) == 3
    text = read_cs(cs(stack / "b.cs", blob__path=np.full(5, "a.mrcs")))
    assert text["blob/path"].tolist() == ["a.mrcs"] * 5


def test_a_pose_is_the_rotation_vector_of_the_inverse():
    """Two known answers: a rotation about z by 30 degrees is psi -30, and RELION's matrix is exp(pose) transposed."""
    turn = from_cryosparc_pose([[0, 0, np.pi / 6]])
    np.testing.assert_allclose(to_relion_euler_deg(turn).sum(axis=1), [30], atol=1e-9)
    about_y = from_cryosparc_pose([0, np.pi / 3, 0])
    assert (about_y * from_relion_euler_deg([0, 60, 0]).inv()).magnitude() == pytest.approx(0, abs=1e-12)
    for wrong in ([0.0, 1.0], [[0.0, 1.0, np.nan]]):
        with pytest.raises(ValueError, match=r"^pose must be"):
            from_cryosparc_pose(wrong)


def test_dark_particles_have_a_sign_and_are_written_bright(stack):
    signs = np.array([-1, -1, 1, -1, -1], np.float32)
    file = open_particles(cs(stack / "a.cs", **CTF, blob__sign=signs))
    with pytest.raises(ValueError, match=r"a.cs contains both bright and dark particles; `cryoem convert`"):
        _ = file.ctf
    assert [file[part].ctf.inverted for part in ([0, 1], [2])] == [False, True]
    assert open_particles(cs(stack / "b.cs", **CTF)).ctf.inverted
    np.testing.assert_array_equal(file, some_images())  # as stored
    write_particles(stack / "c.star", file)
    written = open_particles(stack / "c.star").to_stack()
    np.testing.assert_array_equal(written.images, signs[:, None, None] * some_images())
    assert written.ctf.inverted


def test_written_poses_are_read_back_with_uids_signs_and_ctf(stack):
    uids, signs = np.array([7, 2**63, 3, 4, 5], np.uint64), np.array([-1, -1, 1, -1, -1], np.float32)
    numbers = np.array([4, 2, 0, 1, 3], np.uint32)
    scales = np.linspace(0.8, 1.2, 5, dtype=np.float32)
    source = cs(stack / "a.cs", **CTF, ctf__scale=scales, uid=uids, blob__sign=signs, blob__idx=numbers)
    file = open_particles(source)
    poses = Poses(random_rotations(5, rng=0), np.random.default_rng(1).uniform(-3, 3, (5, 2)))
    subset = np.array([0, 1, 1, 0, 1])
    write_poses(stack / "b.cs", file, poses, subset=subset)
    found = open_particles(stack / "b.cs")
    assert found.table["uid"].tolist() == uids.tolist()
    assert found.table["alignments3D/split"].tolist() == subset.tolist()
    assert (found.image_names, found.pixel_size_angstrom) == (file.image_names, PIXEL)
    np.testing.assert_array_equal(found, file)
    assert (found.rotations * poses.rotations.inv()).magnitude().max() < 1e-6
    np.testing.assert_allclose(found.shifts_px, poses.shifts_px, atol=1e-6)
    pd.testing.assert_frame_equal(found.contrast, file.contrast, rtol=1e-6)
    shapes = np.load(stack / "b.cs")["blob/shape"]
    assert shapes.tolist() == [list(some_images().shape[1:])] * 5


def test_poses_of_a_relion_file_are_written_for_cryosparc(stack):
    write_particles(stack / "c.star", open_particles(cs(stack / "a.cs", **CTF)))
    file = open_particles(stack / "c.star")
    write_poses(stack / "d.cs", file, random_rotations(5, rng=0))
    found = open_particles(stack / "d.cs")
    assert found.table["uid"].nunique() == 5
    assert set(found.table["alignments3D/psize_A"]) == {np.float32(PIXEL)}
    np.testing.assert_array_equal(found, file)
    pd.testing.assert_frame_equal(found.contrast, file.contrast, rtol=1e-6)


def test_a_relion_job_is_converted_to_cryosparcs_fields_and_units(stack):
    """The expected numbers are computed by hand; reading back is checked together with the other formats."""
    optics = {**optics_of([3, 8]), "rlnVoltage": 200.0, "rlnSphericalAberration": 2.0}
    columns = {
        "rlnOpticsGroup": [3, 8, 8, 3, 3],
        "rlnAmplitudeContrast": 0.1,
        "rlnDefocusU": 12000.0,
        "rlnDefocusV": 11000.0,
        "rlnDefocusAngle": 90.0,
        "rlnPhaseShift": 45.0,
        "rlnAngleRot": 0.0,
        "rlnAngleTilt": 60.0,
        "rlnAnglePsi": 0.0,
        "rlnOriginXAngst": 2 * PIXEL,
        "rlnOriginYAngst": -PIXEL,
        "rlnRandomSubset": [1, 2, 1, 1, 2],
    }
    source = star(stack / "job.star", names_of(5), optics=optics, **columns)
    ended = invoke("convert", source, stack / "out.cs")
    assert (ended.exit_code, ended.stderr) == (0, "")
    records, found = np.load(stack / "out.cs"), open_particles(stack / "out.cs", optics_group=8)
    for field, expected in {
        "blob/psize_A": PIXEL,
        "alignments3D/pose": [0, np.pi / 3, 0],  # a tilt is a rotation about y
        "alignments3D/shift": [2, -1],
        "alignments3D/psize_A": PIXEL,
        "ctf/accel_kv": 200,
        "ctf/df1_A": 12000,
        "ctf/df2_A": 11000,
        "ctf/df_angle_rad": np.pi / 2,
        "ctf/phase_shift_rad": np.pi / 4,
    }.items():
        np.testing.assert_allclose(records[field] - expected, 0, atol=1e-6, err_msg=field)
    assert records["alignments3D/split"].tolist() == [0, 1, 0, 0, 1]
    assert records["blob/path"].tolist() == [b"out.mrcs"] * 5
    assert len(set(records["uid"])) == 5
    np.testing.assert_array_equal(found, some_images()[[1, 2]])
    again = invoke("convert", stack / "out.cs", stack / "again.cs")
    assert again.exit_code == 0
    assert np.load(stack / "again.cs")["uid"].tolist() == records["uid"].tolist()


def test_half_sets_and_optics_groups_are_kept_in_relion_tables(stack):
    split = np.array([0, 1, 1, 0, 1], np.uint32)
    pose = {
        "alignments3D__pose": np.zeros((5, 3)),
        "alignments3D__split": split,
        "blob__sign": np.full(5, -1.0),
    }
    file = open_particles(cs(stack / "a.cs", **pose, **CTF))
    write_particles(stack / "b.star", file)
    with pytest.warns(UserWarning, match="are dark"):
        write_poses(stack / "c.star", file, file.poses.mirrored)
    write_poses(stack / "d.cs", open_particles(stack / "b.star"), file.poses)
    for name in ("b.star", "c.star", "d.cs"):
        written = open_particles(stack / name)
        np.testing.assert_array_equal(written.random_subset, split)
        assert len(open_particles(stack / name, optics_group=2)) == 3


def test_shifts_count_pixels_of_their_own_alignment(stack):
    """This occurs, for example, after refining images that were downsampled by two."""
    fields = {"alignments3D__shift": np.full((5, 2), 1.0), "alignments3D__psize_A": np.full(5, 2 * PIXEL)}
    np.testing.assert_allclose(open_particles(cs(stack / "a.cs", **fields)).shifts_px, -2.0)


def test_in_plane_angles_are_used_with_a_warning_if_there_are_no_others(stack):
    psi = np.linspace(0.1, 1, 5)
    fields = {"alignments2D__pose": psi, "alignments2D__shift": np.ones((5, 2))}
    file = open_particles(cs(stack / "a.cs", **fields))
    with pytest.warns(UserWarning, match=r"a.cs has no orientations \(alignments3D\), only in-plane angles"):
        rotations = file.rotations
    expected = np.stack([np.zeros(5), np.zeros(5), np.rad2deg(psi)], axis=1)
    assert (rotations * from_relion_euler_deg(expected).inv()).magnitude().max() < 1e-9
    np.testing.assert_allclose(file.shifts_px, -1)
    pose = {"alignments3D__pose": np.zeros((5, 3))}
    assert open_particles(cs(stack / "a.cs", **fields, **pose)).rotations.magnitude().max() == 0


def header(text, *, version=1, length=None, body=b"") -> bytes:
    text = text.encode() + b"\n"
    length = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 * version, "little") + text + body


def of_type(descr: str, body: bytes) -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,)}}", body=body)


RECORD = "{'descr': [('blob/idx', '<u4')], 'fortran_order': False, 'shape': (%s,)}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a complete NumPy array"),
        (b"PK\x03\x04" + bytes(100), "is not a complete NumPy array"),
        (
            header(RECORD % 2, version=2, length=2**32 - 1),
            "is not a complete NumPy array .* 4294967295 bytes",
        ),
        (header("(" * 5000), "is not a complete NumPy array"),
        (header(RECORD % 10**9, body=bytes(8)), "is not a complete NumPy array .* greater than file size"),
        (header(RECORD % 2, body=bytes(9)), "header states 2 records and .* bytes, but the file has"),
        (header(RECORD % 0), "contains no particles: 0 records"),
        (
            of_type("'<f4'", bytes(4)),
            r"must contain one record per particle, got numbers \(float32\) with shape",
        ),
        (header((RECORD % 2).replace("(2,)", "(2, 1)"), body=bytes(8)), r"got records with shape \(2, 1\)$"),
        (of_type("[('a', '|O')]", bytes(8)), "is not a complete NumPy array .* Python objects in dtype"),
        (of_type("[('a', '<c8')]", bytes(8)), "the field a must contain numbers or text, got complex64"),
        (of_type("[('a', '|S4')]", b"\xff\xfe\xfd\xfc"), "the field a is not UTF-8 text"),
        (header(RECORD % 2, body=bytes(8)), "has no field blob/path, which locates the images"),
    ],
)
def test_files_that_are_not_particle_files(tmp_path, content, message):
    path = tmp_path / "a.cs"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message) as error:
        open_particles(path)
    assert one_sentence(error).startswith(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_header_that_python_2_wrote_is_read(stack):
    text = "{'descr': [('blob/path', '|S6'), ('blob/idx', '<u4')], 'fortran_order': False, 'shape': (1L,), }"
    (stack / "a.cs").write_bytes(header(text, body=b"a.mrcs\2\0\0\0"))
    assert open_particles(stack / "a.cs").image_names == ["000003@a.mrcs"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"blob__path": np.array([b"a.mrcs"] * 4 + [b""])},
            r"has no stack name \(blob/path\) in row 5",
        ),
        ({"blob__idx": np.arange(-1, 4)}, "must have the form number@stack|refers to image 0 of"),
        (
            {"blob__psize_A": np.full(5, np.nan)},
            "column blob/psize_A must contain finite numbers, got nan in row 1",
        ),
        (
            {"alignments3D__pose": np.where(np.arange(15).reshape(5, 3) == 10, np.inf, 0.0)},
            "column alignments3D/pose/1 must contain finite numbers, got inf in row 4$",
        ),
    ],
)
def test_impossible_values(stack, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        _ = open_particles(cs(stack / "a.cs", **fields)).rotations
    assert one_sentence(error).startswith(str(stack / "a.cs"))
