"""Photographs, and pairs of noisy crops from them, one rotated and displaced relative to the other.

Both crops are sampled directly from the photograph, so neither needs artificial borders. Both are rotated by a random
angle relative to the photograph, so that neither is sharper than the other. A single crop therefore also reveals
nothing about the angle between the two, although people, horizons and trees show which way is up in the photograph.

The angle follows the convention of ``rotation.rotate_images``: relative to pixel n // 2, the content at (x, y) in
``first`` is at (x cos a - y sin a, x sin a + y cos a) plus the shift in ``second``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoem.files.pictures import read_grey
from cryoem.images import circular_mask
from cryoem.udl.rotation import inverse_matrices, read_crops, to_coefficients
from cryoem.validation import finite_array, not_negative, positive_number, whole_number

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
NOISES = ("clean", "gaussian", "salt-and-pepper")
SMALLEST_PX = 8
MASK_EDGE = 0.1  # width of the mask's soft edge, relative to its radius
_SPLINE_REACH_PX = 2


def load_photographs(folder_or_paths: str | Path | Iterable[str | Path], *, size: int) -> list[np.ndarray]:
    """Read photographs, convert them to greyscale, and scale them down so that all shorter sides have the same length.

    Parameters
    ----------
    folder_or_paths : path-like or list of path-like
        A folder, whose JPEG, PNG and TIFF files are read in alphabetical order, or a list of files.
    size : int
        Length of the shorter side in pixels after scaling.

    Returns
    -------
    list of (y, x) float32 array
        Values in [0, 1]; the shorter side of each array is ``size``.

    Raises
    ------
    FileNotFoundError
        If the folder or a file does not exist.
    ValueError
        If there are no photographs, or if any file is too small, is not a single greyscale or RGB picture, or contains
        floating-point values outside [0, 1].
    """
    import skimage.transform

    size = whole_number(size, name="size", at_least=SMALLEST_PX)
    if isinstance(folder_or_paths, str | Path):
        folder = Path(folder_or_paths)
        if not folder.is_dir():
            raise FileNotFoundError(f"photograph folder {folder} does not exist")
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
    else:
        folder, paths = "folder_or_paths", [Path(path) for path in folder_or_paths]
    if not paths:
        raise ValueError(f"{folder} contains no photographs ({', '.join(SUFFIXES)})")
    photographs = []
    for path in paths:
        grey = read_grey(path)
        height, width = grey.shape
        if min(grey.shape) < size:
            raise ValueError(f"{path} is {width} x {height} px, but both sides must be at least {size} px")
        shape = [round(side * size / min(grey.shape)) for side in grey.shape]
        reduced = skimage.transform.resize(grey, shape, anti_aliasing=True)
        photographs.append(np.clip(reduced, 0, 1).astype(np.float32))
    return photographs


# --- pairs of crops


@dataclass(frozen=True)
class NaturalPairs:
    """Pairs of crops, with the pose of each second crop relative to the first.

    Parameters
    ----------
    first, second : (n, y, x) float32 array
        First and second crop of each pair.
    angles_rad : (n,) array
        Anticlockwise rotations from the first to the second crop, in [0, 2 pi).
    shifts_px : (n, 2) array
        Displacements (x, y) after the rotation.
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
    """Draw random pairs of crops from photographs.

    Both crops of a pair are taken at the same random position in a random photograph and have the same random
    orientation and magnification. In about half of the pairs, both crops are mirrored. The second crop is also rotated
    about pixel n // 2 by an angle drawn from U[0, 2 pi), and then displaced. Independent noise is added to each crop.
    The area outside a circle with a soft edge is set to the mean grey level inside the circle.

    Parameters
    ----------
    photographs : list of (y, x) array
        Photographs, which may differ in size. Their grey levels have the same unit as ``noise_level``;
        ``load_photographs`` returns values in [0, 1].
    n : int
        Number of pairs.
    image_size : int
        Side length of the crops in pixels, at least 8.
    shift_limit_px : float
        Limit of the displacement in pixels; its x and y components are drawn from U[-limit, limit]. Default: 0.
    noise : str
        Type of noise. ``"clean"`` adds no noise, ``"gaussian"`` adds noise with standard deviation ``noise_level``, and
        ``"salt-and-pepper"`` sets a fraction ``noise_level`` of the pixels to 0 or 1 with equal probability. Default:
        ``"clean"``.
    noise_level : float, optional
        Strength of the noise; must be None for ``"clean"``. See ``published_noise_level``.
    magnification : (float, float)
        Lowest and highest magnification, between which the magnification is drawn log-uniformly. At magnifications
        below 1, each pixel of a crop is the mean of several points in the photograph. Default: (1, 1).
    rng : numpy.random.Generator or int
        Random number generator or seed.

    Returns
    -------
    NaturalPairs
        Crops and poses. Crops without noise may slightly exceed the range of the photographs, because cubic splines
        overshoot.

    Raises
    ------
    ValueError
        If a value is out of range; if there are no photographs; or if any photograph is too small, is not a (y, x)
        array, or contains NaN or infinity.
    """
    n = whole_number(n, name="n", at_least=1)
    image_size = whole_number(image_size, name="image_size", at_least=SMALLEST_PX)
    shift_limit_px = not_negative(shift_limit_px, name="shift_limit_px")
    _check_noise(noise, noise_level)
    limits = finite_array(magnification, name="magnification", ndim=1, dtype=float)
    if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
        raise ValueError(
            f"magnification must be two positive numbers, the lower one first, got {magnification}"
        )
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
                f"photographs[{i}] must be at least {needed} px on both sides for this image_size, shift_limit_px and "
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
        # replace values outside the mask by the mean inside it
        mean = np.einsum("nyx,yx->n", crops, mask) / mask.sum()
        crops -= mean[:, None, None]
        crops *= mask
        crops += mean[:, None, None]
    return NaturalPairs(first, second, angles, shifts)


def published_noise_level(photographs: Sequence[np.ndarray], noise: str, **options) -> float | None:
    """Return the noise level used in arXiv 2205.11829.

    The level is 0.4 for salt-and-pepper noise and None for ``"clean"``. For Gaussian noise, it is the standard
    deviation at which the variance of the noise is 10 times the mean variance of 512 clean crops. These crops are drawn
    by ``natural_pairs`` with the given ``options``.

    Parameters
    ----------
    photographs : sequence of (y, x) array
        Grey photographs, as for ``natural_pairs``.
    noise : {"clean", "gaussian", "salt-and-pepper"}
        Type of the noise.
    **options
        Options of ``natural_pairs``.

    Raises
    ------
    ValueError
        If the type of noise is unknown, or for the reasons given in ``natural_pairs``.

    References
    ----------
    arXiv 2205.11829.
    """
    _check_kind(noise)
    if noise == "clean":
        return None
    if noise == "salt-and-pepper":
        return 0.4
    crops = natural_pairs(photographs, 512, rng=0, **options).first
    return float(np.sqrt(10 * crops.var(axis=(1, 2)).mean()))


def crop_mask(image_size: int) -> np.ndarray:
    """Return a circular mask about pixel n // 2 with a squared-sine edge: (image_size, image_size) float32."""
    return circular_mask(image_size, edge_px=MASK_EDGE * _radius(image_size), profile="cosine")


def _radius(image_size: int) -> int:
    """Return the radius in pixels of the largest circle about pixel n // 2 that fits in the image."""
    return (image_size - 1) // 2


def _check_kind(noise: str) -> None:
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")


def _check_noise(noise: str, noise_level: float | None) -> None:
    _check_kind(noise)
    if noise == "clean":
        if noise_level is not None:
            raise ValueError(f"noise_level must be None for noise 'clean', got {noise_level}")
        return
    positive_number(noise_level, name="noise_level")
    if noise == "salt-and-pepper" and noise_level > 1:
        raise ValueError(f"noise_level must be a fraction of the pixels, at most 1, got {noise_level}")


def _splines(photographs: list[np.ndarray], chosen: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return concatenated spline coefficients of the photographs in use, their starts and shapes, each crop's index."""
    used, index = np.unique(chosen, return_inverse=True)
    coefficients = [to_coefficients(photographs[i]) for i in used]
    starts = np.cumsum([0, *(c.size for c in coefficients[:-1])])
    shapes = np.array([c.shape for c in coefficients])
    return np.concatenate([c.ravel() for c in coefficients]), starts, shapes, index


def _crops(splines, matrices, centres, scale, image_size: int) -> np.ndarray:
    """Sample photographs at ``centres + matrices @ (x, y)``, with (x, y) relative to pixel n // 2: (n, y, x) float32.

    Crop pixels larger than photograph pixels are averaged over their area. The result is 0 outside the inscribed
    circle.
    """
    crops = np.empty((len(centres), image_size, image_size), np.float32)
    points = np.ceil(scale - 1e-9).astype(int)  # samples along one side of a crop pixel
    read_crops(*splines, matrices, centres, points, _radius(image_size), crops)
    return crops


def _add_noise(crops: np.ndarray, noise: str, level: float | None, rng: np.random.Generator):
    """Add independent noise to every pixel of (n, y, x) crops, in place."""
    if noise == "gaussian":
        for crop in crops:  # one crop at a time, so that the noise stays in the cache
            crop += np.float32(level) * rng.standard_normal(crop.shape, dtype=np.float32)
    elif noise == "salt-and-pepper":
        for crop in crops:
            draw = rng.random(crop.shape, dtype=np.float32)
            crop[draw < level / 2] = 0
            crop[draw >= 1 - level / 2] = 1
