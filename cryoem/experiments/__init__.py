"""Phase 5: experiments, which execute a notebook at each point of a parameter grid and tabulate the results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalogue": ["EXPERIMENTS", "SIZES", "get_experiment"],
        "grids": ["Experiment", "Grid"],
        "figures": ["FigureFolder"],
        "running": ["ExperimentFailedError", "run_experiment"],
        "tables": ["measurement", "published", "read_table", "save_map", "save_rows"],
    },
)
