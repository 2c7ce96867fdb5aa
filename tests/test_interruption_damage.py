"""A full disk and damaged files are told in a sentence, and what they spoiled is made anew; records hold checksums."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from small_notebooks import finish_phases, pretend_executed, write_notebooks

from cryoem import pipeline
from cryoem.sources import sources_sha256
from cryoem.whole_files import remove_left_overs, written_aside

DATA, DISTANCES, ORIENTATIONS, MAP = pipeline.PHASES
NOTHING = dict.fromkeys(pipeline.PHASES, "pass")


# the disk


def fail_at(number: int, monkeypatch) -> None:
    """The n-th file that is to reach the disk does not: there is no space left."""
    calls = []
    reach_the_disk = os.fsync

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reach_the_disk(descriptor)

    monkeypatch.setattr("cryoem.whole_files.os.fsync", fsync)


def one_phase() -> None:
    phase = pipeline.open_phase(DATA, profile="toy")
    phase.memory("state").save({"x": np.zeros(3)})
    phase.save("numbers", {"x": (np.arange(3.0), "px")})
    phase.save_figure("one", go.Figure(), "One.")
    phase.finish()


def test_a_full_disk_at_any_write_is_one_sentence_and_no_harm(home, monkeypatch):
    folder, toy = home / "runs" / "toy", pipeline.get_profile("toy")
    names = ["made-with.json", "state.h5", "numbers.h5", "01-one.json", "phase.json"]
    for position, name in enumerate(names):
        fail_at(2 * position + 1, monkeypatch)  # a file, its folder, the next file
        with pytest.raises(OSError, match=rf"^cannot write {folder}/.*{name}: No space left on device$"):
            one_phase()
        monkeypatch.undo()
        monkeypatch.setenv("CRYOEM_HOME", str(home))
        assert not pipeline.is_complete(folder, DATA, toy)
        assert not list(folder.rglob(".partial-*"))
    one_phase()
    assert pipeline.is_complete(folder, DATA, toy)


@pytest.mark.notebooks
def test_a_file_too_large_for_the_disk_stops_the_run_which_then_goes_on(home):
    body = """
import resource
if first_time("full"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
phase.save("large", {"x": (np.zeros(10**6), "px")})
"""
    notebooks = write_notebooks(home / "notebooks", NOTHING | {MAP: body})
    finish_phases([DATA, DISTANCES, ORIENTATIONS, MAP])
    pretend_executed(home, notebooks)
    (home / "runs" / "toy" / MAP / "phase.json").unlink()
    large = home / "runs" / "toy" / MAP / "large.h5"
    with pytest.raises(
        pipeline.PhaseFailedError, match=f"stopped: OSError: cannot write {large}: File too large;"
    ):
        pipeline.run(profile="toy", notebooks=notebooks, progress=False)
    assert not large.exists()
    assert pipeline.run(profile="toy", notebooks=notebooks, progress=False).executed == (MAP,)
    assert large.stat().st_size > 8 * 10**6


@pytest.mark.notebooks
def test_the_error_that_ended_a_notebook_is_told_not_one_that_it_survived(home):
    body = """
try:
    raise RuntimeError("of a destructor")
except RuntimeError:
    get_ipython().showtraceback()
raise ValueError("what ended it")
"""
    notebooks = write_notebooks(home / "notebooks", NOTHING | {DATA: body})
    with pytest.raises(
        pipeline.PhaseFailedError, match=f"^phase {DATA} stopped: ValueError: what ended it; the"
    ):
        pipeline.run(profile="toy", notebooks=notebooks, progress=False)


def test_only_errors_of_the_write_are_said_to_be_so(tmp_path):
    def read_another():
        with written_aside(tmp_path / "a") as aside:
            aside.write_text("a")
            (tmp_path / "none").read_text()

    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/none'"):
        read_another()
    assert not list(tmp_path.iterdir())


# what is left


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_text("")


def incomplete(path: Path) -> None:
    path.write_text('{"status": "complete", "id": "0"}')


def without_checksums(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"artefacts": None}))


NOTEBOOK = Path(pipeline.PHASES[MAP].notebook).name


@pytest.mark.notebooks
@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        ("phase.json", empty, "has a damaged phase.json"),
        ("phase.json", incomplete, "has a damaged phase.json"),
        ("phase.json", without_checksums, "has a damaged phase.json"),
        ("numbers.h5", cut, "has a file numbers.h5 that is not as it was written"),
        ("numbers.h5", flip, "has a file numbers.h5 that is not as it was written"),
        ("numbers.h5", Path.unlink, "has lost its file numbers.h5"),
        (NOTEBOOK, cut, f"has a damaged {NOTEBOOK}"),
        (NOTEBOOK, Path.unlink, "was stopped at its very end"),
    ],
)
def test_what_is_damaged_is_told_and_made_anew(home, capfd, file, damage, told):
    body = "phase.save('numbers', {'x': (np.arange(3.0), 'px')})"
    notebooks = write_notebooks(home / "notebooks", dict.fromkeys(pipeline.PHASES, body))
    finish_phases()
    pretend_executed(home, notebooks)
    folder = home / "runs" / "toy"
    assert pipeline.run(profile="toy", notebooks=notebooks).executed == ()
    assert capfd.readouterr().err.splitlines() == [
        f"{info.title}: complete, kept" for info in pipeline.PHASES.values()
    ]
    damage(folder / MAP / file)
    left = folder / MAP / "figures" / ".partial-1-01-one.json", folder / ".partial-77-summary.json"
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    assert pipeline.run(profile="toy", notebooks=notebooks).executed == (MAP,)
    assert capfd.readouterr().err.splitlines()[3] == f"Reconstruction {told}; it is made anew"
    assert not [path for path in left if path.exists()]
    np.testing.assert_array_equal(pipeline.load_arrays(folder / MAP / "numbers.h5")["x"], np.arange(3.0))


def test_only_what_was_written_aside_is_removed(tmp_path):
    names = [
        ".partial-12-a.h5",
        "deep/.partial-here-12-0f-density.mrc",
        "a.partial",
        "deep/partial.ipynb",
        ".lock",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_left_overs(tmp_path)
    assert [name for name in names if (tmp_path / name).exists()] == names[2:]


# what a run's folder says of itself


def test_a_record_names_what_was_made_and_read_with_checksums(home):
    finish_phases([DATA])
    phase = pipeline.open_phase(DISTANCES, profile="toy")
    phase.load(DATA, "numbers")
    phase.save("own", {"y": (np.ones(2), "rad")})
    phase.load(DISTANCES, "own")
    phase.save_figure("one", go.Figure(), "One.")
    phase.finish()
    data, own = (
        json.loads((home / "runs" / "toy" / name / "phase.json").read_text()) for name in (DATA, DISTANCES)
    )
    assert own["inputs"] == {f"{DATA}/numbers.h5": data["artefacts"]["numbers.h5"]}
    assert sorted(own["artefacts"]) == ["figures/01-one.json", "own.h5"]
    assert {len(sha256) for sha256 in own["artefacts"].values()} == {64}
    assert own["versions"]["cryoem_sources_sha256"] == sources_sha256()
    assert own["built_on"] == {DATA: data["id"]}


def test_a_file_that_is_not_as_the_earlier_phase_wrote_it_is_not_read(home):
    finish_phases([DATA])
    pipeline.save_arrays(
        home / "runs" / "toy" / DATA / "numbers.h5",
        {"x": (np.ones(3), "px")},
        parameters=pipeline.open_phase(DATA, profile="toy", run="other").parameters,
    )
    phase = pipeline.open_phase(DISTANCES, profile="toy")
    with pytest.raises(
        pipeline.StalePhaseError,
        match=f"phase {DATA} of run 'toy' has a file numbers.h5 that is not as it was",
    ):
        phase.load(DATA, "numbers")


def test_the_constants_of_the_contrast_transfer_are_parameters(home):
    with_transfer = pipeline.open_phase(DATA, profile="toy", overrides={"ctf": True}).parameters
    assert with_transfer["contrast_transfer"]["voltage_kv"] == 300
    assert json.loads(json.dumps(with_transfer)) == with_transfer
    assert "contrast_transfer" not in pipeline.open_phase(DATA, profile="toy").parameters


def test_phases_that_other_code_made_are_kept_and_said_to_be(home, capfd, monkeypatch):
    notebooks = write_notebooks(home / "notebooks", NOTHING)
    finish_phases()
    pretend_executed(home, notebooks)
    monkeypatch.setattr("cryoem.pipeline.runner.sources_sha256", lambda: "0" * 64)
    assert pipeline.run(profile="toy", notebooks=notebooks).executed == ()
    assert capfd.readouterr().err.splitlines()[0] == (
        "Data preparation: complete, kept, though this package's code has changed since; --force makes it anew"
    )
