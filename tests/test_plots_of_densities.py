"""Figures of densities and images: meshes, slices and galleries show what is there where it is."""

import numpy as np
import pytest
from figure_parts import annotations, ball

from cryoem import plots


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
