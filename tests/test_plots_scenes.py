"""Surfaces, slices, galleries and spheres: meshes, images and directions are drawn at the right positions."""

import numpy as np
import pytest
from figure_parts import annotations, ball, trace
from scipy.spatial.transform import Rotation

from cryoem import plots
from cryoem.rotations import random_rotations
from cryoem.volumes import DensityMap


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


def test_mesh_is_closed_at_the_box_and_faces_outwards():
    vertices, triangles = plots.surface_mesh(ball((10, 10, 10), (5, 5, 9), 4), 0.5, voxel_size_angstrom=1)
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert (uses == 2).all()
    a, b, c = (vertices[triangles[:, i]].astype(float) for i in range(3))
    signed_volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert signed_volume > 0.5 * 4 / 3 * np.pi * 4**3  # more than half of the ball lies inside the box


def test_a_growing_map_has_a_frame_for_each_map_and_shows_the_last():
    balls = {name: ball((12, 12, 12), (6, 6, 6), radius) for name, radius in (("a", 2), ("b", 4))}
    figure = plots.growing_map({name: DensityMap(data, 2.0) for name, data in balls.items()})
    assert [frame.name for frame in figure.frames] == ["a", "b"]
    radii = [np.abs(frame.data[0].x).max() for frame in figure.frames]
    assert radii[0] < radii[1] == np.abs(figure.data[0].x).max()


def test_a_posterior_is_drawn_at_its_directions_with_its_number_of_directions():
    rotations = random_rotations(50, rng=0)
    sharp = np.eye(50)[7]
    figure = plots.posterior_sphere(rotations, {"flat": np.ones(50), "sharp": sharp})
    titles = [frame.layout.title.text for frame in figure.frames]
    assert titles == ["50 of 50 directions are probable", "1 of 50 directions is probable"]
    points = figure.frames[1].data[0]
    largest = np.argmax(points.marker.size)
    assert largest == np.argmax(points.marker.color) == 7
    np.testing.assert_allclose(
        [points.x[7], points.y[7], points.z[7]], 1.025 * rotations[7].as_matrix()[2], rtol=1e-5
    )


def test_automatic_level_separates_a_particle_from_its_background():
    volume = ball((32, 32, 32), (16, 16, 16), 8) + 0.02 * np.random.default_rng(0).normal(size=(32, 32, 32))
    assert 0.2 < plots.automatic_level(volume) < 0.6
    binary = (ball((9, 9, 9), (4, 4, 4), 3) > 0.5).astype(float)
    assert plots.automatic_level(binary) == 0.5


def test_two_surfaces_share_camera_range_and_size_limit():
    volume = np.random.default_rng(0).normal(size=(48, 48, 48)).astype(np.float32)
    figure = plots.density_isosurface(volume, voxel_size_angstrom=2, second=volume, names=("one", "two"))
    assert sum(len(mesh.i) for mesh in figure.data) <= 100_000
    assert len(figure.to_json()) < 2_000_000
    assert figure.layout.scene.camera == figure.layout.scene2.camera
    assert figure.layout.scene.xaxis.range == figure.layout.scene2.xaxis.range
    assert annotations(figure) == ["one", "two"]


def test_slider_shows_one_level_of_each_map():
    volume = ball((16, 16, 16), (8, 8, 8), 5)
    figure = plots.density_isosurface(volume, voxel_size_angstrom=1, level=[0.2, 0.5, 0.8], second=volume)
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0.2", "0.5", "0.8"]
    assert slider.steps[2].args[0]["visible"] == [False, False, True] * 2
    assert [mesh.visible for mesh in figure.data] == [False, True, False] * 2
    radii = [np.abs(mesh.x).max() for mesh in figure.data[:3]]
    assert radii[0] > radii[1] > radii[2]
    # the axes fit the surface that is shown first
    np.testing.assert_allclose(
        figure.layout.scene.xaxis.range, [-1.06 * radii[1], 1.06 * radii[1]], rtol=0.02
    )
    single = plots.density_isosurface(volume, voxel_size_angstrom=1, level=0.5)
    assert len(single.data) == 1
    assert not single.layout.sliders


def test_slices_show_a_marked_voxel_in_its_place():
    volume = np.zeros((6, 7, 8), np.float32)
    volume[3, 5, 1] = 1  # z = 0, y = +2, x = -3 voxels from the origin
    figure = plots.density_slices(volume, voxel_size_angstrom=2.5)
    across_z, across_y, across_x = figure.data
    row, column = np.argwhere(np.asarray(across_z.z) == 1)[0]
    assert (across_z.x[column], across_z.y[row]) == (-7.5, 5.0)
    assert not np.any(across_y.z)
    assert not np.any(across_x.z)
    assert (np.shape(across_y.z), np.shape(across_x.z)) == ((6, 8), (6, 7))
    assert [figure.layout[f"yaxis{i}"].scaleanchor for i in ("", 2, 3)] == ["x", "x2", "x3"]


def test_gallery_places_images_row_by_row_and_the_bar_in_angstrom():
    images = np.zeros((5, 24, 24))
    images[3, 20, 2] = 1  # second row, first column of three; y up
    figure = plots.projection_gallery(images, pixel_size_angstrom=2.0, columns=3, titles=list("abcde"))
    mosaic = np.asarray(figure.data[0].z)
    label = figure.layout.annotations[3]
    assert mosaic.dtype == np.uint8
    assert (label.text, label.x - 11.5, label.y - 24) == ("d", 0, 0)
    panel = mosaic[:24, :24]
    assert panel[20, 2] == panel.max() > panel[2, 20]
    (bar,) = figure.layout.shapes
    assert (bar.x1 - bar.x0) * 2.0 == 20
    assert annotations(figure)[-1] == "20 Å"
    assert not plots.projection_gallery(images).layout.shapes


def test_directions_are_the_third_row_and_thinned():
    # R maps particle y onto microscope z: a quarter turn about x
    turn = Rotation.from_rotvec([[np.pi / 2, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(turn[0].apply([0, 1, 0]), [0, 0, 1], atol=1e-12)
    points = trace(plots.coverage_sphere(turn), "viewing directions")
    directions = np.stack([points.x, points.y, points.z], axis=1)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(directions, [[0, 1, 0], [0, 0, 1]], atol=1e-6)
    many = plots.coverage_sphere(random_rotations(3100, rng=0))
    assert len(trace(many, "viewing directions").x) == 3000


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


def test_arcs_connect_true_and_recovered_on_the_sphere():
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
