"""Phase 0: read, write, box, filter and mask density maps, and make them from atomic models or as phantoms."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "density": [
            "DensityMap",
            "centre",
            "crop_or_pad",
            "cube",
            "enclosing_image_size",
            "low_pass",
            "mirror",
            "resample",
            "soft_mask",
            "soft_sphere",
            "subtract_solvent",
        ],
        "loading": ["load"],
        "maps": ["chimerax_script_path", "read_map", "write_chimerax_script", "write_map"],
        "models": ["density_from_model"],
        "phantoms": ["phantom"],
        "registry": ["ENTRIES", "Entry", "fetch", "find_entry"],
    },
)
