"""Orientations from common lines alone, through ASPIRE: the classical method, which needs no map of the particle.

The slices of any two images meet in a line.  This line is searched for in each pair of images; three lines between
three images fix their relative orientations, and all relative orientations are brought into one frame.  ASPIRE is
installed with the extra ``baselines`` and imported on first use.

References: Shkolnisky and Singer, SIAM J. Imaging Sci. 5 (2012) 1088; Greenberg and Shkolnisky, J. Struct. Biol. 200
(2017) 106; ASPIRE, https://github.com/ComputationalCryoEM/ASPIRE-Python.
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

from cryoem.validation import not_negative, square_images, whole_number

# ASPIRE's command line uses the first.  Its library uses the second by default, which determines the hands of all pairs
# by a Python loop over triplets unless it has a GPU.
ESTIMATORS = {"voting": "CLSyncVoting", "sync3n": "CLSync3N"}


def is_installed() -> bool:
    """Return whether ASPIRE is installed, without importing it."""
    return importlib.util.find_spec("aspire") is not None


def orientations_from_common_lines(
    images: np.ndarray,
    *,
    estimator: str = "voting",
    largest_shift_px: float = 0.0,
    directions: int = 360,
    rng: np.random.Generator | int | None = None,
) -> Rotation:
    """Estimate orientations from common lines, up to a rotation of the particle and its hand.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        At least 3 images of one particle.
    estimator : {"voting", "sync3n"}
        Estimator of ASPIRE.
    largest_shift_px : float
        Largest displacement of images; each pair is searched once for each whole pixel.
    directions : int
        Divisions of the full turn of an image, even.
    rng : Generator or int, optional
        Random number generator or seed; ``"sync3n"`` starts from a random vector.

    Returns
    -------
    Rotation
        n orientations in the package's convention, which is the transpose of ASPIRE's.

    Raises
    ------
    ModuleNotFoundError
        If ASPIRE is not installed.
    ValueError
        If images are not (n, y, y), fewer than 3 or not finite; the estimator is unknown; or a number is out of range.
    numpy.linalg.LinAlgError
        If the relative orientations are too inconsistent to determine orientations.
    """
    images = square_images(images, at_least=3, smallest_px=8)
    not_negative(largest_shift_px, name="largest_shift_px")
    if whole_number(directions, name="directions", at_least=4) % 2:
        raise ValueError(f"directions must be even, got {directions}")
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    if not is_installed():
        raise ModuleNotFoundError(
            "ASPIRE is not installed; run pip install -e '.[baselines]' in the checkout"
        )
    aspire = import_aspire()
    from threadpoolctl import threadpool_limits

    options = {"seed": int(np.random.default_rng(rng).integers(2**31))} if estimator == "sync3n" else {}
    # ASPIRE requires a pixel size but does not use it; several threads slow down products of matrices this small
    with _silence(), threadpool_limits(1):
        source = aspire.source.ArrayImageSource(aspire.image.Image(images), pixel_size=1.0)
        found = getattr(aspire.abinitio, ESTIMATORS[estimator])(
            source,
            n_theta=directions,
            max_shift=max(0, largest_shift_px - 1e-6) / images.shape[1],  # ASPIRE rounds up
            disable_gpu=True,
            **options,
        )
        found.estimate_rotations()
    return Rotation.from_matrix(np.asarray(found.rotations, dtype=float).transpose(0, 2, 1))


@cache
def import_aspire() -> ModuleType:
    """Import ASPIRE, and remove the log folder, log handlers and exception hook that its import adds."""
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
    """Silence the loggers of ASPIRE, which warn once per pair at high noise."""
    loggers = [logger for logger in _loggers() if logger.name.partition(".")[0] == "aspire"]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
