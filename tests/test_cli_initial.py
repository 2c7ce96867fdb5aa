"""`cryoem abinitio`: junk and symmetry; the search itself is replaced."""

import json

import numpy as np
import pytest
from command_line import invoke

from cryoem import orientations, particles
from cryoem.orientations import expectation_maximisation
from cryoem.volumes import phantom


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Write a stack with true poses, and let the search find these poses and three images of junk."""
    monkeypatch.chdir(tmp_path)
    density = phantom(size=16, symmetry="D2")
    stack = particles.simulate(density, 24, rng=0)
    particles.write_particles("job.star", stack)
    calls = []

    def search(images, *, symmetry, starts, **options):
        calls.append({"symmetry": symmetry, "starts": starts, **options})
        evidence = np.where(np.arange(24) < 3, -5.0, 40.0)
        return orientations.AbInitio(
            stack.poses, density, (density, density), np.ones(starts), np.ones(24), evidence, 0.993, 0.97
        )

    monkeypatch.setattr(expectation_maximisation, "ab_initio", search)
    return stack, calls


COMMAND = ("abinitio", "job.star", "--out", "map.mrc", "--poses", "found.star")


def test_junk_is_counted_and_can_be_left_out(searched):
    stack, _ = searched
    ended = invoke(*COMMAND)
    assert "junk: 3 images are more likely to be noise than the particle; --leave-out-junk" in ended.stdout
    assert len(particles.open_particles("found.star")) == 24
    ended = invoke(*COMMAND, "--leave-out-junk", "--force")
    assert "junk: 3 images are more likely to be noise than the particle; they are left out" in ended.stdout
    kept = particles.open_particles("found.star")
    np.testing.assert_array_equal(np.asarray(kept), stack.images[3:])
    assert (kept.rotations * stack.rotations[3:].inv()).magnitude().max() < 1e-4
    assert "signal: the map explains 99 % of it at low resolution" in ended.stdout
    values = json.loads(invoke(*COMMAND, "--leave-out-junk", "--force", "--json").stdout)
    assert (values["images"], values["junk"], values["images_in_table"]) == (24, 3, 21)


def test_particles_may_be_off_centre_by_default(searched):
    stack, calls = searched
    values = json.loads(invoke(*COMMAND, "--json").stdout)
    assert values["shift_deviation_px"] == 0.03 * stack.image_size
    invoke(*COMMAND, "--shift-deviation-px", "0", "--force")
    assert [call["shift_deviation_px"] for call in calls] == [0.03 * stack.image_size, 0]


def test_the_symmetry_is_searched_for_and_its_correlation_printed(searched):
    _, calls = searched
    ended = invoke(*COMMAND, "--symmetry", "D2")
    assert calls[0]["symmetry"] == "D2"
    assert "correlation of the map with its copies under D2: 0.97" in ended.stdout


def test_nothing_is_written_if_all_images_are_junk(searched, monkeypatch, tmp_path):
    found = expectation_maximisation.ab_initio

    def search(*arguments, **options):
        result = found(*arguments, **options)
        result.evidence[:] = -1
        return result

    monkeypatch.setattr(expectation_maximisation, "ab_initio", search)
    ended = invoke(*COMMAND, "--leave-out-junk")
    assert ended.exit_code == 1
    assert "all 24 images are more likely to be noise than the particle" in ended.stderr
    assert not (tmp_path / "map.mrc").exists()
