"""Simulated particle images: projections of a density map with CTF, shifts and noise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer, Optics, optics_of
from cryoem.images import apply_ctf, image_blocks, plane_frequencies, shift
from cryoem.memory import check_memory
from cryoem.particles.conditions import ImagingConditions, Realism
from cryoem.particles.stack import KnownParticles, ParticleStack, shell_power
from cryoem.projection.projectors import Projector
from cryoem.rotations import EulerRanges, Poses, as_poses, point_group, random_rotations
from cryoem.volumes.density import DensityMap, solvent_level

REFERENCE_PROJECTIONS = 200
BYTES_PER_IMAGE = 1000  # for its row of a table
BYTES_PER_PIXEL = 30  # while it is simulated
BYTES_PER_VOXEL = 35  # of the transform of the map


def simulate(
    density_map: DensityMap,
    n: int | Poses | Rotation,
    *,
    image_size: int | None = None,
    coverage: str = "so3",
    noise_variance: float = 0.0,
    shift_limit_px: float = 0.0,
    ctf: ContrastTransfer | Optics | None = None,
    realism: Realism | None = None,
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
    realism : Realism, optional
        Structural noise, astigmatism, amplitudes and junk. Default: none of them.
    symmetry : str
        Point group of the particle, which is stored with the images. Default: C1.
    rng : Generator or int, optional
        Random number generator or seed. Default: a random seed.

    Returns
    -------
    ParticleStack
        The images with their optics and poses, and, with ``realism``, which of them are junk.

    Raises
    ------
    ValueError
        A number is out of range, the projections of the map are constant, the optics do not match the map or the number
        of images, or the point group is unknown.
    MemoryError
        The images do not fit into memory.

    References
    ----------
    Banjac et al., arXiv 2104.06237, section 4.1.
    """
    optics, ctf = (ctf, None) if isinstance(ctf, Optics) else (None, ctf)
    conditions = ImagingConditions(image_size, noise_variance, shift_limit_px, coverage, ctf)
    _check_fits(density_map, n, image_size, in_memory=True)
    particles = _draw(density_map, n, conditions, optics, realism, symmetry, rng)
    return ParticleStack(
        np.asarray(particles), particles.optics, particles.poses, symmetry, junk=particles.junk
    )


def simulate_lazily(
    density_map: DensityMap,
    n: int | Poses | Rotation,
    conditions: ImagingConditions,
    *,
    realism: Realism | None = None,
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
    realism : Realism, optional
        Structural noise, astigmatism, amplitudes and junk. Default: none of them.
    symmetry : str
        Point group of the particle. Default: C1.
    rng : Generator or int, optional
        Random number generator or seed. Default: a random seed.

    Returns
    -------
    SimulatedParticles
        The images, which are simulated when they are accessed.
    """
    return _draw(density_map, n, conditions, None, realism, symmetry, rng)


def _draw(
    density_map: DensityMap,
    n: int | Poses | Rotation,
    conditions: ImagingConditions,
    optics: Optics | None,
    realism: Realism | None,
    symmetry: str,
    rng,
) -> SimulatedParticles:
    """Draw poses and optics if they are not given, and prepare the projector."""
    point_group(symmetry)
    _check_fits(density_map, n, conditions.image_size)
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
        if ctf is not None and realism is not None and realism.astigmatism_angstrom:
            half = rng.uniform(0, realism.astigmatism_angstrom / 2, count)
            defocus = np.column_stack([defocus + half, defocus - half, rng.uniform(0, np.pi, count)])
        optics = Optics(pixel, ctf, defocus)
    if poses is None:
        if 2 * limit > projector.image_size:
            raise ValueError(
                f"shift_limit_px must be at most half the image size of {projector.image_size} px, "
                f"got {limit:g}"
            )
        shifts = rng.triangular(-limit, 0, limit, (count, 2)) if limit else None
        poses = Poses(rotations, shifts)
    junk = None
    if realism is not None:
        junk = np.isin(np.arange(count), rng.choice(count, round(realism.junk * count), replace=False))
    return SimulatedParticles(
        projector,
        optics,
        poses,
        unit,
        conditions.noise_variance,
        noise_seed=int(rng.integers(2**63)),
        numbers=np.arange(count),
        symmetry=symmetry,
        realism=realism,
        junk=junk,
    )


@dataclass(frozen=True, eq=False)
class SimulatedParticles(KnownParticles):
    """Particle images that are simulated when they are accessed.

    Indexing selects images without simulating them. The noise in each image has its own seed, so any process can
    simulate any image. ``unit`` is the standard deviation by which the noise-free images are divided. ``numbers`` is an
    (n,) array with the index of each image in the whole data set. ``junk`` (n,) is True for images without the
    particle; it is None without ``realism``.
    """

    projector: Projector
    optics: Optics
    poses: Poses
    unit: float
    noise_variance: float
    noise_seed: int
    numbers: np.ndarray
    symmetry: str = "C1"
    realism: Realism | None = None
    junk: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the images, (n, y, x)."""
        return (len(self.numbers), self.projector.image_size, self.projector.image_size)

    def __getitem__(self, index: slice | np.ndarray) -> SimulatedParticles:
        """Select images without simulating them."""
        junk = None if self.junk is None else self.junk[index]
        optics, poses, numbers = self.optics[index], self.poses[index], self.numbers[index]
        return replace(self, optics=optics, poses=poses, numbers=numbers, junk=junk)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Simulate the images as (n, y, x) float32."""
        images = self.projector(self.poses.rotations)
        images /= self.unit
        if self.realism is not None:
            self._make_realistic(images)
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

    def _make_realistic(self, images: np.ndarray) -> None:
        """Replace junk, vary the amplitudes and add structural noise, in place, before the CTF."""
        spread, size = self.realism.amplitude_spread, self.projector.image_size
        filtered = np.sqrt(self.realism.structural_noise) * self._structure
        for number, junk, image in zip(self.numbers, self.junk, images, strict=True):
            rng = np.random.default_rng([self.noise_seed, int(number), 1])
            if junk:
                image[:] = self._neighbours(rng) if rng.random() < 0.5 else 0
            image *= rng.uniform(1 - spread, 1 + spread)
            noise = np.fft.rfft2(rng.standard_normal((size, size), np.float32))
            image += np.fft.irfft2(noise * filtered, s=(size, size))

    def _neighbours(self, rng: np.random.Generator) -> np.ndarray:
        """Return an image of two particles at the edge, half of which are outside."""
        images = self.projector(random_rotations(2, rng=rng)) / self.unit
        angles = rng.uniform(0, 2 * np.pi) + np.array([0, rng.uniform(np.pi / 2, np.pi)])
        displacements = self.projector.image_size / 2 * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        return sum(map(partial(ndimage.shift, order=1), images, displacements))

    @cached_property
    def _structure(self) -> np.ndarray:
        """Root of the power spectrum of the projections (y, x // 2 + 1), by which white noise is filtered."""
        size = self.projector.image_size
        optics = Optics(self.optics.pixel_size_angstrom)
        found = [(len(some), shell_power(some)[1]) for some in _references(self.projector, optics, "so3")]
        counts, powers = zip(*found, strict=True)
        power = np.average(powers, axis=0, weights=counts) / self.unit**2
        radius = size * np.hypot(*plane_frequencies(size).T).reshape(size, -1)
        return np.sqrt(np.interp(radius, np.arange(1, len(power) + 1), power, right=0))


def check_simulation(count: int, image_size: int, *, n_voxels: int = 0, in_memory: bool = False) -> None:
    """Raise a MemoryError if images of a map do not fit into memory, all at once or one at a time."""
    at_once = (count if in_memory else 1) + 1  # and the frequencies of their transforms
    n_bytes = BYTES_PER_IMAGE * count + BYTES_PER_PIXEL * at_once * image_size**2 + BYTES_PER_VOXEL * n_voxels
    what = f"simulating {count:,} images {image_size:,} px wide"
    check_memory(what, n_bytes, remedy="use fewer or smaller images")


def _check_fits(density_map: DensityMap, n, image_size: int | None, *, in_memory: bool = False) -> None:
    """Check the memory for n images or poses of a map. Images are not projected at a smaller size than the map."""
    count, shape = n if np.isscalar(n) else len(n), density_map.data.shape
    size = max(image_size or 0, *shape)
    check_simulation(count, size, n_voxels=density_map.data.size, in_memory=in_memory)


def _references(projector: Projector, optics: Optics, coverage: str | EulerRanges) -> Iterator[np.ndarray]:
    """Simulate the noise-free images of a fixed set of orientations, in blocks (k, y, x)."""
    poses = Poses(random_rotations(REFERENCE_PROJECTIONS, coverage=coverage, rng=0))
    numbers = np.arange(REFERENCE_PROJECTIONS)
    images = SimulatedParticles(projector, optics, poses, 1.0, 0.0, noise_seed=0, numbers=numbers)
    return (np.asarray(images[block]) for block in image_blocks(images))


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
    if optics is None and conditions.ctf is not None:
        defoci = np.linspace(*conditions.ctf.defocus_range_angstrom, REFERENCE_PROJECTIONS)
        optics = Optics(density_map.voxel_size_angstrom, conditions.ctf, defoci)
    elif optics is not None and optics.ctf is not None:
        optics = optics[np.arange(REFERENCE_PROJECTIONS) % len(optics.defocus_angstrom)]
    else:
        optics = Optics(density_map.voxel_size_angstrom)
    found = [
        (len(some), some.mean(dtype=float), some.var(dtype=float))
        for some in _references(projector, optics, conditions.coverage)
    ]
    counts, means, variances = map(np.array, zip(*found, strict=True))
    # the variance of all images is that within the blocks plus that between their means
    spread = np.square(means - np.average(means, weights=counts))
    deviation = float(np.sqrt(np.average(variances + spread, weights=counts)))
    if deviation == 0:
        raise ValueError("density_map must not be constant; its projections have no variance")
    return deviation
