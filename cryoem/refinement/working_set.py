"""Images as a round of refinement compares them: transforms at the coarsest size that holds the trusted shells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from cryoem.contrast import ContrastTransfer
from cryoem.imaging import without_background
from cryoem.projectors import half_planes_from_images
from cryoem.projectors.matching import displaced
from cryoem.reconstruction import SliceSums, disc_frequencies, grid_slices, once_each
from cryoem.refinement.poses import Poses


@dataclass(frozen=True)
class Optics:
    """What the microscope does to each image: ``ctf``, ``defocus_angstrom`` (n,) or (n, 3), ``pixel_size_angstrom``."""

    ctf: ContrastTransfer
    defocus_angstrom: np.ndarray
    pixel_size_angstrom: float

    def of(self, members: np.ndarray) -> Optics:
        """The optics of some of the images."""
        return Optics(self.ctf, self.defocus_angstrom[members], self.pixel_size_angstrom)

    def transfers(self, frequencies: np.ndarray, coarse_pixel_px: float) -> np.ndarray:
        """(n, m) float32 at (m, 2) cycles per coarse pixel of so many pixels."""
        per_angstrom = frequencies / (coarse_pixel_px * self.pixel_size_angstrom)
        return self.ctf.at(per_angstrom, self.defocus_angstrom).astype(np.float32)


@dataclass(frozen=True)
class FullImages:
    """``planes`` (n, m) complex64, half-planes of all images of ``size`` pixels a side; their ``optics``, if any."""

    planes: np.ndarray
    size: int
    optics: Optics | None

    def of(self, members: np.ndarray) -> FullImages:
        """Some of the images."""
        optics = None if self.optics is None else self.optics.of(members)
        return FullImages(self.planes[members], self.size, optics)


@dataclass(frozen=True)
class WorkingSet:
    """Images at a coarser size, centred, as their transforms inside the Nyquist circle of that size.

    ``planes`` (n, m) complex64; ``frequencies`` (m, 2) cycles per coarse pixel; ``transfers`` (n, m) or None;
    ``size``: side in coarse pixels; ``pixel_px``: side of a coarse pixel in pixels.
    """

    planes: np.ndarray
    frequencies: np.ndarray
    transfers: np.ndarray | None
    size: int
    pixel_px: float

    @property
    def weights(self) -> np.ndarray:
        """(m,) that count every Hermitian pair once."""
        return once_each(self.frequencies)

    def within(self, shell: int) -> WorkingSet:
        """The elements up to a shell, without the mean."""
        radius = np.hypot(*self.frequencies.T) * self.size
        kept = np.flatnonzero((radius > 0.5) & (radius < shell + 0.5))
        transfers = None if self.transfers is None else np.ascontiguousarray(self.transfers[:, kept])
        planes = np.ascontiguousarray(self.planes[:, kept])
        return WorkingSet(planes, self.frequencies[kept], transfers, self.size, self.pixel_px)

    def of(self, members: np.ndarray) -> WorkingSet:
        """Some of the images."""
        transfers = None if self.transfers is None else self.transfers[members]
        return WorkingSet(self.planes[members], self.frequencies, transfers, self.size, self.pixel_px)

    def moved(self, shifts: np.ndarray) -> WorkingSet:
        """Images whose content is moved by (n, 2) coarse pixels."""
        planes = displaced(self.planes, self.frequencies, shifts)
        return WorkingSet(planes, self.frequencies, self.transfers, self.size, self.pixel_px)

    def gridded(self, matrices: np.ndarray, group: np.ndarray) -> SliceSums:
        """All slices in the Fourier space of a volume, at (n, 3, 3) orientations."""
        return grid_slices(
            self.planes, matrices, self.frequencies, self.size, group=group, transfers=self.transfers
        )


def working_set(images: FullImages, poses: Poses, shell: int) -> WorkingSet:
    """Fourier-crop half-planes to the smallest good even size that holds ``shell``, and centre them."""
    size = images.size
    coarse = min(size, 2 * scipy.fft.next_fast_len(shell + 1, real=True))
    _, frequencies = disc_frequencies(coarse)
    k = np.rint(frequencies * coarse).astype(int)  # (m, 2): k_x >= 0, k_y of either sign
    index = (k[:, 1] % size) * (size // 2 + 1) + k[:, 0]
    pixel_px = size / coarse
    planes = np.ascontiguousarray(images.planes[:, index])
    transfers = None if images.optics is None else images.optics.transfers(frequencies, pixel_px)
    work = WorkingSet(planes, frequencies, transfers, coarse, pixel_px)
    return work.moved(-poses.shifts_px / pixel_px) if poses.shifts_px.any() else work


def full_images(images: np.ndarray, optics: Optics | None) -> tuple[FullImages, float]:
    """Images (n, y, y) without their background, in units of their deviation, and that unit.

    Raises
    ------
    ValueError : the images are constant.
    """
    normal, unit = _normalised(images)
    return FullImages(half_planes_from_images(normal), images.shape[1], optics), unit


def _normalised(images: np.ndarray) -> tuple[np.ndarray, float]:
    """Images without their background, the mean outside the inscribed circle, in units of their deviation;
    that unit.
    """
    images = without_background(images)
    unit = float(images.std(dtype=float))
    if unit == 0:
        raise ValueError(f"images must not be constant, got {len(images)} constant ones")
    return images / np.float32(unit), unit
