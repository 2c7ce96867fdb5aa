"""Particles of one class, an aligner trained on them, its model folders, and a stack."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cryoem.particles.mrc import write_stack
from cryoem.training.compilation import TrainingSchedule
from cryoem.udl.aligner import export_aligner, save_aligner
from cryoem.udl.synthetic import phantom_class_average, synthetic_set
from cryoem.udl.training import AlignerOptions, train

SIZE = 48  # pixels
PIXEL = 3.5  # angstrom


@pytest.fixture(scope="session")
def average():
    return phantom_class_average(image_size=SIZE)


@pytest.fixture(scope="session")
def clean(average):
    return synthetic_set(average, 60, noise="clean", shift_limit_px=4, ctf=None, rng=1)


@pytest.fixture(scope="session")
def noisy(average):
    return synthetic_set(average, 120, noise="noise", shift_limit_px=3, rng=3)


@pytest.fixture(scope="session")
def aligner(clean):
    return train(
        clean.images, options=AlignerOptions(batch_size=16), schedule=TrainingSchedule(1, 1e-3)
    ).aligner


@pytest.fixture(scope="session")
def models(aligner, tmp_path_factory):
    """A read-only folder with the aligner, both ``saved`` and ``exported``."""
    folder = tmp_path_factory.mktemp("models")
    save_aligner(aligner, folder / "saved")
    export_aligner(aligner, folder / "exported")
    return folder


@pytest.fixture
def stack_file(clean, tmp_path):
    path = tmp_path / "particles.mrcs"
    write_stack(path, clean.images, pixel_size_angstrom=PIXEL)
    return path


@pytest.fixture(scope="session")
def photographs():
    """Two smooth random pictures with values in [0, 1]."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(2, 90, 110)), (0, 3, 3))
    return list(((noise - noise.min()) / np.ptp(noise)).astype(np.float32))
