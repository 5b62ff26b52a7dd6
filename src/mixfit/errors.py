"""The errors that mixfit raises on purpose; each knows the exit code of the command line.

Every message says how many, which one (row, column, file) and what to do, in one sentence.
Imports nothing."""


class MixfitError(Exception):
    """Base of all errors raised on purpose; anything else that escapes is a bug of ours."""

    exit_code = 1


class ConfigError(MixfitError, ValueError):
    """A wrong setting, flag, column name or argument."""

    exit_code = 2


class DataError(MixfitError, ValueError):
    """A table, photo or saved model that cannot be used as it is."""

    exit_code = 3


class ResourceError(MixfitError, RuntimeError):
    """Not enough disk or memory, or a file that cannot be written."""

    exit_code = 4


class Diverged(MixfitError, ArithmeticError):  # noqa: N818 - named for what happened to the training
    """The training loss is no longer finite."""

    exit_code = 5


class Stopped(MixfitError):  # noqa: N818
    """A signal ended the training in between; what was learned is saved."""

    exit_code = 75
