"""Damaged and hostile run folders: one random change of one of their files, and what the commands that read it say.

In: the folder of a finished run and a random generator. Out: what was changed, and an ``Ending`` of a command. Used in
a small way by ``tests/faults/test_faults_folders.py``, for as long as one likes by ``benchmarks/check_folders.py``."""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import threading
import time
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import tomli_w
import torch
from rich.console import Console
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mixfit.auto import recipe
from mixfit.errors import MixfitError
from mixfit.files import SUMS
from mixfit.runs import comparison, explaining, scoring
from mixfit.runs.report.page import rewrite_report

SECONDS = 2.0
"""Of the processor that a refusal may take; one that takes longer is asked again, as the first command of a process
loads libraries, too. They are those of a quiet machine: other processes slow this one down."""
_TASK, _TASK_SECONDS = 1_000_000, 0.06
"""Squares that are summed, and the seconds that this takes on a quiet machine."""
_HANGS_AFTER = 20.0  # seconds
_MEMORY = 6 * 2**30  # bytes beside those that the process has already
_DEEP = "@deep@"
_RAW = {"@nan@": "NaN", "@inf@": "Infinity", "@1e999@": "1e999", "@digits@": "9" * 5000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A run folder as its training left it, and tables for the commands."""

    run: Path
    table: Path
    """That of the training."""
    few: Path
    """Some of its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command ended."""

    command: str
    error: BaseException | None
    seconds: float
    """Of the processor; of a slow refusal those of a quiet machine."""

    @property
    def fault(self) -> str:
        """What is wrong with that; "" if nothing is."""
        if self.error is None:
            return ""
        if not isinstance(self.error, MixfitError):
            last = traceback.extract_tb(self.error.__traceback__)
            ours = [frame for frame in last if f"{os.sep}mixfit{os.sep}" in frame.filename] or last
            place = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "nowhere"
            return f"{type(self.error).__name__} in {place}"
        if "\n" in str(self.error):
            return "more than one line"
        if self.error.exit_code != 3:
            return f"exit {self.error.exit_code}"
        return f"took {self.seconds:.1f} s" if self.seconds > SECONDS else ""


class Hang(BaseException):
    """A command that does not come to an end."""


def copy_of(run: Path, folder: Path) -> Path:
    """A copy whose files are links to the same bytes; a file that is changed is replaced first."""
    copy = folder / run.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy, copy_function=os.link)
    (copy / SUMS).unlink(missing_ok=True)  # or no damage would get further than to it
    return copy


def files_of(run: Path) -> list[str]:
    """Every file that a command reads, by its name in the folder."""
    found = [str(path.relative_to(run)) for path in sorted(run.rglob("*")) if path.is_file()]
    return [name for name in found if not name.endswith((".html", "README.md", ".lock", "explain.json"))]


def commands_for(name: str) -> list[str]:
    """The commands that read a file of a run folder."""
    if name.startswith("model/"):
        return ["predict", "evaluate", "explain", "compare"]
    if name.startswith("report_files/") or name in ("results.json", "report.json", "history.csv", "bad_inputs.csv"):
        return ["report"]
    if name == "split.parquet":
        return ["evaluate", "explain"]
    if name.startswith("predictions_"):
        return ["report", "compare"]
    if name == "schema.json":
        return ["report", "compare", "resume"]
    if name.startswith(("checkpoints/", "candidates/")):
        return ["resume"]
    return ["evaluate", "explain", "compare", "resume"]


def end_of(command: str, subject: Subject, run: Path, folder: Path) -> Ending:
    """Run a command on a folder, in this process.

    Args:
        folder: where it may write."""
    quiet, out = Console(quiet=True), folder / "out.csv"
    images = subject.table.parent
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: scoring.predict_table(run, subject.few, out=out, images=images, console=quiet, interval=0.5),
        "evaluate": lambda: scoring.evaluate_table(run, subject.table, out=folder / "metrics.json", console=quiet),
        "explain": lambda: explaining.explain_run(
            run, n=2, table=subject.table, out=folder / "explained", console=quiet
        ),
        "compare": lambda: comparison.compare_runs(
            [run, subject.run], table=subject.table, out=folder / "compare.html", console=quiet
        ),
        "report": lambda: rewrite_report(run),
        "resume": lambda: _resume(run, quiet),
    }
    if command == "predict" and json.loads((subject.run / "model" / "mixfit.json").read_text())["kind"] == "network":
        calls["predict"] = lambda: scoring.predict_table(run, subject.few, out=out, images=images, console=quiet)
    error, seconds = _timed(calls[command])
    if isinstance(error, MixfitError) and seconds > SECONDS:
        slowness = _slowness()
        error, seconds = _timed(calls[command])
        seconds /= max(slowness, _slowness())
    return Ending(command=command, error=error, seconds=seconds)


def _slowness() -> float:
    """How many times as long a fixed task takes as on a quiet machine; at least 1."""
    started = time.process_time()
    sum(place * place for place in range(_TASK))
    return max(1.0, (time.process_time() - started) / _TASK_SECONDS)


def _timed(call: Callable[[], object]) -> tuple[BaseException | None, float]:
    """What a call raises, and its seconds of the processor."""
    started = time.process_time()
    try:
        with _bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numbers that overflow are no concern here
            call()
    except (Exception, Hang) as raised:
        return raised, time.process_time() - started
    return None, time.process_time() - started


def _resume(run: Path, console: Console) -> None:
    """All that is read before the training goes on; that itself is known to work."""

    class Reached(Exception):  # noqa: N818 - it is none
        """Everything was read."""

    with suppress(Reached), patch.object(recipe, "_train_and_judge", side_effect=Reached):
        recipe.resume(run, console=console)


@contextmanager
def _bounded() -> Iterator[None]:
    """No command takes all memory or all day."""

    def stop(*_: object) -> None:
        raise Hang(f"not at its end after {_HANGS_AFTER:.0f} s")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = signal.signal(signal.SIGUSR1, stop)
    alarm = threading.Timer(
        _HANGS_AFTER, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    )
    alarm.daemon = True
    alarm.start()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, limits[1]))
    try:
        yield
    finally:
        alarm.cancel()
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGUSR1, before)


def change(run: Path, name: str, rng: random.Random) -> str:
    """Change one file of a run folder; says how."""
    path = run / name
    if rng.random() < 0.2:
        return f"{name}: {_other_file(path, rng)}"
    kinds: dict[str, Callable[[Path, random.Random], str]] = {
        ".json": _change_json,
        ".jsonl": _change_json_lines,
        ".safetensors": _change_tensors,
        ".parquet": _change_parquet,
        ".toml": _change_toml,
        ".csv": _change_csv,
    }
    how = kinds.get(path.suffix, _other_file)
    return f"{name}: {how(path, rng)}"


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _other_file(path: Path, rng: random.Random) -> str:
    """What can happen to a file of any kind."""
    content = path.read_bytes()
    place = rng.randrange(len(content) + 1)
    ways = ["truncated", "emptied", "garbage", "flipped", "FIFO", "folder", "link out", "link to itself", "endless"]
    way = rng.choice([*ways, "huge", "removed"])
    path.unlink()
    match way:
        case "truncated":
            path.write_bytes(content[:place])
        case "emptied":
            path.write_bytes(b"")
        case "garbage":
            path.write_bytes(rng.randbytes(200))
        case "flipped":
            place = min(place, max(len(content) - 1, 0))
            path.write_bytes(content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :])
        case "FIFO":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link out":
            path.symlink_to("/etc/passwd")
        case "link to itself":
            path.symlink_to(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "huge":
            path.write_bytes(content)
            os.truncate(path, 2**40)
    return f"{way} {place if way in ('truncated', 'flipped') else ''}".strip()


def _value(rng: random.Random, old: Any) -> Any:
    """Another value in its place."""
    chosen: list[Any] = [None, True, False, 0, -1, 1, 2, 7, 10**6, 2**31, 2**63, 10**400, -0.5, 1.5, 1e308, 5e-324]
    chosen += [
        *_RAW,
        _DEEP,
        "",
        "x",
        "a",
        "b",
        "../x",
        "\0",
        "\ud800",
        "<img src=x>",
        "9" * 30,
        [],
        {},
        [[]],
        [1],
        {"x": 1},
    ]
    if isinstance(old, int | float) and not isinstance(old, bool):
        chosen += [old + 1, -old, old * 2, old // 2, str(old), float(old)] * 2
    if isinstance(old, str):
        chosen += [old * 2, old[:-1], old.upper(), old.encode().hex()] * 2
    if isinstance(old, list):
        chosen += [old[:-1], old + old[-1:], old[::-1], [*old, None], old * 2] * 3
    if isinstance(old, dict):
        chosen += [old | {"extra": 1}, dict(list(old.items())[1:]), list(old.items()), list(old.values())] * 3
    return rng.choice(chosen)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all that is in a nested value."""
    found = [at]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found += _places(part, (*at, key))
    return found


def _changed(value: Any, rng: random.Random) -> tuple[Any, str]:
    """With one part replaced, removed, or under another name."""
    places = _places(value)
    # As many keys are looked at as are named differently, so that long lists do not take all turns.
    by_shape: dict[str, list[tuple[Any, ...]]] = {}
    for at in places:
        by_shape.setdefault("/".join("#" if isinstance(key, int) else str(key) for key in at), []).append(at)
    at = rng.choice(by_shape[rng.choice(sorted(by_shape))])
    if not at:
        new = _value(rng, value)
        return new, f"all of it is {str(new)[:60]!r}"
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    last, where = at[-1], "/".join(map(str, at))
    if rng.random() < 0.15:
        del inner[last]
        return value, f"{where} is removed"
    new = _value(rng, inner[last])
    inner[last] = new
    return value, f"{where} is {str(new)[:60]!r}"


def _json_text(value: Any) -> bytes:
    text = json.dumps(value)
    for mark, raw in _RAW.items():
        text = text.replace(f'"{mark}"', raw)
    return text.replace(f'"{_DEEP}"', "[" * 100_000 + "]" * 100_000).encode()


def _change_json(path: Path, rng: random.Random) -> str:
    new, how = _changed(json.loads(path.read_text(encoding="utf-8")), rng)
    _replace(path, _json_text(new))
    return how


def _change_json_lines(path: Path, rng: random.Random) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    place = rng.randrange(len(lines))
    new, how = _changed(json.loads(lines[place]), rng)
    written = [line.encode() for line in lines]
    written[place] = _json_text(new)
    _replace(path, b"\n".join(written) + b"\n")
    return how


def _change_toml(path: Path, rng: random.Random) -> str:
    new, how = _changed(tomllib.loads(path.read_text(encoding="utf-8")), rng)
    if not isinstance(new, dict):
        new = {"x": 1}
    text = b'x = "unwritable"'
    with suppress(TypeError, ValueError):
        text = tomli_w.dumps(new).encode("utf-8", "surrogateescape")
    for mark, raw in {"@nan@": b"nan", "@inf@": b"inf", "@1e999@": b"1e999", "@digits@": b"9" * 5000}.items():
        text = text.replace(f'"{mark}"'.encode(), raw)
    _replace(path, text.replace(f'"{_DEEP}"'.encode(), b"[" * 3000 + b"]" * 3000))
    return how


def _change_csv(path: Path, rng: random.Random) -> str:
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    place = rng.randrange(len(rows))
    cell = rng.randrange(len(rows[place]))
    new = rng.choice(
        ["", "x", "\0", '"', "1,2", "-1", "1e999", "nan", "9" * 40, "9" * 5000, "\n\n", "epoch", "\x1b", "0"]
    )
    rows[place][cell] = new
    _replace(path, "\n".join(",".join(row) for row in rows).encode())
    return f"cell {place}, {cell} is {new[:20]!r}"


def _change_parquet(path: Path, rng: random.Random) -> str:
    frame = pd.read_parquet(path)
    column = rng.choice(list(frame.columns))
    ways = [
        "removed",
        "text",
        "nan",
        "none",
        "negative",
        "huge",
        "infinite",
        "half the rows",
        "no rows",
        "twice the rows",
    ]
    way = rng.choice([*ways, "lists", "renamed", "bytes", "dates", "duplicate rows", "booleans", "one other", "extra"])
    values = frame[column]
    match way:
        case "removed":
            frame = frame.drop(columns=column)
        case "text":
            frame[column] = [f"x{place}" for place in range(len(frame))]
        case "nan":
            frame[column] = np.nan
        case "none":
            frame[column] = pd.Series([None] * len(frame), dtype=object)
        case "negative" if values.dtype.kind in "if":
            frame[column] = -values - 1
        case "huge":
            frame[column] = 2**62
        case "infinite":
            frame[column] = np.inf
        case "half the rows":
            frame = frame.head(len(frame) // 2)
        case "no rows":
            frame = frame.head(0)
        case "twice the rows":
            frame = pd.concat([frame, frame], ignore_index=True)
        case "lists":
            frame[column] = [[1, 2]] * len(frame)
        case "renamed":
            frame = frame.rename(columns={column: "x"})
        case "bytes":
            frame[column] = [b"x"] * len(frame)
        case "dates":
            frame[column] = pd.Timestamp("2024-01-01")
        case "duplicate rows":
            frame = pd.concat([frame.head(1)] * len(frame), ignore_index=True)
        case "booleans":
            frame[column] = True
        case "one other":
            frame[column] = values.astype(object)
            frame.loc[rng.randrange(len(frame)), column] = None
        case "extra":
            frame["extra"] = 1
    path.unlink()
    frame.to_parquet(path)
    return f"column {column} {way}"


def _change_tensors(path: Path, rng: random.Random) -> str:
    if rng.random() < 0.1:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + size]
        header = header.replace(
            *rng.choice([(b"F32", b"F64"), (b"[0,", b"[1,"), (b"shape", b"shape2"), (b"{", b"[", 1)])
        )
        how, content = "another header", len(header).to_bytes(8, "little") + header + content[8 + size :]
    else:
        tensors = load_tensors(path.read_bytes())
        how = _change_one(tensors, rng)
        content = save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()})
    _replace(path, content)
    _sign(path, content)
    return how


def _unsigned(path: Path) -> dict[str, Any]:
    """What a description says, without the sum of it."""
    said: dict[str, Any] = json.loads(path.read_text())
    said.pop("description_sha256", None)
    return said


def _sign(path: Path, content: bytes) -> None:
    """As one who wants to be believed: with the sum of what was changed."""
    digest = hashlib.sha256(content).hexdigest()
    described, listed = path.parent / "mixfit.json", path.parent / "MANIFEST.json"
    if described.is_file():
        _replace(described, json.dumps(_unsigned(described) | {"weights_sha256": digest}).encode())
    if listed.is_file():
        _replace(listed, json.dumps(json.loads(listed.read_text()) | {path.name: digest}).encode())


def _change_one(tensors: dict[str, torch.Tensor], rng: random.Random) -> str:
    # Those that differ but in their numbers count as one, so that the many of a backbone do not take all turns.
    by_shape: dict[str, list[str]] = {}
    for known in tensors:
        by_shape.setdefault("".join(c for c in known if not c.isdigit()), []).append(known)
    name = rng.choice(by_shape[rng.choice(sorted(by_shape))])
    tensor = tensors[name]
    ways = [
        "half",
        "longer",
        "turned",
        "flat",
        "scalar",
        "empty",
        "integers",
        "float16",
        "float64",
        "uint8",
        "booleans",
    ]
    ways += ["nan", "inf", "minus inf", "huge", "negative", "zero", "ones", "removed", "renamed", "extra", "deep"]
    way = rng.choice(ways)
    changed: dict[str, Callable[[], torch.Tensor]] = {
        "half": lambda: tensor[: len(tensor) // 2] if tensor.ndim else tensor[None],
        "longer": lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor[None],
        "turned": lambda: tensor.T if tensor.ndim == 2 else tensor[None],
        "flat": tensor.flatten,
        "scalar": lambda: tensor.flatten()[:1].sum(),
        "empty": lambda: tensor.flatten()[:0],
        "integers": lambda: tensor.nan_to_num().long(),
        "float16": tensor.half,
        "float64": tensor.double,
        "uint8": lambda: torch.ones(tensor.shape, dtype=torch.uint8),
        "booleans": tensor.bool,
        "nan": lambda: torch.full(tensor.shape, float("nan")).to(tensor.dtype),
        "inf": lambda: torch.full(tensor.shape, float("inf"), dtype=torch.float64).to(tensor.dtype),
        "minus inf": lambda: torch.full(tensor.shape, -float("inf"), dtype=torch.float64).to(tensor.dtype),
        "huge": lambda: torch.full(tensor.shape, 1e30).to(tensor.dtype),
        "negative": lambda: -tensor.double().to(tensor.dtype) - 1 if tensor.dtype != torch.bool else ~tensor,
        "zero": lambda: torch.zeros_like(tensor),
        "ones": lambda: torch.ones_like(tensor),
        "deep": lambda: tensor[(None,) * 6],
    }
    if way in changed:
        tensors[name] = changed[way]()
    elif way == "extra":
        tensors[f"{name}.extra"] = torch.ones(3)
    else:
        del tensors[name]
        if way == "renamed":
            tensors[f"{name}x"] = tensor
    return f"tensor {name} {way}"


def one_change(
    subjects: Sequence[Subject], folder: Path, rng: random.Random, *, only: str = "", every: bool = False
) -> tuple[str, list[Ending]]:
    """Change a copy of one of the runs, and let commands read it: one, or ``every`` one that reads the file.

    Args:
        only: beginning of the names of the files to choose from.
    """
    subject = rng.choice(subjects)
    run = copy_of(subject.run, folder)
    names: dict[str, list[str]] = {}
    for name in files_of(run):
        if not name.startswith(only):
            continue
        names.setdefault("/".join(name.split("/")[:1]) if "/" in name else name, []).append(name)
    name = rng.choice(names[rng.choice(sorted(names))])
    how = change(run, name, rng)
    commands = commands_for(name)
    # No file, or no row to compare, is what a run folder may be like that is not finished.
    lacks = how.endswith((": removed", "no rows"))
    endings = []
    for command in commands if every else [rng.choice(commands)]:
        ending = end_of(command, subject, run, folder)
        gone = lacks and isinstance(ending.error, MixfitError) and ending.error.exit_code == 2
        endings.append(Ending(command=command, error=None, seconds=0.0) if gone else ending)
    return f"{subject.run.name}/{how}", endings
