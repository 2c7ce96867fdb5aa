"""All figures: template, axis titles, errors; then comparisons and sweeps."""

import json
import os
import subprocess
import sys

import numpy as np
import plotly.io as pio
import pytest
from figure_parts import annotations, ball, trace

from cryoem import plots, reconstruction, volumes
from cryoem.rotations import random_rotations
from cryoem.volumes import DensityMap

CUBE = np.zeros((4, 4, 4))
CUBE[2, 2, 2] = 1
FIVE = random_rotations(5, rng=0)
VALIDATED = {"loss": [2.0, 1.0], "val_loss": [2.0, 1.0], "val_error_deg": [0.2, 0.1]}
NAMES = {"rows": ["a", "b"], "columns": ["c", "d"], "row_title": "r", "column_title": "c", "value_title": "v"}
RINGS = np.fft.fft(np.eye(3, 8), axis=1)  # 3 rings, 8 angles
POLAR = {"frequencies_per_angstrom": np.arange(4.0), "period_deg": 180, "titles": ["a", "b"]}
XY = {"x_title": "noise", "y_title": "error (rad)"}
CLASSES = {"resolutions_angstrom": [8.0, 9.0], "faults": ["", "noise"]}
EXAMPLES = {
    "class_gallery": lambda: plots.class_gallery(CUBE[:2], counts=[2, 1], pixel_size_angstrom=2, **CLASSES),
    "class_quality": lambda: plots.class_quality(np.arange(3.0), np.array([0, 0, 1]), **CLASSES),
    "rings_and_harmonics": lambda: plots.rings_and_harmonics(np.eye(16), RINGS, 1j * RINGS, ring=2),
    "growing_map": lambda: plots.growing_map({"a": DensityMap(ball((12, 12, 12), (6, 6, 6), 3), 2.0)}),
    "posterior_sphere": lambda: plots.posterior_sphere(FIVE, {"a": np.ones(5)}),
    "evidence_histogram": lambda: plots.evidence_histogram(np.array([-5.0, 2.0, 80.0])),
    "start_comparison": lambda: plots.start_comparison(np.array([2.0, 1.0]), np.array([1.0, 0, 1])),
    "power_spectrum": lambda: plots.power_spectrum(
        np.array([0.1, 0.2]), np.array([9.0, 3]), np.array([8.0, 3]), pixel_size_angstrom=2
    ),
    "density_isosurface": lambda: plots.density_isosurface(
        ball((12, 12, 12), (6, 6, 6), 3), voxel_size_angstrom=2
    ),
    "guinier_plot": lambda: plots.guinier_plot(
        {"a": reconstruction.guinier(volumes.phantom(size=16, voxel_size_angstrom=2.0))}
    ),
    "resolution_sphere": lambda: plots.resolution_sphere(
        np.eye(3), np.array([2.0, 3.0, 4.0]), rotations=FIVE
    ),
    "density_slices": lambda: plots.density_slices(CUBE, voxel_size_angstrom=2),
    "projection_gallery": lambda: plots.projection_gallery(CUBE, pixel_size_angstrom=2),
    "coverage_sphere": lambda: plots.coverage_sphere(FIVE),
    "coverage_spheres": lambda: plots.coverage_spheres({"a": FIVE}),
    "euler_histograms": lambda: plots.euler_histograms({"a": FIVE}),
    "fitted_optics": lambda: plots.fitted_optics(np.array([-50.0, 20, 30]), np.array([0.9, 1, 1.1])),
    "images_on_sphere": lambda: plots.images_on_sphere(CUBE, FIVE[:4]),
    "nearest_neighbours": lambda: plots.nearest_neighbours(CUBE, np.ones((4, 4)), index=0),
    "projection_rays": lambda: plots.projection_rays(CUBE, FIVE[:2], voxel_size_angstrom=2),
    "quaternion_histograms": lambda: plots.quaternion_histograms({"a": FIVE}),
    "rotation_ball": lambda: plots.rotation_ball(FIVE),
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
    "measured_panels": lambda: plots.measured_panels(
        {"one": {"a": ([1, 2], [0.1, 0.2])}, "two": {"a": ([1], [1])}},
        x_title="x",
        y_title={"one": "y", "two": "z"},
    ),
    "recovery_panels": lambda: plots.recovery_panels(
        {"a": ([1, 2], [0.3, 0.2])}, {"a": ([0.1, 0.2, 0.4], [40, 60])}
    ),
    "distances_from_few": lambda: plots.distances_from_few(
        {"one": (np.eye(2), np.eye(2))}, y_title="distance (rad)"
    ),
    "surface_row": lambda: plots.surface_row({"a": DensityMap(ball((12, 12, 12), (6, 6, 6), 3), 2.0)}),
    "intuition_schematic": lambda: plots.intuition_schematic(CUBE[:3], np.eye(3)),
    "overview_schematic": lambda: plots.overview_schematic(np.ones((9, 4, 4)), np.eye(3), FIVE),
    "distance_learning_schematic": lambda: plots.distance_learning_schematic(CUBE[:2]),
    "architecture_schematic": lambda: plots.architecture_schematic(
        [(3, 8, 16)], image=CUBE[2], parameters=80
    ),
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


def test_a_figure_is_displayed_without_importing_rfc3987_syntax():
    code = (
        "import sys; from cryoem import plots; plots.automatic_level; import plotly.graph_objects as go; "
        "assert 'application/vnd.plotly.v1+json' in go.Figure()._repr_mimebundle_(); "
        "assert 'nbformat' in sys.modules and 'rfc3987_syntax' not in sys.modules"
    )
    environment = os.environ | {"PLOTLY_RENDERER": "plotly_mimetype"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


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
    (plots.measured_panels, ({},), XY, "conditions must be a mapping"),
    (plots.measured_panels, ({"one": {}},), XY, "curves must be a mapping"),
    (plots.recovery_panels, ({"a": ([1], [1])}, {"a": ([0, 1], [100])}), {}, "must be positive on a logarithmic axis"),
    (plots.distances_from_few, ({"one": (CUBE[0], CUBE[1, 1:])},), {"y_title": "d"}, "two arrays of the same shape"),
    (plots.surface_row, ({},), {}, "maps must be a mapping"),
    (plots.growing_map, ({},), {}, "maps must be a mapping"),
    (plots.posterior_sphere, (FIVE, {"a": np.ones(4)}), {}, r"must have one value per rotation \(5\), got 4"),
    (plots.intuition_schematic, (CUBE, np.eye(3)), {}, "images must contain 3 images, got 4"),
    (plots.intuition_schematic, (CUBE[:3], np.eye(2)), {}, r"distances must have shape \(3, 3\), got \(2, 2\)"),
    (plots.overview_schematic, (CUBE, np.eye(3), FIVE), {}, "images must contain 9 images, got 4"),
    (plots.distance_learning_schematic, (CUBE,), {}, "images must contain 2 images, got 4"),
    (plots.architecture_schematic, ([],), {"image": CUBE[0], "parameters": 1}, "must contain at least one layer"),
    (plots.value_matrix, (np.eye(3),), NAMES, r"values must have shape \(2, 2\) to .*, got \(3, 3\)"),
    (plots.number_table, ([["a"]],), {"header": ["", "number"]}, r"rows must have 2 cells each, got \[1\]"),
    (plots.coverage_sphere, (np.eye(3),), {}, "rotations must be a scipy Rotation, got ndarray"),
    (plots.recovered_against_true, (FIVE, []), {}, "recovered_frames must contain at least one frame, got 0"),
    (plots.recovered_against_true, (FIVE, [FIVE[:2]]), {}, r"recovered_frames\[0\] must have .*`true` \(5\), got 2"),
    (plots.recovered_against_true, (FIVE, [FIVE]), {"frame_names": "ab"}, "frame_names must have one entry per frame"),
    (plots.images_on_sphere, (CUBE, FIVE), {}, "rotations must have one entry for each of the 4 images, got 5"),
    (plots.projection_rays, (CUBE, FIVE), SIZED, "rotations must contain at most 4 orientations, got 5"),
    (plots.projection_rays, (CUBE, FIVE[:1]), SIZED | {"level": 2}, "the maximum 1 of the map, got 2"),
    (plots.rotation_ball, (FIVE,), {"colour": [1, 2]}, "colour must have one entry for each of the 5 images, got 2"),
    (plots.euler_histograms, ({"a": FIVE[0]},), {}, r"samplings\['a'\] must be .*, got a single rotation"),
    (plots.quaternion_histograms, (FIVE,), {}, "samplings must be a mapping"),
    (plots.nearest_neighbours, (CUBE, np.eye(3)), {"index": 0}, r"distances must be \(4, 4\), .* got shape \(3, 3\)"),
    (plots.nearest_neighbours, (CUBE, np.eye(4)), {"index": [4]}, r"less than the number of images \(4\), got 4"),
    (plots.nearest_neighbours, (CUBE, np.eye(4)), {"index": 0, "true": 99 + CUBE[0]}, "true must be in radians"),
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


def test_panels_share_colours_and_legend_entries():
    figure = plots.measured_panels(
        {
            "one": {"a": ([1, 2], [3, 4]), "a, training": ([1, 2], [2, 3])},
            "two": {"b": ([1], [1]), "a": ([1], [2])},
        },
        published={"two": {"paper": ([1], [5])}},
        paired={"a, training": "a"},
        x_title={"one": "epoch", "two": "time (s)"},
        y_title={"one": "error (rad)", "two": "loss (rad²)"},
    )
    of_a = [line for line in figure.data if line.name == "a"]
    assert len({line.line.color for line in of_a}) == 1
    assert [line.showlegend for line in of_a] == [True, False]
    training = trace(figure, "a, training")
    assert (training.line.dash, training.line.color) == ("dash", of_a[0].line.color)
    assert trace(figure, "b").line.color != of_a[0].line.color
    assert (trace(figure, "paper").xaxis, trace(figure, "paper").marker.symbol) == ("x2", "diamond-open")
    assert [axis.title.text for axis in figure.select_xaxes()] == ["epoch", "time (s)"]
    assert [axis.title.text for axis in figure.select_yaxes()] == ["error (rad)", "loss (rad²)"]


def test_recovery_panels_mark_published_values():
    figure = plots.recovery_panels(
        {"a": ([1, 2], [0.3, 0.2])},
        {"a": ([0.1, 0.2, 0.4], [40, 60])},
        published_loss_rad2=0.25,
        published_error_rad=0.3,
    )
    level, mean = figure.layout.shapes
    assert (level.y0, level.y1, mean.x0, mean.x1) == (0.25, 0.25, 0.3, 0.3)
    assert list(figure.data[1].x) == [0.1, 0.2, 0.4]
    assert list(figure.data[1].y[:2]) == [40, 60]
    assert annotations(figure) == [
        "published L<sub>OR</sub> 0.25 rad²",
        "published E<sub>OR</sub><br>0.3 rad",
    ]


def test_schematics_draw_the_given_distances_and_layers():
    distances = np.array([[0, 0.25, 2], [0.25, 0, 1.5], [2, 1.5, 0]])
    words = " ".join(annotations(plots.intuition_schematic(CUBE[:3], distances)))
    assert "= 0.25 rad (14°)" in words
    assert "= 2.00 rad (115°)" in words
    layers = [(7, 32, 116), (3, 512, 2)]
    words = annotations(plots.architecture_schematic(layers, image=CUBE[2], parameters=4_551_936))
    assert {"7 × 7", "3 × 3", "<b>32</b>", "<b>512</b>", "116 px", "2 px"} <= set(words)
    assert "4,551,936 parameters" in words[-1]
    assert plots.distances_from_few({"a": (np.eye(2), np.eye(2))}, y_title="d").data[1].x[1] == 1


def test_surfaces_of_a_row_have_the_same_scale():
    small, large = (DensityMap(ball((16, 16, 16), (8, 8, 8), radius), 2.0) for radius in (3, 6))
    figure = plots.surface_row({"small": small, "large": large})
    assert annotations(figure) == ["small", "large"]
    assert figure.layout.scene.xaxis.range == figure.layout.scene2.xaxis.range
    reaches = [float(np.abs(np.stack([mesh.x, mesh.y, mesh.z])).max()) for mesh in figure.data]
    assert reaches == pytest.approx([6, 12], abs=1)
    assert figure.layout.scene.xaxis.range[1] == pytest.approx(reaches[1])


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


def test_conditions_are_panels_with_one_colour_for_each_method():
    fig = plots.methods_by_condition(
        {"quiet": {"a": ([10, 20], [1.0, 2.0]), "b": ([10], [3.0])}, "loud": {"b": ([20], [4.0])}}, **XY
    )
    assert annotations(fig) == ["quiet", "loud"]
    assert [t.name for t in fig.data if t.showlegend] == ["a", "b"]
    assert (list(trace(fig, "a").x), list(trace(fig, "a").y)) == ([10, 20], [1.0, 2.0])
    assert [t.xaxis for t in fig.data if t.name == "b"] == ["x", "x2"]
    assert len({t.line.color for t in fig.data if t.name == "b"}) == 1
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
