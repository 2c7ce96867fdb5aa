"""The figures: their look and their titles, wrong arguments named, and those of two-dimensional alignment."""

import json

import numpy as np
import plotly.io as pio
import pytest
from figure_parts import annotations, ball, trace

from cryoem import plots
from cryoem.rotations import random_rotations

EXAMPLES = {
    "power_spectrum": lambda: plots.power_spectrum(
        np.array([0.1, 0.2, 0.3]), np.array([9.0, 3, 1]), np.array([8.0, 3, 1.1]), pixel_size_angstrom=2
    ),
    "density_isosurface": lambda: plots.density_isosurface(
        ball((12, 12, 12), (6, 6, 6), 3), voxel_size_angstrom=2
    ),
    "density_slices": lambda: plots.density_slices(
        np.random.default_rng(0).random((4, 5, 6)), voxel_size_angstrom=2
    ),
    "projection_gallery": lambda: plots.projection_gallery(
        np.eye(8)[None].repeat(3, 0), pixel_size_angstrom=2
    ),
    "coverage_sphere": lambda: plots.coverage_sphere(random_rotations(20, rng=0)),
    "cost_growth": lambda: plots.cost_growth({"a": ([10, 20], [1.0, 2.0], [0.1, 0.1])}, x_title="images"),
    "distance_histograms": lambda: plots.distance_histograms({"a": np.array([0.5, 1.0, 3.0])}),
    "predicted_against_true": lambda: plots.predicted_against_true(np.arange(3.0), np.arange(3.0)),
    "bias_against_distance": lambda: plots.bias_against_distance(np.arange(3.0), {"a": np.arange(3.0)}),
    "learning_curves": lambda: plots.learning_curves({"loss": [2.0, 1.0]}),
    "loss_beside_error": lambda: plots.loss_beside_error(
        {"loss": [2.0, 1.0], "val_loss": [2.0, 1.0], "val_error_deg": [0.2, 0.1]},
        untrained={"val_loss": 3.0, "val_error_deg": 0.3},
    ),
    "method_comparison": lambda: plots.method_comparison({"a": [1.0]}, names=["one"]),
    "methods_by_condition": lambda: plots.methods_by_condition(
        {"quiet": {"a": ([10, 20], [1.0, 2.0])}}, x_title="images", y_title="time (s)"
    ),
    "polar_spectra": lambda: plots.polar_spectra(
        np.eye(4)[None].repeat(2, 0),
        frequencies_per_angstrom=np.arange(4.0),
        period_deg=180,
        titles=["a", "b"],
    ),
    "recovery_loss": lambda: plots.recovery_loss(np.array([2.0, 1.0])),
    "error_histogram": lambda: plots.error_histogram({"a": np.array([0.1, 0.2])}),
    "recovered_against_true": lambda: plots.recovered_against_true(
        random_rotations(5, rng=0), [random_rotations(5, rng=1), random_rotations(5, rng=2)]
    ),
    "fourier_shell_correlation": lambda: plots.fourier_shell_correlation({"a": ([0.1, 0.2], [1.0, 0.0])}),
    "measured_curves": lambda: plots.measured_curves(
        {"a": ([1, 2], [0.1, 0.2])}, x_title="noise", y_title="error (rad)"
    ),
    "value_matrix": lambda: plots.value_matrix(
        np.eye(2), rows=["a", "b"], columns=["c", "d"], row_title="r", column_title="c", value_title="v"
    ),
    "number_table": lambda: plots.number_table([["a", "1"]], header=["", "number"]),
    "coverage_spheres": lambda: plots.coverage_spheres({"a": random_rotations(5, rng=0)}),
    "refinement_history": lambda: plots.refinement_history({"score": [0.1, 0.2]}),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_figure_wears_the_template_and_titles_its_axes(name):
    figure = EXAMPLES[name]()
    assert figure.layout.template == pio.templates["cryoem"]
    assert json.loads(figure.to_json())["data"]
    if any(t.type in ("mesh3d", "scatter3d") for t in figure.data):
        axes = [scene[axis] for scene in figure.select_scenes() for axis in ("xaxis", "yaxis", "zaxis")]
    else:
        axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    if all(t.type == "table" for t in figure.data):
        axes = []
    untitled = [a for a in axes if a.visible is not False and not a.title.text]
    assert untitled == []


def test_every_public_figure_has_an_example():
    helpers = {"automatic_level", "surface_mesh"}
    assert set(EXAMPLES) == set(plots.__all__) - helpers


# wrong arguments

CUBE = np.zeros((4, 4, 4))
CUBE[2, 2, 2] = 1
ONE = random_rotations(3, rng=0)
WRONG = {
    "volume must be a non-empty array with 3 axes, got shape .4, 4.": lambda: plots.density_slices(
        CUBE[0], voxel_size_angstrom=1
    ),
    "volume must be finite, got 64 non-finite": lambda: plots.density_slices(
        CUBE * np.nan, voxel_size_angstrom=1
    ),
    "voxel_size_angstrom must be a positive number, got 0": lambda: plots.density_slices(
        CUBE, voxel_size_angstrom=0
    ),
    "level must lie between .* 0 and 1, got 2": lambda: plots.density_isosurface(
        CUBE, voxel_size_angstrom=1, level=2
    ),
    "positive voxel .* got a maximum of 0": lambda: plots.density_isosurface(0 * CUBE, voxel_size_angstrom=1),
    "names must have one entry a map, 1, got 2": lambda: plots.density_isosurface(
        CUBE, voxel_size_angstrom=1, names=("a", "b")
    ),
    "titles must have one entry an image, 4, got 1": lambda: plots.projection_gallery(
        CUBE, pixel_size_angstrom=1, titles=["a"]
    ),
    "columns must be at least 1, got 0": lambda: plots.projection_gallery(
        CUBE, pixel_size_angstrom=1, columns=0
    ),
    r"curves\['a'\] must pair as many x as y, got 2 and 1": lambda: plots.measured_curves(
        {"a": ([1, 2], [0.1])}, x_title="x", y_title="y"
    ),
    r"published\['b'\] must be positive on a logarithmic axis, got 0": lambda: plots.measured_curves(
        {"a": ([1], [1])}, published={"b": ([0], [1])}, x_title="x", y_title="y", log_x=True
    ),
    r"values must be \(1, 2\) as the names are, got shape \(2, 2\)": lambda: plots.value_matrix(
        np.eye(2), rows=["a"], columns=["c", "d"], row_title="r", column_title="c", value_title="v"
    ),
    r"rows must hold 2 cells each, got \[1\]": lambda: plots.number_table([["a"]], header=["", "number"]),
    "rotations must be a scipy Rotation, got ndarray": lambda: plots.coverage_sphere(np.eye(3)),
    "rotations must hold at least one": lambda: plots.coverage_sphere(ONE[0]),
    "recovered_frames must hold at least one frame, got 0": lambda: plots.recovered_against_true(ONE, []),
    r"recovered_frames\[0\] must hold 3 rotations like true, got 2": lambda: plots.recovered_against_true(
        ONE, [ONE[:2]]
    ),
    "frame_names must have one entry a frame, 1, got 2": lambda: plots.recovered_against_true(
        ONE, [ONE], frame_names=["a", "b"]
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
    "history must hold 'loss', got val_loss": lambda: plots.learning_curves({"val_loss": [1.0]}),
    r"history\['val_loss'\] must have one value an entry of 'loss', 2, got": lambda: plots.learning_curves(
        {"loss": [1, 2], "val_loss": [1]}
    ),
    r"losses\['recovery'\] must be a non-empty array with 1 axes": lambda: plots.recovery_loss(
        np.ones((2, 2))
    ),
    r"errors\['a'\] must be radians in .0, pi., got 12 to 12": lambda: plots.error_histogram(
        {"a": np.array([12.0])}
    ),
    "must pair as many frequencies as correlations, got 2 and 1": lambda: plots.fourier_shell_correlation(
        {"a": ([0.1, 0.2], [1.0])}
    ),
    "frequencies that rise": lambda: plots.fourier_shell_correlation({"a": ([0.2, 0.1], [1.0, 0.0])}),
    r"correlations in \[-1, 1\], got 3": lambda: plots.fourier_shell_correlation(
        {"a": ([0.1, 0.2], [3.0, 0.0])}
    ),
    r"history\['b'\] must have one number a round, 2, got shape \(1,\)": lambda: plots.refinement_history(
        {"a": [1, 2], "b": [1]}
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named_with_what_was_seen(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


# --- two-dimensional alignment


def test_methods_are_compared_set_by_set_on_a_log_axis():
    fig = plots.method_comparison({"a": [1.0, 2.0], "b": [0.1, 20.0]}, names=["one", "two"])
    assert [trace.name for trace in fig.data] == ["a", "b"]
    np.testing.assert_array_equal(fig.data[1].x, [0.1, 20.0])
    assert list(fig.data[0].y) == ["one", "two"]
    assert fig.layout.xaxis.type == "log"
    assert "degrees" in fig.layout.xaxis.title.text


def test_conditions_are_panels_and_projections_go_on_from_measurements():
    fig = plots.methods_by_condition(
        {"quiet": {"a": ([10, 20], [1.0, 2.0]), "b": ([10], [3.0])}, "loud": {"b": ([20], [4.0])}},
        projected={"quiet": {"a": ([40], [8.0]), "c": ([40], [9.0])}},
        x_title="images",
        y_title="time (s)",
    )
    assert annotations(fig) == ["quiet", "loud"]
    in_legend = [t.name for t in fig.data if t.showlegend]
    assert sorted(in_legend) == ["a", "b", "c, projected"]
    dotted = trace(fig, "a, projected")
    assert (list(dotted.x), list(dotted.y)) == ([20, 40], [2.0, 8.0])
    assert dotted.marker.size[0] == 0  # the measured dot is drawn already
    assert dotted.line.color == trace(fig, "a").line.color
    assert len({t.line.color for t in fig.data if t.name == "b"}) == 1  # in both panels
    assert [axis.matches for axis in fig.select_yaxes()] == [None, "y"]


@pytest.mark.parametrize("curve", [([10, 20], [1.0]), ([20, 10], [1.0, 1.0]), ([10], [0.0])])
def test_methods_by_condition_needs_positive_pairs_that_rise(curve):
    with pytest.raises(ValueError, match=r"panels\['quiet'\]\['a'\] must pair positive x that rise"):
        plots.methods_by_condition({"quiet": {"a": curve}}, x_title="n", y_title="s")


def test_costs_grow_beside_a_line_of_a_slope():
    fig = plots.cost_growth(
        {"a": ([10, 100], [2.0, 20.0], [1.0, 1.0]), "b": ([10], [30.0], [0.5])},
        x_title="pixels",
        slope=2,
        slope_name="squared",
    )
    assert [(t.name, t.xaxis) for t in fig.data] == [
        ("a", "x"), ("a", "x2"), ("b", "x"), ("b", "x2"), ("squared", "x")
    ]  # fmt: skip
    assert [t.name for t in fig.data if t.showlegend is not False] == ["a", "b", "squared"]
    guide = trace(fig, "squared")
    assert list(guide.x) == [10, 100]
    assert guide.y[1] / guide.y[0] == pytest.approx(10**2)
    assert guide.y[0] > 30
    assert [axis.title.text for axis in fig.select_yaxes()] == ["time (s)", "peak memory (GB)"]
    assert {axis.type for axis in [*fig.select_xaxes(), *fig.select_yaxes()]} == {"log"}
    assert fig.layout.yaxis2.range == (
        -1,
        pytest.approx(np.log10(1.5)),
    )  # a decade at least: what is level must look it


@pytest.mark.parametrize(
    "curve", [([10, 20], [1.0], [1.0]), ([20, 10], [1.0, 1.0], [1, 1]), ([10], [1.0], [0.0])]
)
def test_cost_growth_needs_positive_pairs_that_rise(curve):
    with pytest.raises(ValueError, match=r"curves\['a'\] must pair positive x that rise"):
        plots.cost_growth({"a": curve}, x_title="images")


@pytest.mark.parametrize("errors", [[1.0], [1.0, 0.0], [1.0, -2.0]])
def test_methods_need_one_positive_error_a_set(errors):
    with pytest.raises(ValueError, match=r"errors_deg\['a'\] must be 2 positive errors"):
        plots.method_comparison({"a": errors}, names=["one", "two"])


def test_losses_stand_beside_the_true_error():
    fig = plots.loss_beside_error({"loss": [3, 2], "val_loss": [3, 2.5], "val_error_deg": [0.5, 0.4]})
    assert [list(trace.y) for trace in fig.data] == [[3, 2], [3, 2.5], [0.5, 0.4]]
    assert "degrees" in fig.layout.yaxis2.title.text
    fig = plots.loss_beside_error(
        {"loss": [3, 2], "val_loss": [3, 2.5], "val_error_deg": [0.5, 0.4]},
        untrained={"val_loss": 4, "val_error_deg": 0.9},
    )
    assert [list(trace.x) for trace in fig.data] == [[1, 2], [0, 1, 2], [0, 1, 2]]
    assert [list(trace.y) for trace in fig.data] == [[3, 2], [4, 3, 2.5], [0.9, 0.5, 0.4]]
    with pytest.raises(ValueError, match="untrained must hold val_loss and val_error_deg, got val_loss"):
        plots.loss_beside_error(
            {"loss": [1], "val_loss": [1], "val_error_deg": [1]}, untrained={"val_loss": 4}
        )
    with pytest.raises(ValueError, match="history must hold val_error_deg, got loss, val_loss"):
        plots.loss_beside_error({"loss": [1], "val_loss": [1]})
    with pytest.raises(ValueError, match="lists of one length, got 1, 1 and 2"):
        plots.loss_beside_error({"loss": [1], "val_loss": [1], "val_error_deg": [1, 2]})


def test_polar_spectra_have_an_angle_and_a_frequency_axis():
    spectra = np.arange(24.0).reshape(2, 4, 3)
    fig = plots.polar_spectra(
        spectra, frequencies_per_angstrom=np.array([0.1, 0.2, 0.3]), period_deg=180, titles=["a", "b"]
    )
    np.testing.assert_array_equal(fig.data[1].z, spectra[1])
    np.testing.assert_array_equal(fig.data[0].y, [0, 45, 90, 135])
    with pytest.raises(ValueError, match=r"spectra must match 3 frequencies and 1 titles, got \(2, 4, 3\)"):
        plots.polar_spectra(spectra, frequencies_per_angstrom=np.ones(3), period_deg=180, titles=["a"])
