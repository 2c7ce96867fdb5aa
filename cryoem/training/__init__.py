"""Training code shared by ``distances`` and ``udl``: schedule, devices, checkpoints and resuming."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "compilation": ["TrainingSchedule", "compile_network", "device_precision"],
        "fitting": ["fit"],
    },
)
