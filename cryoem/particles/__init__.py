"""Phase 0: particle images in memory, simulated, or in RELION, cryoSPARC and XMIPP files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "conditions": ["ImagingConditions", "Realism"],
        "files": ["ParticleFile"],
        "mrc": ["StackWriter", "write_stack"],
        "naming": ["names_for_table"],
        "opening": ["open_particles", "read_poses"],
        "outliers": ["check_images", "describe_repeats", "usable_images"],
        "relion": ["relion_tables"],
        "simulation": [
            "SimulatedParticles",
            "clean_deviation",
            "simulate",
            "simulate_lazily",
        ],
        "stack": [
            "Calibration",
            "ParticleStack",
            "StackOnDemand",
            "calibrate",
            "fit_ctf_power",
            "shell_power",
        ],
        "star": ["read_xmd", "write_star", "write_xmd"],
        "writing": ["write_particles", "write_poses"],
        "xmipp": ["write_emaf", "xmipp_table"],
    },
)
