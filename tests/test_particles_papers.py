"""Files from the programs of the two papers: projections with Euler angles in HDF5 and MATLAB, training folders."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.io
import skimage.io
from command_line import invoke
from particle_files import one_sentence
from scipy.spatial.transform import Rotation

from cryoem import particles, projection, volumes
from cryoem.particles.opening import open_particles

PIXEL = 4.0
N = 7


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def write_mat(path, arrays):
    scipy.io.savemat(path, arrays)


def write_mat_73(path, arrays):
    """Write a file as MATLAB does: HDF5 after a 512-byte user block, with the axes in reverse order."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file[name] = np.transpose(values)


WRITERS = [("a.h5", write_h5), ("a.hdf5", write_h5), ("a.mat", write_mat), ("a.mat", write_mat_73)]


@pytest.fixture(scope="module")
def generated():
    """A map and its projections, with the angles of the paper: R = Rz(theta3) Ry(theta2) Rz(theta1)."""
    density = volumes.phantom(symmetry="C1", size=32, rng=1)
    angles = np.random.default_rng(0).uniform(0, [2 * np.pi, np.pi, 2 * np.pi], (N, 3))
    about = [Rotation.from_rotvec(angles[:, [k]] * axis) for k, axis in enumerate(np.eye(3)[[2, 1, 2]])]
    images = projection.project(density.data, about[2] * about[1] * about[0])
    return density, {"Projections": images, "Angles": angles}


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_projections_and_their_angles_agree_with_the_projector(name, write, generated, tmp_path):
    density, arrays = generated
    write(tmp_path / name, arrays)
    opened = open_particles(tmp_path / name, pixel_size_angstrom=PIXEL)
    images = np.asarray(opened)
    np.testing.assert_array_equal(images, arrays["Projections"])
    np.testing.assert_array_equal(np.asarray(opened[[5, 2, 3]]), images[[5, 2, 3]])
    again = projection.project(density.data, opened.rotations)
    for one, other in zip(images, again, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
    assert (opened.shifts_px, opened.ctf, opened.pixel_size_angstrom) == (None, None, PIXEL)


@pytest.mark.parametrize(("name", "write"), WRITERS[2:])
def test_three_images_have_square_angles(name, write, generated, tmp_path):
    arrays = {key: values[:3] for key, values in generated[1].items()}
    write(tmp_path / name, arrays)
    opened = open_particles(tmp_path / name, pixel_size_angstrom=PIXEL)
    np.testing.assert_array_equal(np.asarray(opened), arrays["Projections"])
    np.testing.assert_allclose(opened.table, arrays["Angles"])


def test_projections_are_converted_for_other_programs(generated, tmp_path):
    write_h5(tmp_path / "a.h5", generated[1])
    ended = invoke("convert", tmp_path / "a.h5", tmp_path / "a.star")
    assert ended.exit_code == 1
    assert ended.stderr == (
        f"cryoem: {tmp_path / 'a.h5'} has no pixel size; pass pixel_size_angstrom (--pixel-size)\n"
    )
    assert invoke("convert", tmp_path / "a.h5", tmp_path / "a.star", "--pixel-size", PIXEL).exit_code == 0
    before, after = (
        open_particles(tmp_path / name, pixel_size_angstrom=PIXEL) for name in ("a.h5", "a.star")
    )
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    assert (before.rotations * after.rotations.inv()).magnitude().max() < 1e-7
    with pytest.warns(
        UserWarning, match=r"a.h5 are not in uncompressed MRC stacks, .*; writing the images to b.mrcs"
    ):
        particles.write_poses(tmp_path / "b.star", before, before.rotations)
    written = open_particles(tmp_path / "b.star")
    np.testing.assert_array_equal(np.asarray(before), np.asarray(written))
    assert (before.rotations * written.rotations.inv()).magnitude().max() < 1e-7


@pytest.mark.parametrize("write", [write_h5, write_mat])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Projections": None}, "it must have an array Projections, got Angles"),
        ({"Angles": None}, "it must have an array Angles, got Projections"),
        ({"Projections": np.ones((N, 8, 9))}, "must contain square images, got 9 x 8 px"),
        (
            {"Projections": np.ones((8, 9))},
            r"Projections must be real \(n, y, x\) images, got shape \(8, 9\)",
        ),
        ({"Projections": np.ones((N, 8, 8), complex)}, "must be real"),
        ({"Angles": np.ones((N + 1, 3))}, rf"Angles must be real numbers of shape \({N}, 3\), got shape"),
        ({"Angles": np.full((N, 3), np.nan)}, "Angles/0.* row 1"),
        (
            {"Projections": np.full((N, 8, 8), np.inf)},
            "pixels must be finite, got NaN or infinity in image 1",
        ),
    ],
)
def test_wrong_arrays_are_one_sentence(write, change, sentence, generated, tmp_path):
    path = tmp_path / ("a.h5" if write is write_h5 else "a.mat")
    write(path, {name: values for name, values in (generated[1] | change).items() if values is not None})
    with pytest.raises(ValueError, match=sentence) as error:
        open_particles(path, pixel_size_angstrom=PIXEL).to_stack()
    assert str(path) in one_sentence(error)


# --- training folders


@pytest.fixture
def folder(tmp_path):
    """A training folder with three 9-px images, numbered 7, 8 and 10."""
    (tmp_path / "set" / "one_png").mkdir(parents=True)
    for number in (7, 8, 10):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype=np.uint8)
        skimage.io.imsave(tmp_path / f"set/one_png/{number}.png", pixels, check_contrast=False)
    (tmp_path / "set/parameters.txt").write_text("10.png 90 1 -2\n\n007\t-30.5  0 0.5\n8 0 0 0\n")
    return tmp_path / "set"


def test_a_training_folder_has_images_and_poses(folder, tmp_path):
    opened = open_particles(folder, pixel_size_angstrom=2)
    images = np.asarray(opened)
    assert opened.table.image.tolist() == ["7.png", "8.png", "10.png"]
    for number, image in zip((7, 8, 10), images, strict=True):
        expected = skimage.io.imread(folder / f"one_png/{number}.png") / 255
        np.testing.assert_allclose(image, expected, atol=1e-6)
    np.testing.assert_allclose(opened.rotations.as_euler("zyx", degrees=True)[:, 0], [-30.5, 0, 90])
    np.testing.assert_array_equal(opened.shifts_px, [[0, 0.5], [0, 0], [1, -2]])
    assert invoke("convert", folder, tmp_path / "a.xmd", "--pixel-size", 2).exit_code == 0
    converted = open_particles(tmp_path / "a.xmd")
    np.testing.assert_array_equal(np.asarray(converted), images)
    np.testing.assert_allclose(converted.shifts_px, opened.shifts_px, atol=1e-9)
    (folder / "parameters.txt").unlink()
    assert open_particles(folder, pixel_size_angstrom=2).poses is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("7 0 0 0\n8 0 0\n", "line 2 must contain an image, a rotation in degrees and two shifts .*, got '8 0 0'"),
        ("7 0 0 0 1\n", "line 1 must contain an image"),
        ("7 0 0 north\n", "line 1 must contain an image"),
        ("7 nan 0 0\n", "line 1 must contain an image"),
        ("\n9 0 0 0\n", "line 2 is about 9, which is not in one_png/"),
        ("7 0 0 0\n7.png 0 0 0\n", "line 2 is the second one about 7.png"),
        ("7 0 0 0\n8 0 0 0\n", "has no line about 10.png"),
        ("é".encode("latin-1"), "must be UTF-8 text"),
    ],
)  # fmt: skip
def test_wrong_parameters_name_the_line(text, sentence, folder):
    path = folder / "parameters.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=sentence) as error:
        open_particles(folder, pixel_size_angstrom=2)
    assert str(path) in one_sentence(error)


def test_wrong_pictures_are_one_sentence(folder):
    path = folder / "one_png" / "8.png"
    skimage.io.imsave(path, np.zeros((9, 8), np.uint8), check_contrast=False)
    with pytest.raises(ValueError, match=r"8.png must be 9 px wide and high, as is 7.png, got 8 x 9 px"):
        np.asarray(open_particles(folder, pixel_size_angstrom=2))
    (folder / "one_png" / "7.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"7.png is not a JPEG, PNG or TIFF file"):
        open_particles(folder, pixel_size_angstrom=2)
    with pytest.raises(ValueError, match="is a folder without one_png/, so it is not a training folder"):
        open_particles(folder / "one_png", pixel_size_angstrom=2)
    with pytest.raises(
        ValueError, match=r"is not a table .*so the folder of the stacks, \. \(--datadir\), does not apply"
    ):
        open_particles(folder, pixel_size_angstrom=2, datadir=".")
