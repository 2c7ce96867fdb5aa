"""Greyscale pictures from PNG, JPEG and TIFF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoem.files.reading import first_line

PNG = b"\x89PNG"
SIGNATURES = (b"\xff\xd8\xff", PNG, b"II*\0", b"MM\0*")  # JPEG, PNG, TIFF of either byte order


def read_grey(path: Path) -> np.ndarray:
    """Read a picture file as a (y, x) float32 array with values in [0, 1].

    Colours are converted to luminance, and the alpha channel of a PNG is ignored.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not a single greyscale or RGB picture in PNG, JPEG or TIFF format, or is damaged.
    """
    import skimage.color
    import skimage.io
    import skimage.util

    if not path.is_file():
        raise FileNotFoundError(f"picture {path} does not exist")
    with path.open("rb") as file:  # close the file even if the reader fails
        start = file.read(4)
        if not start.startswith(SIGNATURES):  # scikit-image would try all its readers
            raise ValueError(f"{path} is not a JPEG, PNG or TIFF file: it starts with {start!r}")
        file.seek(0)
        by_name = start.startswith((b"II", b"MM"))  # scikit-image recognises TIFF files by their file names
        try:
            pixels = np.asarray(skimage.io.imread(path if by_name else file))
        except Exception as error:  # each reader raises different exceptions
            raise ValueError(f"{path} cannot be read as a picture: {first_line(error)}") from error
    if start == PNG and pixels.ndim == 3:  # ignore alpha; in other formats a fourth channel may be an ink
        pixels = {2: pixels[..., 0], 4: pixels[..., :3]}.get(pixels.shape[2], pixels)
    if not (pixels.size and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3))):
        raise ValueError(
            f"{path} is not a single greyscale or RGB picture: its array has shape {pixels.shape}"
        )
    if not (pixels.dtype in (bool, np.uint8, np.uint16) or np.issubdtype(pixels.dtype, np.floating)):
        raise ValueError(f"{path} must store 8-bit, 16-bit or floating-point values, got {pixels.dtype}")
    pixels = skimage.util.img_as_float32(pixels)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            f"{path} has values from {pixels.min():.6g} to {pixels.max():.6g}, but they must be in [0, 1]"
        )
    return pixels if pixels.ndim == 2 else skimage.color.rgb2gray(pixels)
