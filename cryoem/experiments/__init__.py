"""Phase 5: experiments. A notebook is executed at each point of a grid, and the results form one table."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalogue": ["EXPERIMENTS", "SIZES", "Experiment", "Grid", "get_experiment"],
        "running": ["ExperimentFailedError", "run_experiment"],
        "tables": ["FigureFolder", "measurement", "published", "read_table", "save_rows"],
    },
)
