"""The whole way on a real map: train, recover, fix the gauge, reconstruct, refine; errors and times in one table.

    python benchmarks/end_to_end.py --noise-variance 0
    python benchmarks/end_to_end.py --noise-variance 16
    python benchmarks/end_to_end.py --noise-variance 16 --shift-limit-px 5
    python benchmarks/end_to_end.py --noise-variance 16 --shift-limit-px 5 --ctf
    python benchmarks/end_to_end.py --map phantom-D2 --symmetry D2 --image-size 64
    python benchmarks/end_to_end.py --map beta-galactosidase.mrc --masked --symmetry D2 --image-size 100

The truth enters only the reported errors. Resolutions are unmasked unless said otherwise.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
from table import print_table

from cryoem import imaging, registry, siamese, volumes
from cryoem.evaluation import align_frame, pose_error, recovery_error
from cryoem.gauge import fix_gauge
from cryoem.reconstruction import reconstruct
from cryoem.recovery import recover_orientations
from cryoem.refinement import refine
from cryoem.resolution import fourier_shell_correlation

ASKED = {
    ("C1", 0.0, False): {"training": 5, "e_or": 0.10, "fsc": 8.5, "refined": 0.010, "refined_fsc": "7.8 Å"},
    ("C1", 16.0, False): {
        "training": 12,
        "e_or": 0.19,
        "fsc": 12.0,
        "refined": 0.040,
        "refined_fsc": "1.1 x true",
    },
    ("C1", 0.0, True): {"refined": 0.003, "refined_fsc": "7.4 Å"},
    ("C1", 16.0, True): {"refined": 0.030, "refined_fsc": "1.05 x true", "half_maps": "1.05 x true"},
    ("D2", 0.0, False): {"e_or": 0.10},
    ("D2", 16.0, False): {"e_or": 0.13},
}
MASK_FILTER_ANGSTROM = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n", help="registry name or path of a map")
    parser.add_argument("--masked", action="store_true", help="without the noise around the map's particle")
    parser.add_argument("--symmetry", default="C1", choices=sorted({group for group, _ in ASKED}))
    parser.add_argument("--noise-variance", type=float, default=0.0, choices=sorted({v for _, v in ASKED}))
    parser.add_argument("--images", type=int, default=1650)
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--epochs", type=int, default=None, help="epochs of 50 steps of 128 images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    noise, symmetry = arguments.noise_variance, arguments.symmetry
    asked = {name: f"<= {value}" for name, value in ASKED[symmetry, noise].items()}
    epochs = arguments.epochs or (16 if noise == 0 else 30)
    keras.utils.set_random_seed(arguments.seed)

    density = registry.load(arguments.map)
    if arguments.masked:
        coarse = volumes.low_pass(density, MASK_FILTER_ANGSTROM)
        mask = volumes.soft_mask(coarse, extend_px=2, edge_px=4)
        density = volumes.DensityMap(density.data * mask, density.voxel_size_angstrom)
    voxel, size = density.voxel_size_angstrom, arguments.image_size
    simulation = {"image_size": size, "noise_variance": noise}
    particles = imaging.simulate(density, arguments.images, rng=[arguments.seed, 1], **simulation)
    held_out = imaging.simulate(density, 256, rng=[arguments.seed, 2], **simulation)
    network_size = 58

    clock = {}

    def timed(name, function, *args, **options):
        start = time.perf_counter()
        result = function(*args, **options)
        clock[name] = time.perf_counter() - start
        print(f"{name}: {clock[name]:.1f} s", flush=True)
        return result

    encoder = siamese.build_encoder(network_size, symmetry=symmetry)
    stream = siamese.ProjectionStream(
        density, network_image_size=network_size, batch_size=128, steps=50, seed=arguments.seed, **simulation
    )
    validation = imaging.downsample(held_out.images, network_size), held_out.rotations.as_quat()
    history = timed(
        "training",
        siamese.train,
        encoder,
        stream,
        epochs=epochs,
        validation=validation,
        symmetry=symmetry,
        verbose=2,
    )
    small = imaging.downsample(particles.images, network_size)
    distances = timed("distances", siamese.predict_distances, encoder, small, symmetry=symmetry)
    known = {"symmetry": symmetry, "rng": arguments.seed}
    recovery = timed("recovery", recover_orientations, distances, **known)
    gauge = timed("gauge", fix_gauge, particles.images, recovery.rotations, **known)
    refinement = timed(
        "refinement", refine, particles.images, gauge.rotations, pixel_size_angstrom=voxel, **known
    )

    truth = volumes.cube(density, size).data
    clean = imaging.simulate(density, arguments.images, rng=[arguments.seed, 1], image_size=size).images

    def resolution(images, rotations):
        """FSC 0.5 against the truth, of a map whose frame and hand are taken from the truth for the comparison."""
        aligned = align_frame(particles.rotations, rotations, symmetry=symmetry).rotations
        made = reconstruct(images, aligned, pixel_size_angstrom=voxel, symmetry=symmetry).data
        return fourier_shell_correlation(made, truth, voxel_size_angstrom=voxel).resolution_angstrom(0.5)

    e_or = recovery_error(particles.rotations, recovery.rotations, symmetry=symmetry)
    pose, refined = (
        pose_error(particles.rotations, found.rotations, symmetry=symmetry) for found in (gauge, refinement)
    )
    best, reached = (resolution(particles.images, r) for r in (particles.rotations, refinement.rotations))
    rows = [
        (
            "training",
            f"{asked['training']} min" if "training" in asked else "-",
            f"{clock['training'] / 60:.1f} min, {history['step'][-1]} steps",
        ),
        ("distance error, unseen images", "-", f"{history['val_distance_error_rad'][-1]:.4f} rad"),
        ("E_OR", f"{asked['e_or']} rad", f"{e_or:.4f} rad"),
        ("pose error, gauge from the images", "<= 1.05 E_OR", f"{pose:.4f} rad = {pose / e_or:.3f} E_OR"),
        (
            "FSC 0.5, clean images",
            f"{asked['fsc']} Å" if "fsc" in asked else "-",
            f"{resolution(clean, gauge.rotations):.2f} Å",
        ),
        ("refinement", "<= 3 min", f"{clock['refinement'] / 60:.1f} min"),
        (
            "pose error, refined",
            f"{asked['refined']} rad" if "refined" in asked else "-",
            f"{refined:.5f} rad",
        ),
        (
            "FSC 0.5, refined, the images given",
            asked.get("refined_fsc", "-"),
            f"{reached:.2f} Å = {reached / best:.3f} x true",
        ),
        ("FSC 0.5, true orientations", "-", f"{best:.2f} Å"),
        ("half-maps 0.143, masked", "-", f"{refinement.fsc.resolution_angstrom(0.143):.2f} Å"),
        (
            "distances + recovery + gauge",
            "-",
            f"{sum(clock[k] for k in ('distances', 'recovery', 'gauge')):.1f} s",
        ),
    ]
    name = Path(arguments.map).stem + (f" ({symmetry})" if symmetry != "C1" else "")
    print_table(f"{name}, noise variance {noise:g}, {arguments.images} images of {size} px", rows)


if __name__ == "__main__":
    main()
