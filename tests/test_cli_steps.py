"""The commands from images to a map, one after another as docs/commands.md shows them, and each for itself."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import typer
from command_line import invoke

from cryoem import imaging, particles, pipeline, registry, siamese, volumes
from cryoem.blockwise import fix_gauge_of
from cryoem.cli import COMMANDS, app
from cryoem.recovery import recover_orientations
from cryoem.resolution import fourier_shell_correlation

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "commands.md").read_text(encoding="utf-8")
WALK = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
EXAMPLES = [
    line.strip()
    for commands in COMMANDS.values()
    for command in commands
    for line in command.__doc__.partition("Example:\n")[2].splitlines()
    if line.strip()
]
N = 120


def answer(*arguments) -> dict:
    """What a command answers to programs; it must succeed without a word on stderr."""
    ended = invoke(*arguments, "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def test_workers_make_what_one_process_makes(tmp_path):
    """Images to the bit; a map but for the rounding of another number of threads."""
    for workers in (1, 2):
        particles_file, made = tmp_path / f"{workers}.star", tmp_path / f"{workers}.mrc"
        answer(
            "project",
            "phantom",
            "-n",
            30,
            "--noise-variance",
            1,
            "--workers",
            workers,
            "--out",
            particles_file,
        )
        answer("reconstruct", particles_file, "--workers", workers, "--out", made)
    one, two = ((tmp_path / f"{workers}.mrcs").read_bytes() for workers in (1, 2))
    assert one == two
    first, second = (volumes.read_map(tmp_path / f"{workers}.mrc").data for workers in (1, 2))
    np.testing.assert_allclose(first, second, atol=1e-5 * np.abs(first).max())


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A folder in which the commands of the page were executed, and what each said.

    The network is one that knows nothing, and leaves recovery little to find: of what it finds, only the form is
    looked at here.
    """
    folder = tmp_path_factory.mktemp("walk")
    keras.utils.set_random_seed(0)
    settings = siamese.EncoderSettings(16, channels=6, blocks=1)
    siamese.save_encoder(folder / "encoder.weights.h5", settings.build(), settings)
    said = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in WALK:
            said[line] = invoke(*shlex.split(line)[1:])
    return folder, said


@pytest.mark.parametrize("line", WALK)
def test_the_walk_through_the_pipeline_works(walked, line):
    _, said = walked
    assert (said[line].exit_code, said[line].stderr) == (0, "")
    assert said[line].stdout


def test_the_walk_names_every_step():
    steps = {command.__name__ for group in list(COMMANDS.values())[1:4] for command in group}
    assert {line.split()[1] for line in WALK} == (steps - {"fetch"}) | {"info"}


def test_the_page_has_what_the_commands_say():
    made = runpy.run_path(DOCS / "commands_page.py")["reference"]()
    assert made.startswith("## All commands\n")
    assert PAGE.endswith(made), "python docs/commands_page.py writes it anew"


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_are_commands(example):
    program, name, *arguments = shlex.split(example)
    assert program == "cryoem"
    command = typer.main.get_command(app).commands[name]
    assert command.make_context(name, arguments).params  # raises where an option does not exist


# --- what the steps write


def test_projected_images_are_simulated_ones(walked):
    folder, _ = walked
    read = particles.open_particles(folder / "particles.star").to_stack()
    density = registry.load(folder / "map.mrc")
    expected = imaging.simulate(density, N, image_size=32, noise_variance=0.5, rng=0)
    np.testing.assert_array_equal(read.images, expected.images)
    assert (read.rotations * expected.rotations.inv()).magnitude().max() < 1e-7
    assert read.ctf is None
    assert not read.shifts_px.any()


def test_projected_images_know_their_shifts_and_contrast_transfer(walked, tmp_path):
    options = ["-n", 5, "--ctf", "--shift-limit-px", 2, "--image-size", 20, "--coverage", "half", "--seed", 4]
    values = answer("project", walked[0] / "map.mrc", *options, "--out", tmp_path / "a.star")
    assert values == {
        "table": str(tmp_path / "a.star"),
        "stack": str(tmp_path / "a.mrcs"),
        "images": 5,
        "image_size_px": 20,
        "pixel_size_angstrom": 8.0,
    }
    read = particles.open_particles(tmp_path / "a.star").to_stack()
    expected = imaging.simulate(
        registry.load(walked[0] / "map.mrc"),
        5,
        image_size=20,
        coverage="half",
        shift_limit_px=2.0,
        ctf=imaging.ContrastTransfer(inverted=True),
        rng=4,
    )
    np.testing.assert_array_equal(read.images, expected.images)
    np.testing.assert_allclose(read.shifts_px, expected.shifts_px, atol=1e-6)
    np.testing.assert_allclose(read.defocus_angstrom[:, 0], expected.defocus_angstrom, rtol=1e-8)
    assert read.ctf.inverted


def test_the_same_seed_gives_the_same_files(walked, tmp_path):
    (tmp_path / "again").mkdir()
    for folder in (tmp_path, tmp_path / "again"):
        answer("project", "phantom", "-n", 8, "--image-size", 16, "--noise-variance", 1, "--seed", 5,
               "--out", folder / "a.star")  # fmt: skip
        answer("reconstruct", folder / "a.star", "--out", folder / "a.mrc")
    for name in ("a.star", "a.mrcs", "a.mrc"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    answer("project", "phantom", "-n", 8, "--image-size", 16, "--noise-variance", 1, "--seed", 6,
           "--out", tmp_path / "b.star")  # fmt: skip
    assert (tmp_path / "a.mrcs").read_bytes() != (tmp_path / "b.mrcs").read_bytes()


SLOW_WRITING = """
import signal, sys, time
from cryoem import cli
from cryoem.particles import StackWriter

def slow(self, images):
    print("writing", flush=True, file=sys.__stdout__)
    time.sleep(60)

StackWriter.write = slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
sys.argv = ["cryoem", *sys.argv[1:]]
cli.app()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_step_that_is_stopped_leaves_nothing(tmp_path, number):
    command = [sys.executable, "-c", SLOW_WRITING, "project", "phantom", "-n", "4", "--image-size", "16"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--out", tmp_path / "a.star"], **options) as process:
        assert process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 2  # the table and the stack, each aside
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (128 + number, "")
    assert stderr.endswith("nothing was written, and the same command starts anew\n")
    assert list(tmp_path.iterdir()) == []


def test_distances_say_what_they_are_made_of(walked):
    folder, _ = walked
    path = folder / "distances.h5"
    arrays = pipeline.load_arrays(path)
    assert arrays["distances"].shape == (N, N)
    assert arrays["shifts"].shape == (N, 2)
    parameters = pipeline.artefacts.stored_parameters(path)
    assert parameters["images"] == N
    assert parameters["symmetry"] == "C1"
    assert parameters["encoder"]["image_size"] == 16
    again = answer(
        "distances", folder / "particles.star", "--encoder", folder / "encoder.weights.h5",
        "--out", folder / "again.h5",
    )  # fmt: skip
    assert again["distances"] == str(folder / "again.h5")
    np.testing.assert_array_equal(pipeline.load_arrays(folder / "again.h5")["distances"], arrays["distances"])


def test_recovered_orientations_are_those_of_the_functions(walked):
    folder, _ = walked
    found = particles.open_particles(folder / "orientations.star")
    rng = np.random.default_rng(0)
    matrix = pipeline.load_arrays(folder / "distances.h5")["distances"]
    recovery = recover_orientations(matrix, rng=rng)
    images = particles.open_particles(folder / "particles.star")
    gauge = fix_gauge_of(images, recovery.rotations, rng=rng)
    assert (found.rotations * gauge.rotations.inv()).magnitude().max() < 1e-6
    np.testing.assert_array_equal(found.read(slice(None)), images.read(slice(None)))
    assert found.image_names == images.image_names


def test_recovery_without_images_is_in_a_gauge_of_its_own(walked, tmp_path):
    path = walked[0] / "distances.h5"
    values = answer("recover", path, "--method", "spectral", "--out", tmp_path / "a.h5")
    recovery = recover_orientations(pipeline.load_arrays(path)["distances"], method="spectral", rng=0)
    quaternions = pipeline.load_arrays(tmp_path / "a.h5")["quaternions"]
    np.testing.assert_allclose(quaternions, recovery.rotations.as_quat(), atol=1e-12)
    assert values["common_line_agreement"] is None
    assert values["recovery_loss_rad2"] == recovery.losses[-1]
    refused = invoke("recover", path, "--out", tmp_path / "a.star")
    assert refused.exit_code == 2
    assert "a STAR file needs --particles, which it names" in refused.stderr


def test_a_map_of_the_true_orientations_is_the_particle(walked):
    folder, said = walked
    made, truth = (volumes.read_map(folder / name) for name in ("true.mrc", "map.mrc"))
    curve = fourier_shell_correlation(made.data, truth.data, voxel_size_angstrom=8.0)
    assert curve.resolution_angstrom(0.5) < 25  # 16 is Nyquist
    halves = [volumes.read_map(folder / f"found-half-{number}.mrc") for number in (1, 2)]
    whole = volumes.read_map(folder / "found.mrc")
    assert {half.data.shape for half in halves} == {whole.data.shape}
    assert "half-maps found-half-1.mrc and found-half-2.mrc agree to" in "".join(
        ended.stdout for line, ended in said.items() if "--half-maps" in line
    )


def test_converted_particles_are_the_same(walked):
    folder, _ = walked
    a, b = (particles.open_particles(folder / f"orientations.{kind}") for kind in ("star", "xmd"))
    np.testing.assert_array_equal(a.read(slice(None)), b.read(slice(None)))
    assert (a.rotations * b.rotations.inv()).magnitude().max() < 1e-6
    np.testing.assert_allclose(a.shifts_px, b.shifts_px, atol=1e-6)


def test_cryosparcs_particles_become_relions(real_data, tmp_path):
    source = real_data / "particles" / "empiar_10076_7.cs"
    values = answer("convert", source, tmp_path / "a.star", "--datadir", source.parent)
    made, given = particles.open_particles(tmp_path / "a.star"), particles.open_particles(source)
    assert values["images"] == len(made) == 7
    assert (made.ctf.inverted, given.ctf.inverted) == (True, False)  # RELION's particles are bright
    np.testing.assert_array_equal(made.read(slice(None)), -given.read(slice(None)))
    np.testing.assert_allclose(made.defocus_angstrom, given.defocus_angstrom, rtol=1e-6)
    assert made.pixel_size_angstrom == pytest.approx(given.pixel_size_angstrom)


# --- what steps refuse


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("project map.mrc --out a.mrcs", 2, "must end in .star or .xmd, got a.mrcs"),
        ("project map.mrc -n 0 --out a.star", 2, "Invalid value for '-n'"),
        ("project nothing.mrc --out a.star", 1, "no map file at nothing.mrc"),
        ("project map.mrc --out a.star --coverage all", 1, "coverage must be one of so3, "),
        ("convert particles.star a.cs", 2, "must end in .star or .xmd, got a.cs"),
        ("convert nothing.star a.star", 1, "no particle file at nothing.star"),
        ("convert particles.star particles.xmd --force", 1, "path must not be that of the particles' own files"),
        ("distances particles.star --encoder no.weights.h5 --out a.h5", 1, "no such file of an encoder: no.weights.h5"),
        ("distances particles.star --encoder encoder.weights.h5 --out encoder.weights.h5 --force", 1,
         "--out must be another file than what is read, got encoder.weights.h5"),
        ("recover encoder.weights.h5 --out a.h5", 1, "was not written by this package"),
        ("recover distances.h5 --out a.h5 --symmetry D99x", 1, "symmetry must "),
        ("recover distances.h5 --out a.h5 --landmarks 5", 1, "landmarks must be a whole number of at least 12"),
        ("recover distances.h5 --particles few.star --out a.star", 1,
         "few.star must hold the 120 images of distances.h5, got 5"),
        ("reconstruct particles.mrcs --out a.mrc", 1, "particles.mrcs must give the orientations of its images"),
        ("reconstruct particles.star --method sirt --out a.mrc", 1, "method must be one of fourier, cgls, got 'sirt'"),
        ("reconstruct particles.star --method cgls --half-maps --out a.mrc", 2, "needs --method fourier, got cgls"),
        ("reconstruct particles.star --out found.mrc", 1, "--out must be a new file, got found.mrc"),
    ],
)  # fmt: skip
def test_steps_refuse_what_they_cannot_do(walked, monkeypatch, arguments, code, message):
    folder, _ = walked
    monkeypatch.chdir(folder)
    if not Path("few.star").exists():
        particles.write_particles("few.star", particles.open_particles("particles.star").subset(range(5)))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    refused = invoke(*arguments.split())
    assert (refused.exit_code, refused.stdout) == (code, "")
    assert message in refused.stderr
    if code == 1:
        assert re.fullmatch(r"cryoem: .*\n", refused.stderr)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_distances_that_are_no_matrix_are_refused_with_their_file(tmp_path):
    path = tmp_path / "a.h5"
    for shape in ((), (5,), (5, 6)):
        pipeline.save_arrays(path, {"distances": (np.zeros(shape), "rad")}, parameters={})
        refused = invoke("recover", path, "--out", tmp_path / "b.h5")
        sentence = f"{path} must hold distances as a square (n, n) matrix, got shape {shape}"
        assert (refused.exit_code, refused.stderr) == (1, f"cryoem: {sentence}\n")
    pipeline.save_arrays(path, {"others": (np.zeros(3), "rad")}, parameters={})
    refused = invoke("recover", path, "--out", tmp_path / "b.h5")
    assert refused.stderr == f"cryoem: {path} must hold the dataset 'distances', it holds others\n"
    assert not (tmp_path / "b.h5").exists()


def test_a_stack_that_a_table_names_is_not_replaced_by_a_map(walked, tmp_path):
    stack = particles.open_particles(walked[0] / "particles.star").to_stack(range(4))
    particles.write_particles(tmp_path / "a.star", stack)
    (tmp_path / "a.mrcs").rename(tmp_path / "a.mrc")
    text = (tmp_path / "a.star").read_text()
    (tmp_path / "a.star").write_text(text.replace("a.mrcs", "a.mrc"))
    before = (tmp_path / "a.mrc").read_bytes()
    refused = invoke("reconstruct", tmp_path / "a.star", "--out", tmp_path / "a.mrc", "--force")
    assert refused.exit_code == 1
    assert refused.stderr == (
        f"cryoem: --out must be another file than what is read, got {tmp_path / 'a.mrc'}\n"
    )
    assert (tmp_path / "a.mrc").read_bytes() == before
