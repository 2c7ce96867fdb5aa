"""Particle files for other programs, each complete or not there at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from cryoem.checks import positive_number, square_images, whole_number
from cryoem.particles.mrc import HEADER_BYTES, LARGEST_SIDE_PX
from cryoem.particles.tables import RELION_IMAGE, XMIPP_IMAGE
from cryoem.whole_files import cannot_write, whole_file, whole_files

if TYPE_CHECKING:
    import pandas as pd

DIGITS = "%.10g"  # of numbers in tables: more than a float32 has


class StackWriter:
    """Writes a stack of particle images block by block: MRC2014, mode 2, space group 0.

    A context manager: the file appears at ``path`` when its block of code ends and n images were written, and only
    then.  Whatever is raised leaves no file behind, and an older one of that name as it was.

    Parameters
    ----------
    path : the stack, ``.mrcs`` or ``.mrc``.
    n : how many images it will have.
    image_size : their side in pixels.
    pixel_size_angstrom : side of a pixel.
    texts : tables that appear together with the stack, or not at all: what is to stand in them, by path.

    Raises
    ------
    FileNotFoundError : the folder does not exist.
    OSError : the file cannot be written.
    ValueError : the name ends in neither; a number is out of range; or, at the end, there are not n images.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        n: int,
        image_size: int,
        pixel_size_angstrom: float,
        *,
        texts: Mapping[Path, str] | None = None,
    ):
        self.path = named(path, ".mrcs", ".mrc")
        self.texts = dict(texts or {})
        self.n = whole_number(n, name="n", at_least=1)
        self.image_size = whole_number(image_size, name="image_size", at_least=1)
        if self.image_size > LARGEST_SIDE_PX:
            raise ValueError(f"image_size must be at most {LARGEST_SIDE_PX}, got {image_size}")
        self.pixel_size_angstrom = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
        self._stream: BinaryIO | None = None

    def __enter__(self) -> StackWriter:
        self._session = self._open()
        return self._session.__enter__()

    def __exit__(self, *raised) -> bool | None:
        return self._session.__exit__(*raised)

    def write(self, images: np.ndarray) -> None:
        """Append images (k, y, x), kept as float32.

        Raises
        ------
        OSError : the file cannot be written.
        ValueError : images are not (k, image_size, image_size) and finite, they are more than n in all, or this is not
            inside a with statement.
        """
        if self._stream is None or self._stream.closed:
            raise ValueError(f"the writer of {self.path} must be used inside a with statement")
        images = square_images(images)
        if images.shape[1] != self.image_size:
            raise ValueError(f"images must be {self.image_size} px wide, got {images.shape}")
        if self._written + len(images) > self.n:
            raise ValueError(
                f"images must be {self.n} in all for {self.path}, got {self._written + len(images)}"
            )
        with cannot_write(self.path):
            self._stream.seek(HEADER_BYTES + 4 * self._written * self.image_size**2)
            self._stream.write(images.astype("<f4", copy=False).data)
        self._count(images)

    @contextmanager
    def _open(self) -> Iterator[StackWriter]:
        self._written = 0
        self._lowest, self._highest, self._mean, self._squares = np.inf, -np.inf, 0.0, 0.0
        with whole_files(self.path, *self.texts) as (part, *tables):
            for path, table, text in zip(self.texts, tables, self.texts.values(), strict=True):
                with cannot_write(path):
                    table.write_text(text, encoding="utf-8")
            with cannot_write(self.path):
                part.write_bytes(bytes(HEADER_BYTES))
            with open(part, "r+b") as stream:
                self._stream = stream
                yield self
                if self._written != self.n:
                    raise ValueError(f"{self.path} must get {self.n} images, got {self._written}")
                with cannot_write(self.path):
                    stream.seek(0)
                    stream.write(self._header())
                    stream.flush()

    def _count(self, images: np.ndarray) -> None:
        """Take images into the statistics; mean and sum of squared deviations by blocks, without cancellation."""
        before, new = self._written * self.image_size**2, images.size
        step = images.mean(dtype=np.float64) - self._mean
        self._squares += images.var(dtype=np.float64) * new + step**2 * before * new / (before + new)
        self._mean += step * new / (before + new)
        self._lowest = min(self._lowest, float(images.min()))
        self._highest = max(self._highest, float(images.max()))
        self._written += len(images)

    def _header(self) -> bytes:
        """MRC2014 header of a stack of images: space group 0, one section a volume."""
        from mrcfile.dtypes import HEADER_DTYPE

        header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
        side = self.image_size
        for name, value in (
            ("nx", side),
            ("ny", side),
            ("nz", self.n),
            ("mx", side),
            ("my", side),
            ("mz", 1),
        ):
            header[name] = value
        for axis, n_pixels in (("x", side), ("y", side), ("z", 1)):
            header["cella"][axis] = n_pixels * self.pixel_size_angstrom
        for name in ("alpha", "beta", "gamma"):
            header["cellb"][name] = 90
        header["mode"], header["ispg"], header["nversion"] = 2, 0, 20140
        header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
        header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
        header["dmin"], header["dmax"], header["dmean"] = self._lowest, self._highest, self._mean
        header["rms"] = np.sqrt(self._squares / (self.n * side**2))
        header["nlabl"] = 1
        header["label"][0] = "cryoem"  # in place of a time stamp: equal stacks give equal files
        return header.tobytes()


def write_stack(path: str | os.PathLike, images: np.ndarray, *, pixel_size_angstrom: float) -> None:
    """Write images (n, y, x) as an MRC stack, see ``StackWriter``.

    Raises
    ------
    FileNotFoundError : the folder does not exist.
    OSError : the file cannot be written.
    ValueError : the name does not end in ``.mrcs`` or ``.mrc``, images are not (n, y, y) and finite, or the pixel size
        is not positive.
    """
    images = square_images(images)
    with StackWriter(path, len(images), images.shape[1], pixel_size_angstrom) as stack:
        stack.write(images)


def check_image_names(names: Iterable[str], *, name: str) -> None:
    """Refuse image names that do not come back from a table as they were: RELION and XMIPP know no way to escape.

    Raises
    ------
    ValueError : one has a ``#``, a quote, or a character that is not printed, such as a line break; ``name`` is named.
    """
    for image in map(str, names):
        if not image.isprintable() or any(mark in image for mark in "#'\""):
            raise ValueError(
                f"{name} must be without #, quotes and line breaks, which tables of images cannot hold, got {image!r}"
            )


def write_star(path: str | os.PathLike, table: pd.DataFrame, *, optics: pd.DataFrame) -> None:
    """Write a STAR file as of RELION 3.1, ``data_optics`` and ``data_particles``.

    RELION looks for the stacks that rlnImageName names from the folder it is started in, and takes a name for a stack
    only where it ends in ``.mrcs``, or another name in ``:mrcs``.

    Parameters
    ----------
    path : the file, ``.star``.
    table : one row an image, with rlnImageName.
    optics : one row an optics group.

    Raises
    ------
    FileNotFoundError : the folder does not exist.
    OSError : the file cannot be written.
    ValueError : the name does not end in ``.star``, a table is empty or lacks rlnImageName or rlnOpticsGroup, or an
        image has a name that ``check_image_names`` refuses.
    """
    write_text(named(path, ".star"), star_text(table, optics))


def star_text(table: pd.DataFrame, optics: pd.DataFrame) -> str:
    """What stands in the file of ``write_star``, and its errors."""
    import starfile

    _with_column(table, RELION_IMAGE, name="table")
    check_image_names(table[RELION_IMAGE], name="image names")
    _with_column(optics, "rlnOpticsGroup", name="optics")
    text = ""
    for name, block in (("optics", optics), ("particles", table)):
        written = starfile.to_string({name: block}, float_format=DIGITS, na_rep="nan")
        _, _, written = written.partition(
            "\n"
        )  # the first line is a time stamp: equal tables give equal files
        text += f"\n# version 30001\n\n{written.lstrip()}"
    return text


def write_xmd(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write an XMIPP metadata file with one table, ``data_noname``; columns are labels without their underscore.

    Raises
    ------
    FileNotFoundError : the folder does not exist.
    OSError : the file cannot be written.
    ValueError : the name does not end in ``.xmd``, the table is empty or lacks ``image``, or an image has a name that
        ``check_image_names`` refuses.
    """
    write_text(named(path, ".xmd"), xmd_text(table))


def xmd_text(table: pd.DataFrame) -> str:
    """What stands in the file of ``write_xmd``, and its errors."""
    _with_column(table, XMIPP_IMAGE, name="table")
    check_image_names(table[XMIPP_IMAGE], name="image names")
    labels = "".join(f" _{column}\n" for column in table.columns)
    rows = table.map(_quoted).to_csv(
        sep="\t", header=False, index=False, float_format=DIGITS, na_rep="nan", quoting=csv.QUOTE_NONE
    )
    return f"# XMIPP_STAR_1 * \n# \ndata_noname\nloop_\n{labels}{rows}"


def named(path: str | os.PathLike, *suffixes: str) -> Path:
    """``path`` if its name ends as it should, else a ValueError."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"path must end in {' or '.join(suffixes)}, got {str(path)!r}")
    return path


def _with_column(table: pd.DataFrame, column: str, *, name: str) -> None:
    if column not in table:
        raise ValueError(f"{name} must have a column {column}, got {', '.join(map(str, table)) or 'none'}")
    if table.empty:
        raise ValueError(f"{name} must have at least one row, got none")


def _quoted(value):
    """Text as a metadata file has it: in quotes where it is empty or has blanks in it."""
    return f"'{value}'" if isinstance(value, str) and (not value or " " in value) else value


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all; OSError where it cannot be written."""
    with whole_file(path) as part, cannot_write(path):
        part.write_text(text, encoding="utf-8")
