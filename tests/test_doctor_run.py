"""``mixfit train --doctor``: findings at the end of the output, in the line of JSON, and in the report."""

import json
from pathlib import Path

import pytest

from mixfit.cli import main
from mixfit.demo import write_demo

FINDING = "learning rate far off: The learning rate 1.0e-07 is "


def mixfit(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    assert isinstance(left.value.code, int)
    return left.value.code


def train(table: Path, out: Path, *flags: str) -> int:
    common = ("--target", "price", "--preset", "network", "--image-size", "32", "--cache-gb", "0", "--out", str(out))
    return mixfit("train", str(table), *common, "--doctor", *flags)


def test_the_findings_of_a_run_are_told_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = write_demo(tmp_path / "vases", rows=120), tmp_path / "runs"
    assert train(table, out, "--epochs", "2", "--lr", "1e-7") == 0
    text = capsys.readouterr().out
    assert " doctor  1 finding\n" in text
    assert FINDING in text
    run = out / "vases-price-001"
    page = (run / "report.html").read_text()
    assert page.count('href="#doctor"') == 1
    assert '<span class="level">Learning rate far off.</span> The learning rate 1.0e-07 is' in page
    headings = (
        "Outputs of the layers over time",
        "Dead units",
        "Update-to-weight ratio",
        "Gradients of the modalities",
    )
    for number, heading in enumerate(headings):
        assert f'<figcaption class="head">{heading}</figcaption><svg ' in page
        assert f'aria-labelledby="watched-{number}-title"' in page
    assert mixfit("train", "--resume", str(run), "--doctor", "--json") == 0  # its results are written again
    *_, line = map(json.loads, capsys.readouterr().out.splitlines())
    [finding] = line["findings"]
    assert f"{finding['name']}: {finding['sentence']}".startswith(FINDING)
    assert finding["evidence"]["rate"] == pytest.approx(1e-7, rel=0.05)


def test_a_blend_is_not_examined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_demo(tmp_path / "vases", rows=30)
    code = mixfit("train", str(table), "--target", "price", "--preset", "quick", "--doctor", "--out", str(tmp_path))
    assert code == 2
    assert "--doctor diagnoses the training of a single network" in capsys.readouterr().err
