"""Central slices of a volume's Fourier transform, evaluated off the grid, and the exact adjoint operation.

The transform of the volume is computed on an oversampled grid (``OVERSAMPLING``) and interpolated with a Kaiser-Bessel
kernel that is ``WIDTH`` points wide. The roll-off of the kernel in real space is divided out beforehand. This is a
non-uniform FFT specialised to rotated half-planes of a real volume: a single pass with a tabulated kernel, without a
plan or sorting, parallelised over images. For a real volume, only the half of the grid with k_x >= 0 is needed. A guard
band around it keeps modulo operations out of the inner loop.

Frequencies are in cycles per voxel. The origin of real space is voxel ``n // 2`` along every axis.

References: Jackson et al., IEEE Trans. Med. Imaging 10 (1991) 473; Beatty et al., ibid. 24 (2005) 799 (kernel shape).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft

from cryoem.projection import kernels
from cryoem.projection.kernels import GUARD, KERNEL_TABLE, OVERSAMPLING, roll_off


@dataclass(frozen=True)
class GridShape:
    """Shape of the oversampled Fourier grid of a (z, y, x) volume; only one half, with a guard band, is stored."""

    volume: tuple[int, int, int]

    @property
    def full(self) -> tuple[int, int, int]:
        """Numbers of grid points (z, y, x): even, with small prime factors, and large enough for the guard band."""
        halves = (max(int(np.ceil(OVERSAMPLING * n / 2)), 2 * GUARD) for n in self.volume)
        return tuple(2 * scipy.fft.next_fast_len(half, real=True) for half in halves)

    @property
    def stored(self) -> tuple[int, int, int]:
        """Shape of the half grid k_x >= 0, including a guard band on each side."""
        nz, ny, nx = self.full
        return nz + 2 * GUARD, ny + 2 * GUARD, nx // 2 + 1 + 2 * GUARD

    @property
    def axis_roll_offs(self) -> list[np.ndarray]:
        """Roll-off of the interpolation kernel in real space along each axis (z, y, x): float32."""
        return [roll_off(n, m).astype(np.float32) for n, m in zip(self.volume, self.full, strict=True)]

    @property
    def roll_off(self) -> np.ndarray:
        """Roll-off of the interpolation kernel in real space: float32, with the shape of the volume."""
        z, y, x = (roll_off(n, m) for n, m in zip(self.volume, self.full, strict=True))
        return (z[:, None, None] * y[:, None] * x).astype(np.float32)


@dataclass(frozen=True)
class VolumeTransform:
    """Oversampled half of the Fourier transform of a real volume, with a guard band, for interpolation.

    ``values`` is complex64 with the shape ``shape.stored``. Zero frequency is at index GUARD plus half of the full grid
    along z and y, and at index GUARD along x.
    """

    values: np.ndarray
    shape: GridShape


def transform(volume: np.ndarray) -> VolumeTransform:
    """Transform a real (z, y, x) volume for evaluation off the grid."""
    shape = GridShape(volume.shape)
    half = np.asarray(volume, np.float32) / shape.roll_off
    # pad one axis at a time, so that the padding of the other axes is neither stored nor transformed
    for axis in (2, 1, 0):
        half = _padded_transform(half, shape.full[axis], axis)
    return VolumeTransform(_guarded(half), shape)


def _padded_transform(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Pad one axis to ``length`` and transform it, with position n // 2 as the origin.

    The transform is real along the last axis and complex along the others.
    """
    n = values.shape[axis]
    padded = np.zeros((*values.shape[:axis], length, *values.shape[axis + 1 :]), values.dtype)
    placed, given = np.moveaxis(padded, axis, 0), np.moveaxis(values, axis, 0)
    placed[: n - n // 2] = given[n // 2 :]
    placed[length - n // 2 :] = given[: n // 2]
    if axis == 2:
        return scipy.fft.rfft(padded, axis=axis, workers=-1)
    return scipy.fft.fft(padded, axis=axis, workers=-1, overwrite_x=True)


def _negate(half: np.ndarray) -> np.ndarray:
    """Return the conjugate at (-k_z, -k_y) of an array whose first two axes are even and shifted."""
    return np.roll(half[::-1, ::-1], (1, 1), axis=(0, 1)).conj()


def _guarded(half: np.ndarray) -> np.ndarray:
    """Shift a half grid along z and y, and extend it periodically along z and y and by Hermitian symmetry along x."""
    nz, ny, nx = half.shape
    guarded = np.empty((nz + 2 * GUARD, ny + 2 * GUARD, nx + 2 * GUARD), half.dtype)
    inner = guarded[GUARD:-GUARD, GUARD:-GUARD]
    middle = inner[..., GUARD:-GUARD]
    # shift by half a grid in z and y
    for to_z, from_z in (
        (slice(nz // 2, None), slice(None, nz // 2)),
        (slice(None, nz // 2), slice(nz // 2, None)),
    ):
        middle[to_z, ny // 2 :] = half[from_z, : ny // 2]
        middle[to_z, : ny // 2] = half[from_z, ny // 2 :]
    # fill the guard band
    inner[..., :GUARD] = _negate(middle[..., GUARD:0:-1])
    inner[..., -GUARD:] = _negate(middle[..., -2 : -2 - GUARD : -1])
    for axis in (1, 0):
        around = np.moveaxis(guarded, axis, 0)
        around[:GUARD], around[-GUARD:] = around[-2 * GUARD : -GUARD], around[GUARD : 2 * GUARD]
    return guarded


def _fold_guard(guarded: np.ndarray) -> np.ndarray:
    """Fold the guard band back into the half grid, and add the Hermitian twins of its samples near k_x = 0 and Nyquist.

    The result is a view.
    """
    rows = guarded[GUARD:-GUARD]
    rows[:GUARD] += guarded[-GUARD:]
    rows[-GUARD:] += guarded[:GUARD]
    wide = rows[:, GUARD:-GUARD]
    wide[:, :GUARD] += rows[:, -GUARD:]
    wide[:, -GUARD:] += rows[:, :GUARD]
    first, last = _negate(wide[..., : GUARD + 1]), _negate(wide[..., -GUARD - 1 :])
    half = wide[..., GUARD:-GUARD]
    half[..., : GUARD + 1] += first[..., ::-1]
    half[..., -GUARD - 1 :] += last[..., ::-1]
    return half


def read_slices(spectrum: VolumeTransform, matrices: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Evaluate the transform on central slices: (n, m) complex64.

    Each slice is spanned by the first two rows of one of the (n, 3, 3) orientations. The m points have (m, 2)
    ``frequencies`` in cycles per voxel, within [-0.5, 0.5].
    """
    values = np.empty((len(matrices), len(frequencies)), np.complex64)
    kernels.read_points(
        spectrum.values.view(np.float32),
        np.array(spectrum.shape.full),
        KERNEL_TABLE,
        np.ascontiguousarray(matrices, np.float32),
        np.ascontiguousarray(frequencies, np.float32),
        values,
    )
    return values


def zero_grids(shape: GridShape, count: int) -> np.ndarray:
    """Return a Fourier grid without slices for each of k threads, k <= ``count``: (k, *shape.stored) complex64."""
    return np.zeros((min(numba.get_num_threads(), count), *shape.stored), np.complex64)


def spread_slices(
    grids: np.ndarray, values: np.ndarray, matrices: np.ndarray, frequencies: np.ndarray, shape: GridShape
) -> None:
    """Add (n, m) slice values to Fourier grids, at the points of ``read_slices``, in place.

    ``grids`` (k, *shape.stored) are complex64. Each of k threads adds its part of the slices to one of them.
    """
    kernels.spread_points(
        np.ascontiguousarray(values, np.complex64),
        np.array(shape.full),
        KERNEL_TABLE,
        np.ascontiguousarray(matrices, np.float32),
        np.ascontiguousarray(frequencies, np.float32),
        grids.view(np.float32),
    )


def untransform(grids: np.ndarray, shape: GridShape) -> np.ndarray:
    """Transform the sum of grids of slices back, crop it and divide by the kernel's roll-off: (z, y, x) float32.

    The inverse transform is not normalised. Applied after ``spread_slices``, this function gives twice the adjoint of
    ``transform`` followed by ``read_slices``. The content of ``grids`` is lost.
    """
    volume = grids[0]
    for grid in grids[1:]:
        volume += grid
    volume = _fold_guard(volume)
    for axis, n in enumerate(
        shape.volume
    ):  # crop one axis at a time, so that the rest of it is not transformed
        if axis < 2:
            volume = scipy.fft.ifft(volume, axis=axis, workers=-1, norm="forward")
        else:
            volume = scipy.fft.irfft(volume, shape.full[2], axis=2, workers=-1, norm="forward")
        volume = cropped(volume, n, axis)
    z, y, x = shape.axis_roll_offs
    # frequencies are shifted by half a grid along z and y, so every other voxel has the wrong sign
    z, y = (each * (-1.0) ** (np.arange(len(each)) - len(each) // 2) for each in (z, y))
    volume /= (z[:, None, None] * y[:, None] * x).astype(np.float32)
    return volume


def cropped(padded: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Crop one axis with the origin at index 0 to ``size`` voxels with the origin at voxel ``size // 2``."""
    before, after = size // 2, size - size // 2
    ahead = (slice(None),) * axis
    parts = padded[(*ahead, slice(padded.shape[axis] - before, None))], padded[(*ahead, slice(after))]
    return np.concatenate(parts, axis=axis)
