"""Tables that name particle images: RELION's STAR files and XMIPP's metadata files."""

from __future__ import annotations

import linecache
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoem.particles.star_text import check_star_text

if TYPE_CHECKING:
    import pandas as pd

RELION_IMAGE, XMIPP_IMAGE = "rlnImageName", "image"
TEXT_COLUMNS = (  # stay text where they look like numbers: micrograph 0012 is not micrograph 12
    RELION_IMAGE,
    "rlnImageOriginalName",
    "rlnMicrographName",
    "rlnMicrographMovieName",
    "rlnGroupName",
    "rlnOpticsGroupName",
    "rlnTomoName",
    XMIPP_IMAGE,
    "micrograph",
)


def read_star(path: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The particles of a RELION STAR file (3.0, 3.1 or 5) and its optics groups, None where it has none.

    Raises
    ------
    OSError : the file cannot be read.
    ValueError : it is not a STAR file, or it has no or several tables with rlnImageName.
    """
    blocks = _read_blocks(path)
    particles = _block_with(RELION_IMAGE, blocks, path, preferred="particles")
    return particles, _as_table(blocks["optics"]) if "optics" in blocks else None


def read_xmd(path: str | os.PathLike) -> pd.DataFrame:
    """The table of an XMIPP metadata file that has a column ``image``, without the images that are disabled (enabled
    is -1); labels without their leading underscore.

    Raises
    ------
    FileNotFoundError : no such file.
    OSError : the file cannot be read.
    ValueError : it is not a metadata file, or it has no or several tables with ``image``, or no image is
        enabled.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no metadata file at {path}")
    table = _block_with(XMIPP_IMAGE, _read_blocks(path), path)
    if "enabled" not in table:
        return table
    disabled = table["enabled"] == -1
    if disabled.all():
        raise ValueError(f"{path} must have an image that is enabled, got none of {len(table)}")
    return table[~disabled].reset_index(drop=True)


def _read_blocks(path: Path) -> dict:
    """Tables by name; what is no loop stays a dictionary."""
    import starfile

    check_star_text(path)
    linecache.cache.pop(str(path), None)  # starfile reads through it, and what it knows of a file may be old
    try:
        return starfile.read(path, always_dict=True, parse_as_string=list(TEXT_COLUMNS))
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a STAR file: {reason}") from None
    finally:
        linecache.cache.pop(str(path), None)


def _block_with(column: str, blocks: dict, path: Path, *, preferred: str = "") -> pd.DataFrame:
    """The one table with a column of image names, each of them text; the ``preferred`` one where there are several."""
    having = [name for name, block in blocks.items() if column in block]
    if not having:
        names = ", ".join(f"data_{name}" for name in blocks) or "no table"
        raise ValueError(f"{path} must have a table with the column _{column}, got {names}")
    if len(having) > 1 and preferred not in having:
        names = ", ".join(f"data_{name}" for name in having)
        raise ValueError(f"{path} must have one table with the column _{column}, got {names}")
    table = _as_table(blocks[preferred if preferred in having else having[0]])
    if table.empty:
        raise ValueError(f"{path} names no images: its table is empty")
    unnamed = table[column].isna() | table[column].eq("")
    if unnamed.any():
        row = int(np.argmax(unnamed)) + 1
        raise ValueError(f"{path} must name an image in each row, got none in row {row}")
    return table


def _as_table(block) -> pd.DataFrame:
    """A block as a table; what is not a loop is one row."""
    import pandas as pd

    return pd.DataFrame([block]) if isinstance(block, dict) else block
