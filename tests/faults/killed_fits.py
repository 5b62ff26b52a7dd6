"""Fits that are killed at random moments: ``python killed_fits.py FOLDER KILLS`` prints how many kills came while a
checkpoint was written.

A program of its own, since its children begin at once, with all imports done, and train: PyTorch refuses a backward
pass in a child of a process whose own backward passes had threads, as those of some tests have."""

import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

from tiny_fit import tiny_fit

from mixfit.training.checkpoint import newest_checkpoint

FORK = multiprocessing.get_context("fork")


def kill_fits(root: Path, kills: int) -> int:
    """Starts fits in folders of ``root``, the next one when a fit ends before its kill; counts temporary files left."""
    moments = random.Random(0)
    folders = [root / "0"]
    folders[0].mkdir()
    inside = 0
    while kills:
        child = FORK.Process(target=tiny_fit, args=(folders[-1],))
        child.start()
        child.join(moments.uniform(0.0, 0.25))
        if child.exitcode is None:
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
            kills -= 1
            inside += any(path.name.startswith(".") for path in folders[-1].glob("checkpoints/.*"))
        if child.exitcode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"a fit ended by itself with {child.exitcode}")
        newest_checkpoint(folders[-1] / "checkpoints")  # is whole, or there is none yet
        if child.exitcode == 0:
            folders.append(root / str(len(folders)))
            folders[-1].mkdir()
    return inside


if __name__ == "__main__":
    print(kill_fits(Path(sys.argv[1]), kills=int(sys.argv[2])))
