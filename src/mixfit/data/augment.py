"""Ready-made lists of transforms for training, by name."""

from typing import assert_never

from mixfit.choices import Augmentation
from mixfit.data.colour import ColorJitter
from mixfit.data.erasing import RandomErasing
from mixfit.data.geometry import RandomAffine, RandomResizedCrop
from mixfit.data.transform import RandomHorizontalFlip, Transform
from mixfit.data.trivial_augment import TrivialAugment


def augmentation(name: Augmentation) -> tuple[Transform, ...]:
    """Transforms that keep the meaning of everyday photos; all of them are for training only."""
    match name:
        case "none":
            return ()
        case "flip":
            return (RandomHorizontalFlip(),)
        case "standard":
            crop, turn = RandomResizedCrop(scale=(0.5, 1.0)), RandomAffine(degrees=8.0, p=0.5)
            return (RandomHorizontalFlip(), crop, turn, ColorJitter(), RandomErasing(p=0.1))
        case "trivial":
            return (RandomHorizontalFlip(), TrivialAugment())
        case _:
            assert_never(name)
