"""Read and write cryoSPARC's particle files (``.cs``), NumPy record arrays, in the conventions of this project."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.particles.columns import Columns, read_contrast, write_contrast
from cryoem.particles.locating import IMAGE_NAME
from cryoem.rotations import from_cryosparc_pose, from_relion_euler_deg

if TYPE_CHECKING:
    import pandas as pd

UID = "uid"
IMAGE = ("blob/path", "blob/idx")
PIXEL = "blob/psize_A"
IMAGE_SIZE = ("blob/shape/0", "blob/shape/1")
SIGN = "blob/sign"
GROUP = "ctf/exp_group_id"
SPLIT = "alignments3D/split"
LONGEST_HEADER = 100_000  # bytes; NumPy parses the header as a Python literal
CONTRAST = {
    "voltage_kv": "ctf/accel_kv",
    "spherical_aberration_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
    "defocus_u_angstrom": "ctf/df1_A",
    "defocus_v_angstrom": "ctf/df2_A",
    "azimuth_rad": "ctf/df_angle_rad",
    "b_factor_angstrom2": "ctf/bfactor",
    "phase_shift_rad": "ctf/phase_shift_rad",
    "scale": "ctf/scale",
}


def read_cs(path: Path) -> pd.DataFrame:
    """Read a ``.cs`` file as a table with one row per particle.

    Element k of a vector field becomes the column ``field/k``. Only numbers and text are loaded, never Python objects.
    A header that claims more records than the file contains is rejected before any memory is allocated.
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
                raise ValueError(f"{path}: the field {name} is not UTF-8 text: {error}") from None
        if values.ndim == 1:
            columns[name] = values
        else:
            values = values.reshape(len(values), -1)
            columns |= {f"{name}/{k}": values[:, k] for k in range(values.shape[1])}
    return pd.DataFrame(columns)


def with_passthrough(path: Path, table: pd.DataFrame, passthrough: Path) -> pd.DataFrame:
    """Add the fields that only the passthrough file has to the table, with records matched by uid."""
    other = read_cs(passthrough)
    for file, found in ((path, table), (passthrough, other)):
        if UID not in found:
            raise ValueError(f"{file} has no field {UID}, which is needed to match the passthrough file")
    if other[UID].duplicated().any():
        raise ValueError(
            f"{passthrough} has more than one record with the uid {other[UID][other[UID].duplicated()].iloc[0]}"
        )
    missing = ~table[UID].isin(other[UID])
    if missing.any():
        raise ValueError(
            f"{passthrough} has no record for {int(missing.sum())} of the {len(table)} particles in {path}, "
            f"such as uid {table[UID][missing].iloc[0]}; pass the passthrough file of the same job"
        )
    more = other.set_index(UID).loc[table[UID], [name for name in other if name not in table]]
    return table.join(more.reset_index(drop=True))


def image_names(path: Path, table: pd.DataFrame, passthrough: Path | None = None) -> list[str]:
    """Return 'number@stack' for each image, counted from 1. A ``>`` in front of the path is removed."""
    missing = [name for name in IMAGE if name not in table]
    if missing:
        here, remedy = str(path), "pass the passthrough file of the job (passthrough, --passthrough), or "
        if passthrough is not None:
            here, remedy = f"neither {path} nor {passthrough}", ""
        raise ValueError(
            f"{here} has {'a' if passthrough else 'no'} field {missing[0]}, which locates the images; "
            f"{remedy}open a .cs file of an earlier job that has it"
        )
    numbers = Columns(path, table).numbers(IMAGE[1]).astype(int) + 1
    stacks = table[IMAGE[0]].astype(str).str.removeprefix(">")
    if stacks.eq("").any():
        raise ValueError(f"{path} has no stack name (blob/path) in row {int(np.argmax(stacks.eq(''))) + 1}")
    return [f"{number:06d}@{stack}" for number, stack in zip(numbers, stacks, strict=True)]


def pixel_sizes(columns: Columns) -> dict[str, np.ndarray]:
    """Return the pixel size of each image in angstrom, (n,), by column. Empty if the file does not contain it."""
    return {PIXEL: columns.numbers(PIXEL)} if PIXEL in columns else {}


def rotations(columns: Columns) -> Rotation | None:
    """Return the orientations in alignments3D/pose or, with a warning, the in-plane angles in alignments2D/pose.

    The in-plane angles are RELION's psi. Source: ``csparc2star`` in pyem and ``parse_pose_csparc`` in cryoDRGN, which
    agree.
    """
    if "alignments3D/pose/0" in columns:
        return from_cryosparc_pose(_vectors(columns, "alignments3D/pose", 3))
    if "alignments2D/pose" in columns:
        warnings.warn(
            f"{columns.path} has no orientations (alignments3D), only in-plane angles (alignments2D); "
            "using them as rotations about the viewing direction",
            UserWarning,
            stacklevel=4,
        )
        psi = np.rad2deg(columns.numbers("alignments2D/pose"))
        return from_relion_euler_deg(np.stack([np.zeros_like(psi), np.zeros_like(psi), psi], axis=1))
    return None


def shifts_px(columns: Columns, pixel_size_angstrom: float) -> np.ndarray | None:
    """Return the displacement (x, y) of each particle in pixels, (n, 2).

    The displacement is minus cryoSPARC's shift, which has the sign of RELION's origin. The shift is in pixels of the
    alignment (psize_A) or, if that field is missing, in pixels of the images.
    """
    for alignment in ("alignments3D", "alignments2D"):
        if f"{alignment}/shift/0" in columns:
            shifts = _vectors(columns, f"{alignment}/shift", 2)
            if f"{alignment}/psize_A" not in columns:
                return -shifts
            own = columns.checked_pixels(columns.numbers(PIXEL, default=pixel_size_angstrom), PIXEL)
            return -shifts * (columns.positive(f"{alignment}/psize_A") / own)[:, None]
    return None


def contrast(columns: Columns) -> pd.DataFrame | None:
    """Return the CTF parameters of each particle, as in ``read_contrast``. Particles are dark if blob/sign is -1."""
    found = read_contrast(columns, CONTRAST, angle_unit_rad=1.0)
    if found is None:
        return None
    sign = columns.numbers(SIGN, default=1.0)
    if (sign == 0).any():
        raise ValueError(
            f"{columns.path}: {SIGN} must be 1 or -1, got 0 in row {int(np.argmin(sign != 0)) + 1}"
        )
    return found.assign(inverted=sign > 0)


def particle_records(
    names: list[str],
    rotations: Rotation | None,
    shifts_px: np.ndarray | None,
    contrast: pd.DataFrame | None,
    *,
    image_size: int,
    pixel_size_angstrom: float,
    more: dict[str, np.ndarray],
) -> bytes:
    """Return the content of a ``.cs`` file with the images, poses and CTF parameters of n particles.

    Parameters
    ----------
    names : list of str
        Names of the n images, in the form 'number@stack'.
    rotations, shifts_px : Rotation, array, or None
        Orientations, and displacements in pixels, (n, 2). None if unknown.
    contrast : DataFrame or None
        CTF parameters, as in ``contrast``. None if unknown.
    image_size, pixel_size_angstrom : int, float
        Size of the images, and of their pixels.
    more : dict of array
        Other fields, (n,) each. If there is no uid, which identifies a particle, it is a hash of the image name.
    """
    found = [IMAGE_NAME.fullmatch(name).groups() for name in names]
    stacks = [stack.encode() for _, stack in found]
    hashes = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    pixels = np.full(len(names), pixel_size_angstrom, np.float32)
    fields = {
        UID: np.array([int.from_bytes(each) for each in hashes], np.uint64),
        IMAGE[0]: np.array(stacks),
        IMAGE[1]: np.array([int(number or 1) - 1 for number, _ in found], np.uint32),
        "blob/shape": np.full((len(names), 2), image_size, np.uint32),
        PIXEL: pixels,
    }
    # the inverses of from_cryosparc_pose and of the function shifts_px
    if rotations is not None:
        fields["alignments3D/pose"] = rotations.inv().as_rotvec().astype(np.float32)
    if shifts_px is not None:
        fields["alignments3D/shift"] = -shifts_px.astype(np.float32)
        fields["alignments3D/psize_A"] = pixels
    if contrast is not None:
        fields[SIGN] = np.where(contrast["inverted"], 1, -1).astype(np.float32)
        columns = write_contrast(contrast, CONTRAST, angle_unit_rad=1.0)
        fields |= {name: values.astype(np.float32) for name, values in columns.items()}
    fields |= more
    dtype = [(name, values.dtype, values.shape[1:]) for name, values in fields.items()]
    records = np.empty(len(names), dtype)
    for name, values in fields.items():
        records[name] = values
    content = io.BytesIO()
    np.save(content, records, allow_pickle=False)
    return content.getvalue()


def _vectors(columns: Columns, name: str, length: int) -> np.ndarray:
    """Return a vector field as (n, length) numbers."""
    return np.stack([columns.numbers(f"{name}/{k}") for k in range(length)], axis=1)


def _records(path: Path) -> np.ndarray:
    """Read the records in a file. Fields may contain numbers and text, but no Python objects."""
    try:
        with warnings.catch_warnings(action="ignore"):  # early versions of cryoSPARC used Python 2
            records = np.lib.format.open_memmap(path, mode="r", max_header_size=LONGEST_HEADER)
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:
        # NumPy parses the header as a Python literal and does not catch all exceptions of the parser.
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(
            f"{path} is not a complete NumPy array (.npy) as written by cryoSPARC: {reason}"
        ) from None
    dtype, shape = records.dtype, records.shape
    if dtype.names is None or len(shape) != 1:
        kind = f"numbers ({dtype})" if dtype.names is None else "records"
        raise ValueError(f"{path} must contain one record per particle, got {kind} with shape {shape}")
    for name in dtype.names:
        if dtype[name].base.kind not in "biufSU":
            raise ValueError(f"{path}: the field {name} must contain numbers or text, got {dtype[name]}")
    if not records.size:
        raise ValueError(f"{path} contains no particles: 0 records of {dtype.itemsize} bytes")
    stated, n_bytes = records.offset + records.nbytes, path.stat().st_size
    if stated != n_bytes:
        raise ValueError(
            f"{path} is damaged: its header states {len(records)} records and {stated} bytes, "
            f"but the file has {n_bytes} bytes"
        )
    return np.array(records, dtype.newbyteorder("="))
