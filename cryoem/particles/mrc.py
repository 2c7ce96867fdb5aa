"""Images in MRC stacks, read when they are asked for and not before (MRC2014, either byte order)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoem.machine_stamp import check_machine_stamp

HEADER_BYTES = 1024
DTYPES_BY_MODE = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
IMAGES_AT_ONCE = 64
LARGEST_SIDE_PX = 2**16 - 1  # in the wrong byte order every smaller side is larger than this


@dataclass(frozen=True)
class MrcStack:
    """One stack of square images.

    ``pixel_angstrom`` is the (x, y) of a pixel as the header has it, zeros where it has none; ``dtype`` and ``start``
    say how and at which byte the pixels lie; ``has_map_id`` whether the header says that it is one;
    ``looks_like_a_map`` whether the same header could as well be that of a density map; ``surplus_bytes`` are how many
    follow the last image.
    """

    path: Path
    n_images: int
    image_size: int
    pixel_angstrom: tuple[float, float]
    dtype: np.dtype
    start: int
    has_map_id: bool
    looks_like_a_map: bool
    surplus_bytes: int

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The images of these numbers, counted from 0: (k, y, x) float32.

        Raises
        ------
        OSError : the file cannot be read any more.
        ValueError : a pixel is not finite.
        """
        shape, pixels = (len(numbers), self.image_size, self.image_size), self.image_size**2
        images = np.empty(shape, np.float32)
        ends = (
            np.flatnonzero(np.diff(numbers) != 1) + 1
        )  # images that lie one after the other are read at once
        try:
            with open(self.path, "rb") as stream:  # mapped, the pages of the whole file would count as memory
                for place in np.split(np.arange(len(numbers)), ends):
                    for some in np.split(place, range(IMAGES_AT_ONCE, len(place), IMAGES_AT_ONCE)):
                        stream.seek(self.start + int(numbers[some[0]]) * pixels * self.dtype.itemsize)
                        read = np.fromfile(stream, self.dtype, len(some) * pixels)
                        if read.size < len(some) * pixels:
                            raise OSError(f"it ends before image {numbers[some[-1]] + 1}")
                        images[some[0] : some[-1] + 1] = read.reshape(-1, *shape[1:])
        except OSError as error:
            raise OSError(f"cannot read the images of {self.path}: {_reason(error)}") from None
        finite = np.isfinite(images).all(axis=(1, 2))
        if not finite.all():
            bad = numbers[np.argmin(finite)] + 1
            raise ValueError(f"{self.path} must hold finite pixels, got NaN or infinity in image {bad}")
        return images


@dataclass(frozen=True, eq=False)
class StackedImages:
    """Images picked from MRC stacks of one image size, in any order.

    ``stack_of`` (n,) says in which of ``stacks`` an image lies, ``number_of`` (n,) at which place, counted from 0.
    """

    stacks: tuple[MrcStack, ...]
    stack_of: np.ndarray
    number_of: np.ndarray

    @property
    def image_size(self) -> int:
        return self.stacks[0].image_size

    def subset(self, indices: np.ndarray) -> StackedImages:
        """The images at (k,) indices, k >= 1, and the stacks that these lie in."""
        used, stack_of = np.unique(self.stack_of[indices], return_inverse=True)
        return StackedImages(tuple(self.stacks[stack] for stack in used), stack_of, self.number_of[indices])

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Images at (k,) indices: (k, y, x) float32; of the files only these images are read."""
        images = np.empty((len(indices), self.image_size, self.image_size), np.float32)
        stack_of, number_of = self.stack_of[indices], self.number_of[indices]
        for stack in np.unique(stack_of):
            here = stack_of == stack
            images[here] = self.stacks[stack].read(number_of[here])
        return images


def open_stack(path: Path) -> MrcStack:
    """Read the header of a stack and hold the file against it; no pixel is read.

    The space group and the number of sections a volume are not trusted to tell a stack from a volume, programs differ.

    Raises
    ------
    OSError : the file cannot be read.
    ValueError : it is not a stack of square images, it holds none, it ends before its last image, or its machine stamp
        says another byte order.
    """
    n_bytes, header, byte_order = _read_header(path)
    n_images, ny, nx, n_extra = (int(header[name]) for name in ("nz", "ny", "nx", "nsymbt"))
    if int(header["mode"]) not in DTYPES_BY_MODE:
        modes = ", ".join(map(str, DTYPES_BY_MODE))
        raise ValueError(f"{path} must have one of the MRC modes {modes}, got mode {header['mode']}")
    if n_images == 0:
        raise ValueError(f"{path} holds no images: its header claims 0 of {nx} x {ny} px")
    if nx != ny:
        raise ValueError(f"{path} must hold square images, got {nx} x {ny} px")
    axes = [int(header[name]) for name in ("mapc", "mapr", "maps")]
    if axes not in ([1, 2, 3], [0, 0, 0]):
        raise ValueError(f"{path} must have the axes 1, 2, 3 (MAPC, MAPR, MAPS), got {axes}")
    if int(header["ispg"]) >= 401 and int(header["mz"]) > 1:
        raise ValueError(
            f"{path} must be a stack of images, got one of volumes (space group {header['ispg']})"
        )
    dtype = np.dtype(DTYPES_BY_MODE[int(header["mode"])]).newbyteorder(byte_order)
    claimed = HEADER_BYTES + n_extra + n_images * ny * nx * dtype.itemsize
    if claimed > n_bytes:
        raise ValueError(
            f"{path} is truncated: its header claims {n_images} images of {nx} x {ny} px, {claimed} bytes, "
            f"got a file of {n_bytes} bytes"
        )
    return MrcStack(
        path=path,
        n_images=n_images,
        image_size=nx,
        pixel_angstrom=_pixel_angstrom(header),
        dtype=dtype,
        start=HEADER_BYTES + n_extra,
        has_map_id=bytes(header["map"])[:3] == b"MAP",
        looks_like_a_map=n_images == nx and int(header["ispg"]) == 1 and int(header["mz"]) == nx,
        surplus_bytes=n_bytes - claimed,
    )


def _read_header(path: Path):
    """Length of the file, its header, and the byte order (``"<"`` or ``">"``) in which that makes sense."""
    from mrcfile.dtypes import HEADER_DTYPE

    try:
        with open(path, "rb") as stream:
            content = stream.read(HEADER_BYTES)
            n_bytes = stream.seek(0, 2)
    except OSError as error:
        raise OSError(f"cannot read the stack {path}: {_reason(error)}") from None
    if n_bytes < HEADER_BYTES:
        raise ValueError(
            f"{path} is not an MRC stack: it must have a header of {HEADER_BYTES} bytes, got {n_bytes} bytes"
        )
    for byte_order in "<>":
        header = np.frombuffer(content, HEADER_DTYPE.newbyteorder(byte_order))[0]
        sides = int(header["nx"]), int(header["ny"])
        counts = int(header["nz"]), int(header["nsymbt"])
        sensible = all(0 < side <= LARGEST_SIDE_PX for side in sides) and min(counts) >= 0
        if sensible and int(header["mode"]) in range(128):
            check_machine_stamp(path, header, byte_order)
            return n_bytes, header, byte_order
    header = np.frombuffer(content, HEADER_DTYPE.newbyteorder("<"))[0]
    size = " x ".join(str(header[name]) for name in ("nx", "ny", "nz"))
    raise ValueError(
        f"{path} is not an MRC stack: its header claims {size} pixels of mode {header['mode']} "
        f"after {header['nsymbt']} bytes of extended header (nsymbt)"
    )


def _pixel_angstrom(header) -> tuple[float, float]:
    """Sides (x, y) of a pixel as the header has them: the cell over its intervals, or over the pixels."""
    intervals = [int(header["m" + axis]) or int(header["n" + axis]) for axis in "xy"]
    return tuple(float(header["cella"][axis]) / n for axis, n in zip("xy", intervals, strict=True))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
