"""Phase 0: projection of a density map along the microscope's z-axis, and its adjoint."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "projectors": [
            "BACKENDS",
            "Projector",
            "backproject",
            "describe_backend",
            "project",
            "resolve_backend",
        ],
    },
)
