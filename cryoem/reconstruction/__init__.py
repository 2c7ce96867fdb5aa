"""Phase 3: reconstruct maps from images and poses, refine them, and measure their resolution."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "accumulation": ["FourierAccumulator", "accumulate", "accumulate_blocks"],
        "limits": ["PoseLimit", "pose_limit"],
        "maps": ["Reconstruction", "reconstruct", "reconstruct_halves"],
        "pose_checks": ["PoseCheck", "Reading", "check_poses"],
        "masks": ["FSCFamily", "fsc_family", "masked_half_map_fsc", "particle_mask"],
        "refinement": ["Refinement", "refine"],
        "resolution": [
            "FSC",
            "HALF_MAP_THRESHOLD",
            "fourier_ring_correlation",
            "fourier_shell_correlation",
            "shell_index",
        ],
        "rounds": ["RefinementSchedule"],
        "sharpening": ["Guinier", "guinier", "sharpen"],
        "variation": ["ConicalFSC", "conical_fsc", "local_resolution"],
    },
)
