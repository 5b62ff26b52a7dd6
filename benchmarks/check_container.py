"""Do the steps of the Dockerfile work? Where no Docker daemon is at hand, they are done in a fresh virtual environment.

Builds the wheel, installs it with the extra ``serve`` and nothing else, starts the entry point on a free port with a
read-only copy of a run, asks it as the health check does, predicts a row, and ends it with SIGTERM.
Run: python benchmarks/check_container.py RUN [--installed]. It downloads all dependencies, with those of PyTorch's CUDA
build, and takes minutes; with --installed, the wheel is installed alone, and finds the dependencies of the environment
that runs this. It cannot check the base image, libgomp1, the user, and the index of PyTorch's CPU builds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOKEN = "token-of-the-check-only"


def main(run: Path, *, installed: bool) -> None:
    """All steps; raises where one fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step("pip wheel --no-deps .")
        command(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "wheels", ROOT)
        (wheel,) = (folder / "wheels").glob("mixfit-*.whl")
        command(sys.executable, "-m", "venv", folder / "env")
        python = folder / "env/bin/python"
        if installed:
            step("python -m venv; pip install --no-deps WHEEL, beside the dependencies that are installed here")
            command(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
            (own,) = (folder / "env/lib").glob("python*/site-packages")
            (own / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        else:
            step("python -m venv; pip install WHEEL[serve]")
            command(python, "-m", "pip", "install", "--quiet", f"{wheel}[serve]")
        shown = [python, "-c", "import mixfit; print(mixfit.__file__)"]
        found = subprocess.run(shown, text=True, capture_output=True, env=clean(), check=False)
        assert found.stdout.startswith(str(folder)), found.stdout + found.stderr
        model = folder / "model"
        shutil.copytree(run, model)
        command("chmod", "-R", "a-w", model)
        step(f"{entry_point()} (on a free port)")
        serve(folder, model)
        command("chmod", "-R", "u+w", model)
    step("done")


def clean() -> dict[str, str]:
    """The environment without the sources of this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def entry_point() -> str:
    """The command of the Dockerfile, as it stands there."""
    found = re.search(r"^ENTRYPOINT (\[.*\])$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return " ".join(json.loads(found[1]))


def serve(folder: Path, model: Path) -> None:
    """Start the server, ask it, and end it."""
    words = [word.replace("/run/model", str(model)).replace("8000", "0") for word in entry_point().split()]
    words[0] = str(folder / "env/bin" / words[0])
    environment = clean() | {"MIXFIT_TOKEN": TOKEN, "MPLCONFIGDIR": name_of(folder / "tmp")}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            assert server.stdout is not None
            port = server.stdout.readline().rstrip("/\n").rpartition(":")[2]
            while status(port, "/readyz") != 200:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
            assert status(port, "/schema", token=False) == 401
            schema = json.loads(ask(port, "/schema"))
            row = {column["name"]: column["example"] for column in schema["columns"]}
            print(ask(port, "/predict", {"row": row}))
            print(ask(port, "/explain", {"row": row})[:300])
            health = healthy(port)
            assert health == 0, health
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()


def healthy(port: str) -> int:
    """The exit code of the Dockerfile's health check."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"^ *CMD (\[.*\])$", text, re.MULTILINE)
    assert found is not None
    words = [word.replace("8000", port) for word in json.loads(found[1])]
    return subprocess.run([sys.executable, *words[1:]], check=False).returncode


def ask(port: str, path: str, body: object = None, *, token: bool = True) -> str:
    """The answer to a request."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {TOKEN}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def status(port: str, path: str, *, token: bool = True) -> int:
    """The status of an answer."""
    try:
        ask(port, path, token=token)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def command(*words: object) -> None:
    """Run a command that must succeed."""
    subprocess.run([str(word) for word in words], check=True, env=clean())


def name_of(folder: Path) -> str:
    """The name of a new folder."""
    folder.mkdir()
    return str(folder)


def step(text: str) -> None:
    """Say what is done."""
    print(f"-- {text}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), installed="--installed" in sys.argv)
