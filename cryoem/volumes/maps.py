"""Density maps in MRC files (MRC2014, optionally gzipped)."""

from __future__ import annotations

import gzip
import json
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cryoem.files.reading import is_gzip, why_unreadable
from cryoem.files.writing import atomic_write, write_text
from cryoem.memory import check_box
from cryoem.volumes.density import DensityMap
from cryoem.volumes.headers import (
    HEADER_BYTES,
    SMALLEST_CHANGE_IN_STACKS,
    MrcHeader,
    parse_header,
    section_change,
    sign_doubt,
)

LARGEST_VOXEL_ANGSTROM = 1e6
DEFLATE_LIMIT = 1032  # a gzip stream never expands by more than this factor
BLOCK_BYTES = 2**20
DUST_VOXELS = 8  # extent below which blobs are hidden in ChimeraX
CHIMERAX = """\
# Show {name} in a new ChimeraX session. In napari: napari {name} (with the plugin napari-mrcfile-reader)
open {quoted}
volume #1 style surface level {level:.6g} step 1
set bgColor white
surface dust #1 size {dust:.6g}
view
turn y 2 180
"""


def read_map(
    path: str | os.PathLike, *, default_voxel_size_angstrom: float = 1.0, as_map: bool = False
) -> DensityMap:
    """Read a density map from an MRC or CCP4 file (``.mrc`` or ``.map``, optionally gzipped).

    Parameters
    ----------
    path : path-like
        Path of the map, with mode 0, 1, 2, 6 or 12 and either byte order. Integers of modes 0 and 1 are read as
        unsigned if IMOD's flags say so, or if the range (DMIN, DMAX) is possible only for unsigned integers.
    default_voxel_size_angstrom : float
        Voxel size in angstrom to assume, with a warning, if the header has no cell. Default: 1.
    as_map : bool
        Whether to read the file as a map even if it looks like a stack of images. Default: False. A file marked as a
        stack is then an error, and a file in which neighbouring sections are not alike causes a warning.

    Returns
    -------
    DensityMap
        Map with (z, y, x) float32 data, regardless of the axis order in the file. Its origin is the ORIGIN field of the
        header or, if this field is zero, the start indices (NXSTART, NYSTART, NZSTART) times the voxel size.

    Warns
    -----
    UserWarning
        If the header lacks the MAP identifier or the cell, or does not state whether bytes are signed; the file is
        longer than its header states; or the file may be a stack of images.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not a map, is truncated, has a machine stamp that contradicts its byte order, contains a single
        image or a stack of images, or has voxels that are not cubic or values that are not finite.
    MemoryError
        If the map does not fit into memory.

    References
    ----------
    MRC2014 format: Cheng et al., J. Struct. Biol. 192 (2015) 146. Unsigned bytes: the MRC format of IMOD,
    https://bio3d.colorado.edu/imod/doc/mrc_format.txt.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no map file at {path}")
    with _opened(path) as stream:
        header = parse_header(stream.read(HEADER_BYTES), path, kind="a map")
    if header.shape[0] == 0:
        raise ValueError(f"{path} is not a map: {header}")
    to_zyx = _axes_to_zyx(path, header)
    shape_xyz = [header.shape[axis] for axis in reversed(to_zyx)]
    _refuse_images(path, header, shape_xyz, as_map=as_map)
    if not header.has_map_id:
        warnings.warn(f"{path} lacks the MAP identifier in its header", UserWarning, stacklevel=2)
    if not header.states_sign:
        warnings.warn(f"{path} {sign_doubt(header)}", UserWarning, stacklevel=2)
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
    data, surplus = _read_data(path, header)
    if surplus:
        warnings.warn(
            f"{path} is longer than its header states; ignoring the extra bytes ({surplus})",
            UserWarning,
            stacklevel=2,
        )
    n, ny, nx = header.shape
    # maps written by this package may be noisy half-maps
    is_map = as_map or (int(header.fields["ispg"]) == 1 and bytes(header.fields["label"][0])[:6] == b"cryoem")
    if not is_map and nx == ny and (section_change(data.__getitem__, n) or 0) > SMALLEST_CHANGE_IN_STACKS:
        warnings.warn(
            f"{path} looks like a stack of {n} images of {nx} x {ny} pixels, because neighbouring sections are not "
            "alike; reading it as a density map; if it is a map, pass as_map=True (--as-map)",
            UserWarning,
            stacklevel=2,
        )
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
    compression = "gzip" if path.suffix.lower() == ".gz" else None
    with atomic_write(path) as partial, mrcfile.new(partial, compression=compression) as mrc:
        with np.errstate(over="ignore"):
            mrc.set_data(density_map.data)
        if not np.isfinite(mrc.header.rms):  # computed in float32
            mrc.header.rms = density_map.data.std(dtype=float)
        mrc.set_volume()
        mrc.voxel_size = density_map.voxel_size_angstrom
        mrc.header.origin = density_map.origin
        mrc.header.label[0] = "cryoem"  # instead of a time stamp, so that equal maps produce equal files


def chimerax_script_path(path: str | os.PathLike) -> Path:
    """Return the path of the ChimeraX script of a map: ``map.cxc`` for ``map.mrc`` and ``map.mrc.gz``."""
    path = Path(path)
    return path.with_name(re.sub(r"(\.\w+)?(\.gz)?$", "", path.name, count=1, flags=re.IGNORECASE) + ".cxc")


def write_chimerax_script(path: str | os.PathLike, density_map: DensityMap, *, level: float) -> Path:
    """Write a script that shows a map in UCSF ChimeraX, to the folder and under the name of the map.

    The script opens the map, draws the surface at full resolution on white, hides small blobs and turns the map once
    about the vertical axis. A comment states how to open the map in napari. ChimeraX runs a script in its own folder,
    so map and script can be moved together.

    Parameters
    ----------
    path : path-like
        Path of the map.
    density_map : DensityMap
        The map.
    level : float
        Density of the surface.

    Returns
    -------
    Path
        Path of the script, as in ``chimerax_script_path``.

    Raises
    ------
    OSError
        The file cannot be written. An existing file is kept.

    References
    ----------
    ChimeraX commands: https://www.cgl.ucsf.edu/chimerax/docs/user/commands/volume.html.
    """
    name, script = Path(path).name, chimerax_script_path(path)
    dust = DUST_VOXELS * density_map.voxel_size_angstrom
    quoted = json.dumps(name, ensure_ascii=False)
    write_text(script, CHIMERAX.format(name=name, quoted=quoted, level=level, dust=dust))
    return script


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


def _refuse_images(path: Path, header: MrcHeader, shape_xyz: list[int], *, as_map: bool) -> None:
    """Raise an error if the file contains a single image or, unless ``as_map`` is true, is marked as a stack.

    The space group alone is not conclusive, because programs use it differently.
    """
    nx, ny, nz = shape_xyz
    if nz == 1:
        raise ValueError(f"{path} is a single image of {nx} x {ny} pixels, not a density map")
    no_cell = not any(header.fields["cella"][axis] for axis in "xyz")
    is_stack = path.name.lower().removesuffix(".gz").endswith(".mrcs") or int(header.fields["mz"]) == 1
    is_stack = is_stack or int(header.fields["ispg"]) == 401 or (no_cell and nx == ny != nz)
    if is_stack and not as_map:
        raise ValueError(
            f"{path} is a stack of {nz} images of {nx} x {ny} pixels, not a density map; "
            "if it is a map, pass as_map=True (--as-map)"
        )


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


def _read_data(path: Path, header: MrcHeader) -> tuple[np.ndarray, int]:
    """Return the voxels in file order, and the number of bytes after them.

    The length in the header is compared with that of the file and with the memory of the machine before memory is
    allocated.
    """
    file_bytes = path.stat().st_size
    if header.end > file_bytes * (DEFLATE_LIMIT if is_gzip(path) else 1):
        raise ValueError(f"{path} is truncated: {header}, but the file has {file_bytes} bytes")
    check_box(float(np.prod(header.shape, dtype=object)))
    with _opened(path) as stream:
        stream.seek(header.start)
        content = stream.read(header.end - header.start)
        # Read to the end: gzip verifies its checksum only there.
        surplus = sum(len(block) for block in iter(lambda: stream.read(BLOCK_BYTES), b""))
    if header.start + len(content) < header.end:
        raise ValueError(
            f"{path} is truncated: {header}, but the file has {header.start + len(content)} bytes"
        )
    return np.frombuffer(content, header.dtype).reshape(header.shape), surplus


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a map, which may be compressed with gzip."""
    try:
        with gzip.open(path) if is_gzip(path) else open(path, "rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read the map {path}: {why_unreadable(error)}") from None
