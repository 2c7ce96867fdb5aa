"""Photographs: reading as grey levels, reduction, and files that cannot be used."""

import numpy as np
import PIL.Image
import pytest
import skimage.io

from cryoem.udl.natural import natural_pairs
from cryoem.udl.pictures import load_photographs
from cryoem.udl.rotation import rotate_images


def save(path, pixels):
    skimage.io.imsave(path, pixels, check_contrast=False)
    return path


def test_photographs_become_grey_levels_in_the_order_of_their_names(tmp_path):
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 255
    save(tmp_path / "b.png", red)
    save(tmp_path / "a.PNG", np.full((60, 40), 51, np.uint8))
    save(tmp_path / "c.tif", np.full((50, 40), 0.75, np.float32))
    save(tmp_path / "d.png", np.full((40, 40), 13107, np.uint16))
    save(tmp_path / "e.jpg", np.full((40, 41, 3), 102, np.uint8))
    (tmp_path / "notes.txt").write_text("where they come from")
    photographs = load_photographs(tmp_path, size=20)
    assert [p.shape for p in photographs] == [(30, 20), (20, 30), (25, 20), (20, 20), (20, 20)]
    assert all(p.dtype == np.float32 for p in photographs)
    for photograph, level in zip(photographs, [0.2, 0.2125, 0.75, 0.2, 0.4], strict=True):
        np.testing.assert_allclose(photograph, level, atol=2e-3)  # JPEG rounds
    chosen = load_photographs([str(tmp_path / "c.tif"), tmp_path / "a.PNG"], size=20)
    np.testing.assert_array_equal(chosen[0], photographs[2])
    np.testing.assert_array_equal(chosen[1], photographs[0])


def test_opacity_and_folders_are_ignored(tmp_path):
    grey = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (40, 1))
    opacity = grey[:, ::-1]
    save(tmp_path / "a.png", grey)
    save(tmp_path / "b.png", np.stack([grey, grey, grey, opacity], axis=-1))
    PIL.Image.fromarray(np.stack([grey, opacity], axis=-1)).save(tmp_path / "c.png")
    (tmp_path / "d.jpg").mkdir()
    plain, *others = load_photographs(tmp_path, size=40)
    assert len(others) == 2
    for other in others:
        np.testing.assert_allclose(other, plain, atol=1e-6)


def test_photographs_are_reduced_without_aliasing(tmp_path):
    picture = np.full((160, 120), 100, np.uint8)
    picture[:, ::2] = 200
    picture[:80] = 0
    save(tmp_path / "stripes.png", picture)
    whole = load_photographs(tmp_path, size=120)[0]
    np.testing.assert_allclose(whole, picture / 255, atol=1e-6)
    reduced = load_photographs(tmp_path, size=40)[0]  # every third pixel would show stripes
    assert reduced.shape == (53, 40)
    np.testing.assert_allclose(reduced[32:, 3:-3], 150 / 255, atol=0.05)
    np.testing.assert_allclose(reduced[:20], 0, atol=0.02)


def test_every_unusable_file_is_named(tmp_path):
    def refused(content, message, name="bad.png"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save(path, content)
        with pytest.raises(ValueError, match=message) as error:
            load_photographs([path], size=20)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)

    picture = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    good = save(tmp_path / "good.jpg", picture).read_bytes()
    assert len(load_photographs([tmp_path / "good.jpg"], size=20)) == 1
    refused(b"hello", "must be a JPEG, PNG or TIFF file, got one that starts with b'hell'")
    refused(good[: len(good) // 2], "cannot be read as a picture", "half.jpg")
    refused(b"\x89PNG\r\n\x1a\n" + bytes(40), "cannot be read as a picture")
    refused(b"II*\0" + bytes(40), r"must be one grey or RGB picture, .* \(0,\)", "without-pages.tif")
    refused(np.zeros((19, 30), np.uint8), "must be at least 20 px on both sides, got 30 x 19")
    refused(np.zeros((30, 30, 4), np.uint8), r"must be one grey or RGB picture, .* \(30, 30, 4\)", "inks.tif")
    refused(np.full((30, 30), 7.0, np.float32), r"must have values in \[0, 1\], got 7 to 7", "high.tif")
    refused(np.zeros((30, 30), np.int32), "8-bit, 16-bit or floating-point grey levels, got int32", "int.tif")


def test_missing_photographs_are_named(tmp_path):
    file = save(tmp_path / "one.png", np.zeros((30, 30), np.uint8))
    (tmp_path / "empty").mkdir()
    for given, message in (
        (tmp_path / "empty", r"empty must contain photographs"),
        ([], "got an empty list"),
        (tmp_path / "nowhere", r"folder of photographs .*nowhere does not exist"),
        ([tmp_path / "gone.png"], r"picture .*gone\.png does not exist"),
        (file, r"a folder or a list of files, got the file .*one\.png"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_photographs(given, size=20)


def test_real_photographs_make_pairs(real_data):
    folder = real_data / "natural-images"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; this test reads photographs from it")
    photographs = load_photographs(folder, size=300)
    assert all(min(p.shape) == 300 for p in photographs)
    pairs = natural_pairs(photographs, 60, image_size=128, shift_limit_px=10, rng=0)
    rotated = rotate_images(pairs.first, pairs.angles_rad, pairs.shifts_px, outside="edge-mean")
    axis = np.arange(128) - 64
    inside = np.hypot(axis[:, None], axis) < 40
    error = np.sqrt(np.square(rotated - pairs.second)[:, inside].mean())
    assert error < 0.1 * pairs.second[:, inside].std()
