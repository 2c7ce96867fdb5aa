"""Particles written with all that is known of them: what comes back, and what is never touched."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from particle_files import (
    PIXEL,
    cs,
    digests,
    mrc,
    names_of,
    one_sentence,
    optics_of,
    some_images,
    star,
    turned_opposite,
)
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer
from cryoem.particles import ParticleStack, open_particles, write_particles
from cryoem.rotations import random_rotations, to_relion_euler_deg

CTF = ContrastTransfer(200.0, 2.0, 0.1, 25.0, phase_shift_rad=0.5, inverted=True)
FLOAT32 = np.float32


def a_stack(n=5, size=6) -> ParticleStack:
    rng = np.random.default_rng(3)
    defocus = np.column_stack([rng.uniform(1e4, 2e4, (n, 2)), rng.uniform(-np.pi, np.pi, n)])
    return ParticleStack(
        some_images(n, size), PIXEL, random_rotations(n, rng=1), rng.uniform(-3, 3, (n, 2)), defocus, ctf=CTF
    )


def assert_alike(found: ParticleStack, expected: ParticleStack) -> None:
    """Images exactly, the rest to more digits than a float32 has."""
    np.testing.assert_array_equal(found.images, expected.images)
    assert found.pixel_size_angstrom == pytest.approx(expected.pixel_size_angstrom, rel=1e-7)
    for name in ("rotations", "shifts_px", "defocus_angstrom", "ctf"):
        assert (getattr(found, name) is None) == (getattr(expected, name) is None), name
    if expected.rotations is not None:
        assert (found.rotations * expected.rotations.inv()).magnitude().max() < 1e-7
    if expected.shifts_px is not None:
        np.testing.assert_allclose(found.shifts_px, expected.shifts_px, rtol=1e-7, atol=1e-7)
    if expected.ctf is not None:
        np.testing.assert_allclose(found.defocus_angstrom, expected.defocus_angstrom, rtol=1e-7, atol=1e-7)
        for name in ContrastTransfer.__annotations__:
            if name != "defocus_angstrom":
                assert getattr(found.ctf, name) == pytest.approx(
                    getattr(expected.ctf, name), rel=1e-7, abs=1e-9
                )


# --- what comes back


@pytest.mark.parametrize("suffix", [".star", ".xmd", ".STAR"])
@pytest.mark.parametrize("size", [6, 7])
def test_all_that_is_known_comes_back(tmp_path, suffix, size):
    stack = a_stack(size=size)
    write_particles(tmp_path / f"a{suffix}", stack, block=2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([f"a{suffix}", "a.mrcs"])
    assert_alike(open_particles(tmp_path / f"a{suffix}").to_stack(), stack)


@pytest.mark.parametrize("suffix", [".star", ".xmd"])
@pytest.mark.parametrize("known", ["rotations", "shifts_px", "defocus_angstrom", None])
def test_what_is_not_known_stays_unknown(tmp_path, suffix, known):
    whole = a_stack()
    parts = {} if known is None else {known: getattr(whole, known)}
    if known == "defocus_angstrom":
        parts["ctf"] = whole.ctf
    stack = ParticleStack(whole.images, PIXEL, **parts)
    write_particles(tmp_path / f"a{suffix}", stack)
    assert_alike(open_particles(tmp_path / f"a{suffix}").to_stack(), stack)


def test_one_defocus_an_image_is_both(tmp_path):
    stack = ParticleStack(some_images(), PIXEL, defocus_angstrom=np.linspace(1e4, 2e4, 5), ctf=CTF)
    write_particles(tmp_path / "a.star", stack)
    found = open_particles(tmp_path / "a.star").defocus_angstrom
    np.testing.assert_allclose(
        found, np.stack([stack.defocus_angstrom, stack.defocus_angstrom, np.zeros(5)], axis=1)
    )


@pytest.mark.parametrize("suffix", [".star", ".xmd"])
@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_any_particles_come_back(suffix, data):
    n, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    numbers = st.floats(-1e3, 1e3, width=32)
    quaternions = arrays(float, (n, 4), elements=st.floats(-1, 1)).filter(
        lambda q: (np.linalg.norm(q, axis=1) > 1e-3).all()
    )
    stack = ParticleStack(
        data.draw(arrays(FLOAT32, (n, size, size), elements=st.floats(-(2.0**127), 2.0**127, width=32))),
        data.draw(st.floats(0.125, 100, width=32)),
        Rotation.from_quat(data.draw(quaternions)),
        data.draw(arrays(FLOAT32, (n, 2), elements=numbers)).astype(float),
        data.draw(arrays(FLOAT32, (n, 3), elements=numbers)).astype(float),
        ctf=ContrastTransfer(
            data.draw(st.floats(60, 400, width=32)),
            data.draw(st.floats(0, 10, width=32)),
            data.draw(st.floats(0, 1, width=32)),
            data.draw(st.floats(0, 500, width=32)),
            phase_shift_rad=data.draw(st.floats(-4, 4, width=32)),
            inverted=True,
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write_particles(path, stack, block=data.draw(st.integers(1, 5)))
        assert_alike(open_particles(path).to_stack(), stack)


@pytest.mark.parametrize("suffix", [".star", ".xmd"])
def test_what_cryosparc_knows_is_carried(tmp_path, suffix):
    mrc(tmp_path / "a.mrcs", some_images())
    shifts = np.random.default_rng(1).uniform(-3, 3, (5, 2))
    fields = {
        "alignments3D__pose": turned_opposite(random_rotations(5, rng=0)),
        "alignments3D__shift": shifts,
        "ctf__accel_kv": np.array([200, 300, 200, 200, 300], np.float32),
        "ctf__cs_mm": np.full(5, 2.7, np.float32),
        "ctf__amp_contrast": np.full(5, 0.1, np.float32),
        "ctf__df1_A": np.linspace(1e4, 2e4, 5),
    }
    source = open_particles(cs(tmp_path / "a.cs", **fields))
    (tmp_path / "out").mkdir()
    write_particles(tmp_path / "out" / f"b{suffix}", source, block=2)
    found = open_particles(tmp_path / "out" / f"b{suffix}")
    np.testing.assert_array_equal(found.contrast.voltage_kv, [200, 300, 200, 200, 300])
    for part in ([0, 2, 3], [1, 4]):
        assert_alike(found.to_stack(part), source.to_stack(part))
    if suffix == ".star":
        assert found.table["rlnOpticsGroup"].tolist() == [1, 2, 1, 1, 2]
        assert found.optics["rlnVoltage"].tolist() == [200, 300]


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
    source = open_particles(
        star(tmp_path / "old.star", [f"{i}@old.mrcs" for i in (5, 3, 1, 2, 4)], block="", **columns)
    )
    before = digests(tmp_path)
    write_particles(tmp_path / "new.star", source, block=2)
    assert {name: digest for name, digest in digests(tmp_path).items() if name in before} == before
    found = open_particles(tmp_path / "new.star")
    np.testing.assert_array_equal(found.read(slice(None)), some_images()[[4, 2, 0, 1, 3]])
    for part in ([0, 2, 3], [1, 4]):
        assert_alike(found.to_stack(part), source.to_stack(part))
    for name in ("rlnMicrographName", "rlnRandomSubset", "rlnAngleRot", "rlnAnglePsi", "rlnDefocusU"):
        assert found.table[name].tolist() == source.table[name].tolist()
    assert not {"rlnOriginX", "rlnMagnification", "rlnDetectorPixelSize", "rlnVoltage"} & set(found.table)
    assert found.optics["rlnVoltage"].tolist() == [300, 200]
    np.testing.assert_allclose(found.table["rlnOriginXAngst"], [3, 0, 0, 0, -2.25])


def test_optics_groups_of_a_job_are_kept(tmp_path):
    mrc(tmp_path / "old.mrcs", some_images())
    optics = {**optics_of([2, 9, 4]), "rlnBeamTiltX": [0.5, 0.7, 0.9], "rlnImageSize": 6}
    path = star(
        tmp_path / "old.star",
        [f"{i}@old.mrcs" for i in range(1, 6)],
        optics=optics,
        rlnOpticsGroup=[4, 2, 2, 4, 9],
    )
    write_particles(tmp_path / "new.star", open_particles(path).subset([0, 1]))
    found = open_particles(tmp_path / "new.star")
    assert found.table["rlnOpticsGroup"].tolist() == [4, 2]
    assert found.optics["rlnOpticsGroup"].tolist() == [2, 4]
    assert found.optics["rlnBeamTiltX"].tolist() == [0.5, 0.9]


@pytest.mark.parametrize("suffix", [".star", ".xmd"])
def test_dark_particles_are_written_bright(tmp_path, suffix):
    stack = replace(a_stack(), ctf=replace(CTF, inverted=False))
    write_particles(tmp_path / f"a{suffix}", stack, block=2)
    assert_alike(
        open_particles(tmp_path / f"a{suffix}").to_stack(), replace(stack, images=-stack.images, ctf=CTF)
    )


# --- what other programs find


def test_columns_and_their_order_are_those_of_relion_31(tmp_path, real_data):
    write_particles(tmp_path / "a.star", a_stack())
    for block in ("optics", "particles"):
        ours = list(starfile.read(tmp_path / "a.star")[block])
        relions = list(starfile.read(real_data / "particles" / "relion31.star", always_dict=True)[block])
        assert ours == [name for name in relions if name in ours]
    assert {
        "rlnOpticsGroup",
        "rlnOpticsGroupName",
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
    } <= set(starfile.read(tmp_path / "a.star")["optics"])
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
    np.testing.assert_allclose(
        -table[["rlnOriginXAngst", "rlnOriginYAngst"]] / PIXEL, stack.shifts_px, rtol=1e-8
    )
    np.testing.assert_allclose(table["rlnDefocusAngle"], np.rad2deg(stack.defocus_angstrom[:, 2]), rtol=1e-8)
    np.testing.assert_allclose(table["rlnPhaseShift"], np.rad2deg(0.5), rtol=1e-8)
    assert (table["rlnCtfBfactor"] == 25).all()
    assert (optics["rlnVoltage"], optics["rlnSphericalAberration"], optics["rlnAmplitudeContrast"]) == (
        200,
        2.0,
        0.1,
    )
    assert (optics["rlnImagePixelSize"], optics["rlnImageSize"], optics["rlnImageDimensionality"]) == (
        PIXEL,
        6,
        2,
    )
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


# --- whole or not at all, and nothing else


@pytest.mark.parametrize("suffix", [".star", ".xmd"])
@pytest.mark.parametrize("older", [False, True])
def test_a_pixel_that_is_not_finite_leaves_nothing_new(tmp_path, suffix, older):
    images = some_images()
    with open(mrc(tmp_path / "bad.mrcs", images), "r+b") as stream:
        stream.seek(1024 + 4 * 36 * 4)
        stream.write(np.float32(np.nan).tobytes())
    if older:
        for name in (f"a{suffix}", "a.mrcs"):
            (tmp_path / name).write_bytes(b"older")
    before = digests(tmp_path)
    with pytest.raises(ValueError, match=r"bad.mrcs must hold finite pixels, got NaN or infinity in image 5"):
        write_particles(tmp_path / f"a{suffix}", open_particles(tmp_path / "bad.mrcs"), block=2)
    assert digests(tmp_path) == before


def test_a_table_never_stands_beside_another_stack(tmp_path, monkeypatch):
    """Between the two names that must change there is a moment; what is found then is a stack without its table."""
    write_particles(tmp_path / "a.star", a_stack())
    real, seen = os.replace, []

    def replace(source, target):
        seen.append(sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")))
        if Path(target).suffix == ".star":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match=r"^cannot write .*a.star: No space left on device$"):
        write_particles(tmp_path / "a.star", a_stack(n=3))
    assert seen == [["a.mrcs"], ["a.mrcs"]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mrcs"]
    assert len(open_particles(tmp_path / "a.mrcs")) == 3


def test_older_files_are_replaced(tmp_path):
    write_particles(tmp_path / "a.star", a_stack())
    write_particles(tmp_path / "a.star", a_stack(n=3))
    assert len(open_particles(tmp_path / "a.star")) == 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mrcs", "a.star"]


@pytest.mark.parametrize("name", ["../outside", "/absolute/name", "..", "sub/../../x"])
def test_names_in_a_file_lead_nowhere_outside_the_folder(tmp_path, name):
    """Names say where to read; whatever they are, two files are written, where ``path`` says."""
    inner = tmp_path / "project" / "job"
    inner.mkdir(parents=True)
    mrc(inner / "x.mrcs", some_images())
    path = inner / "in.star"
    star(
        path,
        [f"{i}@x.mrcs" for i in range(1, 6)],
        rlnMicrographName=[f"{name}.mrc"] * 5,
        rlnGroupName=[name] * 5,
    )
    (tmp_path / "out").mkdir()
    before = digests(tmp_path)
    write_particles(tmp_path / "out" / "b.star", open_particles(path))
    new = {str(file) for file in digests(tmp_path)} - {str(file) for file in before}
    assert new == {"out/b.star", "out/b.mrcs"}
    assert open_particles(tmp_path / "out" / "b.star").image_names == [f"{i:06d}@b.mrcs" for i in range(1, 6)]


def test_its_own_input_is_never_replaced(tmp_path):
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
        with pytest.raises(
            ValueError, match=r"path must not be that of the particles' own files, got"
        ) as error:
            write_particles(tmp_path / target, open_particles(tmp_path / source))
        one_sentence(error)
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("path", "particles", "options", "message"),
    [
        ("a.mrcs", a_stack(), {}, "path must end in .star or .xmd, got"),
        ("a.cs", a_stack(), {}, "path must end in .star or .xmd, got"),
        (
            "a.star",
            some_images(),
            {},
            "particles must be a ParticleStack, a ParticleSeries or a .*, got ndarray",
        ),
        ("a.star", a_stack(), {"block": 0}, "block must be a whole number of at least 1, got 0"),
        ("a#1.star", a_stack(), {}, "path must be without #, quotes and line breaks"),
    ],
)
def test_wrong_arguments(tmp_path, path, particles, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        write_particles(tmp_path / path, particles, **options)
    assert list(tmp_path.iterdir()) == []


def test_nowhere_to_write(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing to write a.mrcs into"):
        write_particles(tmp_path / "missing" / "a.star", a_stack())
    (tmp_path / "a.star").mkdir()
    with pytest.raises(OSError, match=r"^cannot write .*a.star: Is a directory$"):
        write_particles(tmp_path / "a.star", a_stack())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.star"]


def test_only_a_block_is_in_memory(tmp_path, monkeypatch):
    mrc(tmp_path / "a.mrcs", some_images(11))
    source, asked = open_particles(tmp_path / "a.mrcs"), []
    read = type(source.images).read
    monkeypatch.setattr(type(source.images), "read", lambda self, i: asked.append(len(i)) or read(self, i))
    write_particles(tmp_path / "b.star", source, block=4)
    assert asked == [4, 4, 3]
    assert isinstance(open_particles(tmp_path / "b.star").table, pd.DataFrame)
