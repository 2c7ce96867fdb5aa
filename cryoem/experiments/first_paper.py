"""Conditions of the first paper (arXiv:2104.06237), and the grids of its method and of ours."""

from __future__ import annotations

import itertools

from cryoem.experiments.grids import Grid

# the four cases of the paper's figures 8 and 9: its D2 particle is seen from a quarter of the sphere
WHOLE_SPHERE, QUARTER_SPHERE = (
    {"map_name": "5j0n", "coverage": "so3"},
    {"map_name": "5a1a", "coverage": "quarter"},
)


def all_cases(particles: tuple[dict, ...], **axes: tuple) -> tuple[dict, ...]:
    """Return all combinations of particles and imaging conditions."""
    return tuple(
        particle | dict(zip(axes, values, strict=True))
        for particle in particles
        for values in itertools.product(*axes.values())
    )


FOUR_CASES = all_cases((WHOLE_SPHERE, QUARTER_SPHERE), noise_variance=(0.0, 16.0), shift_limit_px=(0.0,))
SHIFTED = all_cases((WHOLE_SPHERE,), noise_variance=(0.0,), shift_limit_px=(10.0, 20.0))


def recipe_grid(
    size: str, *, published: tuple[int, ...], ours: tuple[int, ...], cases: tuple[dict, ...], **fixed
) -> Grid:
    """Return the grid for one size, from the epochs, steps per epoch, batch size and image size of each method.

    For the published method, the number of steps follows from the number of pairs or, if all pairs of a batch are used,
    from the number of images. The published method runs in all ``cases``. Our method runs only in the first two,
    because ``whole-method`` covers the others.
    """
    names = ("epochs", "steps_per_epoch", "batch_size", "network_image_size")
    points = [{"method": "published", **dict(zip(names, published, strict=True)), **case} for case in cases]
    points += [{"method": "ours", **dict(zip(names, ours, strict=True)), **case} for case in cases[:2]]
    return Grid({"point": tuple(points)}, {"size": size, "seed": 0} | fixed)


PUBLISHED_DATA = {
    "image_size": 116,
    "n_training": 2512,
    "n_validation": 838,
    "n_test": 1650,
    "pairs": 0.01,
    "channels": 128,
    "descent_steps": 30_000,
}

# our method with its full network: 5j0n without noise and shifts, then with noise, then with shifts
NOISE_FREE, NOISY = {"epochs": 16}, {"epochs": 30}
WHOLE_METHOD = (
    *(case | NOISE_FREE for case in all_cases((WHOLE_SPHERE,), noise_variance=(0.0,), shift_limit_px=(0.0,))),
    *(
        case | NOISY
        for case in all_cases(
            (WHOLE_SPHERE,), noise_variance=(5.0, 10.0, 16.0, 20.0, 25.0), shift_limit_px=(0.0,)
        )
    ),
    *(
        case | NOISY
        for case in all_cases(
            (WHOLE_SPHERE,), noise_variance=(0.0, 16.0), shift_limit_px=(5.0, 10.0, 15.0, 20.0)
        )
    ),
    {"map_name": "5j0n", "coverage": "euler", "noise_variance": 0.0, "shift_limit_px": 0.0} | NOISE_FREE,
    *(
        case | (NOISY if case["noise_variance"] else NOISE_FREE)
        for case in all_cases(
            (QUARTER_SPHERE, {"map_name": "5a1a", "coverage": "so3", "symmetry": "D2"}),
            noise_variance=(0.0, 16.0),
            shift_limit_px=(0.0,),
        )
    ),
)
WHOLE_METHOD_DATA = {"image_size": 116, "steps_per_epoch": 50, "batch_size": 128, "seed": 0}
