"""Picture files as arrays: photographs and class averages."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cryoem.udl.natural import SMALLEST_PX
from cryoem.udl.synthetic import ClassAverage, class_average_from_array
from cryoem.validation import whole_number

PNG = b"\x89PNG"
SIGNATURES = (b"\xff\xd8\xff", PNG, b"II*\0", b"MM\0*")  # JPEG, PNG, TIFF of either byte order
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
STACKS = (".mrc", ".mrcs", ".star", ".xmd")


def read_class_average(
    path: str | os.PathLike, *, pixel_size_angstrom: float, image_size: int = 128
) -> ClassAverage:
    """Read a class average from a picture file or a stack, and resize it.

    Parameters
    ----------
    path : path-like
        Square PNG, JPEG or TIFF file, grey or coloured; or a stack that ``particles.open_particles`` reads, of which
        the first image is used.
    pixel_size_angstrom, image_size
        As in ``class_average_from_array``.

    Raises
    ------
    ValueError
        If the file is neither a picture nor a stack, not square, or constant.
    FileNotFoundError
        If the file does not exist.
    """
    path = Path(path)
    if path.suffix.lower() in STACKS:
        from cryoem.particles.files import open_particles

        picture = np.asarray(open_particles(path, pixel_size_angstrom=pixel_size_angstrom)[:1])[0]
    else:
        picture = read_grey(path)
    return class_average_from_array(
        picture, pixel_size_angstrom=pixel_size_angstrom, image_size=image_size, name=f"class average {path}"
    )


def load_photographs(folder_or_paths: str | Path | Iterable[str | Path], *, size: int) -> list[np.ndarray]:
    """Read photographs in shades of grey and reduce them to one scale.

    Parameters
    ----------
    folder_or_paths : path-like or list of path-like
        A folder, of which all JPEG, PNG and TIFF files are read in the order of their names, or a list of files.
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
        If there are no photographs, or a file cannot be read, is not one grey or RGB picture, has floating-point values
        outside [0, 1], or is smaller than ``size``.
    """
    size = whole_number(size, name="size", at_least=SMALLEST_PX)
    return [_read_reduced(path, size) for path in _photograph_paths(folder_or_paths)]


def read_grey(path: Path) -> np.ndarray:
    """Read a picture file as (y, x) float32 in [0, 1]; colours become luminance, the opacity of a PNG is ignored."""
    import skimage.color
    import skimage.io
    import skimage.util

    if not path.is_file():
        raise FileNotFoundError(f"picture {path} does not exist")
    with path.open("rb") as file:
        start = file.read(4)
    if not start.startswith(SIGNATURES):  # scikit-image would try all of its readers
        raise ValueError(f"{path} must be a JPEG, PNG or TIFF file, got one that starts with {start!r}")
    try:
        with path.open("rb") as file:  # closed even if the reader fails
            by_name = start.startswith((b"II", b"MM"))  # scikit-image recognises TIFF files by their names
            pixels = np.asarray(skimage.io.imread(path if by_name else file))
    except Exception as error:  # every reader raises different exceptions
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read as a picture: {reason}") from error
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


def _photograph_paths(folder_or_paths) -> list[Path]:
    """Files to read, at least one."""
    if not isinstance(folder_or_paths, str | Path):
        paths = [Path(path) for path in folder_or_paths]
        if not paths:
            raise ValueError("folder_or_paths must be a folder or at least one file, got an empty list")
        return paths
    folder = Path(folder_or_paths)
    if not folder.exists():
        raise FileNotFoundError(f"folder of photographs {folder} does not exist")
    if not folder.is_dir():
        raise ValueError(f"folder_or_paths must be a folder or a list of files, got the file {folder}")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
    if not paths:
        raise ValueError(f"{folder} must contain photographs ({', '.join(SUFFIXES)}), got none")
    return paths


def _read_reduced(path: Path, size: int) -> np.ndarray:
    """Read a photograph and reduce it so that its shorter side is ``size``."""
    import skimage.transform

    grey = read_grey(path)
    height, width = grey.shape
    if min(grey.shape) < size:
        raise ValueError(f"{path} must be at least {size} px on both sides, got {width} x {height}")
    shape = [round(side * size / min(grey.shape)) for side in grey.shape]
    reduced = skimage.transform.resize(grey, shape, anti_aliasing=True)
    return np.clip(reduced, 0, 1).astype(np.float32)
