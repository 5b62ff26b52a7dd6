"""mixfit: train one model on table rows together with their photos.

The public names load on first use (PEP 562): ``import mixfit`` itself loads neither torch nor pandas."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixfit.auto.recipe import fit as fit
    from mixfit.auto.recipe import resume as resume
    from mixfit.auto.tune import tune as tune
    from mixfit.config import DataConfig as DataConfig
    from mixfit.config import ModelConfig as ModelConfig
    from mixfit.config import TrainConfig as TrainConfig
    from mixfit.data.batch import Inputs as Inputs
    from mixfit.data.batch import collate as collate
    from mixfit.data.columns.infer import infer_schema as infer_schema
    from mixfit.data.columns.preprocess import TablePreprocessor as TablePreprocessor
    from mixfit.data.columns.schema import Schema as Schema
    from mixfit.data.dataset import MixedDataset as MixedDataset
    from mixfit.data.folds import k_folds as k_folds
    from mixfit.data.load import MixedData as MixedData
    from mixfit.data.load import load_data as load_data
    from mixfit.data.loader import DataLoader as DataLoader
    from mixfit.data.photos.decode import read_image as read_image
    from mixfit.data.photos.records import Cache as Cache
    from mixfit.data.photos.store import ImageFiles as ImageFiles
    from mixfit.data.photos.store import open_image_store as open_image_store
    from mixfit.data.sampler import BalancedSampler as BalancedSampler
    from mixfit.data.sampler import GroupedSampler as GroupedSampler
    from mixfit.data.sampler import Sampler as Sampler
    from mixfit.data.sampler import SequentialSampler as SequentialSampler
    from mixfit.data.sampler import ShardedSampler as ShardedSampler
    from mixfit.data.sampler import ShuffledSampler as ShuffledSampler
    from mixfit.data.sampler import WeightedSampler as WeightedSampler
    from mixfit.data.split import split_rows as split_rows
    from mixfit.data.table.large import load_large as load_large
    from mixfit.data.table.read import read_table as read_table
    from mixfit.data.transforms.augment import ColorJitter as ColorJitter
    from mixfit.data.transforms.augment import RandomAffine as RandomAffine
    from mixfit.data.transforms.augment import RandomErasing as RandomErasing
    from mixfit.data.transforms.augment import RandomResizedCrop as RandomResizedCrop
    from mixfit.data.transforms.augment import TrivialAugment as TrivialAugment
    from mixfit.data.transforms.augment import augmentation as augmentation
    from mixfit.data.transforms.mix import CutMix as CutMix
    from mixfit.data.transforms.mix import MixUp as MixUp
    from mixfit.data.transforms.transform import Compose as Compose
    from mixfit.data.transforms.transform import Normalize as Normalize
    from mixfit.data.transforms.transform import RandomHorizontalFlip as RandomHorizontalFlip
    from mixfit.data.transforms.transform import Transform as Transform
    from mixfit.diagnostics.doctor import Doctor as Doctor
    from mixfit.diagnostics.doctor import examine as examine
    from mixfit.diagnostics.findings import Finding as Finding
    from mixfit.errors import ConfigError as ConfigError
    from mixfit.errors import DataError as DataError
    from mixfit.errors import Diverged as Diverged
    from mixfit.errors import MixfitError as MixfitError
    from mixfit.errors import ResourceError as ResourceError
    from mixfit.evaluation.explain import Explanation as Explanation
    from mixfit.evaluation.explain import explain as explain
    from mixfit.evaluation.photo_heat import PhotoHeat as PhotoHeat
    from mixfit.evaluation.photo_heat import photo_heat as photo_heat
    from mixfit.hooks.activation_stats import ActivationStats as ActivationStats
    from mixfit.hooks.extract import extract as extract
    from mixfit.hooks.gradient_stats import GradientStats as GradientStats
    from mixfit.hooks.heat import grad_cam as grad_cam
    from mixfit.hooks.heat import heat_figure as heat_figure
    from mixfit.hooks.heat import input_gradients as input_gradients
    from mixfit.hooks.heat import overlay as overlay
    from mixfit.hooks.heat import pixel_heat as pixel_heat
    from mixfit.hooks.hook import Hook as Hook
    from mixfit.hooks.hook import Hooks as Hooks
    from mixfit.hooks.hook import modules as modules
    from mixfit.hooks.sequential import HookedSequential as HookedSequential
    from mixfit.nn.bins import compute_bins as compute_bins
    from mixfit.nn.export import export_model as export_model
    from mixfit.nn.freezing import freeze as freeze
    from mixfit.nn.freezing import unfreeze as unfreeze
    from mixfit.nn.fusion import ConcatFusion as ConcatFusion
    from mixfit.nn.fusion import FiLMFusion as FiLMFusion
    from mixfit.nn.fusion import GatedFusion as GatedFusion
    from mixfit.nn.fusion import LateFusion as LateFusion
    from mixfit.nn.image import AttentionPool as AttentionPool
    from mixfit.nn.image import ImageEncoder as ImageEncoder
    from mixfit.nn.init import init_weights as init_weights
    from mixfit.nn.init import lsuv as lsuv
    from mixfit.nn.model import MixedInputModel as MixedInputModel
    from mixfit.nn.numbers import PiecewiseLinearEmbedding as PiecewiseLinearEmbedding
    from mixfit.nn.summary import summary as summary
    from mixfit.nn.tabular import TabM as TabM
    from mixfit.nn.tabular import TabularEncoder as TabularEncoder
    from mixfit.nn.tabular import TabularResNet as TabularResNet
    from mixfit.predictor import Predictor as Predictor
    from mixfit.runs.comparison import compare_runs as compare_runs
    from mixfit.training.build import build_model as build_model
    from mixfit.training.build import precompute_features as precompute_features
    from mixfit.training.build import start_well as start_well
    from mixfit.training.callback import Callback as Callback
    from mixfit.training.callback import CancelBatch as CancelBatch
    from mixfit.training.callback import CancelEpoch as CancelEpoch
    from mixfit.training.callback import CancelFit as CancelFit
    from mixfit.training.callback import CancelTrain as CancelTrain
    from mixfit.training.callbacks.averaging import ExponentialMovingAverage as ExponentialMovingAverage
    from mixfit.training.callbacks.averaging import StochasticWeightAveraging as StochasticWeightAveraging
    from mixfit.training.callbacks.checkpoint import Checkpoints as Checkpoints
    from mixfit.training.callbacks.control import EarlyStopping as EarlyStopping
    from mixfit.training.callbacks.control import Pruning as Pruning
    from mixfit.training.callbacks.control import StopOnSignal as StopOnSignal
    from mixfit.training.callbacks.control import TimeBudget as TimeBudget
    from mixfit.training.callbacks.displays import JsonLines as JsonLines
    from mixfit.training.callbacks.displays import NotebookProgress as NotebookProgress
    from mixfit.training.callbacks.displays import Profiler as Profiler
    from mixfit.training.callbacks.displays import ProgressLines as ProgressLines
    from mixfit.training.callbacks.displays import TensorBoard as TensorBoard
    from mixfit.training.callbacks.guards import NanGuard as NanGuard
    from mixfit.training.callbacks.guards import OutOfMemoryGuard as OutOfMemoryGuard
    from mixfit.training.callbacks.inspect import WatchActivations as WatchActivations
    from mixfit.training.callbacks.inspect import WatchGradients as WatchGradients
    from mixfit.training.callbacks.recorder import Recorder as Recorder
    from mixfit.training.callbacks.schedule import OneCycle as OneCycle
    from mixfit.training.callbacks.schedule import Schedule as Schedule
    from mixfit.training.callbacks.steps import GradientAccumulation as GradientAccumulation
    from mixfit.training.callbacks.steps import GradientClipping as GradientClipping
    from mixfit.training.callbacks.steps import MixedPrecision as MixedPrecision
    from mixfit.training.checkpoint import load_weights as load_weights
    from mixfit.training.checkpoint import newest_checkpoint as newest_checkpoint
    from mixfit.training.checkpoint import read_checkpoint as read_checkpoint
    from mixfit.training.learner import Learner as Learner
    from mixfit.training.loss import CrossEntropy as CrossEntropy
    from mixfit.training.loss import Focal as Focal
    from mixfit.training.loss import Huber as Huber
    from mixfit.training.loss import PerMember as PerMember
    from mixfit.training.loss import Quantiles as Quantiles
    from mixfit.training.loss import balanced_class_weights as balanced_class_weights
    from mixfit.training.loss import binary_cross_entropy as binary_cross_entropy
    from mixfit.training.loss import cross_entropy as cross_entropy
    from mixfit.training.loss import huber as huber
    from mixfit.training.loss import mae as mae
    from mixfit.training.loss import mse as mse
    from mixfit.training.loss import ordinal as ordinal
    from mixfit.training.loss import ordinal_probabilities as ordinal_probabilities
    from mixfit.training.lr_find import RateSearch as RateSearch
    from mixfit.training.optimizer import LAMB as LAMB
    from mixfit.training.optimizer import SGD as SGD
    from mixfit.training.optimizer import Adam as Adam
    from mixfit.training.optimizer import AdamW as AdamW
    from mixfit.training.optimizer import Lion as Lion
    from mixfit.training.optimizer import Muon as Muon
    from mixfit.training.optimizer import RMSProp as RMSProp
    from mixfit.training.optimizer import ScheduleFreeAdamW as ScheduleFreeAdamW
    from mixfit.training.optimizer import clip_gradients as clip_gradients
    from mixfit.training.optimizer import layer_rates as layer_rates
    from mixfit.training.optimizer import parameter_groups as parameter_groups
    from mixfit.training.schedule import cosine_with_restarts as cosine_with_restarts
    from mixfit.training.schedule import joined as joined
    from mixfit.training.schedule import one_cycle as one_cycle
    from mixfit.training.schedule import warm_up as warm_up
    from mixfit.training.tta import augmented_outputs as augmented_outputs

__version__ = "0.1.0"

_HOME = {
    "mixfit.auto.recipe": (
        "fit",
        "resume",
    ),
    "mixfit.auto.tune": ("tune",),
    "mixfit.config": (
        "DataConfig",
        "ModelConfig",
        "TrainConfig",
    ),
    "mixfit.data.batch": (
        "Inputs",
        "collate",
    ),
    "mixfit.data.columns.infer": ("infer_schema",),
    "mixfit.data.columns.preprocess": ("TablePreprocessor",),
    "mixfit.data.columns.schema": ("Schema",),
    "mixfit.data.dataset": ("MixedDataset",),
    "mixfit.data.folds": ("k_folds",),
    "mixfit.data.load": (
        "MixedData",
        "load_data",
    ),
    "mixfit.data.loader": ("DataLoader",),
    "mixfit.data.photos.decode": ("read_image",),
    "mixfit.data.photos.records": ("Cache",),
    "mixfit.data.photos.store": (
        "ImageFiles",
        "open_image_store",
    ),
    "mixfit.data.sampler": (
        "BalancedSampler",
        "GroupedSampler",
        "Sampler",
        "SequentialSampler",
        "ShardedSampler",
        "ShuffledSampler",
        "WeightedSampler",
    ),
    "mixfit.data.split": ("split_rows",),
    "mixfit.data.table.large": ("load_large",),
    "mixfit.data.table.read": ("read_table",),
    "mixfit.data.transforms.augment": (
        "ColorJitter",
        "RandomAffine",
        "RandomErasing",
        "RandomResizedCrop",
        "TrivialAugment",
        "augmentation",
    ),
    "mixfit.data.transforms.mix": (
        "CutMix",
        "MixUp",
    ),
    "mixfit.data.transforms.transform": (
        "Compose",
        "Normalize",
        "RandomHorizontalFlip",
        "Transform",
    ),
    "mixfit.diagnostics.doctor": (
        "Doctor",
        "examine",
    ),
    "mixfit.diagnostics.findings": ("Finding",),
    "mixfit.errors": (
        "ConfigError",
        "DataError",
        "Diverged",
        "MixfitError",
        "ResourceError",
    ),
    "mixfit.evaluation.explain": (
        "Explanation",
        "explain",
    ),
    "mixfit.evaluation.photo_heat": (
        "PhotoHeat",
        "photo_heat",
    ),
    "mixfit.hooks.activation_stats": ("ActivationStats",),
    "mixfit.hooks.extract": ("extract",),
    "mixfit.hooks.gradient_stats": ("GradientStats",),
    "mixfit.hooks.heat": (
        "grad_cam",
        "heat_figure",
        "input_gradients",
        "overlay",
        "pixel_heat",
    ),
    "mixfit.hooks.hook": (
        "Hook",
        "Hooks",
        "modules",
    ),
    "mixfit.hooks.sequential": ("HookedSequential",),
    "mixfit.nn.bins": ("compute_bins",),
    "mixfit.nn.export": ("export_model",),
    "mixfit.nn.freezing": (
        "freeze",
        "unfreeze",
    ),
    "mixfit.nn.fusion": (
        "ConcatFusion",
        "FiLMFusion",
        "GatedFusion",
        "LateFusion",
    ),
    "mixfit.nn.image": (
        "AttentionPool",
        "ImageEncoder",
    ),
    "mixfit.nn.init": (
        "init_weights",
        "lsuv",
    ),
    "mixfit.nn.model": ("MixedInputModel",),
    "mixfit.nn.numbers": ("PiecewiseLinearEmbedding",),
    "mixfit.nn.summary": ("summary",),
    "mixfit.nn.tabular": (
        "TabM",
        "TabularEncoder",
        "TabularResNet",
    ),
    "mixfit.predictor": ("Predictor",),
    "mixfit.runs.comparison": ("compare_runs",),
    "mixfit.training.build": (
        "build_model",
        "precompute_features",
        "start_well",
    ),
    "mixfit.training.callback": (
        "Callback",
        "CancelBatch",
        "CancelEpoch",
        "CancelFit",
        "CancelTrain",
    ),
    "mixfit.training.callbacks.averaging": (
        "ExponentialMovingAverage",
        "StochasticWeightAveraging",
    ),
    "mixfit.training.callbacks.checkpoint": ("Checkpoints",),
    "mixfit.training.callbacks.control": (
        "EarlyStopping",
        "Pruning",
        "StopOnSignal",
        "TimeBudget",
    ),
    "mixfit.training.callbacks.displays": (
        "JsonLines",
        "NotebookProgress",
        "Profiler",
        "ProgressLines",
        "TensorBoard",
    ),
    "mixfit.training.callbacks.guards": (
        "NanGuard",
        "OutOfMemoryGuard",
    ),
    "mixfit.training.callbacks.inspect": (
        "WatchActivations",
        "WatchGradients",
    ),
    "mixfit.training.callbacks.recorder": ("Recorder",),
    "mixfit.training.callbacks.schedule": (
        "OneCycle",
        "Schedule",
    ),
    "mixfit.training.callbacks.steps": (
        "GradientAccumulation",
        "GradientClipping",
        "MixedPrecision",
    ),
    "mixfit.training.checkpoint": (
        "load_weights",
        "newest_checkpoint",
        "read_checkpoint",
    ),
    "mixfit.training.learner": ("Learner",),
    "mixfit.training.loss": (
        "CrossEntropy",
        "Focal",
        "Huber",
        "PerMember",
        "Quantiles",
        "balanced_class_weights",
        "binary_cross_entropy",
        "cross_entropy",
        "huber",
        "mae",
        "mse",
        "ordinal",
        "ordinal_probabilities",
    ),
    "mixfit.training.lr_find": ("RateSearch",),
    "mixfit.training.optimizer": (
        "Adam",
        "AdamW",
        "LAMB",
        "Lion",
        "Muon",
        "RMSProp",
        "SGD",
        "ScheduleFreeAdamW",
        "clip_gradients",
        "layer_rates",
        "parameter_groups",
    ),
    "mixfit.training.schedule": (
        "cosine_with_restarts",
        "joined",
        "one_cycle",
        "warm_up",
    ),
    "mixfit.training.tta": ("augmented_outputs",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that holds it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mixfit' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
