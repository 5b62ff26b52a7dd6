"""Files of finished runs and models that are not as they were written: refused in one sentence, never other numbers."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest
from folder_faults import files_of

from mixfit.auto.recipe import Run
from mixfit.cli import main
from mixfit.errors import ChangedFileError, DataError
from mixfit.files import SUMS, read_json, read_text, seal, unseal
from mixfit.predictor import Predictor
from mixfit.runs.report.page import rewrite_report


@pytest.fixture(scope="module")
def finished(quick_run: Run) -> Path:
    return quick_run.folder


def swapped(text: str, rng: random.Random) -> str:
    """The text with two different numbers in each other's place."""
    numbers = list(re.finditer(r"(?<![\w.\"-])\d+\.\d{3,}(?![\w.])", text))
    first, second = sorted(rng.sample(range(len(numbers)), 2))
    a, b = numbers[first], numbers[second]
    return text[: a.start()] + b[0] + text[a.end() : b.start()] + a[0] + text[b.end() :]


@pytest.mark.parametrize("seed", range(6))
def test_a_model_whose_description_was_changed_is_refused(finished: Path, tmp_path: Path, seed: int) -> None:
    folder = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    path, rng = folder / "mixfit.json", random.Random(seed)
    text = path.read_text()
    changed = swapped(text, rng)
    if seed % 2:
        place = rng.choice([match.start() for match in re.finditer(r"(?<=\d)\d(?=\d)", text)])
        changed = text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]
    path.write_text(changed)
    with pytest.raises(DataError, match=r"^[^\n]*(mixfit\.json|model\.safetensors) [^\n]*$"):
        Predictor.load(folder)


def test_a_description_may_be_indented_anew_and_lack_the_sum_as_older_ones(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    said = json.loads((folder / "mixfit.json").read_text())
    (folder / "mixfit.json").write_text(json.dumps(said))
    Predictor.load(folder)
    del said["description_sha256"]
    (folder / "mixfit.json").write_text(json.dumps(said))
    Predictor.load(folder)


def test_every_file_that_numbers_are_read_from_is_sealed(finished: Path) -> None:
    listed = {line.split("  ")[1] for line in (finished / SUMS).read_text().splitlines()} - {SUMS}
    inside = {name for name in files_of(finished) if not name.startswith(("model/", "checkpoints/", "candidates/"))}
    assert inside - listed <= {SUMS, "metrics.jsonl"}


def test_the_paths_of_the_settings_may_be_changed_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('table = "', 'table = "/elsewhere'))
    assert read_text(run / "config.toml").count("elsewhere") == 1
    (run / "config.toml").write_text(text.replace("seed = 0", "seed = 1"))
    with pytest.raises(ChangedFileError, match=r"config\.toml is damaged or was changed"):
        read_text(run / "config.toml")


def test_a_report_of_swapped_scores_is_refused_in_one_sentence(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "report.html").write_text("edited")
    (run / "model" / "README.md").write_text("edited")
    rewrite_report(run)
    path = run / "results.json"
    path.write_text(swapped(path.read_text(), random.Random(0)))
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run)])
    assert ended.value.code == 3
    assert len(capsys.readouterr().err.strip().splitlines()) <= 3


@pytest.mark.parametrize("bit", range(8))
def test_a_bit_in_a_file_or_in_its_sum_is_seen(tmp_path: Path, bit: int) -> None:
    (tmp_path / "a.json").write_text('{"x": 1.25}')
    (tmp_path / "b.json").write_text('{"x": 2.5}')
    seal(tmp_path, ["a.json", "b.json", "none.json"])
    assert read_json(tmp_path / "a.json") == {"x": 1.25}
    (tmp_path / "c.json").write_text("{}")
    assert read_json(tmp_path / "c.json") == {}
    sums = (tmp_path / SUMS).read_bytes()
    for place in (3, 64, 66, 68, len(sums) - 40):  # of the sum, of the blank after it, of the name, of its own sum
        (tmp_path / SUMS).write_bytes(sums[:place] + bytes([sums[place] ^ 1 << bit]) + sums[place + 1 :])
        with pytest.raises(DataError, match=re.escape(SUMS)):
            read_text(tmp_path / "a.json")
    (tmp_path / SUMS).write_bytes(sums)
    content = (tmp_path / "a.json").read_bytes()
    (tmp_path / "a.json").write_bytes(content[:7] + bytes([content[7] ^ 1 << bit]) + content[8:])
    with pytest.raises(DataError, match=r"a\.json is damaged"):
        read_text(tmp_path / "a.json")
    unseal(tmp_path)
    unseal(tmp_path)


def test_the_error_of_a_changed_file_is_one_of_the_data() -> None:
    assert ChangedFileError("x").exit_code == 3
