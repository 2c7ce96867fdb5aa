"""Density maps in MRC files (MRC2014, optionally gzipped), and the headers of all MRC files."""

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
LARGEST_SIDE_PX = 2**16 - 1  # in the wrong byte order, smaller sides exceed this limit
BYTE_ORDERS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}  # machine stamps; others are ignored
LARGEST_VOXEL_ANGSTROM = 1e6
DEFLATE_LIMIT = 1032  # a gzip stream never expands by more than this factor


@dataclass(frozen=True)
class MrcHeader:
    """Header of an MRC file.

    ``fields`` contains the fields under their lower-case MRC2014 names. ``shape`` is (nz, ny, nx): sections, rows and
    columns in file order. ``dtype`` is the type of the values with its byte order. ``start`` is the offset of the first
    value in bytes.
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
        """Whether the header contains the MAP identifier."""
        return bytes(self.fields["map"])[:3] == b"MAP"

    def __str__(self) -> str:
        nz, ny, nx = self.shape
        return (
            f"its header states {nx} x {ny} x {nz} values of mode {self.fields['mode']}, or {self.end} bytes"
        )


def parse_header(content: bytes, path: Path, *, kind: str) -> MrcHeader:
    """Parse the first 1024 bytes of an MRC file; errors state its ``kind`` ("a map" or "an MRC stack").

    The byte order is the one in which the sizes are valid; it must agree with the machine stamp. The stamp alone is not
    sufficient, because many files have none.
    """
    from mrcfile.dtypes import HEADER_DTYPE

    if len(content) < HEADER_BYTES:
        raise ValueError(
            f"{path} is not {kind}: its header must have {HEADER_BYTES} bytes, got {len(content)} bytes"
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
            f"{path} is not {kind}: its header is implausible: size {nx} x {ny} x {nz}, mode {mode}, "
            f"extended header of {extended} bytes (nsymbt)"
        )
    stamp = bytes(fields["machst"])[:2]
    if BYTE_ORDERS.get(stamp, byte_order) != byte_order:
        raise ValueError(
            f"{path} has the machine stamp {stamp.hex(' ')}, which does not match the byte order of its header"
        )
    if mode not in DTYPES_BY_MODE:
        known = ", ".join(map(str, DTYPES_BY_MODE))
        raise ValueError(f"{path} has the unsupported mode {mode}; supported modes are {known}")
    dtype = np.dtype(DTYPES_BY_MODE[mode]).newbyteorder(byte_order)
    return MrcHeader(fields, shape, dtype, HEADER_BYTES + extended)


def read_map(path: str | os.PathLike, *, default_voxel_size_angstrom: float = 1.0) -> DensityMap:
    """Read a density map from an MRC or CCP4 file (``.mrc`` or ``.map``, optionally gzipped).

    Parameters
    ----------
    path : path-like
        Path of the map, with mode 0, 1, 2, 6 or 12 and either byte order.
    default_voxel_size_angstrom : float
        Voxel size in angstrom to assume, with a warning, if the header has no cell. Default: 1.

    Returns
    -------
    DensityMap
        Map with (z, y, x) float32 data, regardless of the axis order in the file. Its origin is the ORIGIN field of the
        header or, if this field is zero, the start indices (NXSTART, NYSTART, NZSTART) times the voxel size.

    Warns
    -----
    UserWarning
        The header lacks the MAP identifier or the cell.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is not a map, is truncated or longer than its header states, has a machine stamp that contradicts its
        byte order, contains an image or a stack of images, or has voxels that are not cubic or values that are not
        finite.

    References
    ----------
    MRC2014 format: Cheng et al., J. Struct. Biol. 192 (2015) 146.
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
    """Write a map atomically in MRC2014 format, mode 2. The file is gzipped if its name ends in ``.gz``.

    Raises
    ------
    OSError
        The file cannot be written. An existing file is kept.
    """
    import mrcfile

    path = Path(path)
    compression = "gzip" if path.suffix == ".gz" else None
    with atomic_write(path) as partial, mrcfile.new(partial, compression=compression) as mrc:
        mrc.set_data(density_map.data)
        mrc.set_volume()
        mrc.voxel_size = density_map.voxel_size_angstrom
        mrc.header.origin = density_map.origin
        mrc.header.label[0] = "cryoem"  # instead of a time stamp, so that equal maps produce equal files


def _axes_to_zyx(path: Path, header: MrcHeader) -> list[int]:
    """Return the axes of the file that are z, y and x, according to MAPC, MAPR and MAPS in the header."""
    order = [int(header.fields[name]) for name in ("maps", "mapr", "mapc")]  # x is 1, y is 2, z is 3
    if order == [0, 0, 0]:
        order = [3, 2, 1]
    if sorted(order) != [1, 2, 3]:
        raise ValueError(
            f"{path}: the axes MAPC, MAPR and MAPS must be 1, 2 and 3 in any order, got {order[::-1]}"
        )
    return [order.index(axis) for axis in (3, 2, 1)]


def _refuse_images(path: Path, header: MrcHeader, shape_xyz: list[int]) -> None:
    """Raise an error unless the file contains one volume.

    The space group alone is not conclusive, because programs use it differently.
    """
    nx, ny, nz = shape_xyz
    if nz == 1:
        raise ValueError(f"{path} is a single image of {nx} x {ny} pixels, not a density map")
    no_cell = not any(header.fields["cella"][axis] for axis in "xyz")
    is_stack = path.name.removesuffix(".gz").endswith(".mrcs") or int(header.fields["mz"]) == 1
    if int(header.fields["ispg"]) == 401 or is_stack or (no_cell and nx == ny != nz):
        raise ValueError(f"{path} is a stack of {nz} images of {nx} x {ny} pixels, not a density map")


def _voxel_size(path: Path, header: MrcHeader, shape_xyz: list[int]) -> float | None:
    """Return the edge length of the cubic voxels in angstrom, or None if the header has no cell."""
    fields = header.fields
    cell = np.array([fields["cella"][axis] for axis in "xyz"], dtype=float)
    angles = np.array([fields["cellb"][name] for name in ("alpha", "beta", "gamma")], dtype=float)
    intervals = np.array([fields[name] for name in ("mx", "my", "mz")], dtype=float)
    if not cell.any():
        return None
    if not (np.isfinite(cell).all() and (cell > 0).all()):
        raise ValueError(f"{path}: cell edges must be positive, got {' x '.join(map(str, cell))} angstrom")
    if angles.any() and not np.allclose(angles, 90, atol=0.01):
        raise ValueError(f"{path}: cell angles must be 90 degrees, got {', '.join(map(str, angles))} degrees")
    if (intervals < 0).any():
        raise ValueError(
            f"{path}: the cell intervals MX, MY and MZ must not be negative, "
            f"got {', '.join(f'{n:.0f}' for n in intervals)}"
        )
    voxel = cell / np.where(intervals > 0, intervals, shape_xyz)
    if np.ptp(voxel) > 1e-3 * voxel.mean():
        raise ValueError(
            f"{path}: voxels must be cubic, got {' x '.join(f'{edge:.4g}' for edge in voxel)} angstrom"
        )
    if voxel.mean() > LARGEST_VOXEL_ANGSTROM:
        raise ValueError(
            f"{path}: voxels must be at most {LARGEST_VOXEL_ANGSTROM:g} angstrom wide, got {voxel.mean():.4g}"
        )
    return float(voxel.mean())


def _read_data(path: Path, header: MrcHeader) -> np.ndarray:
    """Read the voxels in file order, after comparing the length in the header with that of the file."""
    file_bytes = path.stat().st_size
    if header.end > file_bytes * (DEFLATE_LIMIT if _is_gzip(path) else 1):
        raise ValueError(f"{path} is truncated: {header}, but the file has {file_bytes} bytes")
    # Read one byte past the voxels: gzip verifies its checksum only at the end of the stream.
    content = _read_bytes(path, header.start, header.end - header.start + 1)
    if header.start + len(content) < header.end:
        raise ValueError(
            f"{path} is truncated: {header}, but the file has {header.start + len(content)} bytes"
        )
    if header.start + len(content) > header.end:
        raise ValueError(f"{path} is too long: {header}, but the file has more")
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
