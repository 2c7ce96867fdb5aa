"""A Dask cluster of this machine's own processes, which share its cores and end with this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dask.config
from distributed import LocalCluster, WorkerPlugin
from distributed.worker import Worker

from cryoem.distributed import thread_limits


class EndsWithParent(WorkerPlugin):
    """Kills a worker with the process that started it, however that ends, and what the worker started with it."""

    def __init__(self, parent: int):
        self.parent = parent

    def setup(self, worker: Worker) -> None:
        from cryoem.pipeline.kernel import die_with_parent

        die_with_parent(self.parent)


@contextmanager
def local_cluster(count: int) -> Iterator[LocalCluster]:
    """So many worker processes of one task each; one that ends is started again."""
    limits = thread_limits(max(1, (os.cpu_count() or 1) // count))
    with (
        _environment_kept(),
        # before a worker is started, as it loads NumPy before it looks at anything else
        dask.config.set({"distributed.nanny.pre-spawn-environ": limits}),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=0,  # a block bounds what it needs, and a worker that Dask has paused would not say so
            dashboard_address="127.0.0.1:0",
            plugins=[EndsWithParent(os.getpid())],
        ) as cluster,
    ):
        yield cluster


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Undo what the block changes in this process's environment: Dask sets there what workers are to inherit."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
