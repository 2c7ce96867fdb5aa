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


SIZED = {"voxel_size_angstrom": 1}
REFUSED = [
    (plots.density_slices, (CUBE[0],), SIZED, r"volume must be a non-empty 3-D array, got shape \(4, 4\)"),
    (plots.density_slices, (CUBE,), {"voxel_size_angstrom": 0}, "voxel_size_angstrom must be a positive number, got 0"),
    (plots.density_isosurface, (CUBE,), SIZED | {"level": 2}, "the minimum 0 and the maximum 1 of the map, got 2"),
    (plots.density_isosurface, (0 * CUBE,), SIZED, "map with positive voxels, got a maximum of 0"),
    (plots.density_isosurface, (CUBE,), SIZED | {"names": "ab"}, r"names must have one entry per map \(1\), got 2"),
    (plots.projection_gallery, (CUBE,), {"titles": ["a"]}, r"titles must have one entry per image \(4\), got 1"),
    (plots.projection_gallery, (CUBE,), {"columns": 0}, "columns must be an integer >= 1, got 0"),
    (plots.measured_curves, ({"a": ([1, 2], [0.1])},), XY, r"curves\['a'\] must have as many x as y values, got 2"),
    (plots.measured_curves, ({"a": ([1], [1])},), XY | {"published": {"b": ([0], [1])}, "log_x": True},
     r"published\['b'\] must be positive on a logarithmic axis, got 0"),
    (plots.value_matrix, (np.eye(3),), NAMES, r"values must have shape \(2, 2\) to .*, got \(3, 3\)"),
    (plots.number_table, ([["a"]],), {"header": ["", "number"]}, r"rows must have 2 cells each, got \[1\]"),
    (plots.coverage_sphere, (np.eye(3),), {}, "rotations must be a scipy Rotation, got ndarray"),
    (plots.recovered_against_true, (FIVE, []), {}, "recovered_frames must contain at least one frame, got 0"),
    (plots.recovered_against_true, (FIVE, [FIVE[:2]]), {}, r"recovered_frames\[0\] must have .*`true` \(5\), got 2"),
    (plots.recovered_against_true, (FIVE, [FIVE]), {"frame_names": "ab"}, "frame_names must have one entry per frame"),
    (plots.distance_histograms, ({"a": np.ones((2, 3))},), {}, r"distances\['a'\] must be .n, n. .* got shape .2, 3."),
    (plots.distance_histograms, ({"a": np.array([170.0])},), {}, "must be in radians, got a value of 170"),
    (plots.distance_histograms, (np.ones(3),), {}, "distances must be a mapping"),
    (plots.predicted_against_true, (np.ones(3), np.ones(4)), {}, "must have the same shape as true, .3,., got .4"),
    (plots.learning_curves, ({"val_loss": [1.0]},), {}, "history must contain loss, got val_loss"),
    (plots.refinement_history, ({"a": [1, 2], "b": [1]},), {}, r"longest has 2 values and history\['b'\] has shape"),
    (plots.loss_beside_error, ({"loss": [1], "val_loss": [1]},), {}, "history must contain val_error_deg, got loss"),
    (plots.loss_beside_error, (VALIDATED,), {"untrained": {"val_loss": 4}}, "untrained must contain val_loss and"),
    (plots.recovery_loss, (np.eye(2),), {}, r"losses\['recovery'\] must be a non-empty 1-D array"),
    (plots.error_histogram, ({"a": np.array([12.0])},), {}, r"errors\['a'\] must be radians from 0 to pi, got 12 to"),
    (plots.fourier_shell_correlation, ({"a": ([0.2, 0.1], [1.0, 0.0])},), {}, "must have increasing x"),
    (plots.fourier_shell_correlation, ({"a": ([0.1, 0.2], [3.0, 0])},), {}, r"in \[-1, 1\], got magnitude 3"),
    (plots.polar_spectra, (np.ones((3, 4, 4)),), POLAR, r"must match 4 frequencies and 2 titles, got shape \(3, 4, 4"),
    (plots.method_comparison, ({"a": [1.0]},), {"names": ["one", "two"]}, "as many x as y values, got 2 and 1"),
    (plots.cost_growth, ({"a": ([10], [1.0], [0.0])},), {"x_title": "images"}, "positive on a logarithmic axis, got 0"),
    (plots.power_spectrum, ([0.1, 0.2], [1.0, 0], [1.0, 1]), {"pixel_size_angstrom": 1}, "power must be positive"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "options", "message"), REFUSED)
def test_errors_name_the_argument_and_its_value(function, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments, **options)


# --- comparisons


def test_measured_curves_show_bands_published_values_and_reference_lines():
    figure = plots.measured_curves(
        {"ours": ([1, 2, 4], [0.1, 0.2, 0.3], [0.0, 0.1, 0.2], [0.2, 0.3, 0.4])},
        published={"paper": ([2], [0.5]), "paper, recovered": ([2], [0.4])},
        **XY,
        identity="equal",
        level=(0.7, "a guess"),
    )
    band, ours = [t for t in figure.data if t.legendgroup == "ours"]
    assert list(ours.y) == [0.1, 0.2, 0.3]
    assert list(band.y) == [0.2, 0.3, 0.4, 0.2, 0.1, 0.0]
    assert list(trace(figure, "paper").y) == [0.5]
    assert trace(figure, "paper").marker.symbol != trace(figure, "paper, recovered").marker.symbol
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
    assert dotted.marker.size[0] == 0  # the measured dot already exists
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
