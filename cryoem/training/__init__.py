"""Code shared by the training of ``distances`` and ``udl``: schedule, devices, checkpoints, resume."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "compilation": ["TrainingSchedule", "compile_network", "device_precision"],
        "fitting": ["fit"],
    },
)
