"""Model folders that earlier versions wrote: read, and predicting what they predicted, or refused with one sentence.

Each folder is named after the ``format_version`` in its ``mixfit.json``, and was written by the version that the file
names, from 60 to 180 drawn rows of flats; ``predictions.csv`` has what that version predicted for ``rows.csv``."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mixfit
from mixfit.predictor.folder import FORMAT_VERSION

FOLDERS = sorted(path for path in (Path(__file__).parent / "formats").iterdir() if path.is_dir())
REFUSED = {
    "2-blend": "its intervals are of an older, unreliable kind. Train again",
    "3-blend-of-trees": r"has the model 'LightGBM, table', which is not one of mixfit's .* pass models=.*, train again",
}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_of_an_earlier_version_predicts_as_it_did(folder: Path) -> None:
    version = json.loads((folder / "mixfit.json").read_text(encoding="utf-8"))["format_version"]
    assert folder.name.startswith(f"{version}-")
    if folder.name in REFUSED:
        with pytest.raises(mixfit.DataError, match=REFUSED[folder.name]):
            mixfit.Predictor.load(folder)
        return
    found = mixfit.Predictor.load(folder).predict(mixfit.read_table(folder / "rows.csv"))
    wanted = pd.read_csv(folder / "predictions.csv")
    assert list(found.columns) == list(wanted.columns)
    for name in wanted.columns:
        if pd.api.types.is_numeric_dtype(wanted[name].dtype):
            np.testing.assert_allclose(found[name].to_numpy(float), wanted[name].to_numpy(float), rtol=1e-6)
        else:
            assert found[name].astype(str).tolist() == wanted[name].astype(str).tolist()


def test_the_version_that_is_written_is_kept_too() -> None:
    assert any(folder.name.startswith(f"{FORMAT_VERSION}-") for folder in FOLDERS), "keep a small folder of it here"
