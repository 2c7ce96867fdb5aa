"""Maps on disk: they come back as written, whatever wrote them, and what is no map is refused in one sentence."""

import gzip
import hashlib

import mrcfile
import numpy as np
import pytest
from small_maps import FLOAT32_TOLERANCE, random_map

from cryoem import volumes
from cryoem.volumes import DensityMap


def edit_header(path, **fields):
    with mrcfile.open(path, mode="r+", permissive=True) as mrc:
        for name, value in fields.items():
            mrc.header[name] = value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": np.zeros((4, 4))}, r"data must be \(z, y, x\).*got shape \(4, 4\)"),
        ({"data": np.zeros((0, 4, 4))}, r"at least one voxel, got shape \(0, 4, 4\)"),
        ({"data": np.zeros((2, 2, 2), complex)}, "real numbers, got complex128"),
        ({"data": np.array([[[np.nan, np.inf, 1.0]]])}, "got 1 NaN and 1 infinite voxels of 3"),
        ({"data": np.full((1, 1, 2), 1e300)}, "got 0 NaN and 2 infinite"),
        ({"voxel_size_angstrom": 0.0}, "voxel_size_angstrom must be a positive number, got 0.0"),
        ({"voxel_size_angstrom": np.nan}, "voxel_size_angstrom must be a positive number, got nan"),
        ({"origin": (0.0, np.inf, 0.0)}, "origin must be three finite numbers"),
        ({"origin": (0.0, 0.0)}, "origin must be three finite numbers"),
    ],
)
def test_map_refuses_what_is_not_a_density(arguments, message):
    with pytest.raises(ValueError, match=message):
        DensityMap(**{"data": np.zeros((2, 2, 2)), "voxel_size_angstrom": 1.0} | arguments)


@pytest.mark.parametrize("name", ["map.mrc", "map.mrc.gz"])
def test_written_map_reads_back_identical(tmp_path, name):
    written = random_map()
    volumes.write_map(tmp_path / name, written)
    read = volumes.read_map(tmp_path / name)
    np.testing.assert_array_equal(read.data, written.data)
    assert read.data.dtype == np.float32
    assert read.voxel_size_angstrom == pytest.approx(written.voxel_size_angstrom, rel=FLOAT32_TOLERANCE)
    assert read.origin == pytest.approx(written.origin)


def test_written_map_is_valid_for_mrcfile(tmp_path, capsys):
    volumes.write_map(tmp_path / "map.mrc", random_map())
    assert mrcfile.validate(tmp_path / "map.mrc"), capsys.readouterr().out


def test_equal_maps_give_equal_files(tmp_path):
    volumes.write_map(tmp_path / "a.mrc", random_map())
    volumes.write_map(tmp_path / "b.mrc", random_map())
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()


def test_failed_write_leaves_the_older_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "map.mrc"
    volumes.write_map(path, random_map())
    before = path.read_bytes()

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mrcfile.mrcfile.MrcFile, "set_volume", disk_full)
    with pytest.raises(OSError, match=r"^cannot write .*map\.mrc: No space left on device"):
        volumes.write_map(path, random_map(seed=1))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["map.mrc"]


def test_write_into_a_missing_folder_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to write map\.mrc into"):
        volumes.write_map(tmp_path / "nowhere" / "map.mrc", random_map())


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
    stored = expected.data.transpose(
        [3 - sections, 3 - rows, 3 - columns]
    )  # array axis of x=1, y=2, z=3 is 3 - number
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


def test_missing_map_identifier_is_a_warning(tmp_path):
    path = tmp_path / "map.mrc"
    volumes.write_map(path, random_map())
    edit_header(path, map=b"", machst=[0, 0, 0, 0])
    with pytest.warns(UserWarning, match=r"map\.mrc lacks the MAP identifier"):
        read = volumes.read_map(path)
    np.testing.assert_array_equal(read.data, random_map().data)


def test_missing_cell_is_a_warning_and_the_default_voxel(tmp_path):
    path = tmp_path / "map.mrc"
    volumes.write_map(path, random_map())
    edit_header(path, cella=(0, 0, 0))
    with pytest.warns(UserWarning, match=r"map\.mrc has no cell size in its header; took 1\.0 angstrom"):
        assert volumes.read_map(path).voxel_size_angstrom == 1.0
    with pytest.warns(UserWarning, match=r"took 4\.0 angstrom"):
        assert volumes.read_map(path, default_voxel_size_angstrom=4.0).voxel_size_angstrom == 4.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cella": (7.0, 6.0, 10.0)}, "cubic voxels, got 1 x 1 x 2 angstrom"),
        ({"cella": (7.0, 0.0, 5.0)}, "positive cell, got 7.0 x 0.0 x 5.0"),
        ({"cellb": (90.0, 90.0, 120.0)}, "right angles, got 90.0, 90.0, 120.0 degrees"),
        ({"mode": 4}, "must have mode 0, 1, 2, 6, 12, got mode 4"),
        ({"mapc": 3}, r"axes 1, 2, 3 in some order .*got \[3, 2, 3\]"),
        (
            {"nx": 1_000_000, "ny": 1_000_000, "nz": 1_000_000},
            "truncated: its header claims 1000000 x 1000000 x 1000000",
        ),
        ({"nz": -5}, "not a map: its header claims 7 x 6 x -5 voxels of mode 2"),
        ({"nsymbt": 2**30}, "truncated"),
        ({"mz": 1}, "got a stack of 5 images of 7 x 6 pixels"),
        ({"ispg": 401}, "got a stack of 5 images"),
    ],
)
def test_a_header_that_is_no_map_is_refused_in_one_sentence(tmp_path, fields, message):
    path = tmp_path / "map.mrc"
    volumes.write_map(path, random_map())
    content = bytearray(path.read_bytes())
    header = np.frombuffer(content, mrcfile.dtypes.HEADER_DTYPE, count=1)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        volumes.read_map(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_not_a_map_file_is_refused_in_one_sentence(tmp_path):
    whole = tmp_path / "whole.mrc"
    volumes.write_map(whole, random_map())
    content = whole.read_bytes()
    not_finite = bytearray(content)
    not_finite[1024:1028] = np.float32(np.nan).tobytes()
    cases = {
        "empty.mrc": (b"", "got 0 bytes"),
        "text.mrc": (b"loop_ _rlnImageName " * 100, "not a map: its header claims"),
        "short.mrc": (
            content[:-4],
            "truncated: its header claims 7 x 6 x 5 voxels of mode 2, 1864 bytes, got a file of 1860 bytes",
        ),
        "nan.mrc": (
            bytes(not_finite),
            "nan.mrc: data must be finite, got 1 NaN and 0 infinite voxels of 210",
        ),
        "broken.map.gz": (gzip.compress(content)[:-30], "cannot read the map"),
        "short.map.gz": (gzip.compress(content[:-4]), "truncated: .* got 1860 bytes"),
        "stack.mrcs": (content, "one density map, got a stack of 5 images"),
    }
    for name, (stored, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(stored)
        with pytest.raises(ValueError, match=message) as raised:
            volumes.read_map(path)
        assert name in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"no map file at .*absent\.mrc"):
        volumes.read_map(tmp_path / "absent.mrc")
    with pytest.raises(FileNotFoundError, match="no map file at"):
        volumes.read_map(tmp_path)


def test_a_single_image_is_not_a_map(tmp_path):
    with mrcfile.new(tmp_path / "image.mrc") as mrc:
        mrc.set_data(np.ones((6, 6), np.float32))
    with pytest.raises(ValueError, match="got a single image of 6 x 6 pixels"):
        volumes.read_map(tmp_path / "image.mrc")


def test_real_map_reads_and_its_file_does_not_change(real_data):
    path = real_data / "maps" / "5j0n.mrc"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    density_map = volumes.read_map(path)
    assert density_map.data.shape == (69, 57, 75)
    assert density_map.voxel_size_angstrom == pytest.approx(11 / 3)
    assert density_map.origin == pytest.approx((69.753, 63.1, 26.546), abs=1e-3)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_real_map_without_identifier_reads_with_a_warning(real_data, tmp_path):
    content = bytearray((real_data / "maps" / "5j0n.mrc").read_bytes())
    content[208:216] = bytes(8)  # MAP identifier and machine stamp
    (tmp_path / "old.mrc").write_bytes(content)
    with pytest.warns(UserWarning, match=r"old\.mrc lacks the MAP identifier"):
        old = volumes.read_map(tmp_path / "old.mrc")
    np.testing.assert_array_equal(old.data, volumes.read_map(real_data / "maps" / "5j0n.mrc").data)


def test_real_image_stacks_are_not_maps(real_data):
    for name in ("empiar_10076_7.mrc", "rln_proj_65.mrcs", "toy_projections.mrcs"):
        with pytest.raises(ValueError, match="got a stack of"):
            volumes.read_map(real_data / "particles" / name)
