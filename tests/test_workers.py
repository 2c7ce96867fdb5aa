"""Work on Dask workers: the same results in the same order, even if workers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from distributed import Client, LocalCluster
from worker_tasks import Killer, refuse, slow_start, threads

from cryoem import distances, particles, reconstruction
from cryoem.contrast import ContrastTransfer
from cryoem.distances import prediction
from cryoem.images import image_blocks
from cryoem.reconstruction import accumulation
from cryoem.volumes.density import DensityMap
from cryoem.workers import WorkersLostError, client_of, in_order

N, SIZE, PIXEL = 120, 24, 5.0


@pytest.fixture(scope="module")
def client():
    with client_of(2) as client:
        yield client


@pytest.fixture(scope="module")
def stack(particle):
    density = DensityMap(particle[4:28, 4:28, 4:28], PIXEL)
    ctf = ContrastTransfer(defocus_range_angstrom=(4_000.0, 9_000.0), inverted=True)
    return particles.simulate(density, N, ctf=ctf, shift_limit_px=1.5, noise_variance=0.1, rng=0)


@pytest.fixture(scope="module")
def job(stack, tmp_path_factory):
    """The stack in a file."""
    path = tmp_path_factory.mktemp("job") / "job.star"
    particles.write_particles(path, stack)
    return particles.open_particles(path)


def kill_one(client) -> None:
    found = client.run(os.getpid, on_error="ignore")  # one that was killed before may still be listed
    os.kill(next(iter(found.values())), signal.SIGKILL)


def killing(client, times=1):
    """Return a callback that kills a worker at each of its first calls, and the list of its calls."""
    calls = []

    def callback(count: int) -> None:
        if len(calls) < times:
            kill_one(client)
        calls.append(count)

    return callback, calls


# --- in_order


def test_results_come_in_the_order_of_the_items(client):
    numbers, processes = zip(*in_order(slow_start, range(9), client=client), strict=True)
    assert numbers == tuple(range(9))
    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    assert [number for number, _ in in_order(slow_start, range(3))] == [0, 1, 2]


def test_items_are_consumed_as_they_are_needed(client):
    taken, ahead = [], 3
    results = in_order(abs, (taken.append(i) or i for i in range(20)), client=client, ahead=ahead)
    assert [next(results), next(results)] == [0, 1]
    assert taken == list(range(1 + 2 * ahead))  # two workers
    results.close()


def test_an_error_is_raised_at_its_item(client):
    results = in_order(refuse, range(9), client=client)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match=r"^number must not be 2, got 2$"):
        next(results)


def test_the_block_of_a_killed_worker_is_repeated(client, tmp_path):
    assert list(in_order(Killer(tmp_path, always=False), range(8), client=client)) == list(range(0, 80, 10))
    assert (tmp_path / "3").exists()


def test_a_block_that_kills_every_worker_is_an_error(tmp_path):
    with client_of(2) as client:
        results = in_order(Killer(tmp_path, always=True), range(8), client=client)
        with pytest.raises(WorkersLostError, match=r"^\d+ workers died while computing the same block"):
            list(results)


def test_workers_that_start_later_are_used():
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as late,
    ):
        results = in_order(slow_start, [1] * 40, client=late)
        first = next(results)[1]
        cluster.scale(2)
        late.wait_for_workers(2)
        assert len({first, *(process for _, process in results)}) == 2


# --- clusters


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"workers": 0}, ValueError, r"^workers must be an integer >= 1, got 0$"),
        (
            {"workers": 2, "scheduler": "tcp://127.0.0.1:1"},
            ValueError,
            "^workers cannot be combined with scheduler",
        ),
        ({"scheduler": "nonsense://a"}, OSError, "^no Dask scheduler answers at nonsense://a: "),
    ],
)
def test_impossible_clusters_are_refused(arguments, error, message):
    with pytest.raises(error, match=message), client_of(**arguments):
        pass


def test_a_running_cluster_is_used_by_its_address(client):
    with client_of(scheduler=client.scheduler.address) as other:
        assert set(other.run(os.getpid).values()) == set(client.run(os.getpid).values())
        results = in_order(abs, range(20), client=other)
        next(results)
    results.close()  # after its client was closed


def test_workers_share_the_cores_and_do_not_change_this_process(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with client_of(2) as client:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
        assert list(in_order(threads, range(2), client=client)) == [str(max(1, os.cpu_count() // 2))] * 2
        processes = set(client.run(os.getpid).values())
        for process in processes:  # Ctrl-C also reaches them
            os.kill(process, signal.SIGINT)
        monkeypatch.setenv("OF_THE_USER", "1")
        assert {process for _, process in in_order(slow_start, range(9), client=client)} == processes
    assert os.environ["OF_THE_USER"] == "1"
    assert threads(0) is None


SCRIPT = """
import os, time
from cryoem.workers import client_of
def main():
    with client_of(2) as client:
        print(*client.run(os.getpid).values(), flush=True)
        client.submit(time.sleep, 60).result()
"""


def test_workers_end_with_their_parent(tmp_path):
    (tmp_path / "script.py").write_text(f'{SCRIPT}\nif __name__ == "__main__":\n    main()\n')
    with subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        workers = [int(process) for process in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.kill()
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_script_without_a_guard_gets_advice(tmp_path):
    (tmp_path / "script.py").write_text(f"{SCRIPT}\nmain()\n")
    ended = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert ended.returncode != 0
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: worker processes could not be started (")
    assert 'start workers inside `if __name__ == "__main__":`' in last


# --- steps on files and workers, one of which is killed, equal those on arrays in one process


def test_a_map_does_not_depend_on_the_workers(stack, job, client, monkeypatch):
    monkeypatch.setattr(accumulation, "IMAGES_PER_PX", 1)  # blocks of 24 images
    subset = (np.arange(N) >= 50).astype(int)
    step = partial(reconstruction.reconstruct_halves, job, job.poses, optics=job.optics, subset=subset)
    there = step(map_blocks=partial(in_order, client=client))
    callback, calls = killing(client, times=4)
    again = step(map_blocks=partial(in_order, client=client), callback=callback)
    assert calls == [24, 48, 50, 74, 98, 120]  # one half after the other
    parts = (np.arange(N), np.flatnonzero(subset == 0), np.flatnonzero(subset == 1))
    for part, a, b in zip(parts, *([found.map, *found.half_maps] for found in (there, again)), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
        expected = reconstruction.reconstruct(
            stack.images[part], stack.poses[part], optics=stack.optics[part]
        )
        np.testing.assert_allclose(a.data, expected.data, atol=2e-4 * np.abs(expected.data).max())
        assert a.voxel_size_angstrom == PIXEL


def test_distances_do_not_depend_on_the_workers(stack, job, client, monkeypatch):
    keras.utils.set_random_seed(0)
    settings = distances.EncoderSettings(16, channels=6, blocks=1, with_shifts=True)
    encoder = distances.TrainedEncoder(settings.build(), settings)
    here = distances.estimate_distances(stack.images, encoder, optics=stack.optics)
    monkeypatch.setattr(prediction, "image_blocks", partial(image_blocks, block_bytes=30 * 4 * SIZE**2))
    callback, calls = killing(client)
    there = distances.estimate_distances(
        job, encoder, map_blocks=partial(in_order, client=client), callback=callback
    )
    assert calls == list(range(30, N + 1, 30))
    assert here.distances.max() > 0.1
    assert np.abs(here.shifts_px).max() > 0.01
    np.testing.assert_allclose(there.distances, here.distances, atol=2e-3)  # arccos amplifies rounding near 0
    np.testing.assert_allclose(there.shifts_px, here.shifts_px, atol=1e-3)
