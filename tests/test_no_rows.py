"""Predicting a table without rows is nothing to do, and no error."""

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import mixfit
from mixfit.cli import main
from mixfit.runs.scoring import predict_table

FORMATS = Path(__file__).parent / "formats"


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet", ".feather"])
@pytest.mark.parametrize("folder", ["1-network", "4-blend", "5-blend"])
def test_a_table_with_a_header_only_gives_one(folder: str, kind: str, tmp_path: Path) -> None:
    columns = mixfit.Predictor.load(FORMATS / folder).schema.inputs
    empty, new, out = (
        pd.DataFrame(columns=[*columns, "extra"], dtype="str"),
        tmp_path / f"new{kind}",
        tmp_path / "o.csv",
    )
    if kind in (".csv", ".tsv"):
        empty.to_csv(new, index=False, sep="\t" if kind == ".tsv" else ",")
    else:
        empty.to_parquet(new) if kind == ".parquet" else empty.to_feather(new)
    with pytest.raises(SystemExit) as left:
        main(["predict", str(FORMATS / folder), str(new), "--out", str(out)])
    assert left.value.code == 0
    assert out.read_text() == ",".join([*columns, "extra", "prediction", "status"]) + "\n"


def test_a_frame_without_rows_gives_one_and_needs_its_columns(tmp_path: Path) -> None:
    model, quiet = FORMATS / "4-blend", Console(quiet=True)
    columns = mixfit.Predictor.load(model).schema.inputs
    found = predict_table(model, pd.DataFrame(columns=columns, dtype="str"), interval=0.9, console=quiet)
    assert found.columns.tolist() == [*columns, "prediction", "lower", "upper", "status"]
    assert len(found) == 0
    with pytest.raises(mixfit.DataError, match=f"no column '{columns[0]}'"):
        predict_table(model, pd.DataFrame(columns=columns[1:], dtype="str"), console=quiet)
    (tmp_path / "none.csv").write_text("")
    with pytest.raises(mixfit.DataError, match="is empty; a header"):
        predict_table(model, tmp_path / "none.csv", out=tmp_path / "o.csv", console=quiet)
