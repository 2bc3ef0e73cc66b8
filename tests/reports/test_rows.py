import numpy as np
import pytest

from reports.rows import RESULTS, SETTINGS, columns_of, number, plain, text, utility_of


def test_a_missing_number_is_nan() -> None:
    assert np.isnan(number({}, "C"))
    assert np.isnan(number({"C": None}, "C"))
    assert number({"C": np.float32(0.5)}, "C") == 0.5  # type: ignore[dict-item]


def test_a_number_that_is_text_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="column 'C' holds 'big', expected a number"):
        number({"C": "big"}, "C")


def test_a_missing_text_takes_its_replacement() -> None:
    assert text({"verdict": float("nan")}, "verdict", missing="-") == "-"
    assert text({"verdict": "consistent"}, "verdict") == "consistent"


def test_numpy_scalars_become_pythons() -> None:
    assert type(plain(np.float64(1.5), "C")) is float
    assert type(plain(np.int64(3), "mb")) is int
    assert plain(True, "x") is True


def test_what_is_no_scalar_is_refused() -> None:
    with pytest.raises(TypeError, match="column 'norms' holds a list"):
        plain([1.0], "norms")


def test_columns_start_with_the_designs_and_hold_only_the_utility_that_is_there() -> None:
    columns = columns_of([{"zeta": 1, "model": "mlp", "cer": 0.1, "task": "speech"}])
    assert columns[: len(SETTINGS)] == list(SETTINGS)
    assert columns[len(SETTINGS)] == "cer"
    assert columns[len(SETTINGS) + 1 :][: len(RESULTS)] == list(RESULTS)
    assert columns[-2:] == ["model", "zeta"]


def test_the_utility_is_the_one_with_a_value() -> None:
    utility = utility_of([{"acc": None, "ppl": 8.5}])
    assert utility is not None
    assert utility.column == "ppl"
    assert utility_of([{"exposure": 1.0}]) is None
