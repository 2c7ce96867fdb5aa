"""Whatever bytes a file holds, its reader says what is wrong with it, or reads it; and a bit that is flipped in data
changes nothing else.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damage import arrays as artefacts
from damage import models, mrc, networks, pictures, tables
from damage.case import file_case
from damage.measure import outcomes
from damage.worker import READERS
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cryoem import particles, volumes

SEEDS = {  # file -> its reader, and what it holds where it is whole
    "map.mrc": ("map", mrc.mrc("map")),
    "stack.mrcs": ("particles", mrc.mrc("particles")),
    "job.star": ("particles", tables.STAR_31.text()),
    "older.star": ("particles", tables.STAR_30.text()),
    "job.xmd": ("particles", tables.XMD.text()),
    "job.cs": ("particles", tables.cs(tables.records())),
    "model.cif": ("model", models.mmcif()),
    "model.pdb": ("model", models.pdb()),
    "noise.csv": ("results", pictures.TABLE),
    "a.png": ("picture", pictures.picture("PNG")),
    "a.jpeg": ("picture", pictures.picture("JPEG")),
    "a.tiff": ("picture", pictures.picture("TIFF")),
}


def refused(read: Callable[[], object]) -> tuple[object, str]:
    """What a reader returns, and the text of its ValueError or OSError, empty where there is none."""
    try:
        return read(), ""
    except (ValueError, OSError) as error:
        return None, str(error)


def complaint(file: str, content: bytes) -> str:
    """The error with which a file is refused, which names it; empty where it is read.  Other errors are raised."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder) / file
        if file != tables.STACK:
            (Path(folder) / tables.STACK).write_bytes(SEEDS[tables.STACK][1])
        path.write_bytes(content)
        _, why = refused(lambda: READERS[SEEDS[file][0]](path))
        assert path.read_bytes() == content
    assert not why or file in why
    return why


@st.composite
def edited(draw, content: bytes) -> bytes:
    """A whole file after some edits: bytes replaced, taken out, put in, said twice, or cut off."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(0, 40))
        new = draw(
            st.one_of(
                st.binary(max_size=12),
                st.sampled_from(
                    [b"", b"nan", b"-1", b"9" * 20, b"\n", b"\n\n", b" ", b"'", b'"', b"#", b"loop_\n"]
                ),
                st.sampled_from(
                    [b"data_\n", b"_x\n", b"\xff\xff\xff\x7f", b"\0\0\0\x80", content[at : at + length] * 2]
                ),
            )
        )
        content = content[:at] + new + content[at + length :]
        if draw(st.integers(0, 9)) == 0:
            content = content[:at]
    return content


@pytest.mark.parametrize("file", SEEDS)
@settings(max_examples=40)
@given(content=st.binary(max_size=3000))
def test_arbitrary_bytes_are_an_error_that_names_the_file(file, content):
    complaint(file, content)


@pytest.mark.parametrize("file", SEEDS)
@settings(max_examples=100)
@given(data=st.data())
def test_edited_files_are_read_or_are_an_error_that_names_them(file, data):
    complaint(file, data.draw(edited(SEEDS[file][1])))


@pytest.mark.parametrize("file", SEEDS)
def test_what_is_edited_was_whole(file):
    assert complaint(file, SEEDS[file][1]) == ""


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("encoder", networks.SETTINGS),
        ("encoder", networks.WEIGHTS),
        ("aligner", networks.ALIGNER_SETTINGS),
        ("aligner", networks.REFERENCE),
        ("aligner", networks.ALIGNER_WEIGHTS),
        ("exported", networks.GRAPH),
        ("exported", networks.INDEX),
    ],
)
@settings(max_examples=30)
@given(data=st.data())
def test_any_other_bytes_in_a_network_are_an_error_that_names_them(kind, file, data):
    whole = networks.saved()[kind]
    content = data.draw(st.one_of(st.binary(max_size=2000), edited(whole[file])))
    assume(content != whole[file])
    with tempfile.TemporaryDirectory() as folder:
        networks.written({**whole, file: content}, Path(folder))
        reader, place = (
            ("encoder", Path(folder) / networks.WEIGHTS) if kind == "encoder" else ("aligner", Path(folder))
        )
        _, why = refused(lambda: READERS[reader](place))
    if file in (networks.SETTINGS, networks.ALIGNER_SETTINGS) and not why:
        assert json.loads(content) == json.loads(whole[file])  # other blanks, perhaps
    else:
        assert file in why


@settings(max_examples=100)
@given(data=st.data())
def test_any_other_bytes_in_an_artefact_are_an_error_that_names_it(data):
    content = data.draw(st.one_of(st.binary(max_size=2000), edited(artefacts.artefact())))
    assume(content != artefacts.artefact())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / artefacts.FILE
        path.write_bytes(content)
        _, why = refused(lambda: READERS["arrays"](path))
    assert artefacts.FILE in why


# --- one bit

HEADER_BITS = (
    *range(8 * 224),
    *range(8 * 224, 8 * mrc.HEADER_BYTES, 61),
)  # all fields, and some of the labels


@pytest.mark.parametrize("order", "<>")
def test_a_bit_of_a_map_s_header_is_an_error_or_changes_no_voxel(tmp_path, order):
    content, path = mrc.mrc("map", order=order), tmp_path / "map.mrc"
    expected = mrc.pixels(order=order).astype(np.float32)
    outcome = {"error": 0, "read": 0}
    for bit in HEADER_BITS:
        path.write_bytes(mrc.with_flipped_bit(content, bit // 8, bit % 8))
        with warnings.catch_warnings(action="ignore"):
            found, why = refused(lambda: volumes.read_map(path))
        outcome["error" if why else "read"] += 1
        if why:
            assert "map.mrc" in why
            continue
        np.testing.assert_array_equal(found.data, expected, err_msg=f"bit {bit}")
        assert found.voxel_size_angstrom == pytest.approx(mrc.VOXEL, rel=1e-3), bit
    assert outcome["error"] > 200
    assert outcome["read"] > 1000  # statistics, labels and what no program reads


@pytest.mark.parametrize("order", "<>")
def test_a_bit_of_a_stack_s_header_is_an_error_or_a_warning_or_changes_no_pixel(tmp_path, order):
    content, path = mrc.mrc("particles", order=order), tmp_path / "stack.mrcs"
    expected = mrc.pixels(order=order).astype(np.float32)
    outcome = {"error": 0, "warned": 0, "read": 0}
    for bit in HEADER_BITS:
        path.write_bytes(mrc.with_flipped_bit(content, bit // 8, bit % 8))
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            found, why = refused(lambda: particles.open_particles(path).read(slice(None)))
        if why:
            assert "stack.mrcs" in why
            outcome["error"] += 1
            continue
        assert all("stack.mrcs" in str(one.message) for one in heard)
        outcome["warned" if heard else "read"] += 1
        if not heard:
            np.testing.assert_array_equal(found, expected, err_msg=f"bit {bit}")
    assert outcome["error"] > 150
    assert outcome["warned"] >= 24  # the letters of MAP
    assert outcome["read"] > 1000


@settings(max_examples=200)
@given(
    mode=st.sampled_from(sorted(mrc.DTYPES)),
    order=st.sampled_from("<>"),
    reader=st.sampled_from(["map", "particles"]),
    share=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_a_bit_of_a_pixel_is_an_error_or_changes_that_pixel_alone(mode, order, reader, share, bit):
    content = mrc.mrc(reader, mode=mode, order=order)
    n_bytes = len(content) - mrc.HEADER_BYTES
    byte = int(share * n_bytes)
    file = "map.mrc" if reader == "map" else "stack.mrcs"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(mrc.with_flipped_bit(content, mrc.HEADER_BYTES + byte, bit))
        if reader == "map":
            found, why = refused(lambda: volumes.read_map(path).data)
        else:
            found, why = refused(lambda: particles.open_particles(path).read(slice(None)))
    if why:
        assert mode in (2, 12)
        assert file in why
        assert "finite" in why
        return
    expected = mrc.pixels(mode=mode, order=order).astype(np.float32)
    changed = np.flatnonzero(found.ravel() != expected.ravel())
    assert changed.tolist() == [byte * expected.size // n_bytes]


@pytest.mark.skipif(
    sys.platform != "linux", reason="a library in C may die of it: read in another process, by forks"
)
def test_a_bit_of_an_artefact_is_an_error(tmp_path):
    content = artefacts.artefact()
    bytes_ = np.random.default_rng(0).choice(len(content), 600, replace=False)
    cases = [
        file_case(
            f"byte {byte}",
            "arrays",
            "bit flip",
            artefacts.FILE,
            mrc.with_flipped_bit(content, byte, byte % 8),
            "",
        )
        for byte in sorted(bytes_.tolist())
    ]
    whole = next(artefacts.whole())
    found = outcomes([whole, *cases], tmp_path)
    assert not found[str(whole)].error
    for case in cases:  # a checksum finds any bit, and finds it before HDF5 does, which some make crash
        outcome = found[str(case)]
        assert "ValueError" in outcome.error, f"{case}: {outcome}"
        assert artefacts.FILE in outcome.text, f"{case}: {outcome}"


def test_families_have_seeds_of_their_own():
    """Each kind of file that is read is edited here or, where a checksum finds any edit, damaged in the corpus."""
    edited_here = {reader for reader, _ in SEEDS.values()} | {"arrays", "misbehaving"}
    signed = {case.reader for case in importlib.import_module(networks.__name__).whole()}
    assert edited_here | signed == set(READERS)
