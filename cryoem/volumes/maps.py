"""A density map, and its only way to and from the disk: MRC files (MRC2014, gzipped or not)."""

from __future__ import annotations

import gzip
import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoem.checks import positive_number
from cryoem.machine_stamp import check_machine_stamp
from cryoem.whole_files import cannot_write, whole_file

HEADER_BYTES = 1024
DTYPES_BY_MODE = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
LARGEST_AXIS_PX = 2**20
LARGEST_VOXEL_ANGSTROM = 1e6
DEFLATE_LIMIT = 1032  # a gzip stream never expands by more than this factor


@dataclass(frozen=True, eq=False)
class DensityMap:
    """Density on a regular grid.

    Parameters
    ----------
    data : (z, y, x) real array, kept as float32.
    voxel_size_angstrom : edge of the cubic voxels.
    origin : (x, y, z) angstrom, the position of the centre of voxel [0, 0, 0] in the frame of the model.

    Raises
    ------
    ValueError : ``data`` is not 3-D, empty, complex or not finite; ``voxel_size_angstrom`` is not positive;
        ``origin`` is not three finite numbers.
    """

    data: np.ndarray
    voxel_size_angstrom: float
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self):
        data = np.asarray(self.data)
        if data.ndim != 3 or data.size == 0:
            raise ValueError(f"data must be (z, y, x) with at least one voxel, got shape {data.shape}")
        if data.dtype.kind not in "biuf":
            raise ValueError(f"data must be real numbers, got {data.dtype}")
        with np.errstate(over="ignore"):  # what overflows float32 is reported as infinite below
            data = data.astype(np.float32, copy=False)
        if not np.isfinite(data).all():
            n_nan, n_infinite = np.count_nonzero(np.isnan(data)), np.count_nonzero(np.isinf(data))
            raise ValueError(
                f"data must be finite, got {n_nan} NaN and {n_infinite} infinite voxels of {data.size}"
            )
        positive_number(self.voxel_size_angstrom, name="voxel_size_angstrom")
        origin = tuple(float(value) for value in self.origin)
        if len(origin) != 3 or not np.isfinite(origin).all():
            raise ValueError(f"origin must be three finite numbers (x, y, z), got {self.origin}")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "voxel_size_angstrom", float(self.voxel_size_angstrom))
        object.__setattr__(self, "origin", origin)


def read_map(path: str | os.PathLike, *, default_voxel_size_angstrom: float = 1.0) -> DensityMap:
    """Read a density map from an MRC / CCP4 file (``.mrc``, ``.map``, gzipped or not); the file never changes.

    Parameters
    ----------
    path : the file; integer modes 0, 1, 6 and the float modes 2, 12 are read, in either byte order.
    default_voxel_size_angstrom : used, with a warning, where the header gives no cell.

    Returns
    -------
    DensityMap with data (z, y, x) float32 whatever the order of the axes in the file.  Its origin is the
    header's ORIGIN field or, where that is zero, the start indices (NXSTART ...) times the voxel size.

    Warns
    -----
    UserWarning : the header lacks the MAP identifier, or the cell size.

    Raises
    ------
    FileNotFoundError : no such file.
    ValueError : not a map, truncated, longer than its header says, of another byte order than its machine stamp says,
        an image or an image stack, voxels that are not cubes, or voxels that are not finite.

    Source: MRC2014, Cheng et al., J. Struct. Biol. 192 (2015) 146.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no map file at {path}")
    header, byte_order = _read_header(path)
    order = [int(header[name]) for name in ("maps", "mapr", "mapc")]  # which of x=1, y=2, z=3 a file axis is
    if order == [0, 0, 0]:
        order = [3, 2, 1]
    if sorted(order) != [1, 2, 3]:
        raise ValueError(
            f"{path} must have the axes 1, 2, 3 in some order (MAPC, MAPR, MAPS), got {order[::-1]}"
        )
    to_zyx = [order.index(3), order.index(2), order.index(1)]
    shape = [int(header[name]) for name in ("nz", "ny", "nx")]
    shape_xyz = [shape[axis] for axis in reversed(to_zyx)]
    _refuse_images(path, header, shape_xyz)
    if bytes(header["map"])[:3] != b"MAP":
        warnings.warn(
            f"{path} lacks the MAP identifier in its header; read as a map all the same",
            UserWarning,
            stacklevel=2,
        )
    voxel_size_angstrom = _voxel_size(path, header, shape_xyz)
    if voxel_size_angstrom is None:
        voxel_size_angstrom = default_voxel_size_angstrom
        warnings.warn(
            f"{path} has no cell size in its header; took {voxel_size_angstrom} angstrom a voxel",
            UserWarning,
            stacklevel=2,
        )
    origin = tuple(float(header["origin"][axis]) for axis in "xyz")
    if not any(origin):
        start = [int(header[name]) for name in ("nzstart", "nystart", "nxstart")]
        origin = tuple(start[axis] * voxel_size_angstrom for axis in reversed(to_zyx))
    data = _read_data(path, header, byte_order, shape)
    try:
        return DensityMap(np.ascontiguousarray(data.transpose(to_zyx)), voxel_size_angstrom, origin)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_map(path: str | os.PathLike, density_map: DensityMap) -> None:
    """Write a map as MRC2014, mode 2, gzipped where the name ends in ``.gz``.

    The file appears complete or not at all: it is written next to its place under another name and then
    moved, so that a failure leaves an older file of that name as it was.

    Raises
    ------
    FileNotFoundError : the folder does not exist.
    OSError : the file cannot be written.
    """
    import mrcfile

    path = Path(path)
    compression = "gzip" if path.suffix == ".gz" else None
    with (
        whole_file(path) as aside,
        cannot_write(path),
        mrcfile.new(aside, compression=compression) as mrc,
    ):
        mrc.set_data(density_map.data)
        mrc.set_volume()
        mrc.voxel_size = density_map.voxel_size_angstrom
        mrc.header.origin = density_map.origin
        mrc.header.label[0] = "cryoem"  # in place of a time stamp: equal maps give equal files


def _read_header(path: Path):
    """The header, and the byte order (``"<"`` or ``">"``) in which it makes sense."""
    from mrcfile.dtypes import HEADER_DTYPE

    content = _read_bytes(path, 0, HEADER_BYTES)
    if len(content) < HEADER_BYTES:
        raise ValueError(
            f"{path} is not a map: it must have a header of {HEADER_BYTES} bytes, got {len(content)} bytes"
        )
    for byte_order in "<>":
        header = np.frombuffer(content, dtype=HEADER_DTYPE.newbyteorder(byte_order))[0]
        sizes = [int(header[name]) for name in ("nx", "ny", "nz")]
        sensible_size = all(0 < size <= LARGEST_AXIS_PX for size in sizes)
        if int(header["mode"]) in range(128) and sensible_size and header["nsymbt"] >= 0:
            break
    else:
        header = np.frombuffer(content, dtype=HEADER_DTYPE.newbyteorder("<"))[0]
        size = " x ".join(str(header[name]) for name in ("nx", "ny", "nz"))
        raise ValueError(
            f"{path} is not a map: its header claims {size} voxels of mode {header['mode']} "
            f"after {header['nsymbt']} bytes of extended header (nsymbt)"
        )
    check_machine_stamp(path, header, byte_order)
    if int(header["mode"]) not in DTYPES_BY_MODE:
        raise ValueError(
            f"{path} must have mode {', '.join(map(str, DTYPES_BY_MODE))}, got mode {header['mode']}"
        )
    return header, byte_order


def _read_data(path: Path, header, byte_order: str, shape: list[int]) -> np.ndarray:
    """Voxels in the file's order of axes; the size claimed is held against the file before anything is allocated."""
    dtype = np.dtype(DTYPES_BY_MODE[int(header["mode"])]).newbyteorder(byte_order)
    start = HEADER_BYTES + int(header["nsymbt"])
    n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    size = " x ".join(map(str, shape[::-1]))
    claim = f"its header claims {size} voxels of mode {header['mode']}, {start + n_bytes} bytes"
    file_bytes = path.stat().st_size
    if start + n_bytes > file_bytes * (DEFLATE_LIMIT if _is_gzip(path) else 1):
        raise ValueError(f"{path} is truncated: {claim}, got a file of {file_bytes} bytes")
    content = _read_bytes(path, start, n_bytes + 1)  # one more: gzip verifies its checksum at the end only
    if len(content) < n_bytes:
        raise ValueError(f"{path} is truncated: {claim}, got {start + len(content)} bytes")
    if len(content) > n_bytes:
        raise ValueError(f"{path} must end with its last voxel: {claim}, got more")
    return np.frombuffer(content, dtype=dtype).reshape(shape)


def _read_bytes(path: Path, start: int, n_bytes: int) -> bytes:
    try:
        with gzip.open(path) if _is_gzip(path) else open(path, "rb") as stream:
            stream.seek(start)
            return stream.read(n_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read the map {path}: {error}") from None


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _refuse_images(path: Path, header, shape_xyz: list[int]) -> None:
    """Raise unless the file is one volume; the space group (0 for images) is not to be trusted, programs differ."""
    nx, ny, nz = shape_xyz
    if nz == 1:
        raise ValueError(f"{path} must be a density map, got a single image of {nx} x {ny} pixels")
    no_cell = not any(header["cella"][axis] for axis in "xyz")
    stack_of_volumes = int(header["ispg"]) == 401
    is_stack = path.name.removesuffix(".gz").endswith(".mrcs") or (int(header["mz"]) == 1 and nz > 1)
    if stack_of_volumes or is_stack or (no_cell and nx == ny != nz):
        raise ValueError(f"{path} must be one density map, got a stack of {nz} images of {nx} x {ny} pixels")


def _voxel_size(path: Path, header, shape_xyz: list[int]) -> float | None:
    """Edge of the cubic voxels in angstrom, None where the header has no cell."""
    cell = np.array([header["cella"][axis] for axis in "xyz"], dtype=float)
    angles = np.array([header["cellb"][name] for name in ("alpha", "beta", "gamma")], dtype=float)
    if not cell.any():
        return None
    if not (np.isfinite(cell).all() and (cell > 0).all()):
        raise ValueError(f"{path} must have a positive cell, got {' x '.join(map(str, cell))} angstrom")
    if angles.any() and not np.allclose(angles, 90, atol=0.01):
        raise ValueError(
            f"{path} must have a cell with right angles, got {', '.join(map(str, angles))} degrees"
        )
    intervals = np.array([header[name] for name in ("mx", "my", "mz")], dtype=float)
    if (intervals < 0).any():
        raise ValueError(
            f"{path} must have positive intervals along its cell (MX, MY, MZ), "
            f"got {', '.join(f'{n:.0f}' for n in intervals)}"
        )
    voxel = cell / np.where(intervals > 0, intervals, shape_xyz)
    if np.ptp(voxel) > 1e-3 * voxel.mean():
        raise ValueError(
            f"{path} must have cubic voxels, got {' x '.join(f'{edge:.4g}' for edge in voxel)} angstrom"
        )
    if voxel.mean() > LARGEST_VOXEL_ANGSTROM:
        raise ValueError(
            f"{path} must have a cell of voxels up to {LARGEST_VOXEL_ANGSTROM:g} angstrom, got {voxel.mean():.4g}"
        )
    return float(voxel.mean())
