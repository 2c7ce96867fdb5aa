"""Views of orientations and images: values, positions and neighbours are those of the arrays."""

import numpy as np
import pytest
from figure_parts import annotations, ball, trace
from scipy.spatial.transform import Rotation

from cryoem import plots
from cryoem.plots.imaging import LEAST_SEPARATION, MOST_IMAGES, WIDEST_IMAGE_PX
from cryoem.projection import project
from cryoem.rotations import from_relion_euler_deg, random_rotations, viewing_directions

VIEWS = random_rotations(300, rng=0)


def points_of(t):
    return np.stack([t.x, t.y, t.z], axis=1).astype(float)


# --- rotation vectors, Euler angles and quaternions


def test_rotation_vectors_lie_in_the_unit_ball_with_their_angle_or_value():
    vectors = np.array([[np.pi / 2, 0, 0], [0, 0, -np.pi / 4], [0, np.pi, 0]])
    rotations = Rotation.from_rotvec(vectors)
    points = trace(plots.rotation_ball(rotations), "rotation vectors")
    np.testing.assert_allclose(points_of(points), vectors / np.pi, atol=1e-6)
    np.testing.assert_allclose(points.marker.color, [90, 45, 180], rtol=1e-6)
    by_error = trace(plots.rotation_ball(rotations, colour=[3, 1, 2], colour_title="error (°)"), points.name)
    assert list(by_error.marker.color) == [3, 1, 2]
    assert by_error.marker.colorbar.title.text == "error (°)"
    assert 2.9 < by_error.marker.cmax <= 3
    np.testing.assert_allclose(by_error.customdata, [90, 45, 180], rtol=1e-6)


def test_a_large_sample_keeps_each_colour_with_its_rotation():
    many = random_rotations(4000, rng=0)
    points = trace(plots.rotation_ball(many, colour=many.magnitude()), "rotation vectors")
    assert len(points.x) == 3000
    np.testing.assert_allclose(
        np.linalg.norm(points_of(points), axis=1) * np.pi, points.marker.color, rtol=1e-5
    )


def test_euler_angles_are_counted_in_their_bins():
    angles = [[-175, 5, 0.5], [-175, 95, 0.5], [12, 95, 0.5], [12, 95, 179]]
    figure = plots.euler_histograms({"four": from_relion_euler_deg(angles)})
    counted = [
        {x: y for x, y in zip(t.x[:-1], t.y, strict=False) if y} for t in figure.data if t.name == "four"
    ]
    assert counted == [{-180: 50, 10: 50}, {0: 25, 90: 75}, {0: 75, 170: 25}]
    assert [axis.title.text for axis in figure.select_xaxes()] == ["rot (°)", "tilt (°)", "psi (°)"]
    assert [t.name for t in figure.data if t.showlegend is not False] == ["four", "uniform on SO(3)"]


def test_quaternions_are_counted_with_positive_w():
    turn = Rotation.from_quat([[0, 0, -0.65, -0.76], [0.28, 0, 0, 0.96]])
    figure = plots.quaternion_histograms({"two": turn})
    assert [axis.title.text for axis in figure.select_xaxes()] == ["x", "y", "z", "w"]
    drawn = dict(zip("xyzw", [t for t in figure.data if t.name == "two"], strict=True))
    for axis, values in {"x": [0, 0.28], "y": [0, 0], "z": [0.65, 0], "w": [0.76, 0.96]}.items():
        expected, _ = np.histogram(values, bins=drawn[axis].x)
        np.testing.assert_array_equal(drawn[axis].y[:-1], 50 * expected)
    assert drawn["w"].x[0] == 0


@pytest.mark.parametrize("plot", [plots.euler_histograms, plots.quaternion_histograms])
def test_uniform_orientations_follow_the_dashed_curve(plot):
    figure = plot(
        {"so3": random_rotations(40_000, rng=0), "euler": random_rotations(40_000, coverage="euler", rng=0)}
    )
    panels = {
        name: [t for t in figure.data if t.name == name] for name in ("so3", "euler", "uniform on SO(3)")
    }
    apart = {"so3": 0.0, "euler": 0.0}
    for so3, euler, uniform in zip(*panels.values(), strict=True):
        assert np.sum(uniform.y) == pytest.approx(100)
        for name, drawn in (("so3", so3), ("euler", euler)):
            assert np.sum(drawn.y[:-1]) == pytest.approx(100)
            apart[name] = max(apart[name], np.abs(drawn.y[:-1] - uniform.y).max())
    assert apart["so3"] < 0.7  # per cent, four standard deviations of the largest bin
    assert apart["euler"] > 3


# --- images on the sphere


def test_images_are_at_their_viewing_direction_with_x_and_y_along_the_rows_of_the_rotation():
    images = np.zeros((3, 16, 16))
    images[:, 8, 14] = 1  # to the right of the origin
    images[:, 14, 8] = 0.5  # above the origin
    rotations = VIEWS[[0, 3, 5]]
    figure = plots.images_on_sphere(images, rotations)
    for index, (right, up, view) in enumerate(rotations.as_matrix()):
        mesh = trace(figure, f"image {index}")
        points = points_of(mesh)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        np.testing.assert_allclose(points[8 * 16 + 8], view, atol=1e-6)
        brightest = points[np.argmax(mesh.intensity)]
        assert brightest @ right > 0.1
        assert brightest @ up == pytest.approx(0, abs=1e-6)
        second = points[np.argsort(mesh.intensity)[-2]]
        assert second @ up > 0.1
        assert second @ right == pytest.approx(0, abs=1e-6)
        # triangles of the image face outwards
        a, b, c = (points[np.asarray(corner)] for corner in (mesh.i, mesh.j, mesh.k))
        assert (np.cross(b - a, c - a) @ view > 0).all()


def test_few_well_separated_images_of_few_pixels_are_drawn():
    images = project(ball((32, 32, 32), (14, 16, 19), 8), VIEWS)
    figure = plots.images_on_sphere(images, VIEWS)
    meshes = [t for t in figure.data if t.name.startswith("image ")]
    shown = [int(t.name.removeprefix("image ")) for t in meshes]
    assert len(set(shown)) == len(shown) == MOST_IMAGES
    assert {len(t.x) for t in meshes} == {WIDEST_IMAGE_PX**2}
    cosines = viewing_directions(VIEWS[shown]) @ viewing_directions(VIEWS[shown]).T
    assert np.arccos(cosines[np.triu_indices(len(shown), 1)].max()) > LEAST_SEPARATION
    assert len(figure.to_json()) < 1_200_000
    same_view = Rotation.from_rotvec([[0, 0, 0], [0, 0, 1.0]])
    assert sum(t.name.startswith("image ") for t in plots.images_on_sphere(images[:2], same_view).data) == 1


# --- rays


def test_rays_are_parallel_to_the_view_and_end_at_bright_pixels():
    voxel, centre = 2.0, np.array([3, -2, 4])  # (x, y, z) voxels from the origin
    volume = ball((33, 33, 33), 16 + centre[::-1], 5)
    rotations = from_relion_euler_deg([[20, 70, 30], [-60, 110, 0]])
    figure = plots.projection_rays(volume, rotations, voxel_size_angstrom=voxel)
    for number, (right, up, view) in enumerate(rotations.as_matrix(), start=1):
        rays = points_of(trace(figure, f"rays {number}")).reshape(-1, 3, 3)
        assert np.isnan(rays[:, 2]).all()
        along = rays[:, 1] - rays[:, 0]
        np.testing.assert_allclose(
            along / np.linalg.norm(along, axis=1, keepdims=True), [view] * len(rays), atol=1e-5
        )
        # each ray passes through the ball, and the rays fill it
        away = rays[:, 1] - voxel * centre
        distance = np.linalg.norm(away - (away @ view)[:, None] * view, axis=1)
        assert distance.max() < voxel * 6.5
        assert len(rays) > 6
        # the brightest pixel of the image is opposite the centre of the ball
        mesh = trace(figure, f"image {number}")
        points, brightest = points_of(mesh), np.asarray(mesh.intensity) > 200
        middle = points[brightest].mean(axis=0)
        np.testing.assert_allclose(
            [middle @ right, middle @ up], voxel * centre @ np.stack([right, up], axis=1), atol=1
        )
        np.testing.assert_allclose(points @ view, rays[0, 1] @ view, rtol=1e-5)
    surface = points_of(trace(figure, "particle"))
    np.testing.assert_allclose((surface.min(0) + surface.max(0)) / 2, voxel * centre, atol=0.3)
    for axis in "xyz":
        low, high = figure.layout.scene[f"{axis}axis"].range
        assert all(low < np.nanmin(t[axis]) <= np.nanmax(t[axis]) < high for t in figure.data)


def test_the_detectors_do_not_hide_the_particle():
    volume = ball((16, 16, 16), (8, 8, 8), 5)
    for rotations in (VIEWS[:1], VIEWS[1:3], from_relion_euler_deg([[0, 90, 0], [0, 0, 0]])):
        camera = plots.projection_rays(volume, rotations, voxel_size_angstrom=1).layout.scene.camera.eye
        eye = np.array([camera.x, camera.y, camera.z]) / np.linalg.norm([camera.x, camera.y, camera.z])
        # a detector covers directions up to atan(sqrt(2) / 1.5) = 43 degrees from its centre
        assert (viewing_directions(rotations) @ eye < np.cos(np.deg2rad(43))).all()


# --- nearest neighbours


def test_neighbours_are_in_order_of_distance_with_both_angles_in_the_titles():
    images = np.arange(5.0)[:, None, None] * np.array([[0, 1], [1, 0]]) + np.eye(2)
    estimated = np.full((5, 5), 3.0)
    estimated[2] = np.deg2rad([40, 10, 0, 30, 20])
    estimated[4] = np.deg2rad([1, 2, 3, 4, 0])
    true = np.deg2rad(np.arange(25.0)).reshape(5, 5)
    figure = plots.nearest_neighbours(images, estimated, index=[2, 4], count=3, true=true)
    expected = ["image 2", "10.0° (true 11.0°)", "20.0° (true 14.0°)", "30.0° (true 13.0°)"]
    expected += ["image 4", "1.0° (true 20.0°)", "2.0° (true 21.0°)", "3.0° (true 22.0°)"]
    assert annotations(figure) == expected
    order = plots.projection_gallery(images[[2, 1, 4, 3, 4, 0, 1, 2]], columns=4, titles=expected)
    np.testing.assert_array_equal(figure.data[0].z, order.data[0].z)
    assert annotations(plots.nearest_neighbours(images, estimated, index=4, count=9))[1:] == [
        "1.0°",
        "2.0°",
        "3.0°",
        "4.0°",
    ]
