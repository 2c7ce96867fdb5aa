"""Find unusable particle images (blank or not finite), outliers (unusual pixel values), scales and repeated images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cryoem.images import image_blocks
from cryoem.particles.files import ParticleFile
from cryoem.validation import unread_images

BLOCK_BYTES = 2**25
FARTHEST = 10.0  # robust standard deviations from the median of all images
FACTOR = 3.0  # smallest ratio to the median, and smallest offset of the mean in standard deviations
NAMED = 10  # images in a message


@dataclass(frozen=True)
class ImageCheck:
    """Result of ``check_images``.

    Attributes
    ----------
    unusable, outliers : dict
        Reason, as the predicate of a sentence, for each unusable image (blank or not finite) and for each outlier, by
        zero-based index of the image.
    scales : tuple
        If the other images are on two scales: the name of the value that differs, and for each scale, the larger first,
        the zero-based indices of its images and the median of the value. Otherwise empty.
    """

    unusable: dict[int, str]
    outliers: dict[int, str]
    scales: tuple

    def describe_scales(self, particles: ParticleFile) -> str:
        """Return a sentence that names the images on the two scales. Empty if there is one scale."""
        if not self.scales:
            return ""
        name, (high, of_high), (low, of_low) = self.scales
        return (
            f"the images are on two scales: {_group(particles, high)} have a typical {name} of {of_high:.3g}, but "
            f"{_group(particles, low)} one of {of_low:.3g}; normalise all images in the same way"
        )


def check_images(images: np.ndarray, *, callback: Callable[[int], None] | None = None) -> ImageCheck:
    """Find unusable images, outliers with unusual pixel values, and images on two scales, such as merged stacks.

    Three values of each image are compared with their medians over all images: the mean, the standard deviation and the
    largest deviation from the mean. The last two are compared as logarithms. An image is an outlier if one of the three
    differs from its median by more than 10 robust standard deviations plus a margin. A robust standard deviation is
    1.4826 times the median absolute deviation. The margin is 3 typical standard deviations of an image for the mean,
    and a factor of 3 for the others. A single hot pixel makes an image an outlier.

    Images are on two scales if the sorted standard deviations of the images that are not outliers have a gap of a
    factor of 3, or their sorted means one of 3 typical standard deviations.

    Parameters
    ----------
    images : (n, y, x) array-like, y == x
        Images. Particles in files, such as a ``ParticleFile``, are read once, block by block.
    callback : callable, optional
        Function called after each block with the number of images read so far.

    Returns
    -------
    ImageCheck

    Raises
    ------
    ValueError
        If the images do not have shape (n, y, y).
    OSError
        If a stack cannot be read.
    """
    images = unread_images(images)
    values = np.full((len(images), 3), np.nan)  # mean, standard deviation, largest deviation from the mean
    unread: dict[int, str] = {}
    for block in image_blocks(images, block_bytes=BLOCK_BYTES):
        try:
            values[block] = _statistics(images[block])
        except ValueError:  # raised by files, for example for pixels that are not finite
            for index in range(block.start, block.stop):
                try:
                    values[index] = _statistics(images[index : index + 1])[0]
                except ValueError as error:
                    if "finite" not in str(error):
                        unread[index] = f"cannot be read ({error})"
        if callback is not None:
            callback(block.stop)
    finite, blank = np.isfinite(values).all(axis=1), values[:, 2] == 0
    unusable = {int(index): "has pixels that are not finite" for index in np.flatnonzero(~finite)}
    unusable |= {int(index): "is blank" for index in np.flatnonzero(blank)} | unread
    usable = np.flatnonzero(finite & ~blank)
    outliers = _far_out(values, usable)
    rest = np.setdiff1d(usable, [*outliers])
    return ImageCheck(unusable, outliers, _two_scales(values[rest], rest))


def usable_images(
    particles: ParticleFile,
    *,
    leave_out_outliers: bool = False,
    callback: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Check all images of a particle file, and return the indices of those to use.

    Parameters
    ----------
    particles : ParticleFile
        Particles. All images are read once.
    leave_out_outliers : bool
        Whether to leave out unusable images and outliers. Default: False.
    callback : callable, optional
        Function called after each block with the number of images read so far.

    Returns
    -------
    array
        (k,) zero-based indices, in increasing order.

    Warns
    -----
    UserWarning
        If images are left out, or there are outliers, or the images are on two scales. The message lists their numbers
        and stacks.

    Raises
    ------
    ValueError
        If an image is blank or not finite and ``leave_out_outliers`` is False, or if no image can be used.
    """
    check = check_images(particles, callback=callback)
    unusable, outliers = check.unusable, check.outliers
    found = dict(sorted((unusable | outliers).items()))
    count, path = len(particles), particles.path
    if len(unusable) == count:
        raise ValueError(f"none of the {count} images in {path} can be used: {_named(particles, unusable)}")
    remedy = "use --leave-out-outliers (leave_out_outliers=True) to leave them out"
    if unusable and not leave_out_outliers:
        raise ValueError(
            f"{len(unusable)} of the {count} images in {path} cannot be used: {_named(particles, unusable)}; {remedy}"
        )
    if leave_out_outliers and found:
        message = f"leaving out {len(found)} of the {count} images in {path}: {_named(particles, found)}"
        warnings.warn(message, UserWarning, stacklevel=2)
    elif found:
        message = f"{len(found)} of the {count} images in {path} may be outliers: {_named(particles, found)}; {remedy}"
        warnings.warn(message, UserWarning, stacklevel=2)
    if scales := check.describe_scales(particles):
        warnings.warn(f"{path}: {scales}", UserWarning, stacklevel=2)
    return np.delete(np.arange(count), list(found)) if leave_out_outliers else np.arange(count)


def describe_repeats(particles: ParticleFile) -> str:
    """Return a sentence about images that are listed more than once. Empty if there are none."""
    images = particles.images
    stacks = np.unique([os.path.realpath(stack.path) for stack in images.stacks], return_inverse=True)[1]
    places = np.column_stack([stacks[images.stack_of], images.number_of])
    _, first, counts = np.unique(places, axis=0, return_index=True, return_counts=True)
    repeated = first[counts > 1]
    if not len(repeated):
        return ""
    times = "twice" if counts.max() == 2 else "more than once"
    verb = "image is" if len(repeated) == 1 else "images are"
    return (
        f"{len(repeated)} {verb} listed {times}, such as {particles.image_names[repeated.min()]}; unless all copies of "
        "an image are in the same half-set, the half-map FSC is too high, so remove the copies"
    )


def _statistics(images) -> np.ndarray:
    """Return the mean, standard deviation and largest deviation from the mean of each image, (k, 3)."""
    images = np.asarray(images)
    with np.errstate(over="ignore", invalid="ignore"):  # pixels that are not finite
        lowest, highest = images.min(axis=(1, 2)), images.max(axis=(1, 2))
        mean = images.mean(axis=(1, 2), dtype=np.float64)
        # in float64, because float32 cannot store the squares of all its values
        deviations = images - mean[:, None, None]
        deviation = np.sqrt(np.einsum("nyx,nyx->n", deviations, deviations) / images[0].size)
        largest = np.maximum(highest - mean, mean - lowest)
        # the computed mean may differ from a constant by rounding
        return np.stack([mean, deviation, np.where(lowest == highest, 0.0, largest)], axis=1)


def _far_out(values: np.ndarray, usable: np.ndarray) -> dict[int, str]:
    """Return the reason for each outlier among the usable images, by index of the image."""
    if not len(usable):
        return {}
    mean, deviation, largest = values[usable].T
    typical = np.median(deviation)
    reasons: dict[int, str] = {}
    for measured, least, words in (
        (
            np.log(largest),
            np.log(FACTOR),
            ("a pixel {:.3g} standard deviations from its mean", largest / typical),
        ),
        (np.log(deviation), np.log(FACTOR), ("a standard deviation of {:.3g}", deviation)),
        (mean / typical, FACTOR, ("a mean of {:.3g}", mean)),
    ):
        text, shown = words
        centre = np.median(measured)
        spread = 1.4826 * np.median(np.abs(measured - centre))
        for position in np.flatnonzero(np.abs(measured - centre) > FARTHEST * spread + least):
            typically = f"has {text} (typically {{:.3g}})".format(shown[position], np.median(shown))
            reasons.setdefault(int(usable[position]), typically)
    return reasons


def _two_scales(values: np.ndarray, indices: np.ndarray) -> tuple:
    """Return how the images differ if they are on two scales, as in ``ImageCheck.scales``."""
    if len(indices) > 1:
        mean, deviation = values[:, 0], values[:, 1]
        for name, shown, measured, least in (
            ("standard deviation", deviation, np.log(deviation), np.log(FACTOR)),
            ("mean", mean, mean / np.median(deviation), FACTOR),
        ):
            order = np.argsort(measured)
            gaps = np.diff(measured[order])
            if gaps.max() > least:
                low, high = np.split(order, [np.argmax(gaps) + 1])
                return name, *(
                    (np.sort(indices[rows]), float(np.median(shown[rows]))) for rows in (high, low)
                )
    return ()


def _group(particles: ParticleFile, indices: np.ndarray) -> str:
    """Name a group of images by its stacks if these contain no other images, and otherwise by its first and last."""
    images = particles.images
    own = np.unique(images.stack_of[indices])
    count = len(indices)
    if count == np.isin(images.stack_of, own).sum():
        paths = ", ".join(str(images.stacks[stack].path) for stack in own[:NAMED])
        return f"the {count} images of {paths}" + (
            f" and {len(own) - NAMED} more" if len(own) > NAMED else ""
        )
    first, last = (particles.image_names[index] for index in (indices[0], indices[-1]))
    return f"{count} images ({first} to {last})"


def _named(particles: ParticleFile, found: Mapping[int, str]) -> str:
    """Describe each image by its number, its stack and the reason."""
    images = particles.images
    return name_first(
        found,
        lambda index: f"image {images.number_of[index] + 1} of {images.stacks[images.stack_of[index]].path}",
    )


def name_first(found: Mapping[int, str], name: Callable[[int], str]) -> str:
    """Name the first images, each followed by its reason, and count the others."""
    named = [f"{name(index)} {reason}" for index, reason in list(found.items())[:NAMED]]
    more = [f"and {len(found) - NAMED} more"] if len(found) > NAMED else []
    return ", ".join(named + more)
