"""Round numbers for axes and scale bars."""

from __future__ import annotations

import numpy as np


def round_below(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above a positive ``value``."""
    decade = 10.0 ** np.floor(np.log10(value))
    return float(max(step * decade for step in (1, 2, 5) if step == 1 or step * decade <= value))


def log_ticks(values: np.ndarray) -> dict:
    """Tick values and texts of a plotly log axis that shows ``values``, of which the positive ones count.

    Evenly spaced within a decade, 1, 2 and 5 of each over two, whole decades beyond.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size or positive.min() == positive.max():
        return {}
    lowest, highest = positive.min(), positive.max()
    first, last = np.floor(np.log10(lowest)), np.ceil(np.log10(highest))
    if highest < 10 * lowest:
        step = round_below((highest - lowest) / 3)
        ticks = step * np.arange(np.ceil(lowest / step), np.floor(highest / step) + 1)
    elif highest <= 100 * lowest:
        ticks = np.outer(10.0 ** np.arange(first, last + 1), [1, 2, 5]).ravel()
    else:
        ticks = 10.0 ** np.arange(first, last + 1, max(1, np.ceil((last - first) / 8)))
    return {"tickvals": ticks, "ticktext": [f"{t:.0e}" if t < 0.99e-4 else f"{t:.4g}" for t in ticks]}
