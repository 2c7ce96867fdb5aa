"""Sort simulated images, a fifth of which are junk, into two-dimensional classes.

python benchmarks/classification.py                      5,000 images of 64 px in 50 classes
python benchmarks/classification.py --images 1500 --classes 20

The images are random views of the map with an astigmatic CTF, shifts of up to 3 px and white noise of four times the
variance of the noise-free images, which corresponds to a variance of 13 at 116 px. One half of the junk is pure noise.
In the other half, the particle is 0.45 to 0.6 image widths off-centre, as neighbours are.

The averages are compared with a single template, from the iterated alignment of the images that are not junk. For each
image that is not junk, the FRC between the average and the noise-free image, turned to the pose of the average, is
computed; the mean curve falls below 0.5 at the resolution in the table.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from table import print_table

from cryoem import particles, udl, volumes
from cryoem.contrast import ContrastTransfer, Optics
from cryoem.images import add_noise, flip_phases
from cryoem.reconstruction import FSC, fourier_ring_correlation
from cryoem.rotations import Poses, random_rotations

SHIFT_LIMIT_PX, SHIFT_DEVIATION_PX = 3.0, 1.5
DEFOCUS_ANGSTROM, ASTIGMATISM_ANGSTROM = (5_000.0, 20_000.0), 500.0
NOISE, EDGE = 1, 2  # kinds of junk
COMPARED = 1000  # images compared with averages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n")
    parser.add_argument("--voxel-size", type=float, default=6.65)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--noise-variance", type=float, default=4.0)
    parser.add_argument("--junk", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    density = volumes.load(arguments.map, voxel_size_angstrom=arguments.voxel_size, size=arguments.image_size)
    images, optics, poses, kind = simulate_job(density, arguments)
    wall, processor = time.perf_counter(), time.process_time()
    found = udl.classify(
        images, arguments.classes, optics=optics, shift_deviation_px=SHIFT_DEVIATION_PX, rng=arguments.seed
    )
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    marked = found.junk[found.classes]
    good = np.flatnonzero(kind == 0)
    template = single_template(flip_phases(images[good], optics[good]))
    some = good[:COMPARED]
    clean = np.asarray(particles.simulate(density, poses[some], image_size=arguments.image_size, rng=0))
    of_classes = resolution(
        clean, found.angles_rad[some], found.shifts_px[some], found.averages[found.classes[some]], optics
    )
    of_template = resolution(
        clean, template.angles_rad[:COMPARED], template.shifts_px[:COMPARED],
        np.broadcast_to(template.average, clean.shape), optics,
    )  # fmt: skip
    print_table(
        "classification",
        f"2D classes, {len(images):,} images of {arguments.image_size} px, {arguments.classes} classes, "
        f"{100 * arguments.junk:.0f} % junk",
        [
            ("time", "<= 180 s", f"{wall:.0f} s"),
            ("processor time", "-", f"{processor:.0f} s"),
            ("junk in junk classes", ">= 95 %", f"{100 * marked[kind > 0].mean():.1f} %"),
            ("pure noise in junk classes", "-", f"{100 * marked[kind == NOISE].mean():.1f} %"),
            ("neighbours in junk classes", "-", f"{100 * marked[kind == EDGE].mean():.1f} %"),
            ("good images in junk classes", "<= 2 %", f"{100 * marked[good].mean():.1f} %"),
            ("classes that are not junk", "-", f"{(~found.junk).sum()}"),
            ("empty classes", "-", f"{(found.counts == 0).sum()}"),
            (
                "resolution between halves, median",
                "-",
                f"{np.median(found.resolutions_angstrom[~found.junk]):.1f} Å",
            ),
            ("class averages against noise-free images", f"< {of_template:.1f} Å", f"{of_classes:.1f} Å"),
            ("single template against noise-free images", "-", f"{of_template:.1f} Å"),
        ],
    )


def simulate_job(density, arguments) -> tuple[np.ndarray, Optics, Poses, np.ndarray]:
    """Return images (n, y, x), their optics and poses, and the kind of each image: 0, NOISE or EDGE."""
    n, size, rng = arguments.images, arguments.image_size, np.random.default_rng(arguments.seed)
    kind = np.zeros(n, int)
    junk = rng.permutation(n)[: int(arguments.junk * n)]
    kind[junk] = np.where(np.arange(len(junk)) % 2, NOISE, EDGE)
    shifts = rng.triangular(-SHIFT_LIMIT_PX, 0, SHIFT_LIMIT_PX, (n, 2))
    radius, angle = rng.uniform(0.45, 0.6, n) * size, rng.uniform(0, 2 * np.pi, n)
    away = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    poses = Poses(random_rotations(n, rng=rng), np.where((kind == EDGE)[:, None], away, shifts))
    defocus = rng.uniform(*DEFOCUS_ANGSTROM, n)
    other = defocus + rng.uniform(-ASTIGMATISM_ANGSTROM, ASTIGMATISM_ANGSTROM, n)
    defocus = np.stack([defocus, other, rng.uniform(0, np.pi, n)], axis=1)
    optics = Optics(density.voxel_size_angstrom, ContrastTransfer(), defocus)
    # in a wider box, so that neighbours do not reappear at the opposite edge
    wide = particles.simulate(density, poses, image_size=2 * size, ctf=optics, rng=rng)
    middle = slice(size - size // 2, size - size // 2 + size)
    images = np.asarray(wide)[:, middle, middle].copy()
    images[kind == NOISE] = 0
    images /= images[kind == 0].std()
    return add_noise(images, arguments.noise_variance, rng=rng), optics, poses, kind


def single_template(images: np.ndarray) -> udl.InPlaneAlignment:
    """Align all images with one template."""
    return udl.align(images, udl.template_aligner(images))


def resolution(
    clean: np.ndarray, angles_rad: np.ndarray, shifts_px: np.ndarray, averages: np.ndarray, optics: Optics
) -> float:
    """Return where the mean FRC of averages with noise-free images, in the pose of the average, falls below 0.5."""
    aligned = udl.align_images(clean, angles_rad, shifts_px)
    curves = [
        fourier_ring_correlation(a, b, pixel_size_angstrom=optics.pixel_size_angstrom)
        for a, b in zip(aligned, averages, strict=True)
        if b.any()
    ]
    return FSC(
        curves[0].frequency, np.mean([curve.correlation for curve in curves], axis=0)
    ).resolution_angstrom(0.5)


if __name__ == "__main__":
    main()
