"""The contrast transfer function (CTF) of the microscope, and the optics of a set of images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cryoem.validation import finite_array, one_each, positive_number

LIMITS = {  # values outside these ranges are impossible, usually because the unit is wrong
    "voltage_kv": (1.0, 5_000.0),
    "spherical_aberration_mm": (0.0, 100.0),
    "amplitude_contrast": (0.0, 1.0),
    "phase_shift_rad": (-2 * np.pi, 2 * np.pi),
    "b_factor_angstrom2": (-1e5, 1e5),
}
LARGEST_DEFOCUS_ANGSTROM = 1e6
OWN = ("phase_shift_rad", "b_factor_angstrom2", "scale")  # values that may differ between images


@dataclass(frozen=True)
class ContrastTransfer:
    """CTF parameters that are common to all images, and the defocus range for simulated images.

    Parameters
    ----------
    voltage_kv, spherical_aberration_mm : float
        Acceleration voltage in kV and spherical aberration in mm.
    amplitude_contrast : float
        Amplitude contrast as a fraction, in [0, 1].
    b_factor_angstrom2 : float
        B factor of the envelope ``exp(-B k^2 / 4)``. Relative B factors, as fitted by RELION, can be negative.
    defocus_range_angstrom : tuple of float
        Lowest and highest underfocus of simulated images.
    phase_shift_rad : float
        Phase shift introduced by a phase plate.
    inverted : bool
        Whether the contrast of the images was inverted to make particles bright, as in RELION and cryoSPARC.

    Raises
    ------
    ValueError
        If a value is out of range or physically impossible, such as a voltage of 300,000 kV.
    """

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07
    b_factor_angstrom2: float = 50.0
    defocus_range_angstrom: tuple[float, float] = (5_000.0, 20_000.0)
    phase_shift_rad: float = 0.0
    inverted: bool = False

    def __post_init__(self):
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low:.6g} and {high:.6g}, got {value}")
        low, high = self.defocus_range_angstrom
        if not -np.inf < low <= high < np.inf:
            raise ValueError(
                "defocus_range_angstrom must be two finite values in ascending order, "
                f"got {self.defocus_range_angstrom}"
            )

    @property
    def wavelength_angstrom(self) -> float:
        """Relativistic de Broglie wavelength of the electrons."""
        volts = self.voltage_kv * 1e3
        return 12.2643 / np.sqrt(volts + 0.97845e-6 * volts**2)

    def at(
        self,
        frequencies_per_angstrom: np.ndarray,
        defocus_angstrom: np.ndarray,
        *,
        phase_shift_rad: np.ndarray | None = None,
        b_factor_angstrom2: np.ndarray | None = None,
    ) -> np.ndarray:
        """Evaluate the CTF, including its envelope.

        The CTF is ``-sqrt(1 - A^2) sin g - A cos g`` with ``g = pi lambda dz k^2 - pi / 2 Cs lambda^3 k^4 + phase
        shift``. For inverted images, the sign is reversed. In an astigmatic image, the defocus depends on the direction
        theta: ``dz = (U + V) / 2 + (U - V) / 2 cos 2 (theta - azimuth)``.

        Parameters
        ----------
        frequencies_per_angstrom : (m, 2) or (m,) array
            Spatial frequencies along the x and y axes of the image, or along x only.
        defocus_angstrom : (n,) or (n, 3) array
            Underfocus of each image in angstrom; or, for astigmatic images, U and V in angstrom and the azimuth of U in
            radians, measured from x towards y.
        phase_shift_rad, b_factor_angstrom2 : (n,) array, optional
            Phase shift and B factor of each image. Default: the values that are common to all images.

        Returns
        -------
        (n, m) array

        References
        ----------
        Rohou and Grigorieff, J. Struct. Biol. 192 (2015) 216.
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
        shift, b_factor = (
            getattr(self, name) if own is None else np.asarray(own, float)[:, None]
            for name, own in zip(OWN, (phase_shift_rad, b_factor_angstrom2), strict=False)
        )
        phase = np.pi * wavelength * defocus * k2 - aberration + shift
        # sqrt(1 - A^2) sin g + A cos g = sin(g + arcsin A)
        transfer = np.sin(phase + np.arcsin(self.amplitude_contrast))
        if not self.inverted:
            transfer = -transfer
        return transfer * np.exp(-b_factor * k2 / 4)


@dataclass(frozen=True, eq=False)
class Optics:
    """Pixel size and CTF of n images.

    Parameters
    ----------
    pixel_size_angstrom : float
        Pixel size in angstrom.
    ctf : ContrastTransfer, optional
        CTF parameters shared by all images. Default: None, for images without a CTF.
    defocus_angstrom : (n,) or (n, 3) array, optional
        Underfocus of each image, in the form described in ``ContrastTransfer.at``. Required with ``ctf``.
    phase_shift_rad, b_factor_angstrom2 : (n,) array, optional
        Phase shift and B factor of each image. Default: those of ``ctf``.
    scale : (n,) array, optional
        Positive factor by which the signal in each image is multiplied. Default: 1.

    Raises
    ------
    ValueError
        If the pixel size is not positive; if only one of ``ctf`` and ``defocus_angstrom`` is given; if the defocus or
        another per-image value has the wrong shape or contains NaN or infinity; or if a scale is not positive.
    """

    pixel_size_angstrom: float
    ctf: ContrastTransfer | None = None
    defocus_angstrom: np.ndarray | None = None
    phase_shift_rad: np.ndarray | None = None
    b_factor_angstrom2: np.ndarray | None = None
    scale: np.ndarray | None = None

    def __post_init__(self):
        positive_number(self.pixel_size_angstrom, name="pixel_size_angstrom")
        if not (self.ctf is None or isinstance(self.ctf, ContrastTransfer)):
            raise ValueError(f"ctf must be a ContrastTransfer or None, got {self.ctf!r}")
        if (self.ctf is None) != (self.defocus_angstrom is None):
            missing = "ctf" if self.ctf is None else "defocus_angstrom"
            raise ValueError(f"ctf and defocus_angstrom must be given together; {missing} is missing")
        if self.ctf is None:
            if self.own_values:
                raise ValueError(f"{next(iter(self.own_values))} must not be given without ctf")
            return
        ndim = 2 if np.ndim(self.defocus_angstrom) == 2 else 1
        defocus = finite_array(self.defocus_angstrom, name="defocus_angstrom", ndim=ndim, dtype=float)
        if ndim == 2 and defocus.shape[1] != 3:
            raise ValueError(
                f"defocus_angstrom must be (n,), or (n, 3) with columns U, V and azimuth, got {defocus.shape}"
            )
        largest = np.abs(defocus[:, :2] if ndim == 2 else defocus).max()
        if largest > LARGEST_DEFOCUS_ANGSTROM:
            raise ValueError(
                f"defocus_angstrom must be at most {LARGEST_DEFOCUS_ANGSTROM:.0e} angstrom, got {largest:.6g}"
            )
        object.__setattr__(self, "defocus_angstrom", defocus)
        for name, values in self.own_values.items():
            object.__setattr__(self, name, one_each(values, count=len(defocus), name=name))
        if self.scale is not None and self.scale.min() <= 0:
            raise ValueError(f"scale must be positive for each image, got {self.scale.min():.6g}")

    @property
    def own_values(self) -> dict[str, np.ndarray]:
        """Per-image values other than the defocus, by name, (n,) each."""
        return {name: getattr(self, name) for name in OWN if getattr(self, name) is not None}

    def __getitem__(self, index) -> Optics:
        """Select the optics of a subset of the images."""
        if self.ctf is None:
            return self
        own = {name: values[index] for name, values in self.own_values.items()}
        return Optics(self.pixel_size_angstrom, self.ctf, self.defocus_angstrom[index], **own)

    @classmethod
    def concatenate(cls, parts: list[Optics]) -> Optics:
        """Return the optics of several sets of images of one microscope, one after another."""
        first = parts[0]
        if first.ctf is None:
            return first
        own = {name: np.concatenate([part.own_values[name] for part in parts]) for name in first.own_values}
        defocus = np.concatenate([part.defocus_angstrom for part in parts])
        return cls(first.pixel_size_angstrom, first.ctf, defocus, **own)

    def isotropic(self) -> Optics:
        """Return the optics with the mean of U and V as the defocus of each image, (n,)."""
        if self.ctf is None or self.defocus_angstrom.ndim == 1:
            return self
        return replace(self, defocus_angstrom=self.defocus_angstrom[:, :2].mean(axis=1))

    def transfers(self, frequencies_per_pixel: np.ndarray) -> np.ndarray:
        """Evaluate the scaled CTF of each image at (m, 2) frequencies in cycles per pixel: (n, m) float32."""
        transfers = self.ctf.at(
            frequencies_per_pixel / self.pixel_size_angstrom,
            self.defocus_angstrom,
            phase_shift_rad=self.phase_shift_rad,
            b_factor_angstrom2=self.b_factor_angstrom2,
        )
        if self.scale is not None:
            transfers = transfers * self.scale[:, None]
        return transfers.astype(np.float32)


def optics_of(optics: Optics | None, pixel_size_angstrom: float | None, *, count: int) -> Optics:
    """Return the optics of ``count`` images, given ``optics``, a pixel size (for images without a CTF), or both."""
    if optics is None and pixel_size_angstrom is None:
        raise ValueError("pixel_size_angstrom or optics is required, but neither is given")
    if optics is None:
        return Optics(pixel_size_angstrom)
    if not isinstance(optics, Optics):
        raise ValueError(f"optics must be an Optics object, got {type(optics).__name__}")
    if pixel_size_angstrom not in (None, optics.pixel_size_angstrom):
        raise ValueError(
            f"pixel_size_angstrom must be {optics.pixel_size_angstrom}, as in optics, got {pixel_size_angstrom}"
        )
    if optics.ctf is not None and len(optics.defocus_angstrom) != count:
        raise ValueError(
            f"defocus_angstrom must have one entry for each of the {count} images, got {len(optics.defocus_angstrom)}"
        )
    return optics


def known_optics(images, optics: Optics | None) -> Optics | None:
    """Return ``optics`` or, if it is None, ``images.optics``; return None if neither is available."""
    return getattr(images, "optics", None) if optics is None else optics
