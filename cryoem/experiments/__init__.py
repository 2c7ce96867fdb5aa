"""Phase 5: experiments, which execute a notebook at each point of a parameter grid and tabulate the results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalogue": ["EXPERIMENTS", "SIZES", "Experiment", "Grid", "get_experiment"],
        "running": ["ExperimentFailedError", "run_experiment"],
        "tables": ["FigureFolder", "measurement", "published", "read_table", "save_rows"],
    },
)
