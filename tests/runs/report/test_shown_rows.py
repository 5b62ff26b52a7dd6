"""What a report says of the data and of single rows, against tables that were made to have it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixfit.config import DataConfig
from mixfit.data.load import MixedData, load_data
from mixfit.runs.report.data import Unusual, describe_data, sample_rows, small_pictures, worst_places, worst_rows

ROWS = 200
ODD = 190  # the first of the test rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MixedData:
    """Test rows that are odd each in one way; all else is ordinary."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    for number in range(ROWS):
        Image.new("RGB", (300, 20), tuple(rng.integers(0, 256, 3).tolist())).save(folder / f"{number}.png")
    (folder / f"{ODD + 3}.png").write_bytes((folder / "7.png").read_bytes())
    frame = pd.DataFrame(
        {
            "split": np.repeat(["train", "valid", "test"], [150, 40, 10]),
            "area": rng.uniform(10, 20, ROWS).round(3),
            "kind": rng.choice(["a", "b"], ROWS),
            "day": pd.date_range("2024-01-01", periods=ROWS).astype(str),
            "photo": [f"{number}.png" for number in range(ROWS)],
            "price": rng.normal(50, 1, ROWS).round(3),
        }
    )
    frame["kind"] = frame["kind"].where(frame.index != 5, "once")
    frame["area"] = frame["area"].where(frame.index != ODD, 99.0)
    frame.loc[ODD + 1, "kind"] = "never"
    frame.loc[ODD + 2, "photo"] = None
    frame.loc[ODD + 4, "area"] = np.nan
    frame.loc[ODD + 5, "kind"] = "once"
    frame.to_csv(folder / "table.csv", index=False)
    return load_data(folder / "table.csv", target="price", config=DataConfig(image_size=32))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (0, "area is 99, above all training rows (at most 1"),
        (1, "kind: category not seen in training (treated as unknown)"),
        (2, "no readable photo; 100 % of the training rows have one"),
        (3, "row 7 has the same photo but another price, "),
        (4, "area is missing, as in no training row"),
        (5, "kind is 'once', as in 1 training row only"),
    ],
)
def test_what_is_unusual_is_found(row: int, sentence: str, data: MixedData) -> None:
    about = Unusual(data, data.bad).about(ODD + row)
    assert any(text.startswith(sentence) for text in about), about


def test_a_row_that_was_learned_from_is_compared_with_the_others(data: MixedData) -> None:
    learned = np.arange(200)
    every = replace(data, split=replace(data.split, train=learned, valid=learned, test=learned[:0]))
    about = Unusual(every, []).about(ODD)
    assert any(text.startswith("area is 99, above all training rows (at most 1") for text in about), about
    assert "kind is 'never', which no other training row has" in Unusual(every, []).about(ODD + 1)


def test_most_ordinary_rows_have_nothing_unusual(data: MixedData) -> None:
    subject = Unusual(data, data.bad)
    silent = [row for row in range(10, 140) if not subject.about(row)]
    assert len(silent) > 110


def test_the_worst_rows_come_first_and_right_ones_never() -> None:
    truth = np.array([1.0, 2.0, 100.0, 4.0])
    prediction = np.array([3.0, 2.0, 110.0, 4.5])
    assert worst_places(truth, prediction, log=False).tolist() == [2, 0, 3]
    assert worst_places(truth, prediction, log=True).tolist() == [0, 3, 2]
    classes = np.array([0, 1, 1, 0])
    probabilities = np.array([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6], [0.49, 0.51]])
    assert worst_places(classes, probabilities, log=False).tolist() == [1, 0, 3]


def test_a_truth_outside_of_its_interval_is_said_first(data: MixedData) -> None:
    rows = data.split.test
    truth = data.frame["price"].astype(float).to_numpy()[rows]
    ends = (truth - 1, truth - 0.5)
    found = worst_rows(
        data, Unusual(data, data.bad), rows, truth, truth + np.arange(len(rows)), part="test rows", interval=ends
    )
    assert [row.row for row in found] == rows[:1:-1].tolist()[:8]
    assert all(row.reasons[0] == "the true value is above the 90 % prediction interval" for row in found)
    assert not any(name == "price" for name, _ in found[0].cells)


def test_samples_are_training_rows_with_cells_as_they_are_and_small_photos(data: MixedData) -> None:
    rows, pictures = small_pictures(data, sample_rows(data))
    assert len(rows) == len(pictures) == 4
    for row in rows:
        assert row.row in data.split.train
        assert dict(row.cells)["area"] == f"{data.frame['area'].iloc[row.row]}"
        assert pictures[row.photos[0].file].startswith(b"\xff\xd8")
    assert max(map(len, pictures.values())) < 20_000


def test_a_photo_that_has_gone_has_no_file(tmp_path: Path, data: MixedData) -> None:
    rows = sample_rows(data)
    assert data.photos is not None
    number = data.photos.slots[rows[0].row, 0]
    path = data.photos.files[number]
    assert isinstance(path, Path)
    path.rename(tmp_path / "away.png")
    try:
        shown, pictures = small_pictures(data, rows)
    finally:
        (tmp_path / "away.png").rename(path)
    assert shown[0].photos[0].file == ""
    assert len(pictures) == 3


def test_distributions_count_every_row_that_has_a_value(data: MixedData) -> None:
    facts = describe_data(data, [])
    by_name = {one.column: one for one in facts.distributions}
    assert list(by_name) == ["price", "split", "area", "kind", "day", "photo"]
    missing = {"area": 1}
    for name, found in by_name.items():
        assert sum(found.counts) + found.others == ROWS - missing.get(name, 0), name
        assert len(found.labels) == len(found.counts)
    assert by_name["area"].summary.startswith("10.0")
    assert by_name["day"].summary == "2024-01-01 to 2024-07-18"
    assert dict(zip(by_name["photo"].labels, by_name["photo"].counts, strict=True)) == {"no photo": 1, "1 photo": 199}
    assert "1 of 200 rows have no photo" in facts.notes[0]
