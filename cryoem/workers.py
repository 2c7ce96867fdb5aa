"""Map a function over blocks of data, in this process or on the workers of a Dask cluster.

Results are returned in the order of the blocks. They depend neither on the number of workers nor on which worker
computes which block. Dask keeps the input of a block until its result has arrived, so that a different worker can
repeat the block if its worker dies.
"""

from __future__ import annotations

import logging
import operator
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from cryoem.devices import cores
from cryoem.files.reading import first_line
from cryoem.validation import whole_number

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

AHEAD = 2  # blocks in flight per worker thread
TIMEOUT_S = 60
INHERITED = "distributed.nanny.pre-spawn-environ"
THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

Item, Result = TypeVar("Item"), TypeVar("Result")


class WorkersLostError(RuntimeError):
    """Raised when workers die repeatedly while computing the same block, or when the cluster is closed."""


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    client: Client | None = None,
    ahead: int = AHEAD,
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, like the built-in ``map``.

    Parameters
    ----------
    function : callable
        Function that takes one item and does not modify it. With a client, the function and the items must be
        picklable, and the function is sent to each worker once. Exceptions raised by the function propagate to the
        caller.
    items : iterable
        Any number of items, which are consumed only as needed.
    client : distributed.Client, optional
        Client of a Dask cluster, for example a ``LocalCluster`` or a cluster from ``dask_jobqueue``. Default: process
        the items in this process.
    ahead : int
        Maximum number of items per worker thread that are being computed or waiting to be yielded. Default: 2.

    Raises
    ------
    WorkersLostError
        If workers die repeatedly while computing the same item, or if the cluster is closed. If no workers are left, no
        error is raised: the call waits for new workers, because those of a batch queue may start late.
    """
    if client is None:
        yield from map(function, items)
        return
    # make the function the result of a task, so that Dask restores it if the worker that holds it dies
    shared = _submit(client, _identity, function)
    pending = deque()
    try:
        for item in items:
            pending.append(_submit(client, operator.call, shared, item))
            while len(pending) >= ahead * max(1, sum(client.nthreads().values())):
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())
    finally:
        if client.status == "running":
            client.cancel(list(pending))


def _submit(client: Client, *task) -> Future:
    import dask.config

    # silence Dask's advice to split large tasks: a map or a network cannot be split
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        return client.submit(*task, pure=False)


def _identity(function: Callable) -> Callable:
    return function


def _result(future: Future):
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise WorkersLostError(
            f"{error.allowed_failures + 1} workers died while computing the same block, possibly from lack of memory; "
            f"the last was {error.last_worker.address}"
        ) from None
    except CancelledError:
        raise WorkersLostError("the cluster was closed before all blocks were computed") from None


@contextmanager
def client_of(workers: int = 1, *, scheduler: str | None = None) -> Iterator[Client | None]:
    """Yield a Dask client for ``in_order``, connected to new worker processes or to an existing cluster.

    Parameters
    ----------
    workers : int
        Number of worker processes on this machine; they share its cores. Default: 1, for which no process is started
        and None is yielded.
    scheduler : str, optional
        Address of a running Dask scheduler, such as ``tcp://host:8786``, whose workers are used instead.

    Raises
    ------
    ValueError
        If ``workers`` is less than 1, or if ``scheduler`` is combined with more than one worker.
    OSError
        If no scheduler answers at the address, or if no worker connects to it within a minute.
    RuntimeError
        If a script starts processes outside ``if __name__ == "__main__":``.
    """
    workers = whole_number(workers, name="workers", at_least=1)
    if scheduler is not None and workers > 1:
        raise ValueError(f"workers cannot be combined with scheduler {scheduler}, got {workers} workers")
    if scheduler is None and workers == 1:
        yield None
        return
    from distributed import Client

    if scheduler is None:
        with _local_cluster(workers) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(scheduler, timeout=TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at {scheduler}: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=TIMEOUT_S)
        except TimeoutError:
            raise OSError(f"no worker joined the Dask cluster at {scheduler} within {TIMEOUT_S} s") from None
        yield client


@contextmanager
def _local_cluster(count: int) -> Iterator[LocalCluster]:
    """Start ``count`` single-threaded workers, which Dask restarts if they die and stops with this process."""
    from multiprocessing import process, resource_tracker

    import dask.config
    from distributed import LocalCluster

    advice = 'start workers inside `if __name__ == "__main__":`, because each worker imports the script'
    if getattr(process.current_process(), "_inheriting", False):  # this is a worker that imports the script
        raise RuntimeError(advice)
    # NumPy reads the limits when it is imported, before a worker runs any of our code
    inherited = dask.config.get(INHERITED) | dict.fromkeys(THREAD_LIMITS, str(max(1, cores() // count)))
    before = {name: os.environ.get(name) for name in (*inherited, "PYTHONHASHSEED")}
    # workers inherit the blocked signal, so Ctrl-C interrupts only this process, which then stops them
    resource_tracker.ensure_running()  # starting it later would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with dask.config.set({INHERITED: inherited}):
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=0,  # no limit: blocks are small, and Dask would pause a worker silently
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,  # errors are raised instead
            )
    except RuntimeError as error:
        raise RuntimeError(f"worker processes could not be started ({first_line(error)}); {advice}") from None
    finally:
        _restore(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        with cluster:
            yield cluster
    finally:
        _restore(before)  # Dask sets the variables again each time it restarts a worker


def _restore(environment: Mapping[str, str | None]) -> None:
    """Undo the changes that Dask made to this process's environment to pass variables to its workers."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
