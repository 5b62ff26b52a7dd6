"""``mixfit export`` and ``mixfit.onnx_predict``: what they print, refuse, and need."""

import logging
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("spox", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from small_runs import small_fit, small_table

import mixfit
from mixfit.auto.recipe import Run
from mixfit.cli import main
from mixfit.errors import ConfigError, DataError
from mixfit.export.exporting import export_run

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "lightgbm", "onnx", "spox"):
            raise ImportError(name)

sys.meta_path.insert(0, NoTorch())
import mixfit
import pandas as pd

found = mixfit.onnx_predict(sys.argv[1], pd.read_csv(sys.argv[2], dtype=str), images=sys.argv[3])
found.to_parquet(sys.argv[4])
"""


def run_command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def file(quick_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a single network of cells and photos."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    logging.disable(logging.DEBUG)  # PyTorch logs each step of its tracing, and pytest keeps every line
    found = export_run(quick_run, path)
    logging.disable(logging.NOTSET)
    assert found.agreement is not None
    assert found.agreement.largest <= 1e-5
    assert found.agreement.same_status == found.agreement.checked_status > found.agreement.rows
    assert found.bytes == path.stat().st_size
    return path


def test_a_single_network_is_predicted_without_torch(
    file: Path, quick_run: Run, demo_table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, file, demo_table, demo_table.parent, out], check=True)
    found = pd.read_parquet(out)
    frame = pd.read_csv(demo_table, dtype=str)
    wanted = quick_run.predictor.predict(frame, images=demo_table.parent, device="cpu")
    assert found["status"].tolist() == wanted["status"].tolist()
    np.testing.assert_allclose(found["prediction"], wanted["prediction"], rtol=1e-5)


def test_the_command_prints_size_parity_and_latency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_fit(small_table(tmp_path / "table", classes=True), tmp_path / "runs")
    assert run_command("export", run.folder, "-o", tmp_path / "classes.onnx", "--interval", 0.8) == 0
    said = capsys.readouterr().out
    assert "with prediction sets at 80%" in said
    for word in ("Written", "Parity", "status: the same in", "Latency", "256 rows"):
        assert word in said


def test_what_cannot_be_written_is_refused(quick_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("export", quick_run.folder, "-o", tmp_path / "model.pt") == 2
    assert "must end in .onnx" in capsys.readouterr().err
    assert run_command("export", quick_run.folder, "-o", tmp_path / "m.onnx", "--interval", 0.9) == 2
    assert "A single network has no prediction intervals" in capsys.readouterr().err
    assert run_command("export", tmp_path / "none", "-o", tmp_path / "m.onnx") == 2


def test_without_the_extra_the_command_says_what_to_install(quick_run: Run, tmp_path: Path) -> None:
    program = dedent(
        f"""
        import sys
        sys.modules["spox"] = None
        from mixfit.cli import main
        main(["export", {str(quick_run.folder)!r}, "-o", {str(tmp_path / "m.onnx")!r}])
        """
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 4
    assert "pip install 'mixfit[onnx]'" in found.stderr


def test_other_files_and_missing_columns_are_refused(file: Path, demo_table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(demo_table, dtype=str)
    with pytest.raises(DataError, match="does not exist"):
        mixfit.onnx_predict(tmp_path / "none.onnx", frame)
    (tmp_path / "other.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match="is damaged, or not a file of mixfit export"):
        mixfit.onnx_predict(tmp_path / "other.onnx", frame)
    with pytest.raises(DataError, match="the table has no column 'maker'"):
        mixfit.onnx_predict(file, frame.drop(columns="maker"), images=demo_table.parent)
    with pytest.raises(ConfigError, match="pass images=FOLDER"):
        mixfit.onnx_predict(file, frame)
