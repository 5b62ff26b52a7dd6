"""How photos are found: tables and folders as people have them, and the rule that is found, kept and applied."""

import json
import os
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixfit.config import DataConfig
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.schema import Schema
from mixfit.data.load import infer_configured, load_data
from mixfit.data.photos.decode import read_image
from mixfit.data.photos.find import find_photos
from mixfit.data.photos.rule import PhotoRule, hand_rule, images_root
from mixfit.data.photos.rules import photo_rules, unnamed_photos
from mixfit.errors import ConfigError, DataError

ROWS = 24


def draw(path: Path, *, number: int = 0, kind: str = "JPEG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(path, format=kind)


def table(cells: Sequence[object], name: str = "photo") -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(cells), "y": np.arange(len(cells), dtype=float)})


def found_by_rule(frame: pd.DataFrame, root: Path, column: str = "photo") -> list[list[str]]:
    """Names of the photos of each row, below the root, by the rules that are found."""
    rules = photo_rules(frame, root, target="y", roles={})
    photos = find_photos(frame, [column], root, rules)
    assert photos.bad == []
    start = f"{os.path.realpath(root)}/"
    return [[str(photos.files[slot]).removeprefix(start) for slot in row if slot >= 0] for row in photos.slots.tolist()]


def name_of(row: int, part: int = 0) -> str:
    return f"vase {row:02d}{'abc'[part]}"


Layout = tuple[Callable[[int], object], Callable[[int], list[str]]]
LAYOUTS: dict[str, Layout] = {
    # Of the reports.
    "no ending": (lambda i: f"img/{name_of(i)}", lambda i: [f"img/{name_of(i)}.png"]),
    "other ending": (lambda i: f"img/{name_of(i)}.png", lambda i: [f"img/{name_of(i)}.jfif"]),
    "upper-case ending": (lambda i: f"img/{name_of(i)}.jpg", lambda i: [f"img/{name_of(i)}.JPG"]),
    "query behind": (lambda i: f"img/{name_of(i)}.jpeg?v=2", lambda i: [f"img/{name_of(i)}.jpeg"]),
    "list as text": (lambda i: f"['a{i}.png', 'b{i}.png']", lambda i: [f"a{i}.png", f"b{i}.png"]),
    "commas": (lambda i: f"a{i}.png,b{i}.png", lambda i: [f"a{i}.png", f"b{i}.png"]),
    "pipes": (lambda i: f"a{i}.png|b{i}.png", lambda i: [f"a{i}.png", f"b{i}.png"]),
    "blanks": (lambda i: f"a{i}.png b{i}.png", lambda i: [f"a{i}.png", f"b{i}.png"]),
    "Windows": (lambda i: rf"img\{name_of(i)}.jpg", lambda i: [f"img/{name_of(i)}.jpg"]),
    "escapes": (lambda i: f"img/{name_of(i)}.jpg".replace(" ", "%20"), lambda i: [f"img/{name_of(i)}.jpg"]),
    "decomposed": (lambda i: f"caf\u00e9{i}.jpg", lambda i: [unicodedata.normalize("NFD", f"caf\u00e9{i}.jpg")]),
    "composed": (lambda i: unicodedata.normalize("NFD", f"caf\u00e9{i}.jpg"), lambda i: [f"caf\u00e9{i}.jpg"]),
    "absolute": (lambda i: f"/home/ann/shop/img/{name_of(i)}.jpg", lambda i: [f"img/{name_of(i)}.jpg"]),
    # Of the same kind, in no report.
    "a drive": (lambda i: rf"D:\Photos\2024\{name_of(i)}.JPG", lambda i: [f"2024/{name_of(i)}.jpg"]),
    "a share": (lambda i: rf"\\server\shop\{name_of(i)}.jpg", lambda i: [f"{name_of(i)}.jpg"]),
    "upwards": (lambda i: f"../pictures/{name_of(i)}.jpg", lambda i: [f"pictures/{name_of(i)}.jpg"]),
    "folder left out": (lambda i: f"{name_of(i)}.webp", lambda i: [f"pics/{name_of(i)}.webp"]),
    "folder and ending left out": (lambda i: name_of(i), lambda i: [f"media/2024/{name_of(i)}.webp"]),
    "JSON list": (lambda i: json.dumps([f"\u00e9{i}.png", f"b{i}.png"]), lambda i: [f"\u00e9{i}.png", f"b{i}.png"]),
    "NumPy list": (lambda i: f"['a{i}.png' 'b{i}.png']", lambda i: [f"a{i}.png", f"b{i}.png"]),
    "PostgreSQL list": (lambda i: f"{{a{i}.png,b{i}.png}}", lambda i: [f"a{i}.png", f"b{i}.png"]),
    "bare list": (lambda i: f"[a{i}.png, b{i}.png]", lambda i: [f"a{i}.png", f"b{i}.png"]),
    "a real list": (lambda i: [f"a{i}.png", f"b{i}.png"], lambda i: [f"a{i}.png", f"b{i}.png"]),
    "quoted": (lambda i: f'"a{i}.png"; "b{i}.png"', lambda i: [f"a{i}.png", f"b{i}.png"]),
    "a folder in the cell": (lambda i: f"img/{i:02d}/", lambda i: [f"img/{i:02d}/{k}.jpg" for k in (2, 10)]),
    "a fragment": (lambda i: f"{i}a.png#top", lambda i: [f"{i}a.png"]),
    "address whose end is there": (lambda i: f"https://cdn.shop.example/x/{i}a.jpg", lambda i: [f"{i}a.jpg"]),
    "Turkish and German case": (lambda i: f"STRASSE{i}.JPG", lambda i: [f"stra\u00dfe{i}.jpg"]),
    "content tells": (lambda i: f"img/{name_of(i)}", lambda i: [f"img/{name_of(i)}"]),
    "comma in a name": (lambda i: f"red, blue {i}.jpg", lambda i: [f"red, blue {i}.jpg"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_paths_as_people_write_them(tmp_path: Path, layout: str) -> None:
    cell, files = LAYOUTS[layout]
    for row in range(ROWS):
        for name in files(row):
            draw(tmp_path / name, number=row)
    frame = table([cell(row) for row in range(ROWS)])
    assert found_by_rule(frame, tmp_path) == [files(row) for row in range(ROWS)]


IdLayout = tuple[Callable[[int], object], Callable[[int], list[str]], str]


def photos_of(pattern: str, counts: Callable[[int], Sequence[object]] = lambda _: [0]) -> Callable[[int], list[str]]:
    return lambda i: [pattern.format(i=i, k=k) for k in counts(i)]


ID_LAYOUTS: dict[str, IdLayout] = {
    # Of the reports.
    "a folder for each id": (
        lambda i: i,
        photos_of("images/{i}/{k}.jpg", lambda i: range(i % 3 + 1)),
        "images/{house}/*",
    ),
    "an id as file name": (lambda i: i, photos_of("images/{i}.JPG"), "images/{house}.*"),
    # Of the same kind, in no report.
    "in the table's folder": (lambda i: f"A-{i}", photos_of("A-{i}/front.webp"), "{house}/*"),
    "numbered behind": (lambda i: i, photos_of("p/{i}_{k}.jpg", lambda i: range(1, i % 3 + 2)), "p/{house}_*"),
    "a word before the id": (lambda i: i, photos_of("p/IMG-{i}.jpg"), "p/IMG-{house}.*"),
    "zeros before the number": (lambda i: i, photos_of("p/{i:05d}.png"), "p/{house}.*"),
    "a folder with a word": (lambda i: i, photos_of("p/house_{i:03d}/{k}.png", lambda _: (1, 2)), "p/house_{house}/*"),
    "other case": (lambda i: f"sku{i}x", photos_of("SKU{i}X.PNG"), "{house}.*"),
    "floats": (lambda i: float(i), photos_of("p/{i}.png"), "p/{house}.*"),
    "with and without a number": (lambda i: f"k{i}", photos_of("p/k{i}{k}.png", lambda _: ("", "-2")), "p/{house}*"),
}


@pytest.mark.parametrize("missing", [0, 5])
@pytest.mark.parametrize("layout", ID_LAYOUTS)
def test_ids_that_photos_are_named_by(tmp_path: Path, layout: str, missing: int) -> None:
    cell, files, pattern = ID_LAYOUTS[layout]
    there = [files(row) if row >= missing else [] for row in range(ROWS)]
    for row, names in enumerate(there):
        for name in names:
            draw(tmp_path / name, number=row)
    frame = table([cell(row) for row in range(ROWS)], "house").assign(rooms=[row % 4 for row in range(ROWS)])
    (rule,) = photo_rules(frame, tmp_path, target="y", roles={})
    assert (rule.column, rule.pattern) == ("house", pattern)
    count = sum(map(len, there))
    assert rule.reason.endswith(f": {count} photos in {ROWS - missing} of {ROWS} rows")
    found = found_by_rule(frame, tmp_path, "house")
    assert [sorted(row) for row in found] == [sorted(names) for names in there]
    assert found == there or layout == "with and without a number"


@settings(max_examples=25, deadline=None)
@given(
    ids=st.lists(
        st.one_of(
            st.integers(0, 10**6).map(str),
            st.text(alphabet="abcXYZ\u00e9\u00df\u4e2d019", min_size=1, max_size=6).filter(
                lambda text: text.strip("0") != ""
            ),
        ),
        min_size=8,
        max_size=20,
        unique_by=lambda text: text.casefold().lstrip("0"),
    ),
    folders=st.booleans(),
    start=st.sampled_from(["", "images/", "a b/c/"]),
    case=st.sampled_from([str, str.upper, str.title]),
    form=st.sampled_from(["NFC", "NFD"]),
)
def test_any_ids_in_any_folder_are_found(
    ids: list[str], folders: bool, start: str, case: Callable[[str], str], form: str
) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        expected = []
        for number, name in enumerate(ids):
            written = unicodedata.normalize(form, case(name))
            file = f"{start}{written}/1.png" if folders else f"{start}{written}.png"
            draw(root / file, number=number)
            expected.append([file])
        frame = table(ids, "house")
        assert found_by_rule(frame, root, "house") == expected


def test_names_in_a_folder_are_ordered_as_people_count(tmp_path: Path) -> None:
    for row in range(ROWS):
        for name in ("10.jpg", "9.jpg", "Cover.jpg", "100.jpg"):
            draw(tmp_path / f"i/{row}/{name}", number=row)
    frame = table(range(ROWS), "id")
    assert found_by_rule(frame, tmp_path, "id")[3] == ["i/3/9.jpg", "i/3/10.jpg", "i/3/100.jpg", "i/3/Cover.jpg"]


def test_contents_decide_what_of_a_folder_is_a_photo(tmp_path: Path) -> None:
    for row in range(ROWS):
        folder = tmp_path / f"i/{row}"
        draw(folder / "IMG_0001", number=row)  # a photo without an ending
        draw(folder / "b.jpg", number=row)
        for name in ("Thumbs.db", ".DS_Store", "notes.txt", "._b.jpg"):
            (folder / name).write_bytes(b"no photo")
    found = found_by_rule(table(range(ROWS), "id"), tmp_path, "id")
    assert found[0] == ["i/0/b.jpg", "i/0/IMG_0001"]


def test_a_number_is_not_the_beginning_of_another(tmp_path: Path) -> None:
    for name in ("1.jpg", "1b.jpg", "10.jpg", "11_2.jpg", "1_2.jpg"):
        draw(tmp_path / f"p/{name}")
    rule = hand_rule("p/{id}*", ["id"])
    photos = find_photos(pd.DataFrame({"id": [1]}), ["id"], tmp_path, [rule])
    assert [file.name for file in photos.files] == ["1.jpg", "1_2.jpg", "1b.jpg"]


def test_signs_in_cells_are_no_patterns(tmp_path: Path) -> None:
    draw(tmp_path / "p/a*.jpg", number=1)
    draw(tmp_path / "p/ab.jpg", number=2)
    rule = hand_rule("p/{id}.*", ["id"])
    photos = find_photos(pd.DataFrame({"id": ["a*", "[ab]", "*", "."]}), ["id"], tmp_path, [rule])
    assert [file.name for file in photos.files] == ["a*.jpg"]
    assert photos.missing_cells == {"id": 3}


def test_several_columns_in_a_rule(tmp_path: Path) -> None:
    for city in ("Ulm", "Bonn"):
        for number in (1, 2):
            draw(tmp_path / f"{city.lower()}/{number}/a.jpg", number=number)
    frame = pd.DataFrame({"city": ["Ulm", "Bonn", None, "Ulm"], "id": [1, 2, 1, 7]})
    photos = find_photos(frame, ["id"], tmp_path / "{city}" / "{id}" / "*")
    start = f"{os.path.realpath(tmp_path)}/"
    assert [str(file).removeprefix(start) for file in photos.files] == ["ulm/1/a.jpg", "bonn/2/a.jpg"]
    assert photos.slots.tolist() == [[0], [1], [-1], [-1]]


@pytest.mark.parametrize("second", ["thumbs/{}.png", "thumbs/{}/a.png", "b.zip"])
def test_two_rules_that_explain_equally_much_are_a_question(tmp_path: Path, second: str) -> None:
    for row in range(ROWS):
        draw(tmp_path / f"images/{row}.jpg", number=row)
        if second != "b.zip":
            draw(tmp_path / second.format(row), number=row)
    if second == "b.zip":
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            for row in range(ROWS):
                archive.write(tmp_path / f"images/{row}.jpg", f"{row}.jpg")
    frame = table(range(ROWS), "id")
    with pytest.raises(ConfigError, match=r"two ways: .*\{id\}.* and .*--images 'images/\{id\}\.\*'.*--set id=ignored"):
        photo_rules(frame, tmp_path, target="y", roles={})
    assert photo_rules(frame, tmp_path, target="y", roles={"id": "ignored"}) == ()
    (rule,) = photo_rules(frame, tmp_path / "images/{id}.*", target="y", roles={})
    assert rule.reason == f"images/{{id}}.*: {ROWS} photos in {ROWS} of {ROWS} rows, set by hand"


def test_paths_that_are_there_need_no_rule_and_no_look_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for row in range(ROWS):
        draw(tmp_path / f"images/{row}.jpg", number=row)
        draw(tmp_path / f"thumbs/{row}.jpg", number=row)
    frame = table([f"images/{row}.jpg" for row in range(ROWS)])
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} was listed"))
    assert photo_rules(frame, tmp_path, target="y", roles={}) == ()


def test_photos_of_the_reports_of_earlier_runs_are_none_of_the_table(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "t-y-001"
    for row in range(1, 100):
        draw(run / f"report_files/{row}.jpg", number=row)
    frame = table([row + 1 for row in range(ROWS)], "id")
    assert photo_rules(frame, tmp_path, target="y", roles={}), "as in any other folder"
    for name in ("environment.json", "schema.json"):
        (run / name).write_text("{}")
    assert photo_rules(frame, tmp_path, target="y", roles={}) == ()
    assert unnamed_photos(tmp_path) == ""


def test_few_photos_that_fit_by_chance_are_no_rule(tmp_path: Path) -> None:
    for row in range(1, 100):
        draw(tmp_path / f"stuff/{row}.jpg", number=row)
    frame = table([row % 4 for row in range(ROWS)], "rooms")
    assert photo_rules(frame, tmp_path, target="y", roles={}) == ()
    assert "the folder stuff beside the table has 99 photos" in unnamed_photos(tmp_path)
    assert "--images 'stuff/{COLUMN}/*'" in unnamed_photos(tmp_path)


@pytest.mark.parametrize("values", ["ages", "row numbers"])
def test_pictures_of_something_else_are_no_photos_of_rows(tmp_path: Path, values: str) -> None:
    for number in range(1, 8):  # the pictures of a handbook, by chapter
        for word in ("batch", "curve", "table"):
            draw(tmp_path / f"docs/{number}-{word}.png", number=number)
    cells = [row * 7 % 70 for row in range(300)] if values == "ages" else list(range(300))
    assert photo_rules(table(cells, "x"), tmp_path, target="y", roles={}) == ()


@pytest.mark.parametrize("values", [[1, 2, 3, 4, 5], [1, 2], list(range(10, 20)), ["01", "02", "03"]])
def test_numbers_of_rooms_and_the_like_are_no_ids_of_numbered_photos(tmp_path: Path, values: list[object]) -> None:
    for folder in ("photos", "other"):
        for value in values:
            draw(tmp_path / folder / f"{value}.png", kind="PNG")
    assert photo_rules(table(values * 20, "rooms"), tmp_path, target="y", roles={}) == ()
    (tmp_path / "other").rename(tmp_path.parent / f"{tmp_path.name} elsewhere")
    assert photo_rules(table(values, "lot"), tmp_path, target="y", roles={})[0].column == "lot"  # each has its own


def test_a_name_that_could_be_two_files_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "a.JPG", number=1)
    draw(tmp_path / "A.jpg", number=2)
    photos = find_photos(pd.DataFrame({"photo": ["A.jpg", "a.jpg"]}), ["photo"], tmp_path)
    assert [file.name for file in photos.files] == ["A.jpg"]
    (record,) = photos.bad
    assert record.problem == "matches 2 files, 'A.jpg' and 'a.JPG': write the exact file name"


@pytest.mark.parametrize(
    "cell",
    ["../../{out}/x.jpg", "..", "a/../../{out}/x.jpg", "/{out}/x.jpg", "link/x.jpg", "\0", "..\\..\\{out}\\x.jpg"],
)
@pytest.mark.parametrize("pattern", ["{id}", "{id}.*", "{id}/*", "images/{id}/*", "images/{id}"])
@pytest.mark.parametrize("tail", [False, True])
def test_no_rule_leads_outside(tmp_path: Path, cell: str, pattern: str, tail: bool) -> None:
    outside, root = tmp_path / "out", tmp_path / "root"
    draw(outside / "x.jpg")
    draw(root / "images/ok.jpg")
    (root / "link").symlink_to(outside)
    (root / "images/link").symlink_to(outside)
    frame = pd.DataFrame({"id": [cell.format(out="out")]})
    photos = find_photos(frame, ["id"], root, [PhotoRule(column="id", pattern=pattern, tail=tail)])
    assert photos.files == ()


def test_the_rule_is_kept_in_the_schema(tmp_path: Path) -> None:
    for row in range(ROWS):
        draw(tmp_path / f"images/{row}/1.jpg", number=row)
    frame = table(range(ROWS), "id").assign(size=[row * 7 % 5 for row in range(ROWS)])
    schema = infer_configured(frame, "y", DataConfig(), images=tmp_path)
    assert schema.names("image") == ["id"]
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    assert "photos" not in infer_schema(frame, "y").to_dict()
    damaged = schema.to_dict() | {"photos": [{"column": "size", "pattern": "{size}"}]}
    with pytest.raises(DataError, match="'size', which is not an image column"):
        Schema.from_dict(damaged)


def test_a_rule_by_hand_finds_a_new_table_s_photos_beside_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, first in ((old, 0), (new, 500)):
        for row in range(ROWS):
            draw(folder / f"pics/{first + row}/1.jpg", number=row)
    (rule,) = photo_rules(table(range(ROWS), "id"), old / "pics/{id}/*", target="y", roles={})
    frame = table(range(500, 500 + ROWS), "id")
    for root in (new, new / "pics"):
        assert len(find_photos(frame, ["id"], root, [rule]).files) == ROWS


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("images/{house}/*", "no column 'house'"),
        ("images/*", "names no column"),
        ("images/{y}/*", "uses the target 'y'"),
        ("images/{group}/*", "'group' names photos .* cannot have the role group"),
    ],
)
def test_a_rule_that_does_not_fit_is_a_config_error(tmp_path: Path, pattern: str, match: str) -> None:
    frame = table(range(ROWS), "id").assign(group=1)
    with pytest.raises(ConfigError, match=match):
        photo_rules(frame, tmp_path / pattern, target="y", roles={"group": "group"})


def test_images_start_from_where_one_is_or_from_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop/images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    at = Path("shop")
    assert images_root(None, at) == Path("shop")
    assert images_root(Path("images/{id}/*"), at) == Path("shop/images/{id}/*")
    assert images_root(Path("shop/images/{id}/*"), at) == Path("shop/images/{id}/*")
    with pytest.raises(DataError, match="The images folder nowhere does not exist"):
        images_root(Path("nowhere"), at)


def test_addresses_in_the_web_are_no_photos(tmp_path: Path) -> None:
    frame = table([f"https://shop.example/{row}.jpg" for row in range(ROWS)], "picture_url").assign(x=[1.5, 2.5] * 12)
    assert infer_configured(frame, "y", DataConfig(), images=tmp_path).names("image") == []


def test_ids_that_photos_are_named_by_keep_their_rows_together(tmp_path: Path) -> None:
    for row in range(ROWS):
        draw(tmp_path / f"images/{row}/1.jpg", number=10 * row)
    frame = table([row // 2 for row in range(2 * ROWS)], "id").assign(x=np.arange(2 * ROWS) * 1.5)
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = load_data(tmp_path / "t.csv", target="y")
    sides = {name: set(data.frame["id"].iloc[rows]) for name, rows in data.split.parts().items()}
    assert not sides["train"] & (sides["valid"] | sides["test"])


def test_a_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for row in range(200):
        draw(tmp_path / f"p/{row}_1.jpg", number=row)
    frame, listed, scandir = table(range(200), "id"), list[str](), os.scandir
    (rule,) = photo_rules(frame, tmp_path, target="y", roles={})
    monkeypatch.setattr(os, "scandir", lambda path: [listed.append(str(path)), scandir(path)][1])
    assert len(find_photos(frame, ["id"], tmp_path, [rule]).files) == 200
    assert len(listed) == len(set(listed)) <= 2


def test_photos_of_an_archive_are_read_where_they_are(tmp_path: Path) -> None:
    pixels = {}
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for row in range(ROWS):
            draw(tmp_path / "one.png", number=row, kind="PNG")
            archive.write(tmp_path / "one.png", f"shop/{row}/a.png")
            archive.writestr(f"__MACOSX/shop/{row}/._a.png", b"not a photo")
            pixels[row] = read_image(tmp_path / "one.png")
    (tmp_path / "one.png").unlink()
    frame, before = table(range(ROWS), "id"), sorted(tmp_path.rglob("*"))
    (rule,) = photo_rules(frame, tmp_path, target="y", roles={})
    assert rule.pattern == "photos.zip/shop/{id}/*"
    photos = find_photos(frame, ["id"], tmp_path, [rule])
    for row in range(ROWS):
        np.testing.assert_array_equal(read_image(photos.files[photos.slots[row, 0]]), pixels[row])
    assert sorted(tmp_path.rglob("*")) == before
    by_hand = find_photos(frame, ["id"], tmp_path / "photos.zip/shop/{id}/*")
    assert by_hand.files == photos.files
    named = table([f"shop/{row}/a.png" for row in range(ROWS)])
    assert (
        len(
            find_photos(
                named,
                ["photo"],
                tmp_path / "photos.zip",
                photo_rules(named, tmp_path / "photos.zip", target="y", roles={}),
            ).files
        )
        == ROWS
    )


@pytest.mark.parametrize("images", ["nowhere", "nowhere/{number}/*", "nowhere/deeper"])
def test_a_folder_that_is_not_there_is_refused_for_any_table(images: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    pd.DataFrame({"number": range(40), "x": np.arange(40) % 7 / 3, "y": np.arange(40) / 9}).to_csv(table, index=False)
    with pytest.raises(DataError, match=r"^The images folder nowhere[a-z/]* does not exist"):
        load_data(table, target="y", config=DataConfig(images=Path(images)))
