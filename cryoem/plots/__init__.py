"""Plotting functions, which take arrays and return a ``plotly.graph_objects.Figure``.

They neither display the figure nor write files. All figures use the plotly template ``cryoem``, which
``cryoem.plots.template`` registers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "ab_initio": [
            "evidence_histogram",
            "growing_map",
            "posterior_sphere",
            "rings_and_harmonics",
            "start_comparison",
        ],
        "classes": ["class_gallery", "class_quality"],
        "comparisons": [
            "cost_growth",
            "method_comparison",
            "methods_by_condition",
            "number_table",
            "value_matrix",
        ],
        "densities": [
            "automatic_level",
            "density_isosurface",
            "density_slices",
            "projection_gallery",
            "surface_mesh",
        ],
        "distances": [
            "bias_against_distance",
            "distance_histograms",
            "error_histogram",
            "nearest_neighbours",
            "predicted_against_true",
        ],
        "histories": [
            "learning_curves",
            "loss_beside_error",
            "recovery_loss",
            "recovery_panels",
            "refinement_history",
        ],
        "imaging": ["fitted_optics", "images_on_sphere", "projection_rays"],
        "measurements": ["distances_from_few", "measured_curves", "measured_panels"],
        "orientations": [
            "coverage_sphere",
            "coverage_spheres",
            "recovered_against_true",
            "resolution_sphere",
        ],
        "rotations": ["euler_histograms", "quaternion_histograms", "rotation_ball"],
        "schematics": [
            "architecture_schematic",
            "distance_learning_schematic",
            "intuition_schematic",
            "overview_schematic",
        ],
        "spectra": ["fourier_shell_correlation", "guinier_plot", "polar_spectra", "power_spectrum"],
        "surfaces": ["surface_row"],
    },
)
