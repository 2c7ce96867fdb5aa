"""Particle tables: locating their stacks, text that must not be misread, and writing."""

import os
import re

import numpy as np
import pandas as pd
import pytest
import starfile
from particle_files import cs, digests, mrc, one_sentence, optics_of, some_images, star

from cryoem import particles
from cryoem.particles.opening import open_particles
from cryoem.particles.star import read_star, read_xmd

# --- where stacks are found


@pytest.fixture
def project_folder(tmp_path):
    """A RELION project: two different stacks under Extract/, and a job folder for the table."""
    (tmp_path / "Extract" / "job1").mkdir(parents=True)
    (tmp_path / "Select" / "job2").mkdir(parents=True)
    mrc(tmp_path / "Extract" / "job1" / "a.mrcs", some_images(5, 7, seed=1))
    mrc(tmp_path / "Extract" / "job1" / "b.mrcs", some_images(3, 7, seed=2).astype(">f4"))
    return tmp_path


PICKED = [
    "000003@Extract/job1/b.mrcs",
    "5@Extract/job1/a.mrcs",
    "000001@Extract/job1/b.mrcs",
    "2@Extract/job1/a.mrcs",
]


@pytest.mark.parametrize("suffix", [".star", ".xmd"])
def test_images_of_several_stacks_in_any_order(project_folder, suffix):
    path = project_folder / "Select" / "job2" / f"particles{suffix}"
    column = "rlnImageName" if suffix == ".star" else "image"
    table = pd.DataFrame({column: PICKED, "extra": [0.5, 1.5, 2.5, 3.5]})
    if suffix == ".star":
        particles.write_star(path, table, optics=pd.DataFrame(optics_of([1])))
    else:
        particles.write_xmd(path, table)
    before = digests(project_folder)
    file = open_particles(path)
    assert file.image_names == PICKED
    assert list(file.table["extra"]) == [0.5, 1.5, 2.5, 3.5]
    assert (file.optics_groups is None) == (suffix == ".xmd")
    a, b = some_images(5, 7, seed=1), some_images(3, 7, seed=2)
    picked = np.stack([b[2], a[4], b[0], a[1]])
    np.testing.assert_array_equal(file, picked)
    np.testing.assert_array_equal(file[[3, 0, -2]], picked[[3, 0, -2]])
    assert [stack.path.name for stack in file[[1, 3]].images.stacks] == ["a.mrcs"]
    assert digests(project_folder) == before


def test_names_relative_to_the_working_folder_are_found(project_folder, tmp_path_factory, monkeypatch):
    path = star(tmp_path_factory.mktemp("elsewhere") / "p.star", ["2@Extract/job1/a.mrcs"])
    with pytest.raises(FileNotFoundError) as error:
        open_particles(path)
    assert one_sentence(error) == (
        f"{path} refers to the stack Extract/job1/a.mrcs, which was not found in "
        f"{path.parent}, the folders above it or the working folder"
    )
    monkeypatch.chdir(project_folder)
    np.testing.assert_array_equal(np.asarray(open_particles(path))[0], some_images(5, 7, seed=1)[1])


def test_a_stack_under_its_bare_name_is_used_with_a_warning(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    path = star(tmp_path / "a.star", ["2@Extract/job1/a.mrcs"])
    message = "a.star refers to the stack Extract/job1/a.mrcs, which was not found; using the file with the same name"
    with pytest.warns(UserWarning, match=message):
        file = open_particles(path)
    np.testing.assert_array_equal(file, some_images()[1:2])


@pytest.mark.parametrize("kind", ["star", "cs"])
def test_datadir_comes_first(tmp_path, kind):
    for folder, seed in (("project/Extract", 1), ("jobs/Extract", 2)):
        (tmp_path / folder).mkdir(parents=True)
        mrc(tmp_path / folder / "a.mrcs", some_images(seed=seed))
    path = tmp_path / "jobs" / f"p.{kind}"
    if kind == "star":
        star(path, ["1@Extract/a.mrcs"])
    else:
        cs(path, 1, blob__path=[b">Extract/a.mrcs"])
    # Otherwise the nearest folder is used.
    for datadir, seed in ((None, 2), (tmp_path / "project", 1), (str(tmp_path), 2)):
        np.testing.assert_array_equal(open_particles(path, datadir=datadir), some_images(seed=seed)[:1])
    with pytest.raises(FileNotFoundError, match=r"^datadir must be a folder, got .*missing$"):
        open_particles(path, datadir=tmp_path / "missing")
    with pytest.raises(
        ValueError, match=r"so the folder of the stacks, .* \(--datadir\), does not apply; omit it$"
    ):
        open_particles(tmp_path / "jobs" / "Extract" / "a.mrcs", datadir=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"which was not found in .*project, .* or the working folder$"
    ):
        open_particles(star(tmp_path / "b.star", ["1@b.mrcs"]), datadir=tmp_path / "project")


def test_a_link_to_a_table_is_searched_from_its_target(project_folder, tmp_path_factory):
    star(project_folder / "Select" / "job2" / "p.star", ["2@Extract/job1/a.mrcs"])
    link = tmp_path_factory.mktemp("elsewhere") / "link.star"
    link.symlink_to(project_folder / "Select" / "job2" / "p.star")
    np.testing.assert_array_equal(open_particles(link), some_images(5, 7, seed=1)[1:2])
    (project_folder / "Extract" / "job1" / "a.mrcs").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"not found in .*elsewhere.*, .*job2, the folders above them or"
    ):
        open_particles(link)


@pytest.mark.parametrize(
    "stack", ["Extract/job1/a.mrcs", "/old/project/Extract/job1/a.mrcs", "J1/Extract/job1/a.mrcs"]
)
@pytest.mark.parametrize("datadir", ["", "Extract", "Extract/job1"])
def test_datadir_may_be_any_folder_above_the_stacks(
    stack, datadir, project_folder, tmp_path_factory, recwarn
):
    path = star(tmp_path_factory.mktemp("elsewhere") / "p.star", [f"2@{stack}"])
    file = open_particles(path, datadir=project_folder / datadir)
    np.testing.assert_array_equal(file, some_images(5, 7, seed=1)[1:2])
    assert not recwarn


def test_two_stacks_are_never_taken_from_one_file(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    path = star(tmp_path / "p.star", ["1@job1/a.mrcs", "1@job2/a.mrcs"])
    for datadir in (None, tmp_path):
        with pytest.raises(
            ValueError, match=r"the stacks job1/a.mrcs and job2/a.mrcs, but only .*/a.mrcs was"
        ) as error:
            open_particles(path, datadir=datadir)
        one_sentence(error)


def test_names_that_do_not_lead_to_one_image(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    mrc(tmp_path / "b.mrcs", some_images(2, 7))
    mrc(tmp_path / "one.mrc", some_images(1))
    np.testing.assert_array_equal(open_particles(star(tmp_path / "a.star", ["one.mrc"])), some_images(1))
    formats = ["000004@a.mrcs:mrcs", f"2@{tmp_path}/a.mrcs:mrc"]  # as XMIPP appends them
    np.testing.assert_array_equal(open_particles(star(tmp_path / "a.star", formats)), some_images()[[3, 1]])
    for names, message in (
        (["5@a.mrcs", "000006@a.mrcs"], f"refers to image 6 of {tmp_path}/a.mrcs, but .* numbered 1 to 5"),
        (["1@a.mrcs", "1@b.mrcs"], "all images must have the same size, got 6 to 7 px"),
        (["one.mrc", "a.mrcs"], "refers to a.mrcs without an image number, but the stack has 5 images"),
        ([f"1@{'x' * 5000}"], r"must have the form number@stack, got '1@xxx.*x \(5002 characters\)"),
        (["1@" + "x" * 3000], "refers to the stack xxx.*x, which was not found"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            open_particles(star(tmp_path / "a.star", names))
        assert one_sentence(error).startswith(str(tmp_path / "a.star"))


# --- text that starfile misreads


LOOP = "data_particles\n\nloop_\n_rlnImageName #1\n_rlnDefocusU #2\n_rlnMicrographName #3\n"


@pytest.fixture
def file(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    return tmp_path / "a.star"


@pytest.mark.parametrize(
    "text",
    [
        LOOP.replace("_rlnDefocusU", "# a comment\n\n_rlnDefocusU") + "# another\n\n1@a.mrcs 1 m\n",
        "data_optics\n\n" + LOOP + "1@a.mrcs 1 m # a comment\n\ndata_empty\n",
        "data_general\n\nloop_\n\n" + LOOP + "\n\n1@a.mrcs 1 m\n",
        "data_\n\n# no loop\n_rlnImageName 1@a.mrcs # why\n\n_rlnDefocusU 1\n_rlnMicrographName 'm'\n",
    ],
)
def test_comments_blank_lines_and_empty_blocks_are_as_in_relion(file, text):
    file.write_text(text, newline="")
    table = open_particles(file).table
    assert table.to_dict("records") == [
        {"rlnImageName": "1@a.mrcs", "rlnDefocusU": 1, "rlnMicrographName": "m"}
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            LOOP + "1@a.mrcs 1 m\n2@a.mrcs 2\n",
            "row of data_particles must have a value for each .*, got 2 in row 2",
        ),
        (LOOP + "1@a.mrcs 1 # m\n", "must have a value for each of the 3 columns, got 2 in row 1"),
        (LOOP + "1@a#1.mrcs 1 m\n", "values must not contain quotes or #, got '1@a#1.mrcs 1 m' in row 1"),
        (LOOP + "1@a.mrcs 1 o'neill\n", "values must not contain quotes or #"),
        (LOOP + "data_x 1 m\n", "rows must not begin with data_, but row 1 of data_particles does"),
        (
            "data_\n_rlnImageName 1@a.mrcs\n_rlnImageName 2@a.mrcs\n",
            "data_ has more than one column _rlnImageName",
        ),
        ("data_\n_rlnImageName\n", "_rlnImageName in data_ must have exactly one value, got '_rlnImageName'"),
        (LOOP + "1@a.mrcs 1 m\n" + LOOP, "has more than one table with the name data_particles"),
        (LOOP + "1@a.mrcs\r1 m\n", "is not a text file: line 7 is too long or contains control characters"),
        ("", "has no table with the column _rlnImageName; its tables are: none"),
        ("data_\n\nloop_\n_rlnOriginX #1\n1.0\n", "has no table with the .*; its tables are: data_"),
        (LOOP, "contains no images: its table is empty"),
        (LOOP.replace("\n_", "\n"), "labels of data_particles must begin with _, got 'rlnImageName"),
        ("data_a\n_rlnImageName 1@a\n\ndata_b\n_rlnImageName 1@a\n", "one table .*, got data_a, data_b"),
        (LOOP + '1@a.mrcs 1 m\n"" 1 m\n', "has no image name in row 2"),
        ("data_\nloop_\n_rlnImageName\n@a.mrcs\n", "a.star refers to the stack @a.mrcs"),
    ],
)
def test_text_that_is_not_a_table_of_images(file, text, message):
    file.write_text(text, newline="")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_particles(file)
    assert one_sentence(error).startswith(str(file))


def test_other_text_is_read_as_it_is_written(file):
    file.write_text(
        "\ufeff# version 30001\r\ndata_general\r\n_rlnFinalResolution 3.2\r\n\r\n" + LOOP + "\n"
        '1@a.mrcs 1 "m # 1" # a remark\n'
        "# a remark\n\n"
        "2@a.mrcs\t2\t'm 2'\n"
        "3@a.mrcs   3   m\u00a03 \n"
        '4@a.mrcs 4 ""\n5@a.mrcs 5 0012\n',
        encoding="utf-8",
        newline="",
    )
    expected = {
        "rlnImageName": [f"{number}@a.mrcs" for number in range(1, 6)],
        "rlnDefocusU": [1, 2, 3, 4, 5],
        "rlnMicrographName": ["m # 1", "m 2", "m\u00a03", "", "0012"],
    }
    pd.testing.assert_frame_equal(read_star(file)[0], pd.DataFrame(expected), check_dtype=False)


def test_one_table_is_preferred_and_one_row_needs_no_loop(file, tmp_path):
    table = pd.DataFrame({"rlnImageName": ["4@a.mrcs"]})
    starfile.write({"others": table.replace("4@", "1@", regex=True), "particles": table}, file)
    assert open_particles(file).image_names == ["4@a.mrcs"]
    (tmp_path / "a.xmd").write_text("# XMIPP_STAR_1 * \n# \ndata_noname\n _image 000001@a.stk\n _maxCC 0.5\n")
    assert read_xmd(tmp_path / "a.xmd").to_dict("records") == [{"image": "000001@a.stk", "maxCC": 0.5}]


def test_disabled_images_of_xmipp_are_left_out(tmp_path):
    table = pd.DataFrame({"image": ["1@a.stk", "2@a.stk", "3@a.stk"], "enabled": [1, -1, 1]})
    particles.write_xmd(tmp_path / "a.xmd", table)
    assert read_xmd(tmp_path / "a.xmd")["image"].tolist() == ["1@a.stk", "3@a.stk"]
    particles.write_xmd(tmp_path / "a.xmd", table.assign(enabled=-1))
    with pytest.raises(
        ValueError, match=r"a.xmd has no enabled images: all 3 rows are disabled \(enabled -1\)$"
    ):
        read_xmd(tmp_path / "a.xmd")


@pytest.mark.parametrize("value", ["1,5", "nan", "much"])
def test_a_value_that_is_not_a_number_is_named_when_it_is_needed(file, value):
    labels = "_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
    file.write_text(LOOP + labels + f"1@a.mrcs 1.5 m 300 2.7 0.1\n2@a.mrcs {value} m 300 2.7 0.1\n")
    opened = open_particles(file)
    assert np.asarray(opened).shape == (2, 6, 6)
    with pytest.raises(
        ValueError, match=r"a.star: the column rlnDefocusU must contain finite numbers"
    ) as error:
        _ = opened.defocus_angstrom
    assert one_sentence(error).endswith(f"must contain finite numbers, got {value} in row 2")


def test_a_corrected_file_is_read_again(file):
    """The cache of starfile's reader has no effect, even if length and time are the same."""
    text = LOOP + "1@a.mrcs 1 m\n2@b.mrcs 2 m\n"
    file.write_text(text)
    stamp = file.stat().st_mtime_ns
    with pytest.raises(FileNotFoundError, match=r"b.mrcs"):
        open_particles(file)
    file.write_text(text.replace("2@b", "2@a"))
    os.utime(file, ns=(stamp, stamp))
    assert open_particles(file).image_names == ["1@a.mrcs", "2@a.mrcs"]


def test_folders_and_files_without_lines(tmp_path):
    with pytest.raises(OSError, match=r"^cannot read .*: Is a directory$"):
        read_star(tmp_path)
    with open(tmp_path / "a.xmd", "wb") as stream:
        stream.truncate(10**8)  # sparse
    with pytest.raises(ValueError, match=r"a.xmd is not a text file: line 1 is too long"):
        read_xmd(tmp_path / "a.xmd")


# --- writing


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
    for name in ("a.star", "b.star"):
        particles.write_star(tmp_path / name, table, optics=optics)
    assert (tmp_path / "a.star").read_bytes() == (tmp_path / "b.star").read_bytes()
    back = starfile.read(tmp_path / "a.star")
    assert list(back) == ["optics", "particles"]
    pd.testing.assert_frame_equal(back["particles"], table, check_dtype=False, rtol=1e-9)
    pd.testing.assert_frame_equal(back["optics"], optics, check_dtype=False)
    text = (tmp_path / "a.star").read_text()
    assert text.startswith("\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n")


def test_an_xmipp_file_looks_like_xmipps(tmp_path):
    table = pd.DataFrame({"image": ["000001@some folder/a.stk"], "maxCC": [1.25e-9], "flip": 0})
    particles.write_xmd(tmp_path / "a.xmd", table)
    text = "# XMIPP_STAR_1 * \n# \ndata_noname\nloop_\n _image\n _maxCC\n _flip\n"
    assert (tmp_path / "a.xmd").read_text() == text + "'000001@some folder/a.stk'\t1.25e-09\t0\n"


def test_every_name_comes_back_or_is_refused(tmp_path):
    def write(name):
        table = pd.DataFrame({"rlnImageName": [name], "image": [name], "rlnOpticsGroup": [1]})
        particles.write_star(tmp_path / "a.star", table, optics=table[["rlnOpticsGroup"]])
        particles.write_xmd(tmp_path / "a.xmd", table[["image"]])

    for part in ("a b", "a  b ", "ä", "3@b", "a:b", "_a", "$;x", "nan", "007", "a,b", "a\\b", "loop_", "[x]"):
        name = f"000001@{part}/a.mrc:mrcs"
        write(name)
        assert list(read_star(tmp_path / "a.star")[0].rlnImageName) == [name]
        assert list(read_xmd(tmp_path / "a.xmd").image) == [name]
    for name in ("a#b", "a'b", 'a"b', "a'b c", "a\nb", "a\tb", "a\u2028b"):
        sentence = f"names must not contain #, quotes or line breaks, .* got {re.escape(repr(name))}$"
        with pytest.raises(ValueError, match=sentence):
            write(name)


def test_tables_that_cannot_be_written(tmp_path):
    table, optics = pd.DataFrame({"rlnImageName": ["1@a.mrcs"]}), pd.DataFrame({"rlnOpticsGroup": [1]})
    for name, content, groups, message in (
        ("a.txt", table, optics, "path must end in .star, got"),
        ("a.star", optics, optics, "table must have a column rlnIm"),
        ("a.star", table, table, "optics must have a column rlnOpt"),
        ("a.star", table[:0], optics, "table must have at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            particles.write_star(tmp_path / name, content, optics=groups)
    for name, message in (("a.star", "path must end in .xmd"), ("a.xmd", "table must have a column image")):
        with pytest.raises(ValueError, match=message):
            particles.write_xmd(tmp_path / name, table)
    assert list(tmp_path.iterdir()) == []
