"""What a particle file says of each particle, in the conventions of this project."""

import numpy as np
import pandas as pd
import pytest
from particle_files import PIXEL, correlation, cs, mrc, names_of, one_sentence, optics_of, some_images, star
from scipy.spatial.transform import Rotation
from small_maps import cropped_to_64, ribosome

from cryoem import imaging
from cryoem.contrast import ContrastTransfer
from cryoem.particles import open_particles
from cryoem.projectors import project
from cryoem.rotations import from_relion_euler_deg

MICROSCOPE = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
QUIET = pytest.mark.filterwarnings("ignore:.*(lacks the MAP|gives a pixel size):UserWarning")


# --- real files


@pytest.mark.parametrize("name", ["rln_proj_64", "rln_proj_65", "rln_proj_65_shifted"])
@QUIET
def test_relions_projections_are_those_at_the_orientations_and_shifts_of_its_tables(real_data, name):
    stack = open_particles(real_data / "particles" / f"{name}.star", pixel_size_angstrom=1.0).to_stack()
    odd = stack.images.shape[1] % 2
    density = ribosome(real_data)
    if not odd:
        density = cropped_to_64(density)
    # RELION's odd boxes sit one pixel further along x and along y, see docs/conventions.md
    views = project(density, stack.rotations, backend="fourier")
    seen = imaging.shift(views, stack.shifts_px + odd)
    turned = project(density, Rotation.from_euler("x", 0.2) * stack.rotations, backend="fourier")
    turned = imaging.shift(turned, stack.shifts_px + odd)
    for i, image in enumerate(stack.images):
        assert correlation(seen[i], image) > 0.99
        assert correlation(turned[i], image) < 0.95
        if name.endswith("shifted"):
            assert correlation(imaging.shift(views, odd - stack.shifts_px)[i], image) < 0.5


def test_the_star_and_the_cs_of_empiar_10076_agree(real_data):
    of_relion, of_cryosparc = (
        open_particles(real_data / "particles" / f"empiar_10076_7.{suffix}") for suffix in ("star", "cs")
    )
    assert len(of_relion) == len(of_cryosparc) == 7
    assert of_relion.pixel_size_angstrom == pytest.approx(of_cryosparc.pixel_size_angstrom, rel=1e-6)
    np.testing.assert_array_equal(of_relion.read(slice(None)), of_cryosparc.read(slice(None)))
    np.testing.assert_allclose(of_relion.defocus_angstrom, of_cryosparc.defocus_angstrom, rtol=1e-6)
    np.testing.assert_allclose(of_relion.defocus_angstrom[0], [15301.1, 14916.4, np.deg2rad(5.28)])
    for name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast", "phase_shift_rad"):
        assert getattr(of_relion.ctf, name) == pytest.approx(getattr(of_cryosparc.ctf, name), rel=1e-6)
    assert (of_relion.ctf.voltage_kv, of_relion.ctf.spherical_aberration_mm) == (300, 2.7)
    middle = np.hypot(*np.mgrid[-160:160, -160:160]) < 50
    contrast = [image[middle].mean() - image[~middle].mean() for image in of_cryosparc.read(slice(None))]
    assert max(contrast) < 0
    assert not of_cryosparc.ctf.inverted  # by blob/sign; RELION's table cannot say that particles are dark
    assert of_relion.ctf.b_factor_angstrom2 == of_cryosparc.ctf.b_factor_angstrom2 == 0
    assert of_relion.rotations is of_cryosparc.rotations is None  # neither file has a pose
    assert of_relion.shifts_px is of_cryosparc.shifts_px is None


@QUIET
def test_known_numbers_of_relion_31(real_data):
    file = open_particles(real_data / "particles" / "relion31.star")
    np.testing.assert_allclose(file.shifts_px[0], [-0.019324 / 2.806, 0.64686 / 2.806], rtol=1e-4)
    assert file.defocus_angstrom[0] == pytest.approx([13108.082418, 12845.582418, np.deg2rad(-160.39)])
    assert file.ctf.spherical_aberration_mm == 0.01
    expected = from_relion_euler_deg([-102.30296, 82.318041, 124.706463])
    assert (file.rotations[0] * expected.inv()).magnitude() < 1e-6


@QUIET
def test_a_phase_plate_is_a_phase_shift(real_data):
    file = open_particles(real_data / "particles" / "toy_projections.star")
    assert file.ctf.phase_shift_rad == pytest.approx(np.pi / 2)
    assert not file.defocus_angstrom.any()


@pytest.mark.parametrize(
    "name", ["aspire_sample_particles_relion30", "aspire_sample_particles_relion31", "relion5"]
)
def test_every_dialect_of_relion_gives_all(real_data, tmp_path, name):
    """Two voltages in two of them: RELION 3.0 has them of particles, 3.1 of optics groups."""
    source = real_data / "particles" / f"{name}.star"
    (tmp_path / "a.star").write_text(source.read_text())
    for stack in ("sample", "toy_images_a", "toy_images_b"):
        mrc(tmp_path / f"{stack}.mrcs", some_images(100, 4), pixel=0)
    file = open_particles(tmp_path / "a.star")
    assert len(file.rotations) == len(file.shifts_px) == len(file.defocus_angstrom) == len(file)
    one = file.subset(slice(8)) if name != "relion5" else file
    assert one.ctf.voltage_kv == (100 if name == "relion5" else 300)
    if name != "relion5":
        with pytest.raises(
            ValueError, match=r"must have one voltage_kv for all particles, got from 200 to 300"
        ) as error:
            _ = file.ctf
        one_sentence(error)


# --- STAR


@pytest.fixture
def stack(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    return tmp_path


def test_a_bare_stack_says_nothing(stack):
    file = open_particles(stack / "a.mrcs")
    assert (file.rotations, file.shifts_px, file.defocus_angstrom, file.ctf) == (None, None, None, None)
    in_memory = file.to_stack([3, 1])
    np.testing.assert_array_equal(in_memory.images, some_images()[[3, 1]])
    assert in_memory.pixel_size_angstrom == PIXEL
    assert (in_memory.rotations, in_memory.ctf) == (None, None)


def test_a_table_of_names_alone_says_nothing(stack):
    file = open_particles(star(stack / "a.star", names_of(5), optics={**optics_of([1]), **MICROSCOPE}))
    assert (file.rotations, file.shifts_px, file.defocus_angstrom, file.ctf) == (None, None, None, None)


def test_origins_in_angstrom_and_in_pixels_have_relions_sign(stack):
    angstrom = {"rlnOriginXAngst": [3.0, 0.0], "rlnOriginYAngst": [-1.5, 6.0]}
    pixels = {"rlnOriginX": [2.0, 0.0], "rlnOriginY": [-1.0, 4.0]}
    for columns in (angstrom, pixels):
        file = open_particles(star(stack / "a.star", names_of(2), optics=optics_of([1]), **columns))
        np.testing.assert_allclose(file.shifts_px, [[-2, 1], [0, -4]])


def test_origins_in_angstrom_mean_the_pixels_that_the_table_states(stack):
    columns = {"rlnOriginXAngst": [3.0], "rlnOriginYAngst": [-1.5]}
    path = star(stack / "a.star", names_of(1), optics=optics_of([1]), **columns)
    with pytest.warns(UserWarning, match=r"gives a pixel size of 1.5 angstrom; took .*=2$"):
        file = open_particles(path, pixel_size_angstrom=2)
    np.testing.assert_allclose(file.shifts_px, [[-2, 1]])
    path = star(stack / "a.star", names_of(1), **columns)
    with pytest.warns(UserWarning, match=r"gives a pixel size of 1.5 angstrom; took .*=3$"):
        file = open_particles(path, pixel_size_angstrom=3)
    np.testing.assert_allclose(file.shifts_px, [[-1, 0.5]])


def test_origins_in_angstrom_mean_nothing_where_the_table_states_no_size(stack):
    """The argument says how large a pixel is; it does not say which pixels the table's origins were made with."""
    columns = {"rlnOriginXAngst": [3.0], "rlnDetectorPixelSize": 5.0, "rlnMagnification": 0.0}
    file = open_particles(star(stack / "a.star", names_of(1), **columns), pixel_size_angstrom=PIXEL)
    with pytest.raises(ValueError, match=r"must state positive pixel sizes, .*, got inf angstrom in row 1$"):
        _ = file.shifts_px
    fields = {"alignments3D__shift": np.ones((5, 2)), "alignments3D__psize_A": np.ones(5)}
    path = cs(stack / "a.cs", **fields, blob__psize_A=np.zeros(5))
    with pytest.raises(ValueError, match=r"must state positive pixel sizes, .*, got 0 angstrom in row 1$"):
        _ = open_particles(path, pixel_size_angstrom=PIXEL).shifts_px


def test_what_is_not_given_is_0_as_in_relion(stack):
    columns = {"rlnAnglePsi": [30.0], "rlnOriginXAngst": [3.0], "rlnDefocusU": [1e4]}
    optics = {**optics_of([1]), **MICROSCOPE}
    file = open_particles(star(stack / "a.star", names_of(1), optics=optics, **columns))
    assert (file.rotations * Rotation.from_euler("z", [[np.deg2rad(30)]])).magnitude() == pytest.approx(
        0, abs=1e-12
    )
    np.testing.assert_array_equal(file.shifts_px, [[-2, 0]])
    np.testing.assert_array_equal(file.defocus_angstrom, [[1e4, 1e4, 0]])
    assert file.ctf == ContrastTransfer(300, 2.7, 0.1, 0.0, (1e4, 1e4), inverted=True)


def test_the_range_of_defocus_is_that_of_the_means(stack):
    columns = {
        "rlnDefocusU": [1e4, 3e4],
        "rlnDefocusV": [9e3, 3e4],
        "rlnDefocusAngle": [10.0, 20.0],
        **MICROSCOPE,
    }
    file = open_particles(star(stack / "a.star", names_of(2), **columns))
    assert file.ctf.defocus_angstrom == (9.5e3, 3e4)


@pytest.mark.parametrize("name", ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"])
def test_defoci_without_a_microscope_are_an_error_where_they_are_asked_for(stack, name):
    known = {key: value for key, value in MICROSCOPE.items() if key != name}
    file = open_particles(star(stack / "a.star", names_of(2), rlnDefocusU=[1e4, 1e4], **known))
    assert file.rotations is None
    with pytest.raises(ValueError, match=rf"a.star must give {name} with rlnDefocusU, got none"):
        _ = file.ctf


def test_a_microscope_that_is_none(stack):
    columns = {**MICROSCOPE, "rlnVoltage": -300.0, "rlnDefocusU": [1e4, 1e4]}
    file = open_particles(star(stack / "a.star", names_of(2), **columns))
    with pytest.raises(ValueError, match=r"a.star gives no possible contrast transfer: voltage_kv must be"):
        _ = file.ctf


def test_one_optics_group_of_several(stack):
    optics = {**optics_of([3, 1], [PIXEL, 2.0]), **MICROSCOPE, "rlnVoltage": [300.0, 200.0]}
    path = star(
        stack / "a.star",
        names_of(4),
        optics=optics,
        rlnOpticsGroup=[1, 3, 3, 1],
        rlnDefocusU=[1e4, 2e4, 3e4, 4e4],
    )
    with pytest.raises(ValueError, match=r"gives no single pixel size, got 1.5, 2 angstrom"):
        open_particles(path)
    file = open_particles(path, optics_group=3)
    assert (file.pixel_size_angstrom, file.ctf.voltage_kv) == (PIXEL, 300)
    assert file.image_names == names_of(4)[1:3]
    np.testing.assert_array_equal(file.read([0, 1]), some_images()[1:3])
    np.testing.assert_array_equal(file.defocus_angstrom[:, 0], [2e4, 3e4])
    with pytest.raises(ValueError, match=r"optics_group must be one of those in .*a.star, 1, 3, got 2$"):
        open_particles(path, optics_group=2)
    with pytest.raises(ValueError, match=r"a.mrcs is a stack .* no use for optics_group=1: leave it out"):
        open_particles(stack / "a.mrcs", optics_group=1)
    with pytest.raises(ValueError, match=r"a.star must have optics groups to take optics_group=1, got none"):
        open_particles(star(stack / "a.star", names_of(2)), optics_group=1)


def test_optics_groups_that_lead_nowhere(stack):
    for optics, groups, message in (
        (optics_of([1, 1]), [1, 1], "must describe an optics group once, got 1 twice"),
        (optics_of([1, 2]), None, "must say of which of its 2 optics groups a particle is"),
    ):
        columns = {} if groups is None else {"rlnOpticsGroup": groups}
        with pytest.raises(ValueError, match=message):
            open_particles(star(stack / "a.star", names_of(2), optics=optics, **columns))


# --- some of the particles


def test_a_subset_keeps_each_particles_own(stack):
    mrc(stack / "b.mrcs", some_images(seed=5))
    names = ["1@a.mrcs", "2@b.mrcs", "3@a.mrcs", "4@b.mrcs"]
    euler = np.array([[10.0, 20.0, 30.0], [40, 50, 60], [70, 80, 90], [100, 110, 120]])
    columns = dict(zip(["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"], euler.T, strict=True))
    origins = {
        "rlnOriginXAngst": [0.0, 1.5, 3.0, 4.5],
        "rlnOriginYAngst": 0.0,
        "rlnDefocusU": [1e4, 2e4, 3e4, 4e4],
    }
    path = star(stack / "a.star", names, optics={**optics_of([1]), **MICROSCOPE}, **columns, **origins)
    whole = open_particles(path)
    for chosen in ([3, 1], np.array([-1, -3]), slice(3, None, -2)):
        part = whole.subset(chosen)
        assert len(part) == 2
        assert part.image_names == ["4@b.mrcs", "2@b.mrcs"]
        assert [stack.path.name for stack in part.images.stacks] == ["b.mrcs"]
        np.testing.assert_array_equal(part.read([0, 1]), whole.read([3, 1]))
        assert (part.rotations * whole.rotations[[3, 1]].inv()).magnitude().max() < 1e-9
        np.testing.assert_allclose(part.shifts_px, [[-3, 0], [-1, 0]], atol=1e-12)
        assert part.table["rlnDefocusU"].tolist() == [4e4, 2e4]
        in_memory = whole.to_stack(chosen)
        np.testing.assert_array_equal(in_memory.images, part.read(slice(None)))
        np.testing.assert_array_equal(in_memory.defocus_angstrom, part.defocus_angstrom)
        assert in_memory.ctf == part.ctf
    assert whole.subset([0, 2]).subset([1]).image_names == ["3@a.mrcs"]
    for wrong, message in (
        ([], "must choose at least one of 4 images, got none"),
        ([4], "those of 4 images, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            whole.subset(wrong)


# --- where stacks lie


@pytest.mark.parametrize("kind", ["star", "cs"])
def test_datadir_comes_first(tmp_path, kind):
    for folder, seed in (("project/Extract", 1), ("jobs/Extract", 2)):
        (tmp_path / folder).mkdir(parents=True)
        mrc(tmp_path / folder / "a.mrcs", some_images(seed=seed))
    path = tmp_path / "jobs" / f"p.{kind}"
    if kind == "star":
        star(path, ["1@Extract/a.mrcs"])
    else:
        cs(path, 1, blob__path=[b">Extract/a.mrcs"])
    np.testing.assert_array_equal(open_particles(path).read([0]), some_images(seed=2)[:1])
    found = open_particles(path, datadir=tmp_path / "project").read([0])
    np.testing.assert_array_equal(found, some_images(seed=1)[:1])
    np.testing.assert_array_equal(
        open_particles(path, datadir=str(tmp_path)).read([0]), some_images(seed=2)[:1]
    )
    with pytest.raises(FileNotFoundError, match=r"^datadir must be a folder, got .*missing$"):
        open_particles(path, datadir=tmp_path / "missing")
    with pytest.raises(ValueError, match=r"has no use for datadir="):
        open_particles(tmp_path / "jobs" / "Extract" / "a.mrcs", datadir=tmp_path)


def test_a_stack_that_is_not_in_datadir_either(tmp_path):
    (tmp_path / "project").mkdir()
    path = star(tmp_path / "a.star", ["1@b.mrcs"])
    with pytest.raises(
        FileNotFoundError, match=r"neither in .*project nor in .* nor from the working folder"
    ) as error:
        open_particles(path, datadir=tmp_path / "project")
    one_sentence(error)


def test_numbers_are_asked_of_the_table_once(stack):
    """What was made of a table is kept, and does not change with the table."""
    file = open_particles(star(stack / "a.star", names_of(2), rlnOriginXAngst=[3.0, 0.0]))
    first = file.shifts_px
    assert file.shifts_px is first
    assert isinstance(file.table, pd.DataFrame)
