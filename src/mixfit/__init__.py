"""mixfit: train one model on table rows together with their photos.

The public names load on first use (PEP 562): ``import mixfit`` itself loads neither torch nor pandas."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixfit.comparison import compare_runs as compare_runs
    from mixfit.config import DataConfig as DataConfig
    from mixfit.config import ModelConfig as ModelConfig
    from mixfit.config import TrainConfig as TrainConfig
    from mixfit.data.augment import augmentation as augmentation
    from mixfit.data.batch import Inputs as Inputs
    from mixfit.data.batch import collate as collate
    from mixfit.data.cache import Cache as Cache
    from mixfit.data.colour import ColorJitter as ColorJitter
    from mixfit.data.dataset import MixedDataset as MixedDataset
    from mixfit.data.erasing import RandomErasing as RandomErasing
    from mixfit.data.folds import k_folds as k_folds
    from mixfit.data.geometry import RandomAffine as RandomAffine
    from mixfit.data.geometry import RandomResizedCrop as RandomResizedCrop
    from mixfit.data.image_store import open_image_store as open_image_store
    from mixfit.data.images import read_image as read_image
    from mixfit.data.infer import infer_schema as infer_schema
    from mixfit.data.large import load_large as load_large
    from mixfit.data.load import MixedData as MixedData
    from mixfit.data.load import load_data as load_data
    from mixfit.data.loader import DataLoader as DataLoader
    from mixfit.data.mix import CutMix as CutMix
    from mixfit.data.mix import MixUp as MixUp
    from mixfit.data.normalize import Normalize as Normalize
    from mixfit.data.preprocess import TablePreprocessor as TablePreprocessor
    from mixfit.data.sampler import Sampler as Sampler
    from mixfit.data.sampler import SequentialSampler as SequentialSampler
    from mixfit.data.sampler import ShuffledSampler as ShuffledSampler
    from mixfit.data.samplers import BalancedSampler as BalancedSampler
    from mixfit.data.samplers import GroupedSampler as GroupedSampler
    from mixfit.data.samplers import ShardedSampler as ShardedSampler
    from mixfit.data.samplers import WeightedSampler as WeightedSampler
    from mixfit.data.schema import Schema as Schema
    from mixfit.data.split import split_rows as split_rows
    from mixfit.data.store import ImageFiles as ImageFiles
    from mixfit.data.table import read_table as read_table
    from mixfit.data.transform import Compose as Compose
    from mixfit.data.transform import RandomHorizontalFlip as RandomHorizontalFlip
    from mixfit.data.transform import Transform as Transform
    from mixfit.data.trivial_augment import TrivialAugment as TrivialAugment
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
    from mixfit.hooks.attribution import grad_cam as grad_cam
    from mixfit.hooks.extract import extract as extract
    from mixfit.hooks.gradient_stats import GradientStats as GradientStats
    from mixfit.hooks.hook import Hook as Hook
    from mixfit.hooks.hook import Hooks as Hooks
    from mixfit.hooks.input_gradients import input_gradients as input_gradients
    from mixfit.hooks.input_gradients import pixel_heat as pixel_heat
    from mixfit.hooks.overlay import heat_figure as heat_figure
    from mixfit.hooks.overlay import overlay as overlay
    from mixfit.hooks.sequential import HookedSequential as HookedSequential
    from mixfit.hooks.walk import modules as modules
    from mixfit.nn.bins import compute_bins as compute_bins
    from mixfit.nn.export import export_model as export_model
    from mixfit.nn.freezing import freeze as freeze
    from mixfit.nn.freezing import unfreeze as unfreeze
    from mixfit.nn.fusion import ConcatFusion as ConcatFusion
    from mixfit.nn.fusion import FiLMFusion as FiLMFusion
    from mixfit.nn.fusion import GatedFusion as GatedFusion
    from mixfit.nn.fusion import LateFusion as LateFusion
    from mixfit.nn.image import ImageEncoder as ImageEncoder
    from mixfit.nn.init import init_weights as init_weights
    from mixfit.nn.init import lsuv as lsuv
    from mixfit.nn.model import MixedInputModel as MixedInputModel
    from mixfit.nn.numeric_embeddings import PiecewiseLinearEmbedding as PiecewiseLinearEmbedding
    from mixfit.nn.pooling import AttentionPool as AttentionPool
    from mixfit.nn.summary import summary as summary
    from mixfit.nn.tabm import TabM as TabM
    from mixfit.nn.tabular import TabularEncoder as TabularEncoder
    from mixfit.nn.tabular_resnet import TabularResNet as TabularResNet
    from mixfit.predictor import Predictor as Predictor
    from mixfit.recipe import fit as fit
    from mixfit.recipe import resume as resume
    from mixfit.training.build import build_model as build_model
    from mixfit.training.build import precompute_features as precompute_features
    from mixfit.training.callback import Callback as Callback
    from mixfit.training.callback import CancelBatch as CancelBatch
    from mixfit.training.callback import CancelEpoch as CancelEpoch
    from mixfit.training.callback import CancelFit as CancelFit
    from mixfit.training.callback import CancelTrain as CancelTrain
    from mixfit.training.callbacks.averaging import ExponentialMovingAverage as ExponentialMovingAverage
    from mixfit.training.callbacks.averaging import StochasticWeightAveraging as StochasticWeightAveraging
    from mixfit.training.callbacks.checkpoint import Checkpoints as Checkpoints
    from mixfit.training.callbacks.control import EarlyStopping as EarlyStopping
    from mixfit.training.callbacks.doctor import Doctor as Doctor
    from mixfit.training.callbacks.gradients import GradientAccumulation as GradientAccumulation
    from mixfit.training.callbacks.gradients import GradientClipping as GradientClipping
    from mixfit.training.callbacks.inspect import WatchActivations as WatchActivations
    from mixfit.training.callbacks.inspect import WatchGradients as WatchGradients
    from mixfit.training.callbacks.json_lines import JsonLines as JsonLines
    from mixfit.training.callbacks.mixed_precision import MixedPrecision as MixedPrecision
    from mixfit.training.callbacks.nan_guard import NanGuard as NanGuard
    from mixfit.training.callbacks.notebook import NotebookProgress as NotebookProgress
    from mixfit.training.callbacks.out_of_memory import OutOfMemoryGuard as OutOfMemoryGuard
    from mixfit.training.callbacks.profiler import Profiler as Profiler
    from mixfit.training.callbacks.progress import ProgressLines as ProgressLines
    from mixfit.training.callbacks.pruning import Pruning as Pruning
    from mixfit.training.callbacks.recorder import Recorder as Recorder
    from mixfit.training.callbacks.schedule import OneCycle as OneCycle
    from mixfit.training.callbacks.schedule import Schedule as Schedule
    from mixfit.training.callbacks.signals import StopOnSignal as StopOnSignal
    from mixfit.training.callbacks.tensorboard import TensorBoard as TensorBoard
    from mixfit.training.callbacks.time_budget import TimeBudget as TimeBudget
    from mixfit.training.checkpoint_files import load_weights as load_weights
    from mixfit.training.checkpoint_files import newest_checkpoint as newest_checkpoint
    from mixfit.training.checkpoint_files import read_checkpoint as read_checkpoint
    from mixfit.training.doctor.finding import Finding as Finding
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
    from mixfit.training.prepare import start_well as start_well
    from mixfit.training.schedule import cosine_with_restarts as cosine_with_restarts
    from mixfit.training.schedule import joined as joined
    from mixfit.training.schedule import one_cycle as one_cycle
    from mixfit.training.schedule import warm_up as warm_up
    from mixfit.training.tta import augmented_outputs as augmented_outputs
    from mixfit.tuning.run import tune as tune

__version__ = "0.1.0"

_HOME = {
    "mixfit.comparison": ("compare_runs",),
    "mixfit.config": ("DataConfig", "ModelConfig", "TrainConfig"),
    "mixfit.data.batch": ("Inputs", "collate"),
    "mixfit.data.cache": ("Cache",),
    "mixfit.data.dataset": ("MixedDataset",),
    "mixfit.data.image_store": ("open_image_store",),
    "mixfit.data.store": ("ImageFiles",),
    "mixfit.data.large": ("load_large",),
    "mixfit.data.images": ("read_image",),
    "mixfit.data.infer": ("infer_schema",),
    "mixfit.data.load": ("MixedData", "load_data"),
    "mixfit.data.loader": ("DataLoader",),
    "mixfit.data.preprocess": ("TablePreprocessor",),
    "mixfit.data.samplers": ("BalancedSampler", "GroupedSampler", "ShardedSampler", "WeightedSampler"),
    "mixfit.data.geometry": ("RandomAffine", "RandomResizedCrop"),
    "mixfit.data.colour": ("ColorJitter",),
    "mixfit.data.erasing": ("RandomErasing",),
    "mixfit.data.trivial_augment": ("TrivialAugment",),
    "mixfit.data.normalize": ("Normalize",),
    "mixfit.data.mix": ("CutMix", "MixUp"),
    "mixfit.data.augment": ("augmentation",),
    "mixfit.training.tta": ("augmented_outputs",),
    "mixfit.tuning.run": ("tune",),
    "mixfit.data.sampler": ("Sampler", "SequentialSampler", "ShuffledSampler"),
    "mixfit.data.schema": ("Schema",),
    "mixfit.data.folds": ("k_folds",),
    "mixfit.data.split": ("split_rows",),
    "mixfit.data.table": ("read_table",),
    "mixfit.data.transform": ("Compose", "RandomHorizontalFlip", "Transform"),
    "mixfit.errors": ("ConfigError", "DataError", "Diverged", "MixfitError", "ResourceError"),
    "mixfit.hooks.activation_stats": ("ActivationStats",),
    "mixfit.hooks.extract": ("extract",),
    "mixfit.hooks.gradient_stats": ("GradientStats",),
    "mixfit.hooks.hook": ("Hook", "Hooks"),
    "mixfit.hooks.sequential": ("HookedSequential",),
    "mixfit.hooks.walk": ("modules",),
    "mixfit.evaluation.explain": ("Explanation", "explain"),
    "mixfit.evaluation.photo_heat": ("PhotoHeat", "photo_heat"),
    "mixfit.hooks.attribution": ("grad_cam",),
    "mixfit.hooks.input_gradients": ("input_gradients", "pixel_heat"),
    "mixfit.hooks.overlay": ("heat_figure", "overlay"),
    "mixfit.nn.export": ("export_model",),
    "mixfit.nn.freezing": ("freeze", "unfreeze"),
    "mixfit.nn.fusion": ("ConcatFusion", "FiLMFusion", "GatedFusion", "LateFusion"),
    "mixfit.nn.init": ("init_weights", "lsuv"),
    "mixfit.nn.pooling": ("AttentionPool",),
    "mixfit.nn.summary": ("summary",),
    "mixfit.training.prepare": ("start_well",),
    "mixfit.nn.image": ("ImageEncoder",),
    "mixfit.nn.model": ("MixedInputModel",),
    "mixfit.nn.bins": ("compute_bins",),
    "mixfit.nn.numeric_embeddings": ("PiecewiseLinearEmbedding",),
    "mixfit.nn.tabm": ("TabM",),
    "mixfit.nn.tabular": ("TabularEncoder",),
    "mixfit.nn.tabular_resnet": ("TabularResNet",),
    "mixfit.predictor": ("Predictor",),
    "mixfit.recipe": ("fit", "resume"),
    "mixfit.training.build": ("build_model", "precompute_features"),
    "mixfit.training.callback": ("Callback", "CancelBatch", "CancelEpoch", "CancelFit", "CancelTrain"),
    "mixfit.training.callbacks.checkpoint": ("Checkpoints",),
    "mixfit.training.callbacks.nan_guard": ("NanGuard",),
    "mixfit.training.callbacks.signals": ("StopOnSignal",),
    "mixfit.training.callbacks.time_budget": ("TimeBudget",),
    "mixfit.training.checkpoint_files": ("load_weights", "newest_checkpoint", "read_checkpoint"),
    "mixfit.training.callbacks.averaging": ("ExponentialMovingAverage", "StochasticWeightAveraging"),
    "mixfit.training.callbacks.control": ("EarlyStopping",),
    "mixfit.training.callbacks.gradients": ("GradientAccumulation", "GradientClipping"),
    "mixfit.training.callbacks.doctor": ("Doctor",),
    "mixfit.training.callbacks.inspect": ("WatchActivations", "WatchGradients"),
    "mixfit.training.callbacks.json_lines": ("JsonLines",),
    "mixfit.training.callbacks.mixed_precision": ("MixedPrecision",),
    "mixfit.training.callbacks.notebook": ("NotebookProgress",),
    "mixfit.training.callbacks.out_of_memory": ("OutOfMemoryGuard",),
    "mixfit.training.callbacks.profiler": ("Profiler",),
    "mixfit.training.callbacks.progress": ("ProgressLines",),
    "mixfit.training.callbacks.pruning": ("Pruning",),
    "mixfit.training.callbacks.recorder": ("Recorder",),
    "mixfit.training.callbacks.schedule": ("OneCycle", "Schedule"),
    "mixfit.training.callbacks.tensorboard": ("TensorBoard",),
    "mixfit.training.schedule": ("cosine_with_restarts", "joined", "one_cycle", "warm_up"),
    "mixfit.training.learner": ("Learner",),
    "mixfit.training.doctor.finding": ("Finding",),
    "mixfit.training.lr_find": ("RateSearch",),
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
    "mixfit.training.optimizer": (
        "LAMB",
        "SGD",
        "Adam",
        "AdamW",
        "Lion",
        "Muon",
        "RMSProp",
        "ScheduleFreeAdamW",
        "clip_gradients",
        "layer_rates",
        "parameter_groups",
    ),
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
