"""Numbers that the first paper reports, to be drawn beside ours.  Constants, each with its source.

Source of all: Banjac, Donati and Defferrard, *Learning to recover orientations from projections in single-particle
cryo-EM*, arXiv 2104.06237.
"""

from __future__ import annotations

# E_OR (rad) of orientations recovered from true distances with Gaussian errors, against what the plot calls a variance
# and the code uses as a standard deviation (rad)
PERTURBED_RECOVERY_ERROR_RAD = {0.0: 0.0015, 0.1: 0.069, 0.2: 0.099, 0.4: 0.128, 0.8: 0.194}

# the whole method on its two proteins, noise-free and at noise variance 16: E_OR, and FSC 0.5 to the truth of a map
# made from clean images.  5a1a is symmetric (D2), sampled on a quarter of the sphere
RESULTS = {
    "5j0n, noise-free": {"recovery_error_rad": 0.20, "resolution_angstrom": 12.2},
    "5j0n, noise variance 16": {"recovery_error_rad": 0.25, "resolution_angstrom": 15.2},
    "5a1a, noise-free": {"recovery_error_rad": 0.13, "resolution_angstrom": 8.0},
    "5a1a, noise variance 16": {"recovery_error_rad": 0.13, "resolution_angstrom": 9.6},
}

# distance error on validation images after training at noise variance 16, lowest and highest reported (rad)
NOISY_DISTANCE_ERROR_RAD = (0.28, 0.30)
# distance error after training without noise: of training images, of validation images (rad)
TRAINING_ERROR_RAD, VALIDATION_ERROR_RAD = 0.17, 0.29
TRAINING_PROJECTIONS = 2512
TRAINING_HOURS, RECOVERY_HOURS, ALIGNMENT_MINUTES = 8.75, 3.75, 50.0  # K40c, K40c, Xeon
