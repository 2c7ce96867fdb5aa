"""The whole way on a real map: train, recover, fix the gauge, reconstruct, refine; errors and times in one table.

    python benchmarks/end_to_end.py --noise-variance 0
    python benchmarks/end_to_end.py --noise-variance 16
    python benchmarks/end_to_end.py --noise-variance 16 --shift-limit-px 5
    python benchmarks/end_to_end.py --noise-variance 16 --shift-limit-px 5 --ctf
    python benchmarks/end_to_end.py --map phantom-D2 --symmetry D2 --image-size 64
    python benchmarks/end_to_end.py --map beta-galactosidase --masked --symmetry D2 --image-size 100

The truth enters only the reported errors. Resolutions are unmasked unless said otherwise.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import numpy as np
from table import print_table

from cryoem import imaging, siamese, volumes
from cryoem.distances import exact_distances
from cryoem.evaluation import align_frame, align_shifts, pose_error, recovery_error
from cryoem.experiments.trials import load_particle
from cryoem.gauge import fix_gauge
from cryoem.projectors import project
from cryoem.reconstruction import reconstruct
from cryoem.recovery import recover_orientations
from cryoem.refinement import refine
from cryoem.resolution import fourier_shell_correlation, masked_half_map_fsc

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
ASKED_OF = {"image_size": 116, "images": 1650}  # and of 5j0n where there is no symmetry


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", default="5j0n", help="registry name or path of a map")
    parser.add_argument("--masked", action="store_true", help="without the noise around the map's particle")
    parser.add_argument("--symmetry", default="C1", help="point group of the particle")
    parser.add_argument("--noise-variance", type=float, default=0.0)
    parser.add_argument("--shift-limit-px", type=float, default=0.0)
    parser.add_argument(
        "--ctf", action="store_true", help="through a contrast transfer, 0.5 to 2 um underfocus"
    )
    parser.add_argument("--images", type=int, default=1650)
    parser.add_argument("--image-size", type=int, default=116)
    parser.add_argument("--network-image-size", type=int, default=58)
    parser.add_argument("--epochs", type=int, default=None, help="epochs of 50 steps of 128 images")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def is_asked(arguments: argparse.Namespace) -> bool:
    """Whether the targets are meant for these images."""
    if arguments.ctf:
        return False
    sizes = all(getattr(arguments, name) == value for name, value in ASKED_OF.items())
    return arguments.symmetry != "C1" or (arguments.map == "5j0n" and sizes)


def main() -> None:
    arguments = parsed()
    noise, symmetry, shifted = arguments.noise_variance, arguments.symmetry, arguments.shift_limit_px > 0
    targets = ASKED.get((symmetry, noise, shifted), {}) if is_asked(arguments) else {}
    asked = {name: f"<= {value}" for name, value in targets.items()}
    keras.utils.set_random_seed(arguments.seed)
    density = load_particle(arguments.map, masked=arguments.masked)
    voxel, size, small_size = density.voxel_size_angstrom, arguments.image_size, arguments.network_image_size
    ctf = imaging.ContrastTransfer() if arguments.ctf else None
    simulation = {
        "image_size": size,
        "noise_variance": noise,
        "shift_limit_px": arguments.shift_limit_px,
        "ctf": ctf,
    }
    particles = imaging.simulate(density, arguments.images, rng=[arguments.seed, 1], **simulation)
    held_out = imaging.simulate(density, 256, rng=[arguments.seed, 2], **simulation)
    clock = {}

    def timed(name, function, *args, **options):
        start = time.perf_counter()
        result = function(*args, **options)
        clock[name] = clock.get(name, 0) + time.perf_counter() - start
        print(f"{name}: {clock[name]:.1f} s", flush=True)
        return result

    def seen(stack):
        """The images as the network and the gauge take them."""
        if ctf is None:
            return stack.images
        return imaging.flip_phases(stack.images, ctf, stack.defocus_angstrom, pixel_size_angstrom=voxel)

    def found_shifts(images):
        """Shifts in pixels of the full images, as the network finds them."""
        small = imaging.downsample(images, small_size)
        return siamese.predict_shifts(encoder, small) * (size / small_size)

    encoder = siamese.build_encoder(small_size, symmetry=symmetry, with_shifts=shifted)
    stream = siamese.ProjectionStream(
        density,
        network_image_size=small_size,
        batch_size=128,
        steps=50,
        seed=arguments.seed,
        with_shifts=shifted,
        **simulation,
    )
    validation = (imaging.downsample(seen(held_out), small_size), held_out.rotations.as_quat())
    if shifted:
        validation = (*validation, held_out.shifts_px * (small_size / size))
    history = timed(
        "training",
        siamese.train,
        encoder,
        stream,
        epochs=arguments.epochs or (16 if noise == 0 else 30),
        validation=validation,
        symmetry=symmetry,
        verbose=2,
    )
    centred, shifts = seen(particles), None
    if shifted:
        shifts = timed("distances", found_shifts, centred)
        centred = imaging.shift(centred, -shifts)
    small = imaging.downsample(centred, small_size)
    distances = timed("distances", siamese.predict_distances, encoder, small, symmetry=symmetry)
    known = {"symmetry": symmetry, "rng": arguments.seed}
    recovery = timed("recovery", recover_orientations, distances, **known)
    gauge = timed("gauge", fix_gauge, centred, recovery.rotations, **known)
    optics = {"ctf": ctf, "defocus_angstrom": particles.defocus_angstrom}
    refinement = timed(
        "refinement",
        refine,
        particles.images,
        gauge.rotations,
        pixel_size_angstrom=voxel,
        shifts_px=shifts,
        **optics,
        **known,
    )

    true = particles.rotations
    reported = Report(density, particles, optics=optics, symmetry=symmetry)
    errors = np.abs(distances - exact_distances(true, symmetry=symmetry))[np.triu_indices(len(true), 1)]
    e_or = recovery_error(true, recovery.rotations, symmetry=symmetry)
    pose, refined = (pose_error(true, found.rotations, symmetry=symmetry) for found in (gauge, refinement))
    best, reached = (
        reported.resolution(true, particles.shifts_px),
        reported.resolution(refinement.rotations, refinement.shifts_px),
    )
    halves = refinement.fsc.resolution_angstrom(0.143)
    best_halves = reported.half_map_resolution(refinement)
    rows = [
        (
            "training",
            f"{asked['training']} min" if "training" in asked else "-",
            f"{clock['training'] / 60:.1f} min, {history['step'][-1]} steps",
        ),
        ("distance error, the particles", "-", f"{errors.mean():.4f} rad"),
        ("E_OR", f"{asked['e_or']} rad" if "e_or" in asked else "-", f"{e_or:.4f} rad"),
        ("pose error, gauge from the images", "<= 1.05 E_OR", f"{pose:.4f} rad = {pose / e_or:.3f} E_OR"),
        (
            "FSC 0.5, clean images",
            f"{asked['fsc']} Å" if "fsc" in asked else "-",
            f"{reported.clean_resolution(gauge.rotations):.2f} Å",
        ),
        ("refinement", "<= 3 min" if targets else "-", f"{clock['refinement'] / 60:.1f} min"),
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
        (
            "half-maps 0.143, masked",
            asked.get("half_maps", "-"),
            f"{halves:.2f} Å = {halves / best_halves:.3f} x true",
        ),
        ("half-maps 0.143, masked, true orientations", "-", f"{best_halves:.2f} Å"),
        (
            "distances + recovery + gauge",
            "-",
            f"{sum(clock[k] for k in ('distances', 'recovery', 'gauge')):.1f} s",
        ),
    ]
    if shifted:
        found = (("found by the network", shifts, gauge), ("refined", refinement.shifts_px, refinement))
        rows[-1:-1] = [
            (f"shift error, {how}", "-", f"{reported.shift_error_px(moved, poses.rotations):.3f} px")
            for how, moved, poses in found
        ]
    kind = [symmetry] * (symmetry != "C1") + [f"+-{arguments.shift_limit_px:g} px"] * shifted
    kind += ["CTF"] * arguments.ctf
    name = Path(arguments.map).stem + (f" ({', '.join(kind)})" if kind else "")
    print_table(f"{name}, noise variance {noise:g}, {arguments.images} images of {size} px", rows)


class Report:
    """Comparisons with the truth. Frame, hand and origin of what was found are taken from it first."""

    def __init__(self, density, particles, *, optics: dict, symmetry: str):
        self.particles, self.optics, self.symmetry = particles, optics, symmetry
        self.voxel, size = density.voxel_size_angstrom, particles.images.shape[1]
        self.truth = volumes.cube(density, size).data
        self.clean_images = project(density.data, particles.rotations, image_size=size)

    def _in_true_frame(self, rotations):
        return align_frame(self.particles.rotations, rotations, symmetry=self.symmetry).rotations

    def _reconstructed(self, images, rotations, **options):
        options = {"pixel_size_angstrom": self.voxel, "symmetry": self.symmetry} | options
        return reconstruct(images, rotations, **options).data

    def _resolution(self, made) -> float:
        curve = fourier_shell_correlation(made, self.truth, voxel_size_angstrom=self.voxel)
        return curve.resolution_angstrom(0.5)

    def clean_resolution(self, rotations) -> float:
        """FSC 0.5 of noise-free images at orientations."""
        return self._resolution(self._reconstructed(self.clean_images, self._in_true_frame(rotations)))

    def resolution(self, rotations, shifts_px) -> float:
        """FSC 0.5 of the images given."""
        aligned = self._in_true_frame(rotations)
        shifts = align_shifts(self.particles.shifts_px, shifts_px, aligned, symmetry=self.symmetry)
        return self._resolution(
            self._reconstructed(self.particles.images, aligned, shifts_px=shifts, **self.optics)
        )

    def half_map_resolution(self, refinement) -> float:
        """FSC 0.143 of half-maps of the same halves and mask, from true orientations and shifts."""
        particles = self.particles
        rotations = align_frame(refinement.rotations, particles.rotations, symmetry=self.symmetry).rotations
        shifts = align_shifts(refinement.shifts_px, particles.shifts_px, rotations, symmetry=self.symmetry)
        halves = [
            self._reconstructed(
                particles.images[members],
                rotations[members],
                shifts_px=shifts[members],
                ctf=self.optics["ctf"],
                defocus_angstrom=None if self.optics["ctf"] is None else particles.defocus_angstrom[members],
            )
            for members in (np.flatnonzero(refinement.subset == half) for half in (0, 1))
        ]
        curve = masked_half_map_fsc(*halves, refinement.mask, voxel_size_angstrom=self.voxel, rng=0)
        return curve.resolution_angstrom(0.143)

    def shift_error_px(self, shifts_px, rotations) -> float:
        """Mean length of what is wrong with shifts."""
        true = self.particles.shifts_px
        found = align_shifts(true, shifts_px, rotations, symmetry=self.symmetry)
        return float(np.linalg.norm(found - true, axis=1).mean())


if __name__ == "__main__":
    main()
