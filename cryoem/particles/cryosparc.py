"""cryoSPARC's particle files (``.cs``), NumPy arrays of records, in the conventions of this project."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import Columns, Contrast, ContrastColumns, contrast_of, positive_sizes
from cryoem.rotations import from_cryosparc_pose, from_relion_euler_deg

if TYPE_CHECKING:
    import pandas as pd

IMAGE = ("blob/path", "blob/idx")
PIXEL = "blob/psize_A"
SIGN = "blob/sign"
GROUP = "ctf/exp_group_id"
LONGEST_HEADER = 100_000  # bytes, which NumPy parses as a literal
CONTRAST = ContrastColumns(
    "ctf/accel_kv",
    "ctf/cs_mm",
    "ctf/amp_contrast",
    b_factor_angstrom2="ctf/bfactor",
    phase_shift="ctf/phase_shift_rad",
    defocus_u="ctf/df1_A",
    defocus_v="ctf/df2_A",
    azimuth="ctf/df_angle_rad",
    radians=1.0,
)


def read_cs(path: Path) -> pd.DataFrame:
    """Read the table of a ``.cs`` file, one row per particle; element k of a field is the column ``field/k``.

    Only numbers and text are loaded, never objects, and memory use does not exceed the size of the file.
    """
    import pandas as pd

    records = _records(path)
    columns: dict[str, np.ndarray] = {}
    for name in records.dtype.names:
        values = records[name]
        if values.dtype.kind == "S":
            try:
                values = np.char.decode(values, "utf-8").astype(object)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} must have UTF-8 text in the field {name}: {error}") from None
        if values.ndim == 1:
            columns[name] = values
        else:
            values = values.reshape(len(values), -1)
            columns |= {f"{name}/{k}": values[:, k] for k in range(values.shape[1])}
    return pd.DataFrame(columns)


def image_names(path: Path, table: pd.DataFrame) -> list[str]:
    """Return 'number@stack' of each particle, with numbers from 1, without the ``>`` that may precede a path."""
    missing = [name for name in IMAGE if name not in table]
    if missing:
        raise ValueError(
            f"{path} has no field {missing[0]}, which locates the images; "
            "open a file of this or an earlier job that has it"
        )
    numbers = Columns(path, table).numbers(IMAGE[1]).astype(int) + 1
    stacks = table[IMAGE[0]].astype(str).str.removeprefix(">")
    if stacks.eq("").any():
        raise ValueError(
            f"{path} must name a stack in each row, got none in row {int(np.argmax(stacks.eq(''))) + 1}"
        )
    return [f"{number:06d}@{stack}" for number, stack in zip(numbers, stacks, strict=True)]


def pixel_sizes(columns: Columns) -> np.ndarray | None:
    """Return the pixel size (angstrom) of each particle's image, (n,); None if the file states none."""
    return columns.numbers(PIXEL) if PIXEL in columns else None


def rotations(columns: Columns) -> Rotation | None:
    """Return the orientations by alignments3D/pose or, with a warning, the in-plane angle alignments2D/pose.

    The latter is RELION's psi. Source: pyem's csparc2star and cryoDRGN's parse_pose_csparc, which agree.
    """
    if "alignments3D/pose/0" in columns:
        return from_cryosparc_pose(_vectors(columns, "alignments3D/pose", 3))
    if "alignments2D/pose" in columns:
        warnings.warn(
            f"{columns.path} has no orientations (alignments3D), only in-plane angles (alignments2D): "
            "using these as rotations about the viewing direction",
            UserWarning,
            stacklevel=4,
        )
        psi = np.rad2deg(columns.numbers("alignments2D/pose"))
        return from_relion_euler_deg(np.stack([np.zeros_like(psi), np.zeros_like(psi), psi], axis=1))
    return None


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Return the displacement (x, y) of each particle, (n, 2): minus cryoSPARC's shift, which has RELION's sign.

    The unit of a shift is the pixel of its alignment, psize_A, or that of the images if psize_A is missing.
    """
    for alignment in ("alignments3D", "alignments2D"):
        if f"{alignment}/shift/0" in columns:
            shifts = _vectors(columns, f"{alignment}/shift", 2)
            if f"{alignment}/psize_A" not in columns:
                return -shifts
            own = positive_sizes(columns, columns.numbers(PIXEL, default=pixel_size_angstrom))
            return -shifts * (columns.numbers(f"{alignment}/psize_A") / own)[:, None]
    return None


def contrast(columns: Columns) -> Contrast | None:
    """Return the contrast transfer of each particle, see ``contrast_of``; particles are dark if blob/sign is -1."""
    found = contrast_of(columns, CONTRAST)
    return None if found is None else replace(found, inverted=columns.numbers(SIGN, default=1.0) > 0)


def _vectors(columns: Columns, name: str, length: int) -> np.ndarray:
    """Return a field of (n, length) numbers."""
    return np.stack([columns.numbers(f"{name}/{k}") for k in range(length)], axis=1)


def _records(path: Path) -> np.ndarray:
    """Read the array of a file, after comparing its header with its length."""
    try:
        with open(path, "rb") as stream:
            n_records, dtype = _header(path, stream)
            start, n_bytes = stream.tell(), stream.seek(0, 2)
            claimed = start + n_records * dtype.itemsize
            if claimed != n_bytes:
                raise ValueError(
                    f"{path} must be as long as its header states, {n_records} records and {claimed} bytes, "
                    f"got {n_bytes} bytes"
                )
            stream.seek(start)
            records = np.frombuffer(stream.read(n_records * dtype.itemsize), dtype)
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None
    return records.astype(dtype.newbyteorder("="))


def _header(path: Path, stream) -> tuple[int, np.dtype]:
    """Read the header of a stream up to the first record: the number of records and their type."""
    try:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"unsupported .npy version {version}")
        length = int.from_bytes(stream.peek(4)[: 2 * version[0]], "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"its header states a length of {length} bytes")
        with warnings.catch_warnings(action="ignore"):  # early cryoSPARC wrote headers with Python 2
            shape, _, dtype = readers[version](stream, max_header_size=LONGEST_HEADER)
    except OSError:
        raise
    except Exception as error:
        # A header is a Python literal, and NumPy does not catch the exceptions of the parser.
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(f"{path} is not a NumPy array (.npy) as written by cryoSPARC: {reason}") from None
    if dtype.names is None or len(shape) != 1:
        raise ValueError(
            f"{path} must contain records, one per particle, got an array of {dtype} and shape {shape}"
        )
    for name in dtype.names:
        if dtype[name].base.kind not in "biufSU":
            raise ValueError(f"{path} must contain numbers and text, got {dtype[name]} in the field {name}")
    if shape[0] < 1 or dtype.itemsize < 1:
        raise ValueError(f"{path} contains no particles: {shape[0]} records of {dtype.itemsize} bytes")
    return shape[0], dtype
