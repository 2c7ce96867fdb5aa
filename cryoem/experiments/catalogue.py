"""Experiments: a notebook, and grids of parameters for which it is executed. The catalogue of experiments.

``quick`` takes minutes on two cores. ``paper`` has the first paper's 5,000 projections of 116 px and training of 150
epochs, for a GPU or an overnight run. ``toy`` takes seconds on the phantom and checks that the notebooks run.

To add an experiment, add an ``Experiment`` here and its notebook, which has a parameter ``rows_file`` and ends with
``experiments.save_rows(rows_file, rows)``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

SIZES = ("quick", "paper", "toy")
FOLDER = "5-paper-figures"  # of the notebooks, in the folder of all notebooks


@dataclass(frozen=True)
class Grid:
    """All combinations of the values of some parameters, with other parameters fixed.

    Parameters
    ----------
    axes : mapping
        Parameter -> its values; the last axis varies fastest. A value that is a mapping sets several parameters at
        once, and the name of its axis is not a parameter.
    fixed : mapping
        Parameter -> value. A list is passed to the notebook as a whole, which loops over it.

    Raises
    ------
    ValueError
        If an axis has no values, or a parameter is both an axis and fixed.
    """

    axes: Mapping[str, tuple] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self):
        for name, values in self.axes.items():
            if not isinstance(values, (tuple, list)) or not values:
                raise ValueError(f"axes[{name!r}] must contain at least one value, got {values!r}")
            if name in self.fixed:
                raise ValueError(f"{name} must be either an axis or fixed, got both")

    def points(self) -> list[dict]:
        """Return the parameters of each point."""
        steps = [
            [dict(value) if isinstance(value, Mapping) else {name: value} for value in values]
            for name, values in self.axes.items()
        ]
        return [
            {**self.fixed, **{name: value for step in chosen for name, value in step.items()}}
            for chosen in itertools.product(*steps)
        ]


@dataclass(frozen=True)
class Experiment:
    """A question in one line, and the notebook that answers it at each point of a grid.

    Parameters
    ----------
    name, question : str
        Name of the experiment and of its table; its question.
    notebook : str
        File name in the folder of the experiments' notebooks.
    grids : mapping
        Size -> ``Grid``.
    cost : tuple of str
        Parameters whose product is proportional to the time of a point; a list contributes its length.
    """

    name: str
    question: str
    notebook: str
    grids: Mapping[str, Grid]
    cost: tuple[str, ...]

    def grid(self, size: str) -> Grid:
        """Return the grid of a size; raise ValueError if there is none."""
        if size not in self.grids:
            raise ValueError(f"size must be one of {', '.join(self.grids)}, got {size!r}")
        return self.grids[size]

    def work(self, size: str) -> float:
        """Return the cost of all points of a size in arbitrary units."""

        def amount(value) -> float:
            return len(value) if isinstance(value, (list, tuple)) else float(value)

        points = self.grid(size).points()
        return sum(math.prod(amount(point[name]) for name in self.cost) for point in points)


# one training and its test, in distance-learning.ipynb
LEARNING_COST = ("epochs", "steps_per_epoch", "batch_size", "channels", "channels", "network_image_size")
LEARNING = {
    # parameter: (quick, paper, toy)
    "map_name": ("5j0n", "5j0n", "phantom"),
    "image_size": (116, 116, 64),
    "network_image_size": (36, 116, 16),
    "channels": (64, 128, 16),
    "epochs": (6, 150, 2),
    "steps_per_epoch": (50, 100, 20),
    "batch_size": (128, 256, 16),
    "n_test": (400, 1650, 40),
    "seed": (0, 0, 0),
}


def _of_size(size: str) -> dict:
    return {name: values[SIZES.index(size)] for name, values in LEARNING.items()}


def _learning(
    name: str, question: str, *, quick: dict, toy: dict, paper: dict | None = None, **fixed
) -> Experiment:
    """Return a training experiment from the axes of each size (``paper`` defaults to ``quick``)."""
    grids = {}
    for size, varied in (("quick", quick), ("paper", paper or quick), ("toy", toy)):
        common = _of_size(size) | fixed
        grids[size] = Grid(varied, {key: value for key, value in common.items() if key not in varied})
    return Experiment(name, question, "distance-learning.ipynb", grids, LEARNING_COST)


SIGMAS_RAD = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def _perturbed(images: int, seeds: int, descent_steps: int, sigmas: list[float], few: list[float]) -> Grid:
    many, one = {"sigmas_rad": sigmas, "seeds": list(range(seeds))}, {"sigmas_rad": few, "seeds": [0]}
    cases = (
        {"symmetry": "C1", "method": "spectral+gauss_newton", **many},
        {"symmetry": "C1", "method": "spectral", **many},
        {"symmetry": "C1", "method": "sgd", **one},
        # recovery of a symmetric particle costs many times as much
        {"symmetry": "D2", "method": "spectral+gauss_newton", **one},
    )
    return Grid({"case": cases}, {"images": images, "descent_steps": descent_steps})


def _start_up(size: str, variances: tuple[float, ...], errors: list[float], **fixed) -> Grid:
    common = {name: _of_size(size)[name] for name in ("map_name", "image_size", "seed")}
    return Grid({"noise_variance": variances}, {**common, "start_errors_rad": errors, **fixed})


TREATMENTS = ({"symmetry": "C1", "coverage": "quarter"}, {"symmetry": "D2", "coverage": "so3"})
BETA_GALACTOSIDASE = {"map_name": "beta-galactosidase", "masked": True, "image_size": 100}

SAMPLINGS = ("so3", "euler", "half", "quarter", "preferred")

_EXPERIMENTS = (
    Experiment(
        "pairwise-distances",
        "How far apart are two orientations, and their images, under each sampling?",
        "pairwise-distances.ipynb",
        {
            "quick": Grid({"coverage": SAMPLINGS}, {"map_name": "5j0n", "image_size": 116, "n": 1000}),
            "paper": Grid({"coverage": SAMPLINGS}, {"map_name": "5j0n", "image_size": 116, "n": 5000}),
            "toy": Grid({"coverage": ("so3",)}, {"map_name": "phantom", "image_size": 64, "n": 60}),
        },
        ("n", "n"),
    ),
    Experiment(
        "perturbed-recovery",
        "How do errors of the distances carry over to the orientations (C1 and D2)?",
        "perturbed-recovery.ipynb",
        {
            "quick": _perturbed(838, 3, 30_000, SIGMAS_RAD, [0.0, 0.2, 0.4, 0.8]),
            "paper": _perturbed(1650, 10, 30_000, SIGMAS_RAD, SIGMAS_RAD),
            "toy": _perturbed(100, 1, 3000, [0.0, 0.2], [0.2]),
        },
        ("images", "images", "sigmas_rad", "seeds"),
    ),
    _learning(
        "noise",
        "How does the distance error grow with noise, and does a network work at a level it was not trained on?",
        quick={"noise_variance": (0.0, 1.0, 4.0, 9.0, 16.0, 25.0)},
        toy={"noise_variance": (0.0, 4.0)},
        test_noise_variances=[0.0, 1.0, 4.0, 9.0, 16.0, 25.0],
    ),
    _learning(
        "shift-limit",
        "How does the distance error grow with the shift of the particles?",
        quick={"shift_limit_px": (0.0, 2.0, 5.0, 10.0, 20.0)},
        paper={"shift_limit_px": (0.0, 2.0, 5.0, 10.0, 15.0, 20.0)},
        toy={"shift_limit_px": (0.0, 5.0)},
    ),
    _learning(
        "embedding-size",
        "How many features does a distance need?",
        # multiples of 3 close to the paper's powers of 2: one part of harmonic 0, two of harmonic 1
        quick={"n_features": (3, 6, 9, 15, 96, 510)},
        paper={"n_features": (3, 6, 9, 15, 33, 63, 129, 255, 510)},
        toy={"n_features": (6, 96)},
    ),
    _learning(
        "feature-distance",
        "Which distance between features predicts the distance between orientations?",
        quick={"feature_distance": ("kernel", "cosine", "euclidean", "mlp"), "epochs": (8,)},
        paper={"feature_distance": ("kernel", "cosine", "euclidean", "mlp")},
        toy={"feature_distance": ("kernel", "mlp")},
    ),
    _learning(
        "training-projections",
        "How many training projections does a network need?",
        quick={"distinct": (250, 1000, 2512, 10_000, None)},
        paper={"distinct": (500, 1000, 2512, 10_000, 50_000, None)},
        toy={"distinct": (32, None)},
    ),
    _learning(
        "coverage",
        "Does a network work on a distribution of orientations it was not trained on?",
        quick={"coverage": ("so3", "euler", "half", "preferred")},
        toy={"coverage": ("so3", "preferred")},
        test_coverages=["so3", "euler", "half", "preferred"],
    ),
    _learning(
        "quarter-sphere",
        "A symmetric particle: the paper's quarter of the sphere, or all of it with distances to the nearest copy?",
        quick={"treatment": TREATMENTS, "particle": (BETA_GALACTOSIDASE,), "noise_variance": (0.0, 16.0)},
        toy={
            "treatment": TREATMENTS,
            "particle": ({"map_name": "phantom-D2", "n_test": 100},),
            "noise_variance": (0.0,),
        },
    ),
    Experiment(
        "start-up",
        "From which orientations does refinement still converge, at which noise?",
        "start-up.ipynb",
        {
            "quick": _start_up(
                "quick", (0.0, 4.0, 16.0), [0.05, 0.1, 0.2, 0.4, 0.6, 0.8], images=400, refined_size=48
            ),
            "paper": _start_up(
                "paper",
                (0.0, 1.0, 4.0, 9.0, 16.0),
                [0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8],
                images=1650,
                refined_size=116,
            ),
            "toy": _start_up("toy", (0.0,), [0.1], images=60, refined_size=24),
        },
        ("images", "refined_size", "refined_size", "start_errors_rad"),
    ),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _EXPERIMENTS}


def get_experiment(name: str) -> Experiment:
    """Return the experiment with a name; raise ValueError if there is none."""
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    return EXPERIMENTS[name]
