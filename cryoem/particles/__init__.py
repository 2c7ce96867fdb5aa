"""Phase 0: particle images, in memory, simulated, or in the files of RELION, cryoSPARC and XMIPP."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alignments": ["relion_tables", "xmipp_table"],
        "calibration": ["Calibration", "calibrate", "shell_power"],
        "files": ["open_particles"],
        "mrc": ["StackWriter", "write_stack"],
        "particle_file": ["ParticleFile"],
        "simulation": [
            "ImagingConditions",
            "SimulatedParticles",
            "clean_deviation",
            "simulate",
            "simulate_lazily",
        ],
        "stack": ["ParticleStack"],
        "star": ["read_xmd", "write_star", "write_xmd"],
        "writing": ["names_for_table", "write_particles", "write_poses"],
    },
)
