"""A run of measured particles: from a job's STAR file and a coarse map to a map, with no truth on the way."""

from __future__ import annotations

import json

import nbformat
import numpy as np
import pytest
from notebook_rules import assert_well_written
from typer.testing import CliRunner

from cryoem import pipeline, volumes
from cryoem.cli import app
from cryoem.folders import notebooks_folder
from cryoem.particles import open_particles
from cryoem.pipeline.execution import execute_notebook

FOLDER = notebooks_folder() / "6-your-particles"
TOY = json.loads((FOLDER / "toy.json").read_text(encoding="utf-8"))  # the site's sizes, too
WALK = "6.1-from-a-job-to-a-map"


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """The notebook that plays a job and runs the phases on it, executed; and its data folder."""
    home = tmp_path_factory.mktemp("home")
    executed = home / f"{WALK}.ipynb"
    execute_notebook(
        FOLDER / f"{WALK}.ipynb",
        executed,
        parameters=TOY[WALK],
        environment={"CRYOEM_HOME": str(home)},
        title="",
        progress=False,
    )
    return nbformat.read(executed, as_version=4), home


@pytest.fixture
def job(walk, monkeypatch):
    """The folder of the job, as working folder."""
    folder = walk[1] / "jobs" / "measured"
    monkeypatch.setenv("CRYOEM_HOME", str(walk[1]))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "info",
    [info for info in pipeline.PHASES.values() if info.notebook_of_measured],
    ids=lambda info: info.name,
)
def test_notebooks_of_measured_particles_are_well_written(info):
    cells = nbformat.read(notebooks_folder() / info.notebook_of_measured, as_version=4).cells
    assert_well_written(
        cells, title=f"Phase {info.number}", parameters=("profile", "map_name", "run", "overrides")
    )
    code = "".join(cell.source for cell in cells if cell.cell_type == "code")
    assert "phase.finish()" in code


@pytest.mark.parametrize("name", TOY)
def test_notebooks_are_well_written(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    assert_well_written(cells, title=f"Phase {name[:3]}", parameters=TOY[name])
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(TOY)


@pytest.mark.slow
@pytest.mark.notebooks
def test_a_job_becomes_a_map(walk):
    """With the pose error that the notebook asserts at its end."""
    notebook, home = walk
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 6
    assert "mean pose error" in "".join(output.get("text", "") for output in outputs)
    folder = home / "runs" / "measured"
    given = open_particles(home / "jobs" / "measured" / "job.star")
    particles = open_particles(folder / "3-reconstruction" / "particles.star", datadir=given.path.parent)
    assert set(particles.table["rlnRandomSubset"]) == {1, 2}
    np.testing.assert_allclose(particles.defocus_angstrom, given.defocus_angstrom, rtol=1e-6)
    assert (given.rotations, given.shifts_px) == (None, None)
    assert len(particles.rotations) == len(given) == TOY[WALK]["simulated_images"]
    assert volumes.read_map(folder / "3-reconstruction" / "map.mrc").voxel_size_angstrom == pytest.approx(10)


@pytest.mark.slow
@pytest.mark.notebooks
def test_signal_noise_and_microscope_are_those_of_the_job(walk):
    folder = walk[1] / "runs" / "measured"
    numbers = json.loads((folder / "0-data-preparation" / "phase.json").read_text())["numbers"]
    simulated = TOY[WALK]["simulated_noise_variance"]
    assert (
        0.9 * simulated < numbers["noise_variance"] < 1.8 * simulated
    )  # what a coarse map lacks counts as noise
    arrays = pipeline.load_arrays(folder / "0-data-preparation" / "particles.h5")
    assert "quaternions" not in arrays  # no truth is on the way
    stack = pipeline.stack_of(arrays)
    assert stack.ctf.inverted
    assert stack.images.var() == pytest.approx(1 + numbers["noise_variance"], rel=0.15)


@pytest.mark.slow
@pytest.mark.notebooks
def test_the_command_keeps_what_is_done_with_the_same_files(walk, job):
    command = ["run", "--profile", "toy", "--particles", "job.star", "--model-map", "initial.mrc", "--json"]
    result = CliRunner().invoke(app, [*command, "--set", "shift_limit_px=0.0"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["executed"] == []
    assert answer["numbers"]["3-reconstruction"]["half_map_resolution_masked_angstrom"] >= 20
    record = json.loads((walk[1] / "runs" / "measured" / "0-data-preparation" / "phase.json").read_text())
    assert set(record["parameters"]["particles_sha256"]) == {"job.star", "job.mrcs"}
    assert "map_sha256" in record["parameters"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--particles", "a.star"], "--particles and --model-map belong together"),
        (["--model-map", "a.mrc"], "--particles and --model-map belong together"),
        (
            ["--particles", "a.star", "--model-map", "b.mrc", "--noise-variance", "2"],
            "are for simulated particles",
        ),
        (["--pixel-size", "2"], "pixel_size_angstrom must be None where particles are simulated"),
        (
            ["--particles", "a.star", "--model-map", "5j0n", "--set", "ctf=true"],
            "ctf must be false where particles",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    result = CliRunner().invoke(app, ["run", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_missing_particles_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOEM_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["run", "--particles", "gone.star", "--model-map", "phantom"])
    assert result.exit_code == 1
    assert "no particle file at" in result.output
