"""All figures: template, axis titles, errors; then comparisons and sweeps."""

import json
import subprocess
import sys

import numpy as np
import plotly.io as pio
import pytest
from figure_parts import annotations, ball, trace

from cryoem import plots
from cryoem.rotations import random_rotations

CUBE = np.zeros((4, 4, 4))
CUBE[2, 2, 2] = 1
FIVE = random_rotations(5, rng=0)
VALIDATED = {"loss": [2.0, 1.0], "val_loss": [2.0, 1.0], "val_error_deg": [0.2, 0.1]}
NAMES = {"rows": ["a", "b"], "columns": ["c", "d"], "row_title": "r", "column_title": "c", "value_title": "v"}
POLAR = {"frequencies_per_angstrom": np.arange(4.0), "period_deg": 180, "titles": ["a", "b"]}
XY = {"x_title": "noise", "y_title": "error (rad)"}
EXAMPLES = {
    "power_spectrum": lambda: plots.power_spectrum(
        np.array([0.1, 0.2]), np.array([9.0, 3]), np.array([8.0, 3]), pixel_size_angstrom=2
    ),
    "density_isosurface": lambda: plots.density_isosurface(
        ball((12, 12, 12), (6, 6, 6), 3), voxel_size_angstrom=2
    ),
    "density_slices": lambda: plots.density_slices(CUBE, voxel_size_angstrom=2),
    "projection_gallery": lambda: plots.projection_gallery(CUBE, pixel_size_angstrom=2),
    "coverage_sphere": lambda: plots.coverage_sphere(FIVE),
    "coverage_spheres": lambda: plots.coverage_spheres({"a": FIVE}),
    "cost_growth": lambda: plots.cost_growth({"a": ([10, 20], [1.0, 2.0], [0.1, 0.1])}, x_title="images"),
    "distance_histograms": lambda: plots.distance_histograms({"a": np.array([0.5, 1.0, 3.0])}),
    "predicted_against_true": lambda: plots.predicted_against_true(np.arange(3.0), np.arange(3.0)),
    "bias_against_distance": lambda: plots.bias_against_distance(np.arange(3.0), {"a": np.arange(3.0)}),
    "learning_curves": lambda: plots.learning_curves({"loss": [2.0, 1.0]}),
    "loss_beside_error": lambda: plots.loss_beside_error(VALIDATED),
    "method_comparison": lambda: plots.method_comparison({"a": [1.0]}, names=["one"]),
    "methods_by_condition": lambda: plots.methods_by_condition(
        {"quiet": {"a": ([10, 20], [1.0, 2.0])}}, **XY
    ),
    "polar_spectra": lambda: plots.polar_spectra(np.eye(4)[None].repeat(2, 0), **POLAR),
    "recovery_loss": lambda: plots.recovery_loss(np.array([2.0, 1.0])),
    "error_histogram": lambda: plots.error_histogram({"a": np.array([0.1, 0.2])}),
    "recovered_against_true": lambda: plots.recovered_against_true(FIVE, [FIVE, FIVE[::-1]]),
    "fourier_shell_correlation": lambda: plots.fourier_shell_correlation({"a": ([0.1, 0.2], [1.0, 0.0])}),
    "measured_curves": lambda: plots.measured_curves({"a": ([1, 2], [0.1, 0.2])}, **XY),
    "value_matrix": lambda: plots.value_matrix(np.eye(2), **NAMES),
    "number_table": lambda: plots.number_table([["a", "1"]], header=["", "number"]),
    "refinement_history": lambda: plots.refinement_history({"score": [0.1, 0.2]}),
}
HELPERS = {"automatic_level", "surface_mesh"}


def test_each_figure_has_the_template_and_axis_titles():
    assert set(EXAMPLES) == set(plots.__all__) - HELPERS
    for name, example in EXAMPLES.items():
        figure = example()
        assert figure.layout.template == pio.templates["cryoem"], name
        assert json.loads(figure.to_json())["data"]
        if any(t.type in ("mesh3d", "scatter3d") for t in figure.data):
            axes = [scene[axis] for scene in figure.select_scenes() for axis in ("xaxis", "yaxis", "zaxis")]
        else:
            axes = [] if figure.data[0].type == "table" else [*figure.select_xaxes(), *figure.select_yaxes()]
        assert all(axis.visible is False or axis.title.text for axis in axes), name


def test_the_folder_loads_plotly_only_for_a_figure():
    code = (
        "import sys; from cryoem import plots; assert 'plotly' not in sys.modules; plots.automatic_level; "
        "import plotly.io as pio; assert 'cryoem' in pio.templates"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


WRONG = {
    r"volume must be a non-empty array with 3 axes, got shape \(4, 4\)": lambda: plots.density_slices(
        CUBE[0], voxel_size_angstrom=1
    ),
    "volume must be finite, got 64 non-finite": lambda: plots.density_slices(
        CUBE * np.nan, voxel_size_angstrom=1
    ),
    "voxel_size_angstrom must be a positive number, got 0": lambda: plots.density_slices(
        CUBE, voxel_size_angstrom=0
    ),
    "level must be between the minimum 0 and the maximum 1 of the map, got 2": lambda: (
        plots.density_isosurface(CUBE, voxel_size_angstrom=1, level=2)
    ),
    "positive voxel .* got a maximum of 0": lambda: plots.density_isosurface(0 * CUBE, voxel_size_angstrom=1),
    "names must have one entry per map, 1, got 2": lambda: plots.density_isosurface(
        CUBE, voxel_size_angstrom=1, names=("a", "b")
    ),
    "titles must have one entry per image, 4, got 1": lambda: plots.projection_gallery(CUBE, titles=["a"]),
    "columns must be at least 1, got 0": lambda: plots.projection_gallery(CUBE, columns=0),
    r"curves\['a'\] must have as many x as y values, got 2 and 1": lambda: plots.measured_curves(
        {"a": ([1, 2], [0.1])}, **XY
    ),
    r"published\['b'\] must be positive on a logarithmic axis, got 0": lambda: plots.measured_curves(
        {"a": ([1], [1])}, published={"b": ([0], [1])}, **XY, log_x=True
    ),
    r"values must have one entry per .* \(2, 2\), got shape \(3, 3\)": lambda: plots.value_matrix(
        np.eye(3), **NAMES
    ),
    r"rows must contain 2 cells each, got \[1\]": lambda: plots.number_table([["a"]], header=["", "number"]),
    "rotations must be a scipy Rotation, got ndarray": lambda: plots.coverage_sphere(np.eye(3)),
    "recovered_frames must contain at least one frame, got 0": lambda: plots.recovered_against_true(FIVE, []),
    r"recovered_frames\[0\] must contain 5 rotations, as true does, got 2": lambda: (
        plots.recovered_against_true(FIVE, [FIVE[:2]])
    ),
    "frame_names must have one entry per frame, 1, got 2": lambda: plots.recovered_against_true(
        FIVE, [FIVE], frame_names=["a", "b"]
    ),
    r"distances\['a'\] must be .n, n. .* got .2, 3.": lambda: plots.distance_histograms(
        {"a": np.ones((2, 3))}
    ),
    r"distances\['a'\] must be in radians, got a value of 170": lambda: plots.distance_histograms(
        {"a": np.array([170.0])}
    ),
    "distances must be a mapping": lambda: plots.distance_histograms(np.ones(3)),
    r"predicted must have the shape of true, .3,., got .4,.": lambda: plots.predicted_against_true(
        np.ones(3), np.ones(4)
    ),
    "history must contain 'loss', got val_loss": lambda: plots.learning_curves({"val_loss": [1.0]}),
    r"expected 2 values, but history\['val_loss'\] has shape \(1,\)": lambda: plots.learning_curves(
        {"loss": [1, 2], "val_loss": [1]}
    ),
    r"expected 2 values, but history\['b'\] has shape \(1,\)": lambda: plots.refinement_history(
        {"a": [1, 2], "b": [1]}
    ),
    r"expected 2 values, but history\['loss'\] has shape \(1,\)": lambda: plots.loss_beside_error(
        {**VALIDATED, "loss": [1]}
    ),
    "history must contain val_error_deg, got loss": lambda: plots.loss_beside_error(
        {"loss": [1], "val_loss": [1]}
    ),
    "untrained must contain val_loss and val_error_deg, got val_loss": lambda: plots.loss_beside_error(
        VALIDATED, untrained={"val_loss": 4}
    ),
    r"losses\['recovery'\] must be a non-empty array with 1 axes": lambda: plots.recovery_loss(np.eye(2)),
    r"errors\['a'\] must be radians in .0, pi., got 12 to 12": lambda: plots.error_histogram(
        {"a": np.array([12.0])}
    ),
    "must have as many frequencies as correlations, got 2 and 1": lambda: plots.fourier_shell_correlation(
        {"a": ([0.1, 0.2], [1.0])}
    ),
    "increasing frequencies": lambda: plots.fourier_shell_correlation({"a": ([0.2, 0.1], [1.0, 0.0])}),
    r"correlations in \[-1, 1\], got 3": lambda: plots.fourier_shell_correlation(
        {"a": ([0.1, 0.2], [3.0, 0.0])}
    ),
    r"spectra must match 4 frequencies and 2 titles, got \(3, 4, 4\)": lambda: plots.polar_spectra(
        np.ones((3, 4, 4)), **POLAR
    ),
    r"errors_deg\['a'\] must be 2 positive errors, one per name, got 1": lambda: plots.method_comparison(
        {"a": [1.0]}, names=["one", "two"]
    ),
    r"errors_deg\['b'\] must be 1 positive errors, .* the lowest -2": lambda: plots.method_comparison(
        {"b": [-2.0]}, names=["one"]
    ),
    r"conditions\['quiet'\]\['a'\] must have increasing positive x": lambda: plots.methods_by_condition(
        {"quiet": {"a": ([20, 10], [1.0, 1.0])}}, **XY
    ),
    r"curves\['a'\] must have increasing positive x": lambda: plots.cost_growth(
        {"a": ([10], [1.0], [0.0])}, x_title="images"
    ),
    "power must be 2 positive values, one per frequency, got 2, the lowest 0": lambda: plots.power_spectrum(
        np.array([0.1, 0.2]), np.array([1.0, 0]), np.ones(2), pixel_size_angstrom=1
    ),
}


def test_errors_name_the_argument_and_its_value():
    for message, call in WRONG.items():
        with pytest.raises(ValueError, match=message):
            call()


# --- comparisons and sweeps


def test_error_histogram_in_degrees_sums_to_all_images():
    histogram, mean, median = plots.error_histogram({"a": np.deg2rad([1.0, 1.0, 1.0, 9.0])}).data
    assert histogram.name == "a: mean 3.00°, median 1.00°"
    assert (mean.x[0], median.x[0]) == pytest.approx((3, 1))
    assert np.sum(histogram.y[:-1]) == pytest.approx(100)


def test_methods_are_compared_per_set_on_a_log_axis():
    fig = plots.method_comparison({"a": [1.0, 2.0], "b": [0.1, 20.0]}, names=["one", "two"])
    assert [t.name for t in fig.data] == ["a", "b"]
    np.testing.assert_array_equal(fig.data[1].x, [0.1, 20.0])
    assert list(fig.data[0].y) == ["one", "two"]
    assert fig.layout.xaxis.type == "log"
    assert "degrees" in fig.layout.xaxis.title.text


def test_a_matrix_prints_its_numbers_in_their_cells():
    figure = plots.value_matrix(np.array([[0.1, 0.2], [0.3, 0.4]]), **NAMES)
    (matrix,) = figure.data
    assert (list(matrix.y), list(matrix.x)) == (["a", "b"], ["c", "d"])
    assert [list(row) for row in matrix.text] == [["0.100", "0.200"], ["0.300", "0.400"]]
    assert figure.layout.yaxis.autorange == "reversed"  # the first row at the top


def test_measured_curves_show_bands_published_values_and_reference_lines():
    figure = plots.measured_curves(
        {"ours": ([1, 2, 4], [0.1, 0.2, 0.3], [0.0, 0.1, 0.2], [0.2, 0.3, 0.4])},
        published={"paper": ([2], [0.5])},
        **XY,
        identity="equal",
        level=(0.7, "a guess"),
    )
    band, ours = [t for t in figure.data if t.legendgroup == "ours"]
    assert list(ours.y) == [0.1, 0.2, 0.3]
    assert list(band.y) == [0.2, 0.3, 0.4, 0.2, 0.1, 0.0]
    assert list(trace(figure, "paper").y) == [0.5]
    assert list(trace(figure, "equal").y) == [1, 4]
    assert list(trace(figure, "a guess").y) == [0.7, 0.7]


def test_conditions_are_panels_and_projections_continue_measurements():
    fig = plots.methods_by_condition(
        {"quiet": {"a": ([10, 20], [1.0, 2.0]), "b": ([10], [3.0])}, "loud": {"b": ([20], [4.0])}},
        projected={"quiet": {"a": ([40], [8.0]), "c": ([40], [9.0])}},
        **XY,
    )
    assert annotations(fig) == ["quiet", "loud"]
    assert sorted(t.name for t in fig.data if t.showlegend) == ["a", "b", "c, projected"]
    dotted = trace(fig, "a, projected")
    assert (list(dotted.x), list(dotted.y)) == ([20, 40], [2.0, 8.0])
    assert dotted.marker.size[0] == 0  # the measured dot exists already
    assert dotted.line.color == trace(fig, "a").line.color
    assert len({t.line.color for t in fig.data if t.name == "b"}) == 1  # in both panels
    assert [axis.matches for axis in fig.select_yaxes()] == [None, "y"]


def test_costs_have_a_guide_line_with_a_slope_and_memory_a_decade():
    fig = plots.cost_growth(
        {"a": ([10, 100], [2.0, 20.0], [1.0, 1.0]), "b": ([10], [30.0], [0.5])},
        x_title="pixels",
        slope=2,
        slope_name="squared",
    )
    assert [t.name for t in fig.data if t.showlegend is not False] == ["a", "b", "squared"]
    guide = trace(fig, "squared")
    assert list(guide.x) == [10, 100]
    assert guide.y[1] / guide.y[0] == pytest.approx(10**2)
    assert guide.y[0] > 30
    assert [axis.title.text for axis in fig.select_yaxes()] == ["time (s)", "peak memory (GB)"]
    assert {axis.type for axis in [*fig.select_xaxes(), *fig.select_yaxes()]} == {"log"}
    assert fig.layout.yaxis2.range == (-1, pytest.approx(np.log10(1.5)))
