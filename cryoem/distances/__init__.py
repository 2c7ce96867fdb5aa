"""Phase 1: distances between orientations (exact, perturbed and learned) and between images."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "encoders": ["build_encoder"],
        "exact": ["euclidean_distances", "exact_distances", "perturbed_distances", "spread_landmarks"],
        "losses": ["distances_from_features"],
        "prediction": [
            "DistanceEstimate",
            "encode",
            "estimate_distances",
            "predict_distances",
            "predict_shifts",
        ],
        "trained": ["EncoderSettings", "TrainedEncoder", "load_encoder", "save_encoder"],
        "training": ["ProjectionStream", "TrainingSchedule", "train"],
    },
)
