"""Particle stacks among the arrays that phases save: what is known of the images stands beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import ContrastTransfer
from cryoem.particles import ParticleStack

UNITS_OF_TRANSFER = {
    "voltage_kv": "kV",
    "spherical_aberration_mm": "mm",
    "amplitude_contrast": "1",
    "b_factor_angstrom2": "angstrom^2",
    "defocus_angstrom": "angstrom",
    "phase_shift_rad": "rad",
    "inverted": "1",
}
TRANSFER = "contrast_transfer_"


def arrays_of(stack: ParticleStack) -> dict[str, tuple]:
    """A stack as ``Phase.save`` takes it: images, pixel size, and whatever is known of orientations, shifts and the
    contrast transfer, with its constants.  The symmetry is a setting of the run.
    """
    arrays = {
        "images": (stack.images, "clean standard deviations", "(n, y, x) particle images"),
        "pixel_size": (np.array(stack.pixel_size_angstrom), "angstrom", "side of a pixel"),
    }
    if stack.rotations is not None:
        arrays["quaternions"] = (
            stack.rotations.as_quat(),
            "1",
            "true orientations, xyzw; used to report errors only",
        )
    if stack.shifts_px is not None:
        arrays["shifts"] = (
            stack.shifts_px,
            "px",
            "true (x, y) displacement of the particle; used to report errors only",
        )
    if stack.ctf is not None:
        arrays["defocus"] = (stack.defocus_angstrom, "angstrom", "underfocus; U, V and azimuth (rad) of U")
        for field in dataclasses.fields(ContrastTransfer):
            value = np.array(getattr(stack.ctf, field.name))
            arrays[TRANSFER + field.name] = (
                value,
                UNITS_OF_TRANSFER[field.name],
                "of the contrast transfer",
            )
    return arrays


def stack_of(arrays: Mapping[str, np.ndarray], *, symmetry: str = "C1") -> ParticleStack:
    """The stack whose arrays ``Phase.load`` returns.

    Raises
    ------
    KeyError : there are no images or no pixel size.
    ValueError : as ``ParticleStack`` raises.
    """
    ctf = None
    if "defocus" in arrays:
        constants = {name: arrays[TRANSFER + name].tolist() for name in UNITS_OF_TRANSFER}
        constants["defocus_angstrom"] = tuple(constants["defocus_angstrom"])
        ctf = ContrastTransfer(**constants)
    return ParticleStack(
        arrays["images"],
        float(arrays["pixel_size"]),
        Rotation.from_quat(arrays["quaternions"]) if "quaternions" in arrays else None,
        arrays.get("shifts"),
        arrays.get("defocus"),
        symmetry,
        ctf,
    )
