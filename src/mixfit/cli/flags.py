"""Flags that several commands share."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mixfit.choices import Role
from mixfit.config import DataConfig
from mixfit.config_file import read_config
from mixfit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from mixfit.auto.engine import Engine
    from mixfit.auto.tune import TrialEngine
    from mixfit.data.photos.records import Cache
    from mixfit.ensemble.cross_fit import Fits

Flat = Parameter(name="*")
SetRoles = Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)]
Switch = Parameter(negative=())
EngineName = Literal["local", "ray"]


def with_roles(data: DataConfig | None, set_: Sequence[str], file: Path | None = None) -> DataConfig:
    """Add the roles of ``--set COLUMN=ROLE`` to the configuration, among them those of a configuration file."""
    from mixfit.data.columns.schema import ROLES

    pairs: dict[str, Role] = {}
    in_file = {} if file is None else read_config(file).data.roles
    for text in set_:
        column, equals, role = text.rpartition("=")
        if not equals or not column:
            raise ConfigError(f"--set must be COLUMN=ROLE, for instance --set zipcode=category, got {text!r}.")
        if role not in ROLES:
            place = f"{file}: [data.roles] {column}: " if in_file.get(column) == role else ""
            raise ConfigError(f"{place}Unknown role {role!r}.{did_you_mean(role, ROLES)} Roles: {', '.join(ROLES)}.")
        pairs[column] = role
    return replace(DataConfig() if data is None else data, roles=pairs)


def configured_cache(folder: Path | None, limit: float) -> "Cache | None":
    """The cache described by --cache and --cache-gb, for commands that only predict: it waits for no other process."""
    from mixfit.data.photos.records import Cache

    settings = DataConfig(cache=folder, cache_gb=limit)
    found = Cache.configured(settings, warn=lambda text: print(f" {text}"), progress=sys.stdout.isatty())
    return None if found is None else replace(found, wait=False)


@contextmanager
def chosen_engine(name: EngineName, workers: int | None = None) -> Iterator["Engine"]:
    """The engine of --engine; Ray is loaded and started only if it is asked for.

    Raises:
        ConfigError: --workers without ray, or below 1.
        ResourceError: Ray is not installed.
    """
    if workers is not None and (name != "ray" or workers < 1):
        raise ConfigError(f"--workers is a number of processes of --engine ray, from 1, got {workers} for {name}.")
    if name == "local":
        from mixfit.auto.engine import LOCAL

        yield LOCAL
        return
    from mixfit.console import PlainConsole
    from mixfit.distributed.ray_engine import RayEngine

    with RayEngine(workers=workers, console=PlainConsole()) as engine:
        yield engine


@contextmanager
def chosen_fits(name: EngineName, *, quiet: bool = False) -> Iterator["Fits | None"]:
    """Where --engine fits models; None for this process.

    Raises:
        ResourceError: Ray is not installed.
    """
    if name == "local":
        yield None
        return
    from mixfit.console import PlainConsole
    from mixfit.distributed.ray_fits import RayFits

    with RayFits(console=None if quiet else PlainConsole()) as fits:
        yield fits


@contextmanager
def chosen_trials(name: EngineName) -> Iterator["TrialEngine | None"]:
    """Where --engine runs the trials of a search; None for this process.

    Raises:
        ResourceError: Ray is not installed.
    """
    if name == "local":
        yield None
        return
    from mixfit.console import PlainConsole
    from mixfit.distributed.ray_tune import RayTrials

    with RayTrials(console=PlainConsole()) as engine:
        yield engine


def shown_command(arguments: list[str]) -> str:
    """The command as typed, without absolute paths, as reports are shared."""
    return shlex.join(["mixfit", *map(_without_folders, arguments)])


def _without_folders(word: str) -> str:
    """Shorten a path that leaves the current folder to its last part, also after ``--flag=``."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = Path(value)
    return f"{flag}{equals}{path.name if path.is_absolute() or '..' in path.parts else value}"
