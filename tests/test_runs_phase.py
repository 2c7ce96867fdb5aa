"""Phases: what they save, find and record; earlier phases that are missing, stale, damaged or of other input."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import psutil
import pytest
from command_line import invoke
from small_notebooks import TOY_RUN, finish_phases

from cryoem import contrast, particles, runs, volumes
from cryoem.runs import pipeline
from cryoem.runs.pipeline import find_run

DATA, DISTANCES, ORIENTATIONS, MAP = runs.PHASES


def reason(name: str, **overrides) -> str | None:
    """Return why the phase of the toy run must be repeated."""
    run = find_run("toy", run=None, map_name=None, overrides=overrides)
    return run.why_not_current(runs.PHASES[name])


def test_a_phase_reads_what_an_earlier_one_saved(home):
    finish_phases([DATA])
    phase = runs.open_phase(DISTANCES, profile="toy")
    assert phase.folder == home / "runs" / TOY_RUN / DISTANCES
    np.testing.assert_array_equal(phase.load(DATA, "numbers")["x"], np.arange(3.0))
    assert phase.find(DATA, "numbers.h5") == home / "runs" / TOY_RUN / DATA / "numbers.h5"
    phase.save("own", {"y": (np.ones(2), "rad")})
    np.testing.assert_array_equal(phase.load(DISTANCES, "own", ["y"])["y"], np.ones(2))
    assert phase.settings.n_test == runs.get_profile("toy").n_test
    with pytest.raises(AttributeError, match="no attribute 'search_rounds'"):
        _ = phase.settings.search_rounds
    with pytest.raises(ValueError, match=f"only from itself and earlier phases, not from {MAP}"):
        phase.load(MAP, "map")


@pytest.mark.parametrize("ctf", [None, contrast.ContrastTransfer(voltage_kv=200, inverted=True)])
def test_particles_come_back_with_all_that_is_known(home, small_volume, ctf):
    density = volumes.DensityMap(small_volume, 3.0)
    stack = particles.simulate(density, 16, shift_limit_px=2, ctf=ctf, symmetry="C2", rng=0)
    phase = runs.open_phase(DATA, profile="toy", overrides={"symmetry": "C2"})
    phase.save_particles("particles", stack, noise_variance=(np.array(2.0), "clean variances"))
    found = phase.load_particles(DATA, "particles")
    np.testing.assert_array_equal(found, stack.images)
    np.testing.assert_array_equal(found[[3, 1]][1:], stack.images[[1]])
    sent = pickle.loads(pickle.dumps(found[2:4]))
    assert len(sent.source) == 2
    np.testing.assert_array_equal(sent, stack.images[2:4])
    np.testing.assert_array_equal(found.shifts_px, stack.shifts_px)
    np.testing.assert_allclose(found.rotations.as_quat(), stack.rotations.as_quat(), atol=1e-15)
    assert (found.ctf, found.symmetry, found.pixel_size_angstrom) == (ctf, "C2", 3.0)
    if ctf is not None:
        np.testing.assert_array_equal(found.defocus_angstrom, stack.defocus_angstrom)
    assert phase.load(DATA, "particles", ["noise_variance"])["noise_variance"] == 2
    bare = particles.ParticleStack(stack.images, contrast.Optics(3.0))
    phase.save_particles("bare", bare)
    assert phase.load_particles(DATA, "bare").poses is None


def test_a_missing_phase_is_named_with_the_command_that_makes_it(home):
    phase = runs.open_phase(DISTANCES, profile="toy", map_name="5j0n", run="mine")
    runs.open_phase(DATA, profile="toy", map_name="5j0n", run="mine")  # unfinished
    with pytest.raises(runs.MissingPhaseError) as caught:
        phase.load(DATA, "numbers")
    assert isinstance(caught.value, FileNotFoundError)
    assert str(caught.value) == (
        f"phase {DATA} of run 'mine' is not complete; run notebooks/{runs.PHASES[DATA].notebook} "
        "or `cryoem run --profile toy --map 5j0n --run mine` first"
    )
    finish_phases([DATA])
    with pytest.raises(
        runs.MissingPhaseError, match=r"has no file .*density\.mrc; run notebooks/0-data.*toy` "
    ):
        runs.open_phase(DISTANCES, profile="toy").find(DATA, "density.mrc")


def test_an_earlier_phase_with_other_settings_is_refused(home):
    finish_phases([DATA])
    phase = runs.open_phase(DISTANCES, profile="toy", overrides={"noise_variance": 16, "training_epochs": 5})
    with pytest.raises(runs.StalePhaseError) as caught:
        phase.load(DATA, "numbers")
    assert str(caught.value).startswith(
        f"phase {DATA} of run {TOY_RUN!r} was run with noise_variance=0.01, not noise_variance=16.0; run "
    )


def test_a_phase_depends_on_settings_and_phases_before_it_only(home):
    finish_phases()
    assert [reason(name) for name in runs.PHASES] == [None] * 4
    changed = [reason(name, gauge_pairs=21) is None for name in runs.PHASES]
    assert changed == [True, True, False, False]
    finish_phases([DISTANCES])
    assert [reason(name) for name in (DATA, DISTANCES)] == [None, None]
    assert reason(MAP) == f"is older than the results of {DISTANCES}"
    with pytest.raises(runs.StalePhaseError, match=f"is older than the results of {DISTANCES}; run"):
        runs.open_phase(MAP, profile="toy").load(ORIENTATIONS, "numbers")


def test_a_damaged_or_lost_file_of_an_earlier_phase_is_not_read(home):
    finish_phases([DATA])
    path = home / "runs" / TOY_RUN / DATA / "numbers.h5"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(runs.StalePhaseError, match=r"has a damaged or modified file numbers\.h5; run"):
        runs.open_phase(DISTANCES, profile="toy").load(DATA, "numbers")
    path.unlink()
    with pytest.raises(runs.StalePhaseError, match=r"is missing its file numbers\.h5"):
        runs.open_phase(DISTANCES, profile="toy").load(DATA, "numbers")


def test_opening_a_phase_keeps_checkpoints_of_the_same_settings_and_nothing_else(home):
    phase = runs.open_phase(DATA, profile="toy")
    phase.save("numbers", {"x": (np.zeros(3), "px")})
    phase.save_figure("one", go.Figure(), "One.")
    phase.path("map.mrc").write_bytes(b"map")
    phase.path("notes.txt").write_text("the user's own")
    (phase.checkpoints / "step").touch()
    again = runs.open_phase(DATA, profile="toy")
    assert {path.name for path in again.folder.iterdir()} == {"checkpoints", "notes.txt"}
    assert (again.checkpoints / "step").exists()
    again.finish()
    again.finish()  # a cell that runs twice
    assert {path.name for path in again.folder.iterdir()} == {"record.json", "notes.txt"}
    later = runs.open_phase(DISTANCES, profile="toy")
    (later.checkpoints / "step").touch()
    finish_phases([DATA], overrides={"seed": 1})  # an earlier phase is repeated
    assert not (runs.open_phase(DISTANCES, profile="toy").checkpoints / "step").exists()


def test_numbers_and_warnings_are_recorded(home, capsys):
    phase = runs.open_phase(DATA, profile="toy", overrides={"seed": 3, "ctf": True})
    phase.record(images=16, mean=np.float32(0.5), bad=float("nan"), note="clean", closed=True)
    for _ in range(2):
        phase.warn_if(True, "The images are poor.")
        phase.warn_if(False, "The images are good.")
    assert capsys.readouterr().out == 2 * "Warning: The images are poor.\n"
    phase.finish()
    record = runs.read_record(phase.folder)
    numbers = {"images": 16, "mean": 0.5, "bad": None, "note": "clean", "closed": True}
    assert record["results"] == {"numbers": numbers, "headline": [], "warnings": ["The images are poor."]}
    assert record["made_from"]["seed"] == 3
    assert record["made_from"]["contrast_transfer"]["voltage_kv"] == 300
    assert {"python", "numpy", "keras", "cryoem", "cryoem_sources_sha256"} <= record["versions"].keys()
    with pytest.raises(TypeError, match="losses must be a single number, string or boolean"):
        phase.record(losses=np.zeros(2))


def test_random_numbers_depend_on_the_seed_and_the_phase(home):
    draws = [runs.open_phase(name, profile="toy").rng.normal() for name in (DATA, DATA, DISTANCES)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_figures_keep_their_order_and_a_repeated_cell_replaces_its_own(home):
    phase = runs.open_phase(DATA, profile="toy")
    figure = go.Figure(layout={"title": "old"})
    phase.save_figure("zebra", figure, "First.")
    phase.save_figure("aardvark", go.Figure(), "Second.")
    phase.save_figure("zebra", go.Figure(layout={"title": {"text": "new"}}), "First again.")
    figures = runs.saved_figures(phase.folder)
    assert [figure[:2] for figure in figures] == [("zebra", "First again."), ("aardvark", "Second.")]
    assert json.loads(figures[0][2])["layout"]["title"]["text"] == "new"
    with pytest.raises(ValueError, match="name must contain only letters, digits and hyphens, got 'a/b'"):
        phase.save_figure("a/b", go.Figure(), "")


@pytest.mark.parametrize(
    ("map_name", "particles", "name"),
    [
        ("phantom", None, "phantom-toy"),
        ("emd_1234.map.gz", None, "emd_1234-toy"),
        ("my map.v2.mrc", None, "my-map.v2-toy"),
        ("5j0n", "job 7.star", "job-7-toy"),
    ],
)
def test_a_run_is_named_after_its_input_and_profile(home, monkeypatch, map_name, particles, name):
    monkeypatch.chdir(home)
    (home / map_name).touch()
    assert runs.run_name(runs.get_profile("toy", map_name=map_name, particles=particles)) == name


def test_a_run_of_another_input_is_not_overwritten(home):
    first, second = home / "a" / "particle.mrc", home / "b" / "particle.mrc"
    for path, content in ((first, b"one"), (second, b"two")):
        path.parent.mkdir()
        path.write_bytes(content)
    finish_phases([DATA], map_name=str(first))
    before = (home / "runs" / "particle-toy" / DATA / "record.json").read_bytes()
    for name in (DATA, MAP):
        with pytest.raises(runs.OtherInputError) as caught:
            runs.open_phase(name, profile="toy", map_name=str(second))
        assert str(caught.value) == (
            f"run particle-toy in {home / 'runs'} was started with the map {first}, not the map {second}; "
            "choose a different --run, or use --force to overwrite it"
        )
    assert (home / "runs" / "particle-toy" / DATA / "record.json").read_bytes() == before
    moved = home / "particle.mrc"
    moved.write_bytes(b"one")
    runs.open_phase(DISTANCES, profile="toy", map_name=str(moved)).load(
        DATA, "numbers"
    )  # the same map elsewhere
    moved.write_bytes(b"three")  # a changed file is still the same input, but the phase must be repeated
    with pytest.raises(runs.StalePhaseError, match="was run with map_sha256="):
        runs.open_phase(DISTANCES, profile="toy", map_name=str(moved)).load(DATA, "numbers")


def test_an_input_that_does_not_fit_is_refused_before_it_is_hashed(home, monkeypatch):
    monkeypatch.setattr(pipeline, "sha256_of", lambda path: pytest.fail(f"{path} was hashed"))
    monkeypatch.chdir(home)
    particles.write_stack(
        "big.mrcs", np.random.default_rng(0).normal(size=(2, 300, 300)), pixel_size_angstrom=1
    )
    n = 300_000
    with open("big.mrcs", "r+b") as stream:  # 108 GB, of which almost none is on the disk
        stream.seek(8)
        stream.write(np.int32(n).tobytes())
        stream.truncate(1024 + 4 * n * 300**2)
    disk = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk._replace(free=10**11))
    message = r"^cannot write .*particles\.h5: it needs 108 GB, but only 100 GB are free; make room"
    with pytest.raises(OSError, match=message):
        runs.open_phase(DATA, profile="toy", overrides={"particles": "big.mrcs"})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    message = (
        r"refining 300,000 particles of 300 px from .*big\.mrcs needs about .* GB, and 1\.0 GB is available"
    )
    with pytest.raises(MemoryError, match=message):
        runs.open_phase(DATA, profile="toy", overrides={"particles": "big.mrcs"})
    few = {"particles": "big.mrcs", "recovery_method": "sgd"}
    with pytest.raises(
        ValueError, match="for at most 10,000 images, got 20,000 images; use fewer, or spectral"
    ):
        runs.open_phase(DATA, profile="toy", map_name="phantom", overrides=few | {"n_particles": 20_000})
    (home / "big.mrcs").rename("big.mrc")
    message = r"^reading the map .*big\.mrc needs about 108\.0 GB, and"
    with pytest.raises(MemoryError, match=message):
        runs.open_phase(DATA, profile="toy", map_name="big.mrc")
    (home / "big.mrc").rename("big.tar")
    message = r"big\.tar is not a map or an atomic model: its name must end in one of"
    with pytest.raises(ValueError, match=message):
        runs.open_phase(DATA, profile="toy", map_name="big.tar")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where nobody can create files")
def test_a_data_folder_that_cannot_be_written_is_refused_before_the_inputs_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOEM_HOME", "/proc/data")
    monkeypatch.setattr(pipeline, "sha256_of", lambda path: pytest.fail(f"{path} was hashed"))
    (tmp_path / "a.mrc").touch()
    ended = invoke("run", "--profile", "toy", "--map", tmp_path / "a.mrc")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("cryoem: cannot write /proc/data/runs/a-toy/run.json: ")
    assert "Errno" not in ended.stderr


def test_wrong_names_are_one_sentence(home):
    with pytest.raises(ValueError, match=r"phase must be one of 0-data-preparation, .*, got '4-dreams'"):
        runs.open_phase("4-dreams")
    with pytest.raises(
        ValueError, match="map_name must be given only once, got '5j0n', and 'phantom' in overrides"
    ):
        runs.open_phase(DATA, map_name="5j0n", overrides={"map_name": "phantom"})
    with pytest.raises(FileNotFoundError, match=r"particle file .*gone\.star not found"):
        runs.open_phase(DATA, overrides={"particles": "gone.star"})
    for run in ("", "..", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="--run must contain only letters"):
            runs.open_phase(DATA, run=run)
