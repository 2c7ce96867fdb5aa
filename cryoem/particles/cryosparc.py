"""cryoSPARC's particle files (``.cs``), NumPy arrays of records, in the conventions of this project."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import Columns, read_contrast
from cryoem.rotations import from_cryosparc_pose, from_relion_euler_deg

if TYPE_CHECKING:
    import pandas as pd

IMAGE = ("blob/path", "blob/idx")
PIXEL = "blob/psize_A"
SIGN = "blob/sign"
GROUP = "ctf/exp_group_id"
LONGEST_HEADER = 100_000  # bytes, which NumPy parses as a literal
CONTRAST = {
    "voltage_kv": "ctf/accel_kv",
    "spherical_aberration_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
    "defocus_u_angstrom": "ctf/df1_A",
    "defocus_v_angstrom": "ctf/df2_A",
    "azimuth_rad": "ctf/df_angle_rad",
    "b_factor_angstrom2": "ctf/bfactor",
    "phase_shift_rad": "ctf/phase_shift_rad",
}


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
            own = columns.checked_pixels(columns.numbers(PIXEL, default=pixel_size_angstrom))
            return -shifts * (columns.numbers(f"{alignment}/psize_A") / own)[:, None]
    return None


def contrast(columns: Columns) -> pd.DataFrame | None:
    """Return the contrast transfer of each particle, see ``read_contrast``; particles are dark if blob/sign is -1."""
    found = read_contrast(columns, CONTRAST, angle_unit_rad=1.0)
    return None if found is None else found.assign(inverted=columns.numbers(SIGN, default=1.0) > 0)


def _vectors(columns: Columns, name: str, length: int) -> np.ndarray:
    """Return a field of (n, length) numbers."""
    return np.stack([columns.numbers(f"{name}/{k}") for k in range(length)], axis=1)


def _records(path: Path) -> np.ndarray:
    """Read the array of a file: records of numbers and text, never objects."""
    try:
        with warnings.catch_warnings(action="ignore"):  # early cryoSPARC wrote headers with Python 2
            records = np.lib.format.open_memmap(path, mode="r", max_header_size=LONGEST_HEADER)
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:
        # A header is a Python literal, and NumPy does not catch the exceptions of the parser.
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(
            f"{path} is not a complete NumPy array (.npy) as written by cryoSPARC: {reason}"
        ) from None
    dtype, shape = records.dtype, records.shape
    if dtype.names is None or len(shape) != 1:
        raise ValueError(
            f"{path} must contain records, one per particle, got an array of {dtype} and shape {shape}"
        )
    for name in dtype.names:
        if dtype[name].base.kind not in "biufSU":
            raise ValueError(f"{path} must contain numbers and text, got {dtype[name]} in the field {name}")
    if not records.size:
        raise ValueError(f"{path} contains no particles: 0 records of {dtype.itemsize} bytes")
    stated, n_bytes = records.offset + records.nbytes, path.stat().st_size
    if stated != n_bytes:
        raise ValueError(
            f"{path} must be as long as its header states, {len(records)} records and {stated} bytes, "
            f"got {n_bytes} bytes"
        )
    return np.array(records, dtype.newbyteorder("="))
