"""Blank images, images with pixels that are not finite, and images with outlying pixel values."""

from __future__ import annotations

import json
import os
import warnings

import mrcfile
import numpy as np
import pytest
from command_line import invoke
from particle_files import PIXEL, mrc, one_sentence, optics_of, some_images, star

from cryoem.contrast import Optics
from cryoem.distances.exact import exact_distances
from cryoem.files import save_arrays
from cryoem.particles import ParticleStack, check_images, open_particles, usable_images, write_particles
from cryoem.particles.outliers import BLOCK_BYTES, describe_repeats
from cryoem.particles.star import read_star, write_star
from cryoem.reconstruction import reconstruct
from cryoem.rotations import Poses
from cryoem.volumes import read_map

HOT = 57  # index of the image with a hot pixel


@pytest.fixture
def noisy(views, rng):
    """200 images with as much noise as signal, and their orientations."""
    images, rotations = views
    deviation = images.std()
    return images[:200] + rng.normal(0, deviation, (200, 32, 32)).astype(np.float32), rotations[:200]


def written(path, images, rotations):
    write_particles(path, ParticleStack(images, Optics(PIXEL), Poses(rotations)))
    return path


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_hot_pixel_is_named_and_left_out_by_an_option(noisy, particle, tmp_path):
    images, rotations = noisy
    images[HOT, 20, 9] += 10_000 * images.std()
    path = written(tmp_path / "a.star", images, rotations)
    rest = np.delete(np.arange(200), HOT)
    expected = reconstruct(images[rest], rotations[rest], pixel_size_angstrom=PIXEL).data
    maps = {}
    for option in ((), ("--leave-out-outliers",)):
        ended = invoke("reconstruct", path, "--out", tmp_path / "map.mrc", "--force", "--json", *option)
        assert ended.exit_code == 0, ended.output
        maps[json.loads(ended.stdout)["images"]] = read_map(tmp_path / "map.mrc").data
        (warning,) = (line for line in ended.stderr.splitlines() if f"image {HOT + 1} of " in line)
        assert (
            f"image {HOT + 1} of {tmp_path}/a.mrcs has a pixel 1.01e+04 standard deviations from its"
            in warning
        )
        assert warning.startswith(
            f"cryoem: warning: leaving out 1 of the 200 images in {path}: "
            if option
            else f"cryoem: warning: 1 of the 200 images in {path} may be outliers: "
        )
    assert correlation(maps[200], particle) < 0.1
    assert correlation(maps[199], particle) > 0.75
    np.testing.assert_allclose(maps[199], expected, atol=1e-5 * expected.max())


@pytest.mark.filterwarnings("always::UserWarning")
@pytest.mark.parametrize(
    ("value", "reason"), [(3.25, "is blank"), (np.nan, "has pixels that are not finite")]
)
def test_an_unusable_image_is_refused_by_name_or_left_out(value, reason, noisy, tmp_path):
    images, rotations = noisy
    path = written(tmp_path / "a.star", images[:30], rotations[:30])
    with open(tmp_path / "a.mrcs", "r+b") as stream:
        stream.seek(1024 + 4 * 32**2 * 11)
        stream.write(np.full((32, 32), value, np.float32).tobytes())
    out = tmp_path / "map.mrc"
    refused = invoke("reconstruct", path, "--out", out)
    assert (refused.exit_code, refused.stderr) == (
        1,
        f"cryoem: 1 of the 30 images in {path} cannot be used: image 12 of {tmp_path}/a.mrcs {reason}; "
        "use --leave-out-outliers (leave_out_outliers=True) to leave them out\n",
    )
    assert not out.exists()
    for command, to in (("reconstruct", out), ("convert", tmp_path / "b.star")):
        options = ["--out", to] if command == "reconstruct" else [to]
        ended = invoke(command, path, *options, "--leave-out-outliers")
        assert ended.exit_code == 0, ended.stderr
        assert f"image 12 of {tmp_path}/a.mrcs {reason}" in ended.stderr
    clean = open_particles(tmp_path / "b.star")
    np.testing.assert_array_equal(clean, np.delete(images[:30], 11, axis=0))
    np.testing.assert_allclose(
        (clean.rotations * rotations[np.delete(np.arange(30), 11)].inv()).magnitude(), 0, atol=1e-6
    )


@pytest.mark.filterwarnings("always::UserWarning")
def test_recover_uses_the_images_from_which_the_distances_were_estimated(views, tmp_path):
    images, rotations = views
    images = images[:40].copy()
    images[5] = 0
    path, rows = written(tmp_path / "a.star", images, rotations[:40]), np.delete(np.arange(40), 5)
    distances = exact_distances(rotations[rows])
    arrays = {"distances": (distances, "rad"), "rows": (rows, "1")}
    save_arrays(tmp_path / "d.h5", arrays, parameters={})
    ended = invoke("recover", tmp_path / "d.h5", "--particles", path, "--out", tmp_path / "b.star")
    assert ended.exit_code == 0, ended.stderr
    found = open_particles(tmp_path / "b.star")
    assert found.image_names == [f"{row + 1:06d}@a.mrcs" for row in rows]
    np.testing.assert_allclose(exact_distances(found.rotations), distances, atol=1e-3)


def found_in(images, **options) -> tuple[dict, dict]:
    """Return the unusable images and the outliers."""
    check = check_images(images, **options)
    return check.unusable, check.outliers


def test_what_stands_out_is_found_in_any_units_and_on_any_background(rng):
    images = rng.normal(1e4, 1e-3, (60, 24, 24)).astype(np.float64)
    for bad, change in (
        (3, lambda image: image + 1),
        (17, lambda image: 1e4 + 30 * (image - 1e4)),
        (30, lambda image: 1e4 + 0.01 * (image - 1e4)),
        (44, lambda image: np.where(np.arange(24) == 7, image + 0.1, image)),
    ):
        images[bad] = change(images[bad])
    images[50], images[51, 3, 3] = 7, np.inf
    done = []
    unusable, outliers = found_in(images, callback=done.append)
    assert unusable == {50: "is blank", 51: "has pixels that are not finite"}
    assert set(outliers) == {3, 17, 30, 44}
    assert outliers[3].startswith("has a mean of ")
    assert done == [60]


@pytest.mark.filterwarnings("always::UserWarning")
@pytest.mark.parametrize("scale", [1e25, 1e-30])
def test_units_do_not_matter_to_any_command(noisy, tmp_path, scale):
    images, rotations = noisy
    images = images * np.float32(scale)
    assert found_in(images) == ({}, {})
    path = written(tmp_path / "a.star", images, rotations)
    assert json.loads(invoke("check", path, "--json").stdout)["poses_confirmed"]
    ended = invoke("reconstruct", path, "--half-maps", "--out", tmp_path / "a.mrc")
    assert (ended.exit_code, ended.stderr.count("\n")) == (0, 1)  # a warning that there is no CTF
    with mrcfile.open(tmp_path / "a.mrc") as mrc_file:
        assert np.isfinite(mrc_file.header.rms)


def test_a_finite_hot_pixel_is_an_outlier(noisy):
    images, _ = noisy
    images[HOT, 20, 9] = 1e20
    unusable, outliers = found_in(images)
    assert (unusable, list(outliers)) == ({}, [HOT])


def test_images_of_different_views_defoci_and_micrographs_are_not_outliers(views, rng):
    images, _ = views
    assert found_in(images) == ({}, {})
    scaled = rng.uniform(0.5, 2, (300, 1, 1)) * images + rng.normal(0, 1, (300, 1, 1))
    assert found_in(scaled) == ({}, {})
    assert found_in(images[:1]) == ({}, {})


@pytest.mark.parametrize(
    "name", ["sta_testing_bin8.star", "toy_projections.star", "rln_proj_64.star", "relion31.star"]
)
def test_no_real_image_is_an_outlier(real_data, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # unusual headers
        opened = open_particles(real_data / "particles" / name, pixel_size_angstrom=2.0)
    assert found_in(opened) == ({}, {})


def test_all_outliers_are_counted_and_a_stack_without_usable_images_is_refused(tmp_path):
    images = some_images(30, 16)
    images[:12] = 0
    opened = open_particles(mrc(tmp_path / "a.mrcs", images))
    with pytest.raises(
        ValueError, match=r"12 of the 30 images in .*a\.mrcs cannot be used: image 1 of .*and 2 more;"
    ) as error:
        usable_images(opened)
    one_sentence(error)
    with pytest.warns(UserWarning, match="leaving out 12 of the 30 images"):
        rows = usable_images(opened, leave_out_outliers=True)
    assert rows.tolist() == list(range(12, 30))
    with pytest.raises(ValueError, match=r"none of the 12 images in .* can be used"):
        usable_images(opened[:12], leave_out_outliers=True)
    assert os.path.getsize(tmp_path / "a.mrcs") < BLOCK_BYTES  # one block


# --- images on two scales, and images that are listed more than once


def two_stacks(folder, rng, *, change, merged):
    """Write 30 and 30 images, the second half changed, into one stack or two; return the path of the table."""
    images = rng.normal(size=(60, 12, 12)).astype(np.float32)
    images[30:] = change(images[30:])
    parts = {"a": images} if merged else {"a": images[:30], "b": images[30:]}
    for name, part in parts.items():
        mrc(folder / f"{name}.mrcs", part)
    names = [f"{number}@{name}.mrcs" for name, part in parts.items() for number in range(1, len(part) + 1)]
    return star(folder / "job.star", names, optics=optics_of([1]))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda images: 50 * images, "have a typical standard deviation of 50.2, but {} one of 0.98;"),
        (lambda images: images - 40, "have a typical mean of .*, but {} one of -40;"),
    ],
)
@pytest.mark.parametrize("merged", [False, True])
def test_images_on_two_scales_are_named(tmp_path, rng, change, text, merged):
    opened = open_particles(two_stacks(tmp_path, rng, change=change, merged=merged))
    first, second = f"the 30 images of {tmp_path}/a.mrcs", f"the 30 images of {tmp_path}/b.mrcs"
    if merged:
        first, second = r"30 images \(1@a.mrcs to 30@a.mrcs\)", r"30 images \(31@a.mrcs to 60@a.mrcs\)"
    high, low = (second, first) if "deviation" in text else (first, second)
    expected = f"job.star: the images are on two scales: {high} {text.format(low)} normalise all images"
    with pytest.warns(UserWarning, match=expected):
        assert len(usable_images(opened)) == 60
    assert found_in(opened) == ({}, {})


def test_a_copy_of_an_image_under_another_name_is_found(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    os.symlink(tmp_path / "a.mrcs", tmp_path / "b.mrcs")
    for names, text in (
        (["1@a.mrcs", "2@a.mrcs"], ""),
        (["1@a.mrcs", "2@a.mrcs", "2@b.mrcs"], "1 image is listed twice, such as 2@a.mrcs; unless"),
        (
            ["3@a.mrcs", "1@a.mrcs", "3@a.mrcs", "1@a.mrcs", "1@a.mrcs"],
            "2 images are listed more than once, such as 3@",
        ),
    ):
        found = describe_repeats(open_particles(star(tmp_path / "job.star", names, optics=optics_of([1]))))
        assert found.startswith(text)
        assert bool(found) == bool(text)


@pytest.mark.filterwarnings("always::UserWarning")
def test_half_maps_need_images_in_both_halves_and_warn_about_copies(noisy, tmp_path):
    images, rotations = noisy
    path, half = tmp_path / "a.star", tmp_path / "half.star"
    written(path, images[:30], rotations[:30])
    rows, groups = read_star(path)
    write_star(half, rows.assign(rlnRandomSubset=[1, *[2] * 29]), optics=groups)
    refused = invoke("reconstruct", half, "--half-maps", "--out", tmp_path / "map.mrc")
    expected = "cryoem: each half-set must have at least 8 images, got 1 and 29\n"
    assert (refused.exit_code, refused.stderr) == (1, expected)
    twice = tmp_path / "twice.star"
    write_star(twice, rows.iloc[[*range(30), 4]], optics=groups)
    ended = invoke("reconstruct", twice, "--half-maps", "--out", tmp_path / "map.mrc")
    assert ended.exit_code == 0
    assert (
        "1 image is listed twice, such as 000005@a.mrcs; unless all copies of an image are in" in ended.stderr
    )
