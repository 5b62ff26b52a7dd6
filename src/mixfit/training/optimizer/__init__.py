"""Optimisers made of pieces: statistics of gradients, and steppers that change parameters."""

from mixfit.training.optimizer.base import Optimizer as Optimizer
from mixfit.training.optimizer.base import ParamGroup as ParamGroup
from mixfit.training.optimizer.groups import clip_gradients as clip_gradients
from mixfit.training.optimizer.groups import layer_rates as layer_rates
from mixfit.training.optimizer.groups import parameter_groups as parameter_groups
from mixfit.training.optimizer.groups import weight_decay_groups as weight_decay_groups
from mixfit.training.optimizer.optimizers import LAMB as LAMB
from mixfit.training.optimizer.optimizers import SGD as SGD
from mixfit.training.optimizer.optimizers import Adam as Adam
from mixfit.training.optimizer.optimizers import AdamW as AdamW
from mixfit.training.optimizer.optimizers import Lion as Lion
from mixfit.training.optimizer.optimizers import Muon as Muon
from mixfit.training.optimizer.optimizers import RMSProp as RMSProp
from mixfit.training.optimizer.optimizers import ScheduleFreeAdamW as ScheduleFreeAdamW
