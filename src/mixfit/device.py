"""Where the tensors live when nobody says: CUDA, then Apple's MPS, then the CPU."""

import torch


def default_device() -> torch.device:
    """The fastest device of this machine."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
