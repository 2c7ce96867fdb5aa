"""Photographs, and pairs of their crops, one rotated and displaced relative to the other, with noise.

Both crops are read directly from the photograph, so that no border is invented. Both are rotated by a random angle
relative to it, so that neither is sharper than the other. The vertical of the photograph, which people, horizon and
trees show in a single crop, then contains no information on the angle between the two.

The angle is that of ``rotation.rotate_images``: the content at (x, y) of ``first``, from pixel n // 2, is at
(x cos a - y sin a, x sin a + y cos a) plus the shift in ``second``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from cryoem.files.reading import first_line
from cryoem.images import circular_mask
from cryoem.udl.rotation import inverse_matrices, read_spline, to_coefficients
from cryoem.validation import finite_array, not_negative, positive_number, whole_number

PNG = b"\x89PNG"
SIGNATURES = (b"\xff\xd8\xff", PNG, b"II*\0", b"MM\0*")  # JPEG, PNG, TIFF of either byte order
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
NOISES = ("clean", "gaussian", "salt-and-pepper")
SMALLEST_PX = 8
MASK_EDGE = 0.1  # width of the mask's soft edge, relative to its radius
_SPLINE_REACH_PX = 2


def load_photographs(folder_or_paths: str | Path | Iterable[str | Path], *, size: int) -> list[np.ndarray]:
    """Read photographs in shades of grey and reduce them to one scale.

    Parameters
    ----------
    folder_or_paths : path-like or list of path-like
        A folder, whose JPEG, PNG and TIFF files are read in the order of their names, or a list of files.
    size : int
        Shorter side of the reduced photographs, pixels; filtered against aliasing.

    Returns
    -------
    list of (y, x) float32 array
        Values in [0, 1]; min(y, x) == size.

    Raises
    ------
    FileNotFoundError
        If the folder or a file does not exist.
    ValueError
        If there are no photographs, or a file is not one grey or RGB picture with values in [0, 1], or too small.
    """
    import skimage.transform

    size = whole_number(size, name="size", at_least=SMALLEST_PX)
    if isinstance(folder_or_paths, str | Path):
        folder = Path(folder_or_paths)
        if not folder.is_dir():
            raise FileNotFoundError(f"folder of photographs {folder} does not exist")
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
    else:
        folder, paths = "folder_or_paths", [Path(path) for path in folder_or_paths]
    if not paths:
        raise ValueError(f"{folder} must contain photographs ({', '.join(SUFFIXES)}), got none")
    photographs = []
    for path in paths:
        grey = read_grey(path)
        height, width = grey.shape
        if min(grey.shape) < size:
            raise ValueError(f"{path} must be at least {size} px on both sides, got {width} x {height}")
        shape = [round(side * size / min(grey.shape)) for side in grey.shape]
        reduced = skimage.transform.resize(grey, shape, anti_aliasing=True)
        photographs.append(np.clip(reduced, 0, 1).astype(np.float32))
    return photographs


def read_grey(path: Path) -> np.ndarray:
    """Read a picture file as (y, x) float32 in [0, 1]; colours become luminance, the opacity of a PNG is ignored."""
    import skimage.color
    import skimage.io
    import skimage.util

    if not path.is_file():
        raise FileNotFoundError(f"picture {path} does not exist")
    with path.open("rb") as file:  # closed even if the reader fails
        start = file.read(4)
        if not start.startswith(SIGNATURES):  # scikit-image would try all of its readers
            raise ValueError(f"{path} must be a JPEG, PNG or TIFF file, got one that starts with {start!r}")
        file.seek(0)
        by_name = start.startswith((b"II", b"MM"))  # scikit-image recognises TIFF files by their names
        try:
            pixels = np.asarray(skimage.io.imread(path if by_name else file))
        except Exception as error:  # every reader raises different exceptions
            raise ValueError(f"{path} cannot be read as a picture: {first_line(error)}") from error
    if start == PNG and pixels.ndim == 3:  # ignore the opacity; elsewhere a fourth channel may be ink
        pixels = {2: pixels[..., 0], 4: pixels[..., :3]}.get(pixels.shape[2], pixels)
    if not (pixels.size and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3))):
        raise ValueError(f"{path} must be one grey or RGB picture, got an array of shape {pixels.shape}")
    if not (pixels.dtype in (bool, np.uint8, np.uint16) or np.issubdtype(pixels.dtype, np.floating)):
        raise ValueError(f"{path} must have 8-bit, 16-bit or floating-point grey levels, got {pixels.dtype}")
    pixels = skimage.util.img_as_float32(pixels)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"{path} must have values in [0, 1], got {pixels.min():.6g} to {pixels.max():.6g}")
    return pixels if pixels.ndim == 2 else skimage.color.rgb2gray(pixels)


# --- pairs of crops


@dataclass(frozen=True)
class NaturalPairs:
    """Pairs of crops, and the pose of the second relative to the first.

    Parameters
    ----------
    first, second : (n, y, x) float32 array
    angles_rad : (n,) array
        Rotation in [0, 2 pi), anticlockwise.
    shifts_px : (n, 2) array
        Displacement (x, y) after the rotation.
    """

    first: np.ndarray
    second: np.ndarray
    angles_rad: np.ndarray
    shifts_px: np.ndarray


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
    """Draw random pairs of crops of photographs.

    The two crops of a pair share a random photograph, place, orientation, magnification and, half of the time, a mirror
    reflection. ``second`` is then rotated by U[0, 2 pi) about pixel n // 2 and displaced. Independent noise is added
    to each crop. Outside a circle with a soft edge it is set to its mean grey level.

    Parameters
    ----------
    photographs : list of (y, x) array
        Finite arrays of any sizes, in the units of ``noise_level``: [0, 1] from ``load_photographs``.
    n : int
    image_size : int
        Side of the crops, pixels, at least 8.
    shift_limit_px : float
        The displacement is U[-limit, limit] along x and along y.
    noise : str
        ``"clean"``; ``"gaussian"``, of standard deviation ``noise_level``; or ``"salt-and-pepper"``: a fraction
        ``noise_level`` of the pixels is set to 0 or 1 with equal probability.
    noise_level : float, optional
        None for ``"clean"``; see ``published_noise_level``.
    magnification : (float, float)
        Limits of a log-uniform draw; below 1 a pixel of the crop is a mean of several points.
    rng : numpy.random.Generator or int

    Returns
    -------
    NaturalPairs
        Crops without noise may exceed the range of the photographs slightly, as a cubic spline does.

    Raises
    ------
    ValueError
        If a value is out of range, there are no photographs, or one is not a finite (y, x) array or too small.
    """
    n = whole_number(n, name="n", at_least=1)
    image_size = whole_number(image_size, name="image_size", at_least=SMALLEST_PX)
    shift_limit_px = not_negative(shift_limit_px, name="shift_limit_px")
    _check_noise(noise, noise_level)
    limits = finite_array(magnification, name="magnification", ndim=1, dtype=float)
    if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
        raise ValueError(f"magnification must be two positive numbers, lowest first, got {magnification}")
    low, high = limits
    photographs = [
        finite_array(photograph, name=f"photographs[{i}]", ndim=2, dtype=np.float32)
        for i, photograph in enumerate(photographs)
    ]
    if not photographs:
        raise ValueError("photographs must not be empty")
    reach = _radius(image_size) + 1 + np.sqrt(2) * shift_limit_px
    # both circles of a pair must fit into every photograph, at any magnification and shift
    needed = int(np.ceil(2 * (reach / low + _SPLINE_REACH_PX))) + 1
    for i, photograph in enumerate(photographs):
        if min(photograph.shape) < needed:
            height, width = photograph.shape
            raise ValueError(
                f"photographs[{i}] must be at least {needed} px on both sides for crops of this size, shift and "
                f"magnification, got {width} x {height}"
            )

    rng = np.random.default_rng(rng)
    chosen = rng.integers(len(photographs), size=n)
    scale = np.exp(-rng.uniform(np.log(low), np.log(high), n))  # photograph pixels per crop pixel
    sizes_px = np.array([photograph.shape[::-1] for photograph in photographs])[chosen]  # (n, 2) x, y
    margin = (reach * scale + _SPLINE_REACH_PX)[:, None]
    centres = margin + rng.uniform(size=(n, 2)) * (sizes_px - 1 - 2 * margin)
    base, angles = rng.uniform(0, 2 * np.pi, (2, n))
    mirror = np.stack([rng.choice([-1.0, 1.0], n), np.ones(n)], -1)
    shifts = rng.uniform(-shift_limit_px, shift_limit_px, (n, 2))

    # photograph = centre + to_photograph @ first, first = back @ (second - shift)
    to_photograph = (scale[:, None] * mirror)[:, :, None] * inverse_matrices(base)
    second_to_photograph = to_photograph @ inverse_matrices(angles)
    second_centres = centres - np.einsum("nij,nj->ni", second_to_photograph, shifts)

    splines = _splines(photographs, chosen)
    first = _crops(splines, to_photograph, centres, scale, image_size)
    second = _crops(splines, second_to_photograph, second_centres, scale, image_size)
    mask = crop_mask(image_size)
    for crops in (first, second):
        _add_noise(crops, noise, noise_level, rng)
        # replace the outside of the mask by the mean inside it
        mean = np.einsum("nyx,yx->n", crops, mask) / mask.sum()
        crops -= mean[:, None, None]
        crops *= mask
        crops += mean[:, None, None]
    return NaturalPairs(first, second, angles, shifts)


def published_noise_level(photographs: Sequence[np.ndarray], noise: str, **options) -> float | None:
    """Return the ``noise_level`` of arXiv 2205.11829: 40 % of the pixels, or 10 times the variance of the crops.

    The variance is the mean over 512 clean crops with the ``options`` of ``natural_pairs``. None for ``"clean"``.
    """
    if noise == "clean":
        return None
    if noise == "salt-and-pepper":
        return 0.4
    crops = natural_pairs(photographs, 512, rng=0, **options).first
    return float(np.sqrt(10 * crops.var(axis=(1, 2)).mean()))


def crop_mask(image_size: int) -> np.ndarray:
    """Mask of crops, (image_size, image_size) float32: 1 about pixel n // 2, a squared sine at the edge, 0 outside."""
    return circular_mask(image_size, edge_px=MASK_EDGE * _radius(image_size), profile="cosine")


def _radius(image_size: int) -> int:
    """Radius of the largest circle about pixel n // 2 inside the image, pixels."""
    return (image_size - 1) // 2


def _check_noise(noise: str, noise_level: float | None) -> None:
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
    if noise == "clean":
        if noise_level is not None:
            raise ValueError(f"noise_level must be None for clean images, got {noise_level}")
        return
    positive_number(noise_level, name="noise_level")
    if noise == "salt-and-pepper" and noise_level > 1:
        raise ValueError(f"noise_level must be a fraction of the pixels, at most 1, got {noise_level}")


def _splines(photographs: list[np.ndarray], chosen: np.ndarray) -> tuple[np.ndarray, ...]:
    """Coefficients of the photographs of n crops, one after another; their starts and shapes; each crop's index."""
    used, index = np.unique(chosen, return_inverse=True)
    coefficients = [to_coefficients(photographs[i]) for i in used]
    starts = np.cumsum([0, *(c.size for c in coefficients[:-1])])
    shapes = np.array([c.shape for c in coefficients])
    return np.concatenate([c.ravel() for c in coefficients]), starts, shapes, index


def _crops(splines, matrices, centres, scale, image_size: int) -> np.ndarray:
    """Read the photographs at ``centres + matrices @ (x, y)``, (x, y) relative to pixel n // 2: (n, y, x) float32.

    Crop pixels larger than photograph pixels are means over their area; outside the largest circle the result is 0.
    """
    crops = np.empty((len(centres), image_size, image_size), np.float32)
    points = np.ceil(scale - 1e-9).astype(int)  # along a side of a crop pixel
    _read_crops(*splines, matrices, centres, points, _radius(image_size), crops)
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
    """Add independent noise to every pixel of (n, y, x) crops, in place."""
    if noise == "gaussian":
        for crop in crops:  # one at a time keeps the noise in the cache
            crop += np.float32(level) * rng.standard_normal(crop.shape, dtype=np.float32)
    elif noise == "salt-and-pepper":
        for crop in crops:
            draw = rng.random(crop.shape, dtype=np.float32)
            crop[draw < level / 2] = 0
            crop[draw >= 1 - level / 2] = 1
