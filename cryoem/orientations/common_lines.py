"""Common lines of images: scoring given orientations, and estimating orientations without distances (with ASPIRE).

The central slices of any two images intersect in a line of Fourier space, along which the two must agree. The classical
method needs no map of the particle: it searches for this line in each pair of images. The three lines between three
images fix their relative orientations, and all relative orientations are then combined in one frame. ASPIRE is
installed with the extra ``baselines`` and imported on first use.

References: van Heel, Ultramicroscopy 21 (1987) 111; Shkolnisky and Singer, SIAM J. Imaging Sci. 5 (2012) 1088;
Greenberg and Shkolnisky, J. Struct. Biol. 200 (2017) 106; ASPIRE, https://github.com/ComputationalCryoEM/ASPIRE-Python.
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

import numba
import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.validation import square_images, whole_number

N_ANGLES = 360
LEAST_SIGNAL = 1e-3
# ASPIRE's command line uses the first and its library the second, which without a GPU determines the handedness of all
# pairs in a Python loop over triplets.
ESTIMATORS = {"voting": "CLSyncVoting", "sync3n": "CLSync3N"}


# --- scores


def fourier_lines(images: np.ndarray) -> np.ndarray:
    """Compute central lines of each image's Fourier transform, at angles over [0, pi): (n, N_ANGLES, radii) complex64.

    Each radius is weighted by the share of signal in the power spectrum, where the highest frequencies estimate the
    noise. Each image is scaled to unit power.
    """
    constant = np.count_nonzero(np.ptp(images, axis=(1, 2)) == 0)
    if constant:
        raise ValueError(
            f"images must not be constant, got constant values in {constant} of {len(images)} images"
        )
    import finufft

    n, size = len(images), images.shape[1]
    radius = np.arange(1, size // 2)  # Fourier pixels; zero frequency carries no orientation
    angle = np.pi * np.arange(N_ANGLES) / N_ANGLES
    fx = (2 * np.pi / size) * np.cos(angle)[:, None] * radius
    fy = (2 * np.pi / size) * np.sin(angle)[:, None] * radius
    plan = finufft.Plan(2, (size, size), eps=1e-4, isign=-1, n_trans=min(n, 64), dtype="complex64")
    plan.setpts(fy.ravel().astype(np.float32), fx.ravel().astype(np.float32))
    # transform block by block
    lines = np.empty((n, N_ANGLES, len(radius)), np.complex64)
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    centred /= centred.std()
    for start in range(0, n, plan.n_trans):
        block = np.zeros((plan.n_trans, size, size), np.complex64)
        count = min(plan.n_trans, n - start)
        block[:count] = centred[start : start + count]
        lines[start : start + count] = plan.execute(block).reshape(-1, *lines.shape[1:])[:count]
    # weight each radius by its share of signal
    power = np.mean(np.abs(lines) ** 2, axis=(0, 1))
    floor = power[-max(2, len(power) // 10) :].mean()
    signal = np.clip(1 - floor / power, 0, 1)
    if not (signal > LEAST_SIGNAL).any():  # no radius rises above the noise floor: weight all equally
        signal = np.ones_like(signal)
    kept = signal > LEAST_SIGNAL
    lines = np.ascontiguousarray(lines[..., kept]) * np.sqrt(signal * radius)[kept].astype(np.float32)
    scale = np.sqrt(np.mean(np.sum(np.abs(lines) ** 2, axis=2), axis=1))
    return lines / scale[:, None, None]


def score_turns(lines: np.ndarray, matrices: np.ndarray, pairs: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Score candidate turns A of the image axes, ``R = A @ matrices``, along common lines: (c,).

    Matrix p belongs to image ``p % n``, where n is the number of images. The score is the sum of the inner products of
    lines divided by the sum of their mean powers, and is 1 if all lines agree. Strong lines count for more, but a
    candidate cannot improve its score by selecting them.
    """
    # numba would compile the function again for each memory layout
    products, powers = _compare_pairs(lines, matrices, np.ascontiguousarray(pairs), turns)
    return products.sum(axis=1) / powers.sum(axis=1)


@numba.njit(parallel=True, fastmath=True, cache=True)
def _compare_pairs(lines, matrices, pairs, turns):
    """Sum the inner products and the mean powers of common lines in parts of ``pairs``: two (c, parts) arrays."""
    parts = 16
    products, powers = np.zeros((len(turns), parts)), np.zeros((len(turns), parts))
    for task in numba.prange(len(turns) * parts):
        turn, part = turns[task // parts], task % parts
        total = power = 0.0
        for p in range(part * len(pairs) // parts, (part + 1) * len(pairs) // parts):
            i, j = pairs[p, 0], pairs[p, 1]
            a, b = matrices[i], matrices[j]
            # both viewing directions in the particle's frame, and the line where the slices intersect
            ux, uy, uz = _combine_rows(turn[2], a)
            vx, vy, vz = _combine_rows(turn[2], b)
            x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            product, mean_power = _compare(
                lines[i % len(lines)],
                lines[j % len(lines)],
                _angle(turn, a, x, y, z),
                _angle(turn, b, x, y, z),
            )
            total += product
            power += mean_power
        products[task // parts, part] = total
        powers[task // parts, part] = power
    return products, powers


@numba.njit(inline="always")
def _combine_rows(weights, matrix):
    return (
        weights[0] * matrix[0, 0] + weights[1] * matrix[1, 0] + weights[2] * matrix[2, 0],
        weights[0] * matrix[0, 1] + weights[1] * matrix[1, 1] + weights[2] * matrix[2, 1],
        weights[0] * matrix[0, 2] + weights[1] * matrix[1, 2] + weights[2] * matrix[2, 2],
    )


@numba.njit(inline="always")
def _angle(turn, matrix, x, y, z):
    """Return the direction of a particle-frame vector within the image at orientation ``turn @ matrix``."""
    p = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z
    q = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z
    r = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z
    along_y = turn[1, 0] * p + turn[1, 1] * q + turn[1, 2] * r
    along_x = turn[0, 0] * p + turn[0, 1] * q + turn[0, 2] * r
    return np.arctan2(along_y, along_x)


@numba.njit(inline="always")
def _nearest_lines(angle, n_angles):
    """Return the two stored lines around an angle, the signs of their imaginary parts and the second one's weight."""
    position = (angle / np.pi) % 2 * n_angles
    first = int(position)
    second = first + 1
    sign_first = np.float32(1 - 2 * ((first // n_angles) % 2))
    sign_second = np.float32(1 - 2 * ((second // n_angles) % 2))
    return first % n_angles, sign_first, second % n_angles, sign_second, np.float32(position - first)


@numba.njit(fastmath=True, cache=True)
def _compare(a, b, angle_a, angle_b):
    """Return the real inner product and the mean power of two central lines, interpolated linearly in angle."""
    ia, sa, ja, ta, wa = _nearest_lines(angle_a, a.shape[0])
    ib, sb, jb, tb, wb = _nearest_lines(angle_b, b.shape[0])
    va, vb = np.float32(1) - wa, np.float32(1) - wb
    product = power = np.float32(0)
    for r in range(a.shape[1]):
        real_a = va * a[ia, r].real + wa * a[ja, r].real
        real_b = vb * b[ib, r].real + wb * b[jb, r].real
        imaginary_a = va * sa * a[ia, r].imag + wa * ta * a[ja, r].imag
        imaginary_b = vb * sb * b[ib, r].imag + wb * tb * b[jb, r].imag
        product += real_a * real_b + imaginary_a * imaginary_b
        power += real_a * real_a + imaginary_a * imaginary_a + real_b * real_b + imaginary_b * imaginary_b
    return product, power / 2


# --- ASPIRE


def is_installed() -> bool:
    """Return whether ASPIRE is installed, without importing it."""
    return importlib.util.find_spec("aspire") is not None


def orientations_from_common_lines(
    images: np.ndarray,
    *,
    estimator: str = "voting",
    directions: int = 360,
    rng: np.random.Generator | int | None = None,
) -> Rotation:
    """Estimate orientations from common lines, up to a global rotation and the handedness of the particle.

    Parameters
    ----------
    images : (n, y, x) array, y == x
        At least 3 images of one particle, at least 8 px wide. The particles must be centred.
    estimator : {"voting", "sync3n"}
        ASPIRE's ``CLSyncVoting`` or ``CLSync3N``. Default: ``"voting"``.
    directions : int
        Number of directions sampled over a full turn in each image; must be even. Default: 360.
    rng : Generator or int, optional
        Random number generator or seed, used only for the random start of ``"sync3n"``.

    Returns
    -------
    Rotation
        n orientations in the convention of this package, in which the matrices are the transposes of ASPIRE's.

    Raises
    ------
    ModuleNotFoundError
        If ASPIRE is not installed.
    ValueError
        If there are fewer than 3 images; if the images do not have shape (n, y, y), are too small, or contain NaN or
        infinity; if the estimator is unknown; or if a number is out of range.
    numpy.linalg.LinAlgError
        If the relative orientations are too inconsistent to be combined.
    """
    images = square_images(images, at_least=3, smallest_px=8)
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
    # ASPIRE requires a pixel size but does not use it; several threads slow down products of such small matrices
    with _silence(), threadpool_limits(1):
        source = aspire.source.ArrayImageSource(aspire.image.Image(images), pixel_size=1.0)
        found = getattr(aspire.abinitio, ESTIMATORS[estimator])(
            source,
            n_theta=directions,
            max_shift=0.0,
            disable_gpu=True,
            **options,
        )
        found.estimate_rotations()
    return Rotation.from_matrix(np.asarray(found.rotations, dtype=float).transpose(0, 2, 1))


@cache
def import_aspire() -> ModuleType:
    """Import ASPIRE, and remove the log folder, log handlers and exception hook that importing it adds."""
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
    """Silence ASPIRE's loggers, which warn once per pair of images at high noise."""
    loggers = [logger for logger in _loggers() if logger.name.partition(".")[0] == "aspire"]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
