"""The GPU benchmark without a GPU, and its sections with a substitute for ASTRA's projector."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from tiny_training import eagerly, uncompiled  # noqa: F401 (a fixture)

from cryoem.projection import projectors

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("gpu", "gpu_projection", "gpu_training", "initial_models", "table", "watch", "write_page")
CARD = "NVIDIA Testcard"


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """The benchmark scripts, with their table in a temporary folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("CRYOEM_DEVICE", "auto")
    before = set(sys.modules)
    modules = SimpleNamespace(**{name: importlib.import_module(name) for name in SCRIPTS})
    monkeypatch.setattr(modules.gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(modules.table, "RESULTS", tmp_path)
    yield modules
    for name in set(SCRIPTS) - before:
        sys.modules.pop(name, None)


def start(scripts, monkeypatch, *arguments: str, card: str | None = CARD) -> None:
    """Run the script with the given arguments as if on a machine with the given card."""
    monkeypatch.setattr(scripts.gpu, "card_name", lambda: card)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    scripts.gpu.main()


# --- ASTRA's projector, from its documentation: linear interpolation along rays


def trace_rays(volume, matrices, size, *, displacement_px=0.0) -> np.ndarray:
    """Project along rays through the geometry passed to ASTRA, slice by slice along the steepest axis."""
    box, views = projectors.astra_geometries(matrices, volume.shape, size)
    first = [box["option"][f"WindowMin{axis}"] + 0.5 for axis in "XYZ"]  # centre of the first voxel
    steps = np.arange(size) - (size - 1) / 2
    images = np.empty((len(matrices), size, size), np.float32)
    for image, vectors in zip(images, views["Vectors"], strict=True):
        ray, centre, u, v = vectors.reshape(4, 3, 1, 1)
        pixels = centre + (steps + displacement_px) * u + steps[:, None] * v  # (xyz, y, x)
        main = int(np.argmax(np.abs(ray)))
        planes = first[main] + np.arange(volume.shape[2 - main])
        lengths = (planes[:, None, None] - pixels[main]) / ray[main]  # (plane, y, x)
        index = [pixels[axis] + lengths * ray[axis] - first[axis] for axis in (2, 1, 0)]
        values = map_coordinates(volume, index, order=1, mode="grid-constant")
        image[:] = values.sum(axis=0) * np.linalg.norm(ray) / np.abs(ray[main])
    return images


def smear_rays(images, matrices, shape) -> np.ndarray:
    """Back-project by linear interpolation of each image at the projection of each voxel."""
    box, views = projectors.astra_geometries(matrices, shape, images.shape[1])
    z, y, x = np.ix_(
        *(
            box["option"][f"WindowMin{axis}"] + 0.5 + np.arange(n)
            for axis, n in zip("ZYX", shape, strict=True)
        )
    )
    middle = (images.shape[1] - 1) / 2
    volume = np.zeros(shape, np.float32)
    for image, vectors in zip(images, views["Vectors"], strict=True):
        _, centre, u, v = vectors.reshape(4, 3)
        across, along = (
            (x - centre[0]) * step[0] + (y - centre[1]) * step[1] + (z - centre[2]) * step[2] + middle
            for step in (u, v)
        )
        volume += map_coordinates(image, [along, across], order=1, mode="grid-constant")
    return volume


@pytest.fixture
def rays(monkeypatch):
    """Ray tracing on the CPU instead of ASTRA on a GPU."""
    pytest.importorskip("astra")
    monkeypatch.setattr(projectors, "astra_is_usable", lambda: True)
    monkeypatch.setattr(projectors, "_project_with_astra", trace_rays)
    monkeypatch.setattr(projectors, "_backproject_with_astra", smear_rays)


# --- without a GPU


def test_without_a_card_it_lists_its_sections_and_stores_nothing(scripts, monkeypatch, capsys, tmp_path):
    start(scripts, monkeypatch, card=None)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("Nothing is measured, because nvidia-smi lists no GPU.")
    assert [line.split()[0] for line in lines] == list(scripts.gpu.SECTIONS)
    monkeypatch.setenv("CRYOEM_DEVICE", "cpu")
    start(scripts, monkeypatch, "cgls", "check")
    first, *lines = capsys.readouterr().out.splitlines()
    assert "because CRYOEM_DEVICE is set to cpu" in first
    assert [line.split()[0] for line in lines] == ["cgls", "check"]
    assert not list(tmp_path.iterdir())


def test_a_card_that_astra_cannot_use_is_one_line_and_no_dead_process(scripts, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(projectors, "astra_is_usable", lambda: False)
    start(scripts, monkeypatch, "check", "projection", "cgls")
    lines = capsys.readouterr().out.splitlines()
    because = "not measured, because astra-toolbox finds no usable GPU"
    assert lines == [f"{name}: {because}" for name in ("check", "projection", "cgls")]
    assert not list(tmp_path.iterdir())


def test_unknown_sections_are_refused_and_no_section_starts_when_the_time_is_up(scripts, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        start(scripts, monkeypatch, "train")
    assert (
        "SECTION must be one of check, projection, cgls, training, published, initial_models, got train"
        in (capsys.readouterr().err)
    )
    start(scripts, monkeypatch, "check", "training", "--seconds", "0")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name}: not started, because the time is up" for name in ("check", "training")]


def test_the_name_of_the_card_is_that_of_nvidia_smi_and_goes_into_every_table(scripts, monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ncase "$*" in *--id=7*) exit 6;; esac\necho "Card A"\necho "Card B"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert scripts.table.card_name() == "Card A"
    assert ", Card A, Python 3." in scripts.table.machine(("numpy", "no-such-package"))
    assert "no-such-package" not in scripts.table.machine(("numpy", "no-such-package"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,0")
    assert scripts.table.card_name() is None
    program.unlink()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert scripts.table.card_name() is None
    assert ", no GPU, Python 3." in scripts.table.machine()


# --- sections


def test_rays_through_the_geometry_for_astra_agree_with_slices_and_a_toy_is_not_stored(
    scripts, monkeypatch, capsys, tmp_path, rays
):
    start(scripts, monkeypatch, "check", "--toy")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert not [line for line in lines if "(above)" in line]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda *arguments: trace_rays(*arguments, displacement_px=0.5),
        lambda *arguments: trace_rays(*arguments).swapaxes(1, 2),
        lambda volume, *arguments: trace_rays(volume[::-1].copy(), *arguments),
        lambda volume, matrices, size: trace_rays(volume, matrices.swapaxes(1, 2), size),
        lambda *arguments: 1.01 * trace_rays(*arguments),
    ],
    ids=["half-a-pixel", "axes", "hand", "inverse", "scale"],
)
def test_another_convention_fails_the_check(scripts, monkeypatch, rays, wrong):
    monkeypatch.setattr(projectors, "_project_with_astra", wrong)
    _, target, measured = next(scripts.gpu.check(scripts.gpu.TOY, scripts.gpu.Clock(None)))
    assert target == "<= 2e-03"
    assert "(above)" in measured.partition(",")[0]


def test_a_failed_check_is_the_exit_status(scripts, monkeypatch, capsys):
    rows = [("a case", "<= 2e-03", "projection 1.0e-02 (above)"), ("another case", "<= 2e-03", "1e-4")]
    monkeypatch.setitem(scripts.gpu.SECTIONS, "check", lambda sizes, clock: iter(rows))
    monkeypatch.setitem(scripts.gpu.SECTIONS, "cgls", lambda sizes, clock: 1 / 0)
    with pytest.raises(SystemExit, match=r"^failed: check, cgls$"):
        start(scripts, monkeypatch, "check", "cgls", "--toy")
    printed = capsys.readouterr()
    assert "check: another case: 1e-4" in printed.out
    assert "ZeroDivisionError" in printed.err


def test_rows_are_stored_with_the_card_and_replace_those_of_the_same_card(scripts, monkeypatch, tmp_path):
    def run_on(card: str, section: str, measured: str) -> None:
        monkeypatch.setitem(
            scripts.gpu.SECTIONS, section, lambda sizes, clock: iter([("a time", "-", measured)])
        )
        start(scripts, monkeypatch, section, card=card)

    run_on(CARD, "training", "3 s")
    run_on(CARD, "projection", "2 s")
    run_on("Another card", "projection", "1 s")
    run_on(CARD, "projection", "4 s")
    stored = scripts.table.read(tmp_path / "gpu.csv")
    assert stored.command in scripts.table.COMMANDS
    assert stored.columns == ("section", "quantity", "target", "measured", "card", "date")
    assert [(row[0], row[3], row[4]) for row in stored.rows] == [
        ("projection", "4 s", CARD),
        ("projection", "1 s", "Another card"),
        ("training", "3 s", CARD),
    ]


def test_times_of_projection_and_conjugate_gradients(scripts, monkeypatch, capsys, rays):
    def ours(images, matrices, *, iterations):
        from scipy.spatial.transform import Rotation

        from cryoem.reconstruction import reconstruct

        rotations = Rotation.from_matrix(matrices)
        return reconstruct(
            images,
            rotations,
            pixel_size_angstrom=1.0,
            method="cgls",
            iterations=iterations,
            backend="fourier",
        ).data

    monkeypatch.setattr(scripts.gpu_projection, "cgls_with_astra", ours)
    start(scripts, monkeypatch, "projection", "cgls", "--toy")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["projection"] * 4 + ["cgls"] * 3
    assert all("images/s" in line for line in lines[:4])
    by_astra, mixed, by_slices = (line.rpartition("FSC ")[2] for line in lines[4:])
    assert by_astra == by_slices != mixed
    sizes = replace(scripts.gpu.TOY, iterations=2)
    with pytest.raises(
        scripts.gpu.NotMeasured, match=r"^stopped after 1 iterations, because the time is up$"
    ):
        list(scripts.gpu.cgls(sizes, scripts.gpu.Clock(0)))


def test_astra_gets_the_images_in_its_order_and_returns_the_volume(scripts, monkeypatch):
    astra = pytest.importorskip("astra")
    images = np.random.default_rng(0).normal(size=(3, 6, 6)).astype(np.float32)
    found = np.random.default_rng(1).normal(size=(6, 6, 6)).astype(np.float32)
    create = Mock(return_value=1)

    def run(algorithm, iterations):
        (settings,) = create.call_args.args
        assert (settings["type"], iterations) == ("CGLS3D_CUDA", 5)
        np.testing.assert_array_equal(astra.data3d.get(settings["ProjectionDataId"]).swapaxes(0, 1), images)
        astra.data3d.store(settings["ReconstructionDataId"], found)

    monkeypatch.setattr(astra.algorithm, "create", create)
    monkeypatch.setattr(astra.algorithm, "run", run)
    monkeypatch.setattr(astra.algorithm, "delete", Mock())
    matrices = np.stack([np.eye(3)] * 3)
    np.testing.assert_array_equal(
        scripts.gpu_projection.cgls_with_astra(images, matrices, iterations=5), found
    )


def test_the_page_says_that_nothing_is_measured_until_there_is_a_table(scripts, monkeypatch, tmp_path):
    write_page = scripts.write_page
    monkeypatch.setattr(write_page, "RESULTS", tmp_path)
    assert write_page.page().endswith(write_page.GPU_NOT_MEASURED)
    monkeypatch.setitem(scripts.gpu.SECTIONS, "check", lambda sizes, clock: iter([("a case", "-", "1e-4")]))
    start(scripts, monkeypatch, "check")
    page = write_page.page()
    assert "Not measured" not in page
    assert "with `python benchmarks/gpu.py`: " in page
    assert re.search(rf"^\| check +\| a case +\| - +\| 1e-4 +\| {CARD} ", page, re.MULTILINE)


@uncompiled
def test_training_is_timed_on_the_backend_of_keras_if_it_finds_a_gpu(scripts, monkeypatch, capsys):
    start(scripts, monkeypatch, "training", "--toy")
    reason = "training: not measured, because Keras' backend tensorflow finds no GPU\n"
    assert capsys.readouterr().out == reason
    monkeypatch.setattr(scripts.gpu_training, "keras_finds_a_gpu", lambda backend: True)
    start(scripts, monkeypatch, "training", "--toy")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("polar encoder, 16 px, 4 " in line for line in lines)
    assert all("tensorflow, float32: " in line and line.endswith(" images/s") for line in lines)


def test_the_experiment_runs_only_if_it_is_registered_and_is_stopped_in_time(scripts, monkeypatch, capsys):
    catalogue = importlib.import_module("cryoem.experiments.catalogue")
    monkeypatch.setattr(catalogue, "EXPERIMENTS", {})
    start(scripts, monkeypatch, "published", "--toy")
    assert "not run, because no experiment `published` is registered" in capsys.readouterr().out
    monkeypatch.setattr(catalogue, "EXPERIMENTS", {"published": None})
    execute = Mock()
    monkeypatch.setattr(subprocess, "run", execute)
    start(scripts, monkeypatch, "published", "--toy")
    assert execute.call_args.args[0][1:] == [
        *("-m", "cryoem.cli", "experiment", "published", "--size", "toy")
    ]
    assert "published: experiment `published`, size toy: " in capsys.readouterr().out
    assert execute.call_args.kwargs["env"]["KERAS_BACKEND"] == "tensorflow"
    execute.side_effect = subprocess.TimeoutExpired("cryoem", 5)
    start(scripts, monkeypatch, "published", "--seconds", "5", "--toy")
    assert execute.call_args.kwargs["timeout"] <= 5
    assert "stopped, because the time is up" in capsys.readouterr().out
