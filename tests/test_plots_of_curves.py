"""Figures of curves: sweeps, losses, errors, shell correlations, and the ticks of their axes."""

import numpy as np
import pytest
from figure_parts import annotations, trace

from cryoem import plots
from cryoem.plots.ticks import log_ticks, round_below


def test_measured_curves_stand_beside_published_ones():
    figure = plots.measured_curves(
        {"ours": ([1, 2, 4], [0.1, 0.2, 0.3], [0.0, 0.1, 0.2], [0.2, 0.3, 0.4])},
        published={"paper": ([2], [0.5])},
        x_title="x",
        y_title="y",
        identity="equal",
        level=(0.7, "a guess"),
    )
    band, ours = [t for t in figure.data if t.legendgroup == "ours"]
    assert list(ours.y) == [0.1, 0.2, 0.3]
    assert list(band.y) == [0.2, 0.3, 0.4, 0.2, 0.1, 0.0]
    assert list(trace(figure, "paper").y) == [0.5]
    assert list(trace(figure, "equal").y) == [1, 4]
    assert list(trace(figure, "a guess").y) == [0.7, 0.7]


def test_a_matrix_writes_its_numbers_where_they_are():
    figure = plots.value_matrix(
        np.array([[0.1, 0.2], [0.3, 0.4]]),
        rows=["a", "b"],
        columns=["c", "d"],
        row_title="r",
        column_title="c",
        value_title="v",
    )
    (matrix,) = figure.data
    assert (list(matrix.y), list(matrix.x)) == (["a", "b"], ["c", "d"])
    assert [list(row) for row in matrix.text] == [["0.100", "0.200"], ["0.300", "0.400"]]
    assert figure.layout.yaxis.autorange == "reversed"  # the first row at the top


def test_best_epoch_is_that_of_the_validation_loss():
    history = {
        "step": [10, 20, 30],
        "loss": [3, 2, 1],
        "val_loss": [np.nan, 2.5, 2.75],
        "learning_rate": [1e-3] * 3,
    }
    figure = plots.learning_curves(history)
    best = trace(figure, "best: 2.5 at step 20")
    assert (best.x[0], best.y[0]) == (20, 2.5)
    assert figure.layout.xaxis2.title.text == "step"
    assert figure.layout.yaxis2.title.text == "learning rate"
    without_validation = plots.learning_curves({"loss": [3, 1, 2]}, x="epoch")
    assert trace(without_validation, "best: 1 at epoch 2").y[0] == 1


def test_recovery_loss_keeps_the_ends_of_a_long_curve():
    losses = np.geomspace(2, 0.01, 30_000)
    (curve,) = plots.recovery_loss({"sgd": losses}).data
    assert len(curve.x) <= 2000
    assert curve.name == "sgd, 0.01 at the end"
    assert (curve.x[0], curve.x[-1]) == (1, 30_000)
    np.testing.assert_array_equal(curve.y, losses[np.asarray(curve.x) - 1])


def test_error_histogram_in_degrees_sums_to_all_images():
    errors = np.deg2rad([1.0, 1.0, 1.0, 9.0])
    figure = plots.error_histogram({"a": errors})
    histogram, mean, median = figure.data
    assert histogram.name == "a: mean 3.00°, median 1.00°"
    assert mean.x[0] == pytest.approx(3)
    assert median.x[0] == pytest.approx(1)
    assert np.sum(histogram.y[:-1]) == pytest.approx(100)


def test_crossing_of_a_threshold_is_labelled_with_its_resolution():
    frequency = np.linspace(0, 0.2, 41)
    curves = {"ramp": (frequency, 1 - 5 * frequency), "perfect": (frequency, np.ones(41))}
    figure = plots.fourier_shell_correlation(curves)
    texts = annotations(figure)
    assert "<b>10.0 Å</b>" in texts  # 1 - 5 f = 0.5 at f = 0.1
    assert "<b>5.8 Å</b>" in texts  # 1 - 5 f = 0.143 at f = 0.1714
    assert sum("Å" in text for text in texts) == 2
    assert "0.1<br><b>10 Å</b>" in figure.layout.xaxis.ticktext


def test_refinement_panels_read_units_from_names():
    figure = plots.refinement_history(
        {"search_radius_deg": [4, 2], "resolution_angstrom": [12, 9.25], "score": [1, np.nan]}
    )
    titles = [axis.title.text for axis in figure.select_yaxes()]
    assert titles[:3] == ["search radius (°)", "resolution (Å)", "score"]
    assert annotations(figure) == ["<b>2</b>", "<b>9.25</b>"]


@pytest.mark.parametrize(("value", "rounded"), [(1, 1), (1.9, 1), (2, 2), (49, 20), (0.07, 0.05), (999, 500)])
def test_round_below(value, rounded):
    assert round_below(value) == pytest.approx(rounded)


@pytest.mark.parametrize("values", [[0.21, 0.45], [0.02, 0.5], [1e-9, 10.0], [np.nan, 0.0, 3.0, 40.0]])
def test_log_ticks_put_at_least_two_ticks_into_view(values):
    values = np.array(values)
    ticks = np.asarray(log_ticks(values)["tickvals"])
    seen = (ticks >= np.nanmin(values[values > 0]) * (1 - 1e-9)) & (ticks <= np.nanmax(values) * (1 + 1e-9))
    assert 2 <= seen.sum() <= 12
