"""The command line: typed functions that call the package; a user's mistake is reported in one sentence.

Heavy imports stay inside the commands, so that ``mixfit --help`` starts fast."""

import io
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import mixfit
from mixfit import config_file
from mixfit.cli.cache import cache
from mixfit.cli.check import check
from mixfit.cli.compare import compare
from mixfit.cli.embed import embed
from mixfit.cli.evaluate import evaluate
from mixfit.cli.explain import explain
from mixfit.cli.export import export
from mixfit.cli.inspect import inspect
from mixfit.cli.predict import predict
from mixfit.cli.report import report
from mixfit.cli.serve import serve
from mixfit.cli.train import demo, train
from mixfit.cli.tune import config, tune
from mixfit.errors import ConfigError, MixfitError, ResourceError, Stopped

app = App(
    name="mixfit",
    version=mixfit.__version__,
    help="Train one model on table rows together with their texts and photos.\n\nStart with: mixfit demo",
    help_epilogue="Exit codes: 0 ok, 1 bug in mixfit, 2 usage, 3 data, 4 resources, 5 diverged, "
    "75 stopped and saved, 130 interrupted.",
    config=config_file.lay_under,
    suppress_keyboard_interrupt=False,  # cyclopts would exit with 130 and no message
)

COMMANDS = (
    demo,
    inspect,
    train,
    tune,
    config,
    embed,
    evaluate,
    compare,
    explain,
    predict,
    export,
    serve,
    report,
    cache,
    check,
)
for command in COMMANDS:
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # damage is reported anyway
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without "²" shows "?" in its place
            stream.reconfigure(errors="replace")
    sys.exit(_run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except MixfitError as error:
        if isinstance(error, Stopped) and os.environ.get("RANK", "0") != "0":
            return error.exit_code  # the first of several processes says it
        return _fail(str(error), error.exit_code)
    except MemoryError as error:
        return _fail(_out_of_memory(error), ResourceError.exit_code)
    except CycloptsError as error:
        # A value that a dataclass rejected arrives wrapped; the original message is clearer.
        cause = error.__cause__
        if cause is not None and not isinstance(cause, MixfitError) and _came_through_mixfit(cause):
            return _report_bug()
        return _fail(str(cause if isinstance(cause, MixfitError) else error), ConfigError.exit_code)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    except BrokenPipeError:
        # The reader of our output has closed the pipe, as in `mixfit inspect ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "torch" in sys.modules:
            from mixfit.training.device import is_out_of_memory

            if is_out_of_memory(error):
                return _fail(_out_of_memory(error), ResourceError.exit_code)
        return _report_bug()
    return 0


def _out_of_memory(error: Exception) -> str:
    said = str(error).partition("\n")[0].rstrip(".")
    return (
        f"there is not enough memory{f' ({said})' if said else ''}: use fewer rows or columns, --preset quick, "
        "or a machine with more memory."
    )


def _fail(message: str, code: int) -> int:
    print(f"mixfit: {message}", file=sys.stderr)
    return code


def _came_through_mixfit(error: BaseException) -> bool:
    """Whether mixfit's code is in the traceback, not only a library's."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module == "mixfit" or module.startswith("mixfit.") for module in modules)


def _report_bug() -> int:
    """Write the traceback to a log file and print one sentence."""
    with tempfile.NamedTemporaryFile("w", prefix="mixfit-error-", suffix=".log", delete=False) as log:
        traceback.print_exc(file=log)
    return _fail(
        f"this is a bug in mixfit, not your mistake: {sys.exc_info()[1]!r}. Please report it together with {log.name}.",
        1,
    )
