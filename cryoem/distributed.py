"""The same work on every block of something large: here, or on the workers of a Dask cluster.

Results come in the order of the blocks and do not depend on where they were made, nor on how many workers there are.
Dask keeps what a block needs until its result is here: the blocks of a worker that dies are made again by another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from cryoem.checks import whole_number

if TYPE_CHECKING:
    from distributed import Client, Future

AHEAD = 2  # blocks under way, for each thread of the workers
LONGEST_WAIT_S = 60
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
    """Workers ended again and again at the same block, or the cluster did."""


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    client: Client | None = None,
    ahead: int = AHEAD,
) -> Iterator[Result]:
    """``function`` of each item, in their order.

    Parameters
    ----------
    function : of one item, which it does not change; with a client, both can be pickled.  It is sent to a worker once.
    items : any number of them; taken as they are needed.
    client : of a Dask cluster, which may be a ``LocalCluster`` or one of ``dask_jobqueue``; here, one after the other,
        by default.
    ahead : at most so many items are under way or waiting to be taken, for each thread of the workers that there are.

    Raises
    ------
    WorkersLostError : workers ended again and again at an item, or the cluster was closed.  Workers that are gone for
        good are waited for, as those of a queue come when they come.
    What ``function`` raises, it raises here.
    """
    if client is None:
        yield from map(function, items)
        return
    shared = _submitted(client, _itself, function)  # a task, so that it outlives the worker that holds it
    waiting = deque()
    try:
        for item in items:
            waiting.append(_submitted(client, _applied, shared, item))
            while len(waiting) >= ahead * max(1, sum(client.nthreads().values())):
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        if client.status == "running":
            client.cancel(list(waiting))


def _submitted(client: Client, *task) -> Future:
    import dask.config

    # a map or a network is what it is; Dask would advise to split it
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        return client.submit(*task, pure=False)


def _itself(function: Callable) -> Callable:
    return function


def _applied(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


def _result(future):
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise WorkersLostError(
            f"workers ended {error.allowed_failures + 1} times while they made the same block; the last was "
            f"{error.last_worker.address}"
        ) from None
    except CancelledError:
        raise WorkersLostError("the cluster ended before all blocks were made") from None


@contextmanager
def client_of(workers: int = 1, *, scheduler: str | None = None) -> Iterator[Client | None]:
    """A client of so many worker processes on this machine, which share its cores; or of a cluster that is there.

    Parameters
    ----------
    workers : how many processes; none is started for one, and the client is None, which means here.
    scheduler : address of a Dask scheduler, such as ``tcp://host:8786``, whose workers are used instead.

    Raises
    ------
    ValueError : workers are fewer than 1, or both are given.
    OSError : nothing listens at that address, or none of its workers comes within a minute.
    RuntimeError : a script that is not guarded by ``if __name__ == "__main__"`` asks for processes.
    """
    workers = whole_number(workers, name="workers", at_least=1)
    if scheduler is not None and workers > 1:
        raise ValueError(f"workers must be 1 where a scheduler has its own, got {workers}")
    if scheduler is None and workers == 1:
        yield None
        return
    from distributed import Client

    if scheduler is None:
        from cryoem.local_workers import local_cluster

        with local_cluster(workers) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(scheduler, timeout=LONGEST_WAIT_S)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at {scheduler}: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=LONGEST_WAIT_S)
        except TimeoutError:
            raise OSError(
                f"the Dask cluster at {scheduler} has no worker, and none came within {LONGEST_WAIT_S} s"
            ) from None
        yield client


def thread_limits(threads: int) -> dict[str, str]:
    """Environment in which a process uses so many threads, whichever library starts them."""
    return {name: str(threads) for name in THREAD_LIMITS}
