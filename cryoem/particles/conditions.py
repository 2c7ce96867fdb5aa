"""Conditions under which particle images are simulated."""

from __future__ import annotations

from dataclasses import dataclass

from cryoem.contrast import ContrastTransfer
from cryoem.rotations import EulerRanges, check_coverage
from cryoem.validation import not_negative, whole_number


@dataclass(frozen=True)
class ImagingConditions:
    """Imaging conditions for simulated images.

    Parameters
    ----------
    image_size : int, optional
        Side length of the images in pixels. The pixel size is the voxel size of the map. Default: the longest side of
        the map.
    noise_variance : float
        Variance of the white noise. Noise-free images, including the effect of the CTF, have variance 1 over the data
        set, so the signal-to-noise ratio is ``1 / noise_variance``. Default: 0.
    shift_limit_px : float
        Largest shift along x and y in pixels, at most half the image size. Shifts follow a triangular distribution on
        [-limit, limit]. Default: 0.
    coverage : str or three pairs of float
        Distribution of the orientations; see ``cryoem.rotations.random_rotations``. Default: so3.
    ctf : ContrastTransfer, optional
        Constants of the CTF and the defocus range. The CTF removes most of a particle's power, which is at low
        frequencies; the noise variance is relative to the remaining power. Default: no CTF.

    Raises
    ------
    ValueError
        A number is out of range, or the distribution of the orientations is unknown.
    """

    image_size: int | None = None
    noise_variance: float = 0.0
    shift_limit_px: float = 0.0
    coverage: str | EulerRanges = "so3"
    ctf: ContrastTransfer | None = None

    def __post_init__(self):
        if self.image_size is not None:
            whole_number(self.image_size, name="image_size", at_least=2)
        not_negative(self.noise_variance, name="noise_variance")
        not_negative(self.shift_limit_px, name="shift_limit_px")
        object.__setattr__(self, "coverage", check_coverage(self.coverage))


@dataclass(frozen=True)
class Realism:
    """Properties of measured images that simple simulations lack.

    Parameters
    ----------
    structural_noise : float
        Variance of the structural noise (ice, carbon, other molecules), relative to the variance of the projections. It
        has the same power spectrum as the projections. The CTF is applied to both, before the white noise is added.
        Default: 0.7, close to the signal-to-noise ratio of 1.4 in Baxter et al.
    astigmatism_angstrom : float
        Largest difference between the defoci U and V of an image, in a random direction. Differences are uniform from
        0. Default: 500.
    amplitude_spread : float
        Largest relative deviation of the amplitude of an image from 1, in [0, 1]. Amplitudes are uniform. Default: 0.2.
    junk : float
        Fraction of the images that do not show the particle, in [0, 1]. Half of them contain only noise, and half
        contain two particles at the edge. Default: 0.

    Raises
    ------
    ValueError
        A number is out of range.

    References
    ----------
    Baxter et al., J. Struct. Biol. 166 (2009) 126.
    """

    structural_noise: float = 0.7
    astigmatism_angstrom: float = 500.0
    amplitude_spread: float = 0.2
    junk: float = 0.0

    def __post_init__(self):
        not_negative(self.structural_noise, name="structural_noise")
        not_negative(self.astigmatism_angstrom, name="astigmatism_angstrom")
        for name, value in (("amplitude_spread", self.amplitude_spread), ("junk", self.junk)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
