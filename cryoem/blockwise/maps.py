"""A map of the particles of a file, and of two halves of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cryoem.blockwise.blocks import Callback, SomeParticles, made_of_blocks
from cryoem.checks import finite_array
from cryoem.particles import ParticleFile
from cryoem.reconstruction import SliceSums, reconstruct, slice_sums
from cryoem.volumes import DensityMap

if TYPE_CHECKING:
    from distributed import Client

IMAGES_PER_PX = (
    48  # side of the images: so many are twice the bytes of their sums, which go from process to process
)
RANDOM_SUBSET = "rlnRandomSubset"


@dataclass(frozen=True)
class Reconstruction:
    """``map`` of all images, and ``half_maps`` of two halves of them, None for a method that knows no sums.

    ``refined_apart``: whether the halves are random subsets that the table tells, or every other image.
    """

    map: DensityMap
    half_maps: tuple[DensityMap, DensityMap] | None
    refined_apart: bool = False


def reconstruct_particles(
    particles: ParticleFile,
    *,
    symmetry: str = "C1",
    method: str = "fourier",
    client: Client | None = None,
    callback: Callback | None = None,
) -> Reconstruction:
    """A map of the images of a file, by the orientations, shifts and contrast transfer that the file knows.

    Halves are the two random subsets that RELION refined apart, where the table tells them; else every other image.

    Parameters
    ----------
    particles : at least 2 images with orientations.
    symmetry : point group of the particle, see ``reconstruction.reconstruct``.
    method : ``"fourier"``, in blocks, or ``"cgls"``, in memory and without half-maps.
    client : for ``"fourier"``, grids on its workers, which must see the same files; see ``distributed.in_order``.
    callback : called with the number of images done, after some blocks.

    Raises
    ------
    ValueError : the file knows no orientations, a half would have no images, a client is given to ``"cgls"``, or as
        ``reconstruct``.
    """
    if particles.rotations is None:
        raise ValueError(f"{particles.path} must give the orientations of its images, and gives none")
    known = {"pixel_size_angstrom": particles.pixel_size_angstrom, "symmetry": symmetry}
    if method != "fourier":
        if client is not None:
            raise ValueError(f"method must be fourier where workers share it, got {method!r}")
        stack = particles.to_stack()
        known |= {"shifts_px": stack.shifts_px, "ctf": stack.ctf, "defocus_angstrom": stack.defocus_angstrom}
        return Reconstruction(reconstruct(stack.images, stack.rotations, method=method, **known), None)
    halves = _halves(particles)
    sums: dict[int, SliceSums] = {}
    parts = made_of_blocks(
        partial(_half_sums, halves=halves, symmetry=symmetry),
        particles,
        least=int(IMAGES_PER_PX * particles.image_size),
        ahead=1,  # sums are large
        client=client,
        callback=callback,
    )
    for part in parts:
        _add(sums, part)
    whole, first, second = (
        DensityMap(part.invert().astype(np.float32), particles.pixel_size_angstrom)
        for part in (sums[0] + sums[1], sums[0], sums[1])
    )
    return Reconstruction(whole, (first, second), _has_subsets(particles))


def _half_sums(some: SomeParticles, *, halves: np.ndarray, symmetry: str) -> dict[int, SliceSums]:
    """What some particles give to the maps of the halves that they belong to, block by block."""
    sums: dict[int, SliceSums] = {}
    for block in some.blocks():
        particles = block.particles
        images, half = particles.read(slice(None)), halves[block.start : block.start + len(particles)]
        for number in np.unique(half):
            members = half == number
            part = slice_sums(
                images[members],
                particles.rotations[members],
                pixel_size_angstrom=particles.pixel_size_angstrom,
                shifts_px=None if particles.shifts_px is None else particles.shifts_px[members],
                ctf=particles.ctf,
                defocus_angstrom=None
                if particles.defocus_angstrom is None
                else particles.defocus_angstrom[members],
                symmetry=symmetry,
            )
            _add(sums, {number: part})
    return sums


def _add(sums: dict[int, SliceSums], part: dict[int, SliceSums]) -> None:
    """Add to ``sums``, half by half."""
    for number, values in part.items():
        sums[number] = sums[number] + values if number in sums else values


def _has_subsets(particles: ParticleFile) -> bool:
    return particles.table is not None and RANDOM_SUBSET in particles.table


def _halves(particles: ParticleFile) -> np.ndarray:
    """Which half each image belongs to, 0 or 1."""
    if len(particles) < 2:
        raise ValueError(f"{particles.path} must hold at least 2 images to make a map, got 1")
    if not _has_subsets(particles):
        return np.arange(len(particles)) % 2
    subset = finite_array(
        particles.table[RANDOM_SUBSET].to_numpy(), name=f"{particles.path}: {RANDOM_SUBSET}", ndim=1
    )
    if set(subset.tolist()) != {1, 2}:
        raise ValueError(
            f"{particles.path} must have both 1 and 2, and nothing else, in {RANDOM_SUBSET}, "
            f"got {', '.join(f'{value:g}' for value in np.unique(subset)[:5])}"
        )
    return subset.astype(int) - 1
