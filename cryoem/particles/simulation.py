"""Simulated particle images: projections of a density map with CTF, shifts and noise."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics, optics_of
from cryoem.images import apply_ctf, shift
from cryoem.particles.stack import KnownParticles, ParticleStack
from cryoem.projection.projectors import Projector
from cryoem.rotations import EulerRanges, Poses, as_poses, check_coverage, point_group, random_rotations
from cryoem.validation import not_negative, whole_number
from cryoem.volumes.density import DensityMap, solvent_level

REFERENCE_PROJECTIONS = 200


@dataclass(frozen=True)
class ImagingConditions:
    """Imaging conditions for simulated images.

    Parameters
    ----------
    image_size : int, optional
        Side length of the images in pixels. The pixel size is the voxel size of the map. Default: the longest side of
        the map.
    noise_variance : float
        Variance of the white noise. Noise-free images, including the effect of the CTF, have variance 1 over the data
        set, so the signal-to-noise ratio is ``1 / noise_variance``. Default: 0.
    shift_limit_px : float
        Largest shift along x and y in pixels. Shifts follow a triangular distribution on [-limit, limit]. Default: 0.
    coverage : str or three pairs of float
        Distribution of the orientations; see ``cryoem.rotations.random_rotations``. Default: so3.
    ctf : ContrastTransfer, optional
        Constants of the CTF and the defocus range. The CTF removes most of a particle's power, which is at low
        frequencies; the noise variance is relative to the remaining power. Default: no CTF.

    Raises
    ------
    ValueError
        A number is out of range, or the distribution of the orientations is unknown.
    """

    image_size: int | None = None
    noise_variance: float = 0.0
    shift_limit_px: float = 0.0
    coverage: str | EulerRanges = "so3"
    ctf: ContrastTransfer | None = None

    def __post_init__(self):
        if self.image_size is not None:
            whole_number(self.image_size, name="image_size", at_least=2)
        not_negative(self.noise_variance, name="noise_variance")
        not_negative(self.shift_limit_px, name="shift_limit_px")
        object.__setattr__(self, "coverage", check_coverage(self.coverage))


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
    """Simulate particle images of a density map.

    Parameters
    ----------
    density_map : DensityMap
        Density map of the particle.
    n : int, Poses or Rotation
        Number of images to simulate at random orientations and shifts, or the poses of the images.
    image_size, coverage, noise_variance, shift_limit_px
        Imaging conditions; see ``ImagingConditions``. If poses are given, ``shift_limit_px`` is not used, and
        ``coverage`` affects only the scale of the images.
    ctf : ContrastTransfer or Optics, optional
        CTF with a defocus range, from which a defocus is drawn at random for each image, or the optics of the n images,
        including the defocus of each one. Default: no CTF.
    symmetry : str
        Point group of the particle, which is stored with the images. Default: C1.
    rng : Generator or int, optional
        Random number generator or seed. Default: a random seed.

    Returns
    -------
    ParticleStack
        The images with their optics and poses.

    Raises
    ------
    ValueError
        A number is out of range, the projections of the map are constant, the optics do not match the map or the number
        of images, or the point group is unknown.

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
    """Simulate images on demand, for stacks that do not fit in memory.

    With the same seed, the images are the same as those from ``simulate``, regardless of the order in which they are
    accessed. Raises the same errors as ``simulate``.

    Parameters
    ----------
    density_map : DensityMap
        Density map of the particle.
    n : int, Poses or Rotation
        Number of images to simulate at random orientations and shifts, or the poses of the images.
    conditions : ImagingConditions
        Imaging conditions.
    symmetry : str
        Point group of the particle. Default: C1.
    rng : Generator or int, optional
        Random number generator or seed. Default: a random seed.

    Returns
    -------
    SimulatedParticles
        The images, which are simulated when they are accessed.
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
    """Draw poses and optics if they are not given, and prepare the projector."""
    point_group(symmetry)
    if level := solvent_level(density_map):
        warnings.warn(
            f"density_map has the density {level:.4g} at the edge of its box, so its projections show the box; "
            "use volumes.subtract_solvent",
            UserWarning,
            stacklevel=3,
        )
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
    """Particle images that are simulated when they are accessed.

    Indexing selects images without simulating them. The noise in each image has its own seed, so any process can
    simulate any image. ``unit`` is the standard deviation by which the noise-free images are divided. ``numbers`` is an
    (n,) array with the index of each image in the whole data set.
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
        """Shape of the images, (n, y, x)."""
        return (len(self.numbers), self.projector.image_size, self.projector.image_size)

    def __getitem__(self, index: slice | np.ndarray) -> SimulatedParticles:
        """Select images without simulating them."""
        return replace(self, optics=self.optics[index], poses=self.poses[index], numbers=self.numbers[index])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Simulate the images as (n, y, x) float32."""
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
    """Return the standard deviation of noise-free images, by which ``simulate`` divides its projections.

    It is computed from a fixed set of orientations and defocus values.

    Parameters
    ----------
    density_map : DensityMap
        Density map of the particle.
    conditions : ImagingConditions
        Imaging conditions, of which only the image size, the coverage and the CTF are used. The defocus values are
        evenly spaced over the defocus range of the CTF.
    optics : Optics, optional
        Optics that replace the CTF in ``conditions``. Their defocus values are used in turn. Default: no replacement.
    projector : Projector, optional
        Existing projector for the map. Default: a new projector.

    Returns
    -------
    float
        Standard deviation of all pixels in the images.

    Raises
    ------
    ValueError
        The projections of the map are constant.
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
