"""Compare networks and classical methods for 2-D alignment on the fourteen synthetic sets of the second paper.

python benchmarks/alignment.py                      measure all sets, with 10,000 images each (45 minutes)
python benchmarks/alignment.py --sets 1-noise 4-ssnr --images 3000
python benchmarks/alignment.py --json table.json    also write the table as JSON

The class averages are read from CRYOEM_DATA/class-averages. Errors are mean errors in degrees modulo 180 over 1,000
images that are not used for training. They are errors of the angles between neighbouring images (pairs), or of the
angles of all images up to one constant (all other methods). The iterated template uses all images. Before training, a
network is equivalent to its classical initial template. "Aligned" angles are refined by registration with the class
average.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from table import print_columns, print_table

from cryoem.training.backend import keras
from cryoem.udl import (
    Aligner,
    SyntheticSet,
    iterated_template,
    joint_error_deg,
    pair_angles,
    pair_error_deg,
    polar_grid,
    polar_spectra,
    read_class_average,
    synthetic_set,
    template_aligner,
    train,
    wrap_angles,
)
from cryoem.udl.registration import filter_reference, mean_power, register

PIXEL_SIZES_ANGSTROM = (2.08, 2, 1.23, 1.42, 2.8, 1.461, 1.22)
HELD_OUT = 1000
# Errors of an iterated template computed from 300 images with plain log spectra, from this project's science notes.
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
    print_columns(
        "alignment",
        f"2-D alignment of {arguments.images:,} images per set, mean error in degrees modulo 180",
        ("set", *COLUMNS.values(), "training, UDL + JUDL"),
        [
            (
                name,
                *(f"{result[key]:.3f}" for key in COLUMNS),
                f"{result['udl_seconds']:.0f} + {result['judl_seconds']:.0f} s",
            )
            for name, result in results.items()
        ],
    )
    print_table("alignment-summary", "2-D alignment, summary", summary(results))


def measure(name: str, images: int) -> dict[str, float]:
    """Measure all columns for one set."""
    number, noise = int(name[0]), name[2:]
    folder = Path(os.environ["CRYOEM_DATA"]) / "class-averages"
    average = read_class_average(
        folder / f"center-{number}.png", pixel_size_angstrom=PIXEL_SIZES_ANGSTROM[number - 1]
    )
    known = synthetic_set(average, images - HELD_OUT, noise=noise, rng=1)
    unseen = synthetic_set(average, HELD_OUT, noise=noise, rng=2)
    grid = polar_grid(unseen.images.shape[1])
    held_out = polar_spectra(unseen.images, grid)
    pairs = pair_angles(held_out[:-1], held_out[1:])
    pair_error = np.abs(wrap_angles(pairs - np.diff(unseen.angles_rad), np.pi)).mean()
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
        aligner.angles(unseen.images)  # compile the network
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
    """Save the weights at the start of training."""

    def on_train_begin(self, logs=None):
        self.values = self.model.get_weights()


def aligned_error_deg(aligner: Aligner, particles: SyntheticSet) -> float:
    """Return the error (degrees) of the aligner's angles after registration with its class average."""
    filtered = filter_reference(aligner.reference, mean_power(particles.images))
    found = register(particles.images, filtered, aligner.angles(particles.images))
    return joint_error_deg(found.angles_rad, particles.angles_rad)


def summary(results: dict[str, dict[str, float]]) -> list[tuple[str, str, str]]:
    """Return the rows of the summary, which compare the results with the targets."""
    rows, n = list(results.values()), len(results)

    def count(condition):
        return f"{sum(condition(r) for r in rows)} of {n}"

    return [
        (
            "sets on which UDL pairs are more accurate than classical pairs",
            "14 of 14",
            count(lambda r: r["udl"] < r["pair"]),
        ),
        (
            "sets on which the error of UDL pairs is at most half that of classical pairs",
            "10 of 14",
            count(lambda r: r["udl"] <= r["pair"] / 2),
        ),
        (
            "sets on which the JUDL network is more accurate than the template",
            "8 of 14",
            count(lambda r: r["judl"] < r["template"]),
        ),
        (
            "sets on which training improves the JUDL network",
            "",
            count(lambda r: r["judl"] < r["judl_untrained"]),
        ),
        ("sets on which training improves UDL pairs", "", count(lambda r: r["udl"] < r["udl_untrained"])),
        (
            "UDL pairs, median ratio of trained to untrained error",
            "",
            f"{np.median([r['udl'] / r['udl_untrained'] for r in rows]):.2f}",
        ),
        (
            "JUDL network, median ratio of trained to untrained error",
            "",
            f"{np.median([r['judl'] / r['judl_untrained'] for r in rows]):.2f}",
        ),
        (
            "aligned, median ratio of JUDL error to template error",
            "",
            f"{np.median([r['aligned'] / r['template_aligned'] for r in rows]):.2f}",
        ),
        (
            "JUDL network, largest ratio of its error to that of the template",
            "<= 1.1",
            f"{max(r['judl'] / r['template'] for r in rows):.2f}",
        ),
        (
            "sets on which the JUDL network is more accurate than a template from 300 images",
            "14 of 14",
            count(lambda r: r["judl"] < r["template_of_300"]),
        ),
        (
            "longest training time for one set",
            "<= 10 min",
            f"{max(max(r['udl_seconds'], r['judl_seconds']) for r in rows) / 60:.1f} min",
        ),
        (
            "inference, including spectra",
            ">= 2,000 images/s",
            f"{np.median([r['images_per_second'] for r in rows]):,.0f} images/s (median)",
        ),
    ]


if __name__ == "__main__":
    main()
