"""Does a training that is killed again and again end with the same bytes? On the command line, as a person would.

Trains the embedded example once undisturbed. Then ``mixfit train`` is started and killed (SIGKILL) after a random time,
from the start of Python to the writing of the report, and once a run folder is there, resumed by
``mixfit train --resume RUN`` and killed again, until the asked number of kills is reached or the run has ended;
then another one begins. Every run that ends must have written the weights of the undisturbed one.
Run: python benchmarks/check_kills.py [KILLS] [SEED] [PRESET]; network by default, whose image network is trained; quick
blends many models over features of a frozen one."""

import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mixfit.demo import DEMO_TARGET, write_demo

SETTINGS = ["--target", DEMO_TARGET, "--image-size", "32", "--tabular-hidden", "32", "--encoding-dim", "16"]
SETTINGS += ["--epochs", "8", "--save-every", "0", "--valid", "0.2"]
OF_NETWORK = ["--backbone", "small_resnet"]
WEIGHTS = "*/model/model.safetensors"


def command(arguments: list[str]) -> list[str]:
    """``mixfit`` of this Python."""
    return [sys.executable, "-c", "import sys; from mixfit.cli import main; sys.exit(main())", *arguments]


@dataclass
class Torn:
    """A training that is killed."""

    table: Path
    out: Path
    settings: list[str]
    moments: random.Random
    seconds: float
    """That the undisturbed training took."""
    places: list[str] = field(default_factory=list)
    """What was there when each kill came."""

    def go_on(self) -> bool:
        """Start or resume, and kill at a random moment; True if it ended before."""
        runs = [path for path in self.out.glob("*") if (path / "config.toml").exists()]
        arguments = ["train", "--resume", str(runs[0])] if runs else ["train", str(self.table), *self.settings]
        arguments += [] if runs else ["--out", str(self.out)]
        process = subprocess.Popen(command(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, said = process.communicate(timeout=self.moments.uniform(0.1, 1.1) * self.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.places.append(self.place())
            return False
        if process.returncode:
            raise SystemExit(f"mixfit {' '.join(arguments)} ended with {process.returncode}: {said}")
        return True

    def place(self) -> str:
        """How far the training was."""
        if not list(self.out.glob("*/config.toml")):
            return "no run folder"
        if list(self.out.glob("*/model")):
            return "model written"
        if kept := len(list(self.out.glob("*/candidates/*.safetensors"))):
            return f"{kept} models of folds"
        if list(self.out.glob("*/checkpoints/.*")):
            return "inside a saving"
        return "checkpoint" if list(self.out.glob("*/checkpoints/last")) else "no checkpoint"


def main() -> None:
    """Print what happened, and fail if any byte differs."""
    given = sys.argv[1:]
    most, seed, preset = (*given, *("15", "0", "network")[len(given) :])
    kills = int(most)
    settings = [*SETTINGS, "--preset", preset, *(OF_NETWORK if preset == "network" else [])]
    moments = random.Random(int(seed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MIXFIT_CACHE"] = str(folder / "cache")
        table = write_demo(folder / "vases", rows=150)
        started = time.perf_counter()
        subprocess.run(
            command(["train", str(table), *settings, "--out", str(folder / "whole")]),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - started
        whole = next((folder / "whole").glob(WEIGHTS))
        print(
            f"python {sys.version.split()[0]}, torch {torch.__version__}; undisturbed: {seconds:.1f} s, "
            f"{len(whole.read_bytes()):,} bytes of weights",
            flush=True,
        )
        places: list[str] = []
        ended = equal = 0
        while len(places) < kills:
            torn = Torn(table, folder / f"torn-{ended}", settings, moments, seconds)
            while not torn.go_on():
                if len(places) + len(torn.places) >= kills:
                    torn.moments, torn.seconds = random.Random(int(seed)), 100 * seconds  # no further kill
            places += torn.places
            weights = next(torn.out.glob(WEIGHTS))
            same = weights.read_bytes() == whole.read_bytes()
            ended, equal = ended + 1, equal + same
            print(
                f"run {ended}: {len(torn.places)} kills ({', '.join(torn.places)}), "
                f"weights {'equal' if same else 'DIFFERENT'}",
                flush=True,
            )
        print(f"{len(places)} kills, {ended} runs ended, {equal} of them with the bytes of the undisturbed run")
        if equal < ended:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
