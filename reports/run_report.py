"""The report of one run: the verdict, what is guaranteed, and the exposure of each tier."""

import math

from tabulate import tabulate

from reports.arms import arm_name
from reports.blocks import Bullets, Grid, Heading, Paragraph, to_markdown
from reports.claims import bound_text, claims_epsilon, epsilon_text, guarantee_text, verdict_text
from reports.intervals import NULL_EXPOSURE
from reports.pictures import Gallery, shown
from reports.rows import TIERS, Row, number, text, utility_of

_OTHERS = (("exp_out", "0 (held out)"), ("exp_before", "any, before training"))


def run_markdown(row: Row, found: Gallery | None = None) -> str:
    """Returns the report of a run as Markdown.

    Args:
        row: The run's flat dict.
        found: The pictures that lie beside the report (`run_gallery`).
    """
    return to_markdown(
        [
            Heading(f"{arm_name(row)}, seed {number(row, 'seed'):g}", level=1),
            Paragraph(f"Verdict: {text(row, 'verdict', missing='not-claimed')}", strong=True),
            Bullets(
                [
                    f"What that means: {verdict_text(row)}",
                    f"Guarantee: {guarantee_text(row)}",
                    *_numbers(row),
                    *_tests(row),
                ]
            ),
            Heading("Exposure"),
            Grid(
                tabulate(_exposures(row), headers=("times inserted", "bits"), tablefmt="github"), ""
            ),
            Paragraph(
                f"Canaries that were never trained on have {NULL_EXPOSURE:.2f} bits on average."
            ),
            *(shown(found) if found else []),
        ]
    )


def _numbers(row: Row) -> list[str]:
    utility = utility_of([row])
    told = [f"Epsilon: {epsilon_text(row)}"]
    told.append(f"Lower bound on epsilon by the audit: {bound_text(row)}")
    if utility:
        label = utility.label[0].upper() + utility.label[1:]  # capitalize() would make Bleu of BLEU
        told.append(f"{label}: {number(row, utility.column):.4g}")
    return told


def _tests(row: Row) -> list[str]:
    """Returns what else the audit measured, each with what it is; not recorded where it is not."""
    low, high = number(row, "auc_low"), number(row, "auc_high")
    interval = " (no interval recorded)" if math.isnan(low + high) else f" [{low:.3f}, {high:.3f}]"
    auc = number(row, "auc")
    return [
        "Bound to expect if the claim is exactly met: "
        + (_told(row, "eps_lb_expected") if claims_epsilon(row) else "nothing is claimed"),
        "AUC, inserted once against held out: "
        + ("not recorded" if math.isnan(auc) else f"{auc:.3f}{interval}"),
        f"Coins flipped again do as well, p-value: {_told(row, 'coin_p')}",
        f"Share of such flips with a bound above 0: {_told(row, 'coin_fired')}",
        f"Exposure before training is the null's, p-value: {_told(row, 'before_p')}",
        f"Bounds that share the failure probability: {_told(row, 'n_tests')}",
    ]


def _told(row: Row, column: str) -> str:
    value = number(row, column)
    return "not recorded" if math.isnan(value) else f"{value:.3g}"


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
