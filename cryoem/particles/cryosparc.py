"""cryoSPARC's particle files (``.cs``): a NumPy array of records, and its fields in the conventions of this project."""

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
    """The table of a ``.cs`` file, a row a particle; element k of a field of several is the column ``field/k``.

    Nothing but numbers and text is ever loaded, and no memory taken for more than the file holds.

    Raises
    ------
    OSError : the file cannot be read.
    ValueError : it is not a NumPy array of records, it holds objects, it holds none, it is not as long as its header
        says, or a text is not UTF-8.
    """
    import pandas as pd

    records = _records(path)
    columns: dict[str, np.ndarray] = {}
    for name in records.dtype.names:
        values = records[name]
        if values.dtype.kind == "S":
            values = _text(path, name, values)
        if values.ndim == 1:
            columns[name] = values
        else:
            values = values.reshape(len(values), -1)
            columns |= {f"{name}/{k}": values[:, k] for k in range(values.shape[1])}
    return pd.DataFrame(columns)


def image_names(path: Path, table: pd.DataFrame) -> list[str]:
    """'number@stack' of each particle, numbers from 1; the ``>`` that cryoSPARC may put before a path is left out.

    Raises
    ------
    ValueError : the file does not say where the images are, or a number is not one.
    """
    missing = [name for name in IMAGE if name not in table]
    if missing:
        raise ValueError(
            f"{path} must say where the images are, got no field {missing[0]}: open the file of the same job, or the "
            "one of an earlier job, that has it"
        )
    numbers = Columns(path, table).numbers(IMAGE[1]).astype(int) + 1
    stacks = table[IMAGE[0]].astype(str).str.removeprefix(">")
    if stacks.eq("").any():
        raise ValueError(
            f"{path} must name a stack in each row, got none in row {int(np.argmax(stacks.eq(''))) + 1}"
        )
    return [f"{number:06d}@{stack}" for number, stack in zip(numbers, stacks, strict=True)]


def pixel_sizes(columns: Columns) -> np.ndarray | None:
    """Pixel size (angstrom) of each particle's image, (n,); None where the file states none.

    Raises
    ------
    ValueError : a value is not finite.
    """
    return columns.numbers(PIXEL) if PIXEL in columns else None


def rotations(columns: Columns) -> Rotation | None:
    """Orientations by alignments3D/pose, else by the in-plane angle alignments2D/pose, which RELION calls psi.

    Warns
    -----
    UserWarning : there are in-plane angles only.

    Raises
    ------
    ValueError : a value is not finite.

    Source: pyem's csparc2star and cryoDRGN's parse_pose_csparc, which agree.
    """
    if "alignments3D/pose/0" in columns:
        pose = np.stack([columns.numbers(f"alignments3D/pose/{k}") for k in range(3)], axis=1)
        return from_cryosparc_pose(pose)
    if "alignments2D/pose" in columns:
        warnings.warn(
            f"{columns.path} has no orientations (alignments3D), only angles in the plane (alignments2D): "
            "took these as turns about the direction of view",
            UserWarning,
            stacklevel=4,
        )
        psi = np.rad2deg(columns.numbers("alignments2D/pose"))
        return from_relion_euler_deg(np.stack([np.zeros_like(psi), np.zeros_like(psi), psi], axis=1))
    return None


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Displacement (x, y) of each particle, (n, 2): minus cryoSPARC's shift, which has RELION's sign.

    A shift counts pixels of its own alignment, psize_A, and these images' where that is not given.

    Raises
    ------
    ValueError : a value is not finite, or a pixel size not positive.
    """
    for alignment in ("alignments3D", "alignments2D"):
        if f"{alignment}/shift/0" in columns:
            shifts = np.stack([columns.numbers(f"{alignment}/shift/{k}") for k in range(2)], axis=1)
            if f"{alignment}/psize_A" not in columns:
                return -shifts
            own = positive_sizes(columns, columns.numbers(PIXEL, default=pixel_size_angstrom))
            return -shifts * (columns.numbers(f"{alignment}/psize_A") / own)[:, None]
    return None


def contrast(columns: Columns) -> Contrast | None:
    """The contrast transfer of each particle, see ``contrast_of``; where blob/sign is -1, particles are dark."""
    found = contrast_of(columns, CONTRAST)
    return None if found is None else replace(found, inverted=columns.numbers(SIGN, default=1.0) > 0)


def _records(path: Path) -> np.ndarray:
    """The array of a file, after its header was held against its length."""
    try:
        with open(path, "rb") as stream:
            n_records, dtype = _header(path, stream)
            start, n_bytes = stream.tell(), stream.seek(0, 2)
            claimed = start + n_records * dtype.itemsize
            if claimed != n_bytes:
                raise ValueError(
                    f"{path} must be as long as its header says, {n_records} records and {claimed} bytes, "
                    f"got {n_bytes} bytes"
                )
            stream.seek(start)
            records = np.frombuffer(stream.read(n_records * dtype.itemsize), dtype)
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None
    return records.astype(dtype.newbyteorder("="))


def _header(path: Path, stream) -> tuple[int, np.dtype]:
    """How many records of which kind follow; the stream stands where they begin."""
    try:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"its format has the version {version}")
        length = int.from_bytes(stream.peek(4)[: 2 * version[0]], "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"its header claims {length} bytes")
        with warnings.catch_warnings(action="ignore"):  # of headers by Python 2, which early cryoSPARC has
            shape, _, dtype = readers[version](stream, max_header_size=LONGEST_HEADER)
    except OSError:
        raise
    except Exception as error:
        # a header is a Python literal, and NumPy lets through whatever its parser raises
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(f"{path} must be a NumPy array (.npy), as cryoSPARC writes it: {reason}") from None
    if dtype.names is None or len(shape) != 1:
        raise ValueError(
            f"{path} must hold records, one a particle, got an array of {dtype} and shape {shape}"
        )
    for name in dtype.names:
        if dtype[name].base.kind not in "biufSU":
            raise ValueError(f"{path} must hold numbers and text, got {dtype[name]} in the field {name}")
    if shape[0] < 1 or dtype.itemsize < 1:
        raise ValueError(f"{path} names no images: it holds {shape[0]} records of {dtype.itemsize} bytes")
    return shape[0], dtype


def _text(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    try:
        return np.char.decode(values, "utf-8").astype(object)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must have UTF-8 text in the field {name}: {error}") from None
