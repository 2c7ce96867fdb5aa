"""2-D alignment on the fourteen synthetic sets of the second paper: networks and classical methods on the same images.

python benchmarks/alignment.py                      all sets, 10,000 images each (three quarters of an hour)
python benchmarks/alignment.py --sets 1-noise 4-ssnr --images 3000
python benchmarks/alignment.py --json table.json    the table as JSON too

The class averages are those of CRYOEM_DATA/class-averages.  Errors are mean errors in degrees modulo 180, on the 1,000
images that nothing was trained on: of neighbour pairs, or up to one constant.  The iterated template sees all images.
A network before its training is the classical template that it starts from; "aligned" is what the comparison with the
class average makes of the angles.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import keras
import numpy as np
from table import print_table

from cryoem.udl.align import template_aligner
from cryoem.udl.aligner import Aligner
from cryoem.udl.classical import iterated_template, pair_angles, wrapped
from cryoem.udl.registration import filter_reference, mean_power, register
from cryoem.udl.spectra import polar_grid, polar_spectra
from cryoem.udl.synthetic import SyntheticParticles, read_class_average, simulate_particles
from cryoem.udl.training import joint_error_deg, pair_error_deg, train

PIXEL_SIZES_ANGSTROM = (2.08, 2, 1.23, 1.42, 2.8, 1.461, 1.22)
HELD_OUT = 1000
# Iterated template of 300 images, as this project's science notes measured it with plain log spectra.
TEMPLATE_OF_300 = {
    "ssnr": (0.6, 0.7, 2.5, 4.3, 0.6, 6.1, 7.8),
    "noise": (0.6, 0.6, 1.2, 1.0, 0.5, 1.2, 2.4),
}
COLUMNS = {
    "pair": "pairs, classical",
    "udl_untrained": "pairs, UDL before training",
    "udl": "pairs, UDL",
    "template": "template",
    "judl_untrained": "JUDL before training",
    "judl": "JUDL network",
    "template_aligned": "template, aligned",
    "aligned": "JUDL, aligned",
}


def main() -> None:
    every = [f"{number}-{noise}" for number in range(1, 8) for noise in ("noise", "ssnr")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", default=every, choices=every, metavar="SET")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for name in arguments.sets:
        results[name] = measure(name, arguments.images)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    print(f"\n### 2-D alignment, {arguments.images:,} images a set, mean error in degrees modulo 180\n")
    print("| set | " + " | ".join(COLUMNS.values()) + " | training UDL + JUDL |")
    print("|---" * (2 + len(COLUMNS)) + "|")
    for name, r in results.items():
        errors = " | ".join(f"{r[key]:.3f}" for key in COLUMNS)
        print(f"| {name} | {errors} | {r['udl_seconds']:.0f} + {r['judl_seconds']:.0f} s |")
    print_table("2-D alignment, summary", summary(results))


def measure(name: str, images: int) -> dict[str, float]:
    """All columns of one set."""
    number, noise = int(name[0]), name[2:]
    folder = Path(os.environ["CRYOEM_DATA"]) / "class-averages"
    average = read_class_average(
        folder / f"center-{number}.png", pixel_size_angstrom=PIXEL_SIZES_ANGSTROM[number - 1]
    )
    known = simulate_particles(average, images - HELD_OUT, noise=noise, rng=1)
    unseen = simulate_particles(average, HELD_OUT, noise=noise, rng=2)
    grid = polar_grid(unseen.images.shape[1])
    held_out = polar_spectra(unseen.images, grid)
    pairs = pair_angles(held_out[:-1], held_out[1:])
    pair_error = np.abs(wrapped(pairs - np.diff(unseen.angles_rad), np.pi)).mean()
    everything = np.concatenate([polar_spectra(known.images, grid), held_out])
    template, _ = iterated_template(everything)
    result = {
        "pair": float(np.degrees(pair_error)),
        "template": joint_error_deg(template[-HELD_OUT:], unseen.angles_rad),
        "template_of_300": TEMPLATE_OF_300[noise][number - 1],
    }
    result["template_aligned"] = aligned_error_deg(template_aligner(known.images), unseen)
    for method, error_deg in (("udl", pair_error_deg), ("judl", joint_error_deg)):
        before = Weights()
        start = time.perf_counter()
        aligner = train(known.images, method=method, callbacks=[before]).aligner
        result[f"{method}_seconds"] = time.perf_counter() - start
        aligner.angles(unseen.images)  # traces the network
        start = time.perf_counter()
        angles = aligner.angles(unseen.images)
        result["images_per_second"] = HELD_OUT / (time.perf_counter() - start)
        result[method] = error_deg(angles, unseen.angles_rad)
        after = aligner.network.get_weights()
        aligner.network.set_weights(before.values)
        result[f"{method}_untrained"] = error_deg(aligner.angles(unseen.images), unseen.angles_rad)
        aligner.network.set_weights(after)
    result["aligned"] = aligned_error_deg(aligner, unseen)
    print(name, result, flush=True)
    return result


class Weights(keras.callbacks.Callback):
    """Keeps the weights that a training begins with."""

    def on_train_begin(self, logs=None):
        self.values = self.model.get_weights()


def aligned_error_deg(aligner: Aligner, particles: SyntheticParticles) -> float:
    """Error of the aligner's angles after the comparison with its class average."""
    filtered = filter_reference(aligner.reference, mean_power(particles.images))
    found = register(particles.images, filtered, aligner.angles(particles.images))
    return joint_error_deg(found.angles_rad, particles.angles_rad)


def summary(results: dict[str, dict[str, float]]) -> list[tuple[str, str, str]]:
    """What was asked of the whole table."""
    rows, n = list(results.values()), len(results)

    def count(condition):
        return f"{sum(condition(r) for r in rows)} of {n}"

    return [
        ("UDL pairs below classical pairs", "14 of 14", count(lambda r: r["udl"] < r["pair"])),
        ("UDL pairs at most half of them", "10 of 14", count(lambda r: r["udl"] <= r["pair"] / 2)),
        ("JUDL network below the template", "8 of 14", count(lambda r: r["judl"] < r["template"])),
        ("JUDL network below itself before training", "", count(lambda r: r["judl"] < r["judl_untrained"])),
        ("UDL network below itself before training", "", count(lambda r: r["udl"] < r["udl_untrained"])),
        (
            "UDL pairs trained to untrained, median ratio",
            "",
            f"{np.median([r['udl'] / r['udl_untrained'] for r in rows]):.2f}",
        ),
        (
            "JUDL network trained to untrained, median ratio",
            "",
            f"{np.median([r['judl'] / r['judl_untrained'] for r in rows]):.2f}",
        ),
        (
            "JUDL aligned to template aligned, median ratio",
            "",
            f"{np.median([r['aligned'] / r['template_aligned'] for r in rows]):.2f}",
        ),
        (
            "JUDL network over the template, worst ratio",
            "<= 1.1",
            f"{max(r['judl'] / r['template'] for r in rows):.2f}",
        ),
        (
            "JUDL network below the template of 300",
            "14 of 14",
            count(lambda r: r["judl"] < r["template_of_300"]),
        ),
        (
            "longest training of one set",
            "<= 10 min",
            f"{max(max(r['udl_seconds'], r['judl_seconds']) for r in rows) / 60:.1f} min",
        ),
        (
            "inference, spectra included",
            ">= 2,000 images/s",
            f"{np.median([r['images_per_second'] for r in rows]):,.0f} images/s (median)",
        ),
    ]


if __name__ == "__main__":
    main()
