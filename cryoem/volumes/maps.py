"""Density maps in MRC files (MRC2014, gzipped or not), and the headers of all MRC files."""

from __future__ import annotations

import gzip
import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoem.files.writing import atomic_write
from cryoem.volumes.density import DensityMap

HEADER_BYTES = 1024
DTYPES_BY_MODE = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
LARGEST_SIDE_PX = 2**16 - 1  # in the wrong byte order, every smaller side is larger than this
BYTE_ORDERS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}  # by machine stamp; others state nothing
LARGEST_VOXEL_ANGSTROM = 1e6
DEFLATE_LIMIT = 1032  # a gzip stream never expands by more than this factor


@dataclass(frozen=True)
class MrcHeader:
    """The header of an MRC file.

    ``fields`` by their lower-case MRC2014 names; ``shape`` (nz, ny, nx), sections, rows and columns in the order of
    the file; ``dtype`` of the values with its byte order; ``start``, the position of the first value in bytes.
    """

    fields: np.void
    shape: tuple[int, int, int]
    dtype: np.dtype
    start: int

    @property
    def end(self) -> int:
        """Length in bytes of a file with this header."""
        return self.start + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @property
    def has_map_id(self) -> bool:
        """Whether the MAP identifier is present."""
        return bytes(self.fields["map"])[:3] == b"MAP"

    def __str__(self) -> str:
        nz, ny, nx = self.shape
        return f"its header states {nx} x {ny} x {nz} values of mode {self.fields['mode']}, {self.end} bytes"


def parse_header(content: bytes, path: Path, *, kind: str) -> MrcHeader:
    """Parse the first 1024 bytes of an MRC file; ``kind`` ("a map", "an MRC stack") is for errors.

    The byte order is the one in which the sizes are valid, and must match the machine stamp. Files without a
    stamp are common, and files with a wrong size are not readable in either order.
    """
    from mrcfile.dtypes import HEADER_DTYPE

    if len(content) < HEADER_BYTES:
        raise ValueError(
            f"{path} is not {kind}: it must have a header of {HEADER_BYTES} bytes, got {len(content)} bytes"
        )
    for byte_order in "><":
        fields = np.frombuffer(content, HEADER_DTYPE.newbyteorder(byte_order), count=1)[0]
        mode, extended = int(fields["mode"]), int(fields["nsymbt"])
        nz, ny, nx = shape = tuple(int(fields[name]) for name in ("nz", "ny", "nx"))
        sizes_make_sense = nz >= 0 and 0 < ny <= LARGEST_SIDE_PX and 0 < nx <= LARGEST_SIDE_PX
        if sizes_make_sense and extended >= 0 and mode in range(128):
            break
    else:
        raise ValueError(
            f"{path} is not {kind}: its header states {nx} x {ny} x {nz} values of mode {mode} "
            f"after {extended} bytes of extended header (nsymbt)"
        )
    stamp = bytes(fields["machst"])[:2]
    if BYTE_ORDERS.get(stamp, byte_order) != byte_order:
        raise ValueError(
            f"{path} has the machine stamp {stamp.hex(' ')}, which does not match the byte order of its header"
        )
    if mode not in DTYPES_BY_MODE:
        raise ValueError(f"{path} must have mode {', '.join(map(str, DTYPES_BY_MODE))}, got mode {mode}")
    dtype = np.dtype(DTYPES_BY_MODE[mode]).newbyteorder(byte_order)
    return MrcHeader(fields, shape, dtype, HEADER_BYTES + extended)


def read_map(path: str | os.PathLike, *, default_voxel_size_angstrom: float = 1.0) -> DensityMap:
    """Read a density map from an MRC or CCP4 file (``.mrc``, ``.map``, gzipped or not).

    Parameters
    ----------
    path : path-like
        The file: modes 0, 1, 2, 6 and 12, in either byte order.
    default_voxel_size_angstrom : float
        Used, with a warning, if the header gives no cell.

    Returns
    -------
    DensityMap
        Data (z, y, x) float32, regardless of the order of the axes in the file. The origin is the header's ORIGIN field
        or, if that is zero, the start indices (NXSTART ...) times the voxel size.

    Warns
    -----
    UserWarning
        The header lacks the MAP identifier or the cell.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not a map, is truncated or longer than its header states, does not match its machine stamp, is an
        image or a stack of images, or has voxels that are not cubes or values that are not finite.

    References
    ----------
    Cheng et al., J. Struct. Biol. 192 (2015) 146.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no map file at {path}")
    header = parse_header(_read_bytes(path, 0, HEADER_BYTES), path, kind="a map")
    if header.shape[0] == 0:
        raise ValueError(f"{path} is not a map: {header}")
    to_zyx = _axes_to_zyx(path, header)
    shape_xyz = [header.shape[axis] for axis in reversed(to_zyx)]
    _refuse_images(path, header, shape_xyz)
    if not header.has_map_id:
        warnings.warn(f"{path} lacks the MAP identifier in its header", UserWarning, stacklevel=2)
    voxel_size_angstrom = _voxel_size(path, header, shape_xyz)
    if voxel_size_angstrom is None:
        voxel_size_angstrom = default_voxel_size_angstrom
        warnings.warn(
            f"{path} has no cell in its header; assuming {voxel_size_angstrom} angstrom per voxel",
            UserWarning,
            stacklevel=2,
        )
    origin = tuple(float(header.fields["origin"][axis]) for axis in "xyz")
    if not any(origin):
        start = [int(header.fields[name]) for name in ("nzstart", "nystart", "nxstart")]
        origin = tuple(start[axis] * voxel_size_angstrom for axis in reversed(to_zyx))
    data = _read_data(path, header)
    try:
        return DensityMap(data.transpose(to_zyx), voxel_size_angstrom, origin)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_map(path: str | os.PathLike, density_map: DensityMap) -> None:
    """Write a map as MRC2014, mode 2, gzipped if the name ends in ``.gz``, atomically.

    Raises
    ------
    OSError
        The file cannot be written; an existing one is kept.
    """
    import mrcfile

    path = Path(path)
    compression = "gzip" if path.suffix == ".gz" else None
    with atomic_write(path) as partial, mrcfile.new(partial, compression=compression) as mrc:
        mrc.set_data(density_map.data)
        mrc.set_volume()
        mrc.voxel_size = density_map.voxel_size_angstrom
        mrc.header.origin = density_map.origin
        mrc.header.label[0] = "cryoem"  # replaces a time stamp, so that equal maps give equal files


def _axes_to_zyx(path: Path, header: MrcHeader) -> list[int]:
    """Return the axes of the file that are z, y and x, from the header's MAPC, MAPR and MAPS."""
    order = [int(header.fields[name]) for name in ("maps", "mapr", "mapc")]  # x is 1, y is 2, z is 3
    if order == [0, 0, 0]:
        order = [3, 2, 1]
    if sorted(order) != [1, 2, 3]:
        raise ValueError(
            f"{path} must have the axes 1, 2, 3 in some order (MAPC, MAPR, MAPS), got {order[::-1]}"
        )
    return [order.index(axis) for axis in (3, 2, 1)]


def _refuse_images(path: Path, header: MrcHeader, shape_xyz: list[int]) -> None:
    """Raise unless the file is one volume; the space group is not conclusive, because programs use it differently."""
    nx, ny, nz = shape_xyz
    if nz == 1:
        raise ValueError(f"{path} must be a density map, got a single image of {nx} x {ny} pixels")
    no_cell = not any(header.fields["cella"][axis] for axis in "xyz")
    is_stack = path.name.removesuffix(".gz").endswith(".mrcs") or int(header.fields["mz"]) == 1
    if int(header.fields["ispg"]) == 401 or is_stack or (no_cell and nx == ny != nz):
        raise ValueError(f"{path} must be one density map, got a stack of {nz} images of {nx} x {ny} pixels")


def _voxel_size(path: Path, header: MrcHeader, shape_xyz: list[int]) -> float | None:
    """Return the edge of the cubic voxels in angstrom, None if the header has no cell."""
    fields = header.fields
    cell = np.array([fields["cella"][axis] for axis in "xyz"], dtype=float)
    angles = np.array([fields["cellb"][name] for name in ("alpha", "beta", "gamma")], dtype=float)
    intervals = np.array([fields[name] for name in ("mx", "my", "mz")], dtype=float)
    if not cell.any():
        return None
    if not (np.isfinite(cell).all() and (cell > 0).all()):
        raise ValueError(f"{path} must have a positive cell, got {' x '.join(map(str, cell))} angstrom")
    if angles.any() and not np.allclose(angles, 90, atol=0.01):
        raise ValueError(
            f"{path} must have a cell with right angles, got {', '.join(map(str, angles))} degrees"
        )
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
            f"{path} must have voxels of at most {LARGEST_VOXEL_ANGSTROM:g} angstrom, got {voxel.mean():.4g}"
        )
    return float(voxel.mean())


def _read_data(path: Path, header: MrcHeader) -> np.ndarray:
    """Read the voxels in the file's order of axes, after comparing the stated size with that of the file."""
    file_bytes = path.stat().st_size
    if header.end > file_bytes * (DEFLATE_LIMIT if _is_gzip(path) else 1):
        raise ValueError(f"{path} is truncated: {header}, got a file of {file_bytes} bytes")
    # One byte more than the voxels: gzip verifies its checksum at the end of the stream only.
    content = _read_bytes(path, header.start, header.end - header.start + 1)
    if header.start + len(content) < header.end:
        raise ValueError(f"{path} is truncated: {header}, got {header.start + len(content)} bytes")
    if header.start + len(content) > header.end:
        raise ValueError(f"{path} is longer than its header states: {header}, got more")
    return np.frombuffer(content, header.dtype).reshape(header.shape)


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
