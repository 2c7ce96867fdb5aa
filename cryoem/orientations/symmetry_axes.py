"""The symmetry axes of a map whose orientation is arbitrary.

A map with point group G in the frame A has equal slices at the orientations ``R`` and ``R A^T g A``. Rotation axes of
the highest order are found first, by comparing slices of the map with those of the rotated map for axes all over the
half sphere. The rotation about the best axes is then searched in steps, and the best frame is improved.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize
from scipy.ndimage import affine_transform, center_of_mass, shift
from scipy.spatial.transform import Rotation

from cryoem.projection import fourier
from cryoem.rotations import even_orientations, point_group, viewing_directions
from cryoem.volumes.density import DensityMap, crop_or_pad, cube, enclosing_image_size, resample

VIEWS = 16  # slices that are compared
RINGS, ANGLES = (2, 8), 24  # first and last ring, and points on half a ring
AXES, KEPT_AXES, APART = 500, 6, 0.96  # directions of the half sphere; the best, with cosines below APART
SPINS = 72
ELEMENTS = 5  # elements of the group that are compared in the search
FINE_RAD = 0.05
SYMMETRIC = 0.8  # least correlation of a symmetric map with its copies
ON_AXES = 0.99  # correlation in place, relative to that after the search, above which the map is not rotated
PRIMES, LARGEST_ORDER = (2, 3, 5, 7), 8  # orders of the axes that ``nearest_symmetry`` tries
SAME = 0.97  # correlation relative to that of a smaller group, above which the larger group is chosen
COARSE_PX = 48  # side length that is large enough for the rings
SMALLEST_PX = 20
FLOOR = 0.1  # density relative to the highest, above which it belongs to the particle
# share of the power within the radius of the particle, and side of its box, relative to its diameter
POWER, MARGIN = 0.99, 1.4


def align_symmetry(density_map: DensityMap, symmetry: str) -> tuple[DensityMap, float]:
    """Rotate and shift a map so that its symmetry axes are those of ``rotations.point_group``.

    The axes are assumed to pass through the centre of the particle's dense part.

    Parameters
    ----------
    density_map : DensityMap
        Map of any shape.
    symmetry : str
        Point group. With ``"C1"``, the map is returned unchanged.

    Returns
    -------
    density_map : DensityMap
        The given map if its axes are already in place, or if it does not have this symmetry; otherwise a cube with the
        moved map, in the same units.
    correlation : float
        Mean correlation of the map with its symmetric copies about the best axes, at low frequencies with equal
        weights. It is close to 1 for a symmetric particle, and below 0.8 for most others.

    Raises
    ------
    ValueError
        The point group is unknown.
    """
    group = point_group(symmetry)
    if len(group) == 1:
        return density_map, 1.0
    boxed = cube(density_map, enclosing_image_size(density_map))
    middle = np.full(3, len(boxed.data) // 2)
    centre = _centre(boxed.data)
    volume = _particle(boxed, middle)
    in_place = float(_Comparison(volume, np.random.default_rng(0)).correlations(group[1:]).mean())
    frame, correlation = symmetry_frame(_particle(boxed, centre), group, rng=np.random.default_rng(0))
    if max(in_place, correlation) < SYMMETRIC or in_place >= ON_AXES * correlation:
        return density_map, max(in_place, correlation)
    matrix = frame.as_matrix().T[::-1, ::-1]  # from offsets (z, y, x) in the result to offsets in the map
    moved = affine_transform(boxed.data, matrix, centre - matrix @ middle)
    return DensityMap(moved, boxed.voxel_size_angstrom), correlation


def nearest_symmetry(density_map: DensityMap) -> tuple[str, float]:
    """Find the cyclic or dihedral group under which a map is most nearly symmetric.

    Parameters
    ----------
    density_map : DensityMap
        Map of any shape.

    Returns
    -------
    symmetry : str
        Point group, C2 to C8 or D2 to D8. If the particle has a tetrahedral, octahedral or icosahedral group, this is
        one of its subgroups.
    correlation : float
        Correlation of the map with its symmetric copies, as in ``align_symmetry``.
    """
    boxed = cube(density_map, enclosing_image_size(density_map))
    volume = _particle(boxed, _centre(boxed.data))
    compared = _Comparison(volume, np.random.default_rng(0))
    scores = {
        order: compared.correlations(Rotation.from_rotvec(_axes() * 2 * np.pi / order)) for order in PRIMES
    }
    prime = max(PRIMES, key=lambda order: scores[order].max())

    def correlation(symmetry: str) -> float:
        return symmetry_frame(volume, point_group(symmetry), rng=np.random.default_rng(0))[1]

    order, symmetry, lowest = prime, f"C{prime}", correlation(f"C{prime}")
    best = lowest
    if lowest >= SYMMETRIC:
        for multiple in range(2 * prime, LARGEST_ORDER + 1, prime):
            if (higher := correlation(f"C{multiple}")) >= SAME * lowest:
                order, symmetry, best = multiple, f"C{multiple}", higher
        if (higher := correlation(f"D{order}")) >= SAME * lowest:
            symmetry, best = f"D{order}", higher
    return symmetry, best


def describe_symmetry_doubt(density_map: DensityMap, symmetry: str, correlation: float) -> str:
    """Return why a point group is doubtful for a map. Empty if it is not.

    Parameters
    ----------
    density_map : DensityMap
        Map from ``align_symmetry``.
    symmetry : str
        Point group that the user states. With ``"C1"``, the nearest symmetry is searched for.
    correlation : float
        Correlation from ``align_symmetry``.

    Returns
    -------
    str
        A sentence for a warning.
    """
    if correlation < SYMMETRIC:
        return (
            f"the map has a correlation of only {correlation:.2f} with its copies under {symmetry}, where a symmetric "
            "map has one close to 1; the particle probably does not have this symmetry"
        )
    nearest, correlation = nearest_symmetry(density_map) if symmetry == "C1" else (symmetry, 0.0)
    if correlation < SYMMETRIC:
        return ""
    return (
        f"the map is symmetric or nearly so, under {nearest} (correlation {correlation:.2f}), and the network may "
        "confuse views that are related by this symmetry; if the particle is symmetric, set its point group, "
        f"symmetry={nearest} or a larger group that contains it"
    )


def _axes() -> np.ndarray:
    """Return directions that cover the half sphere evenly: (AXES, 3)."""
    return viewing_directions(even_orientations(2 * AXES)[:AXES])


def _weights(volume: np.ndarray) -> np.ndarray:
    """Return the squared density above the noise."""
    return np.square(np.maximum(volume - FLOOR * volume.max(), 0), dtype=float)


def _centre(volume: np.ndarray) -> np.ndarray:
    """Return the centre (z, y, x) of the dense part of a map, in voxels."""
    return np.array(center_of_mass(_weights(volume)))


def _particle(density_map: DensityMap, centre: np.ndarray) -> np.ndarray:
    """Return a cube about a centre (z, y, x) that just contains the particle, with at most ``COARSE_PX`` voxels."""
    size = len(density_map.data)
    about = DensityMap(shift(density_map.data, size // 2 - centre, order=1), density_map.voxel_size_angstrom)
    radius = np.sqrt(sum(np.square(axis - size // 2) for axis in np.ogrid[:size, :size, :size]))
    power = np.bincount(np.round(radius).astype(int).ravel(), _weights(about.data).ravel())
    extent = int(np.searchsorted(np.cumsum(power), POWER * power.sum()))
    about = crop_or_pad(about, max(SMALLEST_PX, 2 * int(np.ceil(MARGIN * extent))))
    if len(about.data) > COARSE_PX:
        about = resample(about, about.voxel_size_angstrom * len(about.data) / COARSE_PX)
    return about.data


def symmetry_frame(
    volume: np.ndarray, group: Rotation, *, rng: np.random.Generator
) -> tuple[Rotation, float]:
    """Find the rotation of a map onto the axes of a point group.

    Parameters
    ----------
    volume : (k, k, k) array
        Map, about its centre.
    group : Rotation
        Elements of the group, identity first, in the frame of ``cryoem.rotations.point_group``.
    rng : Generator

    Returns
    -------
    frame : Rotation
        ``x_group = frame @ x_map``. It is determined up to rotations that map the group onto itself.
    correlation : float
        Mean correlation of the map with its symmetric copies, on rings 2 to 8 with equal weights.
    """
    compared = _Comparison(volume, rng)
    others = group[1:]
    # elements of the highest order have the smallest angle
    first = others[0]
    axis = first.as_rotvec() / first.magnitude()
    axes = _axes()
    scores = compared.correlations(Rotation.from_rotvec(axes * first.magnitude()))
    kept: list[np.ndarray] = []
    for best in np.argsort(-scores):
        if len(kept) < KEPT_AXES and all(abs(axes[best] @ other) < APART for other in kept):
            kept.append(axes[best])
    # about the axis of a cyclic group, all rotations are equivalent
    count = 1 if np.allclose(np.cross(others.as_rotvec(), axis), 0) else SPINS
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    spins = Rotation.from_rotvec(angles[:, None] * axis)
    onto = [Rotation.align_vectors([axis], [found])[0] for found in kept]
    frames = Rotation.concatenate([spins * rotation for rotation in onto])
    some = others[rng.permutation(len(others))[:ELEMENTS]]

    def copies(frame: Rotation) -> Rotation:
        return frame.inv() * some * frame

    def disagreement(step: np.ndarray, frame: Rotation) -> float:
        return -float(compared.correlations(copies(Rotation.from_rotvec(step) * frame)).mean())

    scores = compared.correlations(Rotation.concatenate([copies(frame) for frame in frames]))
    start = frames[int(np.argmax(scores.reshape(len(frames), -1).mean(axis=1)))]
    simplex = FINE_RAD * np.concatenate([np.zeros((1, 3)), np.eye(3)])
    fine = scipy.optimize.minimize(
        disagreement, np.zeros(3), args=(start,), method="Nelder-Mead", options={"initial_simplex": simplex}
    )
    frame = Rotation.from_rotvec(fine.x) * start
    return frame, float(compared.correlations(frame.inv() * others * frame).mean())


class _Comparison:
    """Slices of a map in random views, to be compared with slices of the rotated map."""

    def __init__(self, volume: np.ndarray, rng: np.random.Generator):
        self.spectrum = fourier.transform(volume)
        angle = np.pi * np.arange(ANGLES) / ANGLES
        radius = np.arange(RINGS[0], min(RINGS[1], len(volume) // 2 - 1) + 1)[:, None]
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        self.shape, self.frequencies = points.shape[:2], points.reshape(-1, 2) / len(volume)
        self.views = Rotation.random(VIEWS, rng=rng)
        self.reference = self._slices(self.views)

    def correlations(self, rotations: Rotation) -> np.ndarray:
        """Return the correlation with the map rotated by each of the k rotations: (k,)."""
        copies = Rotation.concatenate([self.views * rotation for rotation in rotations])
        slices = self._slices(copies).reshape(len(rotations), *self.reference.shape)
        return np.mean((slices.conj() * self.reference).real.sum(axis=(1, 3)), axis=1)

    def _slices(self, rotations: Rotation) -> np.ndarray:
        """Return slices (k, rings, angles), with the mean power of each ring in each set of views scaled to one."""
        values = fourier.read_slices(self.spectrum, rotations.as_matrix(), self.frequencies)
        values = values.reshape(-1, VIEWS, *self.shape)
        power = np.sum(np.abs(values) ** 2, axis=(1, 3), keepdims=True)
        return (values / np.sqrt(np.maximum(power, np.finfo(np.float32).tiny))).reshape(-1, *self.shape)
