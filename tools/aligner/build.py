"""Train a small aligner, and pack it with its Python interpreter into one file that needs no installation.

    python tools/aligner/build.py [--model FOLDER] [--out build/aligner]

Without ``--model``, an aligner is trained on simulated images of the phantom (about two minutes on two cores). The
network is evaluated with NumPy, so TensorFlow is not packed. The program runs on the operating system that built it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "align-particles"
EXCLUDED = (  # imported by parts of the package, or of other libraries, that the program does not use
    "IPython", "PyQt5", "astra", "bokeh", "cloudpickle", "dask", "distributed", "finufft", "fsspec", "gemmi",
    "ipykernel",
    "jupyter_client", "keras", "lxml", "matplotlib", "nbclient", "nbformat", "networkx", "openpyxl", "papermill",
    "plotly", "pooch", "pyarrow", "pydantic", "pytest", "sqlalchemy", "tensorflow", "tensorflow_graphics", "tkinter",
    "torch", "typer", "yaml", "zmq",
)  # fmt: skip


def train_aligner(folder: Path, *, images: int = 3000, epochs: int = 5) -> None:
    """Train on noisy images of the phantom's class average, and save the aligner."""
    from cryoem import udl
    from cryoem.training.compilation import TrainingSchedule

    particles = udl.synthetic_set(udl.phantom_class_average(), images, noise="noise", rng=0)
    result = udl.train(particles.images, schedule=TrainingSchedule(epochs, 1e-3), verbose=2)
    udl.save_aligner(result.aligner, folder)


def build_program(model: Path, out: Path) -> Path:
    """Pack the program with a saved aligner; return the path of the file."""
    import PyInstaller.__main__

    work = out / "work"
    places = {"--distpath": out, "--workpath": work, "--specpath": work, "--paths": HERE.parents[1]}
    options = [part for item in places.items() for part in item]
    options += ["--additional-hooks-dir", HERE, "--add-data", f"{model.resolve()}:model"]
    options += [part for name in EXCLUDED for part in ("--exclude-module", name)]
    options += ["--onefile", "--noconfirm", "--name", NAME, "--log-level", "WARN", HERE / "program.py"]
    PyInstaller.__main__.run([str(option) for option in options])
    shutil.rmtree(work)
    return out / NAME


def main() -> None:
    """Parse the options, train if there is no model, and pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder of a saved aligner; by default one is trained")
    parser.add_argument("--out", type=Path, default=Path("build/aligner"), help="folder for the program")
    options = parser.parse_args()
    model = options.model
    if model is None:
        model = options.out / "model"
        if not model.exists():
            train_aligner(model)
    program = build_program(model, options.out.resolve())
    print(f"{program}: {program.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
