"""Reads files in processes that may not take more memory than allowed, and says what came of each.

Started by ``measure`` with a file of JSON requests, ``{"reader", "path", "memory", "seconds"}`` each, and the file for
the answers.  Everything is imported once; a fork serves some requests, and another one goes on where it died.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import BinaryIO

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
AT_ONCE = 32


def read_map(path: Path):
    """A density map, with whatever of it is computed."""
    from cryoem.volumes import read_map

    found = read_map(path)
    return found.data.shape, found.voxel_size_angstrom


def read_particles(path: Path):
    """All images of a stack or of a table of images, and all that is known of them."""
    from cryoem.particles import open_particles

    found = open_particles(path).to_stack()
    return found.images.shape, found.pixel_size_angstrom, found.shifts_px, found.ctf


def read_model(path: Path):
    """The density of an atomic model."""
    from cryoem.volumes import density_from_model

    return density_from_model(path, voxel_size_angstrom=4.0, resolution_angstrom=8.0).data.shape


def read_arrays(path: Path):
    """Parameters and datasets of an artefact."""
    from cryoem.pipeline.artefacts import load_arrays, stored_parameters

    return sorted(stored_parameters(path)), {name: a.shape for name, a in load_arrays(path).items()}


def read_encoder(path: Path):
    """An encoder with its weights."""
    from cryoem.siamese.prediction import load_encoder

    return str(load_encoder(path)[1])


def read_aligner(path: Path):
    """A saved or an exported aligner."""
    from cryoem.udl.export import load_model

    return str(load_model(path).grid)


def read_results(path: Path):
    """The table of an experiment."""
    from cryoem.experiments.tables import read_table

    return read_table(path.parent, path.stem).shape


def read_picture(path: Path):
    """A photograph."""
    from cryoem.udl.pictures import read_grey

    return read_grey(path).shape


def misbehave(path: Path):
    """What no reader should do, to see that it is noticed; the name of the file says what."""
    if path.name == "dies":
        os.abort()
    if path.name == "hangs":
        time.sleep(60)
    if path.name == "hungry":
        bytes(300_000_000)
    if path.name == "busy":
        began = time.process_time()
        while time.process_time() < began + 1.1:
            pass
    raise ValueError(f"{path.name} says nothing")


READERS = {
    "misbehaving": misbehave,
    "map": read_map,
    "particles": read_particles,
    "model": read_model,
    "arrays": read_arrays,
    "encoder": read_encoder,
    "aligner": read_aligner,
    "results": read_results,
    "picture": read_picture,
}


MODULES = {  # what a running program has imported by the time that it reads such a file
    "misbehaving": (),
    "map": ("cryoem.volumes", "mrcfile.dtypes"),
    "particles": ("cryoem.particles", "mrcfile.dtypes", "starfile"),
    "model": ("cryoem.volumes", "gemmi", "scipy.fft"),
    "arrays": ("cryoem.pipeline.artefacts",),
    "encoder": ("cryoem.siamese.prediction", "keras.src.saving.saving_lib"),
    "aligner": ("cryoem.udl.export", "cryoem.udl.network", "keras.src.saving.saving_lib", "tensorflow"),
    "results": ("cryoem.experiments.tables",),
    "picture": ("cryoem.udl.pictures", "skimage.color", "skimage.io", "skimage.util", "PIL.Image"),
}


def import_for(readers: list[str]) -> None:
    """Import once, before any fork."""
    for reader in readers:
        for module in MODULES[reader]:
            importlib.import_module(module)
        if reader == "aligner":
            importlib.import_module("tensorflow").saved_model.load  # noqa: B018  imported when it is first asked for
        if reader == "picture":
            importlib.import_module("skimage.io").imread  # noqa: B018  likewise


def attempt(request: dict, start_bytes: int) -> dict:
    """Read one file in this process: the kind and text of the error, or that there was none, and what it took.

    ``start_bytes`` is the most memory that this process had when it began; memory is counted from there.
    """
    before = resource.getrusage(resource.RUSAGE_SELF)
    answer = {"error": None, "text": "", "value": None}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            answer["value"] = repr(READERS[request["reader"]](Path(request["path"])))
        except Exception as error:
            answer |= {"error": [kind.__name__ for kind in type(error).__mro__], "text": str(error)}
    after = resource.getrusage(resource.RUSAGE_SELF)
    answer["warnings"] = [str(one.message) for one in heard]
    answer["seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer["peak_bytes"] = 1024 * after.ru_maxrss - start_bytes
    return answer


def attempt_all(requests: list[dict], answers: BinaryIO) -> None:
    """``attempt`` one after another, an answer a line; this process may take no more memory than it is allowed."""
    size_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE_BYTES
    limit = size_bytes + requests[0]["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    start_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for request in requests:
        answers.write(json.dumps(attempt(request, start_bytes)).encode() + b"\n")
        answers.flush()


def serve(requests: list[dict]) -> list[dict]:
    """Answers to some requests by a fork, to the first at least; it ends before the rest where the fork dies or hangs.

    Where it died, or hung for as many seconds as were allowed, the last answer says so.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "wb") as stream:
            attempt_all(requests, stream)
        os._exit(0)
    os.close(writing)
    text, hung = b"", False
    with os.fdopen(reading, "rb") as stream:
        while True:
            ready, _, _ = select.select([stream], [], [], requests[0]["seconds"])
            part = os.read(stream.fileno(), 65536) if ready else b""
            if not part:
                hung = not ready
                break
            text += part
    if hung:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    answers = [json.loads(line) for line in text.splitlines()]
    if len(answers) < len(requests):
        why = f"no answer after {requests[0]['seconds']} s" if hung else f"it ended with status {status}"
        answers.append({"error": ["hung" if hung else "died"], "text": why})
    return answers


def main() -> None:
    """Serve all requests of a file."""
    requests, answers = Path(sys.argv[1]), Path(sys.argv[2])
    import_for(sys.argv[3:])
    waiting = [json.loads(line) for line in requests.read_text(encoding="utf-8").splitlines()]
    found: list[dict] = []
    while len(found) < len(waiting):
        found += serve(waiting[len(found) : len(found) + AT_ONCE])
    answers.write_text("".join(json.dumps(answer) + "\n" for answer in found), encoding="utf-8")


if __name__ == "__main__":
    main()
