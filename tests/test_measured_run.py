"""A run of measured particles: from a job's STAR file and a coarse map to a map, with no truth on the way."""

from __future__ import annotations

import json

import nbformat
import numpy as np
import pytest
from notebook_rules import assert_well_written
from typer.testing import CliRunner

from cryoem import imaging, pipeline, volumes
from cryoem.cli import app
from cryoem.contrast import ContrastTransfer
from cryoem.evaluation import align_frame
from cryoem.folders import notebooks_folder
from cryoem.particles import ParticleStack, open_particles, write_particles

MICROSCOPE = ContrastTransfer(defocus_angstrom=(8_000.0, 20_000.0), inverted=True)
N = 160


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A STAR file of 3.1 in a folder of its own, a map to learn from, and the stack with what is hidden."""
    folder = tmp_path_factory.mktemp("job")
    density = volumes.resample(volumes.phantom(), 10.0)
    truth = imaging.simulate(
        density,
        N,
        image_size=volumes.enclosing_image_size(density),
        noise_variance=0.2,
        ctf=MICROSCOPE,
        rng=0,
    )
    seen = ParticleStack(30 * truth.images + 4, 10.0, defocus_angstrom=truth.defocus_angstrom, ctf=truth.ctf)
    write_particles(folder / "job.star", seen)
    volumes.write_map(folder / "initial.mrc", density)
    return folder, truth


@pytest.fixture(scope="module")
def run_of_job(job, tmp_path_factory):
    """The command, from another working folder than the job's; its answer and the run's folder."""
    folder, _ = job
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYOEM_HOME", str(home))
        patch.chdir(folder)
        command = ["run", "--profile", "toy", "--particles", "job.star", "--model-map", "initial.mrc"]
        result = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        again = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    return json.loads(result.stdout), json.loads(again.stdout), home / "runs" / "measured"


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


@pytest.mark.slow
@pytest.mark.notebooks
def test_a_job_becomes_a_map(job, run_of_job):
    _, truth = job
    answer, _, folder = run_of_job
    numbers = answer["numbers"]
    assert answer["executed"] == list(pipeline.PHASES)
    assert numbers["0-data-preparation"]["noise_variance"] == pytest.approx(0.2, rel=0.15)
    found = open_particles(folder / "3-reconstruction" / "particles.star")
    error = align_frame(truth.rotations, found.rotations).mean_error
    assert error < 0.15
    assert volumes.read_map(folder / "3-reconstruction" / "map.mrc").voxel_size_angstrom == pytest.approx(10)
    np.testing.assert_allclose(found.defocus_angstrom[:, 0], truth.defocus_angstrom, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.notebooks
def test_no_truth_is_on_the_way(run_of_job):
    """Neither in the file nor in what the phases kept."""
    _, _, folder = run_of_job
    assert "quaternions" not in pipeline.load_arrays(folder / "0-data-preparation" / "particles.h5")
    assert (
        "difference_from_file_rad"
        not in json.loads((folder / "3-reconstruction" / "phase.json").read_text())["numbers"]
    )


@pytest.mark.slow
@pytest.mark.notebooks
def test_what_is_done_is_kept_until_the_particles_change(job, run_of_job):
    _, again, folder = run_of_job
    assert again["executed"] == []
    record = json.loads((folder / "0-data-preparation" / "phase.json").read_text())
    assert set(record["parameters"]["particles_sha256"]) == {"job.star", "job.mrcs"}
    assert set(record["parameters"]) >= {"map_sha256", "particles"}


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
