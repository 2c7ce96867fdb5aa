"""Particle stacks in MRC files: reading every variant, writing, and selecting images."""

import gzip
import pickle
import shutil

import mrcfile
import numpy as np
import pytest
from file_changes import INTEGER_HEADERS, UNCLEAR_INTEGERS, fields, integers
from particle_files import FLOAT32, PIXEL, mrc, one_sentence, some_images, star

from cryoem import particles, volumes
from cryoem.images import image_blocks
from cryoem.particles.mrc import StackWriter
from cryoem.particles.opening import open_particles
from cryoem.particles.writing import write_poses
from cryoem.rotations import random_rotations
from cryoem.runs.pipeline import open_measured
from cryoem.runs.profiles import get_profile

QUIET = pytest.mark.filterwarnings("ignore:.*(lacks the MAP|states a pixel size):UserWarning")


# --- what is read


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
@pytest.mark.parametrize(("size", "suffix"), [(6, ".mrc"), (7, ".MRCS")])
def test_every_mode_and_byte_order(tmp_path, dtype, order, size, suffix):
    images = (some_images(4, size) * 10).round().clip(0, 100).astype(np.dtype(dtype).newbyteorder(order))
    file = open_particles(mrc(tmp_path / f"a{suffix}", images))
    assert (file.shape, len(file), file.table, file.optics_groups) == ((4, size, size), 4, None, None)
    assert file.pixel_size_angstrom == pytest.approx(PIXEL, rel=FLOAT32)
    assert np.asarray(file).dtype == np.float32
    assert np.asarray(file).dtype.isnative
    np.testing.assert_array_equal(file, images.astype(np.float32))
    assert file.image_names[3] == f"000004@{tmp_path / f'a{suffix}'}"


@pytest.mark.parametrize("name", ["aspire_sample", "empiar_10076_7", "hand", "relion31", "rln_proj_65"])
@QUIET
@pytest.mark.filterwarnings("ignore::RuntimeWarning:mrcfile")
def test_real_stacks_are_read_as_mrcfile_reads_them(real_data, name):
    path = next((real_data / "particles").glob(f"{name}.mrc*"))
    with mrcfile.open(path, permissive=True) as stack:
        expected = stack.data.copy()
    file = open_particles(path, pixel_size_angstrom=2.0)
    assert file.shape == expected.shape
    np.testing.assert_array_equal(file, expected)


@pytest.mark.parametrize(
    "fields",
    [{"ispg": 1}, {"ispg": 1, "mz": 5}, {"ispg": 401, "mz": 1}, {"mapc": 0, "mapr": 0, "maps": 0}, {"mz": 0}],
    ids=str,
)
def test_flags_that_programs_set_differently_do_not_matter(tmp_path, fields):
    np.testing.assert_array_equal(
        open_particles(mrc(tmp_path / "a.mrc", some_images(), **fields)), some_images()
    )


def test_an_extended_header_is_skipped_and_a_single_image_is_a_stack(tmp_path):
    with mrcfile.new(tmp_path / "a.mrcs") as stack:
        stack.set_data(some_images())
        stack.set_extended_header(np.arange(40, dtype=np.int32))
        stack.voxel_size = PIXEL
    np.testing.assert_array_equal(open_particles(tmp_path / "a.mrcs")[[4]], some_images()[4:])
    with mrcfile.new(tmp_path / "b.mrc") as image:
        image.set_data(some_images()[0])
        image.voxel_size = PIXEL
    np.testing.assert_array_equal(open_particles(tmp_path / "b.mrc"), some_images()[:1])


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_header_without_identifier_is_read_with_a_warning(tmp_path, order):
    path = mrc(tmp_path / "a.mrcs", some_images().astype(f"{order}f4"), map=b"", machst=0)
    with pytest.warns(
        UserWarning, match=r"a.mrcs lacks the MAP identifier in its header; reading it as a stack"
    ):
        file = open_particles(path)
    np.testing.assert_array_equal(file, some_images())


def test_a_longer_file_and_one_that_may_be_a_map_are_warnings(tmp_path):
    path = mrc(tmp_path / "a.mrcs", some_images())
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.warns(
        UserWarning, match=r"a.mrcs is longer than its header states; ignoring the extra bytes"
    ):
        assert len(open_particles(path)) == 5
    with mrcfile.new(tmp_path / "b.mrc") as volume:
        volume.set_data(some_images(6, 6))
        volume.set_volume()
        volume.voxel_size = PIXEL
    with pytest.warns(UserWarning, match=r"b.mrc looks like a density map of 6 sections; reading it as"):
        open_particles(tmp_path / "b.mrc")
    open_particles(shutil.copy(tmp_path / "b.mrc", tmp_path / "b.mrcs"))


def integer_stack(path, data, header):
    mrc(path, data.view("i1") if data.dtype == "u1" else data)
    path.write_bytes(fields(**header)(path.read_bytes()))
    return path


@pytest.mark.parametrize(("stored", "header", "expected"), INTEGER_HEADERS, ids=str)
def test_the_header_decides_whether_integers_are_signed(tmp_path, stored, header, expected):
    data = integers(stored, (3, 4, 4))
    file = open_particles(integer_stack(tmp_path / "a.mrcs", data, header))
    np.testing.assert_array_equal(file, data.view(expected).astype(np.float32))


@pytest.mark.parametrize(("stored", "header", "sign"), UNCLEAR_INTEGERS, ids=str)
def test_a_header_that_does_not_decide_is_a_warning(tmp_path, stored, header, sign):
    data = integers(stored, (3, 4, 4))
    integer_stack(tmp_path / "b.mrcs", data, header)
    mrc(tmp_path / "a.mrcs", some_images(3, 4))
    with pytest.warns(UserWarning, match=rf"b.mrcs does not state clearly .*; reading them as {sign}$"):
        file = open_particles(star(tmp_path / "a.star", ["1@a.mrcs", "2@b.mrcs"]))
    np.testing.assert_array_equal(np.asarray(file)[1], data[1])


@pytest.mark.parametrize("name", ["a.mrcs.gz", "a.MRC.GZ", "a.mrcs"])
def test_gzipped_stacks_are_read_wherever_they_are_named(tmp_path, name):
    images = some_images(9)
    content = gzip.compress(mrc(tmp_path / "plain.mrcs", images).read_bytes())
    (tmp_path / name).write_bytes(content)
    file = open_particles(tmp_path / name)
    np.testing.assert_array_equal(file[[7, 0, 3]], images[[7, 0, 3]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(file)), images)
    assert file.paths == (tmp_path / name,)
    table = open_particles(star(tmp_path / "a.star", [f"3@{name}", f"1@{name}"]))
    np.testing.assert_array_equal(table, images[[2, 0]])
    with pytest.warns(UserWarning, match=r"not in uncompressed MRC stacks, .*; writing the images to b.mrcs"):
        write_poses(tmp_path / "b.star", table, random_rotations(2, rng=0))
    with mrcfile.open(tmp_path / "b.mrcs") as stack:  # RELION and cryoSPARC read no gzip
        np.testing.assert_array_equal(stack.data, images[[2, 0]])
    (tmp_path / name).write_bytes(gzip.compress(mrc(tmp_path / "plain.mrcs", images[:2]).read_bytes()))
    assert len(open_particles(tmp_path / name)) == 2  # not the copy of the older file
    (tmp_path / name).write_bytes(content[:-9])
    with pytest.raises(
        OSError, match=rf"cannot read the stack .*{name}: its compressed data are damaged"
    ) as error:
        open_particles(tmp_path / name)
    one_sentence(error)


@pytest.mark.parametrize("space_group", [0, 1])
def test_a_map_that_looks_like_a_stack_is_a_warning(tmp_path, space_group):
    density = volumes.phantom(size=24).data
    path = mrc(tmp_path / "a.mrc", density, ispg=space_group, mz=24)
    with pytest.warns(UserWarning, match=r"a.mrc looks like a density map of 24 sections; .*\(--as-stack\)"):
        open_particles(path)
    np.testing.assert_array_equal(open_particles(path, as_stack=True), density)
    settings = get_profile("toy", particles=str(path), as_stack=True)
    np.testing.assert_array_equal(open_measured(settings), density)  # as in a run
    mrc(path, some_images(24, 24), ispg=space_group, mz=24)
    assert len(open_particles(path)) == 24  # as many images as pixels, but not a map


def test_the_real_map_of_space_group_0_is_not_taken_for_images(real_data):
    with pytest.warns(UserWarning, match=r"beta-galactosidase.mrc looks like a density map of 100 sections"):
        open_particles(real_data / "maps" / "beta-galactosidase.mrc")


def test_a_web_page_is_not_a_stack(tmp_path):
    (tmp_path / "a.mrcs").write_text("<!DOCTYPE html><p>404</p>")
    with pytest.raises(ValueError, match=r"a.mrcs is not an MRC stack: it is a web page \(HTML\)$"):
        open_particles(tmp_path / "a.mrcs")


# --- selections


def test_any_selection_in_any_order(tmp_path):
    images = some_images(9)
    file = open_particles(mrc(tmp_path / "a.mrcs", images))
    for selection in (
        slice(None, None, -1),
        [4],
        [8, 0, 0, 3],
        np.array([-1, 2]),
        np.arange(9) % 2 == 0,
    ):
        np.testing.assert_array_equal(file[selection], images[selection])
    blocks = [np.asarray(file[block]) for block in image_blocks(file, block_bytes=4 * 36 * 4)]
    assert [len(block) for block in blocks] == [4, 4, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), images)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(file[3:])), images[3:])
    assert np.asarray(file, dtype=float).dtype == float
    with pytest.raises(ValueError, match=r"copy=False"):
        np.array(file, copy=False)


def test_only_selected_images_are_read(tmp_path):
    """The sparse file is larger than any memory."""
    path = mrc(tmp_path / "a.mrcs", some_images(2, 1000))
    with open(path, "r+b") as stream:
        stream.seek(8)
        stream.write(np.int32(200_000).tobytes())  # NZ: 800 GB
        try:
            stream.truncate(1024 + 200_000 * 4_000_000)
        except OSError:
            pytest.skip("the file system has no sparse files of this length")
    file = open_particles(path)
    np.testing.assert_array_equal(np.asarray(file[[1, 199_999]])[0], some_images(2, 1000)[1])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], r"a sequence that selects at least one of 5 images, got \[\]$"),
        ([5], "^indices are not valid for 5 images: index 5 is out of bounds"),
        (3, "^indices must be a slice or a sequence .*, got 3$"),
        ([0.0], "^indices are not valid for 5 images: .* integer"),
    ],
)
def test_wrong_indices(tmp_path, indices, message):
    with pytest.raises(ValueError, match=message):
        open_particles(mrc(tmp_path / "a.mrcs", some_images()))[indices]


# --- what cannot be read


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_pixel_that_is_not_finite_is_found_when_it_is_read(tmp_path, value):
    with open(mrc(tmp_path / "a.mrcs", some_images()), "r+b") as stream:
        stream.seek(1024 + 4 * np.ravel_multi_index((3, 5, 0), (5, 6, 6)))
        stream.write(np.float32(value).tobytes())
    file = open_particles(star(tmp_path / "a.star", ["2@a.mrcs", "4@a.mrcs", "1@a.mrcs"]))
    assert np.asarray(file[[0, 2]]).shape == (2, 6, 6)
    with pytest.raises(ValueError, match=r"finite") as error:
        np.asarray(file)
    assert one_sentence(error) == (
        f"{tmp_path / 'a.mrcs'}: pixels must be finite, got NaN or infinity in image 4"
    )


def test_missing_and_unknown_files(tmp_path):
    for name in ("a.mrcs", "a.star", "a.xmd", "a.cs"):
        with pytest.raises(FileNotFoundError) as error:
            open_particles(tmp_path / name)
        assert one_sentence(error) == f"no particle file at {tmp_path / name}"
    for name in ("a.txt", "a", "a.gz", "a.star.gz", ".star"):
        with pytest.raises(
            ValueError,
            match=r"is not a particle file: its name must end in .cs, .h5, .hdf5, .mat, .mrc, .mrcs, .star or",
        ):
            open_particles(tmp_path / name)
    path = mrc(tmp_path / "a.mrcs", some_images())
    file = open_particles(path)
    path.unlink()
    with pytest.raises(OSError, match=r"cannot read images from .*a.mrcs: No such file"):
        np.asarray(file)


# --- writing


@pytest.mark.parametrize(("size", "suffix"), [(6, ".mrcs"), (7, ".mrc")])
def test_a_stack_comes_back_and_its_header_is_right(tmp_path, size, suffix):
    path = tmp_path / "new" / f"a{suffix}"
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
        assert (float(stack.header.dmin), float(stack.header.dmax)) == (images.min(), images.max())
        assert float(stack.header.dmean) == pytest.approx(truth.mean(), rel=FLOAT32)
        assert float(stack.header.rms) == pytest.approx(truth.std(), rel=FLOAT32)
    np.testing.assert_array_equal(open_particles(path), images)
    particles.write_stack(tmp_path / "b.mrcs", images.astype(">f8"), pixel_size_angstrom=PIXEL)
    assert (tmp_path / "b.mrcs").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("writes", "error", "message"),
    [
        ([some_images(3), KeyboardInterrupt()], KeyboardInterrupt, "^$"),
        ([some_images(3)], ValueError, "expected 5 images for .*a.mrcs, got 3$"),
        ([some_images(3), some_images(3)], ValueError, "expected 5 images for .*a.mrcs, got 6$"),
        ([some_images(5, 7)], ValueError, r"images must be 6 px wide, got shape \(5, 7, 7\)"),
    ],
    ids=["interrupt", "few", "many", "size"],
)
def test_a_writer_that_fails_keeps_the_old_file(tmp_path, writes, error, message):
    path = tmp_path / "a.mrcs"
    path.write_bytes(b"older")

    def write_all():
        with StackWriter(path, 5, 6, PIXEL) as writer:
            for images in writes:
                if isinstance(images, BaseException):
                    raise images
                writer.write(images)

    with pytest.raises(error, match=message):
        write_all()
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"a.mrcs": b"older"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.star", 5, 6, PIXEL), r"path must end in .mrcs or .mrc, got '.*a.star'"),
        (("a.mrcs", 5, 70_000, PIXEL), "image_size must be at most 65535, got 70000"),
    ],
)
def test_wrong_arguments_of_a_writer(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        StackWriter(tmp_path / arguments[0], *arguments[1:])
    with pytest.raises(ValueError, match=r"the StackWriter for .*a.mrcs must be used in a with statement"):
        StackWriter(tmp_path / "a.mrcs", 5, 6, PIXEL).write(some_images())
