"""Phase 4: in-plane alignment of particle images without labels, by unsupervised difference learning (UDL, JUDL)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "aligner": ["Aligner", "InPlaneAlignment", "align", "template_aligner"],
        "aligner_training": ["AlignerTraining"],
        "classical": ["fourier_mellin_angles", "iterated_template", "pair_angles"],
        "natural": ["NaturalPairs", "natural_pairs", "published_noise_level"],
        "network": ["build_polar_network"],
        "pair_network": ["build_polar_pair_network"],
        "pair_streams": ["PairStream", "natural_draw", "stack_draw"],
        "pair_training": ["PairObjective", "predict_angles", "train_pairs"],
        "pictures": ["load_photographs", "read_class_average"],
        "published_network": ["build_pair_network"],
        "registration": ["align_images"],
        "rotation": ["angle_errors_deg", "joint_error_deg", "pair_error_deg", "rotate_images", "wrap_angles"],
        "spectra": ["PolarGrid", "polar_grid", "polar_spectra", "power_spectra", "subtract_ring_means"],
        "stacks": ["AlignedFiles", "align_file"],
        "storage": ["export_aligner", "load_aligner", "save_aligner"],
        "synthetic": [
            "ClassAverage",
            "SyntheticSet",
            "class_average_from_array",
            "phantom_class_average",
            "synthetic_set",
        ],
        "training": ["AlignerOptions", "TrainingResult", "train"],
    },
)
