"""The settings of a server: where it listens, and the limits that keep one client from harming the others."""

import ipaddress
import math
import os
from dataclasses import dataclass, fields

from mixfit.errors import ConfigError

TOKEN_VARIABLE = "MIXFIT_TOKEN"
"""Environment variable with the token, which keeps it out of the list of processes."""
_LEAST_TOKEN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Settings of ``mixfit serve``."""

    host: str = "127.0.0.1"
    """Address to listen on; any other than that of this machine itself needs a token."""
    port: int = 8000
    """Port to listen on; 0 for a free one."""
    token: str | None = None
    """Token that every request must carry, as bearer or as password; by default MIXFIT_TOKEN, or none."""
    interval: float = 0.9
    """Coverage of the intervals of predicted numbers, unless a request asks for another one."""
    timeout: float = 30.0
    """Seconds that a client may take for its headers, for its body, and for reading, and that an answer may take."""
    drain: float = 2.0
    """Seconds between the signal to end, from which on /readyz says no, and the end of listening."""
    connections: int = 512
    """Largest number of open connections."""
    body_mb: float = 20.0
    """Largest body of a request in megabytes."""
    memory_mb: float = 512.0
    """Largest sum of the bodies that are held at a time, in megabytes."""
    rows: int = 256
    """Largest number of rows of a request."""
    explained: int = 8
    """Largest number of rows of a request to explain."""
    parts: int = 64
    """Largest number of parts of a multipart request, and of photos of a JSON request."""
    megapixels: float = 50.0
    """Largest photo in millions of pixels."""
    queue: int = 512
    """Largest number of rows that wait; further requests are told to come back later."""
    batch: int = 16
    """Largest number of rows of different requests that are predicted together."""
    threads: int = 1
    """Threads that one pass of a model takes; there are as many passes at a time as the cores have room for."""
    wait_ms: float = 5.0
    """Longest time in milliseconds that a row waits for others whose photos are being decoded."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            least = 0 if one.name in ("port", "drain", "wait_ms") else 1 if isinstance(value, int) else 1e-9
            if not (math.isfinite(value) and value >= least):
                limit = f"at least {least}" if isinstance(value, int) or not least else "above 0"
                raise ConfigError(f"{one.name} must be {limit}, got {value}.")
        if self.port > 65_535:
            raise ConfigError(f"port must be at most 65535, got {self.port}.")
        if not self.interval < 1:
            raise ConfigError(f"interval must be in (0, 1), got {self.interval}.")
        if self.token is not None and len(self.token) < _LEAST_TOKEN:
            raise ConfigError(f"The token must have at least {_LEAST_TOKEN} characters, got {len(self.token)}.")
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"Everybody who can reach {self.host} could use the model: set a token with --token or "
                f"{TOKEN_VARIABLE}, or leave out --host."
            )

    @property
    def most_body(self) -> int:
        """Bytes."""
        return int(self.body_mb * 1e6)

    @property
    def most_memory(self) -> int:
        """Bytes."""
        return int(self.memory_mb * 1e6)

    @property
    def most_pixels(self) -> int:
        """Pixels of a photo."""
        return int(self.megapixels * 1e6)


def token_of_environment() -> str | None:
    """The token in the environment, None without one."""
    return os.environ.get(TOKEN_VARIABLE) or None


def is_loopback(host: str) -> bool:
    """Whether an address is that of this machine itself.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
