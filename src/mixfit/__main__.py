"""``python -m mixfit``: the command line, also where no script is installed, as under torchrun."""

from mixfit.cli import main

main()
