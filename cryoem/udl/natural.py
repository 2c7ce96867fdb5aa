"""Pairs of natural images: crops of photographs, one turned and displaced against the other, with noise.

Both crops are read straight from the photograph, so that nothing at their borders is invented, and both are turned by
a random angle against it, so that neither is sharper than the other and the vertical of the photograph, which people,
horizon and trees give away in a single crop, tells nothing about the angle between the two.

The angle is that of ``rotation.rotate_images``: what is at (x, y) of ``first``, from pixel n // 2, is at
(x cos a - y sin a, x sin a + y cos a) plus the shift of ``second``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from cryoem.checks import finite_array, not_negative, positive_number, whole_number
from cryoem.udl.pictures import read_grey
from cryoem.udl.rotation import read_spline, to_coefficients, turned_back

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
NOISES = ("clean", "gaussian", "salt-and-pepper")
SMALLEST_PX = 8
MASK_EDGE = 0.1  # width of the mask's soft edge, of its radius
_SPLINE_REACH_PX = 2


@dataclass(frozen=True)
class NaturalPairs:
    """Pairs of crops and how the second lies against the first.

    ``first``, ``second`` (n, y, x) float32; ``angles_rad`` (n,) in [0, 2 pi), anticlockwise from ``first`` to
    ``second``; ``shifts_px`` (n, 2) displacement (x, y) of ``second`` after the rotation.
    """

    first: np.ndarray
    second: np.ndarray
    angles_rad: np.ndarray
    shifts_px: np.ndarray


def load_photographs(folder_or_paths: str | Path | Iterable[str | Path], *, size: int) -> list[np.ndarray]:
    """Photographs in shades of grey, at one scale.

    Parameters
    ----------
    folder_or_paths : a folder, of which all JPEG, PNG and TIFF files are read in the order of their names, or a list
        of files.
    size : the shorter side that every photograph is reduced to, pixels, filtered against aliasing.

    Returns
    -------
    List of (y, x) float32 in [0, 1], min(y, x) == size.

    Raises
    ------
    FileNotFoundError : the folder or a file is not there.
    ValueError : there are no photographs, or a file cannot be read, is not one grey or RGB picture, has values beyond
        [0, 1] as floating point, or is smaller than ``size``.
    """
    size = whole_number(size, name="size", at_least=SMALLEST_PX)
    return [_reduced(read_grey(path), size, path) for path in _photograph_paths(folder_or_paths)]


def natural_pairs(
    photographs: Sequence[np.ndarray],
    n: int,
    *,
    image_size: int,
    shift_limit_px: float = 0.0,
    noise: str = "clean",
    noise_level: float | None = None,
    magnification: tuple[float, float] = (1.0, 1.0),
    rng: np.random.Generator | int | None = None,
) -> NaturalPairs:
    """Random pairs of crops of photographs, chosen alike often.

    Each pair has a place, an orientation, a magnification and, half of the time, a mirror reflection of its own, which
    its two crops share; ``second`` is then turned by U[0, 2 pi) about pixel n // 2 and displaced.  Each crop gets
    noise of its own, and then passes into its mean grey level outside a circle with a soft edge.

    Parameters
    ----------
    photographs : (y, x) arrays, finite, of any sizes, in units that ``noise_level`` shares: [0, 1] from
        ``load_photographs``.
    n : number of pairs.
    image_size : side of the crops, pixels, at least 8.
    shift_limit_px : the displacement is U[-limit, limit] along x and along y.
    noise : ``"clean"``; ``"gaussian"``, of standard deviation ``noise_level``; or ``"salt-and-pepper"``, a fraction
        ``noise_level`` of the pixels being set to 0 or 1, as many to each.  Published (arXiv 2205.11829): a variance of
        10 times that of the crop, and a fraction of 0.4.
    noise_level : as above; None for ``"clean"``.
    magnification : lowest and highest, of a log-uniform draw; below 1 a pixel of the crop is a mean of several points.
    rng : generator or seed.

    Returns
    -------
    NaturalPairs; without noise its crops may leave the photographs' range a little, as a cubic spline does.

    Raises
    ------
    ValueError : a count, size, limit, level or range is not as stated, there are no photographs, or one is not a finite
        (y, x) array or too small to hold both circles wherever they may lie.
    """
    n = whole_number(n, name="n", at_least=1)
    image_size = whole_number(image_size, name="image_size", at_least=SMALLEST_PX)
    shift_limit_px = not_negative(shift_limit_px, name="shift_limit_px")
    _check_noise(noise, noise_level)
    low, high = _magnification_range(magnification)
    photographs = [
        finite_array(photograph, name=f"photographs[{i}]", ndim=2, dtype=np.float32)
        for i, photograph in enumerate(photographs)
    ]
    if not photographs:
        raise ValueError("photographs must be at least one, got none")
    radius = _radius(image_size)
    reach = radius + 1 + np.sqrt(2) * shift_limit_px
    _check_sizes(photographs, reach / low)

    rng = np.random.default_rng(rng)
    chosen = rng.integers(len(photographs), size=n)
    scale = np.exp(-rng.uniform(np.log(low), np.log(high), n))  # photograph pixels a crop pixel
    sizes_px = np.array([photograph.shape[::-1] for photograph in photographs])[chosen]  # (n, 2) x, y
    margin = (reach * scale + _SPLINE_REACH_PX)[:, None]
    centres = margin + rng.uniform(size=(n, 2)) * (sizes_px - 1 - 2 * margin)
    base, angles = rng.uniform(0, 2 * np.pi, (2, n))
    mirror = np.stack([rng.choice([-1.0, 1.0], n), np.ones(n)], -1)
    shifts = rng.uniform(-shift_limit_px, shift_limit_px, (n, 2))

    # photograph = centre + to_photograph @ first, first = back @ (second - shift)
    to_photograph = (scale[:, None] * mirror)[:, :, None] * turned_back(base)
    second_to_photograph = to_photograph @ turned_back(angles)
    second_centres = centres - np.einsum("nij,nj->ni", second_to_photograph, shifts)

    splines = _Splines(photographs, chosen)
    first = splines.crops(to_photograph, centres, scale, image_size, radius)
    second = splines.crops(second_to_photograph, second_centres, scale, image_size, radius)
    mask = crop_mask(image_size)
    for crops in (first, second):
        _add_noise(crops, noise, noise_level, rng)
        _apply_mask(crops, mask)
    return NaturalPairs(first, second, angles, shifts)


def published_noise_level(photographs: Sequence[np.ndarray], noise: str, **options) -> float | None:
    """What arXiv 2205.11829 takes for ``noise_level``: 40 % of the pixels, or a variance of 10 times that of the crops.

    The variance is the mean of that of 512 clean crops; ``options`` are those of ``natural_pairs``, of which
    ``image_size`` is needed.  None for ``"clean"``.
    """
    if noise == "clean":
        return None
    if noise == "salt-and-pepper":
        return 0.4
    crops = natural_pairs(photographs, 512, rng=0, **options).first
    return float(np.sqrt(10 * crops.var(axis=(1, 2)).mean()))


def crop_mask(image_size: int) -> np.ndarray:
    """(image_size, image_size) float32: 1 about pixel n // 2, falling as a squared sine to 0 at the border."""
    axis = np.arange(image_size) - image_size // 2
    radius = _radius(image_size)
    depth = np.clip((radius - np.hypot(axis[:, None], axis)) / (MASK_EDGE * radius), 0, 1)
    return (np.sin(np.pi / 2 * depth) ** 2).astype(np.float32)


def _radius(image_size: int) -> int:
    """Of the largest circle about pixel n // 2 that the image holds, pixels."""
    return (image_size - 1) // 2


def _photograph_paths(folder_or_paths) -> list[Path]:
    """The files to read, at least one."""
    if not isinstance(folder_or_paths, str | Path):
        paths = [Path(path) for path in folder_or_paths]
        if not paths:
            raise ValueError("folder_or_paths must be a folder or at least one file, got an empty list")
        return paths
    folder = Path(folder_or_paths)
    if not folder.exists():
        raise FileNotFoundError(f"no folder of photographs at {folder}")
    if not folder.is_dir():
        raise ValueError(f"folder_or_paths must be a folder or a list of files, got the file {folder}")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
    if not paths:
        raise ValueError(f"{folder} must hold photographs ({', '.join(SUFFIXES)}), got none")
    return paths


def _reduced(grey: np.ndarray, size: int, path: Path) -> np.ndarray:
    """A photograph whose shorter side is ``size``."""
    import skimage.transform

    height, width = grey.shape
    if min(grey.shape) < size:
        raise ValueError(f"{path} must be at least {size} px on both sides, got {width} x {height}")
    shape = [round(side * size / min(grey.shape)) for side in grey.shape]
    reduced = skimage.transform.resize(grey, shape, anti_aliasing=True)
    return np.clip(reduced, 0, 1).astype(np.float32)


def _check_noise(noise: str, noise_level: float | None):
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
    if noise == "clean":
        if noise_level is not None:
            raise ValueError(f"noise_level must be None for clean images, got {noise_level}")
        return
    positive_number(noise_level, name="noise_level")
    if noise == "salt-and-pepper" and noise_level > 1:
        raise ValueError(f"noise_level must be a fraction of the pixels, at most 1, got {noise_level}")


def _magnification_range(magnification: tuple[float, float]) -> tuple[float, float]:
    """Lowest and highest magnification, if they are such."""
    values = finite_array(magnification, name="magnification", ndim=1, dtype=float)
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise ValueError(f"magnification must be a lowest and a highest positive number, got {magnification}")
    return float(values[0]), float(values[1])


def _check_sizes(photographs: list[np.ndarray], reach_px: float):
    """Both circles of a pair fit into every photograph, at the lowest magnification and the largest shift."""
    needed = int(np.ceil(2 * (reach_px + _SPLINE_REACH_PX))) + 1
    for i, photograph in enumerate(photographs):
        if min(photograph.shape) < needed:
            height, width = photograph.shape
            raise ValueError(
                f"photographs[{i}] must be at least {needed} px on both sides for crops of this size, shift and "
                f"magnification, got {width} x {height}"
            )


class _Splines:
    """Spline coefficients of the photographs that n crops are read from, end to end in one array."""

    def __init__(self, photographs: list[np.ndarray], chosen: np.ndarray):
        used, self._index = np.unique(chosen, return_inverse=True)
        self._shapes = np.array([photographs[i].shape for i in used])
        ends = np.cumsum(self._shapes.prod(axis=1))
        self._starts = ends - self._shapes.prod(axis=1)
        self._values = np.empty(ends[-1], np.float32)
        for i, start, end in zip(used, self._starts, ends, strict=True):
            self._values[start:end] = to_coefficients(photographs[i]).ravel()

    def crops(self, matrices, centres, scale, image_size: int, radius: int) -> np.ndarray:
        """(n, y, x) float32: the photographs at ``centres + matrices @ (x, y)``, (x, y) counted from pixel n // 2.

        Crop pixels larger than those of the photograph are means over their area; from ``radius`` on all is zero.
        """
        crops = np.empty((len(centres), image_size, image_size), np.float32)
        points = np.ceil(scale - 1e-9).astype(int)  # along a side of the pixel
        _read_crops(
            self._values, self._starts, self._shapes, self._index, matrices, centres, points, radius, crops
        )
        return crops


@numba.njit(parallel=True, fastmath=True, cache=True)
def _read_crops(values, starts, shapes, index, matrices, centres, points, radius, crops):
    n, size = crops.shape[0], crops.shape[1]
    origin = size // 2
    for i in numba.prange(n):
        p = index[i]
        height, width = shapes[p]
        grid = values[starts[p] : starts[p] + height * width].reshape(height, width)
        m, k = matrices[i], points[i]
        for row in range(size):
            for column in range(size):
                total = np.float32(0)
                if (row - origin) ** 2 + (column - origin) ** 2 < radius**2:
                    for a in range(k):
                        v = row - origin + (a + 0.5) / k - 0.5
                        for b in range(k):
                            u = column - origin + (b + 0.5) / k - 0.5
                            x = m[0, 0] * u + m[0, 1] * v + centres[i, 0]
                            y = m[1, 0] * u + m[1, 1] * v + centres[i, 1]
                            total += read_spline(grid, x, y)
                crops[i, row, column] = total / np.float32(k * k)


def _add_noise(crops: np.ndarray, noise: str, level: float | None, rng: np.random.Generator):
    """Noise of its own for every pixel of (n, y, x) crops, in place."""
    if noise == "gaussian":
        for crop in crops:  # one at a time keeps the noise in the cache
            crop += np.float32(level) * rng.standard_normal(crop.shape, dtype=np.float32)
    elif noise == "salt-and-pepper":
        for crop in crops:
            draw = rng.random(crop.shape, dtype=np.float32)
            crop[draw < level / 2] = 0
            crop[draw >= 1 - level / 2] = 1


def _apply_mask(crops: np.ndarray, mask: np.ndarray):
    """Let (n, y, x) crops pass into their mean under the mask, in place."""
    mean = np.einsum("nyx,yx->n", crops, mask) / mask.sum()
    crops -= mean[:, None, None]
    crops *= mask
    crops += mean[:, None, None]
