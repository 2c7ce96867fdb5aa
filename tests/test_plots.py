"""The figures: geometry and numbers at the right place, sizes kept, wrong arguments named."""

import json

import numpy as np
import plotly.io as pio
import pytest
from scipy.spatial.transform import Rotation

from cryoem import plots
from cryoem.plots.distances import pair_distances
from cryoem.plots.ticks import log_ticks, round_below
from cryoem.rotations import geodesic_distance, random_rotations


def ball(shape, centre_zyx, radius):
    """Soft ball: 1 inside, 0 outside, 0.5 exactly at the radius (voxels)."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid - np.asarray(centre_zyx), axis=-1)
    return np.clip(0.5 + (radius - distance) / 2, 0, 1).astype(np.float32)


def trace(figure, name):
    (found,) = [t for t in figure.data if t.name == name]
    return found


def annotations(figure):
    return [a.text for a in figure.layout.annotations]


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


# sweeps


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


# densities


@pytest.mark.parametrize("max_triangles", [60_000, 300])
@pytest.mark.parametrize("shape", [(20, 24, 28), (21, 25, 29)])
def test_mesh_of_a_shifted_ball_is_where_the_ball_is(shape, max_triangles):
    shift_xyz = np.array([4, -2, 1])
    centre = np.array(shape) // 2 + shift_xyz[::-1]
    vertices, triangles = plots.surface_mesh(
        ball(shape, centre, 5), 0.5, voxel_size_angstrom=3.0, max_triangles=max_triangles
    )
    assert len(triangles) <= max_triangles
    from_centre = vertices - 3.0 * shift_xyz
    coarseness = 0.2 if max_triangles == 60_000 else 1.5
    np.testing.assert_allclose(np.linalg.norm(from_centre, axis=1), 15, atol=coarseness)
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    np.testing.assert_allclose(middle, 3.0 * shift_xyz, atol=coarseness)


def test_mesh_is_closed_at_the_box_and_turns_outwards():
    vertices, triangles = plots.surface_mesh(ball((10, 10, 10), (5, 5, 9), 4), 0.5, voxel_size_angstrom=1)
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert (uses == 2).all()
    a, b, c = (vertices[triangles[:, i]].astype(float) for i in range(3))
    signed_volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    half_ball_and_more = 0.5 * 4 / 3 * np.pi * 4**3
    assert signed_volume > half_ball_and_more


def test_automatic_level_parts_a_particle_from_its_background():
    volume = ball((32, 32, 32), (16, 16, 16), 8) + 0.02 * np.random.default_rng(0).normal(size=(32, 32, 32))
    assert 0.2 < plots.automatic_level(volume) < 0.6
    binary = (ball((9, 9, 9), (4, 4, 4), 3) > 0.5).astype(float)
    assert plots.automatic_level(binary) == 0.5


def test_isosurface_beside_another_shares_camera_range_and_budget():
    volume = np.random.default_rng(0).normal(size=(48, 48, 48)).astype(np.float32)
    figure = plots.density_isosurface(volume, voxel_size_angstrom=2, second=volume, names=("one", "two"))
    assert sum(len(mesh.i) for mesh in figure.data) <= 100_000
    assert len(figure.to_json()) < 2_000_000
    assert figure.layout.scene.camera == figure.layout.scene2.camera
    assert figure.layout.scene.xaxis.range == figure.layout.scene2.xaxis.range
    assert [a.text for a in figure.layout.annotations] == ["one", "two"]


def test_slider_of_levels_shows_one_level_of_each_map():
    volume = ball((16, 16, 16), (8, 8, 8), 5)
    figure = plots.density_isosurface(volume, voxel_size_angstrom=1, level=[0.2, 0.5, 0.8], second=volume)
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0.2", "0.5", "0.8"]
    assert slider.steps[2].args[0]["visible"] == [False, False, True] * 2
    assert [mesh.visible for mesh in figure.data] == [False, True, False] * 2
    radii = [np.abs(mesh.x).max() for mesh in figure.data[:3]]
    assert radii[0] > radii[1] > radii[2]
    single = plots.density_isosurface(volume, voxel_size_angstrom=1, level=0.5)
    assert len(single.data) == 1
    assert not single.layout.sliders


def test_slices_show_the_marked_voxel_at_its_place():
    volume = np.zeros((6, 7, 8), np.float32)
    volume[3, 5, 1] = 1  # z = 0, y = +2, x = -3 voxels from the middle
    figure = plots.density_slices(volume, voxel_size_angstrom=2.5)
    across_z, across_y, across_x = figure.data
    row, column = np.argwhere(np.asarray(across_z.z) == 1)[0]
    assert (across_z.x[column], across_z.y[row]) == (-7.5, 5.0)
    assert not np.any(across_y.z)
    assert not np.any(across_x.z)
    assert np.shape(across_y.z) == (6, 8)
    assert np.shape(across_x.z) == (6, 7)
    assert [figure.layout[f"yaxis{i}"].scaleanchor for i in ("", 2, 3)] == ["x", "x2", "x3"]


def test_gallery_places_images_row_by_row_and_bar_in_angstrom():
    images = np.zeros((5, 24, 24))
    images[3, 20, 2] = 1  # second row, first column of three; y up
    figure = plots.projection_gallery(images, pixel_size_angstrom=2.0, columns=3, titles=list("abcde"))
    mosaic = np.asarray(figure.data[0].z)
    left, bottom = figure.layout.annotations[3].x - 11.5, figure.layout.annotations[3].y - 24
    assert mosaic.dtype == np.uint8
    assert figure.layout.annotations[3].text == "d"
    assert left == 0
    assert bottom == 0
    panel = mosaic[int(bottom) : int(bottom) + 24, int(left) : int(left) + 24]
    assert panel[20, 2] == panel.max() > panel[2, 20]
    (bar,) = figure.layout.shapes
    assert (bar.x1 - bar.x0) * 2.0 == 20
    assert annotations(figure)[-1] == "20 Å"


def test_gallery_without_a_scale_has_no_bar():
    assert not plots.projection_gallery(np.zeros((2, 24, 24))).layout.shapes


# orientations


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


# curves


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
