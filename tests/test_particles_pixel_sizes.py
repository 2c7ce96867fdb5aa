"""Pixel sizes of particle files: which of several stated values counts, and images of different sizes."""

import re

import numpy as np
import pandas as pd
import pytest
from particle_files import CS_CTF, DEFOCI, MICROSCOPE, PIXEL, cs, mrc, names_of, optics_of, some_images, star

from cryoem.images import shrink
from cryoem.particles.columns import DoubtfulValue
from cryoem.particles.opening import open_particles, read_poses
from cryoem.particles.relion import relion_tables
from cryoem.particles.star import write_star, write_xmd
from cryoem.particles.writing import names_or_copies, write_particles, write_poses
from cryoem.projection.projectors import project
from cryoem.rotations import random_rotations
from cryoem.volumes.phantoms import phantom


@pytest.fixture
def stack(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    return tmp_path


def test_the_order_of_all_pixel_sizes(stack):
    """rlnPixelSize, which RELION's error message recommends, counts, and contradictions are named."""
    origins = {"rlnOriginXAngst": [3.0]}
    groups = {"rlnOpticsGroup": [1], "rlnPixelSize": 3.0}
    with pytest.warns(
        UserWarning, match=r"size of 3 angstrom, from rlnPixelSize, but the stacks state 1.5; using 3$"
    ):
        file = open_particles(star(stack / "a.star", names_of(1), optics=groups, **origins))
    assert file.pixel_size_angstrom == 3
    np.testing.assert_allclose(file.shifts_px, [[-1, 0]])
    posed = star(stack / "p.star", names_of(1), optics=groups, rlnAngleRot=[0.0], **origins)
    np.testing.assert_allclose(read_poses(posed, pixel_size_angstrom=6.0).shifts_px, [[-0.5, 0]])
    detector = {"rlnDetectorPixelSize": 5.0, "rlnMagnification": 12500.0}  # 4 angstrom
    path = star(stack / "b.star", names_of(1), optics={**groups, "rlnImagePixelSize": 1.5}, **detector)
    with pytest.warns(
        UserWarning, match=r"of 1.5 angstrom, from rlnImagePixelSize, but (.*); using 1.5$"
    ) as caught:
        assert open_particles(path).pixel_size_angstrom == PIXEL
    assert "rlnPixelSize states 3 and rlnDetectorPixelSize / rlnMagnification states 4" in str(
        caught[0].message
    )
    path = star(
        stack / "c.star",
        names_of(1),
        optics=groups,
        rlnPixelSize=1.5,
        rlnOpticsGroup=1,
    )
    with pytest.warns(
        UserWarning, match=r"from rlnPixelSize, but rlnPixelSize in data_optics states 3; using 1.5$"
    ):
        open_particles(path)
    with pytest.warns(
        UserWarning, match=r"states a pixel size of 3 angstrom; using 1.5 angstrom as specified$"
    ):
        written = open_particles(stack / "a.star", pixel_size_angstrom=1.5)
    write_particles(stack / "new.star", written)
    assert open_particles(stack / "new.star").pixel_size_angstrom == 1.5  # the old column is gone


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_scales_that_are_not_positive_are_refused_by_name(stack, bad):
    shown = r"(positive|finite) numbers, got (0|0.0|-1|-1.0|nan) in row 1"
    aligned = {"alignments3D__shift": np.ones((5, 2)), "alignments3D__pose": np.zeros((5, 3))}
    path = cs(stack / "a.cs", **aligned, alignments3D__psize_A=np.full(5, bad))
    for read in (lambda: open_particles(path).shifts_px, lambda: read_poses(path, pixel_size_angstrom=1.0)):
        with pytest.raises(ValueError, match=rf"a.cs: the column alignments3D/psize_A must contain {shown}"):
            read()
    scaled = star(stack / "s.star", names_of(2), **DEFOCI, **MICROSCOPE, rlnCtfScalefactor=[bad, 1.0])
    with pytest.raises(ValueError, match=rf"s.star: the column rlnCtfScalefactor must contain {shown}"):
        _ = open_particles(scaled).optics
    with pytest.raises(ValueError, match=rf"ctf/scale must contain {shown}"):
        _ = open_particles(cs(stack / "b.cs", **CS_CTF, ctf__scale=np.full(5, bad))).optics
    optics = {**optics_of([1]), "rlnImagePixelSize": bad}
    xmd = stack / "a.xmd"
    write_xmd(xmd, pd.DataFrame({"image": names_of(1), "samplingRate": PIXEL, "scale": bad}))
    with pytest.raises(ValueError, match=rf"a.xmd: the column scale must contain {shown}"):
        _ = open_particles(xmd).shifts_px
    write_xmd(xmd, pd.DataFrame({"image": names_of(1), "samplingRate": bad}))
    for path, name in (
        (star(stack / "p.star", names_of(1), optics=optics), "rlnImagePixelSize"),
        (star(stack / "q.star", names_of(1), rlnPixelSize=bad), "rlnPixelSize"),
        (
            star(stack / "r.star", names_of(1), rlnDetectorPixelSize=5.0, rlnMagnification=bad),
            "rlnMagnification",
        ),
        (cs(stack / "c.cs", blob__psize_A=np.full(5, bad)), "blob/psize_A"),
        (xmd, "samplingRate"),
    ):
        with pytest.raises(ValueError, match=rf"{path.name}.* {name}|{path.name}.*{re.escape(name)}\)"):
            open_particles(path)
    with pytest.raises(ValueError, match=r"^pixel_size_angstrom must be a positive number"):
        open_particles(stack / "a.mrcs", pixel_size_angstrom=bad)


def test_the_sign_of_dark_images_is_not_0(stack):
    with pytest.raises(ValueError, match=r"blob/sign must be 1 or -1, got 0 in row 1"):
        _ = open_particles(cs(stack / "a.cs", **CS_CTF, blob__sign=np.zeros(5))).optics


def test_optics_groups_of_different_pixel_sizes_are_rescaled(tmp_path):
    """Two groups of 8 and 8.4 angstrom become one set of images of 8.4 angstrom."""
    size, fine, coarse = 48, 8.0, 8.4
    views = project(phantom(size=size, rng=0).data, random_rotations(6, rng=0), image_size=size)
    smaller = shrink(views, np.full(6, fine / coarse))
    mrc(tmp_path / "a.mrcs", np.concatenate([views[:3], smaller[3:]]), pixel=coarse)
    optics = {**optics_of([1, 2], [fine, coarse])}
    columns = {"rlnOpticsGroup": [1, 1, 1, 2, 2, 2], "rlnOriginXAngst": 16.8, "rlnAngleRot": 0.0}
    path = star(tmp_path / "a.star", names_of(6), optics=optics, **columns)
    with pytest.warns(
        UserWarning,
        match=r"sizes, 8, 8.4 angstrom .*; rescaling them to 8.4 .*--optics-group",
    ):
        file = open_particles(path)
    np.testing.assert_allclose(file, smaller, atol=2e-3 * np.abs(smaller).max())
    np.testing.assert_allclose(file.shifts_px, np.broadcast_to([-2.0, 0.0], (6, 2)))
    np.testing.assert_array_equal(np.asarray(file[[2, 5]]), np.asarray(file)[[2, 5]])
    with pytest.warns(UserWarning, match=r"several pixel sizes; writing rescaled images to b.mrcs"):
        write_poses(tmp_path / "b.star", file, file.poses)  # refers to new, rescaled images
    np.testing.assert_array_equal(open_particles(tmp_path / "b.star"), file)
    assert open_particles(path, optics_group=2).scales is None
    with pytest.raises(
        ValueError, match=r"--pixel-size\) would merge images of different scale; .*--optics-group"
    ):
        open_particles(path, pixel_size_angstrom=8.4)


def test_tables_of_rescaled_images_refer_to_copies(tmp_path):
    images = some_images(4, size=16)
    mrc(tmp_path / "a.mrcs", images, pixel=8.4)
    optics = {**optics_of([1, 2], [8.0, 8.4])}
    path = star(tmp_path / "a.star", names_of(4), optics=optics, rlnOpticsGroup=[1, 1, 2, 2])
    with pytest.warns(UserWarning, match="rescaling them to 8.4"):
        file = open_particles(path)
    (tmp_path / "out").mkdir()
    new = tmp_path / "out/classes.star"
    names = names_or_copies(file, new)
    table, groups = file.relion_tables
    known = {"pixel_size_angstrom": 8.4, "image_size": 16, "table": table, "optics_groups": groups}
    table, groups = relion_tables(names, np.zeros(4), np.zeros((4, 2)), **known)
    write_star(new, table, optics=groups)
    written = open_particles(new)
    assert (written.pixel_size_angstrom, written.scales) == (8.4, None)
    np.testing.assert_array_equal(written, file)
    assert table.rlnOpticsGroup.tolist() == [1, 1, 2, 2]


def test_shifts_of_images_that_were_shrunk_after_their_table_was_written(stack):
    """Images of 6 px, from 12 px of 1.5 angstrom: an origin of 3 angstrom was 2 px, and is 1 px now."""
    optics = optics_of([1]) | {"rlnImageSize": 12}
    path = star(stack / "a.star", names_of(1), optics=optics, rlnOriginXAngst=[3.0])
    with pytest.warns(DoubtfulValue, match=r"12 px .*, but .* 6 px; .* is not 1.5 but 3 angstrom"):
        as_stated = open_particles(path)
    np.testing.assert_allclose(as_stated.shifts_px, [[-2, 0]])
    with pytest.warns(
        UserWarning, match=r"states a pixel size of 1.5 angstrom; using 3 angstrom as specified$"
    ):
        file = open_particles(path, pixel_size_angstrom=3.0)
    np.testing.assert_allclose(file.shifts_px, [[-1, 0]])
    with pytest.warns(UserWarning, match=r"state a pixel size of 1.5 angstrom; replacing it with 3"):
        write_particles(stack / "b.star", file)
    again = open_particles(stack / "b.star")
    np.testing.assert_allclose(again.shifts_px, [[-1, 0]])
    # a different calibration changes no displacement in pixels
    with pytest.warns(UserWarning, match=r"using 1.45 angstrom as specified$"):
        calibrated = open_particles(path, pixel_size_angstrom=1.45)
    np.testing.assert_allclose(calibrated.shifts_px, [[-2, 0]])


def test_stacks_whose_headers_disagree_are_named(stack):
    mrc(stack / "b.mrcs", some_images(), pixel=3.0)
    names = ["1@a.mrcs", "1@b.mrcs"]
    path = star(stack / "a.star", names, optics=optics_of([1]))
    with pytest.warns(UserWarning, match=r"of 1.5 angstrom, .*, but the stacks state 3; using 1.5$"):
        open_particles(path)
    path = star(stack / "b.star", names)
    with pytest.raises(ValueError, match=r"its stacks state 1.5, 3 angstrom; put stacks .* different tables"):
        open_particles(path)


@pytest.mark.parametrize("size", [31, 32])
def test_shrinking_keeps_the_origin_and_the_scale(size):
    """A Gaussian of width s becomes one of width f s about the same origin, and a factor of 1 changes nothing."""
    x = np.arange(size) - size // 2
    wide, narrow = (
        np.exp(-((x[:, None] - 4 * f) ** 2 + (x + 2 * f) ** 2) / (2 * (2.5 * f) ** 2)) for f in (1, 0.8)
    )
    np.testing.assert_allclose(shrink([1 + wide, wide], [0.8, 1.0])[0], 1 + narrow, atol=2e-3)
    np.testing.assert_array_equal(shrink([wide], [1.0])[0], wide.astype(np.float32))
    with pytest.raises(ValueError, match=r"factors must be above 0 and at most 1, got 1.1 to 1.1"):
        shrink([wide], [1.1])
