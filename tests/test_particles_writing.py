"""Particles written for other programs: what can be read back, and what is never overwritten."""

from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import starfile
from particle_files import (
    CTF,
    FLOAT32,
    PIXEL,
    a_stack,
    cs,
    digests,
    mrc,
    names_of,
    one_sentence,
    optics_of,
    some_images,
    some_poses,
    star,
    turned_opposite,
)

from cryoem import particles, volumes
from cryoem.contrast import ContrastTransfer, Optics
from cryoem.particles import writing
from cryoem.particles.opening import open_particles
from cryoem.particles.relion import POSE_COLUMNS
from cryoem.particles.stack import ParticleStack
from cryoem.particles.writing import write_particles, write_poses
from cryoem.rotations import random_rotations, to_relion_euler_deg


@pytest.fixture(autouse=True)
def _two_images_at_once(monkeypatch):
    monkeypatch.setattr(writing, "BLOCK_BYTES", 2 * 4 * 16**2)  # of 16 px


def assert_alike(found, expected, *, rtol=1e-7) -> None:
    """Compare images exactly, and everything else to more digits than float32 has, unless the table is float32."""
    np.testing.assert_array_equal(found, expected)
    assert found.pixel_size_angstrom == pytest.approx(expected.pixel_size_angstrom, rel=rtol)
    assert (found.poses is None) == (expected.poses is None)
    assert (found.ctf is None) == (expected.ctf is None)
    if expected.poses is not None:
        assert (found.rotations * expected.rotations.inv()).magnitude().max() < rtol
        np.testing.assert_allclose(found.shifts_px, expected.shifts_px, rtol=rtol, atol=rtol)
    if expected.ctf is not None:
        np.testing.assert_allclose(found.defocus_angstrom, expected.defocus_angstrom, rtol=rtol, atol=rtol)
        for name in ContrastTransfer.__annotations__:
            if name != "defocus_range_angstrom":
                value = getattr(expected.ctf, name)
                assert getattr(found.ctf, name) == pytest.approx(value, rel=rtol, abs=1e-9)


# --- what can be read back


@pytest.mark.parametrize(("suffix", "size"), [(".STAR", 6), (".xmd", 7), (".cs", 6)])
@pytest.mark.parametrize("known", ["all", "poses", "optics", "nothing"])
def test_what_is_known_comes_back_and_the_rest_stays_unknown(tmp_path, suffix, size, known):
    whole = a_stack(size=size)
    optics = whole.optics if known in ("all", "optics") else Optics(PIXEL)
    stack = ParticleStack(whole.images, optics, whole.poses if known in ("all", "poses") else None)
    rtol = FLOAT32 if suffix == ".cs" else 1e-7
    write_particles(tmp_path / f"a{suffix}", stack)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([f"a{suffix}", "a.mrcs"])
    assert_alike(open_particles(tmp_path / f"a{suffix}"), stack, rtol=rtol)
    write_particles(tmp_path / f"a{suffix}", stack[:3])  # replaces both files
    assert_alike(open_particles(tmp_path / f"a{suffix}"), stack[:3], rtol=rtol)


def test_simulated_particles_are_written_block_by_block(tmp_path):
    conditions = particles.ImagingConditions(image_size=16, noise_variance=1.0, ctf=CTF)
    simulated = particles.simulate_lazily(volumes.phantom(size=16), 7, conditions, rng=0)
    done = []
    write_particles(tmp_path / "a.star", simulated, callback=done.append)
    assert done == [2, 4, 6, 7]
    found = open_particles(tmp_path / "a.star")
    np.testing.assert_allclose(
        found.defocus_angstrom[:, :2], np.stack([simulated.defocus_angstrom] * 2, axis=1)
    )
    np.testing.assert_allclose(found, simulated, atol=1e-6)
    assert (found.rotations * simulated.rotations.inv()).magnitude().max() < 1e-7


@pytest.mark.parametrize("suffix", [".star", ".xmd"])
def test_cryosparcs_particles_of_two_microscopes_come_back(tmp_path, suffix):
    mrc(tmp_path / "a.mrcs", some_images())
    fields = {
        "alignments3D__pose": turned_opposite(random_rotations(5, rng=0)),
        "alignments3D__shift": np.random.default_rng(1).uniform(-3, 3, (5, 2)),
        "ctf__accel_kv": np.array([200, 300, 200, 200, 300], np.float32),
        "ctf__cs_mm": np.full(5, 2.7, np.float32),
        "ctf__amp_contrast": np.full(5, 0.1, np.float32),
        "ctf__df1_A": np.linspace(1e4, 2e4, 5),
    }
    source = open_particles(cs(tmp_path / "a.cs", **fields))
    write_particles(tmp_path / "out" / f"b{suffix}", source)
    found = open_particles(tmp_path / "out" / f"b{suffix}")
    np.testing.assert_array_equal(found.contrast.voltage_kv, [200, 300, 200, 200, 300])
    for part in ([0, 2, 3], [1, 4]):
        assert_alike(found[part], source[part])
    if suffix == ".star":
        assert found.table["rlnOpticsGroup"].tolist() == [1, 2, 1, 1, 2]
        assert found.optics_groups["rlnVoltage"].tolist() == [200, 300]


def test_a_relion_30_job_becomes_one_of_31_with_all_its_columns(tmp_path):
    mrc(tmp_path / "old.mrcs", some_images(), pixel=0)
    columns = {
        "rlnMicrographName": ["m 1", "007", "m", "m", "m"],
        "rlnDetectorPixelSize": 5.0,
        "rlnMagnification": 5e4 / PIXEL,
        "rlnVoltage": [300.0, 200.0, 300.0, 300.0, 200.0],
        "rlnSphericalAberration": 2.7,
        "rlnAmplitudeContrast": 0.1,
        "rlnDefocusU": np.linspace(1e4, 2e4, 5),
        "rlnAngleRot": 10.0,
        "rlnAngleTilt": 0.0,
        "rlnAnglePsi": 20.0,
        "rlnOriginX": [2.0, 0.0, 0.0, 0.0, -1.5],
        "rlnOriginY": 1.0,
        "rlnRandomSubset": [1, 2, 1, 2, 1],
    }
    names = [f"{i}@old.mrcs" for i in (5, 3, 1, 2, 4)]
    source = open_particles(star(tmp_path / "old.star", names, block="", **columns))
    before = digests(tmp_path)
    write_particles(tmp_path / "new.star", source)
    assert {name: digest for name, digest in digests(tmp_path).items() if name in before} == before
    found = open_particles(tmp_path / "new.star")
    np.testing.assert_array_equal(found, some_images()[[4, 2, 0, 1, 3]])
    for part in ([0, 2, 3], [1, 4]):
        assert_alike(found[part], source[part])
    for name in ("rlnMicrographName", "rlnRandomSubset", "rlnAngleRot", "rlnAnglePsi", "rlnDefocusU"):
        assert found.table[name].tolist() == source.table[name].tolist()
    assert not {"rlnOriginX", "rlnMagnification", "rlnDetectorPixelSize", "rlnVoltage"} & set(found.table)
    assert found.optics_groups["rlnVoltage"].tolist() == [300, 200]
    np.testing.assert_allclose(found.table["rlnOriginXAngst"], [3, 0, 0, 0, -2.25])


def test_optics_groups_in_use_are_kept(tmp_path):
    mrc(tmp_path / "old.mrcs", some_images())
    optics = {**optics_of([2, 9, 4]), "rlnBeamTiltX": [0.5, 0.7, 0.9], "rlnImageSize": 6}
    names = [f"{i}@old.mrcs" for i in range(1, 6)]
    path = star(tmp_path / "old.star", names, optics=optics, rlnOpticsGroup=[4, 2, 2, 4, 9])
    write_particles(tmp_path / "new.star", open_particles(path)[:2])
    found = open_particles(tmp_path / "new.star")
    assert found.table["rlnOpticsGroup"].tolist() == [4, 2]
    assert found.optics_groups["rlnOpticsGroup"].tolist() == [2, 4]
    assert found.optics_groups["rlnBeamTiltX"].tolist() == [0.5, 0.9]


@pytest.mark.parametrize("suffix", [".star", ".xmd", ".cs"])
def test_dark_particles_are_written_bright(tmp_path, suffix):
    dark, bright = a_stack(ctf=replace(CTF, inverted=False)), a_stack()
    write_particles(tmp_path / f"a{suffix}", dark)
    expected = replace(bright, images=-bright.images)
    assert_alike(open_particles(tmp_path / f"a{suffix}"), expected, rtol=FLOAT32)


@pytest.mark.parametrize("suffix", [".star", ".xmd", ".cs"])
def test_images_simulated_without_a_ctf_are_marked(tmp_path, suffix):
    """Reading their optics therefore does not warn, and the mark is kept."""
    conditions = particles.ImagingConditions(image_size=8)
    write_particles(
        tmp_path / f"a{suffix}", particles.simulate_lazily(volumes.phantom(size=16), 2, conditions, rng=0)
    )
    for copy in (".star", ".cs"):
        write_particles(tmp_path / f"b{copy}", open_particles(tmp_path / f"a{suffix}"))
        assert open_particles(tmp_path / f"b{copy}").optics.ctf is None


# --- what other programs find


def test_columns_and_their_order_are_those_of_relion_31(tmp_path, real_data):
    write_particles(tmp_path / "a.star", a_stack())
    ours = starfile.read(tmp_path / "a.star")
    relions = starfile.read(real_data / "particles" / "relion31.star", always_dict=True)
    for block in ("optics", "particles"):
        assert list(ours[block]) == [name for name in relions[block] if name in ours[block]]
    names = ("rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration")
    assert {*names, "rlnAmplitudeContrast"} <= set(ours["optics"])
    text = (tmp_path / "a.star").read_text()
    assert text.startswith("\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n")
    assert "\n# version 30001\n\ndata_particles\n\nloop_\n_rlnDefocusU #1\n" in text


def test_starfile_and_mrcfile_find_the_same(tmp_path):
    stack = a_stack()
    write_particles(tmp_path / "a.star", stack)
    tables = starfile.read(tmp_path / "a.star")
    table, optics = tables["particles"], tables["optics"].iloc[0]
    assert table["rlnImageName"].tolist() == names_of(5)
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    np.testing.assert_allclose(angles, to_relion_euler_deg(stack.rotations), rtol=1e-8)
    origins = table[["rlnOriginXAngst", "rlnOriginYAngst"]]
    np.testing.assert_allclose(-origins / PIXEL, stack.shifts_px, rtol=1e-8)
    np.testing.assert_allclose(table["rlnDefocusAngle"], np.rad2deg(stack.defocus_angstrom[:, 2]), rtol=1e-8)
    np.testing.assert_allclose(table["rlnPhaseShift"], np.rad2deg(0.5), rtol=1e-8)
    assert (table["rlnCtfBfactor"] == 25).all()
    constants = ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]
    assert optics[constants].tolist() == [200, 2.0, 0.1]
    sizes = ["rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality"]
    assert optics[sizes].tolist() == [PIXEL, 6, 2]
    with mrcfile.open(tmp_path / "a.mrcs") as images:
        assert images.is_image_stack()
        np.testing.assert_array_equal(images.data, stack.images)


def test_aspire_finds_the_same(tmp_path):
    source = pytest.importorskip("aspire.source")
    stack = a_stack(n=6, size=16)
    write_particles(tmp_path / "a.star", stack)
    found = source.RelionSource(tmp_path / "a.star", dtype=np.float64)
    np.testing.assert_array_equal(found.images[:].asnumpy(), stack.images)
    angles = np.stack([found.get_metadata(f"_rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")], axis=1)
    np.testing.assert_allclose(angles, to_relion_euler_deg(stack.rotations), rtol=1e-6)
    np.testing.assert_allclose(found.offsets, -stack.shifts_px, rtol=1e-6)
    assert found.pixel_size == pytest.approx(PIXEL)
    for i, defocus in zip(found.filter_indices, stack.defocus_angstrom, strict=True):
        seen = found.unique_filters[i]
        np.testing.assert_allclose([seen.defocus_u, seen.defocus_v, seen.defocus_ang], defocus, rtol=1e-6)
        assert (seen.voltage, seen.Cs, seen.alpha) == (200, 2.0, 0.1)


# --- complete output or none, and nothing else


def test_a_pixel_that_is_not_finite_keeps_the_older_files(tmp_path):
    with open(mrc(tmp_path / "bad.mrcs", some_images()), "r+b") as stream:
        stream.seek(1024 + 4 * 36 * 4)
        stream.write(np.float32(np.nan).tobytes())
    for name in ("a.star", "a.mrcs"):
        (tmp_path / name).write_bytes(b"older")
    before = digests(tmp_path)
    with pytest.raises(ValueError, match=r"bad.mrcs: pixels must be finite, got NaN or infinity in image 5"):
        write_particles(tmp_path / "a.star", open_particles(tmp_path / "bad.mrcs"))
    assert digests(tmp_path) == before


def test_an_input_is_never_overwritten(tmp_path):
    write_particles(tmp_path / "a.star", a_stack())
    mrc(tmp_path / "b.mrcs", some_images())
    star(tmp_path / "c.star", ["1@b.mrcs"])
    (tmp_path / "link.mrcs").symlink_to(tmp_path / "b.mrcs")
    before = digests(tmp_path)
    for source, target in (
        ("a.star", "a.star"),
        ("a.star", "a.xmd"),
        ("c.star", "b.star"),
        ("c.star", "link.xmd"),
    ):
        with pytest.raises(ValueError, match=r"is an input file; choose a different output path") as error:
            write_particles(tmp_path / target, open_particles(tmp_path / source))
        one_sentence(error)
    with pytest.raises(ValueError, match=r"a.star is an input file; choose a different output path"):
        write_poses(tmp_path / "a.star", open_particles(tmp_path / "a.star"), some_poses(seed=8))
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        ("a.mrcs", a_stack(), "path must end in .star or .xmd or .cs, got"),
        ("a.star", some_images(), "particles must be a ParticleStack, .* or ParticleFile, got ndarray"),
        ("a#1.star", a_stack(), "path must not contain #, quotes or line breaks"),
    ],
)
def test_wrong_arguments(tmp_path, path, given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        write_particles(tmp_path / path, given)
    assert list(tmp_path.iterdir()) == []


# --- poses of images that stay in their files


def test_new_poses_replace_old_ones_and_keep_the_rest(tmp_path):
    write_particles(tmp_path / "a.star", a_stack())
    given = open_particles(tmp_path / "a.star")
    older = {name: 7.0 for name in POSE_COLUMNS if name not in given.table}
    kept = {"rlnRandomSubset": [1, 2, 1, 2, 1], "rlnMicrographName": [f"m{i}.mrc" for i in range(5)]}
    particles.write_star(tmp_path / "c.star", given.table.assign(**older, **kept), optics=given.optics_groups)
    poses, source = some_poses(seed=8), open_particles(tmp_path / "c.star")
    write_poses(tmp_path / "b.star", source, poses)
    found = open_particles(tmp_path / "b.star")
    for name, values in kept.items():
        assert found.table[name].tolist() == values
    assert not set(older) & set(found.table)
    assert_alike(found, ParticleStack(given, given.optics, poses))
    write_poses(tmp_path / "b.star", source, poses.rotations, subset=np.arange(5) % 2)
    found = open_particles(tmp_path / "b.star")
    assert found.table["rlnRandomSubset"].tolist() == [1, 2, 1, 2, 1]
    assert not found.shifts_px.any()


def test_poses_of_an_xmipp_file_and_of_a_bare_stack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stack, poses = a_stack(), some_poses(seed=8)
    write_particles("in/a.xmd", stack)
    write_poses("in/b.star", open_particles("in/a.xmd"), poses)
    assert_alike(open_particles("in/b.star"), replace(stack, poses=poses))
    write_poses("c.star", open_particles("in/a.mrcs"), poses)
    assert_alike(open_particles("c.star"), ParticleStack(stack.images, Optics(PIXEL), poses))
    assert starfile.read("c.star")["particles"]["rlnImageName"][0] == "000001@in/a.mrcs"
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.mrcs", "a.xmd", "b.star", "c.star"]


@pytest.mark.parametrize(
    "name", ["relion31.star", "empiar_10076_7.star", "empiar_10076_7.cs", "rln_proj_65_shifted.star"]
)
def test_poses_for_the_tables_of_other_programs(real_data, tmp_path, name, recwarn):
    source = real_data / "particles" / name
    given = open_particles(source, datadir=source.parent)
    poses = some_poses(len(given), seed=2)
    write_poses(tmp_path / "b.star", given, poses)
    dark = given.ctf is not None and not given.ctf.inverted
    assert dark == (name == "empiar_10076_7.cs")
    warned = any("are dark, which a STAR file cannot record" in str(each.message) for each in recwarn)
    assert warned == dark
    found = open_particles(tmp_path / "b.star")  # from where it lies
    assert (found.rotations * poses.rotations.inv()).magnitude().max() < 1e-6
    np.testing.assert_allclose(found.shifts_px, poses.shifts_px, atol=1e-6)
    np.testing.assert_array_equal(found[:1], (-1 if dark else 1) * np.asarray(given[:1]))
    if given.defocus_angstrom is None:
        assert found.defocus_angstrom is None
    else:
        np.testing.assert_allclose(found.defocus_angstrom, given.defocus_angstrom, rtol=1e-8)


def test_there_must_be_one_pose_for_each_image(tmp_path):
    write_particles(tmp_path / "a.star", a_stack())
    given, poses = open_particles(tmp_path / "a.star"), some_poses()
    for path, wrong, options, message in (
        ("b.star", poses[:4], {}, "poses must have one entry for each of the 5 images, got 4"),
        ("b.star", poses, {"subset": [0, 1]}, "subset must have one entry for each of the 5 images, got 2"),
        ("b.xmd", poses, {}, r"path must end in \.star or \.cs, got"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            write_poses(tmp_path / path, given, wrong, **options)
    assert not (tmp_path / "b.star").exists()
