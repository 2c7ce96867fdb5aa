"""Read a training folder: images of one class in ``one_png/``, and their true poses in ``parameters.txt``.

Each line of ``parameters.txt`` has four values, separated by blanks: the image (its file name, with or without
``.png``, or the number in its file name), the rotation in degrees, and the shift along x and along y in pixels. The
particle is rotated anticlockwise, from x (columns) towards y (rows), and then displaced towards larger coordinates.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.files.pictures import read_grey
from cryoem.particles.columns import Columns
from cryoem.particles.mrc import StackedImages
from cryoem.rotations import from_relion_euler_deg

if TYPE_CHECKING:
    import pandas as pd

PICTURES, PARAMETERS = "one_png", "parameters.txt"
ROTATION, SHIFT = "rotation_deg", ("shift_x_px", "shift_y_px")


@dataclass(frozen=True, eq=False)
class PictureFolder:
    """The PNG files of a folder as one stack of square images."""

    path: Path
    pictures: tuple[Path, ...]
    image_size: int

    @property
    def n_images(self) -> int:
        return len(self.pictures)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Read the images with the given numbers, counted from 0: (k, y, x) float32, grey levels in [0, 1]."""
        images = np.empty((len(numbers), self.image_size, self.image_size), np.float32)
        for image, number in zip(images, numbers, strict=True):
            grey = read_grey(self.pictures[number])
            if grey.shape != image.shape:
                raise ValueError(
                    f"{self.pictures[number]} must be {self.image_size} px wide and high, as is "
                    f"{self.pictures[0].name}, got {grey.shape[1]} x {grey.shape[0]} px"
                )
            image[:] = grey
        return images


def open_training_folder(folder: Path) -> tuple[list[str], pd.DataFrame, StackedImages]:
    """Open a training folder; return the names of its images, a table of their poses, and the images.

    Images are sorted by the numbers in their names. Without ``parameters.txt``, the table has no poses.
    """
    import pandas as pd

    place = folder / PICTURES
    if not place.is_dir():
        raise ValueError(f"{folder} is a folder without {PICTURES}/, so it is not a training folder")
    pictures = [path for path in place.iterdir() if path.suffix.lower() == ".png" and path.is_file()]
    if not pictures:
        raise ValueError(f"{place} contains no PNG images")
    pictures.sort(key=_with_numbers)
    first = read_grey(pictures[0])
    if first.shape[0] != first.shape[1]:
        raise ValueError(f"{pictures[0]} must be square, got {first.shape[1]} x {first.shape[0]} px")
    numbers = np.arange(len(pictures))
    images = StackedImages((PictureFolder(place, tuple(pictures), len(first)),), 0 * numbers, numbers)
    table = pd.DataFrame({"image": [path.name for path in pictures]})
    if (folder / PARAMETERS).exists():
        table[[ROTATION, *SHIFT]] = _parameters(folder / PARAMETERS, pictures)
    return [f"{number:06d}@{place}" for number in numbers + 1], table, images


def _parameters(path: Path, pictures: list[Path]) -> np.ndarray:
    """Read (n, 3) rotations and shifts, in the order of the pictures."""
    index_of = {_key(picture.name): index for index, picture in enumerate(pictures)}
    values = np.full((len(pictures), 3), np.nan)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *rest = line.split()
        try:
            pose = [float(value) for value in rest]
        except ValueError:
            pose = []
        if len(pose) != 3 or not all(map(math.isfinite, pose)):
            raise ValueError(
                f"{path}: line {number} must contain an image, a rotation in degrees and two shifts in pixels, "
                f"got {line.strip()!r:.80}"
            )
        index = index_of.get(_key(name))
        if index is None:
            raise ValueError(f"{path}: line {number} is about {name:.80}, which is not in {PICTURES}/")
        if not np.isnan(values[index, 0]):
            raise ValueError(f"{path}: line {number} is the second one about {name}")
        values[index] = pose
    missing = np.isnan(values[:, 0])
    if missing.any():
        raise ValueError(f"{path} has no line about {pictures[int(np.argmax(missing))].name}")
    return values


def _with_numbers(path: Path) -> list:
    """Sort key that compares the numbers in file names as numbers."""
    parts = re.split(r"(\d+)", path.name)  # every other part is a number
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _key(name: str) -> str:
    """Return a file name without its suffix, and a number without leading zeros."""
    stem = re.sub(r"\.png$", "", name, flags=re.IGNORECASE)
    return str(int(stem)) if stem.isdecimal() else stem


# --- the columns, as in the modules of the programs


def pixel_sizes(columns: Columns) -> dict[str, np.ndarray]:
    """Return an empty dictionary: a training folder has no pixel size."""
    return {}


def rotations(columns: Columns) -> Rotation | None:
    """Return the rotations in the plane; None without ``parameters.txt``."""
    if ROTATION not in columns:
        return None
    psi = -columns.numbers(ROTATION)
    return from_relion_euler_deg(np.stack([0 * psi, 0 * psi, psi], axis=1))


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Return the displacement (x, y) of each particle, (n, 2); None without ``parameters.txt``."""
    return columns.stacked(SHIFT) if columns.has_any(SHIFT) else None


def contrast(columns: Columns) -> None:
    """Return None: a training folder has no contrast transfer."""
