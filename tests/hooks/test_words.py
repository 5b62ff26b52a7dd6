"""Misspelt words end in a sentence."""

from typing import Any

import pytest
from torch import nn

from mixfit.errors import ConfigError
from mixfit.hooks.hook import Hook


def test_a_misspelt_event_is_refused_with_the_events_there_are() -> None:
    event: Any = "forwards"
    with pytest.raises(Exception, match=r"forwards") as caught, Hook(nn.ReLU(), print, event):
        pass
    # Under jaxtyping's checks of arguments in tests the call is refused even earlier.
    assert isinstance(caught.value, ConfigError) or "event" in str(caught.value)
