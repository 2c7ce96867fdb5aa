"""The pixel size of particle files: which source is believed, and what is said where sources disagree."""

import numpy as np
import pytest
from particle_files import (
    PIXEL,
    mrc,
    one_sentence,
    optics_of,
    some_images,
    star,
)

from cryoem.particles import open_particles


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
        ValueError,
        match=r"a.star must have finite numbers in the column rlnImagePixelSize, got much in row 1",
    ):
        open_particles(path)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, "1"])
def test_a_pixel_size_that_is_none(tmp_path, value):
    with pytest.raises(ValueError, match=r"pixel_size_angstrom must be a positive number, got"):
        open_particles(mrc(tmp_path / "a.mrcs", some_images()), pixel_size_angstrom=value)
