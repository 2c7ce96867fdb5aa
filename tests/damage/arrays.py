"""Damaged artefacts of the pipeline: HDF5 files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from cryoem.pipeline.artefacts import save_arrays, seal
from damage.case import Case, file_case

FILE = "orientations.h5"
PARAMETERS = {"seed": 0, "phase": "2-orientation-recovery"}


@cache
def artefact() -> bytes:
    """A valid artefact of three datasets."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        save_arrays(
            path,
            {
                "quaternions": (rng.normal(size=(20, 4)), "1", "xyzw"),
                "halves": (np.arange(20) % 2, "1"),
                "images": (rng.normal(size=(3, 8, 8)).astype(np.float32), "1"),
            },
            parameters=PARAMETERS,
        )
        return path.read_bytes()


def changed(name: str, kind: str, change: Callable[[h5py.File, Path], None], says: str) -> Case:
    """A case that is made by changing the open file, as if it had been written so; the path is that of the folder."""

    def make(folder: Path) -> Path:
        path = folder / FILE
        path.write_bytes(artefact())
        with h5py.File(path, "r+") as file:
            change(file, folder)
        seal(path)
        return path

    return Case(name, "arrays", kind, make, FILE, says)


def sealed(name: str, kind: str, content: bytes, says: str) -> Case:
    """A case of one file whose checksum fits."""

    def make(folder: Path) -> Path:
        (folder / FILE).write_bytes(content)
        seal(folder / FILE)
        return folder / FILE

    return Case(name, "arrays", kind, make, FILE, says)


def whole() -> Iterator[Case]:
    """The file that is not damaged."""
    yield file_case("whole artefact", "arrays", "wrong value", FILE, artefact(), "")


def cases() -> Iterator[Case]:
    """All damaged artefacts."""
    content = artefact()
    whole = "not a whole HDF5 file"
    for length in (0, 1, 7, 40, 300, 511, 512, 513, 520, 560, 700, 1024, 2048, 4096, len(content) - 1):
        kind = "empty" if length == 0 else "truncated"
        yield file_case(f"cut to {length} bytes", "arrays", kind, FILE, content[:length], whole)
    for byte in (0, 20, 41, 80, 103, 104, 105, 300, 511):
        flipped = content[:byte] + bytes([content[byte] ^ 1]) + content[byte + 1 :]
        yield file_case(f"byte {byte} of the seal flipped", "arrays", "bit flip", FILE, flipped, whole)
    for byte in (
        *range(9),
        12,
        13,
        14,
        40,
        41,
        1257,
        2000,
    ):  # signature, versions, sizes, end of file, objects
        flipped = content[: 512 + byte] + bytes([content[512 + byte] ^ 0x10]) + content[513 + byte :]
        yield file_case(f"byte {byte} of HDF5 flipped", "arrays", "bit flip", FILE, flipped, whole)
    for length in (512, 519, 524, 545, 600, 1100, 2048, 4096, len(content) - 1):
        yield sealed(f"cut to {length} bytes and sealed", "truncated", content[:length], whole)
    yield sealed("unsealed text, sealed", "another format", bytes(512) + b"<!DOCTYPE html>" * 100, whole)
    images = content.index(np.random.default_rng(0).normal(size=(20, 4)).tobytes())
    for at in range(images, images + 640, 80):
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        yield file_case(
            f"byte {at - images} of quaternions flipped", "arrays", "bit flip", FILE, flipped, whole
        )
    for name, other in (
        ("HTML", b"<!DOCTYPE html>" * 100),
        ("zeros", bytes(4096)),
        ("NumPy", b"\x93NUMPY" * 400),
    ):
        yield file_case(name, "arrays", "another format", FILE, other, whole)
    yield from of_attributes()
    yield from of_datasets()


def of_attributes() -> Iterator[Case]:
    """Damage of what made the arrays."""
    for name, text, kind in (
        ("no JSON", "{seed", "wrong value"),
        ("an empty text", "", "empty"),
        ("a list", "[1, 2]", "wrong value"),
        ("100,000 brackets", "[" * 30_000, "absurd size"),
        ("a number of 10,000 digits", '{"seed": ' + "9" * 10_000 + "}", "absurd size"),
        ("bytes", np.void(b"\xff\xfe"), "not UTF-8"),
        ("a number", 7, "wrong value"),
        ("an array", np.zeros(5), "wrong value"),
        ("nothing", h5py.Empty("f"), "empty"),
        ("Latin-1", np.bytes_(b'{"seed": "\xe9"}'), "not UTF-8"),
    ):

        def change(file, _, text=text):
            del file.attrs["parameters"]
            file.attrs["parameters"] = text

        yield changed(f"parameters are {name}", kind, change, "parameters")
    yield changed("no parameters", "missing field", lambda file, _: file.attrs.clear(), "parameters")


def of_datasets() -> Iterator[Case]:
    """Damage of arrays, and arrays that are not in the file."""

    def replaced(file, **options):
        attributes = dict(file["images"].attrs)
        del file["images"]
        file.create_dataset("images", **options).attrs.update(attributes)

    def another_file(file, folder):
        with h5py.File(folder / "other.h5", "w") as other:
            other["images"] = np.zeros(3)
        del file["images"]
        file["images"] = h5py.ExternalLink("other.h5", "images")

    def soft(file, _):
        del file["images"]
        file["images"] = h5py.SoftLink("/halves")

    def hard(file, _):
        del file["images"]
        file["images"] = file["halves"]

    def virtual(file, folder):
        with h5py.File(folder / "other.h5", "w") as other:
            other["images"] = np.zeros(3)
        del file["images"]
        layout = h5py.VirtualLayout((3,), float)
        layout[:] = h5py.VirtualSource(folder / "other.h5", "images", (3,))
        file.create_virtual_dataset("images", layout)

    def group(file, _):
        del file["images"]
        file.create_group("images")

    def circle(file, _):
        file.create_group("more")["back"] = file["/"]

    outside = [("/etc/passwd", 0, 72)]
    text = h5py.string_dtype()
    yield changed("an external link", "leads outside", another_file, "images.*lead")
    yield changed("a soft link", "leads outside", soft, "images")
    yield changed("a name twice", "duplicate field", hard, "again")
    yield changed("a circle", "duplicate field", circle, "again|group")
    yield changed("a virtual dataset", "leads outside", virtual, "images.*another file")
    yield changed("a group for a dataset", "wrong value", group, "images")
    named = {
        "external storage": ({"shape": (9,), "dtype": float, "external": outside}, "leads outside"),
        "10 GB in chunks": (
            {"shape": (50_000, 50_000), "dtype": "f4", "chunks": (1000, 1000)},
            "10 GB claimed",
        ),
        "10 GB, never written": ({"shape": (50_000, 50_000), "dtype": "f4"}, "10 GB claimed"),
        "2^60 values": ({"shape": (2**30, 2**30), "dtype": "f4", "chunks": (1, 1)}, "absurd size"),
        "compressed zeros": ({"data": np.zeros((5000, 5000)), "compression": "gzip"}, "absurd size"),
        "text": ({"data": np.array(["a", "b"], dtype=object), "dtype": text}, "wrong value"),
        "references": ({"shape": (3,), "dtype": h5py.ref_dtype}, "wrong value"),
        "ragged rows": ({"shape": (3,), "dtype": h5py.vlen_dtype(np.int32)}, "wrong value"),
        "records": ({"data": np.zeros(3, [("a", "f4"), ("b", "i4")])}, "wrong value"),
        "opaque bytes": ({"data": np.zeros(3, "V8")}, "wrong value"),
        "nothing": ({"data": h5py.Empty("f4")}, "empty"),
    }
    for name, (options, kind) in named.items():
        yield changed(f"images are {name}", kind, lambda file, _, o=options: replaced(file, **o), "images")
