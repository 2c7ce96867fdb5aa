"""Parameter grids, and experiments that consist of a question, a notebook and its parameter grids."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field


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
