"""``mixfit export --int8``: kept if the test loss and the time of a photo allow it, else refused with both."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("spox", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from onnx_blends import written
from small_runs import small_fit, small_table

from mixfit.auto.recipe import Run
from mixfit.errors import ConfigError
from mixfit.export import int8, networks
from mixfit.export.exporting import export_run
from mixfit.export.int8 import MARGIN, Judged, quantized, require_shared_network
from mixfit.export.ops import NotExportable
from mixfit.predictor.blend import BlendPredictor


@pytest.mark.parametrize(
    ("loss", "seconds", "why"),
    [
        ((1.0, 1.0 + 1.01 * MARGIN), (2e-3, 1e-3), "in 8 bits predicts worse, so"),
        ((1.0, 1.0), (1e-3, 1e-3), "in 8 bits is no faster on this machine, so"),
        ((1.0, 2.0), (1e-3, 2e-3), "in 8 bits predicts worse and is no faster on this machine, so"),
        ((0.0, 0.1), (2e-3, 1e-3), "predicts worse"),
        ((1.0, float("nan")), (2e-3, 1e-3), "predicts worse"),
    ],
)
def test_what_is_worse_or_no_faster_is_refused_with_both_figures(
    loss: tuple[float, float], seconds: tuple[float, float], why: str
) -> None:
    judged = Judged(loss=loss, seconds=seconds, rows=50)
    with pytest.raises(ConfigError, match=why) as refused:
        judged.require()
    for figure in (f"{loss[1]:.4g} instead of {loss[0]:.4g}", f"{1e3 * seconds[1]:.1f} ms instead of", "on 50 rows"):
        assert figure in str(refused.value)
    assert refused.value.exit_code == 2


def test_what_is_as_good_and_faster_is_kept() -> None:
    Judged(loss=(1.0, 1.0 + 0.99 * MARGIN), seconds=(2e-3, 1e-3), rows=50).require()
    Judged(loss=(1.0, 0.5), seconds=(2e-3, 1e-3), rows=50).require()


def test_the_loss_is_that_of_test_rows(blend_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of the training, and a file with the network in 8 bits predicts about the same."""
    assert isinstance(blend_run.predictor, BlendPredictor)
    mixed, _ = int8._data_of(blend_run.predictor, blend_run.folder)
    known = pd.read_parquet(blend_run.folder / "predictions_test.parquet")
    assert sorted(mixed.row_numbers[mixed.split.test]) == sorted(known["row"])
    write, made = networks._write, list[Any]()

    def traced_once(*given: Any) -> Any:
        """The image network is traced for the first of two files, as that takes half a minute."""
        if given[-1] != "the image network":
            return write(*given)
        if not made:
            made.append(write(*given))
        return made[0]

    monkeypatch.setattr(networks, "_write", traced_once)
    found = written(blend_run.predictor)
    assert "ImageNet" in found.meta["licence"]
    assert found.image_network is not None
    network, judged = quantized(blend_run.predictor, found.image_network, blend_run.folder)
    assert judged.rows == min(len(known), 256)
    assert min(judged.seconds) > 0
    assert 0 < judged.loss[0] < 4
    assert judged.loss[1] == pytest.approx(judged.loss[0], rel=0.5)
    assert network.ByteSize() < found.image_network.ByteSize()
    assert {node.op_type for node in network.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    monkeypatch.setattr(int8, "quantized", lambda *_: (network, Judged(loss=(1.0, 1.0), seconds=(2.0, 1.0), rows=50)))
    file = export_run(blend_run, tmp_path / "model.onnx", int8=True)
    assert any("image network is in 8 bits: test loss" in note for note in file.notes)
    assert file.agreement is not None
    assert np.median(file.agreement.differences) < 0.5


def test_a_model_without_a_shared_image_network_is_refused(quick_run: Run, tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match="--int8 needs an image network that all folds share"):
        export_run(quick_run, tmp_path / "model.onnx", int8=True)
    table = small_fit(small_table(tmp_path / "table"), tmp_path / "runs")
    with pytest.raises(NotExportable, match="--int8 needs an image network that all folds share"):
        require_shared_network(table.predictor)
