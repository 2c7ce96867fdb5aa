"""The usual ways to misread particle files: conventions of rotations, images, shifts and the CTF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics
from cryoem.rotations import Poses, from_relion_euler_deg, to_relion_euler_deg

SAME_PIXEL = 0.05  # distance of the pixel size from 1 angstrom at which the two units are the same


@dataclass(frozen=True)
class Misreading:
    """A way to read poses and CTF, and the sentence that is true if it is the right one.

    ``rotations`` and ``shifts`` are functions of those as read, and ``transfers`` is a function of the optics and of
    (m, 2) frequencies in cycles per pixel; None if they are right as read. Misreadings of different ``group`` can
    occur together. If ``shuffle`` is not 0, the orientations are those of other images: a control, not a misreading.
    """

    group: str
    name: str
    finding: str
    rotations: Callable[[Rotation], Rotation] | None = None
    shifts: Callable[[np.ndarray], np.ndarray] | None = None
    transfers: Callable[[Optics, np.ndarray], np.ndarray] | None = None
    shuffle: int = 0

    def can_follow(self, first: Misreading) -> bool:
        """Return whether this misreading concerns nothing that ``first`` does."""
        return not any(
            getattr(self, part) and getattr(first, part) for part in ("rotations", "shifts", "transfers")
        )

    def after(self, first: Misreading) -> Misreading:
        """Combine two readings of different groups."""
        parts = {
            each: getattr(self, each) or getattr(first, each) for each in ("rotations", "shifts", "transfers")
        }
        return replace(self, **parts)

    def control(self, number: int = 1) -> Misreading:
        """Return this reading with the orientations of other images, which differ between the numbers from 1."""
        return replace(SHUFFLED.after(self), shuffle=number)


def _signs(rot: int, psi: int) -> Callable[[Rotation], Rotation]:
    return lambda rotations: from_relion_euler_deg(to_relion_euler_deg(rotations) * [rot, 1, psi])


def _turned(axis) -> Callable[[Rotation], Rotation]:
    """Turn the image axes by 180 degrees about ``axis``, which mirrors the images (of the mirrored particle)."""
    turn = Rotation.from_rotvec(np.pi * np.asarray(axis) / np.linalg.norm(axis))
    return lambda rotations: turn * rotations


def negated_defocus(optics: Optics) -> Optics:
    defocus = np.array(optics.defocus_angstrom)
    defocus[..., :2] *= -1  # U and V but not the azimuth
    return replace(optics, defocus_angstrom=defocus if defocus.ndim == 2 else -optics.defocus_angstrom)


AS_READ = Misreading("none", "as read", "the poses are understood as they are read")
SHUFFLED = Misreading(
    "none", "orientations of other images", "the orientations belong to other images", shuffle=1
)
MISREADINGS = (
    Misreading(
        "rotations",
        "inverse rotations",
        "the rotations are inverse: they look like rotations from microscope to particle coordinates",
        Rotation.inv,
    ),
    Misreading("rotations", "sign of psi", "psi has the opposite sign", _signs(1, -1)),
    Misreading("rotations", "sign of rot", "rot has the opposite sign", _signs(-1, 1)),
    Misreading(
        "rotations",
        "other hand of the angles",
        "the angles have the other hand: they look like those of mirrored images",
        _signs(-1, -1),
    ),
    Misreading(
        "rotations",
        "rot and psi exchanged",
        "rot and psi look exchanged",
        lambda rotations: from_relion_euler_deg(to_relion_euler_deg(rotations)[:, ::-1]),
    ),
    Misreading(
        "images",
        "images mirrored along y",
        "the images look mirrored along y, so that the first row is at the other edge",
        _turned([0, 1, 0]),
        lambda shifts: shifts * [1, -1],
    ),
    Misreading(
        "images",
        "images mirrored along x",
        "the images look mirrored along x",
        _turned([1, 0, 0]),
        lambda shifts: shifts * [-1, 1],
    ),
    Misreading(
        "images",
        "images transposed",
        "the images look transposed, with their x- and y-axes exchanged",
        _turned([1, -1, 0]),
        lambda shifts: shifts[:, ::-1],
    ),
    Misreading(
        "shifts", "signs of the shifts", "the shifts have the opposite sign", None, lambda shifts: -shifts
    ),
    Misreading(
        "shifts",
        "sign of the x-shifts",
        "the x-shifts have the opposite sign",
        None,
        lambda shifts: shifts * [-1, 1],
    ),
    Misreading(
        "shifts",
        "sign of the y-shifts",
        "the y-shifts have the opposite sign",
        None,
        lambda shifts: shifts * [1, -1],
    ),
    Misreading(
        "shifts",
        "x- and y-shifts exchanged",
        "the x- and y-shifts look exchanged",
        None,
        lambda shifts: shifts[:, ::-1],
    ),
    Misreading(
        "shifts",
        "no shifts",
        "the shifts fit in none of the readings that were tried: without them, the images agree better",
        None,
        np.zeros_like,
    ),
    Misreading(
        "CTF",
        "phase-flipped images",
        "the images look phase-flipped already, so their CTF has no sign",
        transfers=lambda optics, frequencies: np.abs(optics.transfers(frequencies)),
    ),
    Misreading(
        "CTF",
        "sign of the defocus",
        "the defocus has the opposite sign: positive values must mean underfocus",
        transfers=lambda optics, frequencies: negated_defocus(optics).transfers(frequencies),
    ),
    Misreading(
        "CTF",
        "no CTF",
        "the CTF does not fit: without it, the images agree better",
        transfers=lambda optics, frequencies: np.ones(
            (len(optics.defocus_angstrom), len(frequencies)), np.float32
        ),
    ),
)


def possible_misreadings(poses: Poses, optics: Optics) -> tuple[list[Misreading], dict[str, str]]:
    """Return the readings to try, and the reason for each group that is not tried."""
    pixel, without = optics.pixel_size_angstrom, {}
    shifts = (
        Misreading(
            "shifts",
            "pixels for angstrom",
            "the shifts look like pixels, not angstrom",
            None,
            lambda shifts: shifts * pixel,
        ),
        Misreading(
            "shifts",
            "angstrom for pixels",
            "the shifts look like angstrom, not pixels",
            None,
            lambda shifts: shifts / pixel,
        ),
    )
    trials = [*MISREADINGS, *shifts]
    if not poses.shifts_px.any():
        without["shifts"] = "there are none"
        # without shifts, mirrored images are those of angles with the other hand
        mirrored = ("images mirrored along y", "images mirrored along x")
        trials = [each for each in trials if each.group != "shifts" and each.name not in mirrored]
    elif abs(pixel - 1) < SAME_PIXEL:
        without["units of the shifts"] = f"pixels and angstrom are the same, because a pixel is {pixel:.4g} Å"
        trials = [each for each in trials if each not in shifts]
    if optics.ctf is None:
        without["CTF"] = "it is unknown"
        trials = [each for each in trials if each.group != "CTF"]
    return trials, without
