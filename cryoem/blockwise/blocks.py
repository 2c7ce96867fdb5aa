"""The particles of a file, so many at a time that their images may be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cryoem.distributed import AHEAD, in_order
from cryoem.imaging import flip_phases
from cryoem.particles import ParticleFile

if TYPE_CHECKING:
    from distributed import Client

BLOCK_BYTES = 32_000_000  # of images in memory at a time

Callback = Callable[[int], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class SomeParticles:
    """Particles of a file, the first of which has the number ``start`` there; ``at_once`` images may be in memory."""

    start: int
    particles: ParticleFile
    at_once: int

    def blocks(self) -> Iterator[SomeParticles]:
        """The same, ``at_once`` at a time."""
        for first in range(0, len(self.particles), self.at_once):
            some = self.particles.subset(slice(first, first + self.at_once))
            yield SomeParticles(self.start + first, some, self.at_once)


def made_of_blocks(
    function: Callable[[SomeParticles], Result],
    particles: ParticleFile,
    *,
    client: Client | None,
    callback: Callback | None,
    least: int = 1,
    ahead: int = AHEAD,
) -> Iterator[Result]:
    """What a function makes of the particles of a file in order, a block at a time, or whole blocks of ``least``."""
    at_once = max(1, BLOCK_BYTES // (4 * particles.image_size**2))
    size = -(-least // at_once) * at_once
    starts = range(0, len(particles), size)
    items = (SomeParticles(start, particles.subset(slice(start, start + size)), at_once) for start in starts)
    for start, result in zip(starts, in_order(function, items, client=client, ahead=ahead), strict=True):
        yield result
        if callback is not None:
            callback(min(start + size, len(particles)))


def without_signs(particles: ParticleFile) -> np.ndarray:
    """Images (n, y, x) of a file without the signs that the contrast transfer gave to frequencies."""
    return flip_phases(
        particles.read(slice(None)),
        particles.ctf,
        particles.defocus_angstrom,
        pixel_size_angstrom=particles.pixel_size_angstrom,
    )
