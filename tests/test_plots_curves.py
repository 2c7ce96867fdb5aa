"""Histories, spectra, distances and errors: drawn values, axis ticks, and labels with units."""

import numpy as np
import pytest
from figure_parts import annotations, trace

from cryoem import plots
from cryoem.plots.distances import pair_distances
from cryoem.plots.template import log_axis, round_below
from cryoem.rotations import geodesic_distance, random_rotations
from cryoem.units import format_quantity, label_with_unit


def test_best_epoch_is_that_of_the_validation_loss():
    figure = plots.learning_curves(
        {
            "step": [10, 20, 30],
            "loss": [3, 2, 1],
            "val_loss": [np.nan, 2.5, 2.75],
            "learning_rate": [1e-3] * 3,
        }
    )
    best = trace(figure, "best: 2.5 at step 20")
    assert (best.x[0], best.y[0]) == (20, 2.5)
    assert (figure.layout.xaxis2.title.text, figure.layout.yaxis2.title.text) == ("step", "learning rate")
    without_validation = plots.learning_curves({"loss": [3, 1, 2]}, x="epoch")
    assert trace(without_validation, "best: 1 at epoch 2").y[0] == 1


def test_untrained_values_are_epoch_zero():
    history = {"loss": [3, 2], "val_loss": [3, 2.5], "val_error_deg": [0.5, 0.4]}
    figure = plots.loss_beside_error(history)
    assert [list(trace.y) for trace in figure.data] == [[3, 2], [3, 2.5], [0.5, 0.4]]
    figure = plots.loss_beside_error(history, untrained={"val_loss": 4, "val_error_deg": 0.9})
    assert [list(trace.x) for trace in figure.data] == [[1, 2], [0, 1, 2], [0, 1, 2]]
    assert [list(trace.y) for trace in figure.data] == [[3, 2], [4, 3, 2.5], [0.9, 0.5, 0.4]]
    assert "degrees" in figure.layout.yaxis2.title.text


def test_recovery_loss_keeps_the_ends_of_a_long_curve():
    losses = np.geomspace(2, 0.01, 30_000)
    (curve,) = plots.recovery_loss({"sgd": losses}).data
    assert len(curve.x) <= 2000
    assert curve.name == "sgd, final 0.01"
    assert (curve.x[0], curve.x[-1]) == (1, 30_000)
    np.testing.assert_array_equal(curve.y, losses[np.asarray(curve.x) - 1])


def test_refinement_panels_read_units_from_names():
    figure = plots.refinement_history(
        {"search_radius_deg": [4, 2], "resolution_angstrom": [12, 9.25], "score": [1, np.nan]}
    )
    titles = [axis.title.text for axis in figure.select_yaxes()]
    assert titles[:3] == ["search radius (°)", "resolution (Å)", "score"]
    assert annotations(figure) == ["<b>2</b>", "<b>9.25</b>"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("recovery_error_rad", 0.09314, ("recovery error", "0.09314 rad (5.34°)")),
        ("resolution_angstrom", None, ("resolution", "not available")),
        ("n_images", 1650, ("n images", "1,650")),
        ("gauge_inverted", True, ("gauge inverted", "yes")),
        ("misfit_percent", 2.5, ("misfit", "2.5 %")),
    ],
)
def test_quantities_have_their_unit_and_radians_degrees(name, value, expected):
    assert format_quantity(name, value) == expected
    assert label_with_unit("seconds") == "seconds"


def test_crossing_of_a_threshold_is_labelled_with_its_resolution():
    frequency = np.linspace(0, 0.2, 41)
    curves = {"ramp": (frequency, 1 - 5 * frequency), "perfect": (frequency, np.ones(41))}
    figure = plots.fourier_shell_correlation(curves)
    labels = [text for text in annotations(figure) if "Å" in text]
    # 1 - 5 f is 0.5 at f = 0.1, and 0.143 at f = 0.1714
    assert sorted(labels) == ["<b>10.0 Å</b>", "<b>5.8 Å</b>"]
    assert "0.1<br><b>10 Å</b>" in figure.layout.xaxis.ticktext


def test_polar_spectra_have_an_angle_and_a_frequency_axis():
    spectra = np.arange(24.0).reshape(2, 4, 3)
    figure = plots.polar_spectra(
        spectra, frequencies_per_angstrom=np.array([0.1, 0.2, 0.3]), period_deg=180, titles=["a", "b"]
    )
    np.testing.assert_array_equal(figure.data[1].z, spectra[1])
    np.testing.assert_array_equal(figure.data[0].y, [0, 45, 90, 135])


def test_uniform_rotations_follow_the_haar_density():
    rotations = random_rotations(700, rng=0)
    figure = plots.distance_histograms({"uniform": geodesic_distance(rotations, rotations)})
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
    median, band = trace(figure, "median"), trace(figure, "10 % and 90 %")
    np.testing.assert_allclose(np.asarray(median.y) - median.x, 0.2, atol=0.04)
    low, high = np.split(np.asarray(band.y), [len(median.x)])
    assert (low < median.y).all()
    assert (high[1:] > median.y).all()


def test_error_histogram_in_degrees_sums_to_all_images():
    histogram, mean, median = plots.error_histogram({"a": np.deg2rad([1.0, 1.0, 1.0, 9.0])}).data
    assert histogram.name == "a: mean 3.00°, median 1.00°"
    assert (mean.x[0], median.x[0]) == pytest.approx((3, 1))
    assert np.sum(histogram.y[:-1]) == pytest.approx(100)


def test_bias_is_predicted_minus_true():
    true = np.linspace(0.01, 3.1, 400)
    figure = plots.bias_against_distance(true, {"low": true - 0.3, "stretched": 1.1 * true})
    np.testing.assert_allclose(trace(figure, "low").y, -0.3)
    stretched = trace(figure, "stretched")
    np.testing.assert_allclose(stretched.y, 0.1 * np.asarray(stretched.x), atol=0.01)


def test_ticks_are_round_and_at_least_two_are_visible():
    for value, rounded in [(1, 1), (1.9, 1), (49, 20), (0.07, 0.05), (999, 500)]:
        assert round_below(value) == pytest.approx(rounded)
    for values in ([0.21, 0.45], [0.02, 0.5], [1e-9, 10.0], [np.nan, 0.0, 3.0, 40.0]):
        values = np.array(values)
        ticks = np.asarray(log_axis(values)["tickvals"])
        lowest, highest = np.nanmin(values[values > 0]), np.nanmax(values)
        assert 2 <= ((ticks >= lowest * (1 - 1e-9)) & (ticks <= highest * (1 + 1e-9))).sum() <= 12
