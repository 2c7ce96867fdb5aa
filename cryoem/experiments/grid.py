"""Experiments: a notebook, and grids of parameters for which it is executed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

SIZES = ("quick", "paper", "toy")


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
    """A question, and the notebook that answers it at one point of a grid.

    Parameters
    ----------
    name : str
        Name of the experiment and of its table.
    question : str
        The question in one line.
    notebook : str
        File name in the folder of the experiments' notebooks.
    grids : mapping
        Size -> ``Grid``, for the ``SIZES``.
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
