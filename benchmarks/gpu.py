"""Check ASTRA's projector against ours, and measure projection, reconstruction and training on an NVIDIA GPU.

    python benchmarks/gpu.py                                      all sections
    python benchmarks/gpu.py check projection cgls --seconds 300  some sections, in a limited time
    KERAS_BACKEND=jax python benchmarks/gpu.py training           training without TensorFlow

Sections run in the given order. A section that has not started when the time is up is left for the next call. Every
row is stored in results/gpu.csv as soon as it is measured, with the name of the card; it replaces the row of the same
measurement on the same card. The experiment ``published`` is stopped when the time is up, and the next call resumes it.
Without a GPU, the script prints what it would measure and stores nothing. With ``--toy`` it only prints.

ASTRA interpolates linearly along rays, whereas slices are band-limited, so the two projectors agree only on smooth
densities. The check projects Gaussian blobs with a standard deviation of 10 voxels, for which interpolation is an error
of 1e-3 and a displacement by half a voxel one of 4e-2. Back-projections are compared inside the ball that every image
contains, because slices repeat periodically outside it.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from datetime import date

from gpu_projection import TOY, Clock, NotMeasured, Sizes, cgls, check, projection
from gpu_training import initial_models, published, training
from table import PACKAGES, RESULTS, Table, card_name, machine, read, store

from cryoem.devices import VARIABLE, chosen_device

NAME, TITLE = "gpu", "ASTRA and training on a GPU"
COLUMNS = ("section", "quantity", "target", "measured", "card", "date")
SECTIONS = {
    section.__name__: section for section in (check, projection, cgls, training, published, initial_models)
}
SHOWN_PACKAGES = (*PACKAGES, "jax", "torch", "astra-toolbox")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)} (default: all)"
    )
    parser.add_argument("--seconds", type=float, help="time limit (default: none)")
    parser.add_argument("--toy", action="store_true", help="measure tiny sizes and store nothing")
    arguments = parser.parse_args()
    chosen = arguments.sections or list(SECTIONS)
    if unknown := [name for name in chosen if name not in SECTIONS]:
        parser.error(f"SECTION must be one of {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    card = None if chosen_device() == "cpu" else card_name()
    if card is None:
        why = f"{VARIABLE} is set to cpu" if chosen_device() == "cpu" else "nvidia-smi lists no GPU"
        print(f"Nothing is measured, because {why}. On a machine with an NVIDIA GPU, this command runs:")
        for name in chosen:
            print(f"  {name:<11} {SECTIONS[name].__doc__.splitlines()[0]}")
        return
    sizes = TOY if arguments.toy else Sizes()
    clock = Clock(arguments.seconds)
    failed = [name for name in chosen if not run(name, card, sizes, clock)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(section: str, card: str, sizes: Sizes, clock: Clock) -> bool:
    """Run a section; print its rows, and store them unless the sizes are those of a toy. Return False if it fails."""
    if clock.left() <= 0:
        print(f"{section}: not started, because the time is up", flush=True)
        return True
    passed = True
    try:
        for quantity, target, measured in SECTIONS[section](sizes, clock):
            print(f"{section}: {quantity}: {measured}", flush=True)
            passed = passed and "(above)" not in measured
            if sizes != TOY:
                add_row((section, quantity, target, measured, card, f"{date.today()}"))
    except NotMeasured as reason:
        print(f"{section}: {reason}", flush=True)
    except Exception:
        print(f"{section} failed:", flush=True)
        traceback.print_exc()
        return False
    return passed


def add_row(row: tuple[str, ...]) -> None:
    """Store a row, in the order of the sections, instead of that of the same measurement on the same card."""

    def key(one: tuple[str, ...]) -> tuple[str, ...]:
        return one[0], one[1], one[4]

    path = RESULTS / f"{NAME}.csv"
    rows = {key(one): one for one in (read(path).rows if path.is_file() else ())} | {key(row): row}
    ordered = sorted(rows.values(), key=lambda one: list(SECTIONS).index(one[0]))
    store(NAME, Table(TITLE, f"{NAME}.py", machine(SHOWN_PACKAGES), COLUMNS, tuple(ordered)))


if __name__ == "__main__":
    main()
