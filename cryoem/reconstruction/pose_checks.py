"""Check whether the poses and the CTF of particle images are interpreted correctly, by trying the usual misreadings.

For each reading, two half-maps (or, for few images, one map for each fold of the images) are reconstructed, and each
image is compared with the projection of the map to which it did not contribute. Only the right reading lets images
predict each other. The score is the log-likelihood of an image given this projection, relative to no projection.

Projections do not determine two properties. The handedness is one: the poses of a particle, with all tilts negated, are
those of its mirror image. The other is the sign of the density, which also changes with the sign of the CTF; here it is
taken from the particle, which is denser than the solvent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoem.contrast import Optics, known_optics, optics_of
from cryoem.reconstruction.misreadings import AS_READ, SHUFFLED, Misreading, possible_misreadings
from cryoem.reconstruction.prediction_scores import FEW, Comparison
from cryoem.reconstruction.resolution import FSC, fourier_shell_correlation
from cryoem.rotations import Poses, as_poses
from cryoem.validation import unread_images, whole_number
from cryoem.volumes.density import DensityMap

LEAST_SKEWNESS = 0.3
FIRST = 2  # misreadings with which others are combined
LEAST_OFFSET_PX = 0.25  # common displacement of the particles that is a misreading


@dataclass(frozen=True)
class Reading:
    """A way to read poses and CTF.

    Attributes
    ----------
    name : str
        Short name, such as ``"inverse rotations"``.
    finding : str
        Sentence that is true if this reading is the right one.
    log_likelihood : float
        Mean log-likelihood of an image, in nats, relative to no map.
    difference : float
        Difference of the log-likelihood from that of the poses as read.
    standard_errors : float
        ``difference`` divided by its standard error over the images.
    fsc : FSC or None
        Fourier shell correlation of the half-maps without a mask. None if there were too few images for half-maps.
    """

    name: str
    finding: str
    log_likelihood: float
    difference: float
    standard_errors: float
    fsc: FSC | None


@dataclass(frozen=True)
class PoseCheck:
    """Result of ``check_poses``.

    Attributes
    ----------
    readings : tuple of Reading
        All readings. The first is the poses as read. The last is the best reading with the orientations of other
        images, and shows the log-likelihood of a map without information.
    right : tuple of Reading
        The readings that together fit the images decisively better than the poses as read. Empty if there are none.
    confirmed : bool
        Whether the images confirm the poses (after the corrections in ``right``).
    equal : tuple of Reading
        Readings that these images cannot distinguish from the best one.
    not_tried : dict
        Reason why a group of readings was not tried, by name of the group.
    skewness : float
        Skewness of the density, positive for a particle that is denser than the solvent.
    map : DensityMap
        Map with the best reading, from images cropped in Fourier space.
    images : int
        Number of images that were compared.
    """

    readings: tuple[Reading, ...]
    right: tuple[Reading, ...]
    confirmed: bool
    equal: tuple[Reading, ...]
    not_tried: dict[str, str]
    skewness: float
    map: DensityMap
    images: int

    @property
    def bright(self) -> bool:
        """Whether the particle is denser than the solvent, as it should be."""
        return self.confirmed and self.skewness > LEAST_SKEWNESS

    @property
    def dark(self) -> bool:
        """Whether the particle is less dense than the solvent, so that contrast or CTF have the opposite sign."""
        return self.confirmed and self.skewness < -LEAST_SKEWNESS


def check_poses(
    images: np.ndarray,
    poses: Poses | Rotation,
    *,
    pixel_size_angstrom: float | None = None,
    optics: Optics | None = None,
    max_images: int = 200,
    rng: np.random.Generator | int | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> PoseCheck:
    """Check whether poses and CTF are interpreted correctly, by comparing images with maps from the others.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        At least 4 images, at least 16 px wide. Of images in files, only those that are compared are read.
    poses : Poses or Rotation
        Poses of the n images, as read from a file.
    pixel_size_angstrom : float, optional
        Pixel size. Default: the pixel size in ``optics``.
    optics : Optics, optional
        Optics of the images. Default: ``images.optics`` if available, otherwise no CTF.
    max_images : int
        Maximum number of images to compare, chosen at random. If they do not decide between the best readings, these
        are compared again with four times as many images. Default: 200.
    rng : Generator or int, optional
        Random number generator or seed.
    callback : callable, optional
        Function called after each reading with the number of readings compared so far and the number known so far.

    Returns
    -------
    PoseCheck

    Raises
    ------
    ValueError
        If there are fewer than 4 images; if the images do not have shape (n, y, y), are too small or constant, or
        contain NaN or infinity; if ``poses`` or ``optics`` describes a different number of images; or if the pixel
        size is unknown.

    Notes
    -----
    In each shell of an image with N Fourier pixels x, the projection p of the map from the other images is scaled by a
    factor g, which is common to all images and all frequencies of a shell. The log-likelihood of the image relative to
    no map is ``sum (2 g Re(x* p) - |g p|^2) / s2``, where s2 is the variance of the residual of the best reading. One
    reading is decisively better than another if the difference is more than 20 nats in total and more than 4 standard
    errors over the images. With fewer than 20 images, it must be more than a fifth of the difference from poses that
    are assigned to the wrong images instead.

    The images confirm the best reading if it is decisively better than three controls, which have the same shifts and
    CTF, but the orientations of other images. With fewer than 20 images, the difference from the best control must be
    more than 20 nats and more than twice the range of the controls.
    """
    images = unread_images(images, at_least=4, smallest_px=16)
    n = len(images)
    optics = optics_of(known_optics(images, optics), pixel_size_angstrom, count=n)
    poses = as_poses(poses, count=n)
    max_images = whole_number(max_images, name="max_images", at_least=4)
    rng = np.random.default_rng(rng)
    order = rng.permutation(n)

    trials, not_tried = possible_misreadings(poses, optics)
    chosen = np.sort(order[:max_images])
    compared = Comparison(images, poses, optics, chosen, callback)
    compared.add([AS_READ, *trials, SHUFFLED])
    origin = _with_origin(compared, AS_READ, compared.best)
    if n < FEW:
        not_tried["the origin"] = f"they need at least {FEW} images"
    trials += origin
    best = compared.best
    decided = compared.confirms(best) and (best is AS_READ or compared.better(best, AS_READ))
    if n > max_images and not decided:
        chosen = np.sort(order[: 4 * max_images])
        contenders = compared.ranked[:4]
        compared = Comparison(images, poses, optics, chosen, callback)
        compared.add([AS_READ, *(each for each in contenders if each.group != "none"), SHUFFLED])

    # if one misreading is found, a second one of another kind may remain
    found = [each for each in compared.ranked[:FIRST] if compared.better(each, AS_READ)]
    best = compared.best if compared.best in found else AS_READ
    right = [best] if best is not AS_READ else []
    pairs = {
        second.after(first): [first, second]
        for first in found
        for second in trials
        if right and second.can_follow(first)
    }
    compared.add(list(pairs))
    if compared.best in pairs and compared.better(compared.best, best):
        best = compared.best
        right = pairs[best]
        compared.add([each for each in right if each not in compared.scores])
    if not set(origin) & set(right):
        for displaced in _with_origin(compared, best, best):
            trials += [displaced] if displaced not in trials else []
            if compared.better(displaced, best):
                best, right = displaced, [*right, displaced]
    confirmed = compared.confirms(best)
    right = right if confirmed else []
    shown = [trial for trial in (AS_READ, *trials, best.control()) if trial in compared.scores]
    readings = {trial: _reading(compared, trial) for trial in shown}
    equal = [trial for trial in trials if trial not in right and compared.equal(trial, best)]
    volume, skewness = compared.density(best)
    return PoseCheck(
        tuple(readings.values()),
        tuple(readings[trial] for trial in right),
        confirmed,
        tuple(readings[trial] for trial in equal) if confirmed else (),
        not_tried,
        skewness,
        DensityMap(volume, compared.optics.pixel_size_angstrom),
        len(chosen),
    )


def _with_origin(compared: Comparison, reading: Misreading, best: Misreading) -> list[Misreading]:
    """Score a reading with the common displacement of the particles from the predictions of the best reading.

    A few images do not determine it, because the origin of the particle is free. The list is empty if it is too small.
    """
    if len(compared.folds) < FEW:
        return []
    displaced = compared.displaced(reading, best)
    if np.abs(displaced.offset_px).max() < LEAST_OFFSET_PX:
        return []
    compared.add([displaced])
    return [displaced]


def _reading(compared: Comparison, trial: Misreading) -> Reading:
    maps, fsc = compared.scores[trial].maps, None
    if len(maps) == 2:
        fsc = fourier_shell_correlation(*maps, voxel_size_angstrom=compared.optics.pixel_size_angstrom)
    likelihood = float(compared.log_likelihoods(trial).mean())
    return Reading(trial.name, trial.finding, likelihood, *compared.difference(trial, AS_READ), fsc)
