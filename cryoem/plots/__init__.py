"""Figures: arrays in, ``plotly.graph_objects.Figure`` out; nothing is shown and no file is touched.

Importing this package registers the plotly template ``cryoem``, which every figure here uses.
"""

from cryoem.plots.alignment import loss_beside_error, method_comparison, polar_spectra
from cryoem.plots.comparison import methods_by_condition
from cryoem.plots.curves import error_histogram, learning_curves, recovery_loss
from cryoem.plots.distances import bias_against_distance, distance_histograms, predicted_against_true
from cryoem.plots.growth import cost_growth
from cryoem.plots.images import density_slices, projection_gallery
from cryoem.plots.orientations import coverage_sphere, recovered_against_true
from cryoem.plots.power import power_spectrum
from cryoem.plots.progress import refinement_history
from cryoem.plots.resolution import fourier_shell_correlation
from cryoem.plots.surfaces import automatic_level, density_isosurface, surface_mesh
from cryoem.plots.sweeps import coverage_spheres, measured_curves, number_table, value_matrix

__all__ = [
    "automatic_level",
    "bias_against_distance",
    "cost_growth",
    "coverage_sphere",
    "coverage_spheres",
    "density_isosurface",
    "density_slices",
    "distance_histograms",
    "error_histogram",
    "fourier_shell_correlation",
    "learning_curves",
    "loss_beside_error",
    "measured_curves",
    "method_comparison",
    "methods_by_condition",
    "number_table",
    "polar_spectra",
    "power_spectrum",
    "predicted_against_true",
    "projection_gallery",
    "recovered_against_true",
    "recovery_loss",
    "refinement_history",
    "surface_mesh",
    "value_matrix",
]
