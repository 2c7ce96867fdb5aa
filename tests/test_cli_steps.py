"""The commands from images to a map: the sequence in docs/commands.md, and each step on its own."""

from __future__ import annotations

import re
import runpy
import shlex
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import skimage
from command_line import answer, invoke
from tiny_training import eagerly, uncompiled, without_compilation  # noqa: F401 (a fixture)

from cryoem import contrast, distances, files, orientations, particles, reconstruction, volumes
from cryoem.cli import COMMANDS
from cryoem.rotations import Poses
from cryoem.training import fitting

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "commands.md").read_text(encoding="utf-8")
WALK = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
N = 120
TINY_SETTINGS = {
    "network_image_size": 16,
    "channels": 4,
    "batch_size": 8,
    "n_validation": 6,
    "steps_per_epoch": 1,
    "training_epochs": 2,
}
TINY_TRAINING = [text for item in TINY_SETTINGS.items() for text in ("--set", "{}={}".format(*item))]


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folder in which the commands of the page were executed, and the output of each command.

    The network is trained in two steps, because only the format of its estimates is tested here.
    """
    folder = tmp_path_factory.mktemp("walk")
    outputs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in WALK:
            if line.startswith("cryoem train"):
                with without_compilation(), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Even though the `tf.config")
                    outputs[line] = invoke(*shlex.split(line)[1:], *TINY_TRAINING)
            else:
                outputs[line] = invoke(*shlex.split(line)[1:])
    return folder, outputs


@pytest.mark.parametrize("line", WALK)
def test_the_walk_through_the_pipeline_works(walked, line):
    ended = walked[1][line]
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout


def test_the_walk_has_every_step():
    steps = {command.__name__ for group in list(COMMANDS.values())[1:4] for command in group}
    assert {line.split()[1] for line in WALK} == (steps - {"fetch"}) | {"info"}


def test_the_page_has_the_help_of_the_commands():
    reference = runpy.run_path(DOCS / "commands_page.py")["reference"]()
    assert reference.startswith("## All commands\n")
    assert PAGE.endswith(reference), "run python docs/commands_page.py"


# --- outputs


def test_projected_images_are_simulated_ones(walked, tmp_path):
    density = volumes.load(walked[0] / "map.mrc")
    read = particles.open_particles(walked[0] / "particles.star").to_stack()
    expected = particles.simulate(density, N, image_size=32, noise_variance=0.5, rng=0)
    np.testing.assert_array_equal(read.images, expected.images)
    assert (read.rotations * expected.rotations.inv()).magnitude().max() < 1e-7
    assert read.ctf is None
    assert not read.shifts_px.any()
    options = ["-n", 5, "--ctf", "--shift-limit-px", 2, "--image-size", 28, "--coverage", "half", "--seed", 4]
    values = answer("project", walked[0] / "map.mrc", *options, "--out", tmp_path / "a.star")
    assert values == {
        "table": str(tmp_path / "a.star"),
        "stack": str(tmp_path / "a.mrcs"),
        "images": 5,
        "image_size_px": 28,
        "pixel_size_angstrom": 8.0,
    }
    read = particles.open_particles(tmp_path / "a.star").to_stack()
    ctf = contrast.ContrastTransfer(inverted=True)
    expected = particles.simulate(
        density, 5, image_size=28, coverage="half", shift_limit_px=2.0, ctf=ctf, rng=4
    )
    np.testing.assert_array_equal(read.images, expected.images)
    np.testing.assert_allclose(read.shifts_px, expected.shifts_px, atol=1e-6)
    np.testing.assert_allclose(read.defocus_angstrom[:, 0], expected.defocus_angstrom, rtol=1e-8)
    assert read.ctf.inverted


def test_distances_keep_their_parameters(walked, tmp_path):
    arrays = files.load_arrays(walked[0] / "distances.h5")
    assert arrays["distances"].shape == (N, N)
    assert arrays["shifts"].shape == (N, 2)
    parameters = files.stored_parameters(walked[0] / "distances.h5")
    assert (parameters["images"], parameters["symmetry"]) == (N, "C1")
    assert parameters["encoder"]["image_size"] == 16
    given = ["distances", walked[0] / "particles.star", "--encoder", walked[0] / "encoder.weights.h5"]
    answer(*given, "--landmarks", 15, "--out", tmp_path / "landmarks.h5")
    # a training folder has no checksum
    (tmp_path / "set/one_png").mkdir(parents=True)
    for number in (1, 2, 3):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24), dtype=np.uint8)
        skimage.io.imsave(tmp_path / f"set/one_png/{number}.png", pixels, check_contrast=False)
    encoder = ["--encoder", walked[0] / "encoder.weights.h5"]
    own = answer("distances", tmp_path / "set", "--pixel-size", 8, *encoder, "--out", tmp_path / "d.h5")
    assert (own["images"], own["particles_sha256"]) == (3, None)
    few = files.load_arrays(tmp_path / "landmarks.h5")
    assert few["distances"].shape == (N, 15)
    np.testing.assert_allclose(few["distances"], arrays["distances"][:, few["landmarks"]], atol=2e-3)
    assert answer("recover", tmp_path / "landmarks.h5", "--out", tmp_path / "a.h5")["images"] == N
    refused = invoke("recover", tmp_path / "landmarks.h5", "--landmarks", 20, "--out", tmp_path / "b.h5")
    assert refused.exit_code == 2
    assert "landmarks.h5 already has 15 landmarks" in refused.stderr


def test_ab_initio_finds_the_orientations_and_a_map(walked):
    folder, outputs = walked
    (text,) = (ended.stdout for line, ended in outputs.items() if "abinitio" in line)
    assert "the other starts place 100 % of the images within 17° of the best start" in text
    (resolution,) = re.findall(r"maps of alternate images agree to ([\d.]+) Å", text)
    assert 16 <= float(resolution) < 30
    true, found = (particles.open_particles(folder / f"{name}.star") for name in ("particles", "initial"))
    assert orientations.align_frame(true.rotations, found.rotations).median_error < 0.15
    initial = volumes.read_map(folder / "initial.mrc")
    assert (initial.data.shape, initial.voxel_size_angstrom) == ((32, 32, 32), 8)


def test_refinement_writes_accurate_poses_with_the_maps(walked):
    folder, outputs = walked
    (text,) = (ended.stdout for line, ended in outputs.items() if "refine" in line)
    true, start, found = (
        particles.open_particles(folder / f"{name}.star") for name in ("particles", "initial", "refined")
    )
    assert orientations.align_frame(true.rotations, found.rotations).median_error < 0.043
    moved = np.rad2deg((found.rotations * start.rotations.inv()).magnitude().mean())
    assert f"mean change of the orientations {moved:.2f}°, of the shifts" in text
    # the half-maps are those of the half-sets in the table, and agree to the resolution that is printed
    halves = [volumes.read_map(folder / f"refined-half-{number}.mrc").data for number in (1, 2)]
    assert sorted(np.bincount(found.random_subset)) == [N // 2, N // 2]
    family = reconstruction.fsc_family(*halves, voxel_size_angstrom=8.0, rng=0)
    (resolution,) = re.findall(
        r"half-maps, refined separately, agree to ([\d.]+) Å \(masked, FSC 0.143\)", text
    )
    assert float(resolution) == pytest.approx(family.corrected.resolution_angstrom(0.143), rel=0.05)
    whole = volumes.read_map(folder / "refined.mrc").data
    assert np.corrcoef(whole.ravel(), np.mean(halves, axis=0).ravel())[0, 1] > 0.95
    assert (folder / "refined.cxc").is_file()


def test_refinement_keeps_the_half_sets_of_the_table(walked, tmp_path):
    subset = np.arange(N) < 50
    opened = particles.open_particles(walked[0] / "particles.star")
    particles.write_poses(tmp_path / "halves.star", opened, opened.poses, subset=subset)
    outputs = ["--out", tmp_path / "a.mrc", "--poses", tmp_path / "a.star"]
    values = answer(
        "refine", tmp_path / "halves.star", *outputs, "--search-rounds", 0, "--gradient-rounds", 1
    )
    assert (values["rounds"], values["half_maps"], values["shifts_moved_px"]) == (2, [], 0)
    np.testing.assert_array_equal(particles.open_particles(tmp_path / "a.star").random_subset, subset)
    assert (
        orientations.pose_error(opened.rotations, particles.open_particles(tmp_path / "a.star").rotations)
        < 0.05
    )
    particles.write_poses(tmp_path / "halves.star", opened, opened.poses, subset=np.arange(N) < 7)
    refused = invoke("refine", tmp_path / "halves.star", *outputs, "--force")
    sentence = "cryoem: each half-set must have at least 8 images, got 113 and 7\n"
    assert (refused.exit_code, refused.stderr) == (1, sentence)


def test_a_network_is_trained_on_images_like_the_particles(walked):
    folder, outputs = walked
    (text,) = (ended.stdout for line, ended in outputs.items() if "train" in line)
    (noise_variance, agreement) = re.findall(r"noise variance ([\d.]+), .* of the map ([\d.]+)", text)[0]
    assert float(noise_variance) == pytest.approx(0.5, rel=0.1)
    assert float(agreement) > 0.9
    assert text.startswith("2 epochs in ")
    assert distances.load_encoder(folder / "encoder.weights.h5").settings == distances.EncoderSettings(
        16, channels=4
    )
    assert not (folder / "encoder.checkpoints").exists()


@uncompiled
def test_a_resumed_training_gives_the_encoder_of_notebook_1(walked, tmp_path, monkeypatch):
    arguments = ["train", "--map", walked[0] / "map.mrc", "--noise-variance", 2, *TINY_TRAINING, "--out"]
    backup = fitting.EpochBackup.on_epoch_end

    def interrupt(self, epoch, logs=None):
        backup(self, epoch, logs)
        if epoch == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting.EpochBackup, "on_epoch_end", interrupt)
        ended = invoke(*arguments, tmp_path / "a.weights.h5")
    assert ended.exit_code == 130
    assert ended.stderr.endswith("interrupted; completed epochs are kept; the same command resumes it\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.checkpoints"]
    other = invoke(*arguments, tmp_path / "a.weights.h5", "--seed", 1)
    assert "belong to a different training run (seed 0 instead of 1)" in other.stderr
    read = []
    batch = distances.ProjectionStream.__getitem__
    monkeypatch.setattr(
        distances.ProjectionStream, "__getitem__", lambda self, i: read.append(self.epoch) or batch(self, i)
    )
    values = answer(*arguments, tmp_path / "a.weights.h5")
    assert (values["epochs"], values["steps"], read[-1]) == (2, 2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.weights.h5"]
    # the cells of notebook 1
    keras.utils.set_random_seed(0)
    settings = distances.EncoderSettings(16, channels=4)
    encoder = distances.TrainedEncoder(settings.build(), settings)
    density = volumes.read_map(walked[0] / "map.mrc")
    imaging = particles.ImagingConditions(image_size=32, noise_variance=2.0)
    stream = distances.ProjectionStream(
        density, imaging, network_image_size=16, batch_size=8, steps=1, seed=0
    )
    validation = particles.simulate(density, 6, image_size=32, noise_variance=2.0, rng=9)
    distances.train(encoder, stream, validation=validation, schedule=distances.TrainingSchedule(2))
    found = distances.load_encoder(tmp_path / "a.weights.h5").model.get_weights()
    for one, expected in zip(found, encoder.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, expected)


def test_recovered_orientations_are_those_of_the_functions(walked, tmp_path):
    folder, _ = walked
    found = particles.open_particles(folder / "orientations.star")
    images = particles.open_particles(folder / "particles.star")
    arrays, rng = files.load_arrays(folder / "distances.h5"), np.random.default_rng(0)
    recovery = orientations.recover_orientations(arrays["distances"], rng=rng)
    recovered = Poses(recovery.rotations, arrays["shifts"])
    gauge = orientations.fix_gauge(np.asarray(images), recovered, rng=rng)
    assert (found.rotations * gauge.rotations.inv()).magnitude().max() < 1e-6
    np.testing.assert_array_equal(np.asarray(found), np.asarray(images))
    assert found.image_names == images.image_names
    # without images: arrays in an arbitrary gauge
    values = answer("recover", folder / "distances.h5", "--method", "spectral", "--out", tmp_path / "a.h5")
    recovery = orientations.recover_orientations(arrays["distances"], method="spectral", rng=0)
    quaternions = files.load_arrays(tmp_path / "a.h5")["quaternions"]
    np.testing.assert_allclose(quaternions, recovery.rotations.as_quat(), atol=1e-12)
    assert values["common_line_agreement"] is None
    assert values["recovery_loss_rad2"] == recovery.losses[-1]


def test_a_map_of_the_true_orientations_is_the_particle(walked):
    folder, outputs = walked
    made, truth = (volumes.read_map(folder / name) for name in ("true.mrc", "map.mrc"))
    curve = reconstruction.fourier_shell_correlation(made.data, truth.data, voxel_size_angstrom=8.0)
    assert curve.resolution_angstrom(0.5) < 25  # Nyquist is 16
    halves = [volumes.read_map(folder / f"found-half-{number}.mrc") for number in (1, 2)]
    assert {half.data.shape for half in halves} == {(32, 32, 32)}
    text = next(ended.stdout for line, ended in outputs.items() if "reconstruct" in line)
    assert "half-maps found-half-1.mrc and found-half-2.mrc agree to" in text
    assert "(alternate images) were not refined independently" in text
    assert "chimerax found.cxc" in text
    assert "napari found.mrc" in text


def test_the_chimerax_script_shows_the_map_at_a_level_between_solvent_and_maximum(walked):
    script = (walked[0] / "true.cxc").read_text(encoding="utf-8").splitlines()
    made = volumes.read_map(walked[0] / "true.mrc").data
    assert script[1] == 'open "true.mrc"'
    assert script[2].startswith("volume #1 style surface level ")
    assert script[2].endswith(" step 1")
    assert np.percentile(made, 60) < float(script[2].split()[5]) < made.max()


def test_half_maps_are_of_relions_random_subsets(walked, tmp_path):
    source = particles.open_particles(walked[0] / "particles.star")
    stack, first = source.to_stack(), np.arange(N) < 50
    particles.write_particles(tmp_path / "a.star", stack)
    table = source.table.assign(rlnRandomSubset=np.where(first, 1, 2))
    table["rlnImageName"] = particles.open_particles(tmp_path / "a.star").table["rlnImageName"]
    particles.write_star(tmp_path / "a.star", table, optics=source.optics_groups)
    values = answer("reconstruct", tmp_path / "a.star", "--half-maps", "--out", tmp_path / "map.mrc.gz")
    assert values["halves_from_table"]
    for name, chosen in (("map-half-1.mrc.gz", first), ("map-half-2.mrc.gz", ~first)):
        expected = reconstruction.reconstruct(
            stack.images[chosen], stack.poses[chosen], pixel_size_angstrom=8.0
        ).data
        found = volumes.read_map(tmp_path / name).data
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    for subset in (np.ones(N), np.arange(N)):
        particles.write_star(
            tmp_path / "a.star", table.assign(rlnRandomSubset=subset), optics=source.optics_groups
        )
        refused = invoke("reconstruct", tmp_path / "a.star", "--half-maps", "--out", tmp_path / "b.mrc")
        assert refused.exit_code == 1
        assert re.fullmatch(r"cryoem: .*a\.star: rlnRandomSubset.*\n", refused.stderr)


# --- errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("project map.mrc --out a.mrcs", 2, "must end in .star or .xmd or .cs, got a.mrcs"),
        ("project map.mrc -n 0 --out a.star", 2, "Invalid value for '-n'"),
        ("project map.mrc -n 0 --out a.star", 2, "greater than or equal to 1, got 0"),
        ("project map.mrc --out a.star --coverage all", 1, "--coverage must be one of so3, "),
        ("convert particles.star particles.xmd --force", 1, "particles.mrcs"),
        ("distances particles.star --encoder encoder.weights.h5 --out encoder.weights.h5 --force", 1,
         "encoder.weights.h5 is an input of this command"),
        ("distances particles.star --encoder encoder.weights.h5 --out a.h5 --landmarks 11", 1, "--landmarks must be "),
        ("recover encoder.weights.h5 --out a.h5", 1, "was not written by this package"),
        ("recover distances.h5 --out a.star", 2, "a table requires --particles"),
        ("recover distances.h5 --particles few.star --out a.star", 1,
         "few.star has 5 images, but distances.h5 is for 120 images"),
        ("recover distances.h5 --particles other.star --out a.star", 1,
         "other.star is not the file from which distances.h5 was computed"),
        ("abinitio particles.star --out a.mrc --poses a.xmd", 2, "must end in .star or .cs, got a.xmd"),
        ("abinitio particles.star --out a.mrc --poses particles.star --force", 1,
         "particles.star is an input of this command"),
        ("abinitio particles.star --out a.mrc --poses a.star --shift-deviation-px=-1", 1,
         "--shift-deviation-px must be"),
        ("train --map map.mrc --out encoder.keras", 2, "must end in .weights.h5, got encoder.keras"),
        ("train --map map.mrc --out a.weights.h5 --set search_rounds=2", 2, "search_rounds has no effect on"),
        ("train --map map.mrc --out a.weights.h5 --particles particles.star --noise-variance 1", 2,
         "applies only to simulated particles"),
        ("train --map none.mrc --out a.weights.h5", 1, "--map must be a registry name or the path of a map"),
        ("refine particles.mrcs --out a.mrc --poses a.star", 1,
         "particles.mrcs has no orientations to refine; `cryoem abinitio` finds them"),
        ("refine particles.star --out a.mrc --poses particles.star --force", 1, "is an input of this command"),
        ("reconstruct particles.mrcs --out a.mrc", 1, "particles.mrcs has no orientations"),
        ("reconstruct particles.star --method sirt --out a.mrc", 1, "--method must be one of fourier, cgls"),
        ("reconstruct particles.star --method cgls --half-maps --out a.mrc", 2, "requires --method fourier, got cgls"),
        ("reconstruct particles.star --method cgls --workers 2 --out a.mrc", 2, "require --method fourier, got cgls"),
        ("reconstruct particles.star --out found.mrc", 1, "found.mrc exists; use --force to overwrite it"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_and_nothing_is_written(walked, monkeypatch, arguments, code, message):
    folder, _ = walked
    monkeypatch.chdir(folder)
    if not Path("few.star").exists():
        source = particles.open_particles("particles.star")
        particles.write_particles("few.star", source[:5].to_stack())
        particles.write_particles("other.star", source.to_stack())
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    refused = invoke(*arguments.split())
    assert (refused.exit_code, refused.stdout) == (code, "")
    assert message in refused.stderr
    if code == 1:
        assert re.fullmatch(r"cryoem: .*\n", refused.stderr)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_files_without_a_distance_matrix_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    for shape in ((), (5,), (5, 6)):
        files.save_arrays(path, {"distances": (np.zeros(shape), "rad")}, parameters={})
        refused = invoke("recover", path, "--out", tmp_path / "b.h5")
        sentence = f"{path}: dataset 'distances' must be a square (n, n) matrix, got shape {shape}"
        assert (refused.exit_code, refused.stderr) == (1, f"cryoem: {sentence}\n")
    files.save_arrays(path, {"others": (np.zeros(3), "rad")}, parameters={})
    refused = invoke("recover", path, "--out", tmp_path / "b.h5")
    assert refused.stderr == f"cryoem: {path} has no dataset 'distances'; it has others\n"


def test_a_stack_that_the_input_table_names_is_not_overwritten(walked, tmp_path):
    stack = particles.open_particles(walked[0] / "particles.star")[:4].to_stack()
    particles.write_particles(tmp_path / "a.star", stack)
    (tmp_path / "a.mrcs").rename(tmp_path / "a.mrc")
    text = (tmp_path / "a.star").read_text()
    (tmp_path / "a.star").write_text(text.replace("a.mrcs", "a.mrc"))
    before = (tmp_path / "a.mrc").read_bytes()
    refused = invoke("reconstruct", tmp_path / "a.star", "--out", tmp_path / "a.mrc", "--force")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"cryoem: {tmp_path / 'a.mrc'} is an input of this command")
    assert (tmp_path / "a.mrc").read_bytes() == before
