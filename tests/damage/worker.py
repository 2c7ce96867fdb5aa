"""Reads files, each in a process of its own that may not take more memory than allowed, and says what came of it.

Started by ``measure`` with a file of JSON requests, ``{"reader", "path", "memory", "seconds"}`` each, and the file for
the answers.  Everything is imported once; a request is served by a fork.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def read_map(path: Path):
    """A density map, with whatever of it is computed."""
    from cryoem.volumes import read_map

    found = read_map(path)
    return found.data.shape, found.voxel_size_angstrom


def read_particles(path: Path):
    """All images of a stack or of a table of images."""
    from cryoem.particles import open_particles

    found = open_particles(path)
    return found.read(slice(None)).shape


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


READERS = {
    "map": read_map,
    "particles": read_particles,
    "model": read_model,
    "arrays": read_arrays,
    "encoder": read_encoder,
    "aligner": read_aligner,
    "results": read_results,
    "picture": read_picture,
}


def import_for(readers: list[str]) -> None:
    """What a running program has imported by the time that it reads such files."""
    import gemmi  # noqa: F401
    import mrcfile.dtypes  # noqa: F401
    import scipy.fft  # noqa: F401
    import skimage.color
    import skimage.io
    import starfile  # noqa: F401

    import cryoem.experiments.tables
    import cryoem.particles
    import cryoem.pipeline
    import cryoem.volumes

    skimage.io.imread  # noqa: B018  loaded when it is first asked for
    if {"encoder", "aligner"} & set(readers):
        import tensorflow as tf

        import cryoem.siamese.prediction
        import cryoem.udl.export
        import cryoem.udl.network  # noqa: F401

        tf.saved_model.load  # noqa: B018


def attempt(request: dict) -> dict:
    """Read one file in this process: the kind and text of the error, or that there was none, and what it took."""
    size_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE_BYTES
    if request["memory"] is not None:
        limit = size_bytes + request["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
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
    answer["peak_bytes"] = 1024 * (after.ru_maxrss - before.ru_maxrss)
    return answer


def serve(request: dict) -> dict:
    """``attempt`` in a fork; a fork that dies or does not end gives the error "died" or "hung"."""
    answers, ours = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answers)
        try:
            text = json.dumps(attempt(request)).encode()
        except (
            BaseException
        ) as error:  # KeyboardInterrupt and the like: a reader has no business to raise them
            text = json.dumps({"error": ["died"], "text": repr(error)}).encode()
        with os.fdopen(ours, "wb") as stream:
            stream.write(text)
        os._exit(0)
    os.close(ours)
    text, ends, hung = b"", time.monotonic() + request["seconds"], False
    with os.fdopen(answers, "rb") as stream:
        while True:
            ready, _, _ = select.select([stream], [], [], max(0.0, ends - time.monotonic()))
            if not ready:
                hung = True
                os.kill(child, signal.SIGKILL)
                break
            part = os.read(stream.fileno(), 65536)
            if not part:
                break
            text += part
    _, status = os.waitpid(child, 0)
    if hung:
        return {"error": ["hung"], "text": f"no answer after {request['seconds']} s"}
    if status != 0 or not text:
        return {"error": ["died"], "text": f"the process ended with status {status}"}
    return json.loads(text)


def main() -> None:
    """Serve all requests of a file."""
    requests, answers = Path(sys.argv[1]), Path(sys.argv[2])
    import_for(sys.argv[3:])
    with answers.open("w", encoding="utf-8") as stream:
        for line in requests.read_text(encoding="utf-8").splitlines():
            answer = serve(json.loads(line))
            stream.write(json.dumps(answer) + "\n")
            stream.flush()  # else the next fork would write it again


if __name__ == "__main__":
    main()
