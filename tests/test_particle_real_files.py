"""Particle files that other programs wrote are read as these wrote them."""

import re

import mrcfile
import numpy as np
import pytest
from particle_files import (
    digests,
    mrc,
    some_images,
)

from cryoem.particles import open_particles


@pytest.mark.parametrize(
    "name",
    [
        "aspire_sample.mrcs",
        "empiar_10076_7.mrc",
        "hand.mrcs",
        "relion31.mrcs",
        "rln_proj_64.mrcs",
        "rln_proj_65.mrcs",
        "rln_proj_65_shifted.mrcs",
        "toy_projections.mrcs",
    ],
)
@pytest.mark.filterwarnings("ignore:.*(lacks the MAP|gives a pixel size):UserWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:mrcfile")
def test_real_stacks_are_read_as_mrcfile_reads_them(real_data, name):
    path = real_data / "particles" / name
    before = digests(path.parent)
    with mrcfile.open(path, permissive=True) as stack:
        expected = stack.data.copy()
    file = open_particles(path, pixel_size_angstrom=2.0)
    assert (len(file), file.image_size) == (len(expected), expected.shape[2])
    np.testing.assert_array_equal(np.concatenate([block for _, block in file.blocks(3)]), expected)
    assert digests(path.parent) == before


@pytest.mark.parametrize(
    ("name", "stack", "n", "pixel"),
    [
        ("empiar_10076_7", "empiar_10076_7.mrc", 7, 5e4 / 38168),
        ("relion31", "relion31.mrcs", 5, 2.806),
        ("rln_proj_65_shifted", "rln_proj_65_shifted.mrcs", 4, 1.0),
        ("toy_projections", "toy_projections.mrcs", 1000, 1.0),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(lacks the MAP|gives a pixel size):UserWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:mrcfile")
def test_real_star_files_with_their_stacks(real_data, name, stack, n, pixel):
    folder = real_data / "particles"
    file = open_particles(folder / f"{name}.star")
    assert (len(file), len(file.table)) == (n, n)
    assert file.pixel_size_angstrom == pytest.approx(pixel)
    with mrcfile.open(folder / stack, permissive=True) as images:
        np.testing.assert_array_equal(file.read([n - 1, 0]), images.data[[n - 1, 0]])


@pytest.mark.parametrize("name", ["rln_proj_64", "rln_proj_65"])
def test_real_star_files_that_give_no_pixel_size(real_data, name):
    path = real_data / "particles" / f"{name}.star"
    with pytest.raises(ValueError, match=f"{name}.star gives no single pixel size, got 0 angstrom"):
        open_particles(path)
    assert len(open_particles(path, pixel_size_angstrom=1.0)) == 5


@pytest.mark.parametrize(
    ("name", "pixel"),
    [
        ("aspire_sample_particles_relion30", 5e4 / 37369.207031),
        ("aspire_sample_particles_relion31", 1.4),
        ("relion5", 0.89),
    ],
)
def test_real_star_files_whose_stacks_are_elsewhere(real_data, tmp_path, name, pixel):
    source = real_data / "particles" / f"{name}.star"
    with pytest.raises(FileNotFoundError, match=f"{name}.star names the stack .*.mrcs, which is neither in"):
        open_particles(source)
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    wanted: dict[str, int] = {}
    for number, stack in re.findall(r"\b(\d+)@(sample|toy_images_[a-z]+)\.mrcs", path.read_text()):
        wanted[stack] = max(wanted.get(stack, 0), int(number))
    for seed, (stack, n) in enumerate(wanted.items()):
        mrc(tmp_path / f"{stack}.mrcs", some_images(n, 8, seed), pixel=pixel)
    file = open_particles(path)
    assert file.pixel_size_angstrom == pytest.approx(pixel)
    for index, image_name in enumerate(file.image_names):
        number, stack = re.match(r"(\d+)@(\w+)\.mrcs", image_name).groups()
        expected = some_images(wanted[stack], 8, list(wanted).index(stack))[int(number) - 1]
        np.testing.assert_array_equal(file.read([index])[0], expected)
