"""Particle files written: whole or not at all, and as other programs read them."""

import re

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from particle_files import (
    FLOAT32,
    PIXEL,
    optics_of,
    some_images,
)

from cryoem import particles
from cryoem.particles import StackWriter, open_particles
from cryoem.particles.tables import read_star


@pytest.mark.parametrize("suffix", [".mrcs", ".mrc"])
@pytest.mark.parametrize("size", [6, 7])
def test_a_stack_comes_back_and_its_header_is_right(tmp_path, size, suffix):
    path = tmp_path / f"a{suffix}"
    images = some_images(11, size) + 1e4
    with StackWriter(path, 11, size, PIXEL) as writer:
        for start in range(0, 11, 4):
            writer.write(images[start : start + 4])
            assert not path.exists()
    assert mrcfile.validate(path)
    with mrcfile.open(path) as stack:
        assert stack.is_image_stack()
        assert (int(stack.header.ispg), int(stack.header.mz), int(stack.header.mode)) == (0, 1, 2)
        assert stack.voxel_size.x == stack.voxel_size.y == pytest.approx(PIXEL)
        np.testing.assert_array_equal(stack.data, images)
        truth = images.astype(np.float64)
        assert float(stack.header.dmin) == images.min()
        assert float(stack.header.dmax) == images.max()
        assert float(stack.header.dmean) == pytest.approx(truth.mean(), rel=FLOAT32)
        assert float(stack.header.rms) == pytest.approx(truth.std(), rel=FLOAT32)
    assert open_particles(path).pixel_size_angstrom == pytest.approx(PIXEL, rel=FLOAT32)
    np.testing.assert_array_equal(open_particles(path).read(slice(None)), images)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_equal_stacks_are_equal_files_however_they_are_cut(tmp_path):
    particles.write_stack(tmp_path / "a.mrcs", some_images(), pixel_size_angstrom=PIXEL)
    particles.write_stack(tmp_path / "b.mrcs", some_images().astype(">f8"), pixel_size_angstrom=PIXEL)
    assert (tmp_path / "a.mrcs").read_bytes() == (tmp_path / "b.mrcs").read_bytes()


def test_one_image_is_a_stack_too(tmp_path):
    particles.write_stack(tmp_path / "a.mrcs", some_images(1), pixel_size_angstrom=PIXEL)
    np.testing.assert_array_equal(open_particles(tmp_path / "a.mrcs").read([0]), some_images(1))


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("failure", ["error", "interrupt", "few", "many", "nan", "size", "shape"])
def test_a_writer_that_fails_leaves_nothing_new(tmp_path, failure, older):
    path = tmp_path / "a.mrcs"
    if older:
        path.write_bytes(b"older")
    nan = np.full((1, 6, 6), np.nan)
    writes, expected, message = {
        "error": ([some_images(3)], RuntimeError, "from outside"),
        "interrupt": ([some_images(3)], KeyboardInterrupt, "^$"),
        "few": ([some_images(3)], ValueError, "a.mrcs must get 5 images, got 3$"),
        "many": (
            [some_images(3), some_images(3)],
            ValueError,
            "images must be 5 in all for .*a.mrcs, got 6$",
        ),
        "nan": ([some_images(4), nan], ValueError, "images must be finite, got 36 non-finite values of 36"),
        "size": ([some_images(5, 7)], ValueError, r"images must be 6 px wide, got \(5, 7, 7\)"),
        "shape": ([some_images()[0]], ValueError, "images must be a non-empty array with 3 axes"),
    }[failure]

    def write_all():
        with StackWriter(path, 5, 6, PIXEL) as writer:
            for images in writes:
                writer.write(images)
            if failure == "error":
                raise RuntimeError("from outside")
            if failure == "interrupt":
                raise KeyboardInterrupt

    with pytest.raises(expected, match=message):
        write_all()
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == (
        {"a.mrcs": b"older"} if older else {}
    )


def test_a_failed_read_inside_the_block_is_not_told_as_a_failed_write(tmp_path):
    def copy():
        with StackWriter(tmp_path / "a.mrcs", 5, 6, PIXEL):
            open_particles(tmp_path / "missing.mrcs")

    with pytest.raises(FileNotFoundError, match=r"no particle file at .*missing.mrcs"):
        copy()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.star", 5, 6, PIXEL), r"path must end in .mrcs or .mrc, got '.*a.star'"),
        (("a.mrcs", 0, 6, PIXEL), "n must be a whole number of at least 1, got 0"),
        (("a.mrcs", 5, 0, PIXEL), "image_size must be a whole number of at least 1, got 0"),
        (("a.mrcs", 5, 70_000, PIXEL), "image_size must be at most 65535, got 70000"),
        (("a.mrcs", 5, 6, 0.0), "pixel_size_angstrom must be a positive number, got 0.0"),
    ],
)
def test_wrong_arguments_of_a_writer(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        StackWriter(tmp_path / arguments[0], *arguments[1:])


def test_a_writer_is_of_use_in_its_block_only(tmp_path):
    writer = StackWriter(tmp_path / "a.mrcs", 5, 6, PIXEL)
    with pytest.raises(ValueError, match=r"the writer of .*a.mrcs must be used inside a with statement"):
        writer.write(some_images())
    with writer:
        writer.write(some_images())
    with pytest.raises(ValueError, match=r"must be used inside a with statement"):
        writer.write(some_images())


@pytest.mark.parametrize("suffix", [".mrcs", ".star", ".xmd"])
def test_nowhere_to_write(tmp_path, suffix):
    table = pd.DataFrame({"rlnImageName": ["1@a.mrcs"], "image": ["1@a.mrcs"], "rlnOpticsGroup": [1]})
    write = {
        ".mrcs": lambda path: particles.write_stack(path, some_images(), pixel_size_angstrom=1.0),
        ".star": lambda path: particles.write_star(path, table, optics=table),
        ".xmd": lambda path: particles.write_xmd(path, table),
    }[suffix]
    with pytest.raises(FileNotFoundError, match=f"no folder .*missing to write a{suffix} into"):
        write(tmp_path / "missing" / f"a{suffix}")
    taken = tmp_path / f"a{suffix}"
    taken.mkdir()
    with pytest.raises(OSError, match=f"^cannot write .*a{suffix}: Is a directory$"):
        write(taken)
    assert [entry.name for entry in tmp_path.iterdir()] == [taken.name]
    assert list(taken.iterdir()) == []


def test_a_star_file_comes_back(tmp_path):
    table = pd.DataFrame(
        {
            "rlnImageName": ["000001@some folder/a.mrcs", "000002@a.mrcs"],
            "rlnAnglePsi": [0.123456789, -179.5],
            "rlnLogLikeliContribution": [2.586789e5, 1.25e-9],
            "rlnClassNumber": [1, 2],
            "rlnUnknown": [np.nan, 1.0],
        }
    )
    optics = pd.DataFrame(optics_of([1, 2]))
    particles.write_star(tmp_path / "a.star", table, optics=optics)
    particles.write_star(tmp_path / "b.star", table, optics=optics)
    assert (tmp_path / "a.star").read_bytes() == (tmp_path / "b.star").read_bytes()
    back = starfile.read(tmp_path / "a.star")
    assert list(back) == ["optics", "particles"]
    pd.testing.assert_frame_equal(back["particles"], table, check_dtype=False, rtol=1e-9)
    pd.testing.assert_frame_equal(back["optics"], optics, check_dtype=False)
    text = (tmp_path / "a.star").read_text()
    assert text.startswith("\n# version 30001\n")
    assert "Created" not in text  # at what time would make equal tables unequal files
    assert re.search(r"^data_optics\n\nloop_\n_rlnOpticsGroup #1\n", text, re.MULTILINE)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.star", "b.star"]


def test_an_xmipp_file_comes_back(tmp_path):
    table = pd.DataFrame(
        {"image": ["000001@some folder/a.stk", "000002@a.stk"], "maxCC": [0.5, 1.25e-9], "flip": 0}
    )
    particles.write_xmd(tmp_path / "a.xmd", table)
    lines = (tmp_path / "a.xmd").read_text().splitlines()
    assert lines[:7] == ["# XMIPP_STAR_1 * ", "# ", "data_noname", "loop_", " _image", " _maxCC", " _flip"]
    assert lines[7].split("\t") == ["'000001@some folder/a.stk'", "0.5", "0"]
    pd.testing.assert_frame_equal(particles.read_xmd(tmp_path / "a.xmd"), table, check_dtype=False, rtol=1e-9)


@pytest.mark.parametrize(
    "name",
    ["a b", "a  b ", "ä", "3@b", "a:b", "a=b", "_a", "$;x", "nan", "007", "a,b", "a\\b", "loop_", "[x]"],
)
def test_image_names_come_back(tmp_path, name):
    name = f"000001@{name}/a.mrc:mrcs"
    table = pd.DataFrame({"rlnImageName": [name], "image": [name], "rlnOpticsGroup": [1]})
    particles.write_star(tmp_path / "a.star", table, optics=table[["rlnOpticsGroup"]])
    particles.write_xmd(tmp_path / "a.xmd", table[["image"]])
    assert list(read_star(tmp_path / "a.star")[0].rlnImageName) == [name]
    assert list(particles.read_xmd(tmp_path / "a.xmd").image) == [name]


@pytest.mark.parametrize("name", ["a#b", "a'b", 'a"b', "a'b c", "a b'", "a\nb", "a\tb", "a\u2028b"])
def test_image_names_that_no_table_holds_are_refused(tmp_path, name):
    name = f"1@{name}"
    table = pd.DataFrame({"rlnImageName": [name], "image": [name], "rlnOpticsGroup": [1]})
    sentence = f"names must be without #, quotes and line breaks, .* got {re.escape(repr(name))}$"
    with pytest.raises(ValueError, match=sentence):
        particles.write_star(tmp_path / "a.star", table, optics=table)
    with pytest.raises(ValueError, match=sentence):
        particles.write_xmd(tmp_path / "a.xmd", table)
    assert list(tmp_path.iterdir()) == []


def test_an_xmipp_file_of_one_row_without_a_loop(tmp_path):
    (tmp_path / "a.xmd").write_text("# XMIPP_STAR_1 * \n# \ndata_noname\n _image 000001@a.stk\n _maxCC 0.5\n")
    table = particles.read_xmd(tmp_path / "a.xmd")
    assert table.to_dict("records") == [{"image": "000001@a.stk", "maxCC": 0.5}]


def test_an_xmipp_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no metadata file at"):
        particles.read_xmd(tmp_path / "a.xmd")
    (tmp_path / "a.xmd").write_text("data_noname\nloop_\n _maxCC\n0.5\n")
    with pytest.raises(ValueError, match=r"a.xmd must have a table with the column _image, got data_noname"):
        particles.read_xmd(tmp_path / "a.xmd")


def test_tables_that_cannot_be_written(tmp_path):
    table, optics = pd.DataFrame({"rlnImageName": ["1@a.mrcs"]}), pd.DataFrame({"rlnOpticsGroup": [1]})
    for write, message in (
        (
            lambda: particles.write_star(tmp_path / "a.txt", table, optics=optics),
            "path must end in .star, got",
        ),
        (lambda: particles.write_xmd(tmp_path / "a.star", table), "path must end in .xmd, got"),
        (
            lambda: particles.write_star(tmp_path / "a.star", optics, optics=optics),
            "table must have a column rlnIm",
        ),
        (
            lambda: particles.write_star(tmp_path / "a.star", table, optics=table),
            "optics must have a column rlnOpt",
        ),
        (
            lambda: particles.write_star(tmp_path / "a.star", table[:0], optics=optics),
            "table must have at least one",
        ),
        (
            lambda: particles.write_xmd(tmp_path / "a.xmd", table),
            "table must have a column image, got rlnImageName",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            write()
    assert list(tmp_path.iterdir()) == []
