"""Steps that need more memory than there is are refused before any work, with the amount and a remedy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from command_line import invoke

from cryoem import distances, memory, orientations, particles, runs, volumes
from cryoem.particles import simulation


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder and data folder without any results."""
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def available(monkeypatch, n_bytes: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=n_bytes))


@pytest.mark.parametrize("limit", ["123000000", "max", "not set"])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, limit):
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(memory, "MEMORY_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "missing")))
    available(monkeypatch, 2_000_000_000)
    memory.check_memory("a step", 122e6)
    if limit.isdecimal():
        with pytest.raises(MemoryError, match=r"^a step needs about 1\.0 GB, and 0\.1 GB is available; use "):
            memory.check_memory("a step", 1e9)
    else:
        memory.check_memory("a step", 1e9)


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("project phantom --image-size 100000 --out a.star", "simulating 1,000 images 100,000 px wide needs"),
        (
            "project phantom -n 100000000000 --out a.star",
            "simulating 100,000,000,000 images 64 px wide needs",
        ),
        ("density phantom --voxel-size 0.01 --out a.mrc", "a map of 16,777,216,000,000 voxels needs"),
        ("density map.mrc --voxel-size 0.01 --out a.mrc", "a map of 262,144,000,000 voxels needs"),
        ("density phantom --size 100000 --out a.mrc", "a map of 1,000,000,000,000,000 voxels needs"),
        ("run --profile toy --set image_size=100000", "simulating 132 images 100,000 px wide needs"),
        (
            "train --profile toy --map phantom --set image_size=100000 --out a.weights.h5",
            "simulating 32 images 100,000 px wide needs",
        ),
    ],
)
def test_sizes_that_no_machine_can_hold_are_refused_before_any_work(home, monkeypatch, command, needed):
    volumes.write_map("map.mrc", volumes.phantom(size=16, voxel_size_angstrom=4.0))
    available(monkeypatch, 8_000_000_000)
    monkeypatch.setattr(simulation, "random_rotations", lambda *_, **__: pytest.fail("nothing must be drawn"))
    refused = invoke(*command.split())
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"cryoem: there is not enough memory for this step: {needed} about ")
    assert "GB, and 8.0 GB is available; use " in refused.stderr
    assert [path.name for path in home.iterdir() if path.name != "runs"] == ["map.mrc"]


def test_a_large_file_is_refused_from_its_header(home, monkeypatch):
    size = 30_000  # 3.6 GB for each image, of which almost none is on the disk
    particles.write_stack(
        "big.mrcs", np.random.default_rng(0).normal(size=(20, 16, 16)), pixel_size_angstrom=1
    )
    with open("big.mrcs", "r+b") as stream:
        stream.write(np.array([size, size, 20], np.int32).tobytes())
        stream.truncate(1024 + 4 * 20 * size**2)
    available(monkeypatch, 8_000_000_000)
    for command in ("abinitio {} --out a.mrc --poses a.star", "check {}", "convert {} a.star"):
        refused = invoke(*command.format("big.mrcs").split())
        assert refused.exit_code == 1
        sentence = (
            "this step: one image of big.mrcs, 30,000 px wide, needs about 27.0 GB, and 8.0 GB is available"
        )
        assert sentence in refused.stderr
    (home / "big.mrcs").rename("big.mrc")
    refused = invoke("density", "big.mrc", "--as-map", "--out", "a.mrc")
    assert refused.exit_code == 1
    assert "this step: a map of 18,000,000,000 voxels needs about 216.0 GB" in refused.stderr


def test_distances_between_all_pairs_have_landmarks_as_a_remedy(monkeypatch):
    encoder = distances.TrainedEncoder(None, distances.EncoderSettings(image_size=8))
    images = np.broadcast_to(np.float32(0), (100_000, 8, 8))
    available(monkeypatch, 8_000_000_000)
    sentence = r"all pairs of 100,000 images needs about 240\.0 GB, and 8\.0 GB is available; use landmarks"
    with pytest.raises(MemoryError, match=f"^estimating the distances between {sentence}"):
        distances.estimate_distances(images, encoder)
    square = np.broadcast_to(np.float32(0), (100_000, 100_000))
    with pytest.raises(MemoryError, match=f"^recovery from the distances between {sentence}"):
        orientations.recover_orientations(square)


@pytest.mark.filterwarnings("ignore")
def test_large_images_are_simulated_one_at_a_time(monkeypatch):
    """The scale of the images and the spectrum of their noise do not depend on the size of the blocks."""
    density, realism = volumes.phantom(size=24), particles.Realism(junk=0.5)
    expected = particles.simulate(density, 5, image_size=32, noise_variance=1, realism=realism, rng=0).images
    monkeypatch.setattr(
        simulation, "image_blocks", lambda images: [slice(i, i + 7) for i in range(0, len(images.numbers), 7)]
    )
    found = particles.simulate(density, 5, image_size=32, noise_variance=1, realism=realism, rng=0).images
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_phase_states_what_it_lacks(home, monkeypatch):
    available(monkeypatch, 8_000_000_000)
    with pytest.raises(MemoryError, match=r"^simulating 132 images 10,000 px wide needs about 399"):
        runs.open_phase("0-data-preparation", profile="toy", overrides={"image_size": 10_000})
