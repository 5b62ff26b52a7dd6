"""The allowed values of settings, such as fusions and tasks, shared by type checker, command line and code.

Imports nothing, so that networks and training do not load the command-line library."""

from typing import Literal, get_args

Role = str
"""The role of a column: a kind of column, see ``data/columns/kinds.py``, or one of ``OTHER_ROLES``."""
OTHER_ROLES: tuple[Role, ...] = ("target", "group", "split", "weight", "ignored")
"""Roles of columns that are not inputs of models."""
Task = Literal["regression", "count", "binary", "multiclass", "ordered"]
"""What is predicted: a number, a count such as of visits, one of two classes, one of several, one of ordered ones."""
TASKS: tuple[Task, ...] = get_args(Task)
NUMBER_TASKS: tuple[Task, ...] = ("regression", "count")
"""The tasks whose target is a number; the others have classes."""
MetricName = Literal[
    "auto", "log_loss", "auc", "accuracy", "balanced_accuracy", "f1", "mae", "rmse", "r2", "mape", "deviance", "kappa"
]
"""The metric that is reported first and, where possible, optimised; "auto" is the default of the task."""
METRICS_OF: dict[Task, tuple[MetricName, ...]] = {
    "regression": ("mae", "rmse", "r2", "mape"),
    "count": ("deviance", "mae", "rmse", "r2"),
    "binary": ("log_loss", "auc", "accuracy", "balanced_accuracy", "f1"),
    "multiclass": ("log_loss", "auc", "accuracy", "balanced_accuracy", "f1"),
    "ordered": ("kappa", "mae", "accuracy", "balanced_accuracy", "log_loss"),
}
"""The metrics that suit each task."""
Crop = Literal["squash", "center", "pad"]
"""How photos are made square: "squash" distorts them, "center" crops the longer side, "pad" adds mid-grey."""
Fusion = Literal["concat", "gated", "film", "attention", "late"]
"""Fusion of the encodings of table and photos, see ``nn/fusion.py``."""
Tabular = Literal["mlp", "resnet", "tabm"]
"""The network of the table, see ``nn/tabular.py``."""
Numbers = Literal["plain", "linear", "periodic", "piecewise"]
"""Embeddings of numbers, see ``nn/numbers.py``."""
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
Precision = Literal["auto", "float32", "bfloat16"]
Augmentation = Literal["none", "flip", "standard", "trivial"]
"""Augmentation of the photos of training rows, see ``data/transforms/augment.py``."""
OptimizerName = Literal[
    "adamw", "sgd", "momentum", "nesterov", "rmsprop", "adam", "lamb", "lion", "muon", "schedule_free"
]
"""Optimizers, see ``training/optimizer``."""
Preset = Literal["network", "quick", "balanced", "best"]
"""Models that are fitted: one network, or a blend of few, several or many models."""
LossName = Literal["auto", "mse", "mae", "huber", "poisson", "cross_entropy", "balanced", "smooth", "focal"]
"""Losses: the first three after ``auto`` are for regression, ``poisson`` is for counts, the others for classes."""
