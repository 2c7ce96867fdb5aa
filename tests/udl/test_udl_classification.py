"""Two-dimensional classification: views are separated and aligned, and junk is marked."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from command_line import invoke
from scipy.spatial.transform import Rotation

from cryoem import particles, plots, udl, volumes
from cryoem.contrast import ContrastTransfer, Optics
from cryoem.images import add_noise
from cryoem.particles.star import read_star
from cryoem.reconstruction import fourier_ring_correlation
from cryoem.rotations import Poses, random_rotations
from cryoem.udl import classification
from cryoem.udl.class_averages import average_classes

SIZE, EACH, VIEWS, CLASSES = 32, 40, 3, 6
NOISE = -1  # instead of the number of a view


@pytest.fixture(scope="module")
def job():
    """Images of three views with CTF and shifts, and pure noise; the view of each image."""
    rng = np.random.default_rng(0)
    view = np.repeat(np.append(np.arange(VIEWS), NOISE), EACH)
    views = random_rotations(VIEWS + 1, rng=1)
    turns = Rotation.from_rotvec(np.outer(rng.uniform(0, 2 * np.pi, len(view)), [0, 0, 1]))
    poses = Poses(turns * views[view], rng.uniform(-1.5, 1.5, (len(view), 2)))
    ctf = ContrastTransfer(inverted=True)
    clean = particles.simulate(volumes.phantom(size=SIZE), poses, ctf=ctf, rng=rng)
    images = np.where((view == NOISE)[:, None, None], 0, clean.images).astype(np.float32)
    order = rng.permutation(len(view))
    stack = particles.ParticleStack(add_noise(images, 0.5, rng=rng), clean.optics, clean.poses)
    return stack[order], view[order]


@pytest.fixture(scope="module")
def found(job):
    return udl.classify(job[0], CLASSES, shift_deviation_px=1.0, rounds=20, rng=0)


def test_views_are_separated_and_noise_is_marked(job, found):
    stack, view = job
    marked = found.junk[found.classes]
    assert marked[view == NOISE].all()
    assert not marked[view != NOISE].any()
    for c in np.flatnonzero(~found.junk):
        members = view[found.classes == c]
        assert np.mean(members == np.bincount(members).argmax()) > 0.95
    assert set(view[~marked]) == set(range(VIEWS))
    assert found.log_likelihoods[view == NOISE].mean() < 0 < found.log_likelihoods[view != NOISE].min()
    np.testing.assert_array_equal(found.counts, np.bincount(found.classes, minlength=CLASSES))
    assert (np.diff(found.counts) <= 0).all()
    assert np.isfinite(found.resolutions_angstrom[~found.junk]).all()
    assert len(stack) == found.counts.sum()


def test_poses_turn_the_images_onto_the_averages(job, found):
    stack, view = job
    clean = particles.simulate(volumes.phantom(size=SIZE), stack.poses).images
    aligned = udl.align_images(clean, found.angles_rad, found.shifts_px)
    for c in np.flatnonzero(~found.junk):
        members = aligned[(found.classes == c) & (view != NOISE)]
        curve = fourier_ring_correlation(members.mean(axis=0), found.averages[c])
        assert curve.correlation[:6].min() > 0.9
        assert members.std(axis=0).mean() < 0.3 * members.mean(axis=0).std()


def test_the_same_seed_gives_the_same_classes(job):
    some = job[0][:40]
    first, second = (udl.classify(some, 2, rounds=10, rng=3) for _ in range(2))
    np.testing.assert_array_equal(first.classes, second.classes)
    np.testing.assert_allclose(first.averages, second.averages, atol=1e-5)


def test_the_average_is_that_of_the_images_without_ctf():
    images = np.random.default_rng(0).normal(size=(6, 16, 16))
    images = np.concatenate([images, images])[[0, 6, 1, 7, 2, 8]]  # the two halves are the same
    classes = np.array([0, 0, 0, 0, 2, 2])
    averaged = average_classes(images, classes, np.zeros(6), np.zeros((6, 2)), k=3, optics=Optics(2.0))
    np.testing.assert_array_equal(averaged.counts, [4, 0, 2])
    assert not averaged.averages[1].any()
    assert averaged.resolutions_angstrom[1] == np.inf
    expected = images[:4].mean(axis=0)
    curve = fourier_ring_correlation(averaged.averages[0], expected - expected.mean())
    assert curve.correlation.min() > 0.99


def test_signal_at_the_edge_is_measured():
    y, x = np.indices((24, 24)) - 12
    images = np.stack([np.exp(-((x - at) ** 2 + y**2) / 8.0) for at in (0, 0, 10, 10)]).astype(np.float32)
    averaged = average_classes(
        images, np.array([0, 0, 1, 1]), np.zeros(4), np.zeros((4, 2)), k=2, optics=Optics(2.0)
    )
    assert averaged.edge_powers[0] < 0.05 < 0.6 < averaged.edge_powers[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be an integer >= 1, got 0"),
        ({"k": 41}, r"k must be at most a quarter of the number of images \(160\), got 41"),
        ({"k": 2, "rounds": 9}, "rounds must be an integer >= 10, got 9"),
        ({"k": 2, "shift_deviation_px": -1}, "shift_deviation_px must be a finite, non-negative number"),
    ],
)
def test_wrong_values_are_refused(job, options, message):
    with pytest.raises(ValueError, match=message):
        udl.classify(job[0], **options)


def test_the_command_writes_a_gallery_and_keeps_classes(job, found, tmp_path, monkeypatch):
    calls = {}

    def classify(images, k, **options):
        calls.update(options, k=k, images=np.asarray(images))
        return found

    monkeypatch.setattr(classification, "classify", classify)
    particles.write_particles(tmp_path / "job.star", job[0])
    out = tmp_path / "classes"
    options = ["-k", CLASSES, "--shift-deviation-px", 1, "--out", out]
    ended = invoke("classify2d", tmp_path / "job.star", *options)
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (0, f"Page: {out / 'classes.html'}")
    assert (calls["k"], calls["shift_deviation_px"], calls["rng"]) == (CLASSES, 1, 0)
    np.testing.assert_array_equal(calls["images"], job[0].images)
    table = particles.open_particles(out / "classes.star")
    np.testing.assert_array_equal(table.table["rlnClassNumber"], found.classes + 1)
    np.testing.assert_allclose(table.shifts_px, found.shifts_px, atol=1e-5)
    turned = table.rotations * Rotation.from_rotvec(np.outer(found.angles_rad, [0, 0, 1])).inv()
    assert turned.magnitude().max() < 1e-5
    averages = np.asarray(particles.open_particles(out / "averages.mrcs"))
    np.testing.assert_array_equal(averages, found.averages)
    text = (out / "classes.html").read_text(encoding="utf-8")
    assert text.count('class="figure-json"') == 2
    assert str(found.counts[0]) in text
    (numbers,) = re.findall(r"--keep (\S+)", ended.stdout)
    kept = invoke(
        "classify2d", out / "classes.star", "--keep", numbers, "--out", tmp_path / "good.star", "--json"
    )
    assert kept.exit_code == 0, kept.stderr
    good = particles.open_particles(tmp_path / "good.star")
    assert json.loads(kept.stdout)["images"] == len(good) == VIEWS * EACH
    one = invoke("classify2d", out / "classes.star", "--keep", 1, "--out", tmp_path / "one.star")
    assert f"{found.counts[0]} of {len(table)} particles, in 1 class: " in one.stdout
    chosen = ~found.junk[found.classes]
    np.testing.assert_array_equal(np.asarray(good), np.asarray(table[chosen]))
    for wrong, code in (("1,x", 2), ("99", 1)):
        refused = invoke("classify2d", out / "classes.star", "--keep", wrong, "--out", tmp_path / "a.star")
        assert (refused.exit_code, "--keep" in refused.stderr, (tmp_path / "a.star").exists()) == (
            code,
            True,
            False,
        )
    # a table of RELION 3.0 has no optics groups
    columns = read_star(out / "classes.star")[0].drop(columns="rlnOpticsGroup")
    particles.write_star(out / "old.star", columns.assign(rlnVoltage=300.0), optics=None)
    assert "data_optics" not in (out / "old.star").read_text()
    ended = invoke("classify2d", out / "old.star", "--keep", 1, "--out", tmp_path / "old.star")
    assert ended.exit_code == 0, ended.stderr
    old = read_star(tmp_path / "old.star")
    assert old[1] is None
    assert old[0].rlnVoltage.tolist() == [300.0] * found.counts[0]
    refused = invoke("classify2d", tmp_path / "job.star", "--keep", "1", "--out", tmp_path / "a.star")
    assert (refused.exit_code, "has no column rlnClassNumber" in refused.stderr) == (1, True)


def test_the_gallery_leaves_out_empty_classes_and_frames_junk():
    options = {"counts": [5, 4, 0], "resolutions_angstrom": [9.0, np.inf, np.inf], "pixel_size_angstrom": 2.0}
    fig = plots.class_gallery(
        np.random.default_rng(0).normal(size=(3, 8, 8)), faults=["", "noise", "empty"], **options
    )
    titles = [each.text for each in fig.layout.annotations]
    assert "9.0 Å" in titles[0]
    assert "noise" in titles[1]
    assert sum(shape.type == "rect" for shape in fig.layout.shapes) == 1
