"""Does ``mixfit serve`` keep to its OpenAPI document over a socket, whatever schemathesis sends?

Starts the server in a process of its own and runs schemathesis on /openapi.json: examples, boundary values and random
requests, valid and not, for every path. Any answer of 500 or above but 503, any status, type or body that the document
does not promise, and any valid body that is not accepted as such is a failure, and the exit code is not 0.
Run: python benchmarks/check_api.py RUN [EXAMPLES]"""

import subprocess
import sys
import tempfile
from pathlib import Path

from bench_serve import server, wait

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


def main(run: Path, examples: int) -> int:
    """The exit code."""
    with server("-m", "mixfit.cli", "serve", str(run), "--port", "0") as (address, process):
        wait(address, "/readyz")
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"]
        command += ["--checks", ",".join(CHECKS), "--max-examples", str(examples), "--seed", "1"]
        command += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
        with tempfile.TemporaryDirectory() as folder:  # schemathesis keeps examples where it runs
            done = subprocess.run(command, check=False, cwd=folder)
        assert process.poll() is None, "the server has ended"
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 30))
