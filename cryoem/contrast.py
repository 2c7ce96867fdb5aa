"""The contrast transfer of the microscope: its constants, and its values at frequencies and defoci."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoem.checks import finite_array, not_negative, positive_number


@dataclass(frozen=True)
class ContrastTransfer:
    """The microscope's constants and the range of defocus of a simulated data set.

    ``voltage_kv`` kilovolts; ``spherical_aberration_mm`` millimetres; ``amplitude_contrast`` in [0, 1];
    ``b_factor_angstrom2`` of the envelope ``exp(-B k^2 / 4)``; ``defocus_angstrom`` lowest and highest underfocus;
    ``phase_shift_rad`` of a phase plate; ``inverted`` whether images were turned to their negatives afterwards, so that
    particles are bright, as RELION and cryoSPARC have them.

    Raises
    ------
    ValueError : a value is out of its range.
    """

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07
    b_factor_angstrom2: float = 50.0
    defocus_angstrom: tuple[float, float] = (5_000.0, 20_000.0)
    phase_shift_rad: float = 0.0
    inverted: bool = False

    def __post_init__(self):
        positive_number(self.voltage_kv, name="voltage_kv")
        not_negative(self.spherical_aberration_mm, name="spherical_aberration_mm")
        not_negative(self.b_factor_angstrom2, name="b_factor_angstrom2")
        if not 0 <= self.amplitude_contrast <= 1:
            raise ValueError(f"amplitude_contrast must be between 0 and 1, got {self.amplitude_contrast}")
        low, high = self.defocus_angstrom
        if not -np.inf < low <= high < np.inf:
            raise ValueError(
                f"defocus_angstrom must be a finite lowest and highest value, got {self.defocus_angstrom}"
            )
        if not np.isfinite(self.phase_shift_rad):
            raise ValueError(f"phase_shift_rad must be finite, got {self.phase_shift_rad}")

    @property
    def wavelength_angstrom(self) -> float:
        """Relativistic de Broglie wavelength of the electrons."""
        volts = self.voltage_kv * 1e3
        return 12.2643 / np.sqrt(volts + 0.97845e-6 * volts**2)

    def at(self, frequencies_per_angstrom: np.ndarray, defocus_angstrom: np.ndarray) -> np.ndarray:
        """The transfer function at m frequencies for n images: (n, m), envelope included.

        ``-sqrt(1 - A^2) sin g - A cos g``, ``g = pi lambda dz k^2 - pi / 2 Cs lambda^3 k^4 + phase shift``, its
        negative for inverted images.  The defocus of an astigmatic image depends on direction, ``dz = (U + V) / 2 +
        (U - V) / 2 cos 2 (theta - azimuth)``.

        Parameters
        ----------
        frequencies_per_angstrom : (m, 2) along x and y of the image, or (m,) along x alone.
        defocus_angstrom : (n,) underfocus; or (n, 3): U and V in angstrom, and the azimuth of U in radians from x
            towards y.

        Source: Rohou and Grigorieff, J. Struct. Biol. 192 (2015) 216.
        """
        frequencies = np.asarray(frequencies_per_angstrom, float)
        kx, ky = (frequencies, 0.0) if frequencies.ndim == 1 else frequencies.T
        k2 = kx**2 + ky**2
        wavelength = self.wavelength_angstrom
        defocus = np.asarray(defocus_angstrom, float)
        if defocus.ndim == 1:
            defocus = defocus[:, None]
        else:
            u, v, azimuth = defocus.T[:, :, None]
            defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (np.arctan2(ky, kx) - azimuth))
        aberration = np.pi / 2 * self.spherical_aberration_mm * 1e7 * wavelength**3 * k2**2
        phase = np.pi * wavelength * defocus * k2 - aberration + self.phase_shift_rad
        # sqrt(1 - A^2) sin g + A cos g = sin(g + arcsin A)
        transfer = np.sin(phase + np.arcsin(self.amplitude_contrast))
        if not self.inverted:
            transfer = -transfer
        return transfer * np.exp(-self.b_factor_angstrom2 * k2 / 4)


def defoci_of(ctf: ContrastTransfer | None, defocus_angstrom, *, count: int) -> np.ndarray | None:
    """Defoci, (count,) or (count, 3) as for ``ContrastTransfer.at``, where there is a contrast transfer; None where
    there is none.

    Raises
    ------
    ValueError : one of the two is given without the other, or defoci are not finite and one for each image.
    """
    if not (ctf is None or isinstance(ctf, ContrastTransfer)):
        raise ValueError(f"ctf must be a ContrastTransfer or None, got {ctf!r}")
    if (ctf is None) != (defocus_angstrom is None):
        missing = "ctf" if ctf is None else "defocus_angstrom"
        raise ValueError(f"ctf and defocus_angstrom must be given together, got no {missing}")
    if ctf is None:
        return None
    ndim = 2 if np.ndim(defocus_angstrom) == 2 else 1
    defoci = finite_array(defocus_angstrom, name="defocus_angstrom", ndim=ndim, dtype=float)
    if len(defoci) != count:
        raise ValueError(f"defocus_angstrom must be one for each of the {count} images, got {len(defoci)}")
    if ndim == 2 and defoci.shape[1] != 3:
        raise ValueError(
            f"defocus_angstrom must be ({count},) or ({count}, 3), U, V and the azimuth of U, got {defoci.shape}"
        )
    return defoci
