"""Figures of orientations and of distances between them: directions, arcs, densities and errors."""

import numpy as np
import pytest
from figure_parts import trace
from scipy.spatial.transform import Rotation

from cryoem import plots
from cryoem.plots.distances import pair_distances
from cryoem.rotations import geodesic_distance, random_rotations


def test_direction_of_a_known_rotation():
    # R turns particle y onto microscope z: a quarter turn about x
    turn = Rotation.from_rotvec([[np.pi / 2, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(turn[0].apply([0, 1, 0]), [0, 0, 1], atol=1e-12)
    points = trace(plots.coverage_sphere(turn), "viewing directions")
    directions = np.stack([points.x, points.y, points.z], axis=1)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(directions, [[0, 1, 0], [0, 0, 1]], atol=1e-6)


def test_coverage_thins_many_points():
    assert (
        len(
            trace(plots.coverage_sphere(random_rotations(500, rng=0), max_points=100), "viewing directions").x
        )
        == 100
    )


def test_recovery_is_coloured_by_its_error_and_animated():
    true = random_rotations(30, rng=0)
    start, end = Rotation.from_rotvec([0, 0, 0.5]) * true, Rotation.from_rotvec([0.1, 0, 0]) * true
    figure = plots.recovered_against_true(true, [start, end], frame_names=["start", "end"])
    np.testing.assert_allclose(trace(figure, "recovered").marker.color, np.rad2deg(0.1), rtol=1e-5)
    assert figure.layout.title.text.startswith("mean error 5.7°")
    first, last = figure.frames
    assert (first.name, last.name) == ("start", "end")
    np.testing.assert_allclose(first.data[1].marker.color, np.rad2deg(0.5), rtol=1e-5)
    assert (
        [figure.data[i].name for i in first.traces] == [t.name for t in first.data] == ["error", "recovered"]
    )


def test_arcs_join_true_and_recovered_on_the_sphere():
    # the two directions are opposite in the second pair, equal in the third
    true = Rotation.from_rotvec([[0, 0, 0], [0, 0, 0], [0, 0, 0]])
    recovered = Rotation.from_rotvec([[np.pi / 2, 0, 0], [np.pi, 0, 0], [0, 0, 1]])
    arcs = trace(plots.recovered_against_true(true, [recovered]), "error")
    line = np.stack([arcs.x, arcs.y, arcs.z], axis=1).reshape(3, -1, 3)
    assert np.isnan(line[:, -1]).all()
    radius = np.linalg.norm(line[0, :-1], axis=1)
    np.testing.assert_allclose(radius, radius[0], rtol=1e-6)
    np.testing.assert_allclose(line[:, 0] / radius[0], [[0, 0, 1]] * 3, atol=1e-5)
    np.testing.assert_allclose(line[:, -2] / radius[0], [[0, 1, 0], [0, 0, -1], [0, 0, 1]], atol=1e-5)
    np.testing.assert_allclose(line[2, :-1] / radius[0], [[0, 0, 1]] * 6, atol=1e-5)


# distances


def test_uniform_rotations_follow_the_haar_density():
    rotations = random_rotations(700, rng=0)
    figure = plots.distance_histograms({"uniform": geodesic_distance(rotations, rotations)}, bins=30)
    drawn, theory = trace(figure, "uniform"), trace(figure, "uniform on SO(3)")
    width = drawn.x[1] - drawn.x[0]
    assert np.sum(drawn.y[:-1]) * width == pytest.approx(1)
    expected = np.interp(drawn.x[:-1] + width / 2, theory.x, theory.y)
    np.testing.assert_allclose(drawn.y[:-1], expected, atol=0.05)
    assert theory.y[-1] == pytest.approx(2 / np.pi)


def test_pairs_of_a_matrix_are_those_above_its_diagonal():
    matrix = np.array([[0, 1, 2], [9, 0, 3], [9, 9, 0]])
    np.testing.assert_array_equal(pair_distances(matrix, name="matrix"), [1, 2, 3])


def test_predicted_against_true_counts_every_pair_and_states_the_error():
    true = np.random.default_rng(0).uniform(0, np.pi - 0.2, 5000)
    figure = plots.predicted_against_true(true, true + 0.2)
    assert "0.200 rad (11.5°)" in figure.layout.title.text
    assert np.sum(figure.data[0].customdata) == 5000
    median = trace(figure, "median")
    np.testing.assert_allclose(np.asarray(median.y) - median.x, 0.2, atol=0.04)
    band = trace(figure, "10 % and 90 %")
    low, high = np.split(np.asarray(band.y), [len(median.x)])
    assert (low < median.y).all()
    assert (high[1:] > median.y).all()
    thinned = plots.predicted_against_true(true, true + 0.2, max_points=100)
    assert np.sum(thinned.data[0].customdata) == 100


def test_bias_is_predicted_minus_true():
    true = np.linspace(0.01, 3.1, 400)
    figure = plots.bias_against_distance(true, {"low": true - 0.3, "stretched": 1.1 * true})
    np.testing.assert_allclose(trace(figure, "low").y, -0.3)
    stretched = trace(figure, "stretched")
    np.testing.assert_allclose(stretched.y, 0.1 * np.asarray(stretched.x), atol=0.01)
