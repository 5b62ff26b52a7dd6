"""What a new user stumbles over: sentences, links, temporaries, noise."""

import fcntl
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from mixfit.config import DataConfig
from mixfit.console import tracked
from mixfit.data.checks.copies import equal_photos
from mixfit.data.columns.infer import infer_schema
from mixfit.data.load import load_data
from mixfit.data.photos.find import Photos
from mixfit.data.photos.records import DESCRIPTION, LOCK, RecordStore, clear
from mixfit.errors import ResourceError
from mixfit.files import new_file, new_folder, through_link, write_file
from mixfit.hooks.activation_stats import ActivationStats
from mixfit.nn.summary import summary
from mixfit.training.lr_find import RateSearch


def test_a_search_for_a_rate_is_one_line_with_the_rate() -> None:
    rates = tuple(np.geomspace(1e-5, 1, 40))
    losses = tuple(1 / (1 + np.exp(np.log10(rates) + 3) * 2) + (np.array(rates) * 3) ** 2)
    search = RateSearch(rates=rates, losses=losses, smoothed=losses)
    shown = str(search)
    assert "\n" not in shown
    assert f"suggested learning rate {search.valley:.1e}" in shown
    assert "40 steps from 1.0e-05 to 1.0e+00" in shown
    rising = RateSearch(rates=rates, losses=tuple(sorted(losses)), smoothed=tuple(sorted(losses)))
    assert "no learning rate to suggest" in repr(rising)


def test_a_far_value_is_told_in_words() -> None:
    frame = pd.DataFrame({"rooms": [2.5, 3.5] * 60 + [-4000.0], "y": np.arange(121) * 1.0})
    (note,) = [column.note for column in infer_schema(frame, "y").columns if column.name == "rooms"]
    assert re.fullmatch(r"the smallest, -4000, is 1[01]\.\d standard deviations from the mean; it is kept", note)


@pytest.mark.parametrize("parts", [["train", "test", "", "valid", "train"], ["", "test", "train", "", "valid"]])
def test_photos_on_two_sides_are_named_by_rows(parts: list[str]) -> None:
    table = pd.DataFrame({"photo": list("aabbc"), "y": [1.5, 2.5, 3.5, 4.5, 5.5]}, index=[10, 11, 12, 13, 14])
    files = tuple(f"photo {number}".encode() for number in range(3))
    slots = np.array([[0], [0], [0], [1], [1]])
    photos = Photos(files=files, slots=slots, slot_columns=("photo",), bad=[], missing_cells={"photo": 0})
    (finding,) = equal_photos(
        table, infer_schema(table.assign(x=[1.5] * 4 + [2]), "y"), photos, np.arange(3), np.array(parts)
    )
    torn = {"rows 10 (train) and 11 (test); 13 (valid) and 14 (train)", "rows 11 (test) and 12 (train)"}
    assert finding.level == "warning"
    assert any(finding.text.endswith(f"so the scores will look too good: {text}") for text in torn)


class Many(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize(("blocks", "lines"), [(3, 6), (30, 60), (50, 50), (500, 1)])
def test_a_summary_is_short_and_loses_no_parameter(blocks: int, lines: int) -> None:
    found = summary(Many(blocks), torch.ones(2, 4))
    shown = str(found).splitlines()
    assert len(shown) == lines + 2
    counted = sum(int(re.sub(r"\D", "", line.split("  ")[-2])) for line in shown[1:-1] if line.rstrip().endswith("yes"))
    assert counted == found.parameters == 20 * blocks


@pytest.mark.parametrize("form", ["batch", "pair", "loader", "data"])
def test_a_summary_takes_data_as_well_as_a_batch(form: str) -> None:
    x, y = torch.ones(5, 4), torch.zeros(5)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=5)

    class Data:
        train = loader

    given = {"batch": x, "pair": (x, y), "loader": loader, "data": Data()}[form]
    if form in ("loader", "data"):  # PyTorch's own gives lists
        loader.collate_fn = lambda rows: (x, y)
    found = summary(Many(1), given)
    assert (found.rows, found.parameters) == (5, 20)


def test_statistics_of_activations_are_a_table() -> None:
    net = Many(2)
    with ActivationStats(net) as stats:
        assert "no activations" in str(stats)
        net(torch.ones(3, 4))
    lines = str(stats).splitlines()
    assert lines[0].split() == ["output", "mean", "sd", "min", "max", "near", "0", "dead"]
    assert [line.split()[0] for line in lines[1:-1]] == ["blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1"]
    assert len({len(line) for line in lines[:-1]}) == 1


def test_a_bar_is_drawn_now_and_then_not_at_every_step() -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=60)
    started = time.monotonic()
    assert sum(tracked(range(20_000), total=20_000, description="work", console=console)) == sum(range(20_000))
    seconds = time.monotonic() - started
    assert terminal.getvalue().count("work") <= 4 + 2 * seconds / 0.5
    pipe = io.StringIO()
    list(tracked(range(100), total=100, description="work", console=Console(file=pipe)))
    assert "work" not in pipe.getvalue()


KILLED = """
    import os, signal, sys, time
    from pathlib import Path
    from mixfit.files import new_file, new_folder
    path = Path(sys.argv[2])
    with (new_file if sys.argv[1] == "file" else new_folder)(path) as made:
        (made.write(b"half") if sys.argv[1] == "file" else (made / "half").write_text("half"))
        print("begun", flush=True)
        time.sleep(60)
"""


def killed(kind: str, path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), kind, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_kill_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    killed("file", tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_what_a_killed_process_left_of_a_folder_goes_with_the_next_one(tmp_path: Path) -> None:
    killed("folder", tmp_path / "model")
    assert len(list(tmp_path.glob(".model.*"))) == 1
    (tmp_path / ".model.keep").mkdir()  # no temporary of ours, by its name
    with new_folder(tmp_path / "model") as folder:
        (folder / "whole").write_text("x")
        with new_folder(tmp_path / "other"):
            pass
        with pytest.raises(TypeError), new_folder(tmp_path / "model") as second:
            (second / "half").write_text(1)  # type: ignore[arg-type]
        assert folder.exists()  # it is held, so another writer of the same name lets it be
    assert {path.name for path in tmp_path.iterdir()} == {"model", "other", ".model.keep"}


def test_a_file_is_there_with_its_bytes_and_rights_and_nothing_else(tmp_path: Path) -> None:
    for content in (b"", b"one", b"two" * 10**6):
        write_file(tmp_path / "a.bin", content)
        assert (tmp_path / "a.bin").read_bytes() == content
    mask = os.umask(0o022)
    os.umask(mask)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(TypeError), new_file(tmp_path / "a.bin") as file:
        file.writelines([b"lost", "no bytes"])  # type: ignore[list-item]
    assert (tmp_path / "a.bin").read_bytes() == b"two" * 10**6
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_without_files_without_a_name_it_works_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    write_file(tmp_path / "a.bin", b"one")
    assert (tmp_path / "a.bin").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_that_is_typed_stays_a_link(tmp_path: Path, there: bool) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real/out.csv", tmp_path / "out.csv"
    if there:
        target.write_text("old")
    link.symlink_to("real/out.csv")
    write_file(through_link(link), "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert through_link(target) == target


def damaged_tiffs() -> list[bytes]:
    random, found = np.random.default_rng(0), []
    picture = Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"):
        buffer = io.BytesIO()
        (picture.convert("1") if compression == "group4" else picture).save(buffer, "TIFF", compression=compression)
        for _ in range(10):
            data = bytearray(buffer.getvalue())
            data[200:] = bytes(random.integers(0, 255, len(data) - 200, dtype=np.uint8))
            found.append(bytes(data))
            flipped = bytearray(buffer.getvalue())
            flipped[int(random.integers(100, len(flipped)))] ^= 0xFF
            found.append(bytes(flipped))
    return found


def test_damaged_tiffs_make_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    from mixfit.data.photos.decode import ImageError, read_image

    refused = 0
    for data in damaged_tiffs():
        try:
            read_image(data)
        except ImageError:
            refused += 1
    assert refused > 10
    assert capfd.readouterr().err == ""


def stored(folder: Path) -> Path:
    store = RecordStore(folder / "features-2-32px-a", shape=(2,), dtype=np.float32)
    with store.writing():
        store.append(["a"], np.ones((1, 2), dtype=np.float32))
    return store.folder


def test_clearing_tells_what_is_in_use_from_what_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored(tmp_path)
    with (folder / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        removed, kept = clear(tmp_path)
        assert (removed, [store.folder for store in kept]) == ([], [folder])
    opened = os.open

    def read_only(path: object, flags: int, *rest: int, **names: int) -> int:
        if str(path).endswith(LOCK):
            raise OSError(30, "Read-only file system")
        return opened(path, flags, *rest, **names)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(ResourceError, match=r"features-2-32px-a cannot be removed: Read-only file system\.$"):
        clear(tmp_path)
    monkeypatch.undo()
    assert (folder / DESCRIPTION).is_file()
    assert [store.folder for store in clear(tmp_path)[0]] == [folder]


def test_python_shows_progress_as_the_command_line_does(demo_table: Path, tmp_path: Path) -> None:
    data = load_data(demo_table, target="price", config=DataConfig(cache=tmp_path))
    assert data.photos is not None
    assert data.photos.cache is not None
    assert data.photos.cache.progress
