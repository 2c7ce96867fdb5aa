"""Orientations from common lines alone, by ASPIRE: the classical method, which knows nothing of the particle.

The slices of any two images meet in a line.  Each pair of images is searched for it; three lines between three images
fix how these are turned against each other, and all relative orientations are brought into one frame.  ASPIRE comes
with the extra ``baselines`` and is imported when it is used.

Source: Shkolnisky and Singer, SIAM J. Imaging Sci. 5 (2012) 1088; Greenberg and Shkolnisky, J. Struct. Biol. 200 (2017)
106; ASPIRE, https://github.com/ComputationalCryoEM/ASPIRE-Python.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.checks import not_negative, square_images, whole_number

# ASPIRE's command line takes the first, its library by default the second, whose search for the hands of all pairs is
# a loop over triplets in Python where there is no GPU.
ESTIMATORS = {"voting": "CLSyncVoting", "sync3n": "CLSync3N"}


def is_installed() -> bool:
    """Whether ASPIRE is there; it is not imported."""
    return importlib.util.find_spec("aspire") is not None


def orientations_from_common_lines(
    images: np.ndarray,
    *,
    estimator: str = "voting",
    largest_shift_px: float = 0.0,
    directions: int = 360,
    rng: np.random.Generator | int | None = None,
) -> Rotation:
    """Orientations of images of one particle from their common lines, up to a turn and the hand of the particle.

    Parameters
    ----------
    images : (n, y, x) real, y == x, n at least 3.
    estimator : ``"voting"`` or ``"sync3n"``, both ASPIRE's.
    largest_shift_px : how far images may be from their centres: each pair is searched once for each whole pixel.
    directions : into which an image's full turn is divided, even; ASPIRE takes 360.
    rng : generator or seed; ``"sync3n"`` begins with a random vector.

    Returns
    -------
    n orientations in the package's convention, which is the transpose of ASPIRE's.

    Raises
    ------
    ModuleNotFoundError : ASPIRE is not installed.
    ValueError : images are not (n, y, y), fewer than 3, or not finite; there is no such estimator; a number is out
        of range.
    numpy.linalg.LinAlgError : the relative orientations contradict each other so much that none can be told.
    """
    images = square_images(images, at_least=3, smallest_px=8)
    not_negative(largest_shift_px, name="largest_shift_px")
    if whole_number(directions, name="directions", at_least=4) % 2:
        raise ValueError(f"directions must be even, got {directions}")
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if not is_installed():
        raise ModuleNotFoundError("ASPIRE is not installed: pip install 'cryoem[baselines]'")
    aspire = import_aspire()
    from threadpoolctl import threadpool_limits

    options = {"seed": int(np.random.default_rng(rng).integers(2**31))} if estimator == "sync3n" else {}
    # the pixel size is asked for and not used; products of matrices this small lose time on several threads
    with _silence(), threadpool_limits(1):
        source = aspire.source.ArrayImageSource(aspire.image.Image(images), pixel_size=1.0)
        found = getattr(aspire.abinitio, ESTIMATORS[estimator])(
            source,
            n_theta=directions,
            max_shift=max(0, largest_shift_px - 1e-6) / images.shape[1],  # which ASPIRE rounds up to pixels
            disable_gpu=True,
            **options,
        )
        found.estimate_rotations()
    return Rotation.from_matrix(np.asarray(found.rotations, dtype=float).transpose(0, 2, 1))


@cache
def import_aspire() -> ModuleType:
    """ASPIRE, imported without the folder of logs, the log handlers and the hook for errors that it leaves behind."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    switched_on = [logger for logger in _loggers() if not logger.disabled]
    with tempfile.TemporaryDirectory() as aside, contextlib.chdir(aside), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import aspire
        import aspire.abinitio
        import aspire.image
        import aspire.source
    aspire.config["logging"]["tqdm_disable"] = True
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger in switched_on:
        logger.disabled = False
    sys.excepthook = hook
    return aspire


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logger for logger in known if isinstance(logger, logging.Logger)]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """ASPIRE without a word: at high noise it warns of a line for each pair."""
    loggers = [logger for logger in _loggers() if logger.name.partition(".")[0] == "aspire"]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
