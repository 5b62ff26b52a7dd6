import subprocess
import sys

import pytest

from mixfit.errors import ConfigError, did_you_mean, unknown_column


@pytest.mark.parametrize("typed", ["prise", "Price", "PRICES", "rpice"])
def test_a_close_name_is_suggested_whatever_its_case(typed: str) -> None:
    assert did_you_mean(typed, ["area", "price", "zipcode"]) == " Did you mean 'price'?"


@pytest.mark.parametrize("known", [[], ["area", "zipcode"]])
def test_nothing_is_suggested_when_nothing_is_close(known: list[str]) -> None:
    assert did_you_mean("price", known) == ""


def test_the_suggestion_is_spelt_as_it_is_known() -> None:
    assert did_you_mean("price_usd", ["Price_USD"]) == " Did you mean 'Price_USD'?"


def test_known_names_may_be_a_generator() -> None:
    assert str(unknown_column("b", (name for name in "ab"))).endswith("columns: a, b")


def test_an_unknown_column_is_a_usage_error_that_lists_the_columns() -> None:
    error = unknown_column("prise", ["area", "price"])
    assert isinstance(error, ConfigError)
    assert error.exit_code == 2
    assert str(error) == "no column 'prise'. Did you mean 'price'? columns: area, price"


def test_several_columns_in_one_name_are_told_apart() -> None:
    known = ["area", "price", "year built"]
    for name in ("area,price", "price, year built", "area, price , year built"):
        assert " are columns: name one at a time. columns: area, price" in str(unknown_column(name, known))
    for name in ("area,", "area,prise", "area;price"):
        assert "one at a time" not in str(unknown_column(name, known))


def test_only_twenty_columns_are_listed() -> None:
    text = str(unknown_column("zzz", [f"c{number}" for number in range(25)]))
    assert text.startswith("no column 'zzz'. columns: c0, c1, ")
    assert text.endswith("c18, c19, and 5 more")


def test_names_cannot_write_to_the_terminal() -> None:
    assert str(unknown_column("x\x1b[2J", ["a\nb", "é"])) == "no column 'x\\x1b[2J'. columns: 'a\\nb', é"


def test_neither_pandas_nor_torch_is_imported() -> None:
    code = "import sys, mixfit.errors; sys.exit(any(name in sys.modules for name in ('pandas', 'torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
