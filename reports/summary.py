"""summary.csv: one row per run, written and read back without loss."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from reports.rows import NUMBERS, SETTINGS, TEXTS, Row, Scalar, columns_of, plain

NAME = "summary.csv"
_REQUIRED = ("task", "clip", "seed")


def csv_text(rows: Iterable[Row]) -> str:
    """Returns the rows as CSV: the design's columns first, empty where a run has no value.

    Infinity is `inf`. NaN and None both mean that there is no value.
    """
    held = list(rows)
    columns = columns_of(held)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_written(plain(row.get(c), c)) for c in columns] for row in held)
    return out.getvalue()


def read(directory: Path) -> list[dict[str, Scalar]]:
    """Returns the rows of an earlier summary.csv; a run lacks the columns it has no value for.

    Raises:
        FileNotFoundError: If there is no summary.csv in the directory.
        ValueError: If it is empty, lacks columns that every run has, or has a broken line.
    """
    path = directory / NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {NAME} in {directory}, expected the store of an earlier sweep; "
            "check the directory or run the sweep first"
        )
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        columns = next(reader, [])
        _check_columns(path, columns)
        return [_row(path, columns, fields, reader.line_num) for fields in reader if any(fields)]


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [column for column in _REQUIRED if column not in columns]
    if missing:
        found = ", ".join(columns) or "nothing"
        raise ValueError(
            f"the first line of {path} has no {', '.join(missing)} (found: {found}), expected the "
            f"columns {', '.join(SETTINGS)} and results; is it the summary of a sweep?"
        )


def _row(path: Path, columns: list[str], fields: list[str], line: int) -> dict[str, Scalar]:
    if len(fields) != len(columns):
        raise ValueError(
            f"{path}, line {line}: found {len(fields)} fields, expected {len(columns)} as in the "
            "first line; delete the line and run the sweep again, which runs that cell again"
        )
    row: dict[str, Scalar] = {}
    for column, field in zip(columns, fields, strict=True):
        if column in NUMBERS and field:
            row[column] = _number(path, column, field, line)
        elif field:
            row[column] = field if column in TEXTS else _guess(field)
    return row


def _written(value: Scalar) -> str:
    if value is None or value != value:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _number(path: Path, column: str, field: str, line: int) -> int | float:
    for kind in (int, float):
        try:
            return kind(field)
        except ValueError:
            continue
    raise ValueError(
        f"{path}, line {line}: column {column!r} holds {field!r}, expected a number, inf or "
        "nothing; correct the field, or delete the line and run that cell again"
    )


def _guess(field: str) -> Scalar:
    """Returns the scalar that is written this way; what no number is written like stays text.

    So `12` is a number, and a digest such as `12e456` or `007` stays what it is.
    """
    if field in ("True", "False"):
        return field == "True"
    for kind in (int, float):
        try:
            value = kind(field)
        except ValueError:
            continue
        if _written(value) == field:
            return value
    return field
