"""Damaged networks on disk: encoders, and aligners saved and exported.

A checksum written with the files catches every accident.  What is damaged on purpose has a checksum that fits, and so
have the cases here that are called "signed".
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np

from damage.case import Case

WEIGHTS, SETTINGS = "encoder.weights.h5", "encoder.json"
ALIGNER_WEIGHTS, ALIGNER_SETTINGS, REFERENCE = "aligner.weights.h5", "aligner.json", "reference.npy"
GRAPH, INDEX = "computation/saved_model.pb", "computation/variables/variables.index"
Files = dict[str, bytes]


@cache
def saved() -> dict[str, Files]:
    """Files of a small encoder, a small aligner and its exported form."""
    from cryoem.siamese.prediction import EncoderSettings, save_encoder
    from cryoem.udl.aligner import Aligner, save_aligner
    from cryoem.udl.export import export_aligner
    from cryoem.udl.network import build_polar_network
    from cryoem.udl.spectra import polar_grid

    grid = polar_grid(16, n_angles=16)
    aligner = Aligner(build_polar_network(grid), grid, np.ones((16, 16)))
    settings = EncoderSettings(image_size=16, channels=8, blocks=1, n_features=12)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "encoder").mkdir()
        save_encoder(folder / "encoder" / WEIGHTS, settings.build(), settings)
        save_aligner(aligner, folder / "aligner")
        export_aligner(aligner, folder / "exported")
        return {
            kind: {
                path.relative_to(folder / kind).as_posix(): path.read_bytes()
                for path in (folder / kind).rglob("*")
                if path.is_file()
            }
            for kind in ("encoder", "aligner", "exported")
        }


def written(files: Files, folder: Path) -> None:
    """Write files by their names in a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def edited_hdf5(content: bytes, change: Callable[[h5py.File], None]) -> bytes:
    """An HDF5 file after a change of it."""
    with TemporaryDirectory() as name:
        path = Path(name) / "file.h5"
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            change(file)
        return path.read_bytes()


def signed_encoder(settings: object, weights: bytes | None = None) -> Files:
    """An encoder with other settings or weights, and the checksum that fits."""
    weights = saved()["encoder"][WEIGHTS] if weights is None else weights
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + weights).hexdigest()
    return {WEIGHTS: weights, SETTINGS: json.dumps({"settings": settings, "sha256": digest}).encode()}


def signed_aligner(files: Files, /, **changes) -> Files:
    """An aligner with other files or settings, and the checksums that fit; None leaves a setting out."""
    settings = json.loads(files[ALIGNER_SETTINGS])
    listed = {name: content for name, content in files.items() if name != ALIGNER_SETTINGS}
    settings["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in listed.items()}
    settings = {name: value for name, value in {**settings, **changes}.items() if value is not None}
    others = {name: value for name, value in settings.items() if name != "sha256"}
    settings["sha256"] = hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()
    return {**listed, ALIGNER_SETTINGS: json.dumps(settings).encode()}


def encoder_case(name: str, kind: str, files: Files, blames: str, says: str) -> Case:
    """A case of an encoder's files."""

    def make(folder: Path) -> Path:
        written(files, folder)
        return folder / WEIGHTS

    return Case(name, "encoder", kind, make, blames, says)


def aligner_case(name: str, kind: str, files: Files, says: str) -> Case:
    """A case of an aligner's folder."""

    def make(folder: Path) -> Path:
        (folder / "model").mkdir()
        written(files, folder / "model")
        return folder / "model"

    return Case(name, "aligner", kind, make, "model", says)


def whole() -> Iterator[Case]:
    """The files that are not damaged, those that are signed anew among them."""
    settings = json.loads(saved()["encoder"][SETTINGS])["settings"]
    yield encoder_case("whole encoder", "wrong value", saved()["encoder"], SETTINGS, "")
    yield encoder_case("whole encoder, signed", "wrong value", signed_encoder(settings), SETTINGS, "")
    for form in ("aligner", "exported"):
        yield aligner_case(f"whole {form}", "wrong value", saved()[form], "")
        yield aligner_case(f"whole {form}, signed", "wrong value", signed_aligner(saved()[form]), "")


def cases() -> Iterator[Case]:
    """All damaged networks."""
    yield from of_encoders()
    yield from of_aligners()


def json_cases(text: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Damage of a JSON file: name, kind, content."""
    for length in (0, 1, 2, len(text) // 3, len(text) // 2, len(text) - 1):
        yield f"JSON cut to {length}", "truncated" if length else "empty", text[:length]
    for name, kind, content in (
        ("a list", "wrong value", b"[]"),
        ("null", "wrong value", b"null"),
        ("a number", "wrong value", b"7"),
        ("an empty dictionary", "missing field", b"{}"),
        ("Latin-1", "not UTF-8", text.replace(b"1", b"\xe9", 1)),
        ("UTF-16", "not UTF-8", text.decode().encode("utf-16")),
        ("NUL bytes", "not UTF-8", bytes(400)),
        ("100,000 brackets", "absurd size", b"[" * 100_000),
        ("a number of 10,000 digits", "absurd size", b'{"settings": ' + b"9" * 10_000 + b"}"),
        ("NaN", "not finite", text.replace(b"16", b"NaN", 1)),
        ("12 MB", "absurd size", text + b" " * 12_000_000),
        ("HTML", "another format", b"<!DOCTYPE html><html></html>"),
    ):
        yield f"JSON: {name}", kind, content


def of_encoders() -> Iterator[Case]:
    """Encoders: weights and settings."""
    files = saved()["encoder"]
    settings = json.loads(files[SETTINGS])["settings"]

    for name, kind, text in json_cases(files[SETTINGS]):
        yield encoder_case(name, kind, {**files, SETTINGS: text}, SETTINGS, "JSON|settings|bytes")
    weights = files[WEIGHTS]
    for length in (0, 4, 100, len(weights) // 2, len(weights) - 1):
        kind = "truncated" if length else "empty"
        yield encoder_case(
            f"weights cut to {length}", kind, {**files, WEIGHTS: weights[:length]}, WEIGHTS, "sha256"
        )
    for byte in range(0, len(weights), len(weights) // 9):
        flipped = weights[:byte] + bytes([weights[byte] ^ 1]) + weights[byte + 1 :]
        yield encoder_case(
            f"byte {byte} of weights flipped", "bit flip", {**files, WEIGHTS: flipped}, WEIGHTS, "sha256"
        )
    for missing in (WEIGHTS, SETTINGS):
        yield encoder_case(
            f"no {missing}",
            "missing field",
            {n: c for n, c in files.items() if n != missing},
            missing,
            "no such",
        )
    for field in ("image_size", "architecture", "n_features", "channels", "blocks", "symmetry"):
        for value, kind in (
            (10**9, "absurd size"),
            (-1, "wrong value"),
            ("16", "wrong value"),
            ([16], "wrong value"),
            ({}, "wrong value"),
            ("../x", "leads outside"),
            (10**400, "absurd size"),
        ):
            changed = signed_encoder({**settings, field: value})
            yield encoder_case(
                f"signed, {field} is {value!r:.20}", kind, changed, "encoder.", f"{field}|weights"
            )
    yield encoder_case(
        "signed, a field too many",
        "duplicate field",
        signed_encoder({**settings, "pickle": "x"}),
        SETTINGS,
        "pickle",
    )
    less = {name: value for name, value in settings.items() if name != "image_size"}
    yield encoder_case("signed, no image_size", "missing field", signed_encoder(less), SETTINGS, "image_size")
    yield encoder_case(
        "signed, settings are a list", "wrong value", signed_encoder([1]), SETTINGS, "settings"
    )
    for name, kind, change in hdf5_changes("layers/dense/vars"):
        content = edited_hdf5(weights, change)
        yield encoder_case(
            f"signed, {name}", kind, signed_encoder(settings, content), WEIGHTS, "dense|weights"
        )
    yield encoder_case(
        "signed, no HDF5", "another format", signed_encoder(settings, bytes(50_000)), WEIGHTS, "HDF5"
    )


def hdf5_changes(group: str) -> Iterator[tuple[str, str, Callable[[h5py.File], None]]]:
    """Damage of a Keras file of weights: name, kind, change."""

    def replaced(**options) -> Callable[[h5py.File], None]:
        def change(file):
            del file[group]["0"]
            file[group].create_dataset("0", **options)

        return change

    def linked(link) -> Callable[[h5py.File], None]:
        def change(file):
            del file[group]["0"]
            file[group]["0"] = link

        return change

    yield "an external link", "leads outside", linked(h5py.ExternalLink("/elsewhere/other.h5", "x"))
    yield "a soft link", "leads outside", linked(h5py.SoftLink("/layers"))
    yield (
        "external storage",
        "leads outside",
        replaced(shape=(9,), dtype="f8", external=[("/etc/passwd", 0, 72)]),
    )
    yield (
        "10 GB in chunks",
        "10 GB claimed",
        replaced(shape=(50_000, 50_000), dtype="f4", chunks=(1000, 1000)),
    )
    yield "text for weights", "wrong value", replaced(data=["a"], dtype=h5py.string_dtype())
    yield "a dataset missing", "missing field", lambda file: file[group].__delitem__("0")
    yield "a group missing", "missing field", lambda file: file.__delitem__(group)
    yield "another shape", "wrong value", replaced(data=np.zeros((2, 2), "f4"))


def of_aligners() -> Iterator[Case]:
    """Aligners: the saved and the exported form."""

    for form, files in ((form, saved()[form]) for form in ("aligner", "exported")):
        for name, kind, text in json_cases(files[ALIGNER_SETTINGS]):
            yield aligner_case(f"{form}, {name}", kind, {**files, ALIGNER_SETTINGS: text}, ALIGNER_SETTINGS)
        for name in sorted(files):
            if name == ALIGNER_SETTINGS:
                continue
            content = files[name]
            yield aligner_case(
                f"{form}, no {name}", "missing field", {n: c for n, c in files.items() if n != name}, name
            )
            for length in (0, len(content) // 2, len(content) - 1):
                kind = "truncated" if length else "empty"
                cut = {**files, name: content[:length]}
                yield aligner_case(f"{form}, {name} cut to {length}", kind, cut, f"{name} is not as it was")
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
            says = f"{name} is not as it was"
            yield aligner_case(f"{form}, a bit of {name} flipped", "bit flip", {**files, name: flipped}, says)
        yield from signed_aligners(form, files)


def signed_aligners(form: str, files: Files) -> Iterator[Case]:
    """Aligners that are damaged on purpose."""
    settings = json.loads(files[ALIGNER_SETTINGS])
    for field in ("format", "method", "grid", "files"):
        changed = signed_aligner(files, **{field: None})
        yield aligner_case(f"{form}, signed, no {field}", "missing field", changed, field)
        for value in (7, [], "x"):
            changed = signed_aligner(files, **{field: value})
            yield aligner_case(f"{form}, signed, {field} is {value!r}", "wrong value", changed, field)
    for field in ("image_size", "n_angles", "lowest", "n_radii", "fold"):
        for value, kind in (
            (10**9, "absurd size"),
            (0, "wrong value"),
            ("16", "wrong value"),
            (1e400, "not finite"),
        ):
            if field == "fold" and value == 10**9:
                continue  # a symmetry that no particle has, and a number like any other
            changed = signed_aligner(files, grid={**settings["grid"], field: value})
            yield aligner_case(
                f"{form}, signed, {field} is {value}", kind, changed, f"{field}|grid|reference|Infinity"
            )
    for name in ("../secret", "/etc/passwd", "a/../../secret", "..\\secret"):
        changed = signed_aligner(files, files={**settings["files"], name: "0" * 64})
        yield aligner_case(f"{form}, signed, names {name}", "leads outside", changed, "in the folder")
    rows = np.ones((16, 16))
    headers = {
        "10 GB": (npy_header("<f4", (50_000, 50_000)) + bytes(64), "10 GB claimed"),
        "another shape": (npy(np.ones((16, 15))), "wrong value"),
        "NaN": (npy(np.where(np.eye(16), np.nan, rows)), "not finite"),
        "objects": (npy_header("|O", (16, 16)) + bytes(2048), "wrong value"),
        "text": (npy(np.full((16, 16), "a")), "wrong value"),
        "half": (npy(rows)[:1200], "truncated"),
        "nothing": (b"", "empty"),
        "a zip archive": (b"PK\x03\x04" + bytes(100), "another format"),
        "a pickle": (b"cos\nsystem\n(S'true'\ntR.", "another format"),
        "a negative shape": (npy_header("<f8", (-16, -16)) + bytes(2048), "absurd size"),
        "2^62 values": (npy_header("<f8", (2**31, 2**31)) + bytes(2048), "absurd size"),
    }
    for name, (content, kind) in headers.items():
        changed = signed_aligner({**files, REFERENCE: content})
        yield aligner_case(f"{form}, signed, reference: {name}", kind, changed, "reference")
    if form == "aligner":
        for name, kind, change in hdf5_changes("layers/dense/vars"):
            content = edited_hdf5(files[ALIGNER_WEIGHTS], change)
            changed = signed_aligner({**files, ALIGNER_WEIGHTS: content})
            yield aligner_case(f"{form}, signed, {name}", kind, changed, "dense|weights")
    else:
        for name, content, kind in (
            ("no graph", b"", "empty"),
            ("half a graph", files[GRAPH][:50_000], "truncated"),
            ("HTML for a graph", b"<!DOCTYPE html>", "another format"),
        ):
            changed = signed_aligner({**files, GRAPH: content})
            yield aligner_case(f"{form}, signed, {name}", kind, changed, "saved_model.pb")
        for name, graph in harmful_graphs().items():
            changed = signed_aligner({**files, GRAPH: graph})
            yield aligner_case(
                f"{form}, signed, a graph that {name}", "leads outside", changed, "saved_model.pb must"
            )


@cache
def harmful_graphs() -> dict[str, bytes]:
    """Computations that do more than compute."""
    import tensorflow as tf

    def module(act):
        class Harmful(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec((None, 16, 4), tf.float32)])
            def serve(self, spectra):
                return spectra[:, 0, :2] + act()

        return Harmful()

    def writes():
        with tf.control_dependencies([tf.io.write_file("/elsewhere/written-by-a-model", "x")]):
            return tf.constant(0.0)

    acts = {
        "writes a file": writes,
        "reads a file": lambda: tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32),
        "calls Python": lambda: tf.py_function(lambda: 0.0, [], tf.float32),
    }
    graphs = {}
    with TemporaryDirectory() as name:
        for number, (what, act) in enumerate(acts.items()):
            folder = Path(name) / str(number)
            tf.saved_model.save(module(act), str(folder))
            graphs[what] = (folder / "saved_model.pb").read_bytes()
            shutil.rmtree(folder)
    return graphs


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The start of a NumPy file that claims a type and a shape."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def npy(array: np.ndarray) -> bytes:
    """An array as a NumPy file."""
    return npy_header(array.dtype.str, array.shape) + array.tobytes()
