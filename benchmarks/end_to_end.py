"""Run the whole pipeline on a real map, from training to refinement, and tabulate errors and times.

    python benchmarks/end_to_end.py --noise-variance 0
    python benchmarks/end_to_end.py --noise-variance 16
    python benchmarks/end_to_end.py --noise-variance 16 --shift-limit-px 5
    python benchmarks/end_to_end.py --noise-variance 16 --shift-limit-px 5 --ctf
    python benchmarks/end_to_end.py --map phantom-D2 --symmetry D2 --image-size 64
    python benchmarks/end_to_end.py --map beta-galactosidase --masked --symmetry D2 --image-size 100

True orientations are used only to report errors. Resolutions are unmasked unless the table states otherwise.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from table import print_table

from cryoem import distances, orientations, particles, projection, reconstruction, volumes
from cryoem.contrast import ContrastTransfer
from cryoem.experiments.trials import load_particle
from cryoem.particles.conditions import ImagingConditions
from cryoem.rotations import Poses
from cryoem.training.backend import keras

# (symmetry, noise variance, shifted) -> targets for the map and the sizes below
TARGETS = {
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
TARGET_SIZES = {"image_size": 116, "images": 1650}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n", help="name in the registry or path of a map")
    parser.add_argument(
        "--masked", action="store_true", help="remove the noise around the particle in the map"
    )
    parser.add_argument("--symmetry", default="C1", help="point group of the particle")
    parser.add_argument("--noise-variance", type=float, default=0.0)
    parser.add_argument("--shift-limit-px", type=float, default=0.0)
    parser.add_argument("--ctf", action="store_true", help="apply a CTF, 0.5 to 2 um underfocus")
    parser.add_argument("--images", type=int, default=1650)
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--network-image-size", type=int, default=58)
    parser.add_argument(
        "--epochs", type=int, default=None, help="number of epochs, each of 100 steps with 64 images"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def targets_of(arguments: argparse.Namespace) -> dict:
    """Return the targets for these conditions, or an empty dictionary if there are none."""
    sizes = all(getattr(arguments, name) == value for name, value in TARGET_SIZES.items())
    if arguments.ctf or (arguments.symmetry == "C1" and not (arguments.map == "5j0n" and sizes)):
        return {}
    return TARGETS.get((arguments.symmetry, arguments.noise_variance, arguments.shift_limit_px > 0), {})


def main() -> None:
    arguments = parsed()
    noise, symmetry, shifted = arguments.noise_variance, arguments.symmetry, arguments.shift_limit_px > 0
    keras.utils.set_random_seed(arguments.seed)
    density = load_particle(arguments.map, masked=arguments.masked)
    simulation = {
        "image_size": arguments.image_size,
        "noise_variance": noise,
        "shift_limit_px": arguments.shift_limit_px,
        "ctf": ContrastTransfer() if arguments.ctf else None,
    }
    stack = particles.simulate(density, arguments.images, rng=[arguments.seed, 1], **simulation)
    held_out = particles.simulate(density, 256, rng=[arguments.seed, 2], **simulation)
    clock = {}

    def timed(name, function, *args, **options):
        start = time.perf_counter()
        result = function(*args, **options)
        clock[name] = time.perf_counter() - start
        print(f"{name}: {clock[name]:.1f} s", flush=True)
        return result

    settings = distances.EncoderSettings(
        image_size=arguments.network_image_size, symmetry=symmetry, with_shifts=shifted
    )
    encoder = distances.TrainedEncoder(settings.build(), settings)
    epochs = arguments.epochs or (10 if noise == 0 else 20)
    history = timed(
        "training",
        distances.train,
        encoder,
        distances.ProjectionStream(
            density,
            ImagingConditions(**simulation),
            network_image_size=settings.image_size,
            batch_size=64,
            steps=100,
            with_shifts=shifted,
            seed=arguments.seed,
        ),
        validation=held_out,
        schedule=distances.TrainingSchedule(epochs=epochs),
        verbose=2,
    )
    known = {"symmetry": symmetry, "rng": arguments.seed}
    estimate = timed(
        "distances",
        distances.estimate_distances,
        stack.images,
        encoder,
        optics=stack.optics,
        rng=arguments.seed,
    )
    recovery = timed("recovery", orientations.recover_orientations, estimate.distances, **known)
    found = Poses(recovery.rotations, estimate.shifts_px)
    gauge = timed("gauge", orientations.fix_gauge, stack.images, found, optics=stack.optics, **known)
    poses = Poses(gauge.rotations, estimate.shifts_px)
    refinement = timed("refinement", reconstruction.refine, stack.images, poses, optics=stack.optics, **known)

    truth = Truth(density, stack, symmetry=symmetry)
    errors = np.abs(estimate.distances - distances.exact_distances(stack.rotations, symmetry=symmetry))[
        np.triu_indices(len(stack), 1)
    ]
    e_or = orientations.recovery_error(stack.rotations, recovery.rotations, symmetry=symmetry)
    pose, refined = (
        orientations.pose_error(stack.rotations, some.rotations, symmetry=symmetry)
        for some in (gauge, refinement)
    )
    limit = reconstruction.pose_limit(stack, stack.poses, truth.map).errors_rad
    best, reached = truth.resolution(stack.poses), truth.resolution(refinement.poses)
    halves = refinement.fsc.resolution_angstrom(reconstruction.HALF_MAP_THRESHOLD)
    best_halves = truth.half_map_resolution(refinement)
    targets = targets_of(arguments)
    target = {name: f"<= {value}" for name, value in targets.items()}

    def with_unit(name: str, unit: str) -> str:
        return f"{target[name]} {unit}" if name in target else "-"

    seconds = sum(clock[name] for name in ("distances", "recovery", "gauge"))
    rows = [
        (
            "training",
            with_unit("training", "min"),
            f"{clock['training'] / 60:.1f} min, {history['step'][-1]} steps",
        ),
        ("distance error", "-", f"{errors.mean():.4f} rad"),
        ("E_OR", with_unit("e_or", "rad"), f"{e_or:.4f} rad"),
        ("pose error, gauge from the images", "<= 1.05 E_OR", f"{pose:.4f} rad = {pose / e_or:.3f} E_OR"),
        ("FSC 0.5, clean images", with_unit("fsc", "Å"), f"{truth.clean_resolution(gauge.rotations):.2f} Å"),
        ("refinement", "<= 3 min" if targets else "-", f"{clock['refinement'] / 60:.1f} min"),
        (
            "pose error, refined",
            with_unit("refined", "rad"),
            f"{refined:.5f} rad" + (f" = {refined / limit.mean():.2f} x limit" if noise else ""),
        ),
        ("limit: most likely poses, given the true map", "-", f"{limit.mean():.5f} rad"),
        (
            "FSC 0.5, refined poses",
            target.get("refined_fsc", "-"),
            f"{reached:.2f} Å = {reached / best:.3f} x true",
        ),
        ("FSC 0.5, true orientations", "-", f"{best:.2f} Å"),
        (
            "half-map FSC 0.143, masked",
            target.get("half_maps", "-"),
            f"{halves:.2f} Å = {halves / best_halves:.3f} x true",
        ),
        ("half-map FSC 0.143, masked, true orientations", "-", f"{best_halves:.2f} Å"),
    ]
    if shifted:
        for how, some in (("network estimate", poses), ("refined", refinement.poses)):
            rows.append((f"shift error, {how}", "-", f"{truth.shift_error_px(some):.3f} px"))
    rows.append(("distances + recovery + gauge", "-", f"{seconds:.1f} s"))
    conditions = [symmetry] * (symmetry != "C1") + [f"shifts up to {arguments.shift_limit_px:g} px"] * shifted
    conditions += ["CTF"] * arguments.ctf
    name = Path(arguments.map).stem
    title = name + (f" ({', '.join(conditions)})" if conditions else "")
    kind = "-".join([symmetry] * (symmetry != "C1") + ["shifts"] * shifted + ["ctf"] * arguments.ctf)
    print_table(
        "-".join(filter(None, ("end-to-end", name, kind, f"noise-{noise:g}"))),
        f"{title}, noise variance {noise:g}, {arguments.images:,} images of {arguments.image_size} px",
        rows,
    )


class Truth:
    """Compare poses with the truth, after aligning the frame, handedness and origin, which images do not determine."""

    def __init__(self, density: volumes.DensityMap, stack: particles.ParticleStack, *, symmetry: str):
        self.stack, self.symmetry = stack, symmetry
        size = stack.images.shape[1]
        self.map = volumes.cube(density, size)
        self.clean_images = projection.project(density.data, stack.rotations, image_size=size)

    def clean_resolution(self, rotations) -> float:
        """Return the FSC 0.5 resolution (angstrom) of noise-free images reconstructed at the given orientations."""
        made = reconstruction.reconstruct(
            self.clean_images,
            self._in_true_frame(rotations),
            pixel_size_angstrom=self.map.voxel_size_angstrom,
            symmetry=self.symmetry,
        )
        return self._resolution(made)

    def resolution(self, poses: Poses) -> float:
        """Return the FSC 0.5 resolution (angstrom) of the stack reconstructed at the given poses."""
        rotations = self._in_true_frame(poses.rotations)
        shifts = orientations.align_shifts(
            self.stack.shifts_px, poses.shifts_px, rotations, symmetry=self.symmetry
        )
        return self._resolution(
            reconstruction.reconstruct(
                self.stack.images, Poses(rotations, shifts), optics=self.stack.optics, symmetry=self.symmetry
            )
        )

    def half_map_resolution(self, refinement: reconstruction.Refinement) -> float:
        """Return the FSC 0.143 resolution (angstrom) at the true poses, with the halves and mask of the refinement."""
        frame = orientations.align_frame(refinement.rotations, self.stack.rotations, symmetry=self.symmetry)
        shifts = orientations.align_shifts(
            refinement.shifts_px, self.stack.shifts_px, frame.rotations, symmetry=self.symmetry
        )
        halves = reconstruction.reconstruct_halves(
            self.stack.images,
            Poses(frame.rotations, shifts),
            optics=self.stack.optics,
            symmetry=self.symmetry,
            subset=refinement.subset,
        ).half_maps
        curve = reconstruction.masked_half_map_fsc(
            *(half.data for half in halves),
            refinement.mask,
            voxel_size_angstrom=self.map.voxel_size_angstrom,
            rng=0,
        )
        return curve.resolution_angstrom(reconstruction.HALF_MAP_THRESHOLD)

    def shift_error_px(self, poses: Poses) -> float:
        """Return the mean length of the shift errors."""
        true = self.stack.shifts_px
        found = orientations.align_shifts(true, poses.shifts_px, poses.rotations, symmetry=self.symmetry)
        return float(np.linalg.norm(found - true, axis=1).mean())

    def _in_true_frame(self, rotations):
        return orientations.align_frame(self.stack.rotations, rotations, symmetry=self.symmetry).rotations

    def _resolution(self, made: volumes.DensityMap) -> float:
        curve = reconstruction.fourier_shell_correlation(
            made.data, self.map.data, voxel_size_angstrom=made.voxel_size_angstrom
        )
        return curve.resolution_angstrom(0.5)


if __name__ == "__main__":
    main()
