"""Plots of imaging geometry: images at their viewing directions, and rays through the particle onto detectors."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from scipy.spatial.transform import Rotation

from cryoem.images import downsample
from cryoem.plots.densities import automatic_level, mesh, surface_mesh
from cryoem.plots.sphere import ABOVE, grid_triangles, sphere_figure, xyz
from cryoem.plots.template import PAPER, figure, histogram, named_colours, panels
from cryoem.projection import project
from cryoem.rotations import to_relion_euler_deg, viewing_directions
from cryoem.validation import finite_array, many_rotations, positive_number, square_images

MOST_IMAGES, WIDEST_IMAGE_PX = 40, 24
LEAST_SEPARATION = 0.3  # radians between viewing directions
LARGEST_IMAGE = 0.35  # half the width of an image on the unit sphere
MOST_DETECTORS, WIDEST_DETECTOR_PX = 4, 64
FAINT = 12  # of 255: darker pixels lie outside the particle
RAYS = 12  # along each side of a detector
MOST_TRIANGLES = 20_000
FIT_BINS = 40


def images_on_sphere(images: np.ndarray, rotations: Rotation) -> go.Figure:
    """Plot images on the unit sphere, each at its viewing direction and rotated by its in-plane angle.

    At most 40 images are shown, each at most 24 px wide. Starting from the first image, the image whose viewing
    direction is farthest from those already shown is added next, as long as it is at least 0.3 rad (17 degrees) away.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        Images, each shown with its own grey scale. Seen from outside the sphere, x points right and y points up, before
        the in-plane rotation.
    rotations : Rotation
        n orientations R, from the particle frame to the microscope frame. In the particle frame, the rows of R are the
        x-axis of the image, its y-axis, and the viewing direction.

    Returns
    -------
    Figure
        One mesh per image, named after its index.

    Raises
    ------
    ValueError
        If the images are not square or not finite, or if there is not one rotation per image.
    """
    images = square_images(images, smallest_px=2)
    rotations = many_rotations(rotations, count=len(images))
    shown, separation = _spread_out(viewing_directions(rotations))
    angles, matrices = _angle_names(rotations), rotations.as_matrix()
    half_width = min(float(np.tan(separation / 2)), LARGEST_IMAGE)
    fig = sphere_figure()
    borders = []
    for layer, index in enumerate(shown):
        image = _reduced(images[index], WIDEST_IMAGE_PX)
        offsets = (np.arange(len(image)) - len(image) // 2) * half_width / (len(image) // 2)
        patch = _plane_points(matrices[index], offsets, origin=matrices[index, 2])
        # bend the image onto a sphere of its own, because corners may overlap: (xyz, y, x)
        patch *= (ABOVE + 5e-4 * layer) / np.linalg.norm(patch, axis=0)
        text = f"{angles[index]}<extra>%{{fullData.name}}</extra>"
        fig.add_trace(_image_mesh(image, patch, name=f"image {index}", hovertemplate=text))
        borders.append(_border(patch))
    line = {"color": PAPER, "width": 2.5}
    borders = xyz(1.0002 * np.concatenate(borders, axis=1))
    return fig.add_scatter3d(**borders, mode="lines", line=line, name="borders", hoverinfo="skip")


def projection_rays(
    volume: np.ndarray, rotations: Rotation, *, voxel_size_angstrom: float, level: float | None = None
) -> go.Figure:
    """Plot parallel rays through a density map onto one detector per orientation, with the projected images.

    The particle stays fixed, and each orientation has its own beam and detector. Each pixel of an image is the integral
    of the density along the ray that ends there.

    Parameters
    ----------
    volume : (z, y, x) array
        Density map.
    rotations : Rotation
        One to four orientations R, from the particle frame to the microscope frame. In the particle frame, the rows of
        R are the x-axis of the image, its y-axis, and the direction of the rays.
    voxel_size_angstrom : float
        Voxel size in angstrom.
    level : float, optional
        Density value of the surface. Default: ``automatic_level(volume)``.

    Returns
    -------
    Figure
        The surface of the particle, and the image, the border and the rays of each orientation, in angstrom in the
        particle frame. Only rays that pass through the particle are drawn. Each image is dark on white and at most
        64 px wide.

    Raises
    ------
    ValueError
        If the map is not three-dimensional or not finite, there are more than four orientations, the voxel size is not
        positive, or the level is outside the range of the map.
    """
    volume = finite_array(volume, name="volume", ndim=3)
    rotations = many_rotations(rotations)
    voxel = positive_number(voxel_size_angstrom, name="voxel_size_angstrom")
    if len(rotations) > MOST_DETECTORS:
        raise ValueError(
            f"rotations must contain at most {MOST_DETECTORS} orientations, got {len(rotations)}"
        )
    level = automatic_level(volume) if level is None else level
    vertices, triangles = surface_mesh(volume, level, voxel_size_angstrom=voxel, max_triangles=MOST_TRIANGLES)
    reach = float(np.linalg.norm(vertices, axis=1).max())
    size = 2 * (int(np.ceil(reach / voxel)) + 1)
    images = project(volume, rotations, image_size=size)

    fig = figure(height=620, margin={"l": 10, "r": 10, "t": 40, "b": 10}, legend={"x": 0, "y": 1})
    light = {"ambient": 0.4, "diffuse": 0.8, "specular": 0.15, "roughness": 0.6}
    look = {"opacity": 0.55, "lighting": light, "hovertemplate": None, "hoverinfo": "skip"}
    fig.add_trace(mesh(vertices, triangles, name="particle", **look))
    names, colours = _angle_names(rotations), named_colours(range(len(rotations)))
    for index, matrix in enumerate(rotations.as_matrix()):
        image, centre = _reduced(images[index], WIDEST_DETECTOR_PX), 1.5 * reach * matrix[2]
        pixel = voxel * size / len(image)
        detector = _plane_points(matrix, (np.arange(len(image)) - len(image) // 2) * pixel, origin=centre)
        fig.add_trace(
            _image_mesh(image, detector, name=f"image {index + 1}", hoverinfo="skip", reversescale=True)
        )
        style = {"mode": "lines", "legendgroup": str(index), "hoverinfo": "skip"}
        border = {"line": {"color": colours[index], "width": 6}, "name": names[index]}
        fig.add_scatter3d(**xyz(_border(detector)), **border, **style)
        # let rays end at pixels, and draw those that pass through the particle
        pixels = np.round(np.linspace(-0.95, 0.95, RAYS) * reach / pixel).astype(int)
        through = image[np.ix_(pixels + len(image) // 2, pixels + len(image) // 2)] > FAINT
        hits = _plane_points(matrix, pixels * pixel, origin=centre)[:, through]
        starts = hits - 2.8 * reach * matrix[2][:, None]
        rays = np.stack([starts, hits, np.full_like(hits, np.nan)], axis=2).reshape(3, -1)
        line = {"color": colours[index], "width": 2}
        fig.add_scatter3d(**xyz(rays), line=line, name=f"rays {index + 1}", showlegend=False, **style)
    for axis in "xyz":
        lowest = min(float(np.nanmin(t[axis])) for t in fig.data) - 0.05 * reach
        highest = max(float(np.nanmax(t[axis])) for t in fig.data) + 0.05 * reach
        options = {"title": {"text": f"{axis} (Å)"}, "range": [lowest, highest], "nticks": 5}
        fig.update_scenes({f"{axis}axis": options})
    eye = dict(zip("xyz", (2.2 * _oblique(viewing_directions(rotations))).tolist(), strict=True))
    return fig.update_scenes(aspectmode="data", camera={"eye": eye, "center": {"x": 0, "y": 0, "z": -0.1}})


def _angle_names(rotations: Rotation) -> list[str]:
    angles = to_relion_euler_deg(rotations)
    return [f"rot {rot:z.0f}°, tilt {tilt:z.0f}°, psi {psi:z.0f}°" for rot, tilt, psi in angles]


def _oblique(directions: np.ndarray) -> np.ndarray:
    """Return the unit vector whose angles to all (n, 3) directions are closest to 65 degrees, not too close to z or -z.

    From there, detectors in these directions are visible and do not hide the particle.
    """
    rot, tilt = np.deg2rad(np.meshgrid(np.arange(0, 360, 5), np.arange(30, 121, 5))).reshape(2, -1)
    eyes = np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], axis=1)
    return eyes[np.argmin(np.sum((eyes @ directions.T - np.cos(np.deg2rad(65))) ** 2, axis=1))]


def _spread_out(directions: np.ndarray) -> tuple[list[int], float]:
    """Select well-separated (n, 3) directions: return their indices and the smallest angle between two of them."""
    chosen, separation = [0], np.pi
    cosine = directions @ directions[0]
    while len(chosen) < MOST_IMAGES:
        farthest = int(np.argmin(cosine))
        angle = float(np.arccos(np.clip(cosine[farthest], -1, 1)))
        if angle < LEAST_SEPARATION:
            break
        chosen.append(farthest)
        separation = angle
        cosine = np.maximum(cosine, directions @ directions[farthest])
    return chosen, separation


def _reduced(image: np.ndarray, widest_px: int) -> np.ndarray:
    """Return a square image of at most ``widest_px`` pixels as uint8, from black (0) to white (255)."""
    if len(image) > widest_px:
        image = downsample(image[None], widest_px)[0]
    lowest, highest = np.percentile(image, [0.5, 99.5])
    return (255 * np.clip((image - lowest) / (highest - lowest or 1.0), 0, 1)).round().astype(np.uint8)


def _plane_points(matrix: np.ndarray, offsets: np.ndarray, *, origin: np.ndarray) -> np.ndarray:
    """Return the (3, y, x) points at these offsets along the x- and y-axes of an image plane through ``origin``."""
    y, x = np.meshgrid(offsets, offsets, indexing="ij")
    return origin[:, None, None] + matrix[0][:, None, None] * x + matrix[1][:, None, None] * y


def _image_mesh(image: np.ndarray, points: np.ndarray, **options) -> go.Mesh3d:
    """Return a mesh of (3, y, x) points, coloured by the pixels of an image."""
    return go.Mesh3d(
        **xyz(points.reshape(3, -1)),
        **grid_triangles(image.shape),
        intensity=image.ravel(),
        colorscale="gray",
        cmin=0,
        cmax=255,
        showscale=False,
        lighting={"ambient": 1, "diffuse": 0, "specular": 0},
        **options,
    )


def _border(points: np.ndarray) -> np.ndarray:
    """Return the outline of (3, y, x) points as one closed (3, m) line that ends in a gap."""
    sides = [points[:, 0, :-1], points[:, :-1, -1], points[:, -1, :0:-1], points[:, :, 0][:, ::-1]]
    return np.concatenate([*sides, np.full((3, 1), np.nan)], axis=1)


def fitted_optics(defocus_changes_angstrom: np.ndarray, scales: np.ndarray) -> go.Figure:
    """Plot histograms of the fitted defocus changes and scales of the images.

    Parameters
    ----------
    defocus_changes_angstrom : (n,) array
        Fitted minus stated underfocus of each image in angstrom.
    scales : (n,) array
        Fitted contrast of each image, relative to the average.

    Raises
    ------
    ValueError
        If an array is empty, not one-dimensional or not finite.
    """
    values = {
        "change of the defocus (Å)": finite_array(
            defocus_changes_angstrom, name="defocus_changes_angstrom", ndim=1
        ),
        "relative contrast": finite_array(scales, name="scales", ndim=1),
    }
    fig = panels(layout={"height": 340, "showlegend": False}, cols=2, horizontal_spacing=0.12)
    for column, (name, colour) in enumerate(named_colours(values).items(), start=1):
        counts, edges = np.histogram(values[name], bins=FIT_BINS)
        hover = "from %{x:.4g}: %{y} images<extra></extra>"
        fig.add_trace(histogram(edges, counts, name=name, colour=colour, hover=hover), row=1, col=column)
        fig.update_xaxes(title_text=name, row=1, col=column)
    return fig.update_yaxes(title_text="images", rangemode="tozero")
