"""Work that Dask's workers share: the same results in the same order, also where workers are killed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest
from distributed import Client, LocalCluster
from worker_tasks import Killer, late, numbers_and_processes, refuse, threads

from cryoem import blockwise, imaging, particles, siamese
from cryoem.contrast import ContrastTransfer
from cryoem.distributed import WorkersLostError, client_of, in_order
from cryoem.projectors import Projector
from cryoem.rotations import random_rotations
from cryoem.volumes import DensityMap

N, SIZE, PIXEL = 40, 24, 5.0
FLOAT32 = 1e-5  # relative to the largest value


@pytest.fixture(scope="module")
def client():
    with client_of(2) as client:
        yield client


@pytest.fixture(scope="module")
def density(particle):
    return DensityMap(particle[4:28, 4:28, 4:28], PIXEL)


@pytest.fixture(scope="module")
def job(density, tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "job.star"
    ctf = ContrastTransfer(defocus_angstrom=(4_000.0, 9_000.0), inverted=True)
    stack = imaging.simulate(density, N, ctf=ctf, shift_limit_px=1.5, noise_variance=0.1, rng=0)
    particles.write_particles(path, stack)
    return particles.open_particles(path)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of four images."""
    monkeypatch.setattr(blockwise.blocks, "BLOCK_BYTES", 4 * 4 * SIZE**2)
    monkeypatch.setattr(blockwise.maps, "IMAGES_PER_PX", 1 / 3)  # two blocks


def kill_a_worker(client) -> None:
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)


# --- in order


def test_results_come_in_the_order_of_the_items(client):
    numbers, processes = zip(*in_order(late, range(9), client=client), strict=True)
    assert numbers == tuple(range(9))
    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    assert [number for number, _ in in_order(late, range(3))] == [0, 1, 2]


@pytest.mark.parametrize("ahead", [1, 3])
def test_items_are_taken_as_they_are_needed(client, ahead):
    taken = []
    results = in_order(abs, (taken.append(i) or i for i in range(20)), client=client, ahead=ahead)
    assert [next(results), next(results)] == [0, 1]
    assert taken == list(range(1 + 2 * ahead))  # of two workers
    results.close()


def test_an_error_is_raised_where_the_results_are_taken(client):
    results = in_order(refuse, range(9), client=client)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match=r"^number must not be 2, got 2$"):
        next(results)


def test_what_a_killed_worker_was_making_is_made_again(client, tmp_path):
    assert list(in_order(Killer(tmp_path, always=False), range(8), client=client)) == list(range(0, 80, 10))
    assert (tmp_path / "3").exists()


def test_a_block_that_kills_every_worker_ends_in_a_sentence(tmp_path):
    with client_of(2) as client:
        results = in_order(Killer(tmp_path, always=True), range(8), client=client)
        with pytest.raises(
            WorkersLostError, match=r"^workers ended \d+ times while they made the same block"
        ):
            list(results)


def test_clusters_that_cannot_be_are_refused():
    with (
        pytest.raises(ValueError, match=r"^workers must be a whole number of at least 1, got 0$"),
        client_of(0),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"^workers must be 1 where a scheduler has its own, got 2$"),
        client_of(2, scheduler="tcp://127.0.0.1:1"),
    ):
        pass
    with (
        pytest.raises(OSError, match=r"^no Dask scheduler answers at nonsense://a: "),
        client_of(scheduler="nonsense://a"),
    ):
        pass


def test_a_cluster_that_is_there_is_used_by_its_address(client):
    with client_of(scheduler=client.scheduler.address) as other:
        assert set(other.run(os.getpid).values()) == set(client.run(os.getpid).values())


def test_workers_share_the_cores_and_leave_this_process_its_own(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with client_of(2) as client:
        assert list(in_order(threads, range(2), client=client)) == [str(max(1, os.cpu_count() // 2))] * 2
    assert threads(0) is None


def test_a_worker_hears_no_interrupt_and_a_user_s_own_environment_stays(monkeypatch):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with client_of(2) as client:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        processes = set(client.run(os.getpid).values())
        for process in processes:
            os.kill(process, signal.SIGINT)
        monkeypatch.setenv("OF_THE_USER", "1")
        assert {process for _, process in in_order(late, range(9), client=client)} == processes
    assert os.environ["OF_THE_USER"] == "1"


def test_workers_that_come_later_are_used():
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as late,
    ):
        results = in_order(numbers_and_processes, range(40), client=late)
        first = next(results)[1]
        cluster.scale(3)
        late.wait_for_workers(3)
        assert len({first, *(process for _, process in results)}) == 3


def test_a_large_function_is_no_reason_for_advice(client):
    """Dask's would be a warning, which is an error here."""
    large = partial(np.add, np.zeros(2_000_000))
    assert next(in_order(large, [1.0], client=client))[0] == 1


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from cryoem.distributed import client_of\nwith client_of(2): pass\n")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ended.returncode != 0
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: worker processes must start, got ")
    assert last.endswith(
        'a script asks for workers below `if __name__ == "__main__":`, since they read it, too'
    )


def test_results_that_are_not_taken_outlive_their_cluster():
    with client_of(2) as client:
        results = in_order(abs, range(20), client=client)
        next(results)
    results.close()


# --- steps


def test_simulated_images_do_not_depend_on_who_makes_them(density, client):
    options = {"noise_variance": 1.0, "shift_limit_px": 2.0, "ctf": ContrastTransfer(), "rng": 3}
    expected = imaging.simulate(density, N, **options).images
    blocks = imaging.simulate_lazily(density, N, client=client, **options).blocks(7)
    first = next(blocks)
    kill_a_worker(client)
    np.testing.assert_array_equal(np.concatenate([first, *blocks]), expected)


def test_a_projector_is_sent_without_what_it_made_ready(density):
    rotations = random_rotations(5, rng=0)
    projector = Projector(density.data, image_size=30)
    images = projector(rotations)
    sent = pickle.dumps(projector)
    assert len(sent) < 1.1 * density.data.nbytes
    np.testing.assert_array_equal(pickle.loads(sent)(rotations), images)


def test_a_map_does_not_depend_on_who_makes_it(job, client, small_blocks):
    here = blockwise.reconstruct_particles(job)
    there = blockwise.reconstruct_particles(job, client=client)
    done = []

    def killing(count: int) -> None:
        if not done:
            kill_a_worker(client)
        done.append(count)

    again = blockwise.reconstruct_particles(job, client=client, callback=killing)
    assert done == list(range(8, N + 1, 8))
    for a, b, c in zip(*([made.map, *made.half_maps] for made in (here, there, again)), strict=True):
        np.testing.assert_array_equal(b.data, c.data)
        np.testing.assert_allclose(a.data, b.data, atol=FLOAT32 * np.abs(a.data).max())  # other threads


def test_a_method_that_cannot_be_shared_is_refused(job, client):
    with pytest.raises(ValueError, match=r"^method must be fourier where workers share it, got 'cgls'$"):
        blockwise.reconstruct_particles(job, method="cgls", client=client)


@pytest.mark.parametrize("with_shifts", [False, True])
def test_learned_distances_do_not_depend_on_who_encodes(job, client, small_blocks, with_shifts):
    keras.utils.set_random_seed(0)
    settings = siamese.EncoderSettings(16, channels=6, blocks=1, with_shifts=with_shifts)
    encoder = settings.build()
    here = blockwise.learned_distances(job, encoder, settings)
    killed = []

    def killing(count: int) -> None:
        if not killed:
            kill_a_worker(client)
        killed.append(count)

    there = blockwise.learned_distances(job, encoder, settings, client=client, callback=killing)
    assert here.distances.max() > 0.1
    np.testing.assert_allclose(there.distances, here.distances, atol=2e-3)  # arccos steepens rounding near 0
    np.testing.assert_allclose(there.shifts_px, here.shifts_px, atol=1e-3)
