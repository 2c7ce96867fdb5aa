"""Photographs as grey levels; pairs of their crops: geometry, mask, noise."""

import numpy as np
import PIL.Image
import pytest
import skimage.io
from scipy import ndimage

from cryoem.udl.natural import crop_mask, load_photographs, natural_pairs, published_noise_level
from cryoem.udl.rotation import rotate_images

SIZE = 48


def texture(shape, *, rng, width=2.0):
    """A smooth random picture with values in [0, 1]."""
    noise = ndimage.gaussian_filter(np.random.default_rng(rng).normal(size=shape), width)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def disc(size, radius):
    axis = np.arange(size) - size // 2
    return np.hypot(axis[:, None], axis) < radius


def place_and_frame(crops_x, crops_y):
    """Return positions (n, 2) and matrices (n, 2, 2) of crops, from photographs of the x and y coordinates."""
    o, step = SIZE // 2, 8
    values = np.stack([crops_x, crops_y], axis=1).astype(float)  # (n, 2, y, x)
    along_x = (values[:, :, o, o + step] - values[:, :, o, o - step]) / (2 * step)
    along_y = (values[:, :, o + step, o] - values[:, :, o - step, o]) / (2 * step)
    return values[:, :, o, o], np.stack([along_x, along_y], axis=-1)


def rotation(angles_rad):
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    return np.moveaxis(np.array([[cos, -sin], [sin, cos]]), -1, 0)


# --- geometry


@pytest.fixture(scope="module")
def frames():
    """Pairs at known places in the photograph: positions and matrices of both crops, angles, shifts."""
    height, width = 150, 220
    y, x = np.mgrid[:height, :width].astype(np.float32)
    options = {"image_size": SIZE, "shift_limit_px": 5, "magnification": (0.8, 1.25), "rng": 0}
    of_x, of_y = (natural_pairs([photograph], 600, **options) for photograph in (x, y))
    np.testing.assert_array_equal(of_x.angles_rad, of_y.angles_rad)
    first = place_and_frame(of_x.first, of_y.first)
    second = place_and_frame(of_x.second, of_y.second)
    return first, second, of_x.angles_rad, of_x.shifts_px


def test_the_second_crop_is_the_first_rotated_and_displaced(frames):
    (place, frame), (second_place, second_frame), angles, shifts = frames
    inner = (np.abs(place - [110, 75]) < [60, 30]).all(axis=1)  # the mirrored border is not a ramp
    assert inner.sum() > 100
    np.testing.assert_allclose((second_frame @ rotation(angles))[inner], frame[inner], atol=2e-3)
    expected = place - np.einsum("nij,nj->ni", second_frame, shifts)
    np.testing.assert_allclose(second_place[inner], expected[inner], atol=1e-2)


def test_places_orientations_and_mirrors_are_random(frames):
    (place, frame), _, angles, shifts = frames
    determinant = np.linalg.det(frame)
    assert (determinant < 0).mean() == pytest.approx(0.5, abs=0.1)  # five standard errors
    scale = np.sqrt(np.abs(determinant))
    assert scale.min() == pytest.approx(0.8, abs=0.02)
    assert scale.max() == pytest.approx(1.25, abs=0.02)
    for angle in (angles, np.arctan2(frame[:, 1, 1], frame[:, 0, 1])):
        assert np.abs(np.exp(1j * np.outer([1, 2, 4], angle)).mean(axis=1)).max() < 5 / np.sqrt(2 * 600)
    assert angles.min() >= 0
    assert angles.max() < 2 * np.pi
    assert np.abs(shifts).max() == pytest.approx(5, abs=0.1)
    assert np.abs(shifts.mean(axis=0)).max() < 5 * 5 / np.sqrt(3 * 600)
    assert place[:, 0].min() < 50
    assert place[:, 0].max() > 170


@pytest.mark.parametrize("size", [SIZE, SIZE + 1])
def test_rotate_images_takes_the_first_to_the_second(size):
    pairs = natural_pairs(
        [texture((120, 100), rng=1), texture((90, 130), rng=2)], 40, image_size=size, shift_limit_px=3, rng=3
    )
    inside = disc(size, size / 2 - 9)
    contrast = pairs.second[:, inside].std()

    def residual(angles, shifts):
        rotated = rotate_images(pairs.first, angles, shifts, outside="edge-mean")
        return np.sqrt(np.square(rotated - pairs.second)[:, inside].mean()) / contrast

    assert residual(pairs.angles_rad, pairs.shifts_px) < 0.02
    assert residual(-pairs.angles_rad, pairs.shifts_px) > 0.5
    assert residual(pairs.angles_rad, -pairs.shifts_px) > 0.2


def test_nothing_outside_a_photograph_is_read():
    options = {"image_size": SIZE + 1, "shift_limit_px": 6, "magnification": (0.5, 2.0), "rng": 0}
    with pytest.raises(ValueError, match=r"photographs\[0\] must be at least") as error:
        natural_pairs([np.ones((10, 900))], 1, **options)
    smallest = int(str(error.value).split("at least ")[1].split()[0])
    pairs = natural_pairs([np.full((smallest, smallest), 0.7)], 300, **options)
    np.testing.assert_allclose([pairs.first, pairs.second], 0.7, atol=1e-5)
    with pytest.raises(ValueError, match=f"got {smallest + 9} x {smallest - 1}"):
        natural_pairs([np.ones((smallest - 1, smallest + 9))], 1, **options)


@pytest.mark.parametrize("size", [SIZE, SIZE + 1])
def test_crops_are_constant_outside_a_circle_about_the_origin(size):
    mask = crop_mask(size)
    assert mask[size // 2, size // 2] == 1
    about_origin = mask[-size | 1 :, -size | 1 :] if size % 2 else mask[1:, 1:]
    np.testing.assert_allclose(about_origin, np.rot90(about_origin), atol=1e-6)
    assert mask[:, 0 if size % 2 == 0 else -1].max() == 0
    pairs = natural_pairs(
        [texture((100, 100), rng=1)], 20, image_size=size, noise="gaussian", noise_level=0.5, rng=0
    )
    outside = ~disc(size, (size - 1) // 2)
    for crops in (pairs.first, pairs.second):
        assert np.ptp(crops[:, outside], axis=1).max() == 0
        assert crops[:, ~outside].std(axis=1).min() > 0.4


def test_shrinking_averages_pixels():
    stripes = np.indices((300, 300)).sum(axis=0) % 2.0  # a chequerboard that a reduced crop cannot resolve
    inside = disc(SIZE, 15)

    def contrast(magnification):
        pairs = natural_pairs(
            [stripes], 30, image_size=SIZE, magnification=(magnification, magnification), rng=0
        )
        return pairs.first[:, inside].std()

    assert contrast(1.0) > 0.15
    assert contrast(1 / 3) < 0.1 * contrast(1.0)


# --- noise


@pytest.fixture(scope="module")
def noises():
    """The noise of each kind in 60 pairs, where the mask is 1, and the clean pairs."""
    photograph = 0.2 + 0.6 * texture((100, 100), rng=1)
    options = {"image_size": SIZE, "rng": 5}
    clean = natural_pairs([photograph], 60, **options)
    levels = {"gaussian": 0.3, "salt-and-pepper": 0.4}
    noisy = {
        kind: natural_pairs([photograph], 60, noise=kind, noise_level=level, **options)
        for kind, level in levels.items()
    }
    return clean, noisy, crop_mask(SIZE) == 1


def test_gaussian_noise_is_white_and_independent_for_each_crop(noises):
    clean, noisy, inside = noises
    noise = np.stack([noisy["gaussian"].first - clean.first, noisy["gaussian"].second - clean.second])
    count = 60 * inside.sum()
    for part in noise:
        assert part[:, inside].std() == pytest.approx(0.3, rel=5 / np.sqrt(2 * count))
        neighbours = np.mean(part[:, 15:33, 15:32] * part[:, 15:33, 16:33]) / 0.09  # not interpolated
        assert abs(neighbours) < 5 / np.sqrt(60 * 18 * 17)
    rotated = rotate_images(noise[0], clean.angles_rad)
    for other in (noise[0], rotated):
        assert abs(np.mean(other[:, inside] * noise[1][:, inside])) / 0.09 < 5 / np.sqrt(count)


def test_salt_and_pepper_are_equal_fractions_of_the_pixels(noises):
    clean, noisy, inside = noises
    error = 5 * 0.5 / np.sqrt(60 * inside.sum())
    changed = []
    for crops, before in (
        (noisy["salt-and-pepper"].first, clean.first),
        (noisy["salt-and-pepper"].second, clean.second),
    ):
        values, before = crops[:, inside], before[:, inside]
        black, white = np.abs(values) < 1e-6, np.abs(values - 1) < 1e-6
        assert black.mean() == pytest.approx(0.2, abs=error)
        assert white.mean() == pytest.approx(0.2, abs=error)
        np.testing.assert_allclose(values[~black & ~white], before[~black & ~white], atol=1e-6)
        changed.append(black | white)
    assert (changed[0] & changed[1]).mean() == pytest.approx(0.16, abs=error)


def test_every_photograph_is_used_and_unchanged():
    photographs = [np.full((80 + i, 90 - i), i, np.float32) for i in range(3)]
    pairs = natural_pairs(photographs, 200, image_size=SIZE, rng=0)
    level = pairs.first[:, 24, 24]
    np.testing.assert_allclose(level, pairs.second[:, 24, 24], atol=1e-5)
    values, counts = np.unique(np.rint(level), return_counts=True)
    np.testing.assert_array_equal(values, [0, 1, 2])
    assert counts.min() > 30
    assert all((photograph == i).all() for i, photograph in enumerate(photographs))
    np.testing.assert_array_equal(pairs.first, natural_pairs(photographs, 200, image_size=SIZE, rng=0).first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photographs": []}, "photographs must not be empty"),
        ({"photographs": [np.ones((99, 99)), np.full((99, 99), np.nan)]}, r"photographs\[1\] must be finite"),
        ({"image_size": 7}, "image_size must be an integer >= 8, got 7"),
        ({"noise": "snow"}, "noise must be one of clean, gaussian, salt-and-pepper, got 'snow'"),
        ({"noise_level": 0.1}, "noise_level must be None for noise 'clean', got 0.1"),
        ({"noise": "gaussian"}, "noise_level must be a positive number, got None"),
        ({"noise": "salt-and-pepper", "noise_level": 1.5}, "noise_level must be a fraction .* got 1.5"),
        ({"magnification": (2, 1)}, r"magnification must be two positive numbers, .* got \(2, 1\)"),
    ],
)
def test_errors_name_the_argument_and_the_value(change, message):
    arguments = {"photographs": [np.ones((99, 99))], "n": 2, "image_size": SIZE} | change
    with pytest.raises(ValueError, match=message):
        natural_pairs(arguments.pop("photographs"), arguments.pop("n"), **arguments)


def test_published_noise_is_ten_times_as_strong_as_the_crops():
    photographs = [texture((120, 140), rng=i) for i in range(2)]
    clean = natural_pairs(photographs, 400, image_size=SIZE, rng=1).first.var(axis=(1, 2)).mean()
    level = published_noise_level(photographs, "gaussian", image_size=SIZE)
    assert level**2 == pytest.approx(10 * clean, rel=0.05)
    assert published_noise_level(photographs, "salt-and-pepper", image_size=SIZE) == 0.4
    assert published_noise_level(photographs, "clean", image_size=SIZE) is None
    with pytest.raises(ValueError, match=r"^noise must be one of clean, .*, got 'gauss'$"):
        published_noise_level(photographs, "gauss", image_size=SIZE)


# --- photographs


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
    reduced = load_photographs(tmp_path, size=40)[0]  # every third pixel alone would show stripes
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
    refused(b"hello", "is not a JPEG, PNG or TIFF file: it starts with b'hell'")
    refused(good[: len(good) // 2], "cannot be read as a picture", "half.jpg")
    refused(b"\x89PNG\r\n\x1a\n" + bytes(40), "cannot be read as a picture")
    refused(b"II*\0" + bytes(40), r"is not a single greyscale or RGB picture: .* \(0,\)", "without-pages.tif")
    refused(np.zeros((19, 30), np.uint8), "is 30 x 19 px, but both sides must be at least 20 px")
    refused(
        np.zeros((30, 30, 4), np.uint8),
        r"is not a single greyscale or RGB picture: .* \(30, 30, 4\)",
        "inks.tif",
    )
    refused(
        np.full((30, 30), 7.0, np.float32),
        r"has values from 7 to 7, but they must be in \[0, 1\]",
        "high.tif",
    )
    refused(np.zeros((30, 30), np.int32), "8-bit, 16-bit or floating-point values, got int32", "int.tif")


def test_missing_photographs_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for given, message in (
        (tmp_path / "empty", r"empty contains no photographs"),
        ([], "folder_or_paths contains no photographs"),
        (tmp_path / "nowhere", r"photograph folder .*nowhere does not exist"),
        ([tmp_path / "gone.png"], r"picture .*gone\.png does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_photographs(given, size=20)
