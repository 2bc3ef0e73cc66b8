"""What is made of measured rows, without a model."""

from __future__ import annotations

import math

import pytest

from dpclip.doctor.evidence import Evidence, Row, cause, changes

NAN = math.nan


def scaled(*factors: float) -> list[Row]:
    """Rows of lengths 1, 2, ... that keep their direction."""
    return [Row(n, f * n, abs(f - 1) * n, f * n * n) for n, f in enumerate(factors, 1)]


def turned(count: int = 4) -> list[Row]:
    return [Row(1.0, 1.0, 0.5, 0.875)] * count


@pytest.mark.parametrize(
    ("row", "change"),
    [
        (Row(2.0, 1.0, 1.0, 2.0), 0.5),
        (Row(1.0, 2.0, 1.0, 2.0), 0.5),
        (Row(0.0, 0.0, 0.0, 0.0), 0.0),
        (Row(0.0, 1.0, 1.0, 0.0), 1.0),
        (Row(NAN, NAN, NAN, NAN), 0.0),
        (Row(math.inf, NAN, NAN, NAN), 0.0),
        (Row(1.0, NAN, NAN, NAN), math.inf),
        (Row(math.inf, 1.0, math.inf, math.inf), math.inf),
    ],
)
def test_relative_change(row, change):
    assert changes([row]) == [change]


def test_what_is_zero_but_for_rounding_is_zero():
    """Beside a row of length 1, one of 1e-13 that is another altogether has not changed."""
    rows = [Row(1.0, 1.0, 1e-16, 1.0), Row(1e-13, 1e-13, 1e-13, 0.0), Row(1e-4, 1e-4, 1e-4, 0.0)]
    assert changes(rows) == pytest.approx([1e-16, 1e-7, 1.0])


def seen(rows: list[Row], **more) -> Evidence:
    return Evidence(rows, **({"mean": True, "total": 1.0} | more))


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (seen(scaled(4, 4, 4, 4)), 'pass loss_reduction="sum"'),
        (seen(scaled(0.25, 0.25, 0.25, 0.25), mean=False), 'pass loss_reduction="mean"'),
        (seen(scaled(0.25, 0.25, 0.25, 0.25)), "counted over the batch (as a mean over tokens"),
        (seen(scaled(1.5, 0.5, 1.0, 1.0)), "over tokens does); use a loss summed per record"),
        (seen(scaled(1.5, 0.5), padded=True), "or by the padded length"),
        (seen(turned(), total=1e-9), "parts of one are taken for another's"),
        (seen(turned()), "samples meet in the loss"),
        (seen(turned(), padded=True), "pad to a public length"),
        (seen(turned(), meets="a (B)"), "a (B) is the first module"),
        (seen(turned(), meets="a (B)", padded=True), "pad to a public length"),
        (seen(turned(), meets="a (B)", normalizes=["a (B)"]), "a (B) computes with statistics"),
        (seen(turned(), meets="a (B)", normalizes=["c (B)"]), "a (B) is the first module"),
        (seen(turned(), normalizes=["c (B)"], padded=True), "c (B) computes with statistics"),
        (seen(turned(), meets="a (B)", normalizes=["a (B)"], apart=True), "meet in the loss"),
        (seen([Row(NAN, 0.0, NAN, NAN)] * 2), "samples meet in the loss"),
        (seen([*scaled(1.5, 0.5), Row(NAN, 0.0, NAN, NAN)]), "counted over the batch"),
        (seen([*scaled(1.5, 0.5), *turned(1)]), "samples meet in the loss"),
    ],
)
def test_likely_cause(evidence, words):
    assert words in cause(evidence)


def test_rows_are_parallel_only_if_they_are():
    """A row turned by 0.01 (cosine 1 - 5e-5) is no longer one that differs in length only."""
    bent = Row(1.0, 1.5, 0.5, 1.5 * math.cos(0.01))
    assert "meet in the loss" in cause(seen([bent]))
