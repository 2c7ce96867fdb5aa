"""Toy runs with other inputs: measured particles (6.1), with and without a map; a symmetric particle with a CTF."""

from __future__ import annotations

import base64
import json
import re

import mrcfile
import numpy as np
import pytest
from notebook_rules import execute, outputs_of
from typer.testing import CliRunner

from cryoem import runs, volumes
from cryoem.cli import app
from cryoem.contrast import ContrastTransfer
from cryoem.files import load_arrays, notebooks_folder
from cryoem.orientations import align_frame
from cryoem.particles import open_particles, simulate, write_particles
from cryoem.runs.execution import warnings_of
from cryoem.runs.pipeline import WITHOUT_MAP

FOLDER = notebooks_folder() / "6-your-particles"
NAME = "6.1-from-a-job-to-a-map"
TOY = json.loads((FOLDER / "toy.json").read_text(encoding="utf-8"))[NAME]  # the site also uses these sizes
DATA, DISTANCES, ORIENTATIONS, MAP = runs.PHASES
LANDMARKS = 80


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The executed notebook, which simulates a particle set and runs the phases on it, and its data folder."""
    home = tmp_path_factory.mktemp("home")
    return execute(FOLDER / f"{NAME}.ipynb", home, **TOY), home


@pytest.fixture(scope="module")
def with_map(measured):
    """The run of the same particles with a coarse map."""
    home = measured[1]
    particles, coarse = home / "jobs" / "measured" / "job.star", home / "initial.mrc"
    volumes.write_map(coarse, volumes.low_pass(volumes.load("phantom", voxel_size_angstrom=10.0), 22.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYOEM_HOME", str(home))
        overrides = TOY["overrides"] | {"particles": str(particles), "landmarks": LANDMARKS}
        return runs.run(
            profile="toy", map_name=str(coarse), run="with-map", overrides=overrides, progress=False
        )


@pytest.mark.notebooks
def test_a_job_becomes_a_map(measured):
    notebook, home = measured
    printed, figures = outputs_of(notebook)
    assert len(figures) == 7
    (left_out,) = re.findall(r"^left out: (\d+) of 12 junk images, and 0 good ones$", printed, re.MULTILINE)
    assert int(left_out) >= 11
    (error,) = re.findall(r"^pose error ([\d.]+) rad", printed, re.MULTILINE)
    assert float(error) < 0.1
    folder = home / "runs" / "measured"
    assert not (folder / DISTANCES).exists()
    for name in (DATA, WITHOUT_MAP.name, MAP):
        assert runs.read_record(folder / name)["results"]["warnings"] == []
    numbers = runs.read_record(folder / WITHOUT_MAP.name)["results"]["numbers"]
    assert numbers["agreement_of_starts_percent"] > 90
    assert numbers["explained_signal_percent"] > 90
    assert volumes.read_map(folder / WITHOUT_MAP.name / "initial.mrc").data.shape[0] <= 26
    given = open_particles(home / "jobs" / "measured" / "job.star")
    assert given.poses is None
    found = open_particles(folder / MAP / "particles.star")  # which names its stacks by their paths
    assert set(found.table["rlnRandomSubset"]) == {1, 2}
    numbers = [int(name.split("@")[0]) - 1 for name in found.table["rlnImageName"]]
    np.testing.assert_allclose(found.defocus_angstrom, given.defocus_angstrom[numbers], rtol=1e-6)
    assert len(given) == TOY["simulated_images"] == len(found.rotations) + int(left_out)
    assert volumes.read_map(folder / MAP / "map.mrc").voxel_size_angstrom == pytest.approx(10)


@pytest.mark.notebooks
def test_signal_noise_and_optics_are_those_of_the_job(measured, with_map):
    simulated = TOY["simulated_noise_variance"]
    for run, most in (("measured", 3), ("with-map", 1.8)):
        folder = measured[1] / "runs" / run / DATA
        numbers = runs.read_record(folder)["results"]["numbers"]
        # details that are missing in the coarse map, and the signal at high frequencies, count as noise
        assert 0.9 * simulated < numbers["noise_variance"] < most * simulated
        arrays = load_arrays(folder / "particles.h5")
        assert "quaternions" not in arrays  # the truth is not used
        assert arrays["contrast_transfer_inverted"]
        assert arrays["images"].var() == pytest.approx(1 + numbers["noise_variance"], rel=0.15)
    assert with_map.numbers[DATA]["agreement_of_mean_images"] > 0.7
    shown = [name for name, _, _ in runs.saved_figures(measured[1] / "runs" / "measured" / DATA)]
    assert shown == ["projections", "power", "ctf"]  # nothing of simulated images


@pytest.mark.notebooks
def test_orientations_with_and_without_a_map_agree(measured, with_map):
    assert with_map.executed == tuple(runs.PHASES)
    estimate = load_arrays(measured[1] / "runs" / "with-map" / DISTANCES / "distances.h5")
    assert estimate["distances"].shape == (len(estimate["shifts"]), LANDMARKS)
    files = (measured[1] / "runs" / run / MAP / "particles.star" for run in ("measured", "with-map"))
    without, learned = map(open_particles, files)
    learned = learned[np.isin(learned.table["rlnImageName"], without.table["rlnImageName"])]
    assert align_frame(learned.rotations, without.rotations).median_error < 0.1


@pytest.mark.notebooks
def test_the_command_keeps_a_run_with_the_same_files(measured, monkeypatch):
    monkeypatch.setenv("CRYOEM_HOME", str(measured[1]))
    monkeypatch.chdir(measured[1] / "jobs" / "measured")
    command = ["run", "--profile", "toy", "--particles", "job.star", "--json"]
    command += ["--run", "measured", "--set", "shift_limit_px=0.0", "--set", "leave_out_junk=true"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["executed"] == []
    assert answer["numbers"][MAP]["half_map_resolution_masked_angstrom"] >= 20
    made_from = runs.read_record(measured[1] / "runs" / "measured" / DATA)["made_from"]
    assert set(made_from["particles_sha256"]) == {"job.star", "job.mrcs"}
    assert made_from["map_name"] is None
    assert "map_sha256" not in made_from


def test_missing_particles_are_one_sentence(home):
    result = CliRunner().invoke(app, ["run", "--particles", "gone.star"])
    assert result.exit_code == 1
    assert re.search(r"particle file \S*gone\.star not found", result.output)


@pytest.mark.notebooks
def test_a_blank_image_is_named_in_phase_0_and_left_out_by_an_option(home, rng):
    density = volumes.load("phantom", voxel_size_angstrom=12.0)
    ctf = ContrastTransfer(inverted=True)
    stack = simulate(density, 40, image_size=24, noise_variance=1.0, ctf=ctf, rng=rng)
    stack.images[11], stack.images[30, 5, 5] = 0, 1e4
    job, model = home / "job.star", home / "initial.mrc"
    write_particles(job, stack)
    volumes.write_map(model, density)
    with mrcfile.open(model, "r+") as file:
        file.header.ispg = 401  # marked as a stack
    inputs = ["--profile", "toy", "--particles", str(job), "--model-map", str(model), "--as-map"]
    refused = CliRunner().invoke(app, ["run", *inputs])
    assert refused.exit_code == 1
    assert "cryoem: Data preparation failed: 1 of the 40 images in" in refused.output
    assert f"cannot be used: image 12 of {home}/job.mrcs is blank; use --leave-out-outliers" in refused.output
    overrides = {"particles": str(job), "leave_out_outliers": True, "as_map": True}
    source = notebooks_folder() / runs.PHASES[DATA].notebook
    notebook = execute(source, home, profile="toy", map_name=str(model), overrides=overrides)
    (warning,) = (each for each in warnings_of(notebook) if each.startswith("leaving out 2 of the 40 images"))
    assert f"image 12 of {home}/job.mrcs is blank, image 31 of {home}/job.mrcs has a pixel" in warning
    folder = home / "runs" / "job-toy" / DATA
    rows = load_arrays(folder / "chosen.h5")["rows"]
    assert rows.tolist() == np.delete(np.arange(40), [11, 30]).tolist()
    assert len(load_arrays(folder / "particles.h5")["images"]) == 38
    # the figures show the orientations in the file, not those of simulated images
    figures = {name: (caption, figure) for name, caption, figure in runs.saved_figures(folder)}
    assert {"coverage", "euler-angles", "projections", "power", "ctf"} < figures.keys()
    assert "images-on-sphere" not in figures
    assert not [caption for caption, _ in figures.values() if "sampling" in caption]
    directions = json.loads(figures["coverage"][1])["data"][-1]["x"]
    assert len(base64.b64decode(directions["bdata"])) == 40 * np.dtype(directions["dtype"]).itemsize


@pytest.mark.notebooks
def test_doubtful_values_and_repeated_images_are_warnings_of_the_run(home, rng):
    stack = simulate(volumes.phantom(size=24), 20, noise_variance=0.1, rng=rng)
    stack = stack[np.r_[:20, 3]]
    stack.poses.shifts_px[5] = 40, 0
    write_particles(home / "job.star", stack)
    job = home / "job.star"
    job.write_text(job.read_text().replace("000021@job.mrcs", "000004@job.mrcs"))
    source = notebooks_folder() / runs.PHASES[DATA].notebook
    notebook = execute(source, home, profile="toy", overrides={"particles": str(job)})
    outside = f"{job}: the shifts of 1 of 21 images, up to 40 px, place the particle outside its image"
    assert [each for each in warnings_of(notebook) if each.startswith(outside)]
    (repeated,) = runs.read_record(home / "runs" / "job-toy" / DATA)["results"]["warnings"]
    assert repeated.startswith(
        f"{job}: 1 image is listed twice, such as 000004@job.mrcs; unless all copies of"
    )


@pytest.mark.notebooks
def test_a_symmetric_off_centre_particle_with_a_contrast_transfer_becomes_a_map(home):
    overrides = {"symmetry": "D2", "shift_limit_px": 2.0, "ctf": True, "n_test": 80, "gauge_pairs": 60}
    overrides["refine_ctf"] = True  # pixels of 8 Å are too coarse for the defocus, but not for the scale
    summary = runs.run(profile="toy", map_name="phantom-D2", overrides=overrides, progress=False)
    assert summary.folder == home / "runs" / "phantom-D2-toy"
    distances, orientations, made = (summary.numbers[name] for name in (DISTANCES, ORIENTATIONS, MAP))
    assert distances["distance_error_rad"] < 0.2
    assert orientations["pose_error_rad"] < 0.15
    assert orientations["common_line_agreement_of_runner_up"] is None
    assert made["refined_pose_error_rad"] < min(0.05, made["pose_error_before_rad"] / 2)
    assert made["refined_shift_error_px"] < min(0.15, 0.8 * made["shift_error_before_px"])
    assert made["defocus_changed_angstrom"] == 0
    assert 0 < made["contrast_spread"] < 0.1
    assert "fitted-ctf" in {name for name, *_ in runs.saved_figures(summary.folder / MAP)}


@pytest.mark.notebooks
def test_experimental_images_with_known_poses_become_a_map(real_data, tmp_path):
    notebook = execute(FOLDER / "6.2-a-map-with-known-poses.ipynb", tmp_path)
    printed, figures = outputs_of(notebook)
    assert len(figures) == 5
    found = dict(re.findall(r"^(.*): (\d+) Å at FSC 0.143$", printed, re.MULTILINE))
    resolutions = {name: int(value) for name, value in found.items()}
    assert resolutions["alternate images"] < 80 < resolutions["different particles"] < 130
    # one image does not determine its pose, so refinement does not improve the map
    assert int(re.search(r"smallest error to expect for one image: (\d+)°", printed)[1]) > 10
    assert resolutions["different particles"] < resolutions["different particles, refined"] < 160
    assert "as written by Warp and M" in printed
    written = volumes.read_map(tmp_path / "jobs" / "known-poses" / "map.mrc")
    assert (written.data.shape, written.voxel_size_angstrom) == ((64, 64, 64), pytest.approx(15.68))
