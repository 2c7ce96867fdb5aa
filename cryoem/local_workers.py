"""A Dask cluster of this machine's own processes, which share its cores and end with this process."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import process, resource_tracker

import dask.config
from distributed import LocalCluster, WorkerPlugin
from distributed.worker import Worker

from cryoem.devices import cores
from cryoem.distributed import thread_limits
from cryoem.errors import first_line

GUARD = 'a script asks for workers below `if __name__ == "__main__":`, since they read it, too'
INHERITED = "distributed.nanny.pre-spawn-environ"


class EndsWithParent(WorkerPlugin):
    """Kills a worker with the process that started it, however that ends, and what the worker started with it."""

    def __init__(self, parent: int):
        self.parent = parent

    def setup(self, worker: Worker) -> None:
        from cryoem.pipeline.kernel import die_with_parent

        die_with_parent(self.parent)


@contextmanager
def local_cluster(count: int) -> Iterator[LocalCluster]:
    """So many worker processes of one task each; one that ends is started again.

    Ctrl-C is for this process alone, which ends them.
    """
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(GUARD)
    # before a worker is started, as it loads NumPy before it looks at anything else
    inherited = dask.config.get(INHERITED) | thread_limits(max(1, cores() // count))
    before = {name: os.environ.get(name) for name in (*inherited, "PYTHONHASHSEED")}
    resource_tracker.ensure_running()  # its start lets signals through again, in whichever thread it is
    held = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT}
    )  # workers inherit that they are not to hear it
    try:
        with dask.config.set({INHERITED: inherited}):
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=0,  # a block bounds what it needs, and a worker that Dask has paused would not say so
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,  # what matters is raised
                plugins=[EndsWithParent(os.getpid())],
            )
    except RuntimeError as error:
        raise RuntimeError(f"worker processes must start, got {first_line(error)!r}; {GUARD}") from None
    finally:
        _restore(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    try:
        with cluster:
            yield cluster
    finally:
        _restore(before)  # a worker that was started again has changed it again


def _restore(environment: Mapping[str, str | None]) -> None:
    """Undo what Dask changes in this process's environment, where it sets what workers are to inherit."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
