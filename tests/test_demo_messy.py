"""The example as a shop exports it: what is in it, and that its photos are found with no word from its user."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixfit.cli import main
from mixfit.config import DataConfig
from mixfit.data.load import infer_configured
from mixfit.data.photos.decode import image_header
from mixfit.data.photos.find import find_photos
from mixfit.data.table.read import read_table
from mixfit.demo import DEMO_TARGET, MESSY_ROWS, demo_truth, write_demo, write_messy_demo
from mixfit.errors import ConfigError


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_messy_demo(tmp_path_factory.mktemp("listings"))


def test_same_seed_same_bytes_and_nothing_of_another_is_written_over(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_messy_demo(tmp_path / name, rows=9, seed=seed)
    contents = [
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    ]
    assert contents[0] == contents[1] != contents[2]
    (tmp_path / "d").mkdir()
    (tmp_path / "d/listings.csv").write_text("my,own\n1,2\n")
    with pytest.raises(ConfigError, match="is not an example of mixfit"):
        write_messy_demo(tmp_path / "d", rows=9)


def test_up_to_five_photos_in_a_folder_for_each_id_and_some_folders_missing(listings: Path) -> None:
    table = read_table(listings)
    assert len(table) == MESSY_ROWS
    folders = {path.name for path in (listings.parent / "photos").iterdir()}
    ids = set(table["listing_id"].astype(str))
    assert folders < ids
    assert 0.75 * MESSY_ROWS < len(folders) < 0.9 * MESSY_ROWS
    counts = [len(list(path.glob("IMG_*"))) for path in (listings.parent / "photos").iterdir()]
    assert set(counts) <= set(range(1, 7))
    assert {1, 2, 3, 4, 5} <= set(counts)


def test_its_photos_are_found_and_its_free_text_is_not_taken_for_levels(listings: Path) -> None:
    table = read_table(listings)
    schema = infer_configured(table, DEMO_TARGET, DataConfig(), images=listings.parent)
    roles = {column.name: column.role for column in schema.columns}
    assert roles["listing_id"] == "image"
    assert roles["maker"] == roles["material"] == "category"
    assert roles["weight_kg"] == "number"
    ignored = {name for name, role in roles.items() if role == "ignored"}
    assert {"listing_url", "license", "currency"} <= ignored
    assert schema.names("text") == ["title", "description"]
    (rule,) = schema.photos
    assert rule.pattern == "photos/{listing_id}/*"
    photos = find_photos(table, ["listing_id"], listings.parent, schema.photos)
    assert photos.bad == []
    there = list((listings.parent / "photos").rglob("IMG_*"))
    assert len(photos.files) == len(there)
    broken = [file for file in photos.files if isinstance(file, Path) and file.name == "IMG_9.jpg"]
    assert 0 < len(broken) < 10
    usable = [file for file in photos.files if file not in broken]
    assert all(image_header(file).format == "JPEG" for file in usable[::20])


def test_the_price_is_that_of_the_vase_its_tags_and_its_signature(listings: Path) -> None:
    table, truth = read_table(listings), demo_truth(MESSY_ROWS)
    price = pd.to_numeric(table[DEMO_TARGET])
    rest = np.log(price) - truth["log_price"]
    signed = table["description"].str.contains("Signed")
    assert rest[signed].mean() - rest[~signed].mean() == pytest.approx(0.20, abs=0.06)
    restored = table["tags"].fillna("").str.contains("restored")
    assert rest[restored].mean() - rest[~restored].mean() == pytest.approx(-0.25, abs=0.06)


def test_inspect_names_the_rule_and_how_much_it_explains(
    listings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(listings), "--target", DEMO_TARGET, "--out", "seen"])
    printed = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    folders = len(list((listings.parent / "photos").iterdir()))
    assert "note: photos by photos/{listing_id}/*: " in printed
    assert f"photos in {folders} of {MESSY_ROWS} rows" in printed


def test_where_no_column_names_them_a_folder_full_of_photos_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = write_demo(tmp_path / "vases", rows=40)
    read_table(table).drop(columns=["photos", "vase_id"]).to_csv(tmp_path / "vases/bare.csv", index=False)
    with pytest.raises(SystemExit):
        main(["inspect", "vases/bare.csv", "--target", DEMO_TARGET, "--out", "seen"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: the folder images beside the table has" in printed
    assert "--images 'images/{COLUMN}/*'" in printed
