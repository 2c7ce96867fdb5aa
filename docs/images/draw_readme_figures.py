"""Export the figures in the README from a complete run as PNG files. The script needs kaleido and Chromium.

python docs/images/draw_readme_figures.py data/runs/phantom-quick
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import plotly.io

import cryoem.plots.template  # noqa: F401  registers the template

FIGURES = {
    "projections.png": ("0-data-preparation", "projections", 1000, 360),
    "recovered-against-true.png": ("2-orientation-recovery", "recovered-against-true", 900, 620),
    "map-and-truth.png": ("3-reconstruction", "map-and-truth", 1000, 460),
    "fsc.png": ("3-reconstruction", "fsc", 900, 420),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a complete run")
    run = parser.parse_args().run
    for file_name, (phase, name, width, height) in FIGURES.items():
        (path,) = (run / phase / "figures").glob(f"*-{name}.json")
        figure = plotly.io.from_json(json.dumps(json.loads(path.read_text(encoding="utf-8"))["figure"]))
        figure.layout.sliders, figure.layout.updatemenus = (), ()
        figure.write_image(Path(__file__).parent / file_name, width=width, height=height)
        print(f"wrote {file_name}")


if __name__ == "__main__":
    main()
