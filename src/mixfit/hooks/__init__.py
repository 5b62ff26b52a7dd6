"""Inspecting a model: hooks that are always removed, layers in execution order, statistics, plots, features.

Depends on PyTorch only, not on ``nn``, ``data`` or ``training``, which build on it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
