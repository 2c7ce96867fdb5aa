"""Recorded numbers as a reader sees them: label, text with unit, and definition."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cryoem.units import format_quantity, readable_duration

TRUTH = "Known only for simulated particles."
DEFINITIONS = {
    "images": "Number of particle images whose orientations are recovered.",
    "image_size_px": "Width and height of the particle images.",
    "pixel_size_angstrom": "Width of a pixel at the scale of the particle.",
    "noise_variance": (
        "Variance of the white noise, relative to noise-free images of variance 1. The signal-to-noise ratio "
        "is 1 divided by this number."
    ),
    "agreement_of_mean_images": (
        "Correlation between the mean of the measured images and the mean of the projections of the map. It "
        "is usually above 0.7."
    ),
    "typical_misfit_of_power_percent": (
        "Median deviation of the power spectrum of the images from its fit by projections of the map plus "
        "white noise."
    ),
    "distance_error_rad": (
        "Mean absolute difference between estimated and true distances, over all pairs of simulated "
        "validation images. The distance between two orientations is the angle of the rotation between them."
    ),
    "euclidean_distance_error_rad": (
        "The same error for the Euclidean distance between the images, scaled to angles. It is the baseline "
        "for the network."
    ),
    "training_seconds": "Time spent on training the network.",
    "training_steps": "Number of training steps, each with one batch of simulated images.",
    "encoder_parameters": "Number of trainable parameters of the network.",
    "distance_mismatch_rad": (
        "Root-mean-square difference between the estimated distances and the distances between the recovered "
        "orientations."
    ),
    "common_line_agreement": (
        "Mean correlation between images along the common lines that the recovered orientations predict."
    ),
    "common_line_agreement_of_runner_up": (
        "The same correlation for the inverse orientations. It should be clearly lower."
    ),
    "agreement_of_starts_percent": (
        "Mean fraction of the other random starts that place an image within 17° of its orientation in the best start."
    ),
    "explained_signal_percent": (
        "Fraction of the signal in the images, without junk, that the map of the search explains at low resolution. It "
        "is about 93 to 100 % for a single particle, and lower if the images show particles of very different shapes."
    ),
    "junk_images": "Number of images that are more likely to be noise than the particle, given the map of the search.",
    "images_left_out": "Number of these images that are left out of the reconstruction.",
    "symmetry_correlation": (
        "Correlation of the map with its symmetric copies before the symmetry was imposed. It is above 0.9 for a "
        "symmetric particle."
    ),
    "likelihood_margin": (
        "Mean log-likelihood of held-out images in the best random start, minus that in the second best."
    ),
    "resolution_of_shared_poses_angstrom": (
        "Resolution between maps of alternate images with the orientations from one common map. It is an overestimate."
    ),
    "recovery_error_rad": (
        "E_OR: mean angle between recovered and true orientations after alignment over the whole gauge. "
        f"{TRUTH}"
    ),
    "pose_error_rad": (
        "Mean angle between recovered and true orientations after alignment of the particle's frame and "
        f"handedness only. {TRUTH}"
    ),
    "pose_error_before_rad": f"Pose error before refinement. {TRUTH}",
    "refined_pose_error_rad": (
        "Mean angle between refined and true orientations after alignment of the particle's frame and "
        f"handedness. {TRUTH}"
    ),
    "difference_from_file_rad": (
        "Mean angle between the refined orientations and those in the particle file, after alignment of the "
        "particle's frame and handedness."
    ),
    "handedness_relative_to_file": (
        "Whether the map has the same handedness as the orientations in the particle file."
    ),
    "handedness": "Mirror images of a particle have the same projections.",
    "shift_error_before_px": f"Mean distance between estimated and true shifts before refinement. {TRUTH}",
    "refined_shift_error_px": f"Mean distance between refined and true shifts. {TRUTH}",
    "orientations_moved_rad": (
        "Mean change of the orientations in the last round of refinement. A small value means that refinement"
        " has converged."
    ),
    "defocus_changed_angstrom": "Root-mean-square change of the defocus of an image in refinement.",
    "contrast_spread": "Standard deviation of the fitted relative contrast of the images (average 1).",
    "resolution_against_truth_angstrom": (
        "Resolution at which the Fourier shell correlation (FSC) between the refined map and the true map "
        f"falls below 0.5, inside a soft mask around the particle. {TRUTH}"
    ),
    "resolution_unmasked_against_truth_angstrom": f"The same resolution without a mask. {TRUTH}",
    "resolution_before_angstrom": f"The same resolution, inside the mask, before refinement. {TRUTH}",
    "resolution_of_true_orientations_angstrom": (
        "The same resolution for the map reconstructed with the true orientations, which is the best that "
        f"refinement can reach. {TRUTH}"
    ),
    "half_map_resolution_masked_angstrom": (
        "Resolution at which the Fourier shell correlation (FSC) between the half-maps, inside a mask and "
        "corrected for it, falls below 0.143."
    ),
    "half_map_resolution_unmasked_angstrom": "The same resolution without a mask.",
    "b_factor_angstrom2": (
        "B factor of the map: its amplitudes fall with the frequency s by exp(-B s² / 4). Sharpening undoes this."
    ),
    "local_resolution_median_angstrom": (
        "Median resolution in small windows inside the mask, at a half-map FSC of 0.5."
    ),
    "local_resolution_finest_angstrom": "10th percentile of the same resolutions.",
    "local_resolution_coarsest_angstrom": "90th percentile of the same resolutions.",
    "conical_resolution_finest_angstrom": (
        "Resolution of the half-maps in the best of 100 cones of directions. It equals that of the worst cone if all "
        "directions are equally well sampled."
    ),
    "conical_resolution_coarsest_angstrom": "Resolution of the half-maps in the worst of these cones.",
    "nyquist_angstrom": "Finest resolution that the pixels can represent: two pixels.",
    "total_time_seconds": "Sum of the execution times of the phases.",
}


@dataclass(frozen=True)
class Quantity:
    """One value for a report.

    Attributes
    ----------
    label, text : str
        Name of the value in words, and the value with its unit.
    definition : str
        Meaning of the value, or an empty string.
    large, small : str
        Parts of the value for large type: an angle in degrees and in radians, otherwise the text and nothing.
    """

    label: str
    text: str
    definition: str = ""
    large: str = ""
    small: str = ""


def quantity(name: str, value: object) -> Quantity:
    """Return a recorded value as a ``Quantity``; the name ends in the unit, as in ``pose_error_rad``."""
    label, text = format_quantity(name, value)
    large, small = text, ""
    if value is not None and name.endswith("_rad"):
        large, small = f"{math.degrees(value):.3g}°", f"{value:.4g} rad"
    elif value is not None and name.endswith("_seconds"):
        text = large = readable_duration(value)
    return Quantity(label, text, DEFINITIONS.get(name, ""), large, small)
