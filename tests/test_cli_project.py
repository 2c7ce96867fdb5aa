"""`cryoem project`: ranges of Euler angles, given poses, and the same files from the same seed."""

import numpy as np
import pytest
from command_line import answer, invoke

from cryoem import particles, volumes
from cryoem.contrast import ContrastTransfer
from cryoem.rotations import Poses, random_rotations


def test_projections_may_have_euler_angles_in_ranges(tmp_path):
    options = [
        "-n",
        40,
        "--image-size",
        48,
        "--rot-range",
        20,
        50,
        "--tilt-range",
        10,
        90,
        "--shift-limit-px",
        3,
    ]
    answer("project", "phantom", *options, "--out", tmp_path / "a.star")
    read = particles.open_particles(tmp_path / "a.star")
    rot, tilt, psi = (read.table[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi"))
    assert rot.between(20, 50).all()
    assert tilt.between(10, 90).all()
    assert min(np.ptp(rot) / 30, np.ptp(tilt) / 80) > 0.7
    assert np.ptp(psi) > 180
    assert 0 < np.abs(read.shifts_px).max() <= 3
    ended = invoke("project", "phantom", "--tilt-range", 90, 0, "--out", tmp_path / "b.star")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("cryoem: --tilt-range must be two angles in degrees")
    refused = invoke(
        "project", "phantom", "--tilt-range", 0, 9, "--coverage", "so3", "--out", tmp_path / "b.star"
    )
    assert (refused.exit_code, "--tilt-range" in refused.stderr) == (2, True)


def test_projections_may_have_given_poses(tmp_path):
    density = volumes.load("phantom")
    poses = Poses(random_rotations(6, rng=3), np.arange(12.0).reshape(6, 2) / 4)
    stack = particles.simulate(density, poses, image_size=48)
    particles.write_particles(tmp_path / "poses.star", stack)
    (tmp_path / "poses.mrcs").unlink()  # only the table is needed
    options = ["--poses", tmp_path / "poses.star", "--image-size", 48]
    answer("project", "phantom", *options, "--out", tmp_path / "a.star")
    read = particles.open_particles(tmp_path / "a.star")
    np.testing.assert_allclose(np.asarray(read), stack.images, atol=1e-4)
    # shifts are the same in angstrom if the map has other voxels
    finer = particles.read_poses(tmp_path / "poses.star", pixel_size_angstrom=density.voxel_size_angstrom / 2)
    np.testing.assert_allclose(finer.shifts_px, 2 * poses.shifts_px, atol=1e-6)
    assert (finer.rotations * poses.rotations.inv()).magnitude().max() < 1e-7
    for option in (["-n", 5], ["--psi-range", 0, 5], ["--shift-limit-px", 2]):
        refused = invoke("project", "phantom", *options, *option, "--out", tmp_path / "b.star")
        assert (refused.exit_code, "--poses" in refused.stderr) == (2, True)
    for name, sentence in (("none.star", "no table at"), ("a.mrcs", "is not a table with poses")):
        refused = invoke("project", "phantom", "--poses", tmp_path / name, "--out", tmp_path / "b.star")
        assert (refused.exit_code, sentence in refused.stderr) == (1, True)


def test_the_stack_of_the_given_poses_is_not_replaced(tmp_path):
    answer("project", "phantom", "-n", 2, "--image-size", 48, "--out", tmp_path / "a.star")
    (tmp_path / "a.star").rename(tmp_path / "poses.star")
    before = (tmp_path / "a.mrcs").read_bytes()
    options = [
        "--image-size",
        48,
        "--poses",
        tmp_path / "poses.star",
        "--out",
        tmp_path / "a.star",
        "--force",
    ]
    refused = invoke("project", "phantom", *options)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"cryoem: {tmp_path / 'a.mrcs'} contains the images of --poses ")
    assert (tmp_path / "a.mrcs").read_bytes() == before


def test_the_same_seed_gives_the_same_files_for_any_number_of_workers(tmp_path):
    for seed, workers, name in ((5, 1, "a"), (5, 2, "b"), (6, 1, "c")):
        out = tmp_path / f"{name}.star"
        answer("project", "phantom", "-n", 30, "--image-size", 48, "--noise-variance", 1, "--seed", seed,
               "--workers", workers, "--out", out)  # fmt: skip
        answer("reconstruct", out, "--workers", workers, "--out", tmp_path / f"{name}.mrc")
    a, b, c = ((tmp_path / f"{name}.mrcs").read_bytes() for name in "abc")
    assert a == b != c
    first, second = (volumes.read_map(tmp_path / f"{name}.mrc").data for name in "ab")
    np.testing.assert_allclose(first, second, atol=1e-5 * np.abs(first).max())
    answer("reconstruct", tmp_path / "a.star", "--out", tmp_path / "again.mrc")
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "again.mrc").read_bytes()


@pytest.mark.filterwarnings("always:--image-size:UserWarning")
def test_images_that_cut_off_the_particle_give_a_warning(tmp_path):
    ended = invoke("project", "phantom", "-n", 2, "--image-size", 24, "--out", tmp_path / "a.star")
    assert ended.exit_code == 0
    assert "warning: --image-size 24 cuts off part of the particle" in ended.stderr
    assert "more than 12 px from the centre; images 64 px wide hold the whole map" in ended.stderr


def test_images_may_be_as_hard_as_measured_ones(tmp_path):
    density, conditions = (
        volumes.load("phantom"),
        {"image_size": 64, "noise_variance": 2, "coverage": "preferred"},
    )
    realism = particles.Realism(0.5, 600, 0.3, junk=0.2)
    ctf = ContrastTransfer(inverted=True)
    expected = particles.simulate(density, 20, **conditions, ctf=ctf, realism=realism, rng=3)
    options = ["-n", 20, "--noise-variance", 2, "--coverage", "preferred", "--ctf", "--seed", 3]
    options += ["--astigmatism", 600, "--structural-noise", 0.5, "--amplitude-spread", 0.3, "--junk", 0.2]
    values = answer("project", "phantom", *options, "--out", tmp_path / "a.star")
    read = particles.open_particles(tmp_path / "a.star")
    np.testing.assert_allclose(np.asarray(read), expected.images, atol=1e-4)
    assert values["junk_rows"] == np.flatnonzero(expected.junk).tolist()
    assert len(values["junk_rows"]) == 4
    u, v = read.defocus_angstrom[:, :2].T
    assert 300 < np.max(u - v) <= 600
    refused = invoke("project", "phantom", "--astigmatism", 600, "--out", tmp_path / "b.star")
    assert (refused.exit_code, "--astigmatism: requires --ctf, got 600" in refused.stderr) == (2, True)
    refused = invoke("project", "phantom", "--junk", 2, "--out", tmp_path / "b.star")
    assert (refused.exit_code, refused.stderr) == (1, "cryoem: --junk must be between 0 and 1, got 2.0\n")


def test_noise_in_the_corners_of_a_map_is_no_particle(tmp_path, rng):
    noisy = volumes.phantom(size=32)
    noisy = volumes.DensityMap(noisy.data + rng.normal(size=(32,) * 3, scale=noisy.data.std()), 4.0)
    volumes.write_map(tmp_path / "noisy.mrc", noisy)
    answer("project", tmp_path / "noisy.mrc", "-n", 2, "--image-size", 32, "--out", tmp_path / "a.star")
