"""The report of one run: the verdict, what is guaranteed, and the exposure of each tier."""

import math

from tabulate import tabulate

from reports.arms import arm_name
from reports.blocks import Bullets, Grid, Heading, Paragraph, to_markdown
from reports.claims import epsilon_text, guarantee_text
from reports.intervals import NULL_EXPOSURE
from reports.rows import TIERS, Row, number, text, utility_of

_OTHERS = (("exp_out", "0 (held out)"), ("exp_before", "any, before training"))


def run_markdown(row: Row) -> str:
    """Returns the report of a run as Markdown."""
    return to_markdown(
        [
            Heading(f"{arm_name(row)}, seed {number(row, 'seed'):g}", level=1),
            Paragraph(f"Verdict: {text(row, 'verdict', missing='not-claimed')}", strong=True),
            Bullets([f"Guarantee: {guarantee_text(row)}", *_numbers(row)]),
            Heading("Exposure"),
            Grid(
                tabulate(_exposures(row), headers=("times inserted", "bits"), tablefmt="github"), ""
            ),
            Paragraph(
                f"Canaries that were never trained on have {NULL_EXPOSURE:.2f} bits on average."
            ),
        ]
    )


def _numbers(row: Row) -> list[str]:
    utility = utility_of([row])
    told = [f"Epsilon: {epsilon_text(row)}"]
    if not math.isnan(bound := number(row, "eps_lb")):
        told.append(f"Lower bound on epsilon by the audit: {bound:.3g}")
    if utility:
        told.append(f"{utility.label.capitalize()}: {number(row, utility.column):.4g}")
    return told


def _exposures(row: Row) -> list[tuple[str, str]]:
    columns = [*((f"exp_{tier}", f"{tier}") for tier in TIERS), *_OTHERS]
    return [(name, _bits(row, column)) for column, name in columns]


def _bits(row: Row, column: str) -> str:
    value = number(row, column)
    if math.isnan(value):
        return "not measured"
    low, high = number(row, "exp_low"), number(row, "exp_high")
    known = column == "exp_1" and not math.isnan(low + high)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if known else f"{value:.2f}"
