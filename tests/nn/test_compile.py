"""``torch.compile`` changes no output, where it can work."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import CASES, Case, inputs, model_of
from torch._inductor import config

needs_a_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler, g++ or clang++"
)
TRACED = (
    next(case for case in CASES if case.photos == "features" and case.columns[0] and case.tabular == "mlp"),
    next(case for case in CASES if case.photos == "features" and case.columns[0] and case.texts),
)
"""None with pixels, as tracing an image network takes more than a minute."""
COMPILED = (
    next(case for case in CASES if case.photos == "none" and case.columns == (3, ()) and case.tabular == "mlp"),
    next(case for case in CASES if case.photos == "none" and case.tabular == "tabm" and case.columns[0]),
)
"""The second takes 20 seconds of a processor."""


def first_and_long(cases: Sequence[Case]) -> list[Any]:
    """The small first, and the others where there is time."""
    return [cases[0], *(pytest.param(case, marks=pytest.mark.long) for case in cases[1:])]


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


@pytest.mark.parametrize("case", first_and_long(TRACED), ids=str)
def test_a_traced_model_gives_what_the_model_gives(case: Case) -> None:
    check(case, "aot_eager")


@pytest.mark.long
@needs_a_compiler
@pytest.mark.parametrize("case", first_and_long(COMPILED), ids=str)
def test_a_compiled_model_gives_what_the_model_gives(case: Case, tmp_path: Path) -> None:
    check(case, "inductor")
    assert list(tmp_path.rglob("*.so")), "something was compiled"
