"""Simulated particle images: projections of a map through contrast transfer, shift and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics, optics_of
from cryoem.images import apply_ctf, shift
from cryoem.particles.stack import KnownParticles, ParticleStack
from cryoem.projection.projectors import Projector
from cryoem.rotations import COVERAGES, Poses, as_poses, point_group, random_rotations
from cryoem.validation import not_negative, whole_number
from cryoem.volumes.density import DensityMap

REFERENCE_PROJECTIONS = 200


@dataclass(frozen=True)
class ImagingConditions:
    """Imaging conditions of simulated images.

    Parameters
    ----------
    image_size : int, optional
        Side in pixels of one voxel; the longest side of the map by default.
    noise_variance : float
        Variance of the white noise.  Noise-free images, as the microscope shows them, have variance 1 over the data
        set, so the signal-to-noise ratio is ``1 / noise_variance``.
    shift_limit_px : float
        Shifts follow a triangular distribution on [-limit, limit] in x and y.
    coverage : str
        Distribution of orientations, see ``rotations.random_rotations``.
    ctf : ContrastTransfer, optional
        Contrast transfer with the range of defocus; none by default.  It removes most of a particle's power, which is
        at low frequencies, and the noise is relative to what remains.
    """

    image_size: int | None = None
    noise_variance: float = 0.0
    shift_limit_px: float = 0.0
    coverage: str = "so3"
    ctf: ContrastTransfer | None = None

    def __post_init__(self):
        if self.image_size is not None:
            whole_number(self.image_size, name="image_size", at_least=2)
        not_negative(self.noise_variance, name="noise_variance")
        not_negative(self.shift_limit_px, name="shift_limit_px")
        if self.coverage not in COVERAGES:
            raise ValueError(f"coverage must be one of {', '.join(COVERAGES)}, got {self.coverage!r}")


def simulate(
    density_map: DensityMap,
    n: int | Poses | Rotation,
    *,
    image_size: int | None = None,
    coverage: str = "so3",
    noise_variance: float = 0.0,
    shift_limit_px: float = 0.0,
    ctf: ContrastTransfer | Optics | None = None,
    symmetry: str = "C1",
    rng: np.random.Generator | int | None = None,
) -> ParticleStack:
    """Simulate particle images of a map.

    Parameters
    ----------
    density_map : DensityMap
        The particle.
    n : int, Poses or Rotation
        Number of images at random orientations and shifts, or the poses of the images.
    image_size, coverage, noise_variance, shift_limit_px
        See ``ImagingConditions``; coverage and shift limit are ignored if poses are given.
    ctf : ContrastTransfer or Optics, optional
        Contrast transfer with a defocus drawn for each image from its range, or the optics of each image.
    symmetry : str
        Point group of the particle, which the stack keeps.
    rng : Generator or int, optional
        Random number generator or seed.

    Raises
    ------
    ValueError
        If a number is out of range, the map projects to a constant, optics do not fit the map or the images, or the
        point group is unknown.

    References
    ----------
    Banjac et al., arXiv 2104.06237, section 4.1.
    """
    optics, ctf = (ctf, None) if isinstance(ctf, Optics) else (None, ctf)
    conditions = ImagingConditions(image_size, noise_variance, shift_limit_px, coverage, ctf)
    particles = _draw(density_map, n, conditions, optics, symmetry, rng)
    return ParticleStack(np.asarray(particles), particles.optics, particles.poses, symmetry)


def simulate_lazily(
    density_map: DensityMap,
    n: int | Poses | Rotation,
    conditions: ImagingConditions,
    *,
    symmetry: str = "C1",
    rng: np.random.Generator | int | None = None,
) -> SimulatedParticles:
    """Simulate the images of ``simulate`` on demand, for stacks larger than memory.

    The same seed gives the same images as ``simulate``, in any order.

    Parameters and errors are those of ``simulate``.
    """
    return _draw(density_map, n, conditions, None, symmetry, rng)


def _draw(
    density_map: DensityMap,
    n: int | Poses | Rotation,
    conditions: ImagingConditions,
    optics: Optics | None,
    symmetry: str,
    rng,
) -> SimulatedParticles:
    """Draw the poses and optics that are not given, and prepare the projector."""
    point_group(symmetry)
    rng = np.random.default_rng(rng)
    pixel, limit, ctf = density_map.voxel_size_angstrom, conditions.shift_limit_px, conditions.ctf
    if np.isscalar(n):
        poses, rotations = None, random_rotations(n, coverage=conditions.coverage, rng=rng)
    else:
        poses = as_poses(n)
        rotations = poses.rotations
    count = len(rotations)
    if optics is not None:
        optics = optics_of(optics, pixel, count=count)
    projector = Projector(density_map.data, image_size=conditions.image_size)
    unit = clean_deviation(density_map, conditions, optics=optics, projector=projector)
    if optics is None:
        defocus = None if ctf is None else rng.uniform(*ctf.defocus_range_angstrom, count)
        optics = Optics(pixel, ctf, defocus)
    if poses is None:
        shifts = rng.triangular(-limit, 0, limit, (count, 2)) if limit else None
        poses = Poses(rotations, shifts)
    return SimulatedParticles(
        projector,
        optics,
        poses,
        unit,
        conditions.noise_variance,
        noise_seed=int(rng.integers(2**63)),
        numbers=np.arange(count),
        symmetry=symmetry,
    )


@dataclass(frozen=True, eq=False)
class SimulatedParticles(KnownParticles):
    """Particle images that are simulated on access; indexing selects images without simulating them.

    The noise of each image has its own seed, so that any process can simulate any image.  ``unit`` is the standard
    deviation of noise-free images; ``numbers`` (n,) identify the images.
    """

    projector: Projector
    optics: Optics
    poses: Poses
    unit: float
    noise_variance: float
    noise_seed: int
    numbers: np.ndarray
    symmetry: str = "C1"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, y, x)"""
        return (len(self.numbers), self.projector.image_size, self.projector.image_size)

    def __getitem__(self, index: slice | np.ndarray) -> SimulatedParticles:
        """Select images without simulating them."""
        return replace(self, optics=self.optics[index], poses=self.poses[index], numbers=self.numbers[index])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Simulate the images: (n, y, x) float32."""
        images = self.projector(self.poses.rotations)
        images /= self.unit
        if self.optics.ctf is not None:
            images = apply_ctf(images, self.optics)
        if self.poses.shifts_px.any():
            images = shift(images, self.poses.shifts_px)
        if self.noise_variance:
            scale = np.float32(np.sqrt(self.noise_variance))
            for number, image in zip(self.numbers, images, strict=True):
                noise = np.random.default_rng([self.noise_seed, int(number)])
                image += scale * noise.standard_normal(image.shape, np.float32)
        return images if dtype is None else images.astype(dtype, copy=False)


def clean_deviation(
    density_map: DensityMap,
    conditions: ImagingConditions,
    *,
    optics: Optics | None = None,
    projector: Projector | None = None,
) -> float:
    """Standard deviation of noise-free images over a fixed set of orientations and defoci: the unit of ``simulate``.

    Defoci are those of ``optics`` in turn, or cover the range of ``conditions.ctf``. ``projector`` is that of the map,
    if there is one already.

    Raises
    ------
    ValueError
        If the map projects to a constant.
    """
    if projector is None:
        projector = Projector(density_map.data, image_size=conditions.image_size)
    images = projector(random_rotations(REFERENCE_PROJECTIONS, coverage=conditions.coverage, rng=0))
    if optics is None and conditions.ctf is not None:
        defoci = np.linspace(*conditions.ctf.defocus_range_angstrom, REFERENCE_PROJECTIONS)
        optics = Optics(density_map.voxel_size_angstrom, conditions.ctf, defoci)
    elif optics is not None and optics.ctf is not None:
        optics = optics[np.arange(REFERENCE_PROJECTIONS) % len(optics.defocus_angstrom)]
    if optics is not None and optics.ctf is not None:
        images = apply_ctf(images, optics)
    deviation = float(images.std())
    if deviation == 0:
        raise ValueError("density_map must not be constant; its projections have no variance")
    return deviation
