import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from mixfit.demo import DEMO_TARGET, GLAZES, _draw_photo, _Look, demo_place, demo_truth, write_demo
from mixfit.errors import ConfigError, ResourceError

TABLE = ["maker", "material", "height_cm", "age_years", "weight_kg", "listed_on"]
PHOTO = ["glaze", "bands", "cracked", "shape"]
PARTS = ["base", "table_part", "photo_part", "interaction", "noise"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("vases")).parent


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "table.csv", parse_dates=["listed_on"])


@pytest.fixture(scope="module")
def many() -> pd.DataFrame:
    """So many vases that means of groups are close to expectations."""
    return demo_truth(rows=40_000, seed=11)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def explained(target: pd.Series, prediction: pd.Series) -> float:
    return r2_score(target, prediction)


# Files


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_demo(tmp_path / name, rows=12, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    other = contents(tmp_path / "c")
    assert all(content != other.get(name) for name, content in contents(tmp_path / "a").items())


def test_table_names_exactly_the_photos_that_exist(folder: Path, table: pd.DataFrame) -> None:
    named = table["photos"].dropna().str.split(";").explode()
    assert named.is_unique
    assert set(named) == {f"images/{path.name}" for path in (folder / "images").iterdir()}
    for name in named:
        with Image.open(folder / name) as photo:
            assert (photo.mode, photo.size) == ("RGB", (96, 96))


def test_table_has_the_variety_it_promises(table: pd.DataFrame) -> None:
    assert list(table) == ["vase_id", *TABLE, "photos", DEMO_TARGET]
    assert len(table) == 600
    assert table["vase_id"].is_unique
    empty = table.isna().mean()
    assert empty["photos"] == pytest.approx(0.03, abs=0.015)
    assert empty["height_cm"] == pytest.approx(0.02, abs=0.015)
    assert empty["age_years"] == pytest.approx(0.02, abs=0.015)
    assert empty.drop(["photos", "height_cm", "age_years"]).eq(0).all()
    assert table["photos"].str.contains(";").mean() == pytest.approx(0.35, abs=0.06)
    assert table["material"].value_counts()["bone china"] < 20
    assert table["maker"].value_counts()["Studio Lind"] < 20


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("row", [0, 7, 41])
def test_what_a_photo_shows_of_glaze_and_bands_is_where_the_vase_is(row: int, detail: bool) -> None:
    look = _Look(*demo_truth(60, 5).loc[row, PHOTO])._replace(glaze="ivory", bands=0)
    place = demo_place(row, 5, detail=detail, rows=60)
    assert place.shape == (96, 96)
    around = np.asarray(Image.fromarray(place).convert("L").filter(ImageFilter.MaxFilter(3))) > 0
    plain, *others = (
        np.asarray(_draw_photo(other, detail=detail, key=(5, row)), dtype=int)
        for other in (look, look._replace(glaze="cobalt"), look._replace(bands=3))
    )
    for other in others:
        changed = (other != plain).any(2)
        assert not (changed & ~around).any()
        assert (changed & place).any()
    assert (others[0] != plain).any(2)[place].mean() > 0.9, "the glaze is everywhere on the vase but in its mouth"


def test_price_is_positive_and_skewed(table: pd.DataFrame) -> None:
    assert table[DEMO_TARGET].min() > 0
    assert table[DEMO_TARGET].skew() > 2
    assert abs(np.log(table[DEMO_TARGET]).skew()) < 0.5


def test_second_call_mends_what_is_damaged_and_leaves_the_rest(tmp_path: Path) -> None:
    write_demo(tmp_path, rows=8)
    before = contents(tmp_path)
    foreign = tmp_path / "images" / "cat.jpg"
    foreign.write_text("mine")
    photos = sorted((tmp_path / "images").glob("vase*"))
    photos[0].write_bytes(b"cut")
    for path in (*photos[1:], tmp_path / "table.csv"):
        os.utime(path, ns=(1, 1))
    write_demo(tmp_path, rows=8)
    assert contents(tmp_path) == before | {"images/cat.jpg": b"mine"}
    assert all(path.stat().st_mtime_ns == 1 for path in (*photos[1:], tmp_path / "table.csv"))


def test_a_table_of_somebody_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"table\.csv exists and is not an example of mixfit, so it is kept"):
        write_demo(tmp_path, rows=2)
    assert contents(tmp_path) == {"table.csv": b"a,b\n1,2\n"}


def test_a_smaller_example_over_a_larger_one(tmp_path: Path) -> None:
    write_demo(tmp_path, rows=9)
    larger = contents(tmp_path)
    assert len(pd.read_csv(write_demo(tmp_path, rows=5))) == 5
    assert contents(tmp_path).keys() == larger.keys()


@pytest.mark.parametrize(("rows", "seed"), [(0, 0), (5, -1)])
def test_too_small_arguments(tmp_path: Path, rows: int, seed: int) -> None:
    with pytest.raises(ConfigError, match=f"rows of at least 1 and a seed of at least 0, got {rows} and {seed}"):
        write_demo(tmp_path / "new", rows=rows, seed=seed)
    assert not (tmp_path / "new").exists()


def test_one_row_is_enough(tmp_path: Path) -> None:
    assert len(pd.read_csv(write_demo(tmp_path, rows=1))) == 1


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot be written to .*file.*Choose another folder"):
        write_demo(tmp_path / "file", rows=2)


def test_import_loads_no_heavy_package() -> None:
    code = "import mixfit.demo, sys; print({'numpy', 'pandas', 'PIL', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_every_part_changes_with_the_seed() -> None:
    one, other = demo_truth(50, 3), demo_truth(50, 4)
    assert all((one[part] != other[part]).any() for part in PARTS[1:])


# Photos show what the truth says


def test_photos_show_the_glaze_of_their_row(folder: Path, table: pd.DataFrame) -> None:
    truth = demo_truth()[table["photos"].notna()]
    colours = np.array([GLAZES[name].colour for name in GLAZES], dtype=float)
    colours /= np.linalg.norm(colours, axis=1, keepdims=True)  # the light changes brightness, not hue
    seen = []
    for cell in table["photos"].dropna():
        with Image.open(folder / cell.split(";")[0]) as photo:
            belly = np.asarray(photo.crop((38, 30, 58, 80)), dtype=float).reshape(-1, 3)
        hues = belly / np.linalg.norm(belly, axis=1, keepdims=True).clip(1)
        votes = np.bincount((hues @ colours.T).argmax(1), weights=np.ptp(belly, axis=1), minlength=len(GLAZES))
        seen.append(list(GLAZES)[votes.argmax()])
    assert (truth["glaze"].to_numpy() == np.array(seen)).mean() > 0.9


def test_every_photo_has_its_own_background(folder: Path) -> None:
    corners = set()
    for path in sorted((folder / "images").glob("*_front.jpg"))[:50]:
        with Image.open(path) as photo:
            corners.add(photo.getpixel((2, 50)))
    assert len(corners) > 40


def test_a_crack_darkens_the_neck(folder: Path, table: pd.DataFrame) -> None:
    truth = demo_truth()
    dark = {}
    for row in table.index[table["photos"].notna() & (truth["bands"] == 0)]:
        with Image.open(folder / table["photos"][row].split(";")[0]) as photo:
            belly = np.asarray(photo.crop((30, 34, 66, 60)), dtype=int)
        dark[row] = (belly.max(2) < 60).mean()
    cracked = truth["cracked"][list(dark)]
    assert ((pd.Series(dark) > 0.01) == cracked).mean() > 0.9


# Truth


def test_parts_add_up_to_the_price(table: pd.DataFrame) -> None:
    truth = demo_truth()
    np.testing.assert_allclose(truth[PARTS].sum(axis=1), truth["log_price"])
    np.testing.assert_allclose(table[DEMO_TARGET], np.exp(truth["log_price"]), atol=0.0051)
    for column in TABLE:
        present = table[column].notna()
        assert (table[column][present] == truth[column][present]).all()


def test_parts_are_centred_and_uncorrelated(many: pd.DataFrame) -> None:
    parts = many[PARTS[1:]]
    assert parts.mean().abs().max() < 0.02
    assert (parts.corr() - np.eye(4)).abs().max().max() < 0.02


def test_photo_part_is_what_the_photo_tells(many: pd.DataFrame) -> None:
    """The mean of all vases that look the same is, without any model, the best prediction from the photo."""
    groups = many.groupby(PHOTO)
    best = groups["log_price"].transform("mean")
    assert (best - many["base"] - many["photo_part"]).abs().mean() < 0.04
    assert explained(many["log_price"], best) < 0.45


def test_table_part_is_what_the_table_tells(many: pd.DataFrame) -> None:
    """A flexible learner finds nothing more in the table once ``table_part`` is taken away."""
    rest = many["log_price"] - many["base"] - many["table_part"]
    columns = numbers(many, TABLE)
    model = HistGradientBoostingRegressor(max_iter=20, random_state=0).fit(columns[:10_000], rest[:10_000])
    assert explained(rest[10_000:], model.predict(columns[10_000:])) < 0.005


@pytest.mark.parametrize("seed", range(8))
def test_either_side_alone_is_bounded_and_both_suffice(seed: int) -> None:
    truth = demo_truth(seed=seed)
    target, base = truth["log_price"], truth["base"]
    table_alone = explained(target, base + truth["table_part"])
    photo_alone = explained(target, base + truth["photo_part"])
    without_interaction = explained(target, base + truth["table_part"] + truth["photo_part"])
    both = explained(target, target - truth["noise"])
    assert 0.4 < table_alone < 0.65
    assert 0.25 < photo_alone < 0.5
    assert both > 0.96
    assert without_interaction < both - 0.03


def test_a_crack_costs_more_on_porcelain(many: pd.DataFrame) -> None:
    """Compared as a buyer would: the same look and much the same table, with and without the crack."""
    rest = many["log_price"] - many["noise"] - many["table_part"]
    means = rest.groupby([many["material"], many["glaze"], many["bands"], many["cracked"]]).mean().unstack()
    price_kept = np.exp(means[True] - means[False]).groupby("material").mean()
    assert price_kept["porcelain"] == pytest.approx(0.30, abs=0.01)
    assert price_kept["stoneware"] == pytest.approx(0.67, abs=0.01)
    assert price_kept["earthenware"] == pytest.approx(0.78, abs=0.01)


def test_without_a_crack_porcelain_is_worth_half_as_much_again(many: pd.DataFrame) -> None:
    intact = many[~many["cracked"]].groupby("material")["log_price"].mean()
    assert np.exp(intact["porcelain"] - intact["stoneware"]) == pytest.approx(1.49, abs=0.06)


# Learners


def numbers(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Days for dates, codes for names; missing stays missing."""
    result = frame[columns].copy()
    result["listed_on"] = (result["listed_on"] - pd.Timestamp("2023-01-01")).dt.days
    for column in result.columns.intersection(["maker", "material", "glaze", "shape"]):
        result[column] = result[column].astype("category").cat.codes
    return result.astype(float)


def test_learners_need_both_sides(table: pd.DataFrame) -> None:
    truth = demo_truth()
    target = np.log(table[DEMO_TARGET])
    joined = pd.concat([table[TABLE], truth[PHOTO]], axis=1)
    scores = {}
    for name, columns in (("table", TABLE), ("both", TABLE + PHOTO)):
        values = numbers(joined, columns)
        trees = HistGradientBoostingRegressor(max_iter=80, max_leaf_nodes=6, min_samples_leaf=8, random_state=0)
        names = [column for column in ("maker", "material", "glaze", "shape") if column in values]
        encode = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), names), remainder=StandardScaler(), sparse_threshold=0
        )
        linear = make_pipeline(encode, PolynomialFeatures(interaction_only=True), RidgeCV(np.logspace(-2, 4, 13)))
        for kind, model, inputs in (("trees", trees, values), ("linear", linear, values.fillna(values.median()))):
            model.fit(inputs[:400], target[:400])
            scores[kind, name] = explained(target[400:], model.predict(inputs[400:]))
    assert max(scores["trees", "table"], scores["linear", "table"]) < 0.7
    assert min(scores["trees", "table"], scores["linear", "table"]) > 0.25
    assert min(scores["trees", "both"], scores["linear", "both"]) > 0.85
