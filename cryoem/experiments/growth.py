"""How time and memory grow with size, from the table that ``benchmarks/growth.py`` writes."""

from __future__ import annotations

import numpy as np
import pandas as pd

FITTED_SIZES = 3  # the largest, where what a step does once no longer shows


def growth_of(table: pd.DataFrame) -> pd.DataFrame:
    """The growth of each step with what was varied.

    Parameters
    ----------
    table : rows of ``step``, ``variable``, ``size``, ``seconds`` and ``added_memory_gb``.

    Returns
    -------
    A row for each step and variable of two sizes or more: ``smallest`` and ``largest`` size, ``exponent``, the slope of
    log time against log size over the three largest sizes, and ``bytes_each``, the memory that one more takes,
    from the smallest size to the largest.
    """
    rows = []
    for (step, variable), points in table.sort_values("size").groupby(["step", "variable"], sort=False):
        if len(points) < 2:
            continue
        largest = np.log(points[["size", "seconds"]].to_numpy(float)[-FITTED_SIZES:])
        memory, sizes = points["added_memory_gb"].to_numpy(float), points["size"].to_numpy(float)
        rows.append(
            {
                "step": step,
                "variable": variable,
                "smallest": points["size"].iloc[0],
                "largest": points["size"].iloc[-1],
                "exponent": np.polyfit(*largest.T, 1)[0],
                "bytes_each": 1e9 * (memory[-1] - memory[0]) / (sizes[-1] - sizes[0]),
            }
        )
    return pd.DataFrame(rows, columns=["step", "variable", "smallest", "largest", "exponent", "bytes_each"])
