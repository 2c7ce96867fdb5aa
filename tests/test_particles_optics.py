"""CTF parameters, optics and half-sets in particle files: which are used, and what is said about the others."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from command_line import invoke
from particle_files import (
    CS_CTF,
    DEFOCI,
    MICROSCOPE,
    PIXEL,
    correlation,
    cs,
    mrc,
    names_of,
    optics_of,
    some_images,
    star,
)

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.images import apply_ctf
from cryoem.orientations.rings import RingGrid, ring_images
from cryoem.particles.conditions import ImagingConditions
from cryoem.particles.opening import open_particles
from cryoem.particles.simulation import simulate_lazily
from cryoem.particles.stack import ParticleStack
from cryoem.particles.star import write_xmd
from cryoem.particles.writing import write_particles
from cryoem.projection.projectors import project
from cryoem.reconstruction.maps import reconstruct, reconstruct_halves
from cryoem.reconstruction.masks import masked_half_map_fsc
from cryoem.reconstruction.refinement import refine
from cryoem.reconstruction.rounds import RefinementSchedule
from cryoem.rotations import Poses, random_rotations
from cryoem.volumes.phantoms import phantom

QUIET = pytest.mark.filterwarnings(
    "ignore:.*(has no CTF|states a pixel size|rlnCtfBfactor is neg|MAP):UserWarning"
)


@pytest.fixture
def stack(tmp_path):
    mrc(tmp_path / "a.mrcs", some_images())
    return tmp_path


# --- CTF parameters


@QUIET
def test_a_passthrough_file_is_matched_by_uid(stack):
    uid = np.array([11, 12, 13, 14, 15], np.uint64)
    order = [3, 1, 4, 0, 2]
    path = cs(stack / "selected.cs", uid=uid)
    fields = {name: values[order] for name, values in CS_CTF.items()}
    other = cs(stack / "passthrough.cs", uid=uid[order], **fields, blob__psize_A=np.full(5, 99.0))
    with pytest.warns(
        UserWarning, match=r"selected.cs has no CTF parameters, .* passthrough .*\(--passthrough\)$"
    ):
        assert open_particles(path).optics.ctf is None
    file = open_particles(path, passthrough=other)
    np.testing.assert_allclose(file.optics.defocus_angstrom[:, 0], CS_CTF["ctf__df1_A"])
    assert (file.pixel_size_angstrom, file.ctf.voltage_kv) == (PIXEL, 300)  # fields of the file come first
    for wrong, message in (
        (
            cs(stack / "few.cs", n=2, uid=uid[:2], blob__path=np.full(2, b"a.mrcs")),
            "no record for 3 of the 5",
        ),
        (cs(stack / "twice.cs", uid=uid[[0, 0, 1, 2, 3]]), "more than one record with the uid 11"),
        (cs(stack / "without.cs"), "without.cs has no field uid"),
    ):
        with pytest.raises(ValueError, match=message):
            open_particles(path, passthrough=wrong)
    with pytest.raises(
        ValueError, match=r"a.mrcs is not a .cs file, so the passthrough file .* does not apply"
    ):
        open_particles(stack / "a.mrcs", passthrough=other)


def test_a_missing_ctf_is_said_in_every_format(stack):
    write_xmd(
        stack / "a.xmd", pd.DataFrame({"image": names_of(2), "samplingRate": PIXEL, "ctfModel": "b.ctfparam"})
    )
    for path, more in (
        (stack / "a.mrcs", "$"),
        (star(stack / "a.star", names_of(2)), "$"),
        (cs(stack / "a.cs"), ".*--passthrough"),
        (stack / "a.xmd", ".* its column ctfModel names files that are not read"),
    ):
        with pytest.warns(
            UserWarning,
            match=rf"{path.name} has no CTF parameters, so the images .*{more}",
        ):
            assert open_particles(path).optics.ctf is None


def test_images_simulated_without_a_ctf_are_marked(tmp_path, recwarn):
    simulated = simulate_lazily(phantom(size=16), 3, ImagingConditions(image_size=16), rng=0)
    write_particles(tmp_path / "a.star", simulated)
    write_particles(tmp_path / "b.xmd", open_particles(tmp_path / "a.star"))
    for name in ("a.star", "b.xmd"):
        assert open_particles(tmp_path / name).optics.ctf is None
    assert not recwarn


def test_stated_optics_that_are_not_used_are_one_warning(stack):
    optics = {**optics_of([1]), **MICROSCOPE, "rlnMagMat00": 1.05, "rlnMagMat01": 0.0, "rlnMagMat11": 1.0}
    optics |= {
        "rlnBeamTiltX": 0.2,
        "rlnBeamTiltY": 0.0,
        "rlnOddZernike": "[0,0,1.5]",
        "rlnEvenZernike": "[0,0]",
    }
    file = open_particles(star(stack / "a.star", names_of(2), optics=optics, **DEFOCI))
    with pytest.warns(UserWarning, match="states optics that are not used") as caught:
        _ = file.optics
    assert [str(each.message).partition("used: ")[2] for each in caught] == [
        "anisotropic magnification (rlnMagMat00); beam tilt (rlnBeamTiltX); higher-order aberrations (rlnOddZernike)"
    ]
    tilt = np.zeros((5, 2))
    _ = open_particles(cs(stack / "a.cs", **CS_CTF, ctf__tilt_A=tilt, ctf__anisomag=np.zeros((5, 4)))).optics
    with pytest.warns(UserWarning, match=r"not used: beam tilt \(ctf/tilt_A/1\)$"):
        _ = open_particles(cs(stack / "b.cs", **CS_CTF, ctf__tilt_A=np.add(tilt, [0, 1]))).optics


@pytest.mark.parametrize(
    ("column", "value", "range_"),
    [
        ("rlnVoltage", 3e5, "1 to 5000, got 300000"),
        ("rlnSphericalAberration", 2.7e7, "0 to 100, got 2.7e+07"),
        ("rlnAmplitudeContrast", 10.0, "0 to 1, got 10"),
        ("rlnDefocusV", 1.5e9, "-1e+06 to 1e+06, got 1.5e+09"),
        ("rlnPhaseShift", 5e3, "-360 to 360, got 5000"),
    ],
)
def test_impossible_constants_are_refused_by_name(stack, column, value, range_):
    path = star(stack / "a.star", names_of(2), **{**DEFOCI, **MICROSCOPE, column: value})
    with pytest.raises(ValueError, match=re.escape(f"{column} must contain values from {range_} in row 1")):
        _ = open_particles(path).optics


def test_constants_given_by_hand(stack):
    """A 3.0 table without amplitude contrast; given constants replace those in the file, and are written."""
    incomplete = {name: value for name, value in MICROSCOPE.items() if name != "rlnAmplitudeContrast"}
    path = star(stack / "a.star", names_of(2), block="", **DEFOCI, **incomplete)
    with pytest.raises(ValueError, match=r"but no rlnAmplitudeContrast, .*`--microscope 300 2.7 0.1`"):
        _ = open_particles(path).optics
    file = open_particles(path, microscope=(300, 2.7, 0.07))
    assert file.ctf.amplitude_contrast == 0.07
    write_particles(stack / "b.star", file)
    assert open_particles(stack / "b.star").ctf == file.ctf
    grouped = star(stack / "c.star", names_of(2), optics={**optics_of([1]), **MICROSCOPE}, **DEFOCI)
    with pytest.warns(UserWarning, match=r"c.star states rlnVoltage 300; using 200 kV as specified$"):
        assert open_particles(grouped, microscope=(200, 2.7, 0.1)).ctf.voltage_kv == 200
    refused = invoke("convert", path, stack / "d.star", "--microscope", 300_000, 2.7, 0.1)
    sentence = "--microscope is invalid: the voltage must be between 1 and 5000 kV, got 300000 kV"
    assert refused.stderr.startswith(f"cryoem: {sentence}")
    with pytest.raises(ValueError, match=r"is a stack without a table, so the microscope .* does not apply"):
        open_particles(stack / "a.mrcs", microscope=(300, 2.7, 0.1))


def test_commands_take_constants_and_passthrough_files(stack):
    incomplete = {name: value for name, value in MICROSCOPE.items() if name != "rlnAmplitudeContrast"}
    table = star(stack / "a.star", names_of(2), optics=optics_of([1]), **DEFOCI, **incomplete)
    uid = np.arange(5, dtype=np.uint64)
    selected, other = cs(stack / "a.cs", uid=uid), cs(stack / "b.cs", uid=uid[::-1], **CS_CTF)
    for number, arguments in enumerate(
        ([table, "--microscope", "300", "2.7", "0.05"], [selected, "--passthrough", other])
    ):
        out = stack / f"new-{number}.star"
        ended = invoke("convert", arguments[0], out, *arguments[1:])
        assert (ended.exit_code, ended.stderr) == (0, ""), ended.stderr
        ctf = open_particles(out).ctf
        assert (ctf.voltage_kv, ctf.amplitude_contrast) == ((300, 0.05), (300, 0.1))[number]


@pytest.mark.parametrize("missing", [np.nan, "None", "<NA>"])
def test_optics_without_a_value_are_not_stated(stack, recwarn, missing):
    unused = dict.fromkeys(("rlnBeamTiltX", "rlnMagMat00", "rlnOddZernike"), missing)
    path = star(stack / "a.star", names_of(2), optics={**optics_of([1]), **MICROSCOPE, **unused}, **DEFOCI)
    assert open_particles(path).optics.ctf.voltage_kv == 300
    tilt = np.full((5, 2), np.nan)
    assert open_particles(cs(stack / "a.cs", **CS_CTF, ctf__tilt_A=tilt)).optics.ctf.voltage_kv == 300
    assert not recwarn


def test_half_of_the_defocus_is_not_enough(stack):
    path = star(stack / "a.star", names_of(2), rlnDefocusV=1e4, **MICROSCOPE)
    with pytest.raises(ValueError, match=r"a.star has rlnDefocusV but no rlnDefocusU, .*; add rlnDefocusU$"):
        _ = open_particles(path).optics


def test_optics_that_are_no_numbers_are_named(stack):
    path = star(stack / "a.star", names_of(2), rlnBeamTiltX=[0.0, "high"], **DEFOCI, **MICROSCOPE)
    with pytest.raises(
        ValueError, match=r"a.star: the column rlnBeamTiltX must contain numbers, got high in row 2"
    ):
        _ = open_particles(path).optics
    optics = {**optics_of([1]), "rlnImagePixelSize": "small"}
    path = star(stack / "b.star", names_of(2), optics=optics, rlnImagePixelSize=PIXEL)
    with pytest.raises(
        ValueError, match=r"rlnImagePixelSize must contain finite numbers, got small in row 1"
    ):
        open_particles(path)


def test_advice_suits_the_format(stack):
    """For XMIPP, no optics group is suggested, and a passthrough file is suggested only if none was given."""
    table = pd.DataFrame({"image": names_of(2), "samplingRate": [1.0, 2.0]})
    write_xmd(stack / "a.xmd", table)
    with pytest.raises(
        ValueError, match=r"got 1, 2 angstrom \(samplingRate\); make one table for each value$"
    ):
        open_particles(stack / "a.xmd")
    uid = np.arange(5, dtype=np.uint64)
    mixed = cs(stack / "a.cs", uid=uid, **CS_CTF, blob__sign=[1.0, -1.0, 1.0, 1.0, 1.0])
    with pytest.raises(
        ValueError, match=r"both bright and dark particles; `cryoem convert` makes them all bright$"
    ):
        _ = open_particles(mixed).ctf
    assert invoke("convert", mixed, stack / "bright.cs").exit_code == 0
    assert open_particles(stack / "bright.cs").ctf.inverted
    plain = cs(stack / "b.cs", uid=uid)
    with pytest.warns(UserWarning, match=r"without a CTF; the passthrough file .*b\.cs has none, either$"):
        _ = open_particles(plain, passthrough=plain).optics
    np.save(stack / "c.npy", np.array([(1,)], [("uid", np.uint64)]))
    (stack / "c.npy").rename(stack / "c.cs")
    with pytest.raises(
        ValueError, match=r"^neither .*c\.cs nor .*c\.cs has a field blob/path, .*; open a .cs file"
    ):
        open_particles(stack / "c.cs", passthrough=stack / "c.cs")


def test_a_passthrough_file_is_an_input_that_no_output_replaces(stack):
    uid = np.arange(5, dtype=np.uint64)
    poses = {"alignments3D__pose": np.zeros((5, 3)), "alignments3D__shift": np.zeros((5, 2))}
    selected, other = cs(stack / "a.cs", uid=uid, **poses), cs(stack / "b.cs", uid=uid, **CS_CTF)
    before = other.read_bytes()
    assert other in open_particles(selected, passthrough=other).paths
    maps = ["--out", stack / "a.mrc", "--poses", other]
    for command, outputs in (("convert", [other]), ("refine", maps), ("abinitio", maps)):
        ended = invoke(command, selected, *outputs, "--passthrough", other, "--force")
        assert (ended.exit_code, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"cryoem: {other} is an input of this command")
    assert other.read_bytes() == before


# --- phase shift, B factor and scale of each image


def test_each_image_has_its_own_values_from_the_file_to_the_ctf(stack):
    own = {"rlnPhaseShift": [90.0, 30.0], "rlnCtfBfactor": [0.0, 80.0], "rlnCtfScalefactor": [1.0, 0.5]}
    file = open_particles(star(stack / "a.star", names_of(2), **DEFOCI, **MICROSCOPE, **own))
    assert (file.ctf.phase_shift_rad, file.ctf.b_factor_angstrom2) == pytest.approx(
        (np.pi / 3, 40.0)
    )  # the means
    k = np.array([[0.1, 0.05], [0.02, -0.3]])  # cycles per pixel
    for optics in (file.optics, file[[1, 0]].optics[[1, 0]]):
        for i in range(2):
            phase, b_factor = np.deg2rad(own["rlnPhaseShift"][i]), own["rlnCtfBfactor"][i]
            constants = ContrastTransfer(300, 2.7, 0.1, b_factor, phase_shift_rad=phase, inverted=True)
            expected = own["rlnCtfScalefactor"][i] * constants.at(k / PIXEL, file.defocus_angstrom[[i]])
            np.testing.assert_allclose(optics.transfers(k)[[i]], expected, rtol=1e-5)
    for name in ("b.star", "b.xmd"):
        write_particles(stack / name, file)
        again = open_particles(stack / name).optics
        np.testing.assert_allclose(again.transfers(k), file.optics.transfers(k), rtol=1e-5)
    image = np.zeros((2, 6, 6), np.float32)
    image[:, 3, 3] = 1  # an impulse, so that its transform is the CTF
    seen = np.fft.fft2(apply_ctf(image, file.optics))[:, 0, 0].real
    np.testing.assert_allclose(np.abs(seen), np.abs(file.optics.transfers(np.zeros((1, 2)))[:, 0]), rtol=1e-5)


def test_values_of_warp_are_reversed_and_small_negative_ones_kept(stack):
    path = star(stack / "a.star", names_of(2), **DEFOCI, **MICROSCOPE, rlnCtfBfactor=[-13.0, -500.0])
    with pytest.warns(
        UserWarning, match=r"rlnCtfBfactor is negative, down to -500, as written by Warp and M"
    ):
        optics = open_particles(path).optics
    np.testing.assert_array_equal(optics.b_factor_angstrom2, [13.0, 500.0])
    fitted = star(stack / "b.star", names_of(2), **DEFOCI, **MICROSCOPE, rlnCtfBfactor=[-20.0, 10.0])
    np.testing.assert_array_equal(open_particles(fitted).optics.b_factor_angstrom2, [-20.0, 10.0])


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"scale": [1.0, 0.0]}, "scale must be positive for each image, got 0"),
        ({"scale": [1.0]}, "scale must have one entry for each of the 2 images, got 1"),
        ({"phase_shift_rad": [np.nan, 1.0]}, "phase_shift_rad must be finite"),
    ],
)
def test_own_values_are_validated(own, message):
    with pytest.raises(ValueError, match=message):
        Optics(1.0, ContrastTransfer(), [1e4, 2e4], **own)
    with pytest.raises(ValueError, match="must not be given without ctf"):
        Optics(1.0, **own)
    with pytest.raises(ValueError, match="defocus_angstrom must be at most 1e\\+06 angstrom, got 2e\\+07"):
        Optics(1.0, ContrastTransfer(), [1e4, 2e7])


def test_a_phase_plate_drifts_through_reconstruction_refinement_and_rings():
    """Images whose phase shifts differ: the map needs each image's own, and the mean destroys it."""
    size, n, pixel = 24, 120, 8.0
    density, rng = phantom(size=size, rng=0).data, np.random.default_rng(0)
    poses = Poses(random_rotations(n, rng=0))
    ctf = ContrastTransfer(300, 2.7, 0.1, 0.0, inverted=True)
    own = {"phase_shift_rad": rng.uniform(0, 2 * np.pi, n), "scale": rng.uniform(0.5, 1.5, n)}
    optics = Optics(pixel, ctf, rng.uniform(5e3, 2e4, n), b_factor_angstrom2=rng.uniform(0, 200, n), **own)
    images = apply_ctf(project(density, poses.rotations, image_size=size), optics)
    mean = Optics(
        pixel,
        ContrastTransfer(300, 2.7, 0.1, 100.0, phase_shift_rad=np.pi, inverted=True),
        optics.defocus_angstrom,
    )
    assert correlation(reconstruct(images, poses, optics=optics).data, density) > 0.95
    assert correlation(reconstruct(images, poses, optics=mean).data, density) < 0.8
    schedule = RefinementSchedule(search_rounds=1, gradient_rounds=1)
    refined = refine(ParticleStack(images, optics), poses, schedule=schedule, rng=0)
    assert correlation(refined.map.data, density) > 0.9
    assert (refined.rotations.inv() * poses.rotations).magnitude().mean() < 0.05
    grid = RingGrid(4, 16)
    rings = ring_images(images[:2], grid, optics=optics[:2])
    np.testing.assert_allclose(rings.transfers, optics[:2].isotropic().transfers(np.arange(1, 5) / size))


# --- half-sets


@pytest.mark.parametrize("values", [[1, 1], [0, 0], [1, np.nan], [2, 0]])
def test_half_sets_that_are_none(stack, values):
    file = open_particles(star(stack / "a.star", names_of(2), rlnRandomSubset=values))
    with pytest.warns(
        UserWarning, match=r"a.star: rlnRandomSubset does not divide the particles into two half-sets"
    ):
        assert file.random_subset is None


def test_half_sets_of_both_programs(stack):
    file = open_particles(star(stack / "a.star", names_of(3), rlnRandomSubset=[2, 1, 2]))
    assert file.random_subset.tolist() == [1, 0, 1]
    split = np.array([1, 0, 0, 1, 1], np.uint32)
    assert (
        open_particles(cs(stack / "a.cs", alignments3D__split=split)).random_subset.tolist() == split.tolist()
    )


# --- experimental images


@QUIET
def test_experimental_ribosomes_agree_between_particles(real_data):
    """Tilt series of six ribosomes: the maps of three of them and of the other three agree, and not by the mask."""
    path = real_data / "particles" / "sta_testing_bin8.star"
    with pytest.warns(UserWarning, match="as written by Warp and M"):
        job = open_particles(path, pixel_size_angstrom=8 * 1.96).to_stack()
    assert set(job.optics.own_values) == {"b_factor_angstrom2", "scale"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = open_particles(path, pixel_size_angstrom=8 * 1.96).table
    ribosome = np.unique(table["rlnGroupName"], return_inverse=True)[1]
    found = reconstruct_halves(job, job.poses, subset=ribosome % 2)
    radius = np.linalg.norm(np.indices((64,) * 3) - 32, axis=0) * job.pixel_size_angstrom
    mask = np.clip((190 - radius) / 60, 0, 1).astype(np.float32)
    a, b = (half.data for half in found.half_maps)
    curve = masked_half_map_fsc(a, b, mask, voxel_size_angstrom=job.pixel_size_angstrom, rng=0)
    assert 60 < curve.resolution_angstrom(0.143) < 130
    assert curve.correlation[:5].min() > 0.7
    assert found.map.data[radius < 80].mean() > 20 * abs(found.map.data[radius > 300].mean())
