"""The console that commands write to: plain long lines, no colouring of numbers, quiet when its reader goes away."""

from rich.console import Console


class PlainConsole(Console):
    """Writes lines as they are; a closed pipe is a ``BrokenPipeError`` for the command line, not an exit of its own."""

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False)

    def on_broken_pipe(self) -> None:
        """Called by rich inside the handling of the error, which goes on its way."""
        raise
