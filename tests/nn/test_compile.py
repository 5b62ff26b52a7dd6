"""``torch.compile`` changes no output, where it can work."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_cases import CASES, Case, inputs, model_of
from torch._inductor import config

needs_a_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler, g++ or clang++"
)
TRACED = next(case for case in CASES if case.photos == "features" and case.columns[0] and case.texts)
"""Of one kind, as tracing the pixels of an image network takes more than a minute."""
COMPILED = next(case for case in CASES if case.photos == "none" and case.tabular == "tabm" and case.columns[0])
"""Of one kind only: compiling takes 20 seconds of a processor."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left behind, and nothing of an earlier run is used."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    with config.patch(compile_threads=1):  # else it starts a process for each core
        yield
    torch.compiler.reset()


def check(case: Case, backend: str) -> None:
    model = model_of(case).eval()
    compiled = torch.compile(model, backend=backend, dynamic=True)
    with torch.inference_mode():
        for rows in (5, 9):
            xb = inputs(case, rows)
            torch.testing.assert_close(compiled(xb), model(xb), atol=1e-5, rtol=1e-5)


def test_a_traced_model_gives_what_the_model_gives() -> None:
    check(TRACED, "aot_eager")


@needs_a_compiler
def test_a_compiled_model_gives_what_the_model_gives(tmp_path: Path) -> None:
    check(COMPILED, "inductor")
    assert list(tmp_path.rglob("*.so")), "something was compiled"
