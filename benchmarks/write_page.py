"""Write docs/benchmarks.md from the tables in benchmarks/results/.

    python benchmarks/write_page.py                          only write the page
    python benchmarks/write_page.py --run                    first run all benchmarks, about three hours (`make bench`)
    python benchmarks/write_page.py --run natural published  first run these scripts
    python benchmarks/write_page.py --run "end_to_end.py --noise-variance 0"

Install the extra `baselines` to include ASPIRE and scikit-learn. alignment.py and published.py read the folder
CRYOEM_DATA/class-averages, and natural.py reads CRYOEM_DATA/natural-images.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from table import COMMANDS, RESULTS, as_markdown, read

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
INTRODUCTION = """# Benchmarks

`make bench` runs the benchmarks, writes the results to `benchmarks/results/*.csv`, and generates this page from these
files. Times are wall-clock times on two CPU cores, except in the section on GPUs. All targets were set before the
measurements.

In the table of searches without a map, "succeeded" is the number of seeds with at least 97 % of the orientations within
0.3 rad (17°) of the true ones. Fractions, errors, agreements and ROC areas are the worst over all seeds, and times are
medians. "Processor" is CPU time. In the table of refinements, "error / limit" is the mean pose error divided by that of
the most likely poses, given the true map, and "far" is the mean number of images at least 0.3 rad from their true
orientation.
"""
GPU = "gpu.py"
GPU_NOT_MEASURED = """## ASTRA and training on a GPU

Not measured. On a machine with an NVIDIA GPU, `python benchmarks/gpu.py` fills this section, see
[GPUs](gpu.md#measurements).
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", nargs="*", metavar="COMMAND", help="commands or scripts to run first (default: all)"
    )
    chosen = parser.parse_args().run
    if chosen is not None:
        commands = [c for c in COMMANDS if not chosen or c in chosen or c.partition(".py")[0] in chosen]
        if not commands:
            parser.error(f"no benchmark matches {', '.join(chosen)}; choose from: {'; '.join(COMMANDS)}")
        for command in commands:
            print(f"\n$ python benchmarks/{command}", flush=True)
            script, *options = shlex.split(command)
            subprocess.run([sys.executable, PAGE.parents[1] / "benchmarks" / script, *options], check=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"\nwrote {PAGE}")


def page() -> str:
    """Return the text of the page, with the stored tables in the order of ``COMMANDS``."""
    tables = [read(path) for path in sorted(RESULTS.glob("*.csv"))]
    sections = [INTRODUCTION]
    for command in COMMANDS:
        for index, table in enumerate(table for table in tables if table.command == command):
            sections.append(f"## {table.title}\n")
            if index == 0:
                date, _, machine = table.machine.partition(", ")
                sections.append(f"Measured on {date} with `python benchmarks/{command}`: {machine}.\n")
            sections.append(f"{as_markdown(table.columns, table.rows)}\n")
        if command == GPU and all(table.command != GPU for table in tables):
            sections.append(GPU_NOT_MEASURED)
    return "\n".join(sections)


if __name__ == "__main__":
    main()
