"""Durations as people write them."""

import re

from mixfit.errors import ConfigError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 90s, 10m, 1h or 1h30m.

    >>> parse_duration("1h30m")
    5400.0
    >>> parse_duration("0.5m")
    30.0

    Raises:
        ConfigError: it is none, or it is 0.
    """
    cleaned = text.strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", cleaned)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != cleaned or not seconds > 0:
        raise ConfigError(
            f"A duration is a number with s, m or h, such as 90s, 10m or 1h30m, and above 0, got {text!r}."
        )
    return seconds
