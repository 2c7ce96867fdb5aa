"""Checks of particle files: planted misreadings are named, noise is not trusted. The hand of maps and poses."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest
from command_line import invoke
from scipy.spatial.transform import Rotation

from cryoem import particles, volumes
from cryoem.contrast import ContrastTransfer, Optics
from cryoem.images import flip_phases
from cryoem.particles.opening import open_particles
from cryoem.particles.stack import fit_ctf_power
from cryoem.particles.star import read_star
from cryoem.reconstruction import check_poses, reconstruct
from cryoem.reconstruction.misreadings import negated_defocus, scaled_defocus
from cryoem.rotations import Poses, from_relion_euler_deg, random_rotations, to_relion_euler_deg

PIXEL = 2.5
RELION = [
    ("rln_proj_64", "as read"),
    ("rln_proj_64", "inverse rotations"),
    ("rln_proj_64", "other hand of the angles"),
    ("rln_proj_65_shifted", "as read"),
    ("rln_proj_65_shifted", "sign of psi"),
    ("rln_proj_65_shifted", "signs of the shifts"),
    ("rln_proj_65_shifted", "pixels for angstrom"),
    ("rln_proj_65_shifted", "angstrom for pixels"),
]


@pytest.fixture(scope="module")
def job():
    """48 simulated images with shifts and a CTF at noise variance 4."""
    density = volumes.DensityMap(volumes.phantom(size=24).data, PIXEL)
    ctf = ContrastTransfer(inverted=True)
    return particles.simulate(density, 48, noise_variance=4, shift_limit_px=3, ctf=ctf, rng=1)


def angles(rotations: Rotation, rot: int, tilt: int, psi: int) -> Rotation:
    return from_relion_euler_deg(to_relion_euler_deg(rotations) * [rot, tilt, psi])


PLANTED = {  # what was done to a file, by the name of the reading that undoes it
    "inverse rotations": lambda images, r, s, o: (images, r.inv(), s, o),
    "sign of psi": lambda images, r, s, o: (images, angles(r, 1, 1, -1), s, o),
    "other hand of the angles": lambda images, r, s, o: (images, angles(r, -1, -1, -1), s, o),
    "signs of the shifts": lambda images, r, s, o: (images, r, -s, o),
    "pixels for angstrom": lambda images, r, s, o: (images, r, s / o.pixel_size_angstrom, o),
    "angstrom for pixels": lambda images, r, s, o: (images, r, s * o.pixel_size_angstrom, o),
    "sign of the defocus": lambda images, r, s, o: (images, r, s, negated_defocus(o)),
    "psi by 90 degrees": lambda images, r, s, o: (images, Rotation.from_euler("z", -np.pi / 2) * r, s, o),
    "angles in radians": lambda images, r, s, o: (images, angles(r, *[np.pi / 180] * 3), s, o),
    "shifts twice as large": lambda images, r, s, o: (images, r, 2 * s, o),
    "shifts half as large": lambda images, r, s, o: (images, r, s / 2, o),
    "defocus in nanometres": lambda images, r, s, o: (images, r, s, scaled_defocus(o, 1e-1)),
    "defocus in micrometres": lambda images, r, s, o: (images, r, s, scaled_defocus(o, 1e-4)),
    "phase-flipped images": lambda images, r, s, o: (flip_phases(images, o), r, s, o),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_misreading_is_named(job, name):
    images, rotations, shifts, optics = PLANTED[name](job.images, job.rotations, job.shifts_px, job.optics)
    found = check_poses(images, Poses(rotations, shifts), optics=optics, rng=0)
    assert [each.name for each in found.right] == [name]
    assert (found.confirmed, found.bright) == (True, True)


def test_two_misreadings_of_different_kinds_are_both_named(job):
    poses = Poses(job.rotations.inv(), job.shifts_px * [-1, 1])
    found = check_poses(job.images, poses, optics=job.optics, rng=0)
    assert {each.name for each in found.right} == {"inverse rotations", "sign of the x-shifts"}


@pytest.mark.parametrize("offset", [(0.5, 0.5), (-1.0, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_common_displacement_is_measured(job, offset, inverse):
    rotations = job.rotations.inv() if inverse else job.rotations
    poses = Poses(rotations, job.shifts_px - np.array(offset))
    found = check_poses(job.images, poses, optics=job.optics, rng=0)
    (origin,) = (each.name for each in found.right if each.name.startswith("origin"))
    assert {each.name for each in found.right} == {origin, *["inverse rotations"] * inverse}
    shown = re.fullmatch(r"origin at \((\S+), (\S+)\) px", origin)
    np.testing.assert_allclose([float(each) for each in shown.groups()], offset, atol=0.25)


def test_a_half_turn_of_all_images_is_the_other_hand(job):
    """Rz(pi) R is J R J after a half turn of the particle: see docs/conventions.md."""
    poses = Poses(angles(job.rotations, 1, 1, 1), job.shifts_px)
    turned = Poses(Rotation.from_euler("z", np.pi) * poses.rotations, poses.shifts_px)
    found = check_poses(job.images, turned, optics=job.optics, rng=0)
    assert (found.right, found.confirmed) == ((), True)


@pytest.mark.parametrize(
    ("images", "poses", "name"),
    [
        (np.s_[:, ::-1], [1, -1], "images mirrored along y"),
        (np.s_[:, :, ::-1], [-1, 1], "images mirrored along x"),
    ],
)
def test_mirrored_images_are_named(images, poses, name):
    density = volumes.DensityMap(volumes.phantom(size=25).data, PIXEL)  # an odd box has a middle row
    stack = particles.simulate(density, 30, noise_variance=1, shift_limit_px=3, rng=2)
    found = check_poses(stack.images[images], stack.poses, pixel_size_angstrom=PIXEL, rng=0)
    assert [each.name for each in found.right] == [name]
    # with the shifts of the mirrored images, only the angles are of the other hand
    moved = Poses(stack.rotations, stack.shifts_px * poses)
    found = check_poses(stack.images[images], moved, pixel_size_angstrom=PIXEL, rng=0)
    assert "mirrored" in found.right[0].finding


def test_an_untouched_job_is_well_and_neither_its_hand_nor_its_contrast_matters(job):
    for sign in (1, -1):  # of the tilts, which changes the hand, and of the contrast
        poses = Poses(angles(job.rotations, 1, sign, 1), job.shifts_px)
        found = check_poses(sign * job.images, poses, optics=job.optics, rng=0)
        assert (found.right, found.confirmed, found.dark) == ((), True, sign < 0)


def test_poses_of_other_images_and_noise_are_not_confirmed(job, rng):
    others = check_poses(job.images, job.poses[rng.permutation(48)], optics=job.optics, rng=0)
    noise = check_poses(rng.normal(size=(40, 16, 16)), job.poses[:40], pixel_size_angstrom=PIXEL, rng=0)
    few = check_poses(rng.normal(size=(6, 16, 16)), job.poses[:6], pixel_size_angstrom=PIXEL, rng=0)
    for found in (others, noise, few):
        assert (found.confirmed, found.right, found.dark) == (False, (), False)


@pytest.mark.parametrize(("n", "noise", "offset"), [(6, 0.1, 1), (6, 0.1, 0), (24, 0.3, 1)])
def test_shifts_of_other_images_do_not_confirm_their_orientations(n, noise, offset):
    """Without the shifts of other images, these images agree better, although their orientations are wrong."""
    density = volumes.DensityMap(volumes.phantom(size=16).data, PIXEL)
    job = particles.simulate(density, n, noise_variance=noise, shift_limit_px=2, rng=0)
    poses = job.poses[np.roll(np.arange(n), offset)]
    found = check_poses(job.images, poses, pixel_size_angstrom=PIXEL, rng=0)
    assert (found.confirmed, found.right) == (offset == 0, ())


def test_pixels_of_one_angstrom_and_missing_shifts_are_not_tried(job):
    images = job.images[:20, :16, :16]
    shifted = check_poses(images, job.poses[:20], pixel_size_angstrom=1.0, rng=0)
    centred = check_poses(images, job.rotations[:20], pixel_size_angstrom=1.0, rng=0)
    assert set(shifted.not_tried) == {"units of the shifts", "CTF"}
    assert set(centred.not_tried) == {"shifts", "CTF"}


@pytest.mark.parametrize(("file", "name"), RELION)
def test_relions_own_projections(real_data, file, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack = open_particles(real_data / "particles" / f"{file}.star", pixel_size_angstrom=3.0).to_stack()
    change = PLANTED.get(name, lambda *args: args)
    images, rotations, shifts, optics = change(stack.images, stack.rotations, stack.shifts_px, stack.optics)
    found = check_poses(images, Poses(rotations, shifts), optics=optics, rng=0)
    assert [each.name for each in found.right] == ([] if name == "as read" else [name])
    assert (found.confirmed, found.bright) == (True, True)


@pytest.mark.parametrize("name", ["as read", "sign of the defocus"])
def test_experimental_ribosomes(real_data, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = real_data / "particles" / "sta_testing_bin8.star"
        stack = open_particles(path, pixel_size_angstrom=15.68).to_stack()
    change = PLANTED.get(name, lambda *args: args)
    images, rotations, shifts, optics = change(stack.images, stack.rotations, stack.shifts_px, stack.optics)
    found = check_poses(images, Poses(rotations, shifts), optics=optics, rng=0)
    assert [each.name for each in found.right] == ([] if name == "as read" else [name])
    assert (found.confirmed, found.bright) == (True, True)
    if name == "as read":  # these images end before the first zero of the CTF
        assert [each.name for each in found.equal] == ["phase-flipped images"]


def test_the_fit_of_the_stated_ctf_has_its_zeros():
    density = volumes.DensityMap(volumes.phantom(size=64).data, 4.0)
    optics = Optics(4.0, ContrastTransfer(), np.full(40, 30_000.0))
    images = particles.simulate(density, random_rotations(40, rng=0), ctf=optics, rng=0).images
    frequency, power, fitted = fit_ctf_power(images, optics)
    wrong = fit_ctf_power(images, Optics(4.0, ContrastTransfer(), np.full(40, 20_000.0)))[2]
    band = (frequency > 0.05) & (frequency < 0.3)
    assert np.abs(np.log(fitted / power))[band].mean() < 0.5 * np.abs(np.log(wrong / power))[band].mean()


# --- the command


@pytest.fixture(scope="module")
def file(job, tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "job.star"
    images = job.images.copy()
    images[7, 3, 4] = 1e4
    particles.write_particles(path, particles.ParticleStack(images, job.optics, job.poses))
    return path


def test_the_command_names_the_outlier_and_the_unit_of_the_shifts(file, tmp_path):
    rows, groups = read_star(file)
    rows[["rlnOriginXAngst", "rlnOriginYAngst"]] = (
        rows[["rlnOriginXAngst", "rlnOriginYAngst"]].astype(float) / PIXEL
    )
    corrupted, page = file.with_name("corrupted.star"), tmp_path / "check.html"
    particles.write_star(corrupted, rows, optics=groups)
    ended = invoke("check", corrupted, "--html", page, "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    values = json.loads(ended.stdout)
    assert values["right_readings"] == ["pixels for angstrom"]
    assert list(values["outliers"]) == ["7"]
    assert [finding.split(" (")[0] for finding in values["findings"]][1:] == [
        "the shifts look like pixels, not angstrom"
    ]
    text = page.read_text(encoding="utf-8")
    assert "shifts look like pixels, not angstrom" in text
    assert text.count('class="figure-json"') == 6


def test_the_command_says_that_all_is_well(job, tmp_path):
    particles.write_particles(tmp_path / "job.star", job)
    ended = invoke("check", tmp_path / "job.star")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "All is well: the images confirm the poses as they are read."
    assert "Projections do not determine the handedness" in ended.stdout


def test_the_command_checks_stacks_without_pixel_size_and_poses(tmp_path, rng):
    import mrcfile

    with mrcfile.new(tmp_path / "a.mrcs") as stack:
        stack.set_data(rng.normal(size=(5, 16, 16)).astype(np.float32))
    ended = invoke("check", tmp_path / "a.mrcs", "--json")
    values = json.loads(ended.stdout)
    assert (ended.exit_code, values["all_is_well"], values["poses_confirmed"]) == (0, True, None)
    assert values["remarks"][0].endswith("this check uses 1 Å")
    assert "There are no poses to check." in values["remarks"]


def test_the_command_lists_what_is_wrong_with_a_table(job, tmp_path):
    particles.write_particles(tmp_path / "a.star", job)
    rows, groups = read_star(tmp_path / "a.star")
    rows = rows.iloc[[*range(48), 3]].assign(rlnRandomSubset=[1, 1, *[2] * 47])
    rows.loc[5, "rlnOriginXAngst"] = 4000.0
    rows[["rlnDefocusU", "rlnDefocusV"]] = 0.0
    particles.write_star(tmp_path / "b.star", rows, optics=groups.assign(rlnImageSize=48))
    ended = invoke("check", tmp_path / "b.star", "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    values = json.loads(ended.stdout)
    for number, words in enumerate(
        (
            "b.star states images of 48 px (rlnImageSize), but its stacks contain images of 24 px",
            "b.star: the shifts of 1 of 49 images, up to 1600 px, place the particle outside",
            "the defocus is 0 in all images, although the spherical aberration is 2.7 mm",
            "1 image is listed twice, such as 000004@a.mrcs; unless all copies",
            "the half-sets have 2 and 47 images, too few for half-maps, which need at least 8 each",
        )
    ):
        assert words in values["findings"][number]
    assert not any("states images of" in remark for remark in values["remarks"])


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("rlnVoltage", 300_000.0, "rlnVoltage must contain values from"),
        ("rlnCtfDataArePhaseFlipped", 1, "contains CTF-corrected images"),
        ("rlnAngleTilt", np.nan, "the column rlnAngleTilt must contain finite numbers, got nan in row 1"),
    ],
)
def test_wrong_values_in_a_table_are_findings(job, tmp_path, column, value, says):
    """Images and outliers are still reported."""
    particles.write_particles(tmp_path / "a.star", job)
    table, groups = read_star(tmp_path / "a.star")
    (table if column in table else groups)[column] = value
    particles.write_star(tmp_path / "b.star", table, optics=groups)
    ended = invoke("check", tmp_path / "b.star", "--json")
    assert ended.exit_code == 0, ended.stderr
    values = json.loads(ended.stdout)
    assert says in values["findings"][0]
    assert (values["facts"]["outliers"], values["poses_confirmed"]) == ("none", None)
    assert "Poses are not checked while values in the table are wrong." in values["remarks"]


def test_the_command_names_images_on_two_scales(job, tmp_path):
    images = job.images * np.where(np.arange(48) < 24, 1, 50)[:, None, None]
    particles.write_particles(tmp_path / "a.star", particles.ParticleStack(images, job.optics, job.poses))
    values = json.loads(invoke("check", tmp_path / "a.star", "--json").stdout)
    assert re.match(
        r"the images are on two scales: 24 images \(000025@a\S+ to 000048@a\S+\) have", values["findings"][0]
    )


def test_the_command_uses_the_pixel_size_of_the_stack_if_the_table_has_none(job, tmp_path):
    particles.write_particles(tmp_path / "a.xmd", job)
    table = particles.read_xmd(tmp_path / "a.xmd")
    particles.write_xmd(tmp_path / "b.xmd", table.assign(samplingRate=0.0))
    values = json.loads(invoke("check", tmp_path / "b.xmd", "--json").stdout)
    assert (values["all_is_well"], values["facts"]["pixel size"]) == (True, "2.5 Å is used")
    assert values["remarks"][0].endswith(
        "such as the 2.5 of its stacks; this check uses 2.5 Å, as in the stacks"
    )


def test_small_defoci_are_a_remark_if_there_are_no_poses(job, tmp_path):
    stack = particles.ParticleStack(job.images, scaled_defocus(job.optics, 0.1))
    particles.write_particles(tmp_path / "a.star", stack)
    values = json.loads(invoke("check", tmp_path / "a.star", "--json").stdout)
    assert (
        "Without poses, a defocus in nanometres cannot be excluded: all values are small."
        in values["remarks"]
    )


# --- the hand


@pytest.mark.parametrize("size", [16, 17])
def test_flipped_poses_give_the_flipped_map(tmp_path, size):
    density = volumes.DensityMap(volumes.phantom(size=24).data[:size, :size, :size], PIXEL, (1.0, 2.0, 3.0))
    volumes.write_map(tmp_path / "map.mrc", density)
    particles.write_particles(tmp_path / "a.star", particles.simulate(density, 30, shift_limit_px=2, rng=0))
    (tmp_path / "map.mrc").rename(tmp_path / "map.ccp4")
    assert invoke("flip", tmp_path / "map.ccp4", "--out", tmp_path / "b.mrc").exit_code == 0
    assert invoke("flip", tmp_path / "a.star", "--out", tmp_path / "b.star").exit_code == 0
    flipped, middle = volumes.read_map(tmp_path / "b.mrc"), size // 2
    np.testing.assert_array_equal(flipped.data[middle + 3], density.data[middle - 3])
    assert (flipped.origin, flipped.voxel_size_angstrom) == (density.origin, PIXEL)
    maps = [
        reconstruct(opened := open_particles(tmp_path / name), opened.poses, optics=Optics(PIXEL)).data
        for name in ("a.star", "b.star")
    ]
    mirrored = volumes.mirror(volumes.DensityMap(maps[0], PIXEL)).data
    inside = np.s_[1:, 1:, 1:] if size % 2 == 0 else np.s_[:]
    np.testing.assert_allclose(maps[1][inside], mirrored[inside], atol=1e-3 * np.abs(maps[0]).max())


def test_poses_can_be_flipped_whatever_is_known_of_the_ctf(job, tmp_path):
    """RELION's 3.0 table without amplitude contrast, and images that are already corrected."""
    particles.write_particles(tmp_path / "a.star", job)
    table, groups = read_star(tmp_path / "a.star")
    particles.write_star(tmp_path / "b.star", table, optics=groups.drop(columns="rlnAmplitudeContrast"))
    particles.write_star(tmp_path / "c.star", table, optics=groups.assign(rlnCtfDataArePhaseFlipped=1))
    for name in ("b.star", "c.star"):
        ended = invoke("flip", tmp_path / name, "--out", tmp_path / f"flipped-{name}")
        assert ended.exit_code == 0, ended.stderr
        turned = open_particles(tmp_path / f"flipped-{name}").rotations * job.poses.mirrored.rotations.inv()
        assert turned.magnitude().max() < 1e-6


def test_only_poses_and_maps_can_be_flipped(tmp_path):
    density = volumes.phantom(size=16)
    volumes.write_map(tmp_path / "map.mrc", density)
    ended = invoke("flip", tmp_path / "map.mrc", "--out", tmp_path / "b.mrc", "--pixel-size", 2)
    assert (ended.exit_code, "applies only to tables" in ended.stderr) == (2, True)
    stack = particles.ParticleStack(np.ones((4, 16, 16)), Optics(PIXEL))
    particles.write_particles(tmp_path / "a.star", stack)
    ended = invoke("flip", tmp_path / "a.star", "--out", tmp_path / "b.star")
    assert (ended.exit_code, "has no orientations to flip" in ended.stderr) == (1, True)
