"""What starfile forgives and nobody should: each is one sentence that names the file and the row."""

import os

import pandas as pd
import pytest
from particle_files import mrc, one_sentence, some_images

from cryoem.particles import open_particles, read_xmd
from cryoem.particles.star_text import LONGEST_LINE, check_star_text
from cryoem.particles.tables import read_star

LOOP = "data_particles\n\nloop_\n_rlnImageName #1\n_rlnDefocusU #2\n_rlnMicrographName #3\n"


@pytest.fixture
def file(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    return tmp_path / "a.star"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1@a.mrcs 1 m\n2@a.mrcs 2\n", "must have a value for each of the 3 columns .*, got 2 in row 2"),
        ("1@a.mrcs 1 m\n2@a.mrcs 2 m 7\n", "must have a value for each of the 3 columns .*, got 4 in row 2"),
        ("1@a.mrcs 1 # m\n", "must have a value for each of the 3 columns .*, got 2 in row 1"),
        ("1@a#1.mrcs 1 m\n", "must have no quote and no # inside a value, got '1@a#1.mrcs 1 m' in row 1"),
        ("1@a.mrcs 1 m#2\n", "must have no quote and no # inside a value"),
        ("1@a.mrcs 1 o'neill\n", "must have no quote and no # inside a value"),
        ('1@a.mrcs 1 "m\n', "must have no quote and no # inside a value"),
        ('1@a.mrcs 1 "m"n\n', "must have no quote and no # inside a value"),
        ("data_x 1 m\n", "must not have a row that begins with data_, got row 1 of data_particles"),
    ],
)
def test_rows_that_starfile_would_mend(file, rows, message):
    file.write_text(LOOP + rows)
    with pytest.raises(ValueError, match=message) as error:
        open_particles(file)
    assert one_sentence(error).startswith(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            LOOP.replace("_rlnDefocusU", "_rlnImageName"),
            "must have columns of different names .* _rlnImageName",
        ),
        ("data_\n_rlnImageName 1@a.mrcs\n_rlnImageName 2@a.mrcs\n", "must have columns of different names"),
        ("data_\n_rlnImageName\n", "must have one value of _rlnImageName in data_, got '_rlnImageName'"),
        ("data_\n_rlnImageName 1@a.mrcs 2@a.mrcs\n", "must have one value of _rlnImageName in data_"),
        (LOOP + "1@a.mrcs 1 m\n" + LOOP, "must have tables of different names, got two data_particles"),
        ("data_optics\n\n" + LOOP + "1@a.mrcs 1 m\n", "must have something in each .*nothing in data_optics"),
        (LOOP + "1@a.mrcs\r1 m\n", "must be a text file with lines of values, got something else in line 7"),
        (LOOP + "1@a.mrcs \0 m\n", "must be a text file"),
        (LOOP + "1@a.mrcs" + " " * LONGEST_LINE + "1 m\n", "must be a text file"),
    ],
)
def test_tables_that_starfile_would_mend(file, text, message):
    file.write_text(text, newline="")
    with pytest.raises(ValueError, match=message) as error:
        open_particles(file)
    assert one_sentence(error).startswith(str(file))


def test_a_file_of_any_length_without_lines_is_refused_at_once(tmp_path):
    with open(tmp_path / "a.xmd", "wb") as stream:
        try:
            stream.truncate(10**10)
        except OSError:
            pytest.skip("the file system has no sparse files of this length")
    with pytest.raises(ValueError, match=r"a.xmd must be a text file with lines of values"):
        read_xmd(tmp_path / "a.xmd")


def test_what_starfile_reads_rightly_is_let_through(file):
    file.write_text(
        "\ufeff# version 30001\r\ndata_general\r\n_rlnFinalResolution 3.2\r\n\r\n" + LOOP + "\n"
        '1@a.mrcs 1 "m # 1" # a remark\n'
        "# a remark\n\n"
        "2@a.mrcs\t2\t'm 2'\n"
        "3@a.mrcs   3   m\u00a03 \n"
        '4@a.mrcs 4 ""\n',
        encoding="utf-8",
        newline="",
    )
    table = read_star(file)[0]
    expected = {
        "rlnImageName": [f"{number}@a.mrcs" for number in range(1, 5)],
        "rlnDefocusU": [1, 2, 3, 4],
        "rlnMicrographName": ["m # 1", "m 2", "m\u00a03", ""],
    }
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected), check_dtype=False)


@pytest.mark.parametrize("value", ["1,5", "nan", "inf", "much", "-"])
def test_a_number_that_is_none_is_named_where_it_is_needed(file, value):
    """One such value makes starfile's whole column text; as long as nobody asks for it, it does no harm."""
    constants = ["rlnVoltage 300", "rlnSphericalAberration 2.7", "rlnAmplitudeContrast 0.1"]
    labels = "".join(f"_{name}\n" for name in (constant.split()[0] for constant in constants))
    values = " ".join(constant.split()[1] for constant in constants)
    file.write_text(LOOP + labels + f"1@a.mrcs 1.5 m {values}\n2@a.mrcs {value} m {values}\n")
    particles = open_particles(file)
    assert particles.read([1]).shape == (1, 6, 6)
    with pytest.raises(ValueError, match=r"a.star must have finite numbers") as error:
        _ = particles.defocus_angstrom
    assert one_sentence(error).endswith(f"in the column rlnDefocusU, got {value} in row 2")


def test_a_file_that_was_mended_is_read_anew(file):
    """As long as before and of the same time: what was wrong of it is not remembered."""
    text = LOOP + "1@a.mrcs 1 m\n2@b.mrcs 2 m\n"
    file.write_text(text)
    stamp = file.stat().st_mtime_ns
    with pytest.raises(FileNotFoundError, match=r"b.mrcs"):
        open_particles(file)
    file.write_text(text.replace("2@b", "2@a"))
    os.utime(file, ns=(stamp, stamp))
    assert open_particles(file).image_names == ["1@a.mrcs", "2@a.mrcs"]


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(OSError, match=r"^cannot read .*: Is a directory$"):
        check_star_text(tmp_path)
