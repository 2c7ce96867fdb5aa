"""Training code shared by ``distances`` and ``udl``: Keras, schedule, devices, checkpoints and resuming."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "backend": ["keras"],
        "compilation": ["TrainingSchedule", "compile_network", "device_precision"],
        "fitting": ["fit"],
    },
)
