import pytest

from mixfit.config import parse_duration
from mixfit.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), (" 0.5H ", 1800), ("2m5s", 125)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "10 m", "m", "-5s", "0s", "5x", "1h-5m", "ten", "1.h", "nan", "1e3s"])
def test_what_is_no_duration_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="A duration is a number above 0 with s, m or h, such as 90s, 10m or 1h30m"):
        parse_duration(text)
