"""Diagnostics: what happened over the steps, as tables, files and pictures."""

from moopt.diagnostics.conflict import ConflictMatrix, conflict_matrix
from moopt.diagnostics.history import History
from moopt.diagnostics.json_lines import JsonLinesWriter, read_json_lines
from moopt.diagnostics.plots import plot_cosines, plot_weights
from moopt.diagnostics.progress import ObjectiveProgress, objective_progress
from moopt.diagnostics.tensorboard import TensorBoardWriter

__all__ = [
    "ConflictMatrix",
    "History",
    "JsonLinesWriter",
    "ObjectiveProgress",
    "TensorBoardWriter",
    "conflict_matrix",
    "objective_progress",
    "plot_cosines",
    "plot_weights",
    "read_json_lines",
]
