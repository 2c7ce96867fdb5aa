"""Particle files: what other programs wrote is read, what is written they can read, each error is a sentence."""

import hashlib
import re
import shutil
import subprocess
import sys

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from cryoem import imaging, particles
from cryoem.particles import StackWriter, open_particles, relion_tables, xmipp_table
from cryoem.particles.tables import read_star
from cryoem.projectors import project
from cryoem.rotations import from_relion_euler_deg

PIXEL = 1.5
FLOAT32 = 1e-6  # relative


def some_images(n=5, size=6, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, (n, size, size)).astype(np.float32)


def mrc(path, images, *, pixel=PIXEL, **fields):
    """A stack that mrcfile writes, some fields of its header then set as they are given."""
    with mrcfile.new(path, overwrite=True) as stack:
        stack.set_data(images)
        stack.set_image_stack()
        stack.voxel_size = pixel
        for name, value in fields.items():
            stack.header[name] = value
    return path


def star(path, names, *, optics=None, block="particles", **columns):
    table = pd.DataFrame({"rlnImageName": names, **columns})
    blocks = {} if optics is None else {"optics": pd.DataFrame(optics)}
    starfile.write({**blocks, block: table}, path)
    return path


def digests(folder) -> dict:
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert not text.endswith(".")
    return text


# --- stacks


@pytest.mark.parametrize("suffix", [".mrc", ".mrcs", ".MRCS"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
@pytest.mark.parametrize("size", [6, 7])
def test_every_mode_and_byte_order(tmp_path, dtype, order, size, suffix):
    images = (some_images(4, size) * 10).round().clip(0, 100).astype(np.dtype(dtype).newbyteorder(order))
    file = open_particles(mrc(tmp_path / f"a{suffix}", images))
    assert (len(file), file.image_size, file.table, file.optics) == (4, size, None, None)
    assert file.pixel_size_angstrom == pytest.approx(PIXEL, rel=FLOAT32)
    assert file.read(slice(None)).dtype == np.float32
    assert file.read(slice(None)).dtype.isnative
    np.testing.assert_array_equal(file.read(slice(None)), images.astype(np.float32))
    assert file.image_names[3] == f"000004@{tmp_path / f'a{suffix}'}"


def test_any_selection_in_any_order(tmp_path):
    images = some_images(9)
    file = open_particles(mrc(tmp_path / "a.mrcs", images))
    selections = [slice(2, 7, 3), slice(None, None, -1), [4], [8, 0, 0, 3], np.array([-1, 2]), slice(9, 20)]
    for selection in selections:
        np.testing.assert_array_equal(file.read(selection), images[selection])
    assert file.read([]).shape == (0, 6, 6)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
def test_blocks_give_every_image_once(tmp_path, size):
    images = some_images(5)
    starts, blocks = zip(*open_particles(mrc(tmp_path / "a.mrcs", images)).blocks(size), strict=True)
    assert starts == tuple(range(0, 5, size))
    assert all(len(block) == size for block in blocks[:-1])
    np.testing.assert_array_equal(np.concatenate(blocks), images)


def test_only_the_images_asked_for_are_read(tmp_path):
    """The file is sparse and larger than any memory: reading it whole could not end."""
    path = mrc(tmp_path / "a.mrcs", some_images(2, 1000))
    with open(path, "r+b") as stream:
        stream.seek(8)
        stream.write(np.int32(200_000).tobytes())  # NZ: 800 GB
        try:
            stream.truncate(1024 + 200_000 * 4_000_000)
        except OSError:
            pytest.skip("the file system has no sparse files of this length")
    file = open_particles(path)
    np.testing.assert_array_equal(file.read([1, 199_999])[0], some_images(2, 1000)[1])
    assert next(file.blocks(2))[1].shape == (2, 1000, 1000)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([5], "indices must be those of 5 images, got 5"),
        ([0, -6], "indices must be those of 5 images, got -6"),
        (3, r"indices must be a slice or a one-dimensional array of integers, got int64 of shape \(\)"),
        ([0.0], r"indices must be a slice or .*, got float64 of shape \(1,\)"),
        ([True, False], r"indices must be a slice or .*, got bool of shape \(2,\)"),
        ([[0]], r"indices must be a slice or .*, got int64 of shape \(1, 1\)"),
    ],
)
def test_wrong_indices(tmp_path, indices, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        open_particles(mrc(tmp_path / "a.mrcs", some_images())).read(indices)


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_a_block_of_no_size_is_refused_at_once(tmp_path, size):
    file = open_particles(mrc(tmp_path / "a.mrcs", some_images()))
    with pytest.raises(ValueError, match=r"size must be a whole number of at least 1, got"):
        file.blocks(size)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_not_finite_is_found_where_it_is_read(tmp_path, value):
    with open(mrc(tmp_path / "a.mrcs", some_images()), "r+b") as stream:
        stream.seek(1024 + 4 * np.ravel_multi_index((3, 5, 0), (5, 6, 6)))
        stream.write(np.float32(value).tobytes())
    file = open_particles(star(tmp_path / "a.star", ["2@a.mrcs", "4@a.mrcs", "1@a.mrcs"]))
    assert file.read([0, 2]).shape == (2, 6, 6)
    with pytest.raises(ValueError, match=r"finite") as error:
        file.read([2, 1, 0])
    assert (
        one_sentence(error)
        == f"{tmp_path / 'a.mrcs'} must hold finite pixels, got NaN or infinity in image 4"
    )


@pytest.mark.parametrize(
    "fields",
    [{"ispg": 1}, {"ispg": 1, "mz": 5}, {"ispg": 401, "mz": 1}, {"mapc": 0, "mapr": 0, "maps": 0}, {"mz": 0}],
    ids=str,
)
def test_the_flags_of_the_header_are_not_trusted(tmp_path, fields):
    path = mrc(tmp_path / "a.mrc", some_images(), **fields)
    np.testing.assert_array_equal(open_particles(path).read(slice(None)), some_images())


def test_an_extended_header_is_skipped(tmp_path):
    with mrcfile.new(tmp_path / "a.mrcs") as stack:
        stack.set_data(some_images())
        stack.set_extended_header(np.arange(40, dtype=np.int32))
        stack.voxel_size = PIXEL
    np.testing.assert_array_equal(open_particles(tmp_path / "a.mrcs").read([4]), some_images()[4:])


def test_a_single_image_is_a_stack_of_one(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as image:
        image.set_data(some_images()[0])
        image.voxel_size = PIXEL
    np.testing.assert_array_equal(open_particles(tmp_path / "a.mrc").read([0])[0], some_images()[0])


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_header_without_identifier_is_read_with_a_warning(tmp_path, order):
    path = mrc(tmp_path / "a.mrcs", some_images().astype(f"{order}f4"), map=b"", machst=0)
    with pytest.warns(UserWarning, match=r"a.mrcs lacks the MAP identifier in its header; read as a stack"):
        file = open_particles(path)
    np.testing.assert_array_equal(file.read(slice(None)), some_images())


def test_what_follows_the_last_image_is_told(tmp_path):
    path = mrc(tmp_path / "a.mrcs", some_images())
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.warns(UserWarning, match=r"a.mrcs is longer than its header says; the rest is not read"):
        assert len(open_particles(path)) == 5


def test_a_density_map_is_told_from_a_stack(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as volume:
        volume.set_data(some_images(6, 6))
        volume.set_volume()
        volume.voxel_size = PIXEL
    with pytest.warns(UserWarning, match=r"a.mrc may be a density map, 6 voxels along each axis; read as"):
        open_particles(tmp_path / "a.mrc")
    open_particles(shutil.copy(tmp_path / "a.mrc", tmp_path / "a.mrcs"))


def cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:n_bytes])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: cut(path, 0), "is not an MRC stack: it must have a header of 1024 bytes, got 0 bytes"),
        (lambda path: cut(path, 900), "is not an MRC stack: it must have a header of 1024 bytes, got 900"),
        (
            lambda path: cut(path, 1743),
            "is truncated: its header claims 5 images of 6 x 6 px, 1744 bytes, got a file of 1743 bytes",
        ),
        (
            lambda path: path.write_bytes(b"not a stack" * 200),
            "is not an MRC stack: its header claims .* of mode",
        ),
        (
            lambda path: path.write_bytes(bytes(2000)),
            "is not an MRC stack: its header claims 0 x 0 x 0 pixels",
        ),
        (lambda path: mrc(path, some_images(), nz=0), "holds no images: its header claims 0 of 6 x 6 px"),
        (lambda path: mrc(path, some_images()[:, :4]), "must hold square images, got 6 x 4 px"),
        (
            lambda path: mrc(path, some_images(), mode=4),
            "must have one of the MRC modes 0, 1, 2, 6, 12, got mode 4",
        ),
        (lambda path: mrc(path, some_images(), nz=-1), "is not an MRC stack: its header claims 6 x 6 x -1"),
        (lambda path: mrc(path, some_images(), nsymbt=-4), "is not an MRC stack"),
        (
            lambda path: mrc(path, some_images(), mapc=2, mapr=1),
            r"must have the axes 1, 2, 3 .*got \[2, 1, 3\]",
        ),
        (
            lambda path: mrc(path, some_images(), ispg=401, mz=5),
            "must be a stack of images, got one of volumes",
        ),
    ],
)
@pytest.mark.parametrize("by_star", [False, True], ids=["stack", "star"])
def test_a_stack_that_is_none(tmp_path, spoil, message, by_star):
    path = mrc(tmp_path / "a.mrcs", some_images())
    spoil(path)
    opened = star(tmp_path / "a.star", ["1@a.mrcs"]) if by_star else path
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} {message}") as error:
        open_particles(opened, pixel_size_angstrom=1.0)
    one_sentence(error)


def test_a_file_that_is_not_there(tmp_path):
    for name in ("a.mrcs", "a.star", "a.xmd"):
        with pytest.raises(FileNotFoundError) as error:
            open_particles(tmp_path / name)
        assert one_sentence(error) == f"no particle file at {tmp_path / name}"
    (tmp_path / "b.mrcs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no particle file at"):
        open_particles(tmp_path / "b.mrcs")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.mrcs.gz", ".star"])
def test_an_unknown_kind_of_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"must be a particle file that ends in .mrc, .mrcs, .star or .xmd, got"
    ):
        open_particles(tmp_path / name)


def test_a_stack_that_vanishes_between_opening_and_reading(tmp_path):
    path = mrc(tmp_path / "a.mrcs", some_images())
    file = open_particles(path)
    path.unlink()
    with pytest.raises(OSError, match=r"cannot read the images of .*a.mrcs: No such file"):
        file.read([0])


# --- the pixel size


def optics_of(groups, pixel=PIXEL) -> dict:
    pixels = np.broadcast_to(pixel, len(groups))
    return {"rlnOpticsGroup": groups, "rlnOpticsGroupName": "x", "rlnImagePixelSize": pixels}


def test_the_pixel_size_of_a_star_file_comes_before_that_of_the_header(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images(), pixel=PIXEL * 1.009)
    path = star(tmp_path / "a.star", ["1@a.mrcs"], optics=optics_of([1]))
    assert open_particles(path).pixel_size_angstrom == PIXEL
    mrc(tmp_path / "a.mrcs", some_images(), pixel=PIXEL * 1.02)
    with pytest.warns(UserWarning, match=r"a.star gives a pixel size of 1.5 .* images 1.53; took 1.5$"):
        assert open_particles(path).pixel_size_angstrom == PIXEL


def test_the_argument_comes_before_all(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images(), pixel=1.0)
    path = star(tmp_path / "a.star", ["1@a.mrcs"], optics=optics_of([1]))
    assert open_particles(path, pixel_size_angstrom=1.51).pixel_size_angstrom == 1.51
    with pytest.warns(UserWarning, match=r"a.star gives a pixel size of 1.5 angstrom; took .*=2$"):
        assert open_particles(path, pixel_size_angstrom=2).pixel_size_angstrom == 2.0
    with pytest.warns(UserWarning, match=r"a.mrcs gives a pixel size of 1 angstrom; took .*=2$"):
        assert open_particles(tmp_path / "a.mrcs", pixel_size_angstrom=2).pixel_size_angstrom == 2.0


def test_detector_and_magnification_of_relion_30(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images(), pixel=0)
    columns = {"rlnDetectorPixelSize": 5.0, "rlnMagnification": 38168.0}
    path = star(tmp_path / "a.star", ["1@a.mrcs", "2@a.mrcs"], block="", **columns)
    assert open_particles(path).pixel_size_angstrom == pytest.approx(5e4 / 38168)
    columns["rlnMagnification"] = 0.0
    with pytest.raises(
        ValueError, match=r"a.star gives no single pixel size, got inf angstrom: pass pixel_size"
    ):
        open_particles(star(tmp_path / "a.star", ["1@a.mrcs"], block="", **columns))


@pytest.mark.parametrize(
    ("pixel", "shown"),
    [(0.0, "0"), ((1.0, 1.2, 1.0), "1, 1.2"), (-1.0, "-1"), (np.nan, "nan"), ((0.0, 1.0, 1.0), "0, 1")],
)
def test_a_header_without_a_pixel_size(tmp_path, pixel, shown):
    path = mrc(tmp_path / "a.mrcs", some_images(), pixel=pixel)
    with pytest.raises(ValueError, match=r"pixel size") as error:
        open_particles(path)
    assert one_sentence(error) == (
        f"{path} gives no single pixel size, got {shown} angstrom: pass pixel_size_angstrom (--pixel-size)"
    )
    assert open_particles(path, pixel_size_angstrom=2.5).pixel_size_angstrom == 2.5
    named = star(tmp_path / "a.star", ["1@a.mrcs"], optics=optics_of([1]))
    assert open_particles(named).pixel_size_angstrom == PIXEL


def test_stacks_of_several_pixel_sizes(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images(), pixel=1.0)
    mrc(tmp_path / "b.mrcs", some_images(), pixel=2.0)
    path = star(tmp_path / "a.star", ["1@a.mrcs", "1@b.mrcs"])
    with pytest.raises(ValueError, match=r"gives no single pixel size, got 1, 2 angstrom"):
        open_particles(path)
    assert open_particles(path, pixel_size_angstrom=1).pixel_size_angstrom == 1


def test_only_optics_groups_in_use_count(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images(), pixel=2.0)
    optics = optics_of([1, 2, 3], [2.0, 4.0, 2.0])
    path = star(tmp_path / "a.star", ["1@a.mrcs", "2@a.mrcs"], optics=optics, rlnOpticsGroup=[3, 1])
    assert open_particles(path).pixel_size_angstrom == 2.0
    star(path, ["1@a.mrcs", "2@a.mrcs"], optics=optics, rlnOpticsGroup=[2, 1])
    with pytest.raises(ValueError, match=r"a.star gives no single pixel size, got 2, 4 angstrom"):
        open_particles(path)
    star(path, ["1@a.mrcs", "2@a.mrcs"], optics=optics, rlnOpticsGroup=[2, 7])
    with pytest.raises(
        ValueError, match=r"a.star has particles of optics group 7, which it does not describe"
    ):
        open_particles(path)
    star(path, ["1@a.mrcs"], optics=optics_of([1], ["much"]))
    with pytest.raises(
        ValueError, match=r"a.star must have numbers in the column _rlnImagePixelSize: .*much"
    ):
        open_particles(path)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, "1"])
def test_a_pixel_size_that_is_none(tmp_path, value):
    with pytest.raises(ValueError, match=r"pixel_size_angstrom must be a positive number, got"):
        open_particles(mrc(tmp_path / "a.mrcs", some_images()), pixel_size_angstrom=value)


# --- tables that name images


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
        (STAR_LOOP + "\n1@a.mrcs 1 2 3\n", "must|cannot be read as a STAR file"),
        (STAR_LOOP + "1@a.mrcs 1\n2@a.mrcs 1 2\n", "cannot be read as a STAR file: .*Expected 2 fields"),
        ("data_particles\n", "cannot be read as a STAR file"),
        (
            "data_a\nloop_\n_rlnImageName\n1@a.mrcs\n\ndata_b\nloop_\n_rlnImageName\n1@a.mrcs\n",
            "data_a, data_b",
        ),
        (
            "data_\nloop_\n_rlnOriginX\n_rlnImageName\n1 1@a.mrcs\n2\n",
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
    with pytest.raises(
        ValueError, match=r"a.star must have a table with the column _rlnImageName, got no table"
    ):
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


# --- real files


@pytest.mark.parametrize(
    "name",
    [
        "aspire_sample.mrcs",
        "empiar_10076_7.mrc",
        "hand.mrcs",
        "relion31.mrcs",
        "rln_proj_64.mrcs",
        "rln_proj_65.mrcs",
        "rln_proj_65_shifted.mrcs",
        "toy_projections.mrcs",
    ],
)
@pytest.mark.filterwarnings("ignore:.*(lacks the MAP|gives a pixel size):UserWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:mrcfile")
def test_real_stacks_are_read_as_mrcfile_reads_them(real_data, name):
    path = real_data / "particles" / name
    before = digests(path.parent)
    with mrcfile.open(path, permissive=True) as stack:
        expected = stack.data.copy()
    file = open_particles(path, pixel_size_angstrom=2.0)
    assert (len(file), file.image_size) == (len(expected), expected.shape[2])
    np.testing.assert_array_equal(np.concatenate([block for _, block in file.blocks(3)]), expected)
    assert digests(path.parent) == before


@pytest.mark.parametrize(
    ("name", "stack", "n", "pixel"),
    [
        ("empiar_10076_7", "empiar_10076_7.mrc", 7, 5e4 / 38168),
        ("relion31", "relion31.mrcs", 5, 2.806),
        ("rln_proj_65_shifted", "rln_proj_65_shifted.mrcs", 4, 1.0),
        ("toy_projections", "toy_projections.mrcs", 1000, 1.0),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(lacks the MAP|gives a pixel size):UserWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:mrcfile")
def test_real_star_files_with_their_stacks(real_data, name, stack, n, pixel):
    folder = real_data / "particles"
    file = open_particles(folder / f"{name}.star")
    assert (len(file), len(file.table)) == (n, n)
    assert file.pixel_size_angstrom == pytest.approx(pixel)
    with mrcfile.open(folder / stack, permissive=True) as images:
        np.testing.assert_array_equal(file.read([n - 1, 0]), images.data[[n - 1, 0]])


@pytest.mark.parametrize("name", ["rln_proj_64", "rln_proj_65"])
def test_real_star_files_that_give_no_pixel_size(real_data, name):
    path = real_data / "particles" / f"{name}.star"
    with pytest.raises(ValueError, match=f"{name}.star gives no single pixel size, got 0 angstrom"):
        open_particles(path)
    assert len(open_particles(path, pixel_size_angstrom=1.0)) == 5


@pytest.mark.parametrize(
    ("name", "pixel"),
    [
        ("aspire_sample_particles_relion30", 5e4 / 37369.207031),
        ("aspire_sample_particles_relion31", 1.4),
        ("relion5", 0.89),
    ],
)
def test_real_star_files_whose_stacks_are_elsewhere(real_data, tmp_path, name, pixel):
    source = real_data / "particles" / f"{name}.star"
    with pytest.raises(FileNotFoundError, match=f"{name}.star names the stack .*.mrcs, which is neither in"):
        open_particles(source)
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    wanted: dict[str, int] = {}
    for number, stack in re.findall(r"\b(\d+)@(sample|toy_images_[a-z]+)\.mrcs", path.read_text()):
        wanted[stack] = max(wanted.get(stack, 0), int(number))
    for seed, (stack, n) in enumerate(wanted.items()):
        mrc(tmp_path / f"{stack}.mrcs", some_images(n, 8, seed), pixel=pixel)
    file = open_particles(path)
    assert file.pixel_size_angstrom == pytest.approx(pixel)
    for index, image_name in enumerate(file.image_names):
        number, stack = re.match(r"(\d+)@(\w+)\.mrcs", image_name).groups()
        expected = some_images(wanted[stack], 8, list(wanted).index(stack))[int(number) - 1]
        np.testing.assert_array_equal(file.read([index])[0], expected)


# --- writing stacks


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


# --- writing tables


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


# --- alignments, in the conventions of RELION and XMIPP


@pytest.fixture(params=[32, 33], ids=["even", "odd"])
def aligned(request, particle):
    """A reference, images that show it rotated and displaced, and by which angles (n,) and shifts (n, 2)."""
    size, rng = request.param, np.random.default_rng(3)
    angles = np.array([0.0, 0.3, -1.2, 2.9, np.pi / 2, -np.pi, 5.0])
    shifts = rng.uniform(-3, 3, (len(angles), 2))
    views = project(particle, Rotation.from_euler("z", angles[:, None]), image_size=size, backend="fourier")
    reference = project(particle, Rotation.identity(1), image_size=size, backend="fourier")[0]
    return reference, imaging.shift(views, shifts), angles, shifts


def correlation(a, b) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def moved(image, matrix, offset) -> np.ndarray:
    """What the image has at q, counted as (x, y) from pixel n // 2, comes to matrix @ q + offset."""
    inverse = np.linalg.inv(matrix)
    centre = np.array(image.shape) // 2
    swap = inverse[::-1, ::-1]  # (y, x), as array axes are
    start = centre - swap @ (centre + np.asarray(offset)[::-1])
    return affine_transform(image.astype(float), swap, offset=start, order=3)


def anticlockwise(angle_rad) -> np.ndarray:
    return np.array([[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]])


def names_of(n) -> list[str]:
    return [f"{number:06d}@a.mrcs" for number in range(1, n + 1)]


def test_the_convention_is_what_it_says(aligned):
    """Anticlockwise by the angle with y up, then displaced; written out, without any module of the package."""
    reference, images, angles, shifts = aligned
    for image, angle, shift in zip(images, angles, shifts, strict=True):
        assert correlation(moved(reference, anticlockwise(angle), shift), image) > 0.995
        assert (
            correlation(moved(image, anticlockwise(-angle), -anticlockwise(-angle) @ shift), reference) > 0.99
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
        return imaging.shift(views, -origins_px)

    scale = np.abs(images).max()
    np.testing.assert_allclose(seen_at(euler_deg, origins_px), images, atol=1e-4 * scale)
    assert np.abs(seen_at(-euler_deg, origins_px) - images).max() > 0.1 * scale
    assert np.abs(seen_at(euler_deg, -origins_px) - images).max() > 0.1 * scale


def test_relions_own_way_to_apply_a_pose_aligns(aligned, tmp_path):
    """relion_stack_create --apply_transformation: rotation by psi, [[cos, -sin], [sin, cos]], of the shifted image."""
    reference, images, angles, shifts = aligned
    table, _ = star_of(tmp_path, images, angles, shifts)
    for image, (_, row) in zip(images, table.iterrows(), strict=True):
        matrix = anticlockwise(np.deg2rad(row["rlnAnglePsi"]))
        origin = np.array([row["rlnOriginXAngst"], row["rlnOriginYAngst"]]) / PIXEL
        assert correlation(moved(image, matrix, matrix @ origin), reference) > 0.99


def test_xmipps_way_to_apply_a_pose_aligns(aligned, tmp_path):
    """geo2TransformationMatrix: [[cos, sin], [-sin, cos]] of anglePsi, with the shift in the last column."""
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
    """The particle turned by +90 degrees, then moved by (2, 0) px of 1.5 angstrom."""
    arrays = ["1@a.mrcs"], [np.pi / 2], [[2.0, 0.0]]
    row = relion_tables(*arrays, pixel_size_angstrom=1.5, image_size=8)[0].iloc[0]
    found = [row["rlnAnglePsi"], row["rlnOriginXAngst"], row["rlnOriginYAngst"]]
    np.testing.assert_allclose(found, [-90, -3, 0], atol=1e-9)
    row = xmipp_table(*arrays, max_cc=[1.0]).iloc[0]
    np.testing.assert_allclose([row["anglePsi"], row["shiftX"], row["shiftY"]], [90, 0, 2], atol=1e-9)


def arrays(n=3):
    return names_of(n), np.linspace(-1, 1, n), np.arange(2.0 * n).reshape(n, 2)


def test_relion_tables_made_from_nothing():
    table, optics = relion_tables(*arrays(), pixel_size_angstrom=PIXEL, image_size=64)
    expected = ["rlnAnglePsi", "rlnClassNumber", "rlnImageName", "rlnOpticsGroup", "rlnOriginXAngst"]
    assert sorted(table) == [*expected, "rlnOriginYAngst"]
    assert table["rlnOpticsGroup"].tolist() == table["rlnClassNumber"].tolist() == [1, 1, 1]
    assert optics.to_dict("records") == [
        {
            "rlnOpticsGroup": 1,
            "rlnOpticsGroupName": "opticsGroup1",
            "rlnImagePixelSize": PIXEL,
            "rlnImageSize": 64,
            "rlnImageDimensionality": 2,
        }
    ]


def test_columns_of_the_input_are_kept_but_for_old_poses():
    given = pd.DataFrame(
        {
            "rlnImageName": ["7@old.mrcs", "8@old.mrcs", "9@old.mrcs"],
            "rlnDefocusU": [1.0, 2.0, 3.0],
            "rlnOpticsGroup": [2, 1, 2],
            "myScore": [9.0, 9.0, 9.0],
            **dict.fromkeys(["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnAnglePsiPrior"], 77.0),
            **dict.fromkeys(["rlnOriginX", "rlnOriginY", "rlnOriginXAngst", "rlnOriginXPriorAngst"], 77.0),
            "rlnClassNumber": 77,
            **dict.fromkeys(["rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples"], 77.0),
            **dict.fromkeys(["rlnLogLikeliContribution", "rlnAnglePsiFlip", "rlnAnglePsiFlipRatio"], 77.0),
            "rlnIsFlip": 77,
            "rlnRandomSubset": [1, 2, 1],
        },
        index=[5, 6, 7],
    )
    optics = pd.DataFrame({**optics_of([1, 2]), "rlnVoltage": [200, 300]})
    untouched = given.copy(), optics.copy()
    table, kept = relion_tables(
        *arrays(),
        pixel_size_angstrom=PIXEL,
        image_size=64,
        class_numbers=[1, 2, 1],
        scores={"myScore": [0.5, 0.6, 0.7], "other": np.arange(3)},
        table=given,
        optics=optics,
    )
    assert not (table.drop(columns="rlnImageName") == 77).any().any()
    assert not {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsiPrior", "rlnOriginX", "rlnOriginY"} & set(table)
    assert table["rlnImageName"].tolist() == names_of(3)
    assert table["rlnRandomSubset"].tolist() == [1, 2, 1]
    assert table["rlnDefocusU"].tolist() == [1.0, 2.0, 3.0]
    assert table["rlnOpticsGroup"].tolist() == [2, 1, 2]
    assert table["rlnClassNumber"].tolist() == [1, 2, 1]
    assert table["myScore"].tolist() == [0.5, 0.6, 0.7]
    assert table["other"].tolist() == [0, 1, 2]
    assert kept["rlnVoltage"].tolist() == [200, 300]
    assert kept["rlnImageSize"].tolist() == [64, 64]
    pd.testing.assert_frame_equal(given, untouched[0])
    pd.testing.assert_frame_equal(optics, untouched[1])


def test_the_microscope_of_relion_30_becomes_optics_groups():
    given = pd.DataFrame(
        {"rlnImageName": names_of(4), "rlnVoltage": [300, 200, 300, 200], "rlnSphericalAberration": 2.7}
    )
    table, optics = relion_tables(*arrays(4), pixel_size_angstrom=PIXEL, image_size=64, table=given)
    assert table["rlnOpticsGroup"].tolist() == [1, 2, 1, 2]
    assert optics["rlnVoltage"].tolist() == [300, 200]
    assert optics["rlnSphericalAberration"].tolist() == [2.7, 2.7]
    assert optics["rlnOpticsGroupName"].tolist() == ["opticsGroup1", "opticsGroup2"]


def test_another_pixel_size_replaces_that_of_the_optics_groups():
    given, optics = pd.DataFrame({"rlnImageName": names_of(3)}), pd.DataFrame(optics_of([4]))
    with pytest.warns(UserWarning, match=r"optics states a pixel size of 1.5 angstrom; replaced it by .*=3$"):
        table, kept = relion_tables(
            *arrays(), pixel_size_angstrom=3, image_size=64, table=given, optics=optics
        )
    assert kept["rlnImagePixelSize"].tolist() == [3]
    assert table["rlnOpticsGroup"].tolist() == [4, 4, 4]
    np.testing.assert_allclose(table["rlnOriginXAngst"], [0, -6, -12])


TABLE, OPTICS = pd.DataFrame({"rlnImageName": names_of(3)}), pd.DataFrame(optics_of([1, 2]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_names": []}, "image_names must name at least one image, got none"),
        ({"angles_rad": [0.0, 1.0]}, "angles_rad must be one for each of the 3 images, got 2"),
        ({"angles_rad": [0.0, np.nan, 1.0]}, "angles_rad must be finite, got 1 non-finite values of 3"),
        ({"shifts_px": np.zeros((3, 3))}, r"shifts_px must be \(3, 2\), got \(3, 3\)"),
        ({"pixel_size_angstrom": 0}, "pixel_size_angstrom must be a positive number, got 0"),
        ({"image_size": 0}, "image_size must be a whole number of at least 1, got 0"),
        ({"class_numbers": [0, 1, 1]}, "class_numbers must be whole numbers from 1, got 0"),
        ({"class_numbers": [1.5, 1, 1]}, "class_numbers must be whole numbers from 1, got"),
        ({"scores": {"rlnAnglePsi": np.zeros(3)}}, "scores must have names .*, got 'rlnAnglePsi'"),
        ({"scores": {"two words": np.zeros(3)}}, "scores must have names .*, got 'two words'"),
        ({"scores": {"a": np.zeros(2)}}, r"scores\['a'\] must be one for each of the 3 images, got 2"),
        ({"table": TABLE[:2]}, "table must have a column rlnImageName and 3 rows, one an image, got 2 rows"),
        ({"table": pd.DataFrame({"image": names_of(3)})}, "table must have a column rlnImageName and 3 rows"),
        (
            {"table": TABLE, "optics": OPTICS},
            "table must have a column rlnOpticsGroup, got none for 2 groups",
        ),
        (
            {"table": TABLE.assign(rlnOpticsGroup=[1, 2, 3]), "optics": OPTICS},
            "optics must have the groups of all particles, got none numbered 3",
        ),
        ({"table": TABLE, "optics": TABLE}, "optics must have a column rlnOpticsGroup and a row, got 3 rows"),
    ],
)
def test_wrong_arguments_of_relion_tables(changed, message):
    names, angles, shifts = arrays()
    given = {"image_names": names, "angles_rad": angles, "shifts_px": shifts, "pixel_size_angstrom": PIXEL}
    with pytest.raises(ValueError, match=f"^{message}"):
        relion_tables(**{**given, "image_size": 64, **changed})


def test_wrong_arguments_of_an_xmipp_table():
    with pytest.raises(ValueError, match=r"max_cc must be one for each of the 3 images, got 1"):
        xmipp_table(*arrays(), max_cc=[0.5])


def test_importing_particles_imports_nothing_slow():
    code = (
        "import sys, cryoem.particles; "
        "print([m for m in ('pandas', 'starfile', 'mrcfile', 'tensorflow') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
