"""``python -m mixfit.cli``."""

from mixfit.cli import main

main()
