"""Looking into a model: hooks that never stay, the layers in the order they run, statistics, pictures, features.

Knows PyTorch only: nothing of ``nn``, ``data`` or ``training``, which build on it."""
