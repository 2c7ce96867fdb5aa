"""Tables that name images: where their stacks are found, and which tables are none."""

import numpy as np
import pandas as pd
import pytest
import starfile
from particle_files import (
    digests,
    mrc,
    one_sentence,
    optics_of,
    some_images,
    star,
)

from cryoem import particles
from cryoem.particles import open_particles


@pytest.fixture
def project_folder(tmp_path):
    """A RELION project: two stacks under Extract/, whose images differ, and a job folder for the table."""
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


def picked_images() -> np.ndarray:
    a, b = some_images(5, 7, seed=1), some_images(3, 7, seed=2)
    return np.stack([b[2], a[4], b[0], a[1]])


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
    assert (file.optics is None) == (suffix == ".xmd")
    np.testing.assert_array_equal(file.read(slice(None)), picked_images())
    np.testing.assert_array_equal(file.read([3, 0, -2]), picked_images()[[3, 0, -2]])
    assert digests(project_folder) == before


def test_the_nearest_folder_wins_and_absolute_names_do(project_folder, monkeypatch):
    near = project_folder / "Select" / "Extract" / "job1"
    near.mkdir(parents=True)
    mrc(near / "a.mrcs", some_images(5, 7, seed=9))
    absolute = f"1@{project_folder / 'Extract' / 'job1' / 'a.mrcs'}"
    star(project_folder / "Select" / "job2" / "p.star", ["1@Extract/job1/a.mrcs", absolute])
    monkeypatch.chdir(project_folder / "Select" / "job2")
    images = open_particles("p.star").read(slice(None))
    np.testing.assert_array_equal(images[0], some_images(5, 7, seed=9)[0])
    np.testing.assert_array_equal(images[1], some_images(5, 7, seed=1)[0])


def test_names_from_the_working_folder_are_found_as_relion_finds_them(
    project_folder, tmp_path_factory, monkeypatch
):
    path = star(tmp_path_factory.mktemp("elsewhere") / "p.star", ["2@Extract/job1/a.mrcs"])
    with pytest.raises(FileNotFoundError, match="nor from the working folder"):
        open_particles(path)
    monkeypatch.chdir(project_folder)
    np.testing.assert_array_equal(open_particles(path).read([0])[0], some_images(5, 7, seed=1)[1])


def test_a_stack_beside_the_table_only_is_taken_with_a_warning(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    path = star(tmp_path / "a.star", ["2@Extract/job1/a.mrcs"])
    message = (
        "a.star names the stack Extract/job1/a.mrcs, which is not there; took the file of that name beside it"
    )
    with pytest.warns(UserWarning, match=message):
        file = open_particles(path)
    np.testing.assert_array_equal(file.read([0])[0], some_images()[1])


def test_a_stack_that_is_not_there(tmp_path):
    path = star(tmp_path / "a.star", ["2@Extract/a.mrcs"])
    with pytest.raises(FileNotFoundError) as error:
        open_particles(path)
    assert one_sentence(error) == (
        f"{path} names the stack Extract/a.mrcs, which is neither in {tmp_path} nor in a folder above "
        "nor from the working folder"
    )


@pytest.mark.parametrize("number", ["000006", "0", "6"])
def test_an_image_that_its_stack_does_not_have(tmp_path, number):
    mrc(tmp_path / "a.mrcs", some_images())
    path = star(tmp_path / "a.star", ["5@a.mrcs", f"{number}@a.mrcs"])
    with pytest.raises(ValueError, match=r"names image") as error:
        open_particles(path)
    assert one_sentence(error) == (
        f"{path} names image {int(number)} of {tmp_path / 'a.mrcs'}, which has images 1 to 5"
    )


def test_images_of_different_sizes(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images(2, 6))
    mrc(tmp_path / "b.mrcs", some_images(2, 7))
    path = star(tmp_path / "a.star", ["1@a.mrcs", "1@b.mrcs"])
    with pytest.raises(ValueError, match=r"a.star must name images of one size, got from 6 to 7 px"):
        open_particles(path)


def test_an_image_without_a_number(tmp_path):
    mrc(tmp_path / "one.mrc", some_images(1))
    mrc(tmp_path / "a.mrcs", some_images(5))
    np.testing.assert_array_equal(
        open_particles(star(tmp_path / "a.star", ["one.mrc"])).read([0]), some_images(1)
    )
    with pytest.raises(ValueError, match=r"must say which of the 5 images of a.mrcs it means, got no number"):
        open_particles(star(tmp_path / "a.star", ["one.mrc", "a.mrcs"]))


def test_a_format_behind_the_name_of_a_stack(tmp_path):
    mrc(tmp_path / "a.mrc", some_images())
    particles.write_xmd(tmp_path / "a.xmd", pd.DataFrame({"image": ["000004@a.mrc:mrcs", "2@a.mrc:mrc"]}))
    np.testing.assert_array_equal(open_particles(tmp_path / "a.xmd").read([0, 1]), some_images()[[3, 1]])


STAR_LOOP = "data_particles\n\nloop_\n_rlnImageName #1\n_rlnOriginX #2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"must have a table with the column _rlnImageName, got no table"),
        (
            "data_\n\nloop_\n_rlnOriginX #1\n1.0\n",
            "must have a table with the column _rlnImageName, got data_",
        ),
        (STAR_LOOP, "names no images: its table is empty"),
        (STAR_LOOP + "\n1@a.mrcs 1 2 3\n", "must have a value for each of the 2 columns .*, got 4 in row 1"),
        (
            STAR_LOOP + "1@a.mrcs 1\n2@a.mrcs 1 2\n",
            "must have a value for each of the 2 columns .* 3 in row 2",
        ),
        ("data_particles\n", "must have something in each of its tables, got nothing in data_particles"),
        (
            "data_a\nloop_\n_rlnImageName\n1@a.mrcs\n\ndata_b\nloop_\n_rlnImageName\n1@a.mrcs\n",
            "data_a, data_b",
        ),
        (
            'data_\nloop_\n_rlnOriginX\n_rlnImageName\n1 1@a.mrcs\n2 ""\n',
            "must name an image in each row.* row 2",
        ),
        ("data_\nloop_\n_rlnImageName\n@a.mrcs\n", "a.star names the stack @a.mrcs"),
    ],
)
def test_a_star_file_that_is_none(tmp_path, text, message):
    mrc(tmp_path / "a.mrcs", some_images())
    path = tmp_path / "a.star"
    path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_particles(path)
    assert one_sentence(error).startswith(str(path))
    star(path, ["1@a.mrcs"])  # mended, it is read anew
    assert len(open_particles(path)) == 1


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.star").write_bytes(bytes(range(128, 256)) * 20)
    with pytest.raises(ValueError, match=r"a.star must be UTF-8 text, got the byte 0x80 in line 1$"):
        open_particles(tmp_path / "a.star")


def test_the_particles_are_taken_of_several_tables(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    table = pd.DataFrame({"rlnImageName": ["4@a.mrcs"]})
    starfile.write({"others": table.replace("4@", "1@", regex=True), "particles": table}, tmp_path / "a.star")
    assert open_particles(tmp_path / "a.star").image_names == ["4@a.mrcs"]


def test_names_that_look_like_numbers_stay_text(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    path = star(tmp_path / "a.star", ["1@a.mrcs"], rlnMicrographName=["0012"], rlnOpticsGroup=[1])
    file = open_particles(path)
    assert file.table["rlnMicrographName"].tolist() == ["0012"]
    assert file.table["rlnOpticsGroup"].tolist() == [1]
