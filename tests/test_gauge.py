"""The gauge estimated from images: hidden rotations and transpositions are found without the truth."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics
from cryoem.orientations import gauge
from cryoem.orientations.common_lines import fourier_lines, score_turns
from cryoem.orientations.evaluation import pose_error
from cryoem.orientations.gauge import covering_rotations, fix_gauge
from cryoem.particles.conditions import ImagingConditions
from cryoem.particles.simulation import simulate_lazily
from cryoem.projection.projectors import project
from cryoem.rotations import Poses, geodesic_distance, mirror, point_group, random_rotations
from cryoem.volumes.phantoms import phantom

QUICK = 3000  # candidates on a coarser grid than the default; a local search follows anyway
POSE = 0.01  # radians: remaining error of the gauge from noise-free 32-px images


def common_line_score(images, rotations: Rotation, *, symmetry: str = "C1") -> float:
    """Return the score of orientations, from the common lines of all pairs of images and symmetric copies."""
    matrices = np.concatenate([(rotations * g).as_matrix() for g in point_group(symmetry)]).astype(np.float32)
    pairs = np.stack(np.triu_indices(len(matrices), 1), axis=1)
    return float(score_turns(fourier_lines(images), matrices, pairs, np.eye(3, dtype=np.float32)[None])[0])


@pytest.fixture
def quick_search(monkeypatch):
    monkeypatch.setattr(gauge, "CANDIDATES", QUICK)


@pytest.mark.parametrize(
    ("size", "n", "transposed", "candidates"), [(32, 100, False, gauge.CANDIDATES), (33, 60, True, QUICK)]
)
def test_a_hidden_gauge_is_found(size, n, transposed, candidates, monkeypatch):
    monkeypatch.setattr(gauge, "CANDIDATES", candidates)
    true = random_rotations(n, rng=n)
    images = project(phantom(size=size).data, true, backend="fourier")
    a, b = random_rotations(2, rng=3)
    hidden = a * true * b
    hidden = hidden.inv() if transposed else hidden
    found = fix_gauge(images, hidden, pairs=200, rng=0)
    assert pose_error(true, found.rotations) < POSE
    assert found.inverted == transposed
    assert found.score > found.runner_up + 0.1
    expected = found.turn * (hidden.inv() if transposed else hidden)
    assert (expected.inv() * found.rotations).magnitude().max() < 1e-9


def test_noise_does_not_hide_the_gauge(views, quick_search):
    images, true = views[0][:100], views[1][:100]
    noisy = images + np.random.default_rng(0).normal(scale=images.std(), size=images.shape)
    (a,) = random_rotations(1, rng=3)
    found = fix_gauge(noisy, (a * true).inv(), rng=0)
    assert found.inverted
    assert pose_error(true, found.rotations) < 3 * POSE


def test_six_images_are_enough_and_their_brightness_and_contrast_do_not_matter(views, quick_search):
    images, true = views[0][:6].copy(), views[1][:6]
    (a,) = random_rotations(1, rng=3)
    first, second = (fix_gauge(images, a * true, rng=4) for _ in range(2))
    assert pose_error(true, first.rotations) < 2 * POSE
    assert first.score <= 1
    np.testing.assert_array_equal(images, views[0][:6])
    np.testing.assert_array_equal(first.rotations.as_quat(), second.rotations.as_quat())
    assert (first.score, first.runner_up) == (second.score, second.runner_up)
    scaled = fix_gauge(7 * images.astype(np.float64) + 3, a * true, rng=4)
    assert pose_error(first.rotations, scaled.rotations) < 1e-3
    assert scaled.score == pytest.approx(first.score, abs=1e-3)


class Readable:
    """Particles that count how many images are read."""

    def __init__(self, particles, read):
        self.particles, self.read = particles, read
        self.shape, self.optics = particles.shape, particles.optics

    def __getitem__(self, index):
        return Readable(self.particles[index], self.read)

    def __array__(self, dtype=None, copy=None):
        self.read.append(self.shape[0])
        return np.asarray(self.particles, dtype)


def test_particles_are_corrected_and_read_only_as_far_as_they_are_used(quick_search):
    """Shifted particles with a CTF: read on demand, in memory with optics, and uncorrected."""
    conditions = ImagingConditions(shift_limit_px=1.5, ctf=ContrastTransfer())
    lazy = simulate_lazily(phantom(size=32), 120, conditions, rng=0)
    start = Poses(random_rotations(1, rng=5)[0] * lazy.rotations.inv(), lazy.shifts_px)
    read = []
    found = fix_gauge(Readable(lazy, read), start, max_images=80, rng=3)
    assert read == [80]
    assert found.inverted
    assert len(found.rotations) == 120
    assert pose_error(lazy.rotations, found.rotations) < 3 * POSE
    # one rotation of all orientations
    assert (found.rotations * (found.turn * start.rotations.inv()).inv()).magnitude().max() < 1e-9
    images = np.asarray(lazy)
    in_memory = fix_gauge(images, start, optics=lazy.optics, max_images=80, rng=3)
    np.testing.assert_array_equal(in_memory.rotations.as_quat(), found.rotations.as_quat())
    uncorrected = fix_gauge(images, start.rotations, max_images=80, rng=3)
    assert uncorrected.score < found.score - 0.1


def test_the_score_is_that_of_the_mirror_and_falls_with_the_error(views):
    images, true = views[0][:100], views[1][:100]
    score = common_line_score(images, true)
    assert score > 0.95
    (a,) = random_rotations(1, rng=5)
    for same in (mirror(true), true * a):
        assert common_line_score(images, same) == pytest.approx(score, abs=1e-4)
    for wrong in (true.inv(), a * true, random_rotations(len(true), rng=6)):
        assert common_line_score(images, wrong) < score - 0.1
    off = [Rotation.from_rotvec([0, angle, 0]) * true for angle in (0, 0.05, 0.1, 0.2)]
    assert (np.diff([common_line_score(images, rotations) for rotations in off]) < 0).all()


def test_the_search_covers_all_rotations_evenly():
    n = 4000
    grid = covering_rotations(n)
    assert len(grid) == n
    nearest = geodesic_distance(random_rotations(500, rng=0), grid).min(axis=1)
    spacing = (8 * np.pi**2 / n) ** (1 / 3)  # SO(3) has volume 8 pi^2 in radians
    assert nearest.max() < 1.2 * spacing
    np.testing.assert_array_equal(covering_rotations(n).as_quat(), grid.as_quat())


def test_the_gauge_of_a_symmetric_particle_is_in_its_images(quick_search):
    true = random_rotations(100, rng=0)
    images = project(phantom(symmetry="D2", size=32, voxel_size_angstrom=6.0, rng=0).data, true)
    copies = true * point_group("D2")[np.random.default_rng(3).integers(4, size=100)]
    turned = Rotation.from_euler("xyz", [0.4, -1.1, 2.0]) * copies
    found = fix_gauge(images, turned, symmetry="D2", rng=0)
    assert pose_error(true, turned, symmetry="D2") > 0.3
    assert pose_error(true, found.rotations, symmetry="D2") < 0.03
    assert not found.inverted
    assert np.isnan(found.runner_up)
    expected = common_line_score(images, true, symmetry="D2")
    assert found.score == pytest.approx(expected, abs=0.02)


FIVE, ROTATIONS = np.random.default_rng(0).normal(size=(5, 16, 16)), random_rotations(5, rng=0)
OPTICS = Optics(1.0, ContrastTransfer(), [1e4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": FIVE[:2]}, "at least 3 images are required, got 2"),
        ({"images": FIVE[:, :7, :7]}, r"images must be \(n, y, x\) with y == x >= 8, got \(5, 7, 7\)"),
        ({"images": FIVE * np.nan}, "images must be finite, got NaN or infinity in 1280 of 1280 values"),
        ({"images": 0 * FIVE}, "images must not be constant, got constant values in 5 of 5 images"),
        ({"images": FIVE[:4]}, "poses must have one entry for each of the 4 images, got 5"),
        ({"pairs": 2.5}, r"pairs must be an integer >= 1, got 2\.5"),
        ({"symmetry": "Q"}, "symmetry must be Cn, Dn, T, O or I, got 'Q'"),
        ({"max_images": 2}, "max_images must be an integer >= 3, got 2"),
        ({"optics": OPTICS}, "defocus_angstrom must have one entry for each of the 5 images, got 1"),
    ],
)
def test_unfit_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        fix_gauge(**{"images": FIVE, "poses": ROTATIONS, **options})
