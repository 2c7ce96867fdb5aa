"""Phases: what they save, find and record, and when one is missing, stale or made anew."""

from __future__ import annotations

import json

import numpy as np
import plotly.graph_objects as go
import pytest
from small_notebooks import finish_phases

from cryoem import pipeline
from cryoem.pipeline.records import saved_figures

DATA, DISTANCES, ORIENTATIONS, MAP = pipeline.PHASES
TOY = pipeline.get_profile("toy")


def test_a_phase_reads_what_an_earlier_one_saved(home):
    finish_phases([DATA])
    phase = pipeline.open_phase(DISTANCES, profile="toy")
    np.testing.assert_array_equal(phase.load(DATA, "numbers")["x"], np.arange(3.0))
    assert phase.folder == home / "runs" / "toy" / DISTANCES
    assert phase.find(DATA, "numbers.h5") == home / "runs" / "toy" / DATA / "numbers.h5"
    phase.save("own", {"y": (np.ones(2), "rad")})
    np.testing.assert_array_equal(phase.load(DISTANCES, "own")["y"], np.ones(2))


def test_a_missing_phase_is_named_with_the_way_to_make_it(home):
    phase = pipeline.open_phase(DISTANCES, profile="toy", run="mine")
    pipeline.open_phase(DATA, profile="toy", run="mine").save("numbers", {"x": (np.zeros(3), "px")})
    with pytest.raises(pipeline.MissingPhaseError) as caught:
        phase.load(DATA, "numbers")
    assert isinstance(caught.value, FileNotFoundError)
    assert str(caught.value) == (
        f"phase {DATA} of run 'mine' is not complete; run notebooks/{pipeline.PHASES[DATA].notebook} "
        "or `cryoem run --profile toy --run mine` with the same settings first"
    )


def test_a_missing_file_of_a_complete_phase_is_named(home):
    finish_phases([DATA])
    phase = pipeline.open_phase(DISTANCES, profile="toy")
    with pytest.raises(
        pipeline.MissingPhaseError, match=r"made no file .*density\.mrc; run notebooks/0-data"
    ):
        phase.find(DATA, "density.mrc")
    with pytest.raises(ValueError, match="must load from itself or an earlier phase, got '3-reconstruction'"):
        phase.load(MAP, "map")


def test_an_earlier_phase_with_other_parameters_is_refused(home):
    finish_phases([DATA])
    phase = pipeline.open_phase(
        DISTANCES, profile="toy", overrides={"noise_variance": 16, "training_epochs": 5}
    )
    with pytest.raises(pipeline.StalePhaseError) as caught:
        phase.load(DATA, "numbers")
    assert str(caught.value).startswith(
        f"phase {DATA} of run 'toy' was made with noise_variance={TOY.noise_variance} and not with "
        "noise_variance=16.0; run "
    )


def test_parameters_of_later_phases_do_not_matter_to_earlier_ones(home):
    finish_phases()
    other = pipeline.get_profile("toy", gauge_pairs=21)
    complete = [pipeline.is_complete(home / "runs" / "toy", name, other) for name in pipeline.PHASES]
    assert complete == [True, True, False, False]


def test_a_phase_cannot_read_the_settings_of_a_later_one(home):
    phase = pipeline.open_phase(DATA, profile="toy")
    assert phase.profile.n_test == TOY.n_test
    with pytest.raises(AttributeError, match="no setting 'training_epochs', only name, seed"):
        _ = phase.profile.training_epochs


def test_making_a_phase_anew_invalidates_what_was_built_on_it(home):
    finish_phases()
    run_folder, toy = home / "runs" / "toy", pipeline.get_profile("toy")
    assert all(pipeline.is_complete(run_folder, name, toy) for name in pipeline.PHASES)
    finish_phases([DISTANCES])
    complete = [pipeline.is_complete(run_folder, name, toy) for name in pipeline.PHASES]
    assert complete == [True, True, False, False]
    phase = pipeline.open_phase(MAP, profile="toy")
    with pytest.raises(pipeline.StalePhaseError, match=f"was made before {DISTANCES} was made anew"):
        phase.load(ORIENTATIONS, "numbers")


def test_a_changed_map_file_invalidates_the_phases(home):
    map_file = home / "particle.mrc"
    map_file.write_bytes(b"one")
    finish_phases([DATA], map_name=str(map_file))
    toy = pipeline.get_profile("toy", map_name=str(map_file))
    assert pipeline.is_complete(home / "runs" / "toy", DATA, toy)
    map_file.write_bytes(b"two")
    assert not pipeline.is_complete(home / "runs" / "toy", DATA, toy)


def test_opening_a_phase_removes_what_is_stale_and_keeps_what_is_not(home):
    phase = pipeline.open_phase(DATA, profile="toy")
    phase.save("numbers", {"x": (np.zeros(3), "px")})
    phase.save_figure("one", go.Figure(), "One.")
    phase.path("map.mrc").write_bytes(b"map")
    (phase.checkpoints / "step").touch()
    again = pipeline.open_phase(DATA, profile="toy")
    assert {path.name for path in again.folder.iterdir()} == {"numbers.h5", "checkpoints"}
    assert (again.checkpoints / "step").exists()
    again.finish()
    again.finish()  # as a cell that is run twice
    assert {path.name for path in again.folder.iterdir()} == {"numbers.h5", "phase.json"}
    changed = pipeline.open_phase(DATA, profile="toy", overrides={"seed": 1})
    (changed.checkpoints / "step").touch()
    assert {path.name for path in changed.folder.iterdir()} == {"checkpoints"}
    back = pipeline.open_phase(DATA, profile="toy")
    assert not (back.checkpoints / "step").exists()


def test_the_record_says_what_made_the_phase(home):
    phase = pipeline.open_phase(DATA, profile="toy", overrides={"seed": 3})
    phase.record(images=16, mean=np.float32(0.5), bad=float("nan"), note="clean", closed=True)
    phase.finish()
    record = json.loads((phase.folder / "phase.json").read_text())
    assert record["status"] == "complete"
    assert record["seed"] == 3
    assert record["parameters"] == phase.parameters
    assert record["numbers"] == {"images": 16, "mean": 0.5, "bad": None, "note": "clean", "closed": True}
    assert {"python", "numpy", "cryoem"} <= record["versions"].keys()
    with pytest.raises(TypeError, match="losses must be a single number, text or boolean"):
        phase.record(losses=np.zeros(2))


def test_random_numbers_are_the_same_in_every_run_and_differ_between_phases(home):
    draws = [pipeline.open_phase(name, profile="toy").rng.normal() for name in (DATA, DATA, DISTANCES)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_figures_keep_their_order_and_a_repeated_cell_replaces_its_own(home):
    phase = pipeline.open_phase(DATA, profile="toy")
    figure = go.Figure(layout={"title": "old"})
    assert phase.save_figure("zebra", figure, "First.") is figure
    phase.save_figure("aardvark", go.Figure(), "Second.")
    phase.save_figure("zebra", go.Figure(layout={"title": {"text": "new"}}), "First again.")
    figures = saved_figures(phase.folder)
    assert [caption for caption, _ in figures] == ["First again.", "Second."]
    assert json.loads(figures[0][1])["layout"]["title"]["text"] == "new"
    with pytest.raises(ValueError, match="name must be of letters, digits and hyphens, got 'a/b'"):
        phase.save_figure("a/b", go.Figure(), "")
    with pytest.raises(TypeError, match="figure must be a plotly Figure, got dict"):
        phase.save_figure("a", {}, "")


def test_wrong_phases_and_maps_given_twice_are_one_sentence(home):
    with pytest.raises(ValueError, match=r"phase must be one of 0-data-preparation, .*, got '4-dreams'"):
        pipeline.open_phase("4-dreams")
    with pytest.raises(
        ValueError, match="map_name must be given once, got '5j0n' and 'phantom' in overrides"
    ):
        pipeline.open_phase(DATA, map_name="5j0n", overrides={"map_name": "phantom"})
