"""``torch.compile`` changes no output, where it can work."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_cases import CASES, inputs, model_of
from torch._inductor import config

needs_a_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler, g++ or clang++"
)
COMPILED = next(case for case in CASES if case.photos == "none" and case.tabular == "tabm" and case.columns[0])
"""Of one kind only: compiling takes 20 seconds of a processor. All kinds are traced by the tests of their export."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left behind, and nothing of an earlier run is used."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    with config.patch(compile_threads=1):  # else it starts a process for each core
        yield
    torch.compiler.reset()


@needs_a_compiler
def test_a_compiled_model_gives_what_the_model_gives(tmp_path: Path) -> None:
    model = model_of(COMPILED).eval()
    compiled = torch.compile(model, backend="inductor", dynamic=True)
    with torch.inference_mode():
        for rows in (5, 9):
            xb = inputs(COMPILED, rows)
            torch.testing.assert_close(compiled(xb), model(xb), atol=1e-5, rtol=1e-5)
    assert list(tmp_path.rglob("*.so")), "something was compiled"
