"""Phase 3: reconstruct maps from images and poses, refine them, and measure their resolution."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "maps": ["FourierAccumulator", "Reconstruction", "accumulate", "reconstruct", "reconstruct_halves"],
        "refinement": ["Refinement", "refine"],
        "resolution": [
            "FSC",
            "fourier_ring_correlation",
            "fourier_shell_correlation",
            "masked_half_map_fsc",
            "particle_mask",
            "shell_index",
        ],
        "rounds": ["RefinementSchedule"],
    },
)
