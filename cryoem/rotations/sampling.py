"""Orientations with given distributions: random ones, and a grid of viewing directions."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.rotations.conversions import from_relion_euler_deg
from cryoem.validation import whole_number

BLOCK = 65_536  # orientations converted at a time
COVERAGES = ("so3", "euler", "half", "quarter", "preferred")
EulerRanges = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
PREFERRED_AXES = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
PREFERRED_CONCENTRATION = 10.0


def random_rotations(
    n: int, *, coverage: str | EulerRanges = "so3", rng: np.random.Generator | int | None = None
) -> Rotation:
    """Draw ``n`` random orientations.

    Parameters
    ----------
    n : int
        Number of orientations.
    coverage : {"so3", "euler", "half", "quarter", "preferred"} or three pairs of float
        Distribution of the orientations. Three ranges (rot_range, tilt_range, psi_range), each (low, high) in degrees,
        make RELION's Euler angles uniform within these ranges. A name selects one of these distributions:

        - ``"so3"`` (default): uniform on SO(3)
        - ``"euler"``: uniform in the three Euler angles, and therefore denser at the poles
        - ``"half"``: uniform on half of the sphere (tilt < pi/2)
        - ``"quarter"``: uniform on a quarter of the sphere (tilt < pi/2 and rot in [0, pi))
        - ``"preferred"``: concentrated around the particle's z- and x-axes, as for particles that adhere to the
          air-water interface in two ways. This is an equal mixture of two von Mises-Fisher distributions with
          concentration 10. Half of the viewing directions are within 22 degrees of their axis.
    rng : Generator or int, optional
        Random number generator or seed.

    Returns
    -------
    Rotation

    Raises
    ------
    ValueError
        If ``n`` is less than 1, or if ``coverage`` is neither a known name nor three valid ranges.

    References
    ----------
    arXiv 2104.06237, section on sampling. For orientations uniform on SO(3), the cosine of the tilt angle is uniform.
    """
    n = whole_number(n, name="n", at_least=1)
    coverage = check_coverage(coverage)
    rng = np.random.default_rng(rng)
    if coverage == "preferred":
        return _preferred(n, rng)
    if isinstance(coverage, str):
        rot, psi = rng.uniform(0, 2 * np.pi, (2, n))
        cos_tilt = rng.uniform(-1, 1, n)
        tilt = np.pi * (cos_tilt + 1) / 2 if coverage == "euler" else np.arccos(cos_tilt)
        if coverage in ("half", "quarter"):
            tilt = np.minimum(tilt, np.pi - tilt)
        if coverage == "quarter":
            rot /= 2
    else:
        rot, tilt, psi = (rng.uniform(*np.deg2rad(limits), n) for limits in coverage)
    # convert in blocks: a million quaternions take 32 MB, and their conversion six times as much
    quaternions = np.empty((n, 4))
    for start in range(0, n, BLOCK):
        some = slice(start, start + BLOCK)
        angles = np.rad2deg(np.stack([rot[some], tilt[some], psi[some]], axis=1))
        quaternions[some] = from_relion_euler_deg(angles).as_quat()
    return Rotation(quaternions, normalize=False, copy=False)


def even_orientations(n: int) -> Rotation:
    """Return ``n`` orientations whose viewing directions cover the sphere evenly, on a spiral from pole to pole.

    The in-plane angles are 0. The first half of an even number of orientations covers the half sphere with z > 0.
    """
    i = np.arange(whole_number(n, name="n", at_least=1)) + 0.5
    tilt, rot = np.arccos(1 - 2 * i / n), np.pi * (1 + np.sqrt(5)) * i
    return Rotation.from_euler("ZYZ", np.stack([0 * rot, -tilt, -rot], axis=1))


def check_coverage(coverage: str | EulerRanges) -> str | EulerRanges:
    """Validate the ``coverage`` argument of ``random_rotations``, and return it with the ranges as tuples."""
    if isinstance(coverage, str):
        if coverage not in COVERAGES:
            raise ValueError(f"coverage must be one of {', '.join(COVERAGES)}, got {coverage!r}")
        return coverage
    limits = np.asarray(coverage, dtype=float)
    if limits.shape != (3, 2):
        raise ValueError(
            f"coverage must be three ranges (low, high) of Euler angles, got shape {limits.shape}"
        )
    for name, (low, high) in zip(("rot", "tilt", "psi"), limits, strict=True):
        if not (np.isfinite([low, high]).all() and low <= high):
            raise ValueError(
                f"{name}_range must be two angles in degrees, the lower one first, got {low:g} and {high:g}"
            )
    return tuple(map(tuple, limits.tolist()))


def _preferred(n: int, rng: np.random.Generator) -> Rotation:
    """Draw viewing directions around ``PREFERRED_AXES`` with uniform in-plane angles.

    On the sphere, the distribution function of the cosine of a von Mises-Fisher angle has a closed-form inverse
    (Ulrich, 1984).
    """
    share, turn, psi = rng.uniform(size=n), *rng.uniform(0, 2 * np.pi, (2, n))
    cosine = 1 + np.log(share + (1 - share) * np.exp(-2 * PREFERRED_CONCENTRATION)) / PREFERRED_CONCENTRATION
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    about_z = np.stack([sine * np.cos(turn), sine * np.sin(turn), cosine], axis=1)
    axis = PREFERRED_AXES[rng.integers(len(PREFERRED_AXES), size=n)]
    # both axes are coordinate axes, so reversing the coordinates maps z to x
    x, y, z = np.where(axis[:, 2:] == 1, about_z, about_z[:, ::-1]).T
    angles = np.stack([np.arctan2(y, x), np.arccos(np.clip(z, -1, 1)), psi], axis=1)
    return from_relion_euler_deg(np.rad2deg(angles))


def random_small_rotations(
    shape: tuple[int, ...], *, radius: float, rng: np.random.Generator | int | None = None
):
    """Draw rotation vectors uniformly from a ball: ``shape + (3,)``, in radians, with norms up to ``radius``."""
    rng = np.random.default_rng(rng)
    direction = rng.normal(size=(*shape, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return radius * rng.uniform(size=(*shape, 1)) ** (1 / 3) * direction
