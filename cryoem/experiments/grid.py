"""What an experiment is: a notebook, and the grids of parameters that it is executed with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

SIZES = ("quick", "paper", "toy")


@dataclass(frozen=True)
class Grid:
    """All combinations of some parameters, and others that stay.

    ``axes``: parameter -> its values, the last axis varying fastest; values that are mappings set several parameters
    at once, and the axis' own name is then none of them.  ``fixed``: parameter -> value.  A list as a value is
    handed to the notebook whole, which then loops over it.
    """

    axes: Mapping[str, tuple] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self):
        for name, values in self.axes.items():
            if not isinstance(values, (tuple, list)) or not values:
                raise ValueError(f"axes[{name!r}] must hold at least one value, got {values!r}")
            if name in self.fixed:
                raise ValueError(f"{name} must be either an axis or fixed, got both")

    def points(self) -> list[dict]:
        """The parameters of each point."""
        steps = [
            [dict(value) if isinstance(value, Mapping) else {name: value} for value in values]
            for name, values in self.axes.items()
        ]
        return [
            {**self.fixed, **{name: value for step in chosen for name, value in step.items()}}
            for chosen in itertools.product(*steps)
        ]

    def varying(self) -> list[str]:
        """Names of the parameters that the axes set at every point."""
        names = []
        for name, values in self.axes.items():
            first = values[0]
            if isinstance(first, Mapping):
                names += [key for key in first if all(key in value for value in values)]
            else:
                names.append(name)
        return names


@dataclass(frozen=True)
class Experiment:
    """A question, and the notebook that answers it at one point of a grid.

    ``name``: of the command line and the table; ``question``: one line; ``notebook``: file name in the folder of
    the experiments' notebooks; ``grids``: size -> ``Grid``, for ``SIZES``; ``cost``: names of parameters whose product
    (of a list, its length) the time of a point grows with.
    """

    name: str
    question: str
    notebook: str
    grids: Mapping[str, Grid]
    cost: tuple[str, ...]

    def grid(self, size: str) -> Grid:
        """The grid of a size.

        Raises
        ------
        ValueError : there is no such size.
        """
        if size not in self.grids:
            raise ValueError(f"size must be one of {', '.join(self.grids)}, got {size!r}")
        return self.grids[size]

    def work(self, size: str) -> float:
        """The cost of all points of a size, in a unit of its own."""
        return sum(
            math.prod(_amount(point[name]) for name in self.cost) for point in self.grid(size).points()
        )

    def projected_seconds(self, size: str, *, measured: float, at: str = "quick") -> float:
        """Time of a size from that of another: proportional to the work.

        Parameters
        ----------
        size : asked for.
        measured : seconds of all points of the size ``at``.
        """
        return measured * self.work(size) / self.work(at)


def _amount(value) -> float:
    return len(value) if isinstance(value, (list, tuple)) else float(value)
