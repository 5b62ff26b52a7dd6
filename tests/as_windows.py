"""Runs a small training and its predictions without what Windows lacks. Usage: python as_windows.py FOLDER PRESET

Taken away: functions and flags of ``os``, signals, modules; opening a folder, and removing or replacing a file that is
open. Third-party libraries are loaded before, as they have been built for this system. What this cannot show: other
paths, other file systems, other libraries."""

import builtins
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import cyclopts  # noqa: F401
import lightgbm  # noqa: F401
import matplotlib.font_manager  # noqa: F401
import narwhals  # noqa: F401
import pandas as pd
import rich.progress  # noqa: F401
import sklearn.ensemble  # noqa: F401
import timm  # noqa: F401
import torch  # noqa: F401
from matplotlib.figure import Figure

LACKING = {
    os: (
        "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_TMPFILE O_SYNC fork forkpty pread preadv pwrite pwritev fchmod "
        "posix_fallocate sched_getaffinity sched_setaffinity uname getuid geteuid nice mkfifo sync killpg"
    ),
    signal: "SIGALRM SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGQUIT SIGPIPE setitimer alarm pthread_kill sigwait",
}
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "posix")


def take_away() -> None:
    """What Windows lacks."""
    Figure().savefig(os.devnull, format="png")
    for module, names in LACKING.items():
        for name in names.split():
            vars(module).pop(name, None)
    sys.modules.update(dict.fromkeys(MODULES))  # type: ignore[arg-type]
    sys.platform = "win32"
    vars(shutil)["_use_fd_functions"] = False  # of rmtree, which Windows lacks
    _refuse_what_is_open("unlink", "remove", "replace", "rename", "link")
    opened = os.open

    def open_no_folders(path: Any, flags: int, *further: Any, **named: Any) -> int:
        if isinstance(path, str | os.PathLike) and Path(path).is_dir():
            raise PermissionError(13, "a folder, on Windows", str(path))
        return opened(path, flags, *further, **named)

    os.open = open_no_folders  # type: ignore[assignment]


def _refuse_what_is_open(*names: str) -> None:
    def is_open(path: Any) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        folder, found = "/proc/self/fd", os.path.realpath(os.path.dirname(os.fspath(path)))  # noqa: PTH120
        whole = os.path.join(found, os.path.basename(os.fspath(path)))  # noqa: PTH118, PTH119
        for handle in os.listdir(folder):  # noqa: PTH208
            try:
                if os.readlink(f"{folder}/{handle}") == whole:  # noqa: PTH115
                    return True
            except OSError:
                continue
        return False

    for name in names:
        former = getattr(os, name)

        def refusing(path: Any, *further: Any, _former: Any = former, _name: str = name, **named: Any) -> Any:
            for one in (path, *(further[:1] if _name in ("replace", "rename") else ())):
                if is_open(one):
                    raise PermissionError(32, f"{_name} of an open file, on Windows", str(one))
            return _former(path, *further, **named)

        setattr(os, name, refusing)


def run(folder: Path, preset: str) -> None:
    """Train, resume, predict, explain and report, from the command line's functions."""
    from mixfit.cli import main
    from mixfit.demo import write_demo

    table = write_demo(folder / "vases", rows=40)
    out = folder / "runs"

    def call(*words: object) -> None:
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"{words}: exit code {stop.code}") from None

    if preset != "network":
        call("check")
    call("inspect", table, "--target", "price")
    small = ("--preset", preset, "--epochs", 1, "--image-size", 32, "--tabular", "mlp")
    call("train", table, "--target", "price", *small, "--out", out, "--track", "tensorboard")
    (made,) = out.iterdir()
    call("train", "--resume", made)
    call("predict", made, table, "-o", folder / "predictions.csv")
    call("evaluate", made, table, "--split", "test")
    call("report", made)
    call("cache")
    assert len(pd.read_csv(folder / "predictions.csv")) == 40
    builtins.print("done")


if __name__ == "__main__":
    take_away()
    run(Path(sys.argv[1]), sys.argv[2])
