"""The usual ways to misread particle files: conventions of rotations, images, shifts and the CTF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics
from cryoem.rotations import Poses, from_relion_euler_deg, to_relion_euler_deg

SAME_SCALE = 0.05  # relative difference between two scales of the shifts that are the same
LARGEST_RADIANS = 2 * np.pi  # above which angles cannot be radians
NANOMETRES = (100.0, 5_000.0)  # defoci that may be in nanometres; smaller ones may be in micrometres


@dataclass(frozen=True)
class Misreading:
    """A way to read poses and CTF, and the sentence that is true if it is the right one.

    ``rotations`` and ``shifts`` are functions of those as read, and ``transfers`` is a function of the optics and of
    (m, 2) frequencies in cycles per pixel; None if they are right as read. Misreadings of different ``group`` can
    occur together. ``offset_px`` is the displacement in ``shifts`` that is common to all images, in pixels of the file;
    None if there is none. If ``shuffle`` is not 0, the orientations are those of other images: a control, not a
    misreading.
    """

    group: str
    name: str
    finding: str
    rotations: Callable[[Rotation], Rotation] | None = None
    shifts: Callable[[np.ndarray], np.ndarray] | None = None
    transfers: Callable[[Optics, np.ndarray], np.ndarray] | None = None
    offset_px: tuple[float, float] | None = None
    shuffle: int = 0

    def can_follow(self, first: Misreading) -> bool:
        """Return whether this misreading concerns nothing that ``first`` does."""
        return not any(
            getattr(self, part) and getattr(first, part) for part in ("rotations", "shifts", "transfers")
        )

    def after(self, first: Misreading) -> Misreading:
        """Combine two readings of different groups."""
        parts = {
            each: getattr(self, each) or getattr(first, each)
            for each in ("rotations", "shifts", "transfers", "offset_px")
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


def _from_radians(rotations: Rotation) -> Rotation:
    """Take angles of a few degrees for radians."""
    return from_relion_euler_deg(np.rad2deg(to_relion_euler_deg(rotations)))


def scaled_defocus(optics: Optics, factor: float) -> Optics:
    defocus = np.array(optics.defocus_angstrom)
    return replace(optics, defocus_angstrom=defocus * ([factor, factor, 1] if defocus.ndim == 2 else factor))


def negated_defocus(optics: Optics) -> Optics:
    return scaled_defocus(optics, -1.0)


def displaced(reading: Misreading, offset_px: np.ndarray, *, shown_px: np.ndarray) -> Misreading:
    """Return a reading with a displacement (x, y) of all particles added to its shifts.

    ``offset_px`` is in pixels of the images that are compared, and ``shown_px`` in those of the file.
    """
    x, y = shown_px
    finding = (
        f"all particles are displaced by ({x:+.2f}, {y:+.2f}) px (x, y) from where their shifts place them, as if the "
        "origin were at another pixel; add this to the shifts (subtract it from the origins in the table)"
    )
    parts = {
        "group": "origin",
        "name": f"origin at ({x:+.2f}, {y:+.2f}) px",
        "finding": finding,
        "offset_px": (float(x), float(y)),
        "shifts": lambda shifts: offset_px + (reading.shifts(shifts) if reading.shifts else shifts),
    }
    return replace(reading, **parts)


AS_READ = Misreading("none", "as read", "the poses are correct as read")
SHUFFLED = Misreading(
    "none", "orientations of other images", "the orientations belong to other images", shuffle=1
)
MISREADINGS = (
    Misreading(
        "rotations",
        "inverse rotations",
        "the rotations are inverted: they look like rotations from microscope to particle coordinates",
        Rotation.inv,
    ),
    Misreading("rotations", "sign of psi", "psi has the opposite sign", _signs(1, -1)),
    Misreading("rotations", "sign of rot", "rot has the opposite sign", _signs(-1, 1)),
    Misreading(
        "rotations",
        "other hand of the angles",
        "the angles have the opposite handedness: they look like those of mirrored images",
        _signs(-1, -1),
    ),
    Misreading(
        "rotations",
        "rot and psi exchanged",
        "rot and psi look exchanged",
        lambda rotations: from_relion_euler_deg(to_relion_euler_deg(rotations)[:, ::-1]),
    ),
    # a turn by -90 degrees is the same for the mirror image of the particle, and one by 180 degrees cannot be seen
    Misreading(
        "rotations",
        "psi by 90 degrees",
        "psi is off by 90 degrees in all images (projections do not determine whether by +90 or -90)",
        lambda rotations: Rotation.from_euler("z", np.pi / 2) * rotations,
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
        "the shifts are wrong in all readings that were tried: the images agree better without them",
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
    units = (
        Misreading(
            "shifts",
            "pixels for angstrom",
            f"the shifts look like pixels, not angstrom (as read, they are {pixel:.4g} times too small)",
            None,
            lambda shifts: shifts * pixel,
        ),
        Misreading(
            "shifts",
            "angstrom for pixels",
            f"the shifts look like angstrom, not pixels (as read, they are {pixel:.4g} times too large)",
            None,
            lambda shifts: shifts / pixel,
        ),
    )
    factors = [
        Misreading(
            "shifts", name, f"the shifts look {finding}", None, lambda shifts, factor=factor: shifts * factor
        )
        for factor, name, finding in (
            (
                0.5,
                "shifts twice as large",
                "too large: half as large, they fit better, as if they were in pixels of unbinned images",
            ),
            (
                2.0,
                "shifts half as large",
                "too small: twice as large, they fit better, as if they were in pixels of images binned by 2",
            ),
        )
        if min(abs(pixel * factor - 1), abs(pixel / factor - 1)) > SAME_SCALE  # not a unit
    ]
    trials = [*MISREADINGS, *units, *factors]
    angles_deg = np.abs(to_relion_euler_deg(poses.rotations))
    if np.ptp(angles_deg) > 0 and angles_deg.max() <= LARGEST_RADIANS:
        trials.append(
            Misreading(
                "rotations", "angles in radians", "the angles look like radians, not degrees", _from_radians
            )
        )
    if not poses.shifts_px.any():
        without["shifts"] = "there are none"
        # without shifts, mirrored images are those of angles with the other hand
        mirrored = ("images mirrored along y", "images mirrored along x")
        trials = [each for each in trials if each.group != "shifts" and each.name not in mirrored]
    elif abs(pixel - 1) < SAME_SCALE:
        without["units of the shifts"] = f"pixels and angstrom are the same, because a pixel is {pixel:.4g} Å"
        trials = [each for each in trials if each not in units]
    trials += defocus_units(optics)
    if optics.ctf is None:
        without["CTF"] = "it is unknown"
        trials = [each for each in trials if each.group != "CTF"]
    return trials, without


def defocus_units(optics: Optics) -> list[Misreading]:
    """Return the readings of defoci that are too small for angstrom."""
    units = []
    defocus = np.zeros(1) if optics.ctf is None else np.abs(optics.isotropic().defocus_angstrom)
    if defocus.min() >= NANOMETRES[0] and defocus.max() <= NANOMETRES[1]:
        units = [("nanometres", 10.0)]
    elif 0 < defocus.max() < NANOMETRES[0]:
        units = [("micrometres", 10_000.0)]
    return [
        Misreading(
            "CTF",
            f"defocus in {unit}",
            f"the defocus looks like {unit}, not angstrom; multiply it by {factor:,.0f}",
            transfers=lambda optics, frequencies, factor=factor: scaled_defocus(optics, factor).transfers(
                frequencies
            ),
        )
        for unit, factor in units
    ]
