"""What Windows lacks is not needed, as far as that can be seen on another system."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_training_and_its_predictions_need_nothing_that_windows_lacks(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("as_windows.py")), str(tmp_path), "network"]
    environment = {**os.environ, "MIXFIT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "done"
