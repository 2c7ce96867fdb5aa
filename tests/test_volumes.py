"""Maps on disk, models, phantoms, boxes, filters: round trips, known answers, centres that never move."""

import gzip
import hashlib

import gemmi
import mrcfile
import numpy as np
import pytest
from scipy import ndimage

from cryoem import volumes
from cryoem.rotations import point_group
from cryoem.volumes import DensityMap

FLOAT32_TOLERANCE = 1e-5


def random_map(shape=(5, 6, 7), voxel_size_angstrom=2.5, origin=(1.0, -2.0, 3.0), seed=0):
    data = np.random.default_rng(seed).normal(size=shape)
    return DensityMap(data, voxel_size_angstrom, origin)


def gaussian_ball(shape, voxel_size_angstrom, sigma_angstrom, offset_angstrom=(0, 0, 0)):
    """Gaussian about voxel n // 2, displaced by ``offset_angstrom`` (z, y, x)."""
    axes = np.ix_(*(np.arange(n) - n // 2 for n in shape))
    squared = sum(
        (axis * voxel_size_angstrom - d) ** 2 for axis, d in zip(axes, offset_angstrom, strict=True)
    )
    return DensityMap(np.exp(-squared / (2 * sigma_angstrom**2)), voxel_size_angstrom)


def centre_position(density_map):
    """Position (x, y, z) in space of voxel n // 2."""
    index = np.array([n // 2 for n in density_map.data.shape[::-1]])
    return np.array(density_map.origin) + index * density_map.voxel_size_angstrom


def edit_header(path, **fields):
    with mrcfile.open(path, mode="r+", permissive=True) as mrc:
        for name, value in fields.items():
            mrc.header[name] = value


# --- the map itself


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


# --- reading and writing


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


# --- boxes


SHAPES = [(6, 6, 6), (7, 7, 7), (6, 7, 8), (9, 5, 4)]


@pytest.mark.parametrize("old", SHAPES)
@pytest.mark.parametrize("new", SHAPES)
def test_crop_or_pad_keeps_the_centre_voxel_and_its_position(old, new):
    data = np.zeros(old)
    data[tuple(n // 2 for n in old)] = 1
    before = DensityMap(data, 1.5, (1.0, 2.0, 3.0))
    after = volumes.crop_or_pad(before, new)
    assert after.data.shape == new
    assert after.data[tuple(n // 2 for n in new)] == 1
    assert after.data.sum() == 1
    np.testing.assert_allclose(centre_position(after), centre_position(before))


def test_pad_then_crop_is_the_identity():
    before = random_map()
    after = volumes.crop_or_pad(volumes.crop_or_pad(before, (12, 13, 14)), before.data.shape)
    np.testing.assert_array_equal(after.data, before.data)
    assert after.origin == pytest.approx(before.origin)


def test_cube_takes_the_longest_edge():
    assert volumes.cube(random_map((5, 6, 7))).data.shape == (7, 7, 7)
    assert volumes.cube(random_map((5, 6, 7)), 4).data.shape == (4, 4, 4)


@pytest.mark.parametrize("shape", [0, (4, 4), (4, 4, -1), 4.5])
def test_crop_or_pad_refuses_a_shape_that_is_none(shape):
    with pytest.raises(ValueError, match="shape must be one or three positive integers, got"):
        volumes.crop_or_pad(random_map(), shape)


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 17, 17), (16, 17, 18)])
def test_centre_moves_the_centre_of_mass_and_wraps_nothing(shape):
    before = gaussian_ball(shape, 2.0, 2.0, offset_angstrom=(6.0, -4.0, 2.0))
    after = volumes.centre(before)
    np.testing.assert_array_equal(np.unravel_index(after.data.argmax(), shape), [n // 2 for n in shape])
    # where the density lies in space has not changed
    np.testing.assert_allclose(centre_position(after), centre_position(before) + np.array([2.0, -4.0, 6.0]))
    assert not after.data[-3:].any()  # shifted down along z: the upper planes are new


def test_centre_needs_density():
    with pytest.raises(ValueError, match=r"threshold must be below the map's maximum 0\.0, got 0\.0"):
        volumes.centre(DensityMap(np.zeros((4, 4, 4)), 1.0))


@pytest.mark.parametrize("shape", [(32, 32, 32), (33, 33, 33), (32, 33, 30)])
@pytest.mark.parametrize("new_voxel", [1.0, 1.3, 2.0, 2.9])
def test_resampled_gaussian_is_the_gaussian_at_the_new_points(shape, new_voxel):
    before = gaussian_ball(shape, 2.0, 5.0)
    after = volumes.resample(before, new_voxel)
    expected = gaussian_ball(after.data.shape, new_voxel, 5.0)
    np.testing.assert_allclose(after.data, expected.data, atol=5e-3)
    assert after.data.shape == tuple(round(n * 2.0 / new_voxel) for n in shape)
    np.testing.assert_allclose(centre_position(after), centre_position(before), atol=1e-9)


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 9, 9)])
def test_resampling_finer_and_back_is_the_identity(shape):
    before = random_map(shape)
    same = volumes.resample(before, before.voxel_size_angstrom)
    np.testing.assert_allclose(same.data, before.data, atol=FLOAT32_TOLERANCE)
    finer = volumes.resample(before, before.voxel_size_angstrom / 3)
    at_old_voxels = tuple(slice(3 * n // 2 - 3 * (n // 2), None, 3) for n in shape)
    np.testing.assert_allclose(finer.data[at_old_voxels], before.data, atol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 15, 15)])
def test_resampling_coarser_keeps_the_mean_when_the_boxes_agree(shape):
    before = random_map(shape, voxel_size_angstrom=1.0)
    factor = 4 if shape[0] == 16 else 3
    after = volumes.resample(before, float(factor))
    assert after.data.mean() == pytest.approx(before.data.mean(), abs=FLOAT32_TOLERANCE)


def test_resample_refuses_a_voxel_larger_than_the_box():
    with pytest.raises(ValueError, match=r"voxel_size_angstrom must be below the box edge of 12\.5, got 100"):
        volumes.resample(random_map(), 100.0)
    with pytest.raises(ValueError, match="voxel_size_angstrom must be a positive number, got -1"):
        volumes.resample(random_map(), -1.0)


# --- filters


@pytest.mark.parametrize("n", [32, 33])
def test_low_pass_keeps_slow_waves_halves_the_cut_off_and_removes_fast_ones(n):
    x = np.arange(n)
    for k, kept in ((4, 1.0), (8, 0.5), (12, 0.0)):
        wave = DensityMap(np.broadcast_to(np.cos(2 * np.pi * k * x / n), (4, 5, n)), 2.0)
        after = volumes.low_pass(wave, 2.0 * n / 8, edge=0.2)
        np.testing.assert_allclose(after.data, kept * wave.data, atol=FLOAT32_TOLERANCE)


def test_low_pass_keeps_the_mean_and_refuses_nonsense():
    before = random_map()
    assert volumes.low_pass(before, 10.0).data.mean() == pytest.approx(
        before.data.mean(), abs=FLOAT32_TOLERANCE
    )
    with pytest.raises(ValueError, match="resolution_angstrom must be a positive number, got 0"):
        volumes.low_pass(before, 0)
    with pytest.raises(ValueError, match=r"edge must be in \(0, 2\], got 0"):
        volumes.low_pass(before, 10.0, edge=0)


@pytest.mark.parametrize("shape", [(20, 20, 20), (21, 21, 21), (20, 21, 24), (15, 16)])
def test_soft_sphere_is_centred_and_has_its_radius(shape):
    ball = volumes.soft_sphere(shape, 5.0, 3.0)
    centre = tuple(n // 2 for n in shape)
    along_x = ball[(*centre[:-1], slice(centre[-1], None))]
    np.testing.assert_allclose(along_x[:9], [1, 1, 1, 1, 1, 1, 0.75, 0.25, 0][: len(along_x)], atol=1e-6)
    mirrored = ball[tuple(slice(1 - n % 2, None) for n in shape)]
    np.testing.assert_array_equal(mirrored, np.flip(mirrored))
    assert ball.dtype == np.float32


def test_soft_sphere_without_edge_is_binary():
    assert set(np.unique(volumes.soft_sphere((9, 9, 9), 3.0, 0.0))) == {0.0, 1.0}
    with pytest.raises(ValueError, match=r"radius_px must be finite and not negative, got -1"):
        volumes.soft_sphere((9, 9, 9), -1.0, 0.0)


def test_soft_mask_surrounds_the_particle_and_drops_dust():
    ball = DensityMap(volumes.soft_sphere((40, 40, 40), 8.0, 0.0), 2.0)
    ball.data[2, 2, 2] = 1.0
    mask = volumes.soft_mask(ball, extend_px=2.0, edge_px=3.0)
    assert mask[2, 2, 2] == 0
    profile = mask[20, 20, 20:]
    np.testing.assert_array_equal(profile[:11], 1)
    assert 0 < profile[12] < 1
    np.testing.assert_array_equal(profile[13:], 0)
    with pytest.raises(ValueError, match=r"threshold must be below the map's maximum 1\.0, got 2\.0"):
        volumes.soft_mask(ball, threshold=2.0)
    with pytest.raises(ValueError, match="edge_px must be finite and not negative, got -1"):
        volumes.soft_mask(ball, edge_px=-1)


# --- atomic models


def structure_of(atoms):
    """A gemmi structure of (element, x, y, z) atoms."""
    structure, model, chain, residue = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A"), gemmi.Residue()
    residue.name = "UNK"
    for element, *position in atoms:
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos, atom.b_iso = (
            element,
            gemmi.Element(element),
            gemmi.Position(*position),
            77.0,
        )
        residue.add_atom(atom)
    chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    return structure


def test_density_of_one_atom_is_its_form_factor_transformed():
    position = (10.3, -4.1, 7.7)
    density_map = volumes.density_from_model(
        structure_of([("C", *position)]),
        voxel_size_angstrom=1.5,
        resolution_angstrom=6.0,
        box_size=(20, 21, 22),
    )
    # f(s) = sum a exp(-b s^2 / 4), blurred by exp(-B s^2 / 4) with B = 4 resolution^2, in real space
    form_factor = gemmi.Element("C").c4322
    axes = np.ix_(*(1.5 * (np.arange(n) - n // 2) for n in (20, 21, 22)))
    r_squared = sum(axis**2 for axis in axes)
    expected = sum(
        a * (4 * np.pi / (b + 4 * 6.0**2)) ** 1.5 * np.exp(-4 * np.pi**2 * r_squared / (b + 4 * 6.0**2))
        for a, b in zip(form_factor.a, form_factor.b, strict=True)
    )
    np.testing.assert_allclose(density_map.data, expected, atol=1e-4 * expected.max())
    np.testing.assert_allclose(centre_position(density_map), position, atol=1e-5)
    assert density_map.data.sum() * 1.5**3 == pytest.approx(sum(form_factor.a), rel=1e-3)


@pytest.mark.parametrize("box_size", [None, 30, 31, (30, 31, 36)])
def test_centre_of_mass_of_a_model_is_the_centre_voxel(box_size):
    rng = np.random.default_rng(0)
    atoms = [(element, *rng.uniform(0, 30, 3)) for element in ["C"] * 50 + ["P"] * 10 + ["O"] * 20]
    density_map = volumes.density_from_model(
        structure_of(atoms), voxel_size_angstrom=2.0, resolution_angstrom=8.0, box_size=box_size
    )
    centre = [n // 2 for n in density_map.data.shape]
    np.testing.assert_allclose(ndimage.center_of_mass(density_map.data), centre, atol=1e-3)
    assert density_map.data[0].max() < 1e-3 * density_map.data.max()  # solvent


def test_axes_of_the_map_are_those_of_the_model():
    atoms = [("C", 0, 0, 0), ("C", 0, 0, 0), ("C", 0, 0, 0), ("C", 30, 18, 6)]
    density_map = volumes.density_from_model(
        structure_of(atoms), voxel_size_angstrom=1.5, resolution_angstrom=4.0
    )
    far_corner = (np.array([30, 18, 6]) - density_map.origin) / 1.5
    z, y, x = np.rint(far_corner[::-1]).astype(int)
    near_far_corner = density_map.data[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3]
    assert near_far_corner.max() == pytest.approx(density_map.data.max() / 3, rel=0.1)


def test_waters_hydrogens_and_later_models_do_not_count(tmp_path):
    lines = ["ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00 20.00           C"]
    water = "HETATM    3  O   HOH A   2       9.000   0.000   0.000  1.00 20.00           O"
    hydrogen = "ATOM      2  HA  ALA A   1       1.000   0.000   0.000  1.00 20.00           H"
    other_model = [
        "MODEL        2",
        lines[0].replace("   0.000   0.000   0.000", "  50.000   0.000   0.000"),
        "ENDMDL",
    ]
    (tmp_path / "plain.pdb").write_text("\n".join([*lines, "END\n"]))
    (tmp_path / "full.pdb").write_text(
        "\n".join(["MODEL        1", *lines, hydrogen, water, "ENDMDL", *other_model])
    )
    settings = {"voxel_size_angstrom": 2.0, "resolution_angstrom": 6.0, "box_size": 24}
    plain = volumes.density_from_model(tmp_path / "plain.pdb", **settings)
    full = volumes.density_from_model(tmp_path / "full.pdb", **settings)
    np.testing.assert_array_equal(full.data, plain.data)
    kept = volumes.density_from_model(
        tmp_path / "full.pdb", keep_waters=True, keep_hydrogens=True, **settings
    )
    expected = sum(sum(gemmi.Element(name).c4322.a) for name in "CHO")
    assert kept.data.sum() * 2.0**3 == pytest.approx(expected, rel=1e-2)


def test_the_structure_given_is_not_modified():
    structure = structure_of([("C", 0, 0, 0), ("H", 1, 0, 0)])
    before = structure.make_pdb_string()
    volumes.density_from_model(structure, voxel_size_angstrom=2.0, resolution_angstrom=6.0)
    assert structure.make_pdb_string() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"voxel_size_angstrom": 0.0}, "voxel_size_angstrom must be a positive number, got 0.0"),
        (
            {"resolution_angstrom": 3.0},
            "resolution_angstrom must be at least two voxels of 2.0 angstrom, got 3.0",
        ),
        ({"margin_angstrom": -1.0}, "margin_angstrom must be finite and not negative, got -1.0"),
        ({"box_size": 8}, "box_size must be at least 1 x 1 x 21 voxels .* got 8"),
        ({"box_size": (8, 8)}, "box_size must be one or three positive integers"),
        ({"voxel_size_angstrom": 1e-3}, "voxel_size_angstrom must not be this small: 0.001 gives"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    structure = structure_of([("C", 0, 0, 0), ("C", 40, 0, 0)])
    with pytest.raises(ValueError, match=message):
        volumes.density_from_model(
            structure, **{"voxel_size_angstrom": 2.0, "resolution_angstrom": 8.0} | arguments
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.cif", "", "must be an atomic model"),
        ("empty.pdb", "", "must have atoms"),
        ("atomless.cif", "data_x\n", "must have atoms"),
        ("notes.txt", "hello", "must be an atomic model"),
        ("text.cif", "hello", "must be an atomic model"),
    ],
)
def test_a_file_without_atoms_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        volumes.density_from_model(tmp_path / name, voxel_size_angstrom=2.0, resolution_angstrom=6.0)
    assert name in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"no atomic model at .*absent\.cif"):
        volumes.density_from_model(tmp_path / "absent.cif", voxel_size_angstrom=2.0, resolution_angstrom=6.0)


@pytest.mark.parametrize("name", ["1u19.cif.gz", "4upy.pdb.gz"])
def test_real_models_become_density_in_empty_solvent(real_data, name):
    density_map = volumes.density_from_model(
        real_data / "models" / name, voxel_size_angstrom=4.0, resolution_angstrom=8.0
    )
    centre = [n // 2 for n in density_map.data.shape]
    np.testing.assert_allclose(ndimage.center_of_mass(density_map.data), centre, atol=0.02)
    shell = np.ones(density_map.data.shape, bool)
    shell[1:-1, 1:-1, 1:-1] = False
    assert density_map.data[shell].mean() < 1e-4 * density_map.data.max()
    assert density_map.data.min() >= 0


# --- phantoms


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2", "O"])
@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("seed", [0, 1])
def test_phantom_is_normalised_centred_and_fits(symmetry, size, seed):
    phantom = volumes.phantom(symmetry=symmetry, size=size, rng=seed)
    assert phantom.data.shape == (size, size, size)
    assert phantom.data.min() == 0
    assert phantom.data.max() == 1
    np.testing.assert_allclose(ndimage.center_of_mass(phantom.data), [size // 2] * 3, atol=0.02)
    radius = np.linalg.norm(np.argwhere(phantom.data > 1e-4) - size // 2, axis=1)
    assert radius.max() <= 0.9 * size / 2
    occupied = np.argwhere(phantom.data > 0.05)
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert 0.6 < np.ptp(occupied @ directions.T, axis=0).max() / size < 0.8


@pytest.mark.parametrize(("symmetry", "tolerance"), [("C2", 1e-3), ("D2", 1e-3), ("C3", 0.1), ("D3", 0.1)])
@pytest.mark.parametrize("size", [40, 41])
def test_phantom_has_the_symmetry_of_its_group_and_no_mirror(symmetry, tolerance, size):
    data = volumes.phantom(symmetry=symmetry, size=size, resolution_angstrom=14.0).data

    def turned(matrix):
        matrix = matrix[::-1, ::-1]  # (x, y, z) -> (z, y, x)
        return ndimage.affine_transform(
            data, matrix, offset=size // 2 - matrix @ np.full(3, size // 2), order=3
        )

    for g in point_group(symmetry)[1:]:
        assert np.abs(turned(g.as_matrix()) - data).max() < tolerance
    assert np.corrcoef(turned(np.diag([1.0, 1.0, -1.0])).ravel(), data.ravel())[0, 1] < 0.95
    other_axis = point_group("C4").as_matrix()[1]
    assert np.abs(turned(other_axis) - data).max() > 0.3


def test_phantom_follows_its_seed():
    np.testing.assert_array_equal(volumes.phantom(size=32, rng=3).data, volumes.phantom(size=32, rng=3).data)
    same = volumes.phantom(size=32, rng=np.random.default_rng(3)).data
    np.testing.assert_array_equal(same, volumes.phantom(size=32, rng=3).data)
    assert np.corrcoef(same.ravel(), volumes.phantom(size=32, rng=4).data.ravel())[0, 1] < 0.9


def test_unsymmetric_phantom_determines_its_orientation_at_20_angstrom():
    data = volumes.low_pass(volumes.phantom(size=32, voxel_size_angstrom=8.0), 20.0).data
    for matrix in point_group("I").as_matrix()[1:]:
        turned = ndimage.affine_transform(data, matrix, offset=16 - matrix @ np.full(3, 16), order=1)
        assert np.corrcoef(turned.ravel(), data.ravel())[0, 1] < 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symmetry": "X9"}, "symmetry must be .* got 'X9'"),
        ({"size": 8}, "size must be at least 16 voxels, got 8"),
        ({"voxel_size_angstrom": -4.0}, "voxel_size_angstrom must be a positive number, got -4.0"),
        ({"resolution_angstrom": 4.0}, "resolution_angstrom must be at least two voxels"),
        ({"resolution_angstrom": 65.0}, "at most a quarter of the box of 256 angstrom, got 65.0"),
    ],
)
def test_phantom_refuses_what_it_cannot_make(arguments, message):
    with pytest.raises(ValueError, match=message):
        volumes.phantom(**arguments)
