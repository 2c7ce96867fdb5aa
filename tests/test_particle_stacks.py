"""Particle stacks: every kind that MRC has is read, each damage is a sentence."""

import re
import shutil

import mrcfile
import numpy as np
import pytest
from particle_files import (
    FLOAT32,
    PIXEL,
    mrc,
    one_sentence,
    some_images,
    star,
)

from cryoem.particles import open_particles


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
    for name in ("a.mrcs", "a.star", "a.xmd", "a.cs"):
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
        ValueError, match=r"must be a particle file that ends in .cs, .mrc, .mrcs, .star or .xmd, got"
    ):
        open_particles(tmp_path / name)


def test_a_stack_that_vanishes_between_opening_and_reading(tmp_path):
    path = mrc(tmp_path / "a.mrcs", some_images())
    file = open_particles(path)
    path.unlink()
    with pytest.raises(OSError, match=r"cannot read the images of .*a.mrcs: No such file"):
        file.read([0])
