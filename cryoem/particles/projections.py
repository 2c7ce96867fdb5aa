"""Read simulated projections from HDF5 and MATLAB files, in the conventions of this project.

The generator of arXiv 2104.06237 writes two arrays to ``.h5`` and ``.mat`` files: ``Projections`` (n, y, x) and
``Angles`` (n, 3), Euler angles in radians. MATLAB files of version 7.3 are HDF5 files with the axes in reverse order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.files.reading import first_line
from cryoem.particles.columns import Columns
from cryoem.particles.mrc import StackedImages, finite_images
from cryoem.rotations import from_relion_euler_deg

if TYPE_CHECKING:
    import pandas as pd

IMAGES, ANGLES = "Projections", "Angles"
EULER = tuple(f"{ANGLES}/{k}" for k in range(3))


@dataclass(frozen=True, eq=False)
class ProjectionArray:
    """The array of projections in a file: (n, y, x), or (x, y, n) if ``reverse``.

    ``values`` is the array of a MATLAB file before version 7.3, which can only be read as a whole; None for HDF5.
    """

    path: Path
    n_images: int
    image_size: int
    reverse: bool
    values: np.ndarray | None

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Read the images with the given numbers, counted from 0: (k, y, x) float32, finite."""
        if self.values is not None:
            images = self.values[numbers].astype(np.float32)
        else:
            images = np.empty((len(numbers), self.image_size, self.image_size), np.float32)
            runs = np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1)
            for run in runs:
                part = slice(int(numbers[run[0]]), int(numbers[run[-1]]) + 1)
                images[run] = _hdf5(self.path, lambda file, part=part: self._read_run(file, part))
        return finite_images(images, numbers, self.path)

    def _read_run(self, file: h5py.File, part: slice) -> np.ndarray:
        return file[IMAGES][:, :, part].T if self.reverse else file[IMAGES][part]


def open_projections(path: Path) -> tuple[list[str], pd.DataFrame, StackedImages]:
    """Open a file of projections; return the names of its images, a table of its Euler angles, and the images."""
    import pandas as pd

    if h5py.is_hdf5(path):
        values, (shape, kind, angles) = None, _hdf5(path, _described)
        reverse = _is_reversed(path, angles)
        if reverse:
            shape, angles = shape[::-1], angles.T
    elif path.suffix.lower() == ".mat":
        arrays = _matlab(path)
        values, angles, reverse = arrays[IMAGES], arrays[ANGLES], False
        shape, kind = values.shape, values.dtype.kind
    else:
        raise ValueError(f"{path} is not an HDF5 file, or is truncated")
    if len(shape) != 3 or 0 in shape or kind not in "biuf":
        raise ValueError(f"{path}: {IMAGES} must be real (n, y, x) images, got shape {shape}")
    n, height, width = map(int, shape)
    if height != width:
        raise ValueError(f"{path} must contain square images, got {width} x {height} px")
    if angles.shape != (n, 3) or angles.dtype.kind not in "biuf":
        raise ValueError(f"{path}: {ANGLES} must be real numbers of shape ({n}, 3), got shape {angles.shape}")
    stack = ProjectionArray(path, n, width, reverse, values)
    names = [f"{number:06d}@{path}" for number in range(1, n + 1)]
    images = StackedImages((stack,), np.zeros(n, int), np.arange(n))
    return names, pd.DataFrame(np.asarray(angles, float), columns=EULER), images


def _described(file: h5py.File) -> tuple[tuple[int, ...], str, np.ndarray]:
    """Return the shape and kind of the projections, and the angles."""
    images, angles = (_member(file, name) for name in (IMAGES, ANGLES))
    if math.prod(angles.shape) > math.prod(images.shape):
        raise ValueError(f"{ANGLES} of shape {angles.shape} does not fit {IMAGES} of shape {images.shape}")
    return images.shape, images.dtype.kind, np.asarray(angles[()])


def _member(arrays: Mapping, name: str):
    if name not in arrays or not hasattr(arrays[name], "shape"):
        found = ", ".join(key for key in arrays if not key.startswith("_")) or "none"
        raise ValueError(f"it must have an array {name}, got {found}")
    return arrays[name]


def _is_reversed(path: Path, angles: np.ndarray) -> bool:
    """Return whether the axes are in MATLAB's order; the suffix decides for three images."""
    if angles.shape == (3, 3):
        return path.suffix.lower() == ".mat"
    return angles.ndim == 2 and angles.shape[0] == 3


def _hdf5(path: Path, read: Callable):
    """Return the result of ``read(file)``."""
    try:
        with h5py.File(path, "r") as file:
            return read(file)
    except Exception as error:  # h5py raises exceptions of many kinds
        raise ValueError(f"{path} cannot be read as a file of projections: {first_line(error)}") from None


def _matlab(path: Path) -> dict[str, np.ndarray]:
    """Read the two arrays of a MATLAB file before version 7.3."""
    import scipy.io

    try:
        arrays = scipy.io.loadmat(path, variable_names=[IMAGES, ANGLES], appendmat=False)
        return {name: np.asarray(_member(arrays, name)) for name in (IMAGES, ANGLES)}
    except Exception as error:  # SciPy raises exceptions of many kinds
        raise ValueError(f"{path} cannot be read as a file of projections: {first_line(error)}") from None


# --- the columns, as in the modules of the programs


def pixel_sizes(columns: Columns) -> dict[str, np.ndarray]:
    """Return an empty dictionary: these files have no pixel size."""
    return {}


def rotations(columns: Columns) -> Rotation:
    """Return the orientations, R = Rz(theta3) Ry(theta2) Rz(theta1) with right-handed elementary rotations.

    RELION's angles (rot, tilt, psi) of this rotation are minus (theta1, theta2, theta3).
    """
    return from_relion_euler_deg(-np.rad2deg(columns.stacked(EULER)))


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> None:
    """Return None: these files have no shifts."""


def contrast(columns: Columns) -> None:
    """Return None: these files have no contrast transfer."""
