"""Losses: raw outputs and targets -> one number to minimise.

Losses without settings are functions; those with settings are frozen dataclasses, whose lower-case namesakes have the
default settings: ``huber`` is ``Huber()``. None of them broadcasts: ``(batch, 1)`` against ``(batch,)`` is an error,
not a silent matrix."""

from mixfit.training.loss.base import Loss as Loss
from mixfit.training.loss.classes import CrossEntropy as CrossEntropy
from mixfit.training.loss.classes import Focal as Focal
from mixfit.training.loss.classes import balanced_class_weights as balanced_class_weights
from mixfit.training.loss.classes import binary_cross_entropy as binary_cross_entropy
from mixfit.training.loss.classes import cross_entropy as cross_entropy
from mixfit.training.loss.members import PerMember as PerMember
from mixfit.training.loss.numbers import Huber as Huber
from mixfit.training.loss.numbers import Quantiles as Quantiles
from mixfit.training.loss.numbers import huber as huber
from mixfit.training.loss.numbers import mae as mae
from mixfit.training.loss.numbers import mse as mse
from mixfit.training.loss.ordinal import ordinal as ordinal
from mixfit.training.loss.ordinal import ordinal_probabilities as ordinal_probabilities
