"""Picture files as grey levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PNG = b"\x89PNG"
SIGNATURES = (b"\xff\xd8\xff", PNG, b"II*\0", b"MM\0*")


def read_grey(path: Path) -> np.ndarray:
    """A picture file as (y, x) float32 in [0, 1], colours weighted as the eye does, the opacity of a PNG left out.

    Raises
    ------
    FileNotFoundError : there is no such file.
    ValueError : it is no JPEG, PNG or TIFF file, cannot be read, or is not one grey or RGB picture.
    """
    import skimage.color
    import skimage.io
    import skimage.util

    if not path.is_file():
        raise FileNotFoundError(f"no picture at {path}")
    with path.open("rb") as file:
        start = file.read(4)
    if not start.startswith(SIGNATURES):  # scikit-image would try every reader that it knows
        raise ValueError(f"{path} must be a JPEG, PNG or TIFF file, got one that starts with {start!r}")
    try:
        with path.open("rb") as file:  # else what fails leaves it open
            by_name = start.startswith((b"II", b"MM"))  # TIFF files are recognised by their names
            pixels = np.asarray(skimage.io.imread(path if by_name else file))
    except Exception as error:  # each of the readers below scikit-image raises its own kinds
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read as a picture: {reason}") from error
    if start == PNG and pixels.ndim == 3 and pixels.shape[2] in (2, 4):  # in other files four may be inks
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    if not (pixels.size and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3))):
        raise ValueError(f"{path} must be one grey or RGB picture, got an array of shape {pixels.shape}")
    if not (pixels.dtype in (bool, np.uint8, np.uint16) or np.issubdtype(pixels.dtype, np.floating)):
        raise ValueError(f"{path} must hold 8-bit, 16-bit or floating-point grey levels, got {pixels.dtype}")
    pixels = skimage.util.img_as_float32(pixels)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"{path} must have values in [0, 1], got {pixels.min():.6g} to {pixels.max():.6g}")
    return pixels if pixels.ndim == 2 else skimage.color.rgb2gray(pixels)
