"""Is every damaged or hostile run folder refused in one sentence? Random changes of every file of small runs.

Trains three small runs (a blend of a number, a blend of classes with photos, one network) and saves a blend of every
kind of model. Then, for the asked number of seconds, changes one file of one of them at random and runs every command
that reads it: each has to succeed or to refuse the folder with one line, exit 3, within two seconds.
Run: python benchmarks/check_folders.py [SECONDS] [SEED]"""

import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from folder_faults import Ending, one_change
from folder_runs import make_subjects


def main(seconds: float = 300.0, seed: int = 0) -> int:
    """Print each fault once with its count, and the counts of endings."""
    warnings.simplefilter("ignore")
    rng, found, ended = random.Random(seed), Counter[str](), Counter[str]()
    slowest: list[tuple[float, str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subjects = make_subjects(folder / "runs")
        started, changes = time.monotonic(), 0
        while time.monotonic() - started < seconds:
            how, endings = one_change(subjects, folder / "copy", rng, every=True)
            changes += 1
            for one in endings:
                ended[_kind(one)] += 1
                if one.error is not None:
                    slowest = sorted([*slowest, (one.seconds, f"{one.command}: {how}")])[-3:]
                if one.fault:
                    key = f"{one.command}: {one.fault}"
                    found[key] += 1
                    if found[key] == 1:
                        print(f"FAULT {key}\n      {how}\n      {str(one.error)[:300]}", flush=True)
                        if "--trace" in sys.argv:
                            traceback.print_exception(one.error)
    print(f"{changes} changes of {len(subjects)} folders, seed {seed}, {seconds:.0f} s: {dict(ended)}")
    for key, count in found.most_common():
        print(f"{count:6} {key}")
    for taken, how in reversed(slowest):
        print(f"{taken:6.2f} s {how}")
    return 1 if found else 0


def _kind(one: Ending) -> str:
    return "at fault" if one.fault else "succeeded" if one.error is None else "refused"


if __name__ == "__main__":
    numbers = [float(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    sys.exit(main(*(numbers[:1] or [300.0]), *(int(number) for number in numbers[1:2])))
