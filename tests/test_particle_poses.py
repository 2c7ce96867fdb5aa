"""Orientations that were found, as a table that names the images where they lie."""

from __future__ import annotations

import numpy as np
import pytest
import starfile
from particle_files import cs

from cryoem import particles
from cryoem.contrast import ContrastTransfer
from cryoem.particles.alignments import OLD_POSE
from cryoem.rotations import random_rotations

N, PIXEL = 6, 2.5


@pytest.fixture
def found(rng):
    """Orientations and shifts."""
    return random_rotations(N, rng=rng), rng.normal(size=(N, 2))


@pytest.fixture
def stack(rng):
    defocus = np.stack([rng.uniform(5e3, 2e4, N), rng.uniform(5e3, 2e4, N), rng.uniform(0, 3, N)], axis=1)
    return particles.ParticleStack(
        rng.normal(size=(N, 8, 8)).astype(np.float32),
        PIXEL,
        random_rotations(N, rng=rng),
        rng.normal(size=(N, 2)),
        defocus,
        ctf=ContrastTransfer(200.0, 2.0, 0.1, inverted=True),
    )


def assert_posed(path, given, found):
    """The file names the given images, with what was found, and with their own contrast transfer."""
    rotations, shifts = found
    back = particles.open_particles(path)
    np.testing.assert_array_equal(back.read(slice(None)), given.read(slice(None)))
    assert (back.rotations * rotations.inv()).magnitude().max() < 1e-7
    np.testing.assert_allclose(back.shifts_px, shifts, atol=1e-7)
    assert back.pixel_size_angstrom == pytest.approx(given.pixel_size_angstrom, rel=1e-8)
    if given.ctf is None:
        assert back.ctf is None
    else:
        np.testing.assert_allclose(back.defocus_angstrom, given.defocus_angstrom, rtol=1e-8)
        assert back.ctf.voltage_kv == given.ctf.voltage_kv
        assert back.ctf.phase_shift_rad == pytest.approx(given.ctf.phase_shift_rad, abs=1e-9)


@pytest.mark.parametrize("kind", ["star", "xmd"])
def test_a_table_of_ours_gets_other_poses(stack, found, tmp_path, kind):
    particles.write_particles(tmp_path / f"a.{kind}", stack)
    given = particles.open_particles(tmp_path / f"a.{kind}")
    particles.write_poses(tmp_path / "b.star", given, *found)
    assert_posed(tmp_path / "b.star", given, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mrcs", f"a.{kind}", "b.star"]


def test_a_bare_stack_is_named_from_the_working_folder(stack, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    particles.write_stack("in/a.mrcs", stack.images, pixel_size_angstrom=PIXEL)
    given = particles.open_particles("in/a.mrcs")
    particles.write_poses("b.star", given, *found)
    assert_posed("b.star", given, found)
    assert starfile.read("b.star")["particles"]["rlnImageName"][0] == "000001@in/a.mrcs"


@pytest.mark.parametrize(
    "name",
    ["relion31.star", "empiar_10076_7.star", "empiar_10076_7.cs", "rln_proj_65_shifted.star"],
)
def test_other_programs_tables_get_other_poses(real_data, tmp_path, name, recwarn):
    source = real_data / "particles" / name
    given = particles.open_particles(source, datadir=source.parent)
    rotations = random_rotations(len(given), rng=2)
    shifts = np.random.default_rng(2).normal(size=(len(given), 2))
    out = tmp_path / "b.star"
    particles.write_poses(out, given, rotations, shifts)
    dark = given.ctf is not None and not given.ctf.inverted
    said = "holds dark particles" if dark else "b.star names stacks as"
    assert any(said in str(warning.message) for warning in recwarn)
    assert dark == (name == "empiar_10076_7.cs")
    back = particles.open_particles(out, datadir=source.parent)
    assert (back.rotations * rotations.inv()).magnitude().max() < 1e-6
    np.testing.assert_allclose(back.shifts_px, shifts, atol=1e-6)
    np.testing.assert_array_equal(back.read([0]), -given.read([0]) if dark else given.read([0]))
    if given.defocus_angstrom is None:
        assert back.defocus_angstrom is None
    else:
        np.testing.assert_allclose(back.defocus_angstrom, given.defocus_angstrom, rtol=1e-8)


def test_older_poses_go_and_all_else_stays(stack, found, tmp_path):
    particles.write_particles(tmp_path / "a.star", stack)
    given = particles.open_particles(tmp_path / "a.star")
    older = {name: 7.0 for name in OLD_POSE if name not in given.table}
    kept = {"rlnRandomSubset": [1, 2] * (N // 2), "rlnMicrographName": [f"m{i}.mrc" for i in range(N)]}
    particles.write_star(tmp_path / "c.star", given.table.assign(**older, **kept), optics=given.optics)
    particles.write_poses(tmp_path / "b.star", particles.open_particles(tmp_path / "c.star"), *found)
    table = starfile.read(tmp_path / "b.star")["particles"]
    for name, values in kept.items():
        assert table[name].tolist() == values
    assert not set(older) & set(table)
    assert_posed(tmp_path / "b.star", given, found)


def test_one_pose_for_each_image(stack, found, tmp_path):
    particles.write_particles(tmp_path / "a.star", stack)
    given = particles.open_particles(tmp_path / "a.star")
    rotations, shifts = found
    with pytest.raises(ValueError, match=r"^rotations must be as many as the images, 6, got 5$"):
        particles.write_poses(tmp_path / "b.star", given, rotations[:5], shifts)
    with pytest.raises(ValueError, match=r"^shifts_px must be \(6, 2\), got \(5, 2\)$"):
        particles.write_poses(tmp_path / "b.star", given, rotations, shifts[:5])
    with pytest.raises(ValueError, match=r"^path must end in \.star, got"):
        particles.write_poses(tmp_path / "b.xmd", given, rotations, shifts)
    assert not (tmp_path / "b.star").exists()


def test_dark_particles_are_named_by_a_stack_of_their_negatives(stack, found, tmp_path):
    """A STAR file cannot say that they are dark."""
    particles.write_stack(tmp_path / "a.mrcs", stack.images, pixel_size_angstrom=PIXEL)
    defocus = stack.defocus_angstrom.T.astype(np.float32)
    cs(
        tmp_path / "dark.cs",
        N,
        blob__psize_A=np.full(N, PIXEL, np.float32),
        blob__sign=np.full(N, -1.0, np.float32),
        ctf__df1_A=defocus[0],
        ctf__df2_A=defocus[1],
        ctf__df_angle_rad=defocus[2],
        ctf__accel_kv=np.full(N, 300, np.float32),
        ctf__cs_mm=np.full(N, 2.7, np.float32),
        ctf__amp_contrast=np.full(N, 0.1, np.float32),
    )
    dark = particles.open_particles(tmp_path / "dark.cs")
    with pytest.warns(UserWarning, match=r"holds dark particles, .* negatives stand beside posed\.star$"):
        particles.write_poses(tmp_path / "posed.star", dark, *found)
    bright = particles.open_particles(tmp_path / "posed.star")
    np.testing.assert_array_equal(bright.read(slice(None)), -stack.images)
    assert (dark.ctf.inverted, bright.ctf.inverted) == (False, True)
    np.testing.assert_allclose(bright.shifts_px, found[1], atol=1e-6)


def test_half_sets_are_those_they_were_refined_in(stack, found, tmp_path):
    particles.write_particles(tmp_path / "job.star", stack)
    subset = np.arange(N) % 2
    opened = particles.open_particles(tmp_path / "job.star")
    particles.write_poses(tmp_path / "posed.star", opened, *found, subset=subset)
    table = particles.open_particles(tmp_path / "posed.star").table
    np.testing.assert_array_equal(table["rlnRandomSubset"], subset + 1)


@pytest.mark.parametrize("flag", ["rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped"])
def test_images_whose_contrast_transfer_was_treated_before_are_refused(stack, flag, tmp_path):
    particles.write_particles(tmp_path / "job.star", stack)
    blocks = starfile.read(tmp_path / "job.star", always_dict=True)
    for value in (0, 1):
        blocks["optics"][flag] = value
        starfile.write(blocks, tmp_path / "treated.star", overwrite=True)
        opened = particles.open_particles(tmp_path / "treated.star")
        if value:
            with pytest.raises(ValueError, match=rf"treated\.star must hold images as .*, got {flag} 1: "):
                _ = opened.ctf
        else:
            assert opened.ctf is not None
