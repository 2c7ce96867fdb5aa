"""The command line: quick help, usage errors, and the options that commands pass on."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from command_line import invoke

import cryoem
from cryoem import runs
from cryoem.cli import COMMANDS, app, machine
from cryoem.particles.mrc import write_stack
from cryoem.projection import projectors
from cryoem.rotations import from_relion_euler_deg
from cryoem.runs import runner
from cryoem.udl import stacks
from cryoem.volumes import registry

HEAVY = {"numpy", "scipy", "h5py", "plotly", "papermill", "tensorflow", "keras", "astra"}
NAMES = [function.__name__ for functions in COMMANDS.values() for function in functions]


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def run_call(monkeypatch):
    """Record the arguments of ``runs.run``, which does nothing here."""
    call = {}

    def run(**arguments):
        call.update(arguments)
        return SimpleNamespace(
            text="Result",
            report=Path("report.html"),
            folder=Path("runs"),
            numbers={"3-reconstruction": {"refined_pose_error_rad": None}},
            warnings={},
            seconds={"3-reconstruction": 2.5},
            executed=("3-reconstruction",),
        )

    monkeypatch.setattr(runner, "run", run)
    return call


# --- help


def test_help_imports_nothing_heavy():
    show = (
        "import sys; from cryoem.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    modules = set(run_python("-c", show).stdout.split())
    assert {"cryoem.cli", "typer.rich_utils"} < modules
    assert not modules & HEAVY


@pytest.mark.parametrize("name", NAMES)
def test_each_help_has_an_example_that_is_valid(name):
    ended = invoke(name, "--help")
    assert ended.exit_code == 0
    lines = [line.strip() for line in ended.stdout.partition("Example:")[2].splitlines()]
    examples = [line for line in lines if line.startswith("cryoem ")]
    assert examples
    for example in examples:
        _, command, *arguments = shlex.split(example)
        assert command == name
        typer.main.get_command(app).commands[name].make_context(name, arguments)  # fails for unknown options


# --- run, settings, experiment


def test_run_passes_its_options_on(run_call):
    ended = invoke(
        "run", "--profile", "toy", "--map", "5j0n", "--run", "mine", "--noise-variance", "16", "--seed", "3",
        "--set", "training_seconds=none", "--set", "batch_size=4", "--as-map", "--force",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == "Result\n\nReport: report.html\n"
    overrides = {"noise_variance": 16.0, "seed": 3, "as_map": True, "training_seconds": None, "batch_size": 4}
    expected = {"profile": "toy", "map_name": "5j0n", "run": "mine", "overrides": overrides, "force": True}
    assert run_call == expected
    values = json.loads(invoke("run", "--json").stdout)
    assert values["report"] == "report.html"
    assert values["numbers"] == {"3-reconstruction": {"refined_pose_error_rad": None}}


def test_a_model_map_is_known_when_the_settings_are_checked(run_call):
    """Without a map, these settings contradict each other."""
    ended = invoke("run", "--particles", "a.star", "--model-map", "5j0n", "--as-map", "--set", "symmetry=D2")
    assert ended.exit_code == 0, ended.output
    assert (run_call["map_name"], run_call["overrides"]["as_map"]) == ("5j0n", True)


def test_learn_runs_again_with_the_map_that_was_found(monkeypatch, run_call):
    recorded, calls = runner.run, []

    def run(**arguments):
        calls.append(arguments)
        summary = recorded(**arguments)
        summary.report = Path(f"report-{len(calls)}.html")
        return summary

    monkeypatch.setattr(runner, "run", run)
    ended = invoke("run", "--particles", "a.star", "--set", "symmetry=D2", "--learn", "--json")
    assert ended.exit_code == 0, ended.output
    first, second = calls
    assert first["map_name"] is None
    assert Path(second["map_name"]) == Path("runs", "2.1-orientations-without-a-map", "initial.mrc")
    assert second["run"] == "runs-learned"
    assert second["overrides"] == first["overrides"] | {"orientation_method": "distances"}
    values = json.loads(ended.stdout)
    assert (values["report"], values["learned"]["report"]) == ("report-1.html", "report-2.html")
    assert "report-1.html" in ended.stderr  # before the second run, which may fail


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--profile fast", "'fast'"),
        ("--set seed", "'seed'"),
        ("--set steps=3", "'steps'"),
        ("--set noise=3", "unknown setting 'noise'; did you mean 'noise_variance'?"),
        ("--leave-out-outliers", "leave_out_outliers applies only to measured particles, got True"),
        ("--as-stack", "as_stack applies only to measured particles, got True"),
        ("--particles a.star --as-map", "as_map applies only to a map of the particle, which is not given"),
        ("--seed 1 --set seed=2", "seed must be given only once, got 1 and 2"),
        ("--noise-variance -1", "noise_variance"),
        ("--seed one", "Invalid value for '--seed'"),
        ("--seed one", ", got one"),
        ("--particles a.star --microscope 300 2.7 low", ", got low"),
        ("--model-map a.mrc", "--model-map requires --particles"),
        ("--map 5j0n --learn", "--learn requires --particles and cannot be combined"),
        (
            "--particles a.star --model-map 5j0n --learn",
            "--learn requires --particles and cannot be combined",
        ),
        (
            "--particles a.star --set map_name=phantom --learn",
            "--learn requires --particles and cannot be combined",
        ),
        ("--particles a.star --learn --set leave_out_junk=true", "--learn uses all images"),
        (
            "--set leave_out_junk=true",
            "leave_out_junk requires orientation_method ab_initio, got distances",
        ),
        (
            "--particles a.star --set orientation_method=distances",
            "must be ab_initio without a map of the particle",
        ),
        ("--particles a.star --model-map b.mrc --map c.mrc", "--map and --noise-variance apply only to"),
        ("--particles a.star --model-map 5j0n --set ctf=true", "ctf must be false for measured"),
        ("--pixel-size 2", "pixel_size_angstrom applies only to measured particles, got 2.0"),
        ("--device tpu", "Invalid value for '--device'"),
    ],
)
def test_usage_errors_have_code_2(run_call, arguments, words):
    ended = invoke("run", *arguments.split())
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert not run_call


def test_the_version_is_that_of_the_package():
    ended = invoke("--version")
    assert (ended.exit_code, ended.stdout) == (0, f"cryoem {cryoem.__version__}\n")


@pytest.mark.parametrize(
    "command", [["run", "--map"], ["experiment", "noise", "--map"], ["density", "--out", "a.mrc"]]
)
def test_a_mistyped_map_is_refused_before_anything_is_downloaded(command, home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr(registry, "_download", lambda *_: pytest.fail("a file was downloaded"))
    ended = invoke(*command, "5jon")
    assert ended.exit_code == 1
    assert ended.stderr.endswith("or PDB-5jon for the PDB entry, got '5jon'; did you mean '5j0n'?\n")
    assert list(home.rglob("*")) == []
    assert registry.find_entry("PDB-5jon").url.endswith("/5JON.cif.gz")


def test_a_mistyped_path_of_a_map_names_the_nearest_file(home):
    (home / "initial.mrc").touch()
    ended = invoke("run", "--map", home / "inital.mrc")
    assert ended.exit_code == 1
    assert ended.stderr.endswith(f"{home}/inital.mrc does not exist; did you mean 'initial.mrc'?\n")


def test_a_missing_map_is_one_sentence(tmp_path):
    ended = run_python("-m", "cryoem.cli", "run", "--map", str(tmp_path / "x.mrc"))
    assert ended.returncode == 1
    assert ended.stderr.startswith("cryoem: --map must ")
    assert f"{tmp_path}/x.mrc" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_interruption_says_how_to_continue(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    monkeypatch.setattr(registry, "fetch", interrupted)
    for arguments, words in ((["run"], "command"), (["fetch", "5j0n"], "nothing was written; rerun")):
        ended = invoke(*arguments)
        assert ended.exit_code == 130
        assert ended.stderr.startswith("cryoem: interrupted; ")
        assert words in ended.stderr


def test_settings_lists_every_setting_with_its_values():
    values = json.loads(invoke("settings", "--json").stdout)
    assert values.keys() == set(runs.Profile.model_fields) - {"name"}
    assert [values["seed"][profile] for profile in ("quick", "paper", "toy")] == [0, 0, 0]
    listed = [line.split()[0] for line in invoke("settings").stdout.splitlines()]
    assert listed == list(values)


# --- the others


def test_align2d_leaves_a_page_with_the_averages_before_and_after(tmp_path, particle):
    psi = np.linspace(0, 300, 12)
    rotations = from_relion_euler_deg(np.stack([0 * psi, 50 + 0 * psi, psi], axis=1))
    write_stack(tmp_path / "a.mrcs", projectors.project(particle, rotations), pixel_size_angstrom=4.0)
    options = ["--method", "template", "--out", tmp_path / "b", "--html", tmp_path / "a.html"]
    ended = invoke("align2d", tmp_path / "a.mrcs", *options)
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (0, f"Page: {tmp_path / 'a.html'}")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count('class="figure-json"') == 1
    for words in ("before alignment", "after alignment", "12 images, aligned with cryoem (template)"):
        assert words in text
    refused = invoke("align2d", tmp_path / "a.mrcs", *options[:2], "--out", tmp_path / "c", *options[4:])
    assert (refused.exit_code, (tmp_path / "c").exists()) == (1, False)
    assert "use --force to overwrite it" in refused.stderr


def test_align2d_says_that_the_averages_of_two_halves_do_not_agree(tmp_path, particle):
    image = particle.sum(axis=0)
    write_stack(tmp_path / "a.mrcs", np.stack([image, -image] * 2), pixel_size_angstrom=4.0)
    ended = invoke("align2d", tmp_path / "a.mrcs", "--method", "template", "--out", tmp_path / "b")
    assert ended.exit_code == 0
    assert "; the averages of two halves do not agree\n" in ended.stdout
    assert json.loads((tmp_path / "b" / "summary.json").read_text())["resolution_angstrom"] is None


def test_align2d_passes_its_options_on(monkeypatch):
    call = {}

    def align_file(particles, out, **options):
        call.update(options, particles=particles, out=out)
        return SimpleNamespace(
            images=1, seconds=2.0, method="judl", resolution_angstrom=None, folder=out, error_deg=None
        )

    monkeypatch.setattr(stacks, "align_file", align_file)
    options = ["--reference", "2@c.mrcs", "--format", "emaf", "--pixel-size", 2]
    ended = invoke("align2d", "a.mrcs", "--out", "b", "--model", "m", *options)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert "Result: b" in ended.stdout
    paths = {"particles": "a.mrcs", "out": "b", "model": "m", "reference": "2@c.mrcs"}
    assert {name: str(call[name]) for name in paths} == paths
    assert (call["max_training_images"], call["rng"]) == (10_000, 0)
    assert (call["training"], call["emaf"], call["pixel_size_angstrom"]) == (None, True, 2)
    invoke("align2d", "a.mrcs", "--out", "b", "--initial-model", "m")
    assert str(call["training"].initial_model) == "m"
    assert (call["reference"], call["emaf"]) == (None, False)
    values = json.loads(invoke("align2d", "a.mrcs", "--out", "b", "--json").stdout)
    assert (values["folder"], values["page"]) == ("b", None)
    assert invoke("align2d", "a.mrcs", "--out", "b", "--seed", "-1").exit_code == 2


@pytest.mark.parametrize(
    ("device", "visible", "training", "projection"),
    [
        ("auto", True, "gpu", "astra"),
        ("auto", False, "cpu", "fourier"),
        ("cpu", True, "cpu", "fourier"),
        ("gpu", False, machine.NO_GPU, machine.NO_GPU),
    ],
)
def test_info_shows_versions_folders_and_the_devices_in_use(
    cryoem_home, monkeypatch, device, visible, training, projection
):
    monkeypatch.setenv("CRYOEM_DEVICE", device)
    monkeypatch.setattr(machine, "_tensorflow_gpus", lambda: ["/physical_device:GPU:0"] if visible else [])
    monkeypatch.setattr(projectors, "astra_is_usable", lambda: visible)
    report = json.loads(invoke("info", "--json").stdout)
    assert (report["device"], report["gpu_of_astra"]) == (device, visible)
    assert (report["training_device"], report["projection_backend"]) == (training, projection)
    assert (report["cryoem"], report["python"]) == (cryoem.__version__, sys.version.split()[0])
    assert report["data_folder"] == str(cryoem_home)
    assert report.keys() >= {"numpy", "tensorflow", "keras", "astra", "finufft", "numba"}


def test_fetch_prints_the_path(monkeypatch, tmp_path):
    refused = invoke("fetch", "nothing-like-it")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("cryoem: name must be one of 5j0n, ")
    monkeypatch.setattr(registry, "fetch", lambda name: tmp_path / f"{name}.mrc")
    assert invoke("fetch", "5j0n").stdout == f"{tmp_path}/5j0n.mrc\n"
    values = json.loads(invoke("fetch", "1u19", "--json").stdout)
    assert (values["path"], values["licence"]) == (f"{tmp_path}/1u19.mrc", "CC0 (PDB)")
