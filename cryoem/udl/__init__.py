"""Phase 4: two-dimensional classes, and in-plane alignment of particle images without labels (UDL, JUDL)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "aligner": ["Aligner", "InPlaneAlignment", "align", "export_aligner", "load_aligner", "save_aligner"],
        "classical": ["fourier_mellin_angles", "iterated_template", "pair_angles", "template_aligner"],
        "classification": ["Classification", "classify"],
        "natural": ["NaturalPairs", "load_photographs", "natural_pairs", "published_noise_level"],
        "networks": ["build_polar_network", "build_polar_pair_network"],
        "pairs": [
            "PairObjective",
            "PairStream",
            "natural_draw",
            "predict_angles",
            "stack_draw",
            "train_pairs",
        ],
        "published": ["build_autoencoder", "build_pair_network"],
        "published_training": ["PublishedAligner", "PublishedOptions"],
        "registration": ["align_images"],
        "rotation": [
            "angle_errors_deg",
            "joint_error_deg",
            "joint_errors_deg",
            "pair_error_deg",
            "rotate_images",
            "wrap_angles",
        ],
        "spectra": ["PolarGrid", "polar_grid", "polar_spectra", "power_spectra", "subtract_ring_means"],
        "stack_training": ["AlignerTraining"],
        "stacks": ["AlignedFiles", "align_file"],
        "synthetic": [
            "ClassAverage",
            "SyntheticSet",
            "class_average_from_array",
            "phantom_class_average",
            "read_class_average",
            "read_reference",
            "synthetic_set",
        ],
        "training": ["AlignerOptions", "TrainingResult", "train"],
    },
)
