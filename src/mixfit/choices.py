"""The names that a setting can have, such as the fusions or the tasks, for type checker, command line and code alike.

Imports nothing, so that networks and training need not load the command line's library for them."""

from typing import Literal, get_args

Role = str
"""What a column is used as: a kind of column, see ``data/columns/kinds.py``, or one of ``OTHER_ROLES``."""
OTHER_ROLES: tuple[Role, ...] = ("target", "group", "split", "weight", "ignored")
"""Roles of columns that models do not see."""
Task = Literal["regression", "binary", "multiclass"]
"""What is predicted: a number, one of two classes, one of several."""
TASKS: tuple[Task, ...] = get_args(Task)
Crop = Literal["squash", "center", "pad"]
"""How a photo becomes square: "squash" ignores the aspect ratio, "center" cuts the longer side, "pad" adds mid-grey."""
Fusion = Literal["concat", "gated", "film", "attention", "late"]
"""How the encodings of the table and of the photos are joined, see ``nn/fusion.py``."""
Tabular = Literal["mlp", "resnet", "tabm"]
"""The network of the table, see ``nn/tabular.py``."""
Numbers = Literal["plain", "linear", "periodic", "piecewise"]
"""How a number is embedded, see ``nn/numbers.py``."""
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
Precision = Literal["auto", "float32", "bfloat16"]
Augmentation = Literal["none", "flip", "standard", "trivial"]
"""Random changes of the photos of training rows, see ``data/transforms/augment.py``."""
OptimizerName = Literal[
    "adamw", "sgd", "momentum", "nesterov", "rmsprop", "adam", "lamb", "lion", "muon", "schedule_free"
]
"""What changes the weights, see ``training/optimizer``."""
Preset = Literal["network", "quick", "balanced", "best"]
"""What is tried: one network, or a blend of few, of several or of many models."""
LossName = Literal["auto", "mse", "mae", "huber", "cross_entropy", "balanced", "smooth", "focal"]
"""What is minimised: the first three after ``auto`` are for numbers, the others for classes."""
