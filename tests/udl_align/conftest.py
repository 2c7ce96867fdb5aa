"""Particles without noise, an aligner trained on them once, its models on disk, and a stack."""

from __future__ import annotations

import pytest
from alignment_files import PIXEL, SIZE

from cryoem.particles import write_stack
from cryoem.udl import synthetic
from cryoem.udl.aligner import save_aligner
from cryoem.udl.export import export_aligner
from cryoem.udl.training import train


@pytest.fixture(scope="session")
def average():
    return synthetic.phantom_class_average(image_size=SIZE)


@pytest.fixture(scope="session")
def clean(average):
    return synthetic.simulate_particles(average, 60, noise="clean", shift_limit_px=4, ctf=None, rng=1)


@pytest.fixture(scope="session")
def aligner(clean):
    return train(clean.images, method="judl", epochs=1, batch_size=16).aligner


@pytest.fixture(scope="session")
def models(aligner, tmp_path_factory):
    """A folder with the aligner, ``saved`` and ``exported``; tests read it only."""
    folder = tmp_path_factory.mktemp("models")
    save_aligner(aligner, folder / "saved")
    export_aligner(aligner, folder / "exported")
    return folder


@pytest.fixture
def stack_file(clean, tmp_path):
    path = tmp_path / "particles.mrcs"
    write_stack(path, clean.images, pixel_size_angstrom=PIXEL)
    return path
