"""Misspelt words, and outputs that were not seen, end in a sentence."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mixfit.errors import ConfigError
from mixfit.hooks.activation_stats import ActivationStats
from mixfit.hooks.hook import _register


def test_a_misspelt_event_is_refused_with_the_events_there_are() -> None:
    # What a user calls checks its arguments' types in tests, and would refuse the word before we do.
    refused = _register.__wrapped__ if hasattr(_register, "__wrapped__") else _register
    with pytest.raises(
        ConfigError, match="There is no hook event 'forwards': the events are pre-forward, forward and backward"
    ):
        refused("", nn.ReLU(), print, "forwards")


def test_statistics_of_what_was_not_seen_are_refused_in_a_sentence() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with ActivationStats(model) as stats:
        model(torch.zeros(4, 2))
    unseen = replace(stats.outputs[0], layer="elsewhere")
    for look in (stats.over_time, stats.histogram):
        with pytest.raises(ConfigError, match=r"There are no statistics of .*elsewhere.*: use one of the 2 outputs"):
            look(unseen)
