"""Looking into a model: hooks that never stay, the layers in the order they run, statistics, pictures, features.

Knows PyTorch only: nothing of ``nn``, ``data`` or ``training``, which build on it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
