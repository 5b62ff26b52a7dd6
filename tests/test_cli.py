"""The command line from outside: output, exit codes, and never a traceback for a user's mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from mixfit.auto.recipe import Run
from mixfit.cli.flags import shown_command

Result = subprocess.CompletedProcess[str]


def mixfit(*arguments: object, cwd: Path) -> Result:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "mixfit.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def in_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of the command line in this process, which is faster."""
    from mixfit.cli import main

    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return stop.value.code, captured.out, captured.err


def test_a_misspelt_target_ends_with_a_suggestion(demo_table: Path, tmp_path: Path) -> None:
    result = mixfit("train", demo_table, "--target", "prise", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("mixfit: no column 'prise'. Did you mean 'price'? columns: vase_id")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_package_itself_is_the_command_line(tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-m", "mixfit", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout == mixfit("--version", cwd=tmp_path).stdout


MISTAKES = [
    (["trian", "t.csv"], 2, 'Did you mean "train"'),
    (["train", "{table}"], 2, "--target"),
    (["train", "{table}", "--target", "price", "--epoch", "3"], 2, "--epochs"),
    (["train", "{table}", "--target", "price", "--epochs", "many"], 2, "many"),
    (["train", "{table}", "--target", "price", "--epochs", "0"], 2, "epochs must be at least 1, got 0"),
    (["train", "{table}", "--target", "price", "--lr", "nan"], 2, "lr must be above 0, got nan"),
    (["train", "{table}", "--target", "price", "--loss", "focal"], 2, "--loss focal is for classes, but the target"),
    (["train", "{table}", "--target", "price", "--optimizer", "adamax"], 2, "adamax"),
    (["train", "{table}", "--target", "price", "--valid", "0.9", "--test", "0.2"], 2, "valid must be above 0"),
    (["train", "{table}", "--target", "price", "--backbone", "resnet1"], 2, "Unknown backbone 'resnet1'"),
    (["train", "{table}", "--target", "price", "--ignore", "wieght_kg"], 2, "Did you mean 'weight_kg'"),
    (["train", "{table}", "--target", "price", "--set", "maker"], 2, "--set must be COLUMN=ROLE"),
    (
        ["train", "{table}", "--target", "price", "--set", "maker=nmber"],
        2,
        "Unknown role 'nmber'. Did you mean 'number'",
    ),
    (["train", "{table}", "--target", "vase_id"], 2, "vase_id"),
    (["train", "{table}", "--target", "price", "--images", "nowhere"], 3, "The images folder nowhere does not exist"),
    (["train", "nowhere.csv", "--target", "price"], 3, "nowhere.csv"),
    (["train", "table.xlsx", "--target", "price"], 2, "xlsx"),
    (["inspect", "{table}", "--target", "prise"], 2, "Did you mean 'price'"),
    (["evaluate", "runs/none", "{table}"], 2, "The run folder runs/none does not exist"),
    (["predict", "runs/none", "{table}", "-o", "out.csv"], 2, "The run folder runs/none does not exist"),
    (["predict", "{run}", "{table}"], 2, "--out"),
    (["predict", "{run}", "{table}", "-o", "out.xyz"], 2, "xyz"),
    (["predict", "{run}", "{table}", "-o", "no/such/folder/out.csv"], 4, "no/such/folder"),
    (["evaluate", "{run}", "{other}", "--split", "test"], 2, "use --split all"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_ends_in_one_sentence_and_its_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    demo_table: Path,
    quick_run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.xlsx").write_bytes(b"PK")
    other = tmp_path / "other.csv"
    other.write_text(demo_table.read_text() + "\n")
    places = {"table": demo_table, "run": quick_run.folder, "other": other}
    found, _, errors = in_process(capsys, *(argument.format(**places) for argument in arguments))
    assert message in errors
    assert found == code
    assert errors.startswith("mixfit: ")


def test_train_evaluate_and_predict_from_the_command_line(
    demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [
        "--preset",
        "network",
        "--epochs",
        "2",
        "--image-size",
        "32",
        "--encoding-dim",
        "8",
        "--tabular-hidden",
        "16",
    ]
    code, printed, errors = in_process(capsys, "train", demo_table, "--target", "price", *small)
    assert code == 0, errors
    assert "run runs/vases-price-001   device cpu" in printed
    assert "boosted trees, table only" in printed
    assert "constant" in printed
    assert "The mixed model" in printed
    assert "report  runs/vases-price-001/report.html" in printed
    code, printed, errors = in_process(capsys, "evaluate", "runs/vases-price-001", demo_table, "--split", "test")
    assert code == 0, errors
    assert "95 % CI" in printed
    assert "the other rows of this table trained the models or chose among them" in printed
    code, printed, errors = in_process(capsys, "evaluate", "runs/vases-price-001", demo_table, "--split", "all")
    assert code == 0, errors
    assert "warning: rows that are not test rows trained the models or chose among them" in printed
    code, printed, errors = in_process(capsys, "predict", "runs/vases-price-001", demo_table, "-o", "out.parquet")
    assert code == 0, errors
    assert "90 rows:" in printed
    assert (tmp_path / "out.parquet").is_file()
    strict = ("-o", "o.csv", "--bad-rows", "fail")
    code, _, errors = in_process(capsys, "predict", "runs/vases-price-001", demo_table, *strict)
    assert code == 0, errors


def test_inspect_prints_every_column_with_its_reason(
    demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, _ = in_process(capsys, "inspect", demo_table, "--target", "price", "--set", "age_years=category")
    assert code == 0
    for column in ("vase_id", "maker", "height_cm", "listed_on", "photos", "TARGET"):
        assert column in output
    folder = tmp_path / "runs" / "vases-price-inspect-001"
    assert {path.name for path in folder.iterdir()} == {"inspect.html", "schema.json", "fingerprint.json"}
    code, _, errors = in_process(
        capsys, "train", demo_table, "--target", "price", "--schema", folder / "schema.json", "--epochs", "0"
    )
    assert (code, errors.count("\n")) == (2, 1)


def test_inspect_finds_what_would_stop_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{i},{i * i % 7},{'' if i % 2 else i * 1.5}" for i in range(40)]
    Path("t.csv").write_text("\n".join(["a,b,y", *rows]))
    code, output, _ = in_process(capsys, "inspect", "t.csv", "--target", "y")
    assert code == 3
    assert "error: " in output
    assert "1 error " in output


def test_a_bug_of_ours_is_told_from_a_mistake(
    demo_table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("mixfit.runs.scoring.predict_table", broken)
    code, _, errors = in_process(capsys, "predict", "run", demo_table, "-o", "x.csv")
    assert code == 1
    assert "this is a bug in mixfit, not your mistake" in errors
    (log,) = tmp_path.glob("mixfit-error-*.log")
    assert "ZeroDivisionError: of ours" in log.read_text()


def test_an_interrupt_ends_with_130(
    demo_table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mixfit.runs.scoring.predict_table", interrupted)
    assert in_process(capsys, "predict", "run", demo_table, "-o", "x.csv")[0] == 130


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_image_features_are_kept_from_one_use_of_a_run_to_the_next(
    quick_run: Run,
    demo_table: Path,
    tmp_path: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(name: str, *flags: object) -> bytes:
        arguments = (command, quick_run.folder, demo_table, "--out", tmp_path / name, *flags)
        assert in_process(capsys, *arguments)[0] == 0
        return (tmp_path / name).read_bytes()

    without = run("none.csv", "--cache-gb", 0, "--cache", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert run("cold.csv", "--cache", tmp_path / "cache") == without
    monkeypatch.setattr("mixfit.data.photos.store.read_image", pytest.fail)
    assert run("warm.csv", "--cache", tmp_path / "cache") == without


def test_the_shown_command_names_no_folder() -> None:
    paths = ["/home/alice/t.csv", "--images=/home/alice/photos", "--schema", "../../alice/s.json", "a/b.csv"]
    shown = shown_command(["train", *paths, "--lr=1e-3"])
    assert shown == "mixfit train t.csv --images=photos --schema s.json a/b.csv --lr=1e-3"
