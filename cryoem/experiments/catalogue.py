"""The catalogue of experiments: notebooks, and the parameter grids for which they are executed.

Every experiment has at least three sizes. ``quick`` takes minutes on two cores, and longer for ``whole-method``
and ``methods``. ``paper`` follows the first paper, with images 116 px wide and, in most experiments, 150 training
epochs. Most experiments of this size need a GPU, because they would take days without one. ``toy`` takes seconds on the
phantom, and checks that the notebooks run.

To add an experiment, add an ``Experiment`` here and write its notebook. The notebook must have a parameter
``rows_file`` and end with ``experiments.save_rows(rows_file, rows)``.
"""

from __future__ import annotations

from cryoem.experiments import first_paper, unseen
from cryoem.experiments.grids import Experiment, Grid
from cryoem.validation import suggestion

SIZES = ("quick", "paper", "toy")
FOLDER = "5-paper-figures"  # within the folder of notebooks

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
        {"symmetry": "C1", "coverage": "so3", "method": "spectral+gauss_newton", **many},
        {"symmetry": "C1", "coverage": "so3", "method": "spectral", **many},
        {"symmetry": "C1", "coverage": "so3", "method": "published", **one},
        {"symmetry": "C1", "coverage": "quarter", "method": "spectral+gauss_newton", **many},
        {"symmetry": "C1", "coverage": "quarter", "method": "published", **one},
        # recovery is many times slower for a symmetric particle
        {"symmetry": "D2", "coverage": "so3", "method": "spectral+gauss_newton", **many, "seeds": [0]},
    )
    return Grid({"case": cases}, {"images": images, "descent_steps": descent_steps})


def _start_up(size: str, variances: tuple[float, ...], errors: list[float], **fixed) -> Grid:
    common = {name: _of_size(size)[name] for name in ("map_name", "image_size", "seed")}
    return Grid({"noise_variance": variances}, {**common, "start_errors_rad": errors, **fixed})


METHODS_DATA = {
    "image_size": 116,
    "self_trained_images": 1650,
    "most_refined": 1650,
    "most_for_common_lines": {"voting": 400, "sync3n": 100},
    "channels": 128,
    "epochs": 30,
    "steps_per_epoch": 50,
    "batch_size": 128,
    "seed": 0,
}


def _methods(
    map_name: str, variances: tuple[float, ...], *, counts: list[int], network: int, **other
) -> Grid:
    fixed = {"map_name": map_name, "image_counts": counts, "network_image_size": network}
    return Grid({"noise_variance": variances}, METHODS_DATA | fixed | other)


def _strong_noise(variances: tuple[float, ...], counts: tuple[int, ...], *, seeds: int) -> Grid:
    fixed = {"map_name": "5j0n", "image_size": 116, "seeds": list(range(seeds)), "starts": 4}
    return Grid({"noise_variance": variances, "images": counts}, fixed)


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
        "whole-method",
        "How accurate are our distances, orientations and maps under each condition of the first paper?",
        "whole-method.ipynb",
        {
            "quick": Grid(
                {"case": tuple({"symmetry": "C1"} | case for case in first_paper.WHOLE_METHOD)},
                first_paper.WHOLE_METHOD_DATA | {"network_image_size": 58, "channels": 128, "n_test": 1650},
            ),
            "paper": Grid(
                {
                    "case": tuple(
                        {"symmetry": "C1"} | case | {"epochs": 150} for case in first_paper.WHOLE_METHOD
                    )
                },
                first_paper.WHOLE_METHOD_DATA | {"network_image_size": 116, "channels": 128, "n_test": 1650},
            ),
            "toy": Grid(
                {
                    "case": (
                        {"coverage": "so3", "symmetry": "C1", "noise_variance": 1.0, "shift_limit_px": 2.0},
                        {
                            "coverage": "quarter",
                            "symmetry": "C1",
                            "noise_variance": 0.0,
                            "shift_limit_px": 0.0,
                        },
                    )
                },
                {
                    "map_name": "phantom",
                    "image_size": 64,
                    "network_image_size": 16,
                    "channels": 16,
                    "epochs": 2,
                    "steps_per_epoch": 20,
                    "batch_size": 16,
                    "n_test": 60,
                    "seed": 0,
                },
            ),
        },
        LEARNING_COST,
    ),
    Experiment(
        "published",
        "How accurate are the published training and recovery, and how accurate are ours in less time?",
        "published-recipe.ipynb",
        {
            "quick": first_paper.recipe_grid(
                "quick",
                published=(40, 40, 64, 58),
                ours=(10, 50, 128, 58),
                cases=first_paper.FOUR_CASES + first_paper.SHIFTED,
                **first_paper.PUBLISHED_DATA | {"pairs": "batch", "n_test": 400},
            ),
            # two epochs of the published training take about an hour for each case on two idle cores
            "cpu": first_paper.recipe_grid(
                "cpu",
                published=(2, 247, 256, 116),
                ours=(20, 50, 128, 58),
                cases=first_paper.FOUR_CASES[:2],
                **first_paper.PUBLISHED_DATA,
            ),
            # six minutes on an NVIDIA H200 that trains both cases at once
            "gpu": first_paper.recipe_grid(
                "gpu",
                published=(26, 247, 256, 116),
                ours=(20, 50, 128, 58),
                cases=first_paper.FOUR_CASES[:2],
                **first_paper.PUBLISHED_DATA,
            ),
            "paper": first_paper.recipe_grid(
                "paper",
                published=(150, 247, 256, 116),
                ours=(200, 100, 128, 58),
                cases=first_paper.FOUR_CASES + first_paper.SHIFTED,
                **first_paper.PUBLISHED_DATA,
            ),
            "toy": first_paper.recipe_grid(
                "toy",
                published=(2, 7, 64, 16),
                ours=(2, 20, 16, 16),
                cases=first_paper.all_cases(
                    ({"map_name": "phantom", "coverage": "so3"},),
                    noise_variance=(0.0, 16.0),
                    shift_limit_px=(0.0,),
                ),
                image_size=64,
                n_training=64,
                n_validation=32,
                n_test=40,
                pairs=0.1,
                channels=16,
                descent_steps=2000,
            ),
        },
        ("epochs", "steps_per_epoch", "batch_size", "network_image_size", "network_image_size"),
    ),
    Experiment(
        "methods",
        "Does learning pay? Learned distances, ab initio search, projection matching and common lines compared",
        "methods.ipynb",
        {
            "quick": _methods("5j0n", (0.0, 1.0, 4.0, 16.0, 64.0), counts=[100, 400, 1650, 5000], network=58),
            "paper": _methods(
                "5j0n", (0.0, 1.0, 4.0, 16.0, 64.0), counts=[100, 400, 1650, 5000], network=116
            ),
            "toy": _methods(
                "phantom",
                (0.1,),
                counts=[60],
                network=16,
                image_size=64,
                self_trained_images=60,
                most_refined=0,
                most_for_common_lines={"voting": 60},
                channels=16,
                starts=1,
                epochs=1,
                steps_per_epoch=20,
                batch_size=16,
            ),
        },
        (*LEARNING_COST, "image_counts"),
    ),
    Experiment(
        "strong-noise",
        "How much noise does the search without a map withstand, with 1,650 and with 10,000 images?",
        "strong-noise.ipynb",
        {
            "quick": _strong_noise((36.0, 64.0, 100.0, 144.0), (1650, 10_000), seeds=2),
            "paper": _strong_noise((16.0, 36.0, 64.0, 100.0, 144.0, 196.0), (1650, 10_000, 50_000), seeds=5),
            "toy": Grid(
                {"noise_variance": (1.0,), "images": (80,)},
                {"map_name": "phantom", "image_size": 64, "seeds": [0], "starts": 2},
            ),
        },
        ("images", "seeds"),
    ),
    Experiment(
        "generalisation",
        "Does a network work for particles that it was not trained on?",
        "generalisation.ipynb",
        {
            "quick": Grid(
                {
                    "training_set": (
                        *({"epochs": 24} | one for one in unseen.TRAINING_SETS),
                        *(
                            {"epochs": 96} | one
                            for one in unseen.TRAINING_SETS
                            if one["training_count"] == 64
                        ),
                    )
                },
                unseen.GENERALISATION_DATA
                | {"image_size": 64, "network_image_size": 36, "channels": 64, "n_test": 400},
            ),
            "paper": Grid(
                {"training_set": unseen.TRAINING_SETS},
                unseen.GENERALISATION_DATA
                | {
                    "image_size": 116,
                    "network_image_size": 116,
                    "channels": 128,
                    "epochs": 300,
                    "n_test": 1650,
                },
            ),
            "toy": Grid(
                {"training_set": unseen.trained_on(unseen.PHANTOMS, (2,), {})},
                unseen.GENERALISATION_DATA
                | {"image_size": 32, "network_image_size": 16, "channels": 16, "epochs": 2, "n_test": 60}
                | {"tested": {"phantom 0": unseen.TESTED["5j0n"]}},
            ),
        },
        LEARNING_COST,
    ),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _EXPERIMENTS}


def get_experiment(name: str) -> Experiment:
    """Return the experiment with the given name. Raises a ValueError if there is no such experiment."""
    if name not in EXPERIMENTS:
        nearest = suggestion(name, EXPERIMENTS)
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {name!r}{nearest}")
    return EXPERIMENTS[name]
