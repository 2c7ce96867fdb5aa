"""The stand-alone program ``align-particles``: align a particle stack with the trained model inside the program."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, redirect_stderr
from pathlib import Path

MODEL = Path(getattr(sys, "_MEIPASS", Path(__file__).parent)) / "model"


def main() -> int:
    """Parse the options, align, and return the exit code."""
    parser = argparse.ArgumentParser(prog="align-particles", description=__doc__)
    parser.add_argument(
        "--path", required=True, help="particle stack (.mrcs, .mrc) or table (.star, .xmd, .cs)"
    )
    parser.add_argument("--out", required=True, help="new folder for the aligned stack and the tables")
    parser.add_argument("--ref", help="reference image: PNG, MRC, or N@FILE; by default that of the model")
    parser.add_argument(
        "--model", default=MODEL, help="folder of a saved aligner, to be used instead of the built-in one"
    )
    parser.add_argument(
        "--pixel-size", type=float, help="pixel size in angstrom, if it is missing in the file"
    )
    parser.add_argument("--log", help="file for progress and errors; by default they go to stderr")
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.log is not None:
            stack.enter_context(
                redirect_stderr(stack.enter_context(open(options.log, "w", encoding="utf-8")))
            )
        from cryoem.udl.stacks import align_file

        try:
            result = align_file(
                options.path,
                options.out,
                model=options.model,
                reference=options.ref,
                emaf=True,
                pixel_size_angstrom=options.pixel_size,
                progress=True,
            )
        except (ValueError, OSError) as error:
            print(f"align-particles: {error}", file=sys.stderr)
            return 1
    print(f"{result.images:,} images aligned in {result.seconds:.0f} s: {result.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
