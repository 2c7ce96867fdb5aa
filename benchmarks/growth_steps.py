"""Define the steps that growth.py measures. Each process measures one step at one size.

Each step first runs at a small size to compile its code. Then only the work itself is timed, and the memory is the peak
resident memory during that work.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.ndimage
from landmarks import write_distances
from watch import Watched, memory_bytes, watch

from cryoem import volumes
from cryoem.contrast import Optics
from cryoem.images import BLOCK_BYTES, add_noise
from cryoem.orientations import recover_orientations, recovery_error
from cryoem.particles import simulate
from cryoem.projection import Projector, fourier, project
from cryoem.reconstruction.accumulation import accumulate
from cryoem.rotations import Poses, random_rotations
from cryoem.udl.aligner import Aligner, align_block, prepare_reference
from cryoem.udl.classical import template_aligner
from cryoem.udl.rotation import rotate_images
from cryoem.udl.stacks import BLOCK_BYTES as ALIGNMENT_BLOCK_BYTES

TEMPLATE_IMAGES = 1024
POOL = 4  # number of image blocks, which are reused so that simulation affects neither time nor memory
PHANTOM_PX = 64
FEWEST_IMAGES = 1000
ENOUGH_SECONDS, MOST_REPEATS = 2.0, 5

Run = Callable[[], float | None]  # returns the error of the result, or None if there is no truth


def projection(images: int, size: int, _landmarks: int, _folder: Path) -> Run:
    """Project a map at random orientations, block by block."""
    project_at = Projector(particle(size).data)
    block = file_block(size)
    project_at(random_rotations(2, rng=0))

    def run():
        rotations = random_rotations(images, rng=0)
        for start in range(0, images, block):
            project_at(rotations[start : start + block])

    return run


def volume_transform(_images: int, size: int, _landmarks: int, _folder: Path) -> Run:
    """Transform a volume, which projection does once per map."""
    density = particle(size)
    fourier.transform(density.data[:16, :16, :16])

    def run():
        fourier.transform(density.data)

    return run


def alignment_by_template(images: int, size: int, _landmarks: int, _folder: Path) -> Run:
    """Align blocks of images with the classical aligner."""
    pool, angles = turned_images(images, size)
    return alignment(images, pool, angles, template_aligner(pool[:TEMPLATE_IMAGES]))


def alignment_by_network(images: int, size: int, _landmarks: int, _folder: Path) -> Run:
    """Align blocks of images with the untrained joint network; training does not affect its speed."""
    from cryoem.udl.networks import build_polar_network

    pool, angles = turned_images(images, size)
    classical = template_aligner(pool[:TEMPLATE_IMAGES])
    network = build_polar_network(classical.grid)
    network.get_layer("template").warm_start(classical.network.template)
    return alignment(images, pool, angles, Aligner(network, classical.grid, classical.reference, "judl"))


def alignment(images: int, pool: np.ndarray, angles: np.ndarray, aligner: Aligner) -> Run:
    block = alignment_block(pool.shape[1])
    reference = prepare_reference(pool, aligner)
    for count in {
        min(images, block),
        images % block or block,
    }:  # a network is compiled for each batch size
        align_block(pool[:count], aligner, reference)

    def run():
        found = [
            align_block(pool[some], aligner, reference)[0].angles_rad
            for some in again(images, len(pool), block)
        ]
        turns = np.concatenate(found)[: len(pool)] - angles
        about = np.exp(1j * turns) / np.exp(1j * np.angle(np.exp(1j * turns).mean()))
        return float(np.abs(np.angle(about)).mean())

    return run


def alignment_block(size: int) -> int:
    return max(1, ALIGNMENT_BLOCK_BYTES // (4 * size**2))


def reconstruction(images: int, size: int, _landmarks: int, _folder: Path) -> Run:
    """Reconstruct a map from blocks of images."""
    block = file_block(size)
    poses = Poses(random_rotations(min(images, POOL * block), rng=0))
    pool, optics = project(particle(size).data, poses.rotations), Optics(1.0)
    accumulate(pool[:2], poses[:2], optics)

    def run():
        sums = None
        for some in again(images, len(pool), block):
            part = accumulate(pool[some], poses[some], optics)
            sums = part if sums is None else sums + part
        sums.invert()

    return run


def recovery(images: int, _size: int, landmarks: int, folder: Path) -> Run:
    """Recover orientations from a file of distances to landmarks."""
    few, rotations = random_rotations(60, rng=0), random_rotations(images, rng=0)
    write_distances(folder, few, np.arange(20))
    recover_orientations(
        np.memmap(folder / "distances", np.float32, "r", shape=(60, 20)),
        landmarks=np.load(folder / "landmarks.npy"),
    )
    numbers = np.sort(np.random.default_rng(1).choice(images, landmarks, replace=False))
    write_distances(folder, rotations, numbers)

    def run():
        columns = np.memmap(folder / "distances", np.float32, "r", shape=(images, landmarks))
        found = recover_orientations(columns, landmarks=numbers).rotations
        some = slice(0, 1000)
        return recovery_error(rotations[some], found[some])

    return run


STEPS: dict[str, Callable[[int, int, int, Path], Run]] = {
    "projection": projection,
    "volume transform": volume_transform,
    "alignment, template": alignment_by_template,
    "alignment, joint network": alignment_by_network,
    "reconstruction": reconstruction,
    "recovery": recovery,
}


def particle(size: int) -> volumes.DensityMap:
    return volumes.cube(volumes.phantom(size=min(size, PHANTOM_PX)), size)


def file_block(size: int) -> int:
    """Return the number of images per block, which is limited so that the smallest set fills at least one block."""
    return max(1, min(FEWEST_IMAGES, BLOCK_BYTES // (4 * size**2)))


def turned_images(images: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate at most ``POOL`` blocks of noisy, rotated and shifted images of one view; also return their angles."""
    (view,) = simulate(particle(PHANTOM_PX), 1, rng=0).images
    view = scipy.ndimage.zoom(view, size / PHANTOM_PX, order=1 if size < PHANTOM_PX else 3)
    rng = np.random.default_rng(0)
    count = min(images, POOL * alignment_block(size))
    angles = rng.uniform(0, 2 * np.pi, count)
    shifts = rng.uniform(-size / 32, size / 32, (count, 2))
    turned = rotate_images(np.broadcast_to(view, (count, size, size)), angles, shifts)
    return add_noise(turned, 1.0, rng=rng), angles


def again(images: int, pool: int, block: int) -> Iterator[slice]:
    """Yield, for each block of images, the slice of the pool that replaces it."""
    for start in range(0, images, block):
        count = min(block, images - start)
        at = start % pool
        yield slice(at, at + count)


def measure(run: Run) -> dict[str, float | int | None]:
    """Measure the median time of a few runs (fewer if they are slow) and the peak resident memory."""
    watched, processor, peak = Watched(), [], 0
    while not processor or (len(processor) < MOST_REPEATS and sum(watched.seconds) < ENOUGH_SECONDS):
        start = time.process_time()
        watch(run, into=watched)
        processor.append(time.process_time() - start)
        peak = max(peak, memory_bytes("VmHWM"))
    if watched.peak_bytes is None:
        raise SystemExit("growth.py measures peak memory, which this system does not report; run it on Linux")
    return {
        "seconds": watched.median_s,
        "cpu_seconds": statistics.median(processor),
        "repeats": len(processor),
        "added_memory_gb": watched.peak_bytes / 1e9,
        "peak_memory_gb": peak / 1e9,
        "error_rad": watched.result,
    }


def main() -> None:
    step, images, size, landmarks = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(STEPS[step](images, size, landmarks, Path(folder)))))


if __name__ == "__main__":
    main()
