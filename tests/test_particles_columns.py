"""Poses and CTF parameters in files of RELION and other programs, in the conventions of this project."""

import re

import numpy as np
import pandas as pd
import pytest
from particle_files import (
    PIXEL,
    correlation,
    cs,
    mrc,
    names_of,
    one_sentence,
    optics_of,
    some_images,
    star,
)
from scipy.spatial.transform import Rotation
from small_maps import cropped_to_64, ribosome

from cryoem.contrast import ContrastTransfer
from cryoem.images import shift
from cryoem.particles.columns import DoubtfulValue
from cryoem.particles.opening import open_particles
from cryoem.particles.star import write_xmd
from cryoem.projection.projectors import project
from cryoem.rotations import from_relion_euler_deg

MICROSCOPE = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
QUIET = pytest.mark.filterwarnings(
    "ignore:.*(lacks the MAP|states a pixel size|has no CTF|states optics|states images of|place the):UserWarning"
)


@pytest.fixture
def stack(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    return tmp_path


# --- real files


@pytest.mark.parametrize("name", ["rln_proj_64", "rln_proj_65", "rln_proj_65_shifted"])
@QUIET
def test_relions_projections_are_those_at_the_poses_of_its_tables(real_data, name):
    stack = open_particles(real_data / "particles" / f"{name}.star", pixel_size_angstrom=1.0).to_stack()
    odd = stack.image_size % 2
    density = ribosome(real_data)
    if not odd:
        density = cropped_to_64(density)
    # In odd boxes, RELION is one pixel further along x and along y; see docs/conventions.md.
    views = project(density, stack.rotations, backend="fourier")
    seen = shift(views, stack.shifts_px + odd)
    turned = project(density, Rotation.from_euler("x", 0.2) * stack.rotations, backend="fourier")
    turned = shift(turned, stack.shifts_px + odd)
    for i, image in enumerate(stack.images):
        assert correlation(seen[i], image) > 0.99
        assert correlation(turned[i], image) < 0.95
        if name.endswith("shifted"):
            assert correlation(shift(views, odd - stack.shifts_px)[i], image) < 0.5


def test_the_star_and_the_cs_of_empiar_10076_agree(real_data):
    of_relion, of_cryosparc = (
        open_particles(real_data / "particles" / f"empiar_10076_7.{suffix}") for suffix in ("star", "cs")
    )
    assert len(of_relion) == len(of_cryosparc) == 7
    assert of_relion.pixel_size_angstrom == pytest.approx(of_cryosparc.pixel_size_angstrom, rel=1e-6)
    np.testing.assert_array_equal(of_relion, of_cryosparc)
    np.testing.assert_allclose(of_relion.defocus_angstrom, of_cryosparc.defocus_angstrom, rtol=1e-6)
    np.testing.assert_allclose(of_relion.defocus_angstrom[0], [15301.1, 14916.4, np.deg2rad(5.28)])
    for name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast", "phase_shift_rad"):
        assert getattr(of_relion.ctf, name) == pytest.approx(getattr(of_cryosparc.ctf, name), rel=1e-6)
    middle = np.hypot(*np.mgrid[-160:160, -160:160]) < 50
    assert max(image[middle].mean() - image[~middle].mean() for image in np.asarray(of_cryosparc)) < 0
    assert not of_cryosparc.ctf.inverted  # from blob/sign; RELION cannot record that particles are dark
    assert of_relion.poses is of_cryosparc.poses is None
    assert of_relion.shifts_px is of_cryosparc.shifts_px is None


@QUIET
def test_known_numbers_of_relion_31_and_of_a_phase_plate(real_data):
    file = open_particles(real_data / "particles" / "relion31.star")
    np.testing.assert_allclose(file.shifts_px[0], [-0.019324 / 2.806, 0.64686 / 2.806], rtol=1e-4)
    assert file.defocus_angstrom[0] == pytest.approx([13108.082418, 12845.582418, np.deg2rad(-160.39)])
    assert file.optics.ctf.spherical_aberration_mm == 0.01
    expected = from_relion_euler_deg([-102.30296, 82.318041, 124.706463])
    assert (file.poses.rotations[0] * expected.inv()).magnitude() < 1e-6
    plate = open_particles(real_data / "particles" / "toy_projections.star")
    assert plate.ctf.phase_shift_rad == pytest.approx(np.pi / 2)
    assert not plate.defocus_angstrom.any()


@pytest.mark.parametrize(
    ("name", "pixel"),
    [
        ("aspire_sample_particles_relion30", 5e4 / 37369.207031),
        ("aspire_sample_particles_relion31", 1.4),
        ("relion5", 0.89),
    ],
)
@QUIET
def test_every_dialect_of_relion(real_data, tmp_path, name, pixel):
    """Two files with two voltages: RELION 3.0 stores them per particle, 3.1 per optics group."""
    path = tmp_path / f"{name}.star"
    path.write_bytes((real_data / "particles" / path.name).read_bytes())
    for seed, stack in enumerate(("sample", "toy_images_a", "toy_images_b")):
        mrc(tmp_path / f"{stack}.mrcs", some_images(100, 4, seed), pixel=0)
    file = open_particles(path)
    assert file.pixel_size_angstrom == pytest.approx(pixel)
    number, stack = re.fullmatch(r"(\d+)@(?:.*/)?(\w+)\.mrcs", file.image_names[-1]).groups()
    seed = ("sample", "toy_images_a", "toy_images_b").index(stack)
    np.testing.assert_array_equal(file[[-1]], some_images(100, 4, seed)[int(number) - 1 : int(number)])
    assert len(file.rotations) == len(file.shifts_px) == len(file.defocus_angstrom) == len(file)
    if name == "relion5":
        assert file.ctf.voltage_kv == 100
        return
    assert file[:8].optics.ctf.voltage_kv == 300
    with pytest.raises(
        ValueError, match=r"the voltage must be the same for all particles, got 200 to 300 kV"
    ):
        _ = file.optics


# --- RELION


def test_origins_have_relions_sign_and_the_pixels_of_the_table(stack):
    mrc(stack / "a.mrcs", some_images(size=8))
    angstrom = {"rlnOriginXAngst": [3.0, 0.0], "rlnOriginYAngst": [-1.5, 6.0]}
    pixels = {"rlnOriginX": [2.0, 0.0], "rlnOriginY": [-1.0, 4.0]}
    for columns in (angstrom, pixels):
        file = open_particles(star(stack / "a.star", names_of(2), optics=optics_of([1]), **columns))
        np.testing.assert_allclose(file.shifts_px, [[-2, 1], [0, -4]])
    for optics, argument, expected in (
        (optics_of([1]), 2, [[-2, 1], [0, -4]]),
        (None, 3, [[-1, 0.5], [0, -2]]),
    ):
        path = star(stack / "a.star", names_of(2), optics=optics, **angstrom)
        with pytest.warns(
            UserWarning,
            match=rf"states a pixel size of 1.5 angstrom; using {argument} angstrom as",
        ):
            file = open_particles(path, pixel_size_angstrom=argument)
        np.testing.assert_allclose(file.shifts_px, expected)


def test_shifts_need_a_positive_pixel_size(stack):
    """The argument is the pixel size of the images, not the unit of the shifts in the table."""
    columns = {"rlnOriginXAngst": [3.0], "rlnDetectorPixelSize": 5.0, "rlnMagnification": 0.0}
    fields = {"alignments3D__shift": np.ones((5, 2)), "alignments3D__psize_A": np.ones(5)}
    for path, size in (
        (star(stack / "a.star", names_of(1), **columns), "inf"),
        (cs(stack / "a.cs", **fields, blob__psize_A=np.zeros(5)), "0"),
    ):
        file = open_particles(path, pixel_size_angstrom=PIXEL)
        with pytest.raises(
            ValueError, match=rf"pixel sizes must be positive .*, got {size} angstrom in row 1$"
        ):
            _ = file.shifts_px


def test_missing_columns_are_0_as_in_relion(stack):
    columns = {"rlnAnglePsi": [30.0], "rlnOriginXAngst": [3.0], "rlnDefocusU": [1e4]}
    file = open_particles(
        star(stack / "a.star", names_of(1), optics={**optics_of([1]), **MICROSCOPE}, **columns)
    )
    turn = file.rotations * Rotation.from_euler("z", [[np.deg2rad(30)]])
    assert turn.magnitude() == pytest.approx(0, abs=1e-12)
    np.testing.assert_array_equal(file.shifts_px, [[-2, 0]])
    np.testing.assert_array_equal(file.defocus_angstrom, [[1e4, 1e4, 0]])
    assert file.ctf == ContrastTransfer(300, 2.7, 0.1, 0.0, (1e4, 1e4), inverted=True)


def test_the_range_of_defocus_and_images_that_programs_corrected(stack):
    defoci = {"rlnDefocusU": [1e4, 3e4], "rlnDefocusV": [9e3, 3e4], "rlnDefocusAngle": [10.0, 20.0]}
    file = open_particles(star(stack / "a.star", names_of(2), **defoci, **MICROSCOPE))
    assert file.ctf.defocus_range_angstrom == (9.5e3, 3e4)  # mean of U and V
    for flag in ("rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped"):
        assert open_particles(star(stack / "a.star", names_of(2), **defoci, **MICROSCOPE, **{flag: 0})).ctf
        file = open_particles(star(stack / "a.star", names_of(2), **defoci, **MICROSCOPE, **{flag: 1}))
        with pytest.raises(ValueError, match=rf"a.star contains CTF-corrected images \({flag} is 1\)"):
            _ = file.ctf


def test_one_optics_group_of_several(stack):
    optics = {**optics_of([3, 1], [PIXEL, 2.0]), **MICROSCOPE, "rlnVoltage": [300.0, 200.0]}
    columns = {"rlnOpticsGroup": [1, 3, 3, 1], "rlnDefocusU": [1e4, 2e4, 3e4, 4e4]}
    path = star(stack / "a.star", names_of(4), optics=optics, **columns)
    with pytest.raises(ValueError, match=r"has no single valid pixel size, got 1.5, 2 angstrom"):
        open_particles(path)
    file = open_particles(path, optics_group=3)
    assert (file.pixel_size_angstrom, file.ctf.voltage_kv) == (PIXEL, 300)
    assert file.image_names == names_of(4)[1:3]
    np.testing.assert_array_equal(file, some_images()[1:3])
    np.testing.assert_array_equal(file.defocus_angstrom[:, 0], [2e4, 3e4])
    write_xmd(stack / "a.xmd", pd.DataFrame({"image": names_of(2)}))
    for wrong, number, message in (
        (path, 2, r"a.star has no optics group 2; it has 1, 3$"),
        (
            stack / "a.mrcs",
            1,
            r"a.mrcs is a stack without a table, so the optics group 1 \(--optics-group\) does not apply; omit it",
        ),
        (stack / "a.xmd", 1, r"a.xmd has no optics groups; omit the optics group 1"),
        (star(stack / "b.star", names_of(2)), 1, r"b.star has no optics groups"),
    ):
        with pytest.raises(ValueError, match=message):
            open_particles(wrong, optics_group=number)


def test_optics_groups_that_do_not_fit(stack):
    for optics, groups, message in (
        (optics_of([1, 1]), [1, 1], "defines optics group 1 more than once"),
        (
            optics_of([1, 2]),
            None,
            "has 2 optics groups, so both of its tables must have a column rlnOpticsGroup",
        ),
        (optics_of([1, 2]), [2, 7], "has particles in optics group 7, but does not define this group"),
        (optics_of([1], ["much"]), None, "rlnImagePixelSize must contain finite numbers, got much in row 1"),
    ):
        columns = {} if groups is None else {"rlnOpticsGroup": groups}
        with pytest.raises(ValueError, match=message):
            open_particles(star(stack / "a.star", names_of(2), optics=optics, **columns))


# --- pixel size


def test_argument_table_and_headers_in_this_order(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images(), pixel=PIXEL * 1.009)
    path = star(tmp_path / "a.star", ["1@a.mrcs"], optics=optics_of([1]))
    assert open_particles(path).pixel_size_angstrom == PIXEL
    assert open_particles(path, pixel_size_angstrom=1.51).pixel_size_angstrom == 1.51
    with pytest.warns(UserWarning, match=r"a.star states a pixel size of 1.5 angstrom; using 2 angstrom as"):
        assert open_particles(path, pixel_size_angstrom=2).pixel_size_angstrom == 2.0
    mrc(tmp_path / "a.mrcs", some_images(), pixel=PIXEL * 1.02)
    with pytest.warns(
        UserWarning, match=r"a.star states a pixel size of 1.5 .* stacks state 1.53; using 1.5$"
    ):
        assert open_particles(path).pixel_size_angstrom == PIXEL
    with pytest.warns(UserWarning, match=r"a.mrcs states a pixel size of 1.53 angstrom; using 2 angstrom as"):
        assert open_particles(tmp_path / "a.mrcs", pixel_size_angstrom=2).pixel_size_angstrom == 2.0


@pytest.mark.parametrize(
    ("pixel", "says"),
    [
        (0.0, "has no single valid pixel size, got 0 angstrom; pass"),
        (np.nan, "has no single valid pixel size, got nan angstrom; pass"),
        (
            (1.0, 1.2, 1.0),
            "has no pixel size, and its stacks state 1, 1.2 angstrom; put stacks of different pixel size into "
            "different tables, or, if their headers are wrong, pass",
        ),
    ],
)
def test_a_header_without_a_pixel_size(tmp_path, pixel, says):
    path = mrc(tmp_path / "a.mrcs", some_images(), pixel=pixel)
    with pytest.raises(ValueError, match=r"pixel size") as error:
        open_particles(path)
    assert one_sentence(error) == f"{path} {says} pixel_size_angstrom (--pixel-size)"
    mrc(path, some_images(), pixel=0)
    assert open_particles(path, pixel_size_angstrom=2.5).pixel_size_angstrom == 2.5
    by_table = star(tmp_path / "a.star", ["1@a.mrcs"], optics=optics_of([1]))
    assert open_particles(by_table).pixel_size_angstrom == PIXEL
    with pytest.raises(ValueError, match=r"^pixel_size_angstrom must be a positive number, got '1'$"):
        open_particles(path, pixel_size_angstrom="1")


def test_pixel_sizes_of_relion_30_and_of_several_stacks_or_groups(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images(), pixel=1.0)
    mrc(tmp_path / "b.mrcs", some_images(), pixel=2.0)
    mrc(tmp_path / "c.mrcs", some_images(), pixel=0)
    detector = {"rlnDetectorPixelSize": 5.0, "rlnMagnification": 38168.0}
    file = open_particles(star(tmp_path / "a.star", ["1@c.mrcs", "2@c.mrcs"], block="", **detector))
    assert file.pixel_size_angstrom == pytest.approx(5e4 / 38168)
    optics = optics_of([1, 2, 3], [2.0, 4.0, 2.0])
    used = star(tmp_path / "a.star", ["1@b.mrcs", "2@b.mrcs"], optics=optics, rlnOpticsGroup=[3, 1])
    assert open_particles(used).pixel_size_angstrom == 2.0  # other groups are ignored
    for names, options, sizes in (
        (["1@b.mrcs", "2@b.mrcs"], {"optics": optics, "rlnOpticsGroup": [2, 1]}, "2, 4"),
        (["1@c.mrcs"], {**detector, "rlnMagnification": 0.0, "block": ""}, "inf"),
    ):
        path = star(tmp_path / "a.star", names, **options)
        with pytest.raises(ValueError, match=rf"a.star has no single valid pixel size, got {sizes} angstrom"):
            open_particles(path)


# --- values that are almost certainly wrong


def in_every_format(folder, defocus=(1e4,), x_shift=(0.0,)):
    """Open files of three programs with the same 5 defoci (angstrom) and shifts (pixels) in their columns."""
    mrc(folder / "a.mrcs", some_images(size=8))
    defocus, x_shift = np.resize(defocus, 5), np.resize(x_shift, 5)
    constants = np.array([300.0, 2.7, 0.1])
    relion = dict(
        zip(("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"), constants, strict=True)
    )
    relion |= {"rlnDefocusU": defocus, "rlnOriginX": x_shift, "rlnOriginY": 0.0}
    yield open_particles(star(folder / "a.star", names_of(5), optics=optics_of([1]), **relion))
    fields = dict(zip(("ctf__accel_kv", "ctf__cs_mm", "ctf__amp_contrast"), constants, strict=True))
    fields = {name: np.full(5, value) for name, value in fields.items()}
    shifts = np.stack([x_shift, np.zeros(5)], axis=1)
    yield open_particles(cs(folder / "a.cs", **fields, ctf__df1_A=defocus, alignments3D__shift=shifts))
    table = dict(zip(("ctfVoltage", "ctfSphericalAberration", "ctfQ0"), constants, strict=True))
    table |= {"image": names_of(5), "ctfDefocusU": defocus, "shiftX": x_shift, "shiftY": 0.0, "angleRot": 1.0}
    write_xmd(folder / "a.xmd", pd.DataFrame(table))
    yield open_particles(folder / "a.xmd")


def test_a_defocus_in_micrometres_is_a_warning_in_every_format(tmp_path):
    for file in in_every_format(tmp_path, defocus=(1.7, -0.4)):
        with pytest.warns(DoubtfulValue) as caught:
            assert file.defocus_angstrom[0, 0] == pytest.approx(1.7)
        (text,) = (str(each.message) for each in caught)
        assert re.fullmatch(
            rf"{re.escape(str(file.path))}: the largest defocus \(\S+\) is 1.7 Å, which is implausibly small; convert "
            r"the defoci to angstrom \(multiply micrometres by 10,000\)",
            text,
        )


@pytest.mark.parametrize("defocus", [(0.0,), (0.0, 300.0), (-5e3,)])
def test_near_focus_and_overfocus_are_possible(tmp_path, defocus):
    for file in in_every_format(tmp_path, defocus=defocus):
        assert file.defocus_angstrom[0, 0] == defocus[0]


def test_a_shift_out_of_the_image_is_a_warning_in_every_format(tmp_path):
    for file in in_every_format(tmp_path, x_shift=(0.0, -4.0, 500.0)):
        with pytest.warns(
            DoubtfulValue, match="the shifts of 1 of 5 images, up to 500 px, place .* of 8 px;"
        ):
            assert file.shifts_px[2, 0] == -500
        assert file[:2].shifts_px[1, 0] == 4  # at the edge


def test_another_image_size_in_the_table_means_another_pixel_size(stack):
    size = "states images of 12 px ({}), but its stacks contain images of 6 px; if the images were rescaled, the pixel "
    size += "size is not 1.5 but 3 angstrom (--pixel-size)"
    relion = star(stack / "a.star", names_of(2), optics=optics_of([1]) | {"rlnImageSize": 12})
    cryosparc = cs(stack / "a.cs", blob__shape=np.full((5, 2), 12, np.uint32))
    for path, column in ((relion, "rlnImageSize"), (cryosparc, "blob/shape/0")):
        with pytest.warns(DoubtfulValue) as caught:
            open_particles(path)
        assert [str(each.message) for each in caught] == [f"{path} {size.format(column)}"]
        open_particles(path, pixel_size_angstrom=PIXEL)  # the user has decided
    open_particles(cs(stack / "a.cs", blob__shape=np.full((5, 2), 6, np.uint32)))


@pytest.mark.parametrize("pixel", [8e-10, 80.0])
def test_a_pixel_size_in_another_unit_is_a_warning(stack, pixel):
    path = mrc(stack / "a.mrcs", some_images(), pixel=pixel)
    with pytest.warns(DoubtfulValue, match=f"a.mrcs: a pixel size of {pixel:g} angstrom is implausible"):
        open_particles(path)
