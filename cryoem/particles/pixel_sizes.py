"""Pixel size of the images in a particle file, from the user, the table or the headers of the stacks.

The order of precedence is: the user's argument; the columns of the table, in the order in which the module of the
program returns them; the headers of the stacks. One warning lists all sizes that differ from the one used.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cryoem.particles.columns import DISAGREE, Columns, DoubtfulValue, of_one_kind

SAME_PIXEL = 1e-3  # largest relative difference between rounded values of the same pixel size
LARGEST_PIXEL_ANGSTROM = 1e6
PLAUSIBLE_ANGSTROM = (0.1, 50.0)  # of pixels in cryo-EM, from super-resolution to binned tomograms
LARGEST_RESCALING = 1.25  # a larger ratio between pixel sizes would cost too much resolution


class UnknownPixelSize(ValueError):
    """The user states no pixel size, and the table or else the headers of the stacks state no valid one.

    ``header_angstrom`` is the size that all headers state, or None.
    """

    def __init__(self, message: str, header_angstrom: float | None):
        super().__init__(message)
        self.header_angstrom = header_angstrom


def resolve_pixel_size(
    path: Path,
    argument: float | None,
    stated: Mapping[str, np.ndarray],
    headers: tuple[float, ...],
    *,
    groups: bool,
) -> tuple[float, np.ndarray | None]:
    """Return the pixel size in angstrom and, if images must be rescaled to it, the (n,) factor of each image.

    ``stated`` contains (n,) pixel sizes by column, the most important first. Images with different pixel sizes, from
    several optics groups, are rescaled to the largest one. ``groups`` is whether the file has optics groups.
    """
    column = next(iter(stated), None)
    sizes = np.asarray(headers if column is None else stated[column], float)
    source = "its stack headers" if column is None else column
    one = _one_size(sizes)
    rescaled = column is not None and one is None and _all_valid(sizes)
    listed = ", ".join(f"{size:.6g}" for size in np.unique(sizes)[:5])
    advice = of_one_kind(groups)
    if rescaled and argument is not None:
        raise ValueError(
            f"{path} has images of several pixel sizes, {listed} angstrom ({source}), so one pixel_size_angstrom "
            f"(--pixel-size) would merge images of different scale; omit it, or {advice}"
        )
    if rescaled and sizes.max() > LARGEST_RESCALING * sizes.min():
        raise ValueError(f"{path} has no single valid pixel size, got {listed} angstrom ({source}); {advice}")
    if rescaled:
        warnings.warn(
            f"{path} has images of several pixel sizes, {listed} angstrom ({source}); rescaling them to "
            f"{sizes.max():.6g} angstrom; to use them unchanged, {advice}",
            UserWarning,
            stacklevel=3,
        )
        return float(sizes.max()), sizes / sizes.max()
    if argument is None and one is None:
        header = _one_size(headers)
        if not len(sizes):
            raise UnknownPixelSize(
                f"{path} has no pixel size; pass pixel_size_angstrom (--pixel-size)", header
            )
        if column is None and _all_valid(sizes):
            raise UnknownPixelSize(
                f"{path} has no pixel size, and its stacks state {listed} angstrom; put stacks of different pixel size "
                "into different tables, or, if their headers are wrong, pass pixel_size_angstrom (--pixel-size)",
                header,
            )
        named = "" if column is None else f" ({column})"
        known = "" if header is None else f", such as the {header:.6g} of its stacks"
        raise UnknownPixelSize(
            f"{path} has no single valid pixel size, got {listed} angstrom{named}; "
            f"pass pixel_size_angstrom (--pixel-size){known}",
            header,
        )
    used = argument or one
    low, high = PLAUSIBLE_ANGSTROM
    if not low <= used <= high:
        warnings.warn(
            f"{path}: a pixel size of {used:.4g} angstrom is implausible in cryo-EM, where it is between {low:g} and "
            f"{high:g} angstrom; check its unit",
            DoubtfulValue,
            stacklevel=3,
        )
    if argument is not None and one is not None and _agree(one, used):
        return used, None  # the user has already decided between the table and the headers
    others = {name: _other_sizes(sizes, used) for name, sizes in {**stated, "the stacks": headers}.items()}
    others = {name: sizes for name, sizes in others.items() if sizes}
    if others and argument is not None:
        different: list[float] = []
        for size in itertools.chain(*others.values()):
            if not any(_agree(size, other) for other in different):
                different.append(size)
        values = " and ".join(f"{size:.6g} angstrom" for size in different)
        warnings.warn(
            f"{path} states a pixel size of {values}; using {used:.6g} angstrom as specified",
            UserWarning,
            stacklevel=3,
        )
    elif others:
        values = " and ".join(
            f"{name} state{'' if name == 'the stacks' else 's'} {' and '.join(f'{size:.6g}' for size in sizes)}"
            for name, sizes in others.items()
        )
        warnings.warn(
            f"{path} states a pixel size of {used:.6g} angstrom, from {source}, but {values}; using {used:.6g}",
            UserWarning,
            stacklevel=3,
        )
    return used, None


def check_stated_image_size(
    columns: Columns, names: tuple[str, ...], image_size: int, pixel_size_angstrom: float
) -> None:
    """Warn if a table states an image size (columns ``names``) that differs from that of the images in its stacks."""
    stated = np.unique([columns.numbers(name) for name in names if name in columns])
    wrong = stated[stated != image_size]
    if len(wrong):
        warnings.warn(
            f"{columns.path} states images of {wrong[0]:g} px ({names[0]}), but its stacks contain images of "
            f"{image_size} px; if the images were rescaled, the pixel size is not {pixel_size_angstrom:.6g} but "
            f"{pixel_size_angstrom * wrong[0] / image_size:.6g} angstrom (--pixel-size)",
            DoubtfulValue,
            stacklevel=3,
        )


def shrinkage(
    columns: Columns,
    names: tuple[str, ...],
    pixel_sizes: Mapping[str, np.ndarray],
    image_size: int,
    pixel_size_angstrom: float,
) -> np.ndarray:
    """Return the factor by which the images were shrunk since their table was written, as (n, 1) or (1, 1) numbers.

    It is 1 unless the image size that the table states (columns ``names``) is larger than that of the images by the
    same factor by which the pixel size that it states (``pixel_sizes``) is smaller.
    """
    stated = next((columns.numbers(name) for name in names if name in columns), None)
    pixels = next(iter(pixel_sizes.values()), None)
    if stated is None or pixels is None:
        return np.ones((1, 1))
    factors = stated / image_size
    shrunk = np.isclose(pixels * factors, pixel_size_angstrom, rtol=DISAGREE, atol=0)
    return np.where(shrunk, factors, 1.0)[:, None]


def _agree(size: float, other: float) -> bool:
    return math.isclose(size, other, rel_tol=DISAGREE)


def _all_valid(sizes) -> bool:
    return len(sizes) > 0 and all(0 < size <= LARGEST_PIXEL_ANGSTROM for size in np.unique(sizes))


def _other_sizes(sizes, used: float) -> list[float]:
    """Return up to five distinct valid sizes that differ from the one used."""
    valid = np.unique([size for size in sizes if 0 < size <= LARGEST_PIXEL_ANGSTROM])
    return [float(size) for size in valid if not _agree(size, used)][:5]


def _one_size(sizes) -> float | None:
    """Return the size if all values are valid and equal, otherwise None."""
    if not _all_valid(sizes) or not math.isclose(min(sizes), max(sizes), rel_tol=SAME_PIXEL):
        return None
    return float(sizes[0])
