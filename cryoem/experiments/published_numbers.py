"""Results that the first paper reports, for comparison with ours.

Source of all numbers: Banjac, Donati and Defferrard, *Learning to recover orientations from projections in
single-particle cryo-EM*, arXiv 2104.06237.
"""

from __future__ import annotations

# E_OR (rad) of orientations recovered from true distances with Gaussian errors, by the standard deviation of the
# errors (rad). The paper's figure calls it a variance; its code uses it as a standard deviation.
PERTURBED_RECOVERY_ERROR_RAD = {0.0: 0.0015, 0.1: 0.069, 0.2: 0.099, 0.4: 0.128, 0.8: 0.194}

# E_OR, and FSC 0.5 against the truth of a map from clean images at the recovered orientations.
# 5a1a has D2 symmetry; its orientations cover a quarter of the sphere.
RESULTS = {
    "5j0n, noise-free": {"recovery_error_rad": 0.20, "resolution_angstrom": 12.2},
    "5j0n, noise variance 16": {"recovery_error_rad": 0.25, "resolution_angstrom": 15.2},
    "5a1a, noise-free": {"recovery_error_rad": 0.13, "resolution_angstrom": 8.0},
    "5a1a, noise variance 16": {"recovery_error_rad": 0.13, "resolution_angstrom": 9.6},
}

# distance errors (rad) at noise variance 16: lowest and highest on validation images of the two proteins, and on
# training and validation images of one training
NOISY_DISTANCE_ERROR_RAD = (0.28, 0.30)
TRAINING_ERROR_RAD, VALIDATION_ERROR_RAD = 0.17, 0.29
TRAINING_PROJECTIONS = 2512

# training of the distances on a K40c and on a T4, recovery of the orientations on a K40c, alignment on a Xeon
TRAINING_HOURS_K40C, TRAINING_HOURS_T4 = 8.75, 3.3
RECOVERY_HOURS_K40C, ALIGNMENT_MINUTES_XEON = 3.75, 50.0
