"""The page of ``mixfit export --to html``: opened from the disk in Chromium, it predicts what ``onnx_predict`` does.

Wanted are Playwright, a Chromium on the PATH, and onnxruntime-web: ``make runtime``, ``node_modules``, or the archive
of ``npm pack`` in ``MIXFIT_RUNTIME``. Without them those tests are skipped; ``MIXFIT_BROWSER=needed`` makes a missing
Playwright or Chromium a failure."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("spox", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from blends_by_hand import Workshop, two_image_columns
from onnx_blends import ROLES, blend_of, wide_table, written
from tiny_backbone import tiny_model

from mixfit.demo import DEMO_TARGET
from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.export.graph import Exported
from mixfit.export.onnx_predict import OnnxModel
from mixfit.export.page import RUNTIME, read_runtime, require_possible, write_page
from mixfit.models.linear import Linear
from mixfit.models.model import BOTH, TABLE, TEXT
from mixfit.models.trees import BoostedTrees

GIVEN = os.environ.get("MIXFIT_RUNTIME")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDED = os.environ.get("MIXFIT_BROWSER") == "needed"
Page = Callable[[Exported], Any]
"""Opens the page of a file; the OnnxModel of the same file is beside it."""


@pytest.fixture(scope="module")
def runtime() -> dict[str, bytes]:
    try:
        return read_runtime(None if GIVEN is None else Path(GIVEN))
    except ResourceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def opened(runtime: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if not NEEDED:
        pytest.importorskip("playwright.sync_api", reason="needs pip install 'mixfit[browser]'")
    if CHROMIUM is None and not NEEDED:
        pytest.skip("no Chromium is on the PATH")
    from playwright import sync_api

    complaints = list[str]()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def page_of(found: Exported) -> Any:
            folder = tmp_path_factory.mktemp("pages") / "page"
            write_page(folder, found.model.SerializeToString(), found.meta, runtime)
            page = browser.new_context(offline=True, viewport={"width": 390, "height": 900}).new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda one: complaints.append(one.url) if one.url.startswith("http") else None)
            page.goto((folder / "index.html").as_uri())
            page.get_by_role("button", name="Predict").wait_for(timeout=120_000)
            return page

        yield page_of
        browser.close()
    assert complaints == []


def rows_of(answers: list[dict[str, Any]]) -> pd.DataFrame:
    """As ``OnnxModel.predict``, without the status."""
    rows = []
    for one in answers:
        shares = {f"probability_{name}": share for name, share in (one.get("probabilities") or {}).items()}
        several = {"prediction_set": "; ".join(one["prediction_set"])} if one.get("prediction_set") else {}
        ends = {name: one[name] for name in ("lower", "upper") if one.get(name) is not None}
        rows.append({"prediction": one["prediction"]} | shares | ends | several)
    return pd.DataFrame(rows)


CELLS: dict[str, list[str]] = {
    "x": ["", "1", "-.5", "1e400", "+3.25", "-1e-7", "1E3"],
    "kind": ["", "a", " b \u00e9 ", "never seen", "7.0", "true", "-0.00"],
    "many": ["level 3", "", "LEVEL 3", "level 15\u00a0", "\u6f22", "level 1", "1e-7"],
    "code": ["10100", "10199", "1e5", "10100.0", "", "123456789012345678901", "0.00001"],
    "grade": ["low", "high", "Low", "", "medium", "x", "low "],
    "day": ["2020-02-29", "1969-12-31 23:59:59.5", "", "2021-1-5", "2020-01-31T10:00:00Z", "1900-03-01", "9999-12-31"],
    "moment": ["2021-03-05 10:15:30+02:00", "2021-03-05 10:15", "", "1969-01-01", "2021-03-05T00:00-11:30"],
    "has": ["pool, wifi", "", "garden,garden , ,x", "POOL", "wifi", "a,b,c,d", ","],
    "note": [
        "fine old red vase",
        "",
        "\u0130STANBUL \u03a3\u0399\u03a3\u03a5\u03a6\u039f\u03a3 \ufb01ne",
        "old-red_vase!! \U0001f600 \u7ea2\u8272\u82b1\u74f6",
        "broken " + "x" * 201,
        "f\u00efne\u2028new\u00a0 old old old red vase red vase",
        "12.5 \u00bd e\u0301t\u00e9 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    ],
}  # fmt: skip


def test_the_page_reads_cells_as_onnx_predict_does(opened: Page) -> None:
    models = [Linear(sees=TABLE | TEXT), BoostedTrees(sees=TABLE | TEXT, most_rounds=20)]
    predictor = blend_of(wide_table(), models, roles=ROLES | {"note": "text"}, task="multiclass")
    found = written(predictor)
    page, model = opened(found), OnnxModel.of(found.model.SerializeToString(), threads=1)
    plain = {name: cells[0] for name, cells in CELLS.items()} | {"skewed": "2.5"}
    rows = [plain, *(plain | {name: cell} for name, cells in CELLS.items() for cell in cells[1:])]
    answers = page.evaluate("rows => Promise.all(rows.map(row => predict(row, {})))", rows)
    wanted = model.predict(pd.DataFrame(rows, dtype="str"))
    got = rows_of(answers)
    numbers = [name for name in wanted if name.startswith("probability_")]
    np.testing.assert_allclose(got[numbers], wanted[numbers], atol=1e-6)
    assert got["prediction"].tolist() == wanted["prediction"].tolist()
    assert got["prediction_set"].tolist() == wanted["prediction_set"].tolist()
    for name, cell in {"x": "1,200", "day": "31.1.2020", "has": "[1]", "moment": "2021-02-30"}.items():
        assert name in page.evaluate("row => predict(row, {}).catch(error => error.message)", {name: cell})
    page.get_by_label("kind").fill("never seen")
    page.get_by_role("button", name="Predict").click()
    page.get_by_text("was not seen in training").wait_for()


def test_the_page_predicts_photos(opened: Page, demo_table: Path, tmp_path: Path) -> None:
    """PNG photos give the same pixels; large JPEG ones, of which Pillow decodes a part, are reduced in another way."""
    workshop = Workshop.of(
        two_image_columns(demo_table), demo_table.parent, DEMO_TARGET, size=64, folds=2, model=tiny_model(tmp_path)
    )
    predictor = workshop.blend([Linear(sees=BOTH)])
    predictor = replace(predictor, folds=predictor.folds[:1])
    found = written(predictor)
    page, model = opened(found), OnnxModel.of(found.model.SerializeToString(), threads=1)
    rng = np.random.default_rng(0)
    for name, shape in {"grey": (60, 80), "one": (90, 70, 3), "wide": (30, 400, 3), "dot": (1, 1, 3)}.items():
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    smooth = np.linspace(0, 255, 700 * 500 * 3).reshape(700, 500, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "large.jpg", quality=90)
    cells = two_image_columns(demo_table).iloc[0].drop([DEMO_TARGET, "front", "detail"])
    row = {name: "" if pd.isna(cell) else str(cell) for name, cell in cells.items()}
    fields = [name for name in row if page.get_by_label(name, exact=True).count()]
    for photos, most in (([], 1e-9), (["one", "grey", "wide"], 1e-4), (["dot"], 1e-4), (["large"], 0.05)):
        names = [next(tmp_path.glob(f"{one}.*")).name for one in photos]
        for name in fields:
            page.get_by_label(name, exact=True).fill(row[name])
        page.get_by_label("front").set_input_files([tmp_path / name for name in names])
        page.locator("#answer").evaluate("one => delete one.dataset.answer")
        page.get_by_role("button", name="Predict").click()
        page.locator("#answer[data-answer]").wait_for()
        got = json.loads(page.locator("#answer").get_attribute("data-answer"))
        wanted = model.predict(pd.DataFrame([row | {"front": ";".join(names)}], dtype="str"), images=tmp_path)
        spread = float(getattr(predictor.target, "std", 1.0))
        apart = np.log(got["prediction"]) - np.log(wanted["prediction"]) if predictor.target.log else None
        apart = got["prediction"] - wanted["prediction"] if apart is None else apart
        assert abs(apart.iloc[0]) / spread <= most


def test_what_a_page_cannot_do_is_refused(runtime: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sentence embeddings that the model needs of 'note'"):
        require_possible({"inputs": [{"column": "note", "holds": "embedding"}]})


def test_a_missing_or_other_runtime_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = rf"npm pack onnxruntime-web@{RUNTIME}, and give --runtime"
    with pytest.raises(ResourceError, match=f"There is no .*none.tgz: get it once by: {how}"):
        read_runtime(tmp_path / "none.tgz")
    with pytest.raises(ResourceError, match=f"does not hold onnxruntime-web, as there is no ort.wasm.min.js: .*{how}"):
        read_runtime(tmp_path)
    (tmp_path / "bad.tgz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="is damaged, or not the archive of onnxruntime-web"):
        read_runtime(tmp_path / "bad.tgz")
    for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / name).write_bytes(b"of another version")
    with pytest.raises(DataError, match=f"is not that of onnxruntime-web {RUNTIME}"):
        read_runtime(tmp_path)
