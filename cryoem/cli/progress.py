"""Progress on stderr, where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(doing: str, total: int, *, unit: str = "image") -> Iterator[Callable[[int], None]]:
    """A bar; what it gives is called with how many of ``total`` are done."""
    from tqdm import tqdm

    with tqdm(total=total, desc=doing, unit=unit, disable=None, leave=False) as bar:

        def done(count: int) -> None:
            bar.update(count - bar.n)

        yield done
