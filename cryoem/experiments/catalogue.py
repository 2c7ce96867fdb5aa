"""The catalogue of experiments: notebooks, and the parameter grids for which they are executed.

Every experiment has at least three sizes. ``quick`` takes a few minutes on two cores. ``paper`` follows the first
paper, with images 116 px wide and 150 training epochs. Most experiments of this size need a GPU, because they would
take days without one. ``toy`` takes seconds on the phantom, and checks that the notebooks run.

To add an experiment, add an ``Experiment`` here and write its notebook. The notebook must have a parameter
``rows_file`` and end with ``experiments.save_rows(rows_file, rows)``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

SIZES = ("quick", "paper", "toy")
FOLDER = "5-paper-figures"  # within the folder of notebooks


@dataclass(frozen=True)
class Grid:
    """All combinations of the values of some parameters, with the other parameters fixed.

    Parameters
    ----------
    axes : mapping
        Values of each varied parameter, by name. The last axis varies fastest. If the values of an axis are mappings,
        each of them sets several parameters, and the name of the axis is not used as a parameter.
    fixed : mapping
        Values of the fixed parameters, by name. A list is passed to the notebook as one value, and the notebook loops
        over its elements.

    Raises
    ------
    ValueError
        If an axis has no values, or a name is in both ``axes`` and ``fixed``.
    """

    axes: Mapping[str, tuple] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self):
        for name, values in self.axes.items():
            if not isinstance(values, (tuple, list)) or not values:
                raise ValueError(f"axes[{name!r}] must contain at least one value, got {values!r}")
            if name in self.fixed:
                raise ValueError(f"{name} must be either in axes or in fixed, not in both")

    def points(self) -> list[dict]:
        """Return the parameters of every point of the grid."""
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
    """A question, and the notebook that answers it at each point of a parameter grid.

    Parameters
    ----------
    name, question : str
        Name of the experiment, which is also the name of its table, and the question in one line.
    notebook : str
        File name of the notebook in the folder of experiment notebooks.
    grids : mapping
        Parameter grid for each size.
    cost : tuple of str
        Names of the parameters whose product is proportional to the execution time of a point. For a parameter that is
        a list, the length is used.
    """

    name: str
    question: str
    notebook: str
    grids: Mapping[str, Grid]
    cost: tuple[str, ...]

    def grid(self, size: str) -> Grid:
        """Return the grid for ``size``. Raises a ValueError if the experiment does not have this size."""
        if size not in self.grids:
            raise ValueError(f"size must be one of {', '.join(self.grids)}, got {size!r}")
        return self.grids[size]

    def work(self, size: str) -> float:
        """Return the total cost of all points of the grid for ``size``, in arbitrary units."""

        def amount(value) -> float:
            return len(value) if isinstance(value, (list, tuple)) else float(value)

        points = self.grid(size).points()
        return sum(math.prod(amount(point[name]) for name in self.cost) for point in points)


# cost of one training run and its test in distance-learning.ipynb
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
    """Return a training experiment with the given axes for each size (``paper`` defaults to ``quick``)."""
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
        # recovery is many times slower for a symmetric particle
        {"symmetry": "D2", "method": "spectral+gauss_newton", **one},
    )
    return Grid({"case": cases}, {"images": images, "descent_steps": descent_steps})


def _start_up(size: str, variances: tuple[float, ...], errors: list[float], **fixed) -> Grid:
    common = {name: _of_size(size)[name] for name in ("map_name", "image_size", "seed")}
    return Grid({"noise_variance": variances}, {**common, "start_errors_rad": errors, **fixed})


def _recipes(size: str, *, published: tuple[int, ...], ours: tuple[int, ...], **fixed) -> Grid:
    """Return the grid for one size, from the epochs, steps per epoch, batch size and image size of each method.

    The published method takes its number of steps from its pairs or, if all pairs of a batch are used, from its images.
    """
    names = ("epochs", "steps_per_epoch", "batch_size", "network_image_size")
    recipes = {"published": published, "ours": ours}
    axes = {
        "recipe": tuple(
            {"method": name, **dict(zip(names, numbers, strict=True))} for name, numbers in recipes.items()
        ),
        "noise_variance": (0.0, 16.0),
    }
    return Grid(axes, {"size": size, "seed": 0} | fixed)


PUBLISHED_DATA = {
    "map_name": "5j0n",
    "image_size": 116,
    "n_training": 2512,
    "n_validation": 838,
    "n_test": 1650,
    "pairs": 0.01,
    "channels": 128,
    "descent_steps": 30_000,
}

TREATMENTS = ({"symmetry": "C1", "coverage": "quarter"}, {"symmetry": "D2", "coverage": "so3"})
BETA_GALACTOSIDASE = {"map_name": "beta-galactosidase", "masked": True, "image_size": 100}

SAMPLINGS = ("so3", "euler", "half", "quarter", "preferred")

_EXPERIMENTS = (
    Experiment(
        "pairwise-distances",
        "How are the distances between orientations, and between images, distributed for each sampling?",
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
        "How do distance errors affect the recovered orientations (C1 and D2)?",
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
        "How does the distance error grow with noise, and does a network generalise to other noise levels?",
        quick={"noise_variance": (0.0, 1.0, 4.0, 9.0, 16.0, 25.0)},
        toy={"noise_variance": (0.0, 4.0)},
        test_noise_variances=[0.0, 1.0, 4.0, 9.0, 16.0, 25.0],
    ),
    _learning(
        "shift-limit",
        "How does the distance error grow with the particle shifts?",
        quick={"shift_limit_px": (0.0, 2.0, 5.0, 10.0, 20.0)},
        paper={"shift_limit_px": (0.0, 2.0, 5.0, 10.0, 15.0, 20.0)},
        toy={"shift_limit_px": (0.0, 5.0)},
    ),
    _learning(
        "embedding-size",
        "How many features are needed to predict distances?",
        # multiples of 3 close to the paper's powers of 2, because a third of the features has harmonic 0 and the rest 1
        quick={"n_features": (3, 6, 9, 15, 96, 510)},
        paper={"n_features": (3, 6, 9, 15, 33, 63, 129, 255, 510)},
        toy={"n_features": (6, 96)},
    ),
    _learning(
        "feature-distance",
        "Which distance between features best predicts the distance between orientations?",
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
        "Does a network generalise to other distributions of orientations?",
        quick={"coverage": ("so3", "euler", "half", "preferred")},
        toy={"coverage": ("so3", "preferred")},
        test_coverages=["so3", "euler", "half", "preferred"],
    ),
    _learning(
        "quarter-sphere",
        "For a symmetric particle, is the paper's quarter of the sphere better than symmetry-aware distances?",
        quick={"treatment": TREATMENTS, "particle": (BETA_GALACTOSIDASE,), "noise_variance": (0.0, 16.0)},
        paper={
            "treatment": TREATMENTS,
            "particle": (BETA_GALACTOSIDASE | {"network_image_size": 100},),
            "noise_variance": (0.0, 16.0),
        },
        toy={
            "treatment": TREATMENTS,
            "particle": ({"map_name": "phantom-D2", "n_test": 100},),
            "noise_variance": (0.0,),
        },
    ),
    Experiment(
        "start-up",
        "From how large an orientation error does refinement still converge, at each noise level?",
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
    Experiment(
        "published",
        "How accurate are the published training and recovery, and how accurate are ours in the same time?",
        "published-recipe.ipynb",
        {
            "quick": _recipes(
                "quick",
                published=(40, 40, 64, 58),
                ours=(10, 50, 128, 58),
                **PUBLISHED_DATA | {"pairs": "batch", "n_test": 400},
                training_seconds=300,
            ),
            # four epochs of the published training take about an hour on two idle cores
            "cpu": _recipes(
                "cpu",
                published=(4, 247, 256, 116),
                ours=(20, 50, 128, 58),
                **PUBLISHED_DATA,
                training_seconds=None,
            ),
            "paper": _recipes(
                "paper",
                published=(150, 247, 256, 116),
                ours=(200, 100, 128, 58),
                **PUBLISHED_DATA,
                training_seconds=None,
            ),
            "toy": _recipes(
                "toy",
                published=(2, 7, 64, 16),
                ours=(2, 20, 16, 16),
                map_name="phantom",
                image_size=64,
                n_training=64,
                n_validation=32,
                n_test=40,
                pairs=0.1,
                channels=16,
                descent_steps=2000,
                training_seconds=60,
            ),
        },
        ("epochs", "steps_per_epoch", "batch_size", "network_image_size", "network_image_size"),
    ),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _EXPERIMENTS}


def get_experiment(name: str) -> Experiment:
    """Return the experiment with the given name. Raises a ValueError if there is no such experiment."""
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    return EXPERIMENTS[name]
