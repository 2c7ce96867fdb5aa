"""Stacks of particle images in MRC files (MRC2014): read on demand, and written in blocks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cryoem.files.reading import uncompressed
from cryoem.files.writing import atomic_write_many, check_writable, path_with_suffix
from cryoem.validation import positive_number, square_images, whole_number
from cryoem.volumes.headers import (
    HEADER_BYTES,
    LARGEST_CHANGE_IN_MAPS,
    LARGEST_SIDE_PX,
    MrcHeader,
    parse_header,
    section_change,
    sign_doubt,
)

STACK_SUFFIXES = (".mrcs", ".mrc")
IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class MrcStack:
    """Stack of square images in an MRC file, which may be compressed with gzip.

    ``pixel_angstrom`` is the pixel size (x, y) in the header, or zeros if the header has none. ``surplus_bytes`` is the
    number of bytes after the last image.
    """

    path: Path
    header: MrcHeader
    pixel_angstrom: tuple[float, float]
    surplus_bytes: int

    @property
    def n_images(self) -> int:
        return self.header.shape[0]

    @property
    def image_size(self) -> int:
        return self.header.shape[1]

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Read the images with the given numbers, counted from 0, as (k, y, x) float32. All pixels must be finite."""
        size, dtype = self.image_size, self.header.dtype
        images = np.empty((len(numbers), size, size), np.float32)
        # Read consecutive images together. With a memory map, the whole file would count as memory use.
        runs = np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1)
        try:
            with open(uncompressed(self.path), "rb") as stream:
                for run in runs:
                    for part in np.split(run, range(IMAGES_AT_ONCE, len(run), IMAGES_AT_ONCE)):
                        stream.seek(self.header.start + int(numbers[part[0]]) * size**2 * dtype.itemsize)
                        values = np.fromfile(stream, dtype, len(part) * size**2)
                        if values.size < len(part) * size**2:
                            raise OSError(f"the file ends before image {numbers[part[-1]] + 1}")
                        images[part[0] : part[-1] + 1] = values.reshape(-1, size, size)
        except OSError as error:
            raise OSError(f"cannot read images from {self.path}: {error.strerror or error}") from None
        return finite_images(images, numbers, self.path)


def finite_images(images: np.ndarray, numbers: np.ndarray, path: Path) -> np.ndarray:
    """Return (k, y, x) images. Raise a ValueError with the number of the first one that is not finite."""
    finite = np.isfinite(images).all(axis=(1, 2))
    if not finite.all():
        bad = numbers[np.argmin(finite)] + 1
        raise ValueError(f"{path}: pixels must be finite, got NaN or infinity in image {bad}")
    return images


@dataclass(frozen=True, eq=False)
class StackedImages:
    """Images of the same size in MRC stacks, in any order.

    ``stack_of`` (n,) is the index in ``stacks`` of the stack of each image. ``number_of`` (n,) is the number of each
    image in its stack, counted from 0.
    """

    stacks: tuple[MrcStack, ...]
    stack_of: np.ndarray
    number_of: np.ndarray

    @property
    def image_size(self) -> int:
        return self.stacks[0].image_size

    @property
    def in_mrc(self) -> bool:
        """Whether all stacks are MRC files, which tables of other programs can name."""
        return all(isinstance(stack, MrcStack) for stack in self.stacks)

    def __getitem__(self, indices: np.ndarray) -> StackedImages:
        """Return the images at (k,) indices, k >= 1, with only the stacks they need."""
        used, stack_of = np.unique(self.stack_of[indices], return_inverse=True)
        return StackedImages(tuple(self.stacks[stack] for stack in used), stack_of, self.number_of[indices])

    def pixels_angstrom(self) -> tuple[float, ...]:
        """Return the distinct pixel sizes in the headers of the stacks. Warn about unusual headers."""
        if not self.in_mrc:
            return ()
        without = [stack.path for stack in self.stacks if not stack.header.has_map_id]
        longer = [stack.path for stack in self.stacks if stack.surplus_bytes]
        doubtful = [stack for stack in self.stacks if not stack.header.states_sign]
        for paths, what in (
            (without, "lacks the MAP identifier in its header; reading it as a stack of images"),
            (longer, "is longer than its header states; ignoring the extra bytes"),
            ([stack.path for stack in doubtful], sign_doubt(doubtful[0].header) if doubtful else ""),
        ):
            if paths:
                others = f" (like {len(paths) - 1} others)" if len(paths) > 1 else ""
                warnings.warn(f"{paths[0]}{others} {what}", UserWarning, stacklevel=3)
        return tuple(np.unique([stack.pixel_angstrom for stack in self.stacks]).tolist())

    def read(self) -> np.ndarray:
        """Read these images, and no others, from the stacks as (n, y, x) float32."""
        images = np.empty((len(self.number_of), self.image_size, self.image_size), np.float32)
        for stack in np.unique(self.stack_of):
            here = self.stack_of == stack
            images[here] = self.stacks[stack].read(self.number_of[here])
        return images


def open_stack(path: Path) -> MrcStack:
    """Read the header of a stack and check it against the length of the file, without reading any pixels.

    Apart from stacks of volumes, which are rejected, the space group and the number of sections per volume are ignored,
    because programs set them differently.
    """
    try:
        with open(uncompressed(path), "rb") as stream:
            content = stream.read(HEADER_BYTES)
            n_bytes = stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise OSError(f"cannot read the stack {path}: {error.strerror or error}") from None
    header = parse_header(content, path, kind="an MRC stack")
    fields, (n_images, ny, nx) = header.fields, header.shape
    if n_images == 0:
        raise ValueError(f"{path} contains no images (header: 0 images of {nx} x {ny} px)")
    if nx != ny:
        raise ValueError(f"{path}: images must be square, got {nx} x {ny} px")
    axes = [int(fields[name]) for name in ("mapc", "mapr", "maps")]
    if axes not in ([1, 2, 3], [0, 0, 0]):
        raise ValueError(f"{path}: the axes MAPC, MAPR and MAPS must be 1, 2 and 3, got {axes}")
    if int(fields["ispg"]) >= 401 and int(fields["mz"]) > 1:
        raise ValueError(
            f"{path} is a stack of volumes (space group {fields['ispg']}), not a stack of images"
        )
    if header.end > n_bytes:
        raise ValueError(f"{path} is truncated: {header}, but the file has {n_bytes} bytes")
    # The pixel size is the cell divided by its intervals or, if these are zero, by the number of pixels.
    pixel = tuple(float(fields["cella"][axis]) / (int(fields["m" + axis]) or nx) for axis in "xy")
    return MrcStack(path, header, pixel, n_bytes - header.end)


def is_stack_name(path: Path) -> bool:
    """Return whether a file name ends as for a stack: in ``.mrcs`` or ``.mrc``, optionally followed by ``.gz``."""
    return path.name.lower().removesuffix(".gz").endswith(STACK_SUFFIXES)


def whole_stack(path: Path, *, as_stack: bool = False) -> tuple[list[str], StackedImages]:
    """Open a bare stack, with a warning if it looks like a map and ``as_stack`` is false; return names and images."""
    stack = open_stack(path)
    n = stack.n_images
    named_as_stack = path.name.lower().removesuffix(".gz").endswith(".mrcs")
    if not (as_stack or named_as_stack) and _looks_like_a_map(stack):
        warnings.warn(
            f"{path} looks like a density map of {n} sections; reading it as a stack of {n} images; "
            "if it is a stack, pass as_stack=True (--as-stack) or rename it to .mrcs",
            UserWarning,
            stacklevel=3,
        )
    names = [f"{number:06d}@{path}" for number in range(1, n + 1)]
    return names, StackedImages((stack,), np.zeros(n, int), np.arange(n))


def _looks_like_a_map(stack: MrcStack) -> bool:
    """Return whether neighbouring sections are alike or, if that is unknown, whether the header describes a cube."""
    n, fields = stack.n_images, stack.header.fields
    try:
        change = section_change(lambda number: stack.read(np.array([number]))[0], n)
    except ValueError:  # pixels that are not finite are reported when they are needed
        change = None
    if change is not None:
        return change < LARGEST_CHANGE_IN_MAPS
    return n == stack.image_size == int(fields["mz"]) and int(fields["ispg"]) in (0, 1)


class StackWriter:
    """Context manager that writes a stack of particle images in blocks (MRC2014, mode 2, space group 0).

    The stack is written to a temporary file, which is renamed to ``path`` when the ``with`` block ends. If the block
    fails, the temporary file is removed, and an existing file at ``path`` is kept.

    Parameters
    ----------
    path : path-like
        Path of the stack, ending in ``.mrcs`` or ``.mrc``.
    n : int
        Number of images.
    image_size : int
        Side length of the images in pixels.
    pixel_size_angstrom : float
        Side length of a pixel in angstrom.
    texts : mapping, optional
        Files to write together with the stack, such as its table: a mapping from path to content.

    Raises
    ------
    OSError
        A file cannot be written.
    ValueError
        The suffix is not ``.mrcs`` or ``.mrc``, a number is out of range, or fewer than n images have been written when
        the block ends.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        n: int,
        image_size: int,
        pixel_size_angstrom: float,
        *,
        texts: Mapping[Path, str | bytes] | None = None,
    ):
        self.path = path_with_suffix(path, ".mrcs", ".mrc")
        self.texts = texts or {}
        self.n = whole_number(n, name="n", at_least=1)
        self.image_size = whole_number(image_size, name="image_size", at_least=1)
        if self.image_size > LARGEST_SIDE_PX:
            raise ValueError(f"image_size must be at most {LARGEST_SIDE_PX}, got {image_size}")
        self.pixel_size_angstrom = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
        self._stream: BinaryIO | None = None

    def __enter__(self) -> StackWriter:
        self._session = self._open()
        return self._session.__enter__()

    def __exit__(self, *raised) -> bool | None:
        return self._session.__exit__(*raised)

    def write(self, images: np.ndarray) -> None:
        """Append (k, y, x) images to the stack. They are stored as float32.

        Raises
        ------
        ValueError
            The images are not finite or do not have shape (k, image_size, image_size), there are more than n images in
            total, or the writer is used outside a ``with`` block.
        """
        if self._stream is None or self._stream.closed:
            raise ValueError(f"the StackWriter for {self.path} must be used in a with statement")
        images = square_images(images)
        if images.shape[1] != self.image_size:
            raise ValueError(f"images must be {self.image_size} px wide, got shape {images.shape}")
        if self._written + len(images) > self.n:
            raise ValueError(f"expected {self.n} images for {self.path}, got {self._written + len(images)}")
        self._stream.write(images.astype("<f4", copy=False).data)
        self._count(images)

    @contextmanager
    def _open(self) -> Iterator[StackWriter]:
        self._written = 0
        self._lowest, self._highest, self._mean, self._squares = np.inf, -np.inf, 0.0, 0.0
        check_writable(self.path, n_bytes=HEADER_BYTES + 4 * self.n * self.image_size**2)
        with atomic_write_many(self.path, *self.texts) as (partial, *tables):
            for table, text in zip(tables, self.texts.values(), strict=True):
                table.write_bytes(text if isinstance(text, bytes) else text.encode())
            with open(partial, "wb") as self._stream:
                self._stream.write(bytes(HEADER_BYTES))
                yield self
                if self._written != self.n:
                    raise ValueError(f"expected {self.n} images for {self.path}, got {self._written}")
                self._stream.seek(0)
                self._stream.write(self._header())

    def _count(self, images: np.ndarray) -> None:
        """Update the pixel statistics. Merging the means and squared deviations of blocks avoids cancellation."""
        before, new = self._written * self.image_size**2, images.size
        step = images.mean(dtype=np.float64) - self._mean
        self._squares += images.var(dtype=np.float64) * new + step**2 * before * new / (before + new)
        self._mean += step * new / (before + new)
        self._lowest = min(self._lowest, float(images.min()))
        self._highest = max(self._highest, float(images.max()))
        self._written += len(images)

    def _header(self) -> bytes:
        """Return the MRC2014 header of a stack of images: space group 0, one section per volume."""
        from mrcfile.dtypes import HEADER_DTYPE

        header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
        side = self.image_size
        for axis, n_pixels, n_intervals in (("x", side, side), ("y", side, side), ("z", self.n, 1)):
            header["n" + axis], header["m" + axis] = n_pixels, n_intervals
            header["cella"][axis] = n_intervals * self.pixel_size_angstrom
        for name in ("alpha", "beta", "gamma"):
            header["cellb"][name] = 90
        header["mode"], header["ispg"], header["nversion"] = 2, 0, 20140
        header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
        header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
        header["dmin"], header["dmax"], header["dmean"] = self._lowest, self._highest, self._mean
        header["rms"] = np.sqrt(self._squares / (self.n * side**2))
        header["nlabl"] = 1
        header["label"][0] = "cryoem"  # instead of a time stamp, so that equal stacks produce equal files
        return header.tobytes()


def write_stack(path: str | os.PathLike, images: np.ndarray, *, pixel_size_angstrom: float) -> None:
    """Write images to an MRC stack. Raises the same errors as ``StackWriter``.

    Parameters
    ----------
    path : path-like
        Path of the stack, ending in ``.mrcs`` or ``.mrc``.
    images : (n, y, x) array
        Square images, stored as float32.
    pixel_size_angstrom : float
        Pixel size in angstrom.
    """
    images = square_images(images)
    with StackWriter(path, len(images), images.shape[1], pixel_size_angstrom) as stack:
        stack.write(images)
