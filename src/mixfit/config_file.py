"""Settings in a TOML file: read, used as defaults of the command-line flags, and printed with explanations.

The format is that of a run folder's ``config.toml``: ``table``, ``target`` and optionally ``schema``, then the sections
``[data]``, ``[model]`` and ``[train]`` with the fields of the configuration. Missing fields have their defaults.
Imports nothing that is slow to load."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w
from cyclopts import App, ArgumentCollection, Token

from mixfit.config import KIND_NAMES, DataConfig, ModelConfig, TrainConfig
from mixfit.errors import ConfigError, DataError, did_you_mean
from mixfit.files import read_toml

SECTIONS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
TOP = ("table", "target", "schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The content of a configuration file."""

    table: Path | None
    """As written in the file; relative to the current folder."""
    target: str | None
    schema: Path | None
    """A schema.json with the roles of the columns, relative to the current folder."""
    data: DataConfig
    model: ModelConfig
    train: TrainConfig


def read_config(path: Path) -> Settings:
    """Read a configuration file and check all of it.

    Raises:
        ConfigError: the file does not exist, is not TOML, or has a wrong section, key, type or value; the message
            names the file and the key.
    """
    said = _read_toml(path)
    _check_names(path, "", said, [*TOP, *SECTIONS])
    built = {name: _build(path, name, config, said.get(name, {})) for name, config in SECTIONS.items()}
    table, schema = (_convert(path, name, Path, said[name]) if name in said else None for name in ("table", "schema"))
    target = _convert(path, "target", str, said["target"]) if "target" in said else None
    return Settings(table=table, target=target, schema=schema, **built)


def lay_under(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every argument that was not typed its value in the file of ``--config``; a hook for ``App(config=...)``.

    ``--set`` overrides the file's roles column by column."""
    by_name = {argument.field_info.name: argument for argument in arguments if not argument.keys}
    if "config" not in by_name or not by_name["config"].tokens:
        return
    path = Path(by_name["config"].tokens[-1].value)
    read_config(path)
    said = _read_toml(path)
    roles = said.get("data", {}).pop("roles", {})
    given: dict[tuple[str, ...], Any] = {(key,): said[key] for key in TOP if key in said}
    for section, config in SECTIONS.items():
        given |= _leaves(path, section, config, said.get(section, {}))
    for argument in arguments:
        place = argument.keys or (argument.field_info.name,)
        if place in given and not argument.children and not argument.has_tokens:
            argument.append(_token(given[place], path))
    if "set_" in by_name:
        texts = [f"{column}={role}" for column, role in roles.items()]
        texts += [token.value for token in by_name["set_"].tokens]
        by_name["set_"].tokens = [Token(keyword="--set", value=text, index=at) for at, text in enumerate(texts)]


@contextmanager
def naming_the_file(path: Path | None, **used: Any) -> Iterator[None]:
    """Name the file and the key in an error about a setting that is only found wrong once the table is read.

    An error is about a setting if it names it together with its value, as in "task binary", or if the first text that
    it quotes is the value; about a path, if it names a path that does not exist. Settings that a flag overrides are
    not blamed.

    Args:
        path: the configuration file; None without one.
        used: what the block uses: ``table``, ``target``, ``schema`` and the sections.
    """
    try:
        yield
    except (ConfigError, DataError) as error:
        blamed = [] if path is None else [key for key, *one in _said(path, used) if _is_about(str(error), *one)]
        if not blamed:
            raise
        raise type(error)(f"{path}: {' and '.join(blamed)}: {error}") from error


def _said(path: Path, used: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Place, name and value of each setting of a file that is used as it stands there; a role by its column."""
    settings, said = read_config(path), _read_toml(path)

    def inside(place: str, keys: Mapping[str, Any], mine: Any, theirs: Any) -> Iterator[tuple[str, str, Any]]:
        for key, value in keys.items():
            found, in_use = getattr(mine, key), getattr(theirs, key)
            if isinstance(found, dict):
                for column, role in found.items():
                    if in_use.get(column) == role:
                        yield (f"[{place}.{key}] {column}", column, column)
            elif is_dataclass(found):
                yield from inside(f"{place}.{key}", value, found, in_use)
            elif found == in_use:
                yield (f"[{place}] {key}", key, found)

    for key, value in said.items():
        mine, theirs = getattr(settings, key), used.get(key)
        if key in SECTIONS:
            yield from inside(key, value, mine, SECTIONS[key]() if theirs is None else theirs)
        elif mine == theirs:
            yield (key, key, mine)


def _is_about(message: str, name: str, value: Any) -> bool:
    """Whether an error is about a setting, see ``naming_the_file``."""
    if isinstance(value, Path):
        return re.search(rf"(?<!\S){re.escape(str(value))}(?!\w)", message) is not None and not value.exists()
    values = [one for one in (value if isinstance(value, tuple) else [value]) if isinstance(one, str)]
    quoted = re.search(r"'([^']*)'", message)
    named = re.escape(name).replace("_", "[_-]")
    return any(
        (quoted is not None and quoted[1] == one) or re.search(rf"\b{named} {re.escape(one)}(?!\w)", message)
        for one in values
    )


def describe_settings() -> str:
    """All settings with their defaults and explanations, as a TOML file that ``read_config`` accepts."""
    lines = [
        "# All settings of mixfit train with their defaults; lines that begin with #: have no default.",
        "# Use: mixfit train --config FILE; flags override the file. Paths are relative to the current folder.",
        '#: table = "TABLE"',
        '#: target = "COLUMN"',
    ]
    for name, config in SECTIONS.items():
        lines += ["", f"# {inspect.getdoc(config)}", f"[{name}]"]
        lines += _described(name, config)
    return "\n".join(lines) + "\n"


def field_sentences(config: type) -> dict[str, str]:
    """The docstring of each field of a class, which Python itself does not keep."""
    (body,) = ast.parse(inspect.getsource(config)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())  # each becomes one line of a comment
    return found


def _described(section: str, config: type) -> Iterator[str]:
    """The lines of a section; its subsections come last, as TOML requires."""
    hints, sentences = get_type_hints(config), field_sentences(config)
    inner = []
    for field in fields(config):
        hint, default = hints[field.name], _default(field)
        if is_dataclass(hint) or get_origin(hint) is dict:
            inner.append((field.name, hint))
            continue
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        told = all(choice in sentences[field.name] for choice in choices)
        yield f"# {sentences[field.name]}" + ("" if told else f" One of {', '.join(choices)}.")
        yield f"#: {field.name} = {_example(hint)}" if default is None else _line(field.name, default)
    for name, hint in inner:
        yield from ("", f"# {sentences[name]}")
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield f"[{section}.{name}]"
            yield from _described(f"{section}.{name}", hint)
        else:
            yield from (f"#: [{section}.{name}]", '#: COLUMN = "ROLE"')


def _line(name: str, value: Any) -> str:
    return tomli_w.dumps({name: list(value) if isinstance(value, tuple) else value}).strip()


def _example(hint: Any) -> str:
    """An example value of a type."""
    kind = _without_none(hint)
    if get_origin(kind) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(kind))
    if get_origin(kind) is tuple:
        inner = _example(get_args(kind)[0])
        return f"[{inner}, {inner}]"
    return {bool: "true or false", int: "8", float: "1.0", str: '"TEXT"', Path: '"PATH"'}[kind]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except DataError as error:
        raise ConfigError(f"The configuration file {error}") from error


def _build(path: Path, section: str, config: type, said: Any) -> Any:
    """The configuration of one section."""
    if not isinstance(said, dict):
        raise ConfigError(f"{path}: {section} must be a section [{section}], got {said!r}.")
    _check_names(path, section, said, _field_names(config))
    hints = get_type_hints(config)
    values = {key: _convert(path, f"[{section}] {key}", hints[key], value) for key, value in said.items()}
    try:
        return config(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: [{section}] {error}") from error


def _check_names(path: Path, section: str, said: Mapping[str, Any], known: Sequence[str]) -> None:
    for name, value in said.items():
        if name in known:
            continue
        kind = f"section [{name}]" if isinstance(value, dict) and not section else f"key {name!r}"
        place = f" in [{section}]" if section else ""
        home = next((other for other, config in SECTIONS.items() if name in _field_names(config)), None)
        hint = f" It belongs to [{home}]." if home else did_you_mean(name, known)
        raise ConfigError(f"{path}: unknown {kind}{place}.{hint} Known are: {', '.join(known)}.")


def _convert(path: Path, place: str, hint: Any, value: Any) -> Any:
    """Convert a TOML value to the type of its field."""
    kind = _without_none(hint)
    match get_origin(kind) or kind:
        case found if found is Literal:
            choices = get_args(kind)
            if value in choices:
                return value
            close = did_you_mean(value, choices) if isinstance(value, str) else ""
            raise ConfigError(f"{path}: {place} must be one of {', '.join(choices)}, got {value!r}.{close}")
        case found if found is tuple and isinstance(value, list):
            return tuple(_convert(path, place, get_args(kind)[0], part) for part in value)
        case found if found is dict and isinstance(value, dict):
            inner = get_args(kind)[1]
            return {key: _convert(path, f"{place}.{key}", inner, part) for key, part in value.items()}
        case found if found in (tuple, dict):
            raise ConfigError(f"{path}: {place} must be {'a list' if found is tuple else 'a section'}, got {value!r}.")
        case found if is_dataclass(found):
            return _build(path, place.removeprefix("[").replace("] ", "."), kind, value)
        case found:
            wanted = {Path: str, float: float | int}.get(found, found)
            if isinstance(value, wanted) and isinstance(value, bool) == (found is bool):
                return found(value)
            raise ConfigError(f"{path}: {place} must be {KIND_NAMES[found]}, got {value!r}.")


def _leaves(path: Path, section: str, config: type, said: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Converted values by their keys in cyclopts, such as ``("text", "sep")``."""
    found: dict[tuple[str, ...], Any] = {}
    hints = get_type_hints(config)
    for key, value in said.items():
        if is_dataclass(hints[key]):
            assert isinstance(hints[key], type)
            found |= {(key, *inner): leaf for inner, leaf in _leaves(path, section, hints[key], value).items()}
        else:
            found[key,] = _convert(path, f"[{section}] {key}", hints[key], value)
    return found


def _token(value: Any, path: Path) -> Token:
    """Strings are converted as if they were typed; other values are passed as they are."""
    if isinstance(value, str):
        return Token(value=value, source=str(path))
    return Token(implicit_value=value, source=str(path))


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        (kind,) = (part for part in get_args(hint) if part is not type(None))
        return kind
    return hint


def _field_names(config: type) -> list[str]:
    return [field.name for field in fields(config)]


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
