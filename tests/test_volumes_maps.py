"""Map files: maps from any program can be read, written maps are restored, other files raise one sentence."""

import gzip
import hashlib
import re

import mrcfile
import numpy as np
import pytest
from file_changes import INTEGER_HEADERS, UNCLEAR_INTEGERS, fields, integers
from small_maps import FLOAT32_TOLERANCE, random_map

from cryoem import volumes


def edit_header(path, **fields):
    with mrcfile.open(path, mode="r+", permissive=True) as mrc:
        for name, value in fields.items():
            mrc.header[name] = value


@pytest.mark.parametrize("name", ["map.mrc", "map.mrc.gz"])
def test_written_map_reads_back_identical(tmp_path, name):
    written = random_map()
    volumes.write_map(tmp_path / name, written)
    read = volumes.read_map(tmp_path / name)
    np.testing.assert_array_equal(read.data, written.data)
    assert read.data.dtype == np.float32
    assert read.voxel_size_angstrom == pytest.approx(written.voxel_size_angstrom, rel=FLOAT32_TOLERANCE)
    assert read.origin == pytest.approx(written.origin)


def test_written_maps_are_valid_and_reproducible(tmp_path, capsys):
    for name in ("map.mrc", "same.mrc"):
        volumes.write_map(tmp_path / "new" / name, random_map())
        assert mrcfile.validate(tmp_path / "new" / name), capsys.readouterr().out
    assert (tmp_path / "new" / "map.mrc").read_bytes() == (tmp_path / "new" / "same.mrc").read_bytes()


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
def test_every_mode_in_either_byte_order_reads_as_float32(tmp_path, dtype, byte_order):
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(np.dtype(dtype).newbyteorder(byte_order))
    with mrcfile.new(tmp_path / "map.mrc") as mrc:
        mrc.set_data(data)
        mrc.set_volume()
        mrc.voxel_size = 1.5
    read = volumes.read_map(tmp_path / "map.mrc")
    np.testing.assert_array_equal(read.data, data.astype(np.float32))
    assert read.voxel_size_angstrom == pytest.approx(1.5)


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (2, 1, 3)])
def test_order_of_axes_in_the_file_does_not_matter(tmp_path, axes):
    expected = random_map(origin=(0.0, 0.0, 0.0))
    start_xyz = {1: 10, 2: -4, 3: 6}
    columns, rows, sections = axes
    stored = expected.data.transpose([3 - sections, 3 - rows, 3 - columns])  # x, y, z are 1, 2, 3
    with mrcfile.new(tmp_path / "map.mrc") as mrc:
        mrc.set_data(np.ascontiguousarray(stored))
        mrc.set_volume()
        header = mrc.header
        header.mapc, header.mapr, header.maps = axes
        header.mx, header.my, header.mz = expected.data.shape[::-1]
        header.cella = tuple(n * expected.voxel_size_angstrom for n in expected.data.shape[::-1])
        header.nxstart, header.nystart, header.nzstart = (start_xyz[axis] for axis in axes)
    read = volumes.read_map(tmp_path / "map.mrc")
    np.testing.assert_array_equal(read.data, expected.data)
    assert read.origin == pytest.approx((25.0, -10.0, 15.0))


def test_a_missing_identifier_or_cell_is_a_warning(tmp_path):
    path = tmp_path / "map.mrc"
    volumes.write_map(path, random_map())
    edit_header(path, map=b"", machst=[0, 0, 0, 0])
    with pytest.warns(UserWarning, match=r"map\.mrc lacks the MAP identifier"):
        read = volumes.read_map(path)
    np.testing.assert_array_equal(read.data, random_map().data)
    volumes.write_map(path, random_map())
    edit_header(path, cella=(0, 0, 0))
    with pytest.warns(UserWarning, match=r"map\.mrc has no cell in its header; assuming 1\.0 angstrom"):
        assert volumes.read_map(path).voxel_size_angstrom == 1.0
    with pytest.warns(UserWarning, match=r"assuming 4\.0 angstrom"):
        assert volumes.read_map(path, default_voxel_size_angstrom=4.0).voxel_size_angstrom == 4.0


def test_errors_name_the_file_and_both_sizes(tmp_path):
    """See ``test_damaged_files`` for other kinds of damage."""
    volumes.write_map(tmp_path / "whole.mrc", random_map())
    content = (tmp_path / "whole.mrc").read_bytes()
    header = "its header states 7 x 6 x 5 values of mode 2, or 1864 bytes"
    for name, stored, message in (
        ("short.mrc", content[:-4], f"short.mrc is truncated: {header}, but the file has 1860 bytes"),
        (
            "short.map.gz",
            gzip.compress(content[:-4]),
            f"short.map.gz is truncated: {header}, but the file has 1860 bytes",
        ),
        ("broken.map.gz", gzip.compress(content)[:-30], "cannot read the map .*broken.map.gz"),
        ("stack.mrcs", content, "is a stack of 5 images of 7 x 6 pixels, not a density map"),
    ):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(ValueError, match=message):
            volumes.read_map(tmp_path / name)
    with mrcfile.new(tmp_path / "image.mrc") as mrc:
        mrc.set_data(np.ones((6, 6), np.float32))
    with pytest.raises(ValueError, match="is a single image of 6 x 6 pixels, not a density map"):
        volumes.read_map(tmp_path / "image.mrc")
    with pytest.raises(FileNotFoundError, match=f"^no map file at {tmp_path}$"):
        volumes.read_map(tmp_path)


def store(path, data, *, volume=True, **header):
    """Write integers or floats with mrcfile, then set header fields."""
    signed = data.view(f"i{data.itemsize}") if data.dtype == "u1" else data
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(signed)
        if volume:
            mrc.set_volume()
        else:
            mrc.set_image_stack()
        mrc.voxel_size = 2.0
    path.write_bytes(fields(**header)(path.read_bytes()))
    return path


@pytest.mark.parametrize(("stored", "header", "expected"), INTEGER_HEADERS, ids=str)
def test_the_header_decides_whether_integers_are_signed(tmp_path, stored, header, expected):
    data = integers(stored, (3, 4, 5))
    found = volumes.read_map(store(tmp_path / "map.mrc", data, **header)).data
    np.testing.assert_array_equal(found, data.view(expected).astype(np.float32))


@pytest.mark.parametrize(("stored", "header", "sign"), UNCLEAR_INTEGERS, ids=str)
def test_a_header_that_does_not_decide_is_a_warning(tmp_path, stored, header, sign):
    data = integers(stored, (3, 4, 5))
    path = store(tmp_path / "map.mrc", data, **header)
    with pytest.warns(UserWarning, match=rf"map.mrc does not state clearly .*; reading them as {sign}$"):
        np.testing.assert_array_equal(volumes.read_map(path).data, data)


@pytest.mark.parametrize("name", ["map.mrc", "map.mrc.gz"])
def test_bytes_after_the_voxels_are_ignored_with_a_warning(tmp_path, name):
    volumes.write_map(tmp_path / "whole.mrc", random_map())
    content = (tmp_path / "whole.mrc").read_bytes() + b"seven b"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.warns(
        UserWarning, match=rf"{name} is longer than its header states; ignoring the extra bytes \(7\)"
    ):
        np.testing.assert_array_equal(volumes.read_map(tmp_path / name).data, random_map().data)
    damaged = bytearray(gzip.compress(content))
    damaged[-6] ^= 1  # in the checksum at the end of the stream
    (tmp_path / "damaged.mrc.gz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"cannot read the map .*damaged.mrc.gz: CRC"):
        volumes.read_map(tmp_path / "damaged.mrc.gz")


@pytest.mark.parametrize("space_group", [0, 1])
def test_a_stack_that_looks_like_a_map_is_a_warning(tmp_path, space_group):
    """Volumes with space group 0 and stacks whose MZ is the number of images are common."""
    images = np.random.default_rng(0).normal(size=(40, 12, 12)).astype(np.float32)
    path = store(tmp_path / "stack.mrc", images, ispg=space_group)
    with pytest.warns(UserWarning, match=r"stack.mrc looks like a stack of 40 images of 12 x 12 pixels"):
        volumes.read_map(path)
    np.testing.assert_array_equal(volumes.read_map(path, as_map=True).data, images)
    noisy = volumes.phantom(size=24).data
    noisy = noisy + np.random.default_rng(0).normal(0, noisy.std(), noisy.shape).astype(np.float32)
    np.testing.assert_array_equal(volumes.read_map(store(path, noisy, ispg=space_group)).data, noisy)


@pytest.mark.parametrize(
    ("name", "header"), [("a.mrcs", {}), ("A.MRCS", {}), ("a.mrc", {"mz": 1}), ("a.mrc", {"ispg": 401})]
)
def test_an_option_reads_a_file_that_is_marked_as_a_stack_as_a_map(tmp_path, name, header):
    data = volumes.phantom(size=16).data
    path = store(tmp_path / name, data, **header)
    if "mz" in header:  # mrcfile's cell is that of all sections
        path.write_bytes(fields(cella=(32, 32, 2))(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"not a density map; if it is a map, pass as_map=True \(--as-map\)$"
    ):
        volumes.read_map(path)
    np.testing.assert_array_equal(volumes.read_map(path, as_map=True).data, data)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"", "empty"),
        (b"<!doctype HTML>" + bytes(2000), "a web page (HTML)"),
        (b"\n <html>" + bytes(2000), "a web page (HTML)"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer, not the file it stands for"),
        (b"BZh91AY" + bytes(2000), "compressed with bzip2; unpack it first"),
        (b"\x89HDF\r\n" + bytes(2000), "an HDF5 file"),
        (b"\x93NUMPY\1\0" + bytes(2000), "a NumPy or cryoSPARC file"),
        (b"\n# version 30001\n\ndata_particles\n" + b"_rlnImageName\n" * 100, "a STAR or CIF table"),
        (b"x,y\n" * 500, "a text file"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, start, kind):
    (tmp_path / "map.mrc").write_bytes(start)
    with pytest.raises(ValueError, match=rf"map\.mrc is not a map: it is {re.escape(kind)}$"):
        volumes.read_map(tmp_path / "map.mrc")


def test_real_map_reads_and_its_file_does_not_change(real_data):
    path = real_data / "maps" / "5j0n.mrc"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    density_map = volumes.read_map(path)
    assert density_map.data.shape == (69, 57, 75)
    assert density_map.voxel_size_angstrom == pytest.approx(11 / 3)
    assert density_map.origin == pytest.approx((69.753, 63.1, 26.546), abs=1e-3)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_real_image_stacks_are_not_maps(real_data):
    for name in ("empiar_10076_7.mrc", "rln_proj_65.mrcs", "toy_projections.mrcs"):
        with pytest.raises(ValueError, match="is a stack of"):
            volumes.read_map(real_data / "particles" / name)


@pytest.mark.parametrize(
    ("name", "script"), [("a.mrc", "a.cxc"), ("a.b.MAP.GZ", "a.b.cxc"), ("my map.mrc.gz", "my map.cxc")]
)
def test_the_chimerax_script_has_the_name_of_the_map(tmp_path, name, script):
    written = volumes.write_chimerax_script(tmp_path / name, volumes.phantom(size=16), level=0.5)
    assert written == tmp_path / script
    assert f'open "{name}"\n' in written.read_text(encoding="utf-8")
