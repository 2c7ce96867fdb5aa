"""Images of a refinement round: transforms at the coarsest size that includes the trusted shells."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from cryoem.contrast import Optics
from cryoem.images import fourier_disc, half_planes_from_images, subtract_background
from cryoem.projection.matching import displaced
from cryoem.reconstruction.accumulation import FourierAccumulator, grid_slices
from cryoem.rotations import Poses


@dataclass(frozen=True)
class FullImages:
    """Half-planes ``planes`` (n, m) complex64 of images of ``size`` pixels a side, and their ``optics``."""

    planes: np.ndarray
    size: int
    optics: Optics

    def __getitem__(self, index: np.ndarray) -> FullImages:
        """Select some of the images."""
        return FullImages(self.planes[index], self.size, self.optics[index])


@dataclass(frozen=True)
class WorkingImages:
    """Images at a coarser size, centred, as their transforms inside the Nyquist circle of that size.

    ``planes`` (n, m) complex64; ``frequencies`` (m, 2) cycles per coarse pixel; ``weights`` (m,) count every Hermitian
    pair once; ``transfers`` (n, m) or None; ``size``: side in coarse pixels; ``pixel_px``: side of a coarse pixel in
    pixels.
    """

    planes: np.ndarray
    frequencies: np.ndarray
    weights: np.ndarray
    transfers: np.ndarray | None
    size: int
    pixel_px: float

    def __getitem__(self, index: np.ndarray) -> WorkingImages:
        """Select some of the images."""
        transfers = None if self.transfers is None else self.transfers[index]
        return replace(self, planes=self.planes[index], transfers=transfers)

    def within(self, shell: int) -> WorkingImages:
        """Select the elements up to a shell, without the mean."""
        radius = np.hypot(*self.frequencies.T) * self.size
        kept = np.flatnonzero((radius > 0.5) & (radius < shell + 0.5))
        return replace(
            self,
            planes=np.ascontiguousarray(self.planes[:, kept]),
            frequencies=self.frequencies[kept],
            weights=self.weights[kept],
            transfers=None if self.transfers is None else np.ascontiguousarray(self.transfers[:, kept]),
        )

    def moved(self, shifts: np.ndarray) -> WorkingImages:
        """Displace the content of the images by (n, 2) coarse pixels."""
        return replace(self, planes=displaced(self.planes, self.frequencies, shifts))

    def gridded(self, matrices: np.ndarray, group: np.ndarray) -> FourierAccumulator:
        """Grid all slices at (n, 3, 3) orientations."""
        return grid_slices(
            self.planes,
            matrices,
            self.frequencies,
            self.size,
            weights=self.weights,
            group=group,
            transfers=self.transfers,
        )


def working_images(images: FullImages, poses: Poses, shell: int) -> WorkingImages:
    """Fourier-crop half-planes to the smallest fast even size that includes ``shell``, and centre them."""
    size = images.size
    coarse = min(size, 2 * scipy.fft.next_fast_len(shell + 1, real=True))
    disc = fourier_disc(coarse)
    k = np.rint(disc.frequencies * coarse).astype(int)  # (m, 2): k_x >= 0, k_y of either sign
    index = (k[:, 1] % size) * (size // 2 + 1) + k[:, 0]
    pixel_px = size / coarse
    planes = np.ascontiguousarray(images.planes[:, index])
    transfers = None if images.optics.ctf is None else images.optics.transfers(disc.frequencies / pixel_px)
    work = WorkingImages(planes, disc.frequencies, disc.weights, transfers, coarse, pixel_px)
    return work.moved(-poses.shifts_px / pixel_px) if poses.shifts_px.any() else work


def full_images(images: np.ndarray, optics: Optics) -> tuple[FullImages, float]:
    """Subtract the background of (n, y, y) images and divide them by their standard deviation; return that unit too.

    Raises
    ------
    ValueError
        If the images are constant.
    """
    images = subtract_background(images)
    unit = float(images.std(dtype=float))
    if unit == 0:
        raise ValueError(f"images must not be constant, got {len(images)} constant images")
    planes = half_planes_from_images(images / np.float32(unit))
    return FullImages(planes, images.shape[1], optics), unit
