"""The console of the commands: no line wrapping, no colouring of numbers, quiet when its reader closes the pipe."""

from rich.console import Console


class PlainConsole(Console):
    """Writes unwrapped lines; a closed pipe raises ``BrokenPipeError`` instead of exiting."""

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False)

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles the error, which is raised again."""
        raise
