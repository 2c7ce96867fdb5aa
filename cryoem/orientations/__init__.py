"""Phase 2: recover orientations from distances, fix their gauge with the images, and measure their errors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "common_lines": ["import_aspire", "is_installed", "orientations_from_common_lines"],
        "evaluation": [
            "FrameAlignment",
            "align_frame",
            "align_shifts",
            "align_to",
            "pose_error",
            "recovery_error",
        ],
        "expectation_maximisation": ["AbInitio", "Round", "ab_initio", "count_rounds"],
        "gauge": ["Gauge", "covering_rotations", "fix_gauge"],
        "projection_matching": ["MapMatch", "match_to_map"],
        "recovery": ["Recovery", "recover_orientations"],
        "symmetry_axes": ["SYMMETRIC", "align_symmetry", "describe_symmetry_doubt", "nearest_symmetry"],
    },
)
