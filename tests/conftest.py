"""Fixtures shared by several tests: real data if available, a seed, a small volume, an isolated data folder."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from filelock import FileLock

from cryoem import runs, volumes
from cryoem.projection.projectors import project
from cryoem.rotations import random_rotations

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads this when it is first imported
os.environ.setdefault("CRYOEM_DEVICE", "cpu")  # tolerances are those of float32; GPU tests set another value
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")  # the same examples every time, however busy the machine is


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the modules that have the most slow tests, so that no process ends with one of them."""
    slow = Counter(
        item.path for item in items if {"slow", "notebooks"} & {mark.name for mark in item.iter_markers()}
    )
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def cryoem_home(tmp_path_factory: pytest.TempPathFactory):
    """An initially empty data folder for this process and its children, so that the user's folder is never touched."""
    home = tmp_path_factory.mktemp("cryoem-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYOEM_HOME", str(home))
        yield home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use the temporary folder of this test as the data folder."""
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real maps and particles given by ``CRYOEM_DATA``; tests only read from it."""
    named = os.environ.get("CRYOEM_DATA")
    if not named:
        pytest.skip("CRYOEM_DATA is not set: it names the folder of real data that this test reads")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"CRYOEM_DATA must name a folder, got {named}")
    return folder.resolve()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def small_volume() -> np.ndarray:
    """Smooth, asymmetric, off-centre particle that vanishes towards the faces: (24, 20, 22) float32.

    The sides differ in length, so that swapped axes are detected.
    """
    rng = np.random.default_rng(7)
    shape = np.array([24, 20, 22])
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), axis=-1)
    volume = np.zeros(shape)
    for _ in range(12):
        centre = 0.5 + rng.uniform(-0.14, 0.14, 3) * shape
        width = rng.uniform(1.3, 1.9)
        weight = rng.choice([-0.4, 1.0], p=[0.25, 0.75]) * rng.uniform(0.6, 1.4)
        volume += weight * np.exp(-((grid - centre) ** 2).sum(axis=-1) / (2 * width**2))
    return volume.astype(np.float32)


@pytest.fixture(scope="session")
def particle() -> np.ndarray:
    """The phantom without symmetry: (32, 32, 32) float32, read-only."""
    density = volumes.phantom(size=32).data.copy()
    density.flags.writeable = False
    return density


@pytest.fixture(scope="session")
def views(particle):
    """300 noise-free images of the particle, (n, 32, 32), read-only, and their orientations."""
    rotations = random_rotations(300, rng=1)
    images = project(particle, rotations, backend="fourier")
    images.flags.writeable = False
    return images, rotations


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> runs.RunSummary:
    """One toy-sized run of the four phases for all processes, in its own data folder, ``folder.parents[1]``."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    home, summary = shared / "toy-home", shared / "toy-run.pickle"
    with FileLock(f"{summary}.lock"), pytest.MonkeyPatch.context() as patch:
        if not summary.exists():
            patch.setenv("CRYOEM_HOME", str(home))
            summary.write_bytes(pickle.dumps(runs.run(profile="toy", progress=False)))
    return pickle.loads(summary.read_bytes())
