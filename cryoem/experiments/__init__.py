"""Experiments: named grids of parameters, each point of which executes a notebook and gives rows of a table."""

from cryoem.experiments.catalogue import EXPERIMENTS, get_experiment
from cryoem.experiments.grid import SIZES, Experiment, Grid
from cryoem.experiments.rows import measurement, save_rows
from cryoem.experiments.running import ExperimentFailedError, run_experiment
from cryoem.experiments.tables import read_table

__all__ = [
    "EXPERIMENTS",
    "SIZES",
    "Experiment",
    "ExperimentFailedError",
    "Grid",
    "get_experiment",
    "measurement",
    "read_table",
    "run_experiment",
    "save_rows",
]
