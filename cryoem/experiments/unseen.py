"""Particles of the experiment ``generalisation``: those on which networks are trained, and those that test them."""

from __future__ import annotations

# particles on which networks are trained, more and more of them in this order; none has a symmetric shape
MODELS = ("5ugo", "4gxy", "2d0f", "1igy")
PHANTOMS = tuple(f"phantom {number}" for number in range(1, 61))
TESTED = {
    "5j0n": {"coverage": "so3", "symmetry": "C1"},
    "1ncb": {"coverage": "so3", "symmetry": "C1"},
    "beta-galactosidase": {"coverage": "quarter", "symmetry": "D2"},
}


def trained_on(others: tuple[str, ...], counts: tuple[int, ...], tested: dict[str, dict]) -> tuple[dict, ...]:
    """Return the training sets: none, the first particles of ``others`` for each count, and each tested particle."""
    sets = [("no particle", (), "so3")]
    sets += [("other particles", others[:count], "so3") for count in counts]
    sets += [(name, (name,), test["coverage"]) for name, test in tested.items()]
    return tuple(
        {"trained_on": name, "training_count": len(chosen), "training": list(chosen), "coverage": coverage}
        for name, chosen, coverage in sets
    )


TRAINING_SETS = trained_on(MODELS + PHANTOMS, (1, 2, 4, 8, 16, 64), TESTED)
GENERALISATION_DATA = {
    "tested": TESTED,
    "noise_variance": 0.0,
    "steps_per_epoch": 50,
    "batch_size": 128,
    "seed": 0,
}
