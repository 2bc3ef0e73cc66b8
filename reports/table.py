"""One line per arm: means over seeds with their intervals, and the lines as text."""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, cast

import numpy as np
import pandas as pd
from tabulate import tabulate

from reports.arms import Arm, arm_name, arm_of
from reports.claims import claims_epsilon, epsilon_text
from reports.intervals import Interval, over_seeds
from reports.rows import TIERS, Row, number, text, utility_of

MEDIANS = ("norm_pct", "clipfrac", "auc", "ex_per_s", "peak_mb", "exp_ceiling", "delta", "lr")
MEANS = ("exp_out", "exp_before", "exp_error", "error_in", "error_out")
BOUND = ("eps_lb", "eps_lb_ceiling", "eps_lb_expected")
SMALLEST = ("coin_p", "before_p")
_HEADINGS = {"github": "**{}**", "html": "<h3>{}</h3>"}
# Worst first: what one seed found holds for the arm.
VERDICTS = ("contradicted", "not-claimed", "unresolvable", "consistent")


def summarize(rows: Iterable[Row]) -> pd.DataFrame:
    """Returns one line per arm, in the order none, sample, micro-batches, cores; noise last.

    Columns: task, arm, clip, weighting, C, sigma, mb, model, seeds; metric (acc, bleu, chrf, wer,
    cer or ppl), utility, utility_half; exposure, exp_2 .. exp_16, each with _low and _high (95 %,
    over seeds; of the single run where there is one seed); medians and means of the rest; the
    largest eps of the seeds with its guarantee, the largest eps_lb with its source, ceiling and
    expectation, the smallest coin_p and before_p, auc_low and auc_high of a single run, the
    worst verdict.

    Raises:
        ValueError: If there are no rows, a seed occurs twice, or an arm mixes models.
    """
    held = list(rows)
    if not held:
        raise ValueError("there are no rows to summarize, expected at least one run")
    arms: dict[Arm, list[Row]] = {}
    for row in held:
        arms.setdefault(arm_of(row), []).append(row)
    ordered = sorted(arms, key=lambda arm: arm.order)
    return pd.DataFrame([_line(arm, arms[arm]) for arm in ordered])


def lines(frame: pd.DataFrame) -> list[Row]:
    """Returns the lines of a summary as flat dicts, to be read like rows."""
    return cast("list[Row]", frame.to_dict("records"))


def exposure_of(line: Row, tier: int = 1) -> Interval:
    """Returns the exposure of canaries inserted `tier` times, from a line of a summary."""
    name = _tier_name(tier)
    return Interval(*(number(line, f"{name}{end}") for end in ("", "_low", "_high")))


def utility_interval(line: Row) -> Interval:
    """Returns the utility with its interval, from a line of a summary."""
    mean, half = number(line, "utility"), number(line, "utility_half")
    return Interval(mean, mean - half, mean + half)


def utility_text(line: Row) -> str:
    """Returns the utility as `0.962 ± 0.005`, without the half width where there is one seed."""
    digits = 2 if text(line, "metric") == "ppl" else 3
    half = _cell(number(line, "utility_half"), f" ± {{:.{digits}f}}", missing="")
    return _cell(number(line, "utility"), f"{{:.{digits}f}}") + half


def markdown(frame: pd.DataFrame) -> str:
    """Returns the table in Markdown, one per task."""
    return _per_task(frame, "github", _HEADINGS["github"], _main)


def console(frame: pd.DataFrame) -> str:
    """Returns the table for a terminal, one per task."""
    return _per_task(frame, "simple", "{}", _main)


def html(frame: pd.DataFrame) -> str:
    """Returns the table in HTML, one per task."""
    return _per_task(frame, "html", _HEADINGS["html"], _main)


def details(frame: pd.DataFrame, style: str = "github") -> str:
    """Returns the second table, of what explains the first: clipping, attack, speed, memory.

    One per task, in Markdown (`github`) or HTML (`html`).
    """
    return _per_task(frame, style, _HEADINGS[style], _details)


def _details(frame: pd.DataFrame, style: str) -> str:
    cells = [_detail(line) for line in lines(frame)]
    return _render(cells, style, left=("arm", "bound from", "verdict"))


def _detail(line: Row) -> dict[str, str]:
    def cell(column: str, form: str) -> str:
        return _cell(number(line, column), form)

    return {
        "arm": text(line, "arm"),
        "lr": cell("lr", "{:g}"),
        "clipped": cell("clipfrac", "{:.0%}"),
        "held-out exposure": cell("exp_out", "{:.2f}"),
        "before training": cell("exp_before", "{:.2f}"),
        "smallest p before": cell("before_p", "{:.2g}"),
        "1x exposure by errors": cell("exp_error", "{:.2f}"),
        "errors, inserted": cell("error_in", "{:.1%}"),
        "errors, held out": cell("error_out", "{:.1%}"),
        "AUC": _auc(line),
        "smallest coin p": cell("coin_p", "{:.2g}"),
        "epsilon, lower bound": cell("eps_lb", "{:.2f}"),
        "its ceiling": cell("eps_lb_ceiling", "{:.2f}"),
        "expected if exact": cell("eps_lb_expected", "{:.2f}") if claims_epsilon(line) else "-",
        "bound from": text(line, "eps_lb_by", missing="-"),
        "verdict": text(line, "verdict", missing="-"),
        "examples/s": cell("ex_per_s", "{:,.0f}"),
        "peak MB": cell("peak_mb", "{:,.0f}"),
    }


def _line(arm: Arm, rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the summary of one arm; eps is the largest, as it must hold for every seed."""
    name = arm_name(rows[0])
    _refuse_mixed(name, rows)
    utility = utility_of(rows)
    values = over_seeds([number(row, utility.column) for row in rows] if utility else [])
    weakest = max(rows, key=_claimed)
    worst = {text(row, "verdict") for row in rows}
    line: dict[str, Any] = {
        "task": arm.task,
        "arm": name,
        "clip": arm.clip,
        "weighting": arm.weighting,
        "C": arm.C,
        "sigma": arm.sigma,
        "mb": arm.size,
        "slots": arm.slots,
        "model": text(rows[0], "model"),
        "seeds": len(rows),
        "metric": utility.column if utility else "",
        "utility": values.mean,
        "utility_half": values.high - values.mean,
    }
    for tier in TIERS:
        exposure = _tier(rows, tier)
        ends = (("", exposure.mean), ("_low", exposure.low), ("_high", exposure.high))
        line |= {f"{_tier_name(tier)}{end}": value for end, value in ends}
    line |= {key: _median([number(row, key) for row in rows]) for key in MEDIANS}
    line |= {key: over_seeds([number(row, key) for row in rows]).mean for key in MEANS}
    line |= {"eps": _claimed(weakest), "guarantee": text(weakest, "guarantee")}
    strongest = max(rows, key=_bound)
    line["eps_lb_by"] = text(strongest, "eps_lb_by")
    line |= {key: number(strongest, key) for key in BOUND}
    line |= {key: min(_present(rows, key), default=math.nan) for key in SMALLEST}
    single = rows[0] if len(rows) == 1 else {}
    line |= {key: number(single, key) for key in ("auc_low", "auc_high")}
    line["verdict"] = next((verdict for verdict in VERDICTS if verdict in worst), "")
    return line


def _refuse_mixed(name: str, rows: Sequence[Row]) -> None:
    """Raises where rows of one arm are no repetitions: intervals over them would mean nothing."""
    seeds = [number(row, "seed") for row in rows]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(
            f"arm {name!r} has seed {twice[0]:g} more than once, expected one run per seed; "
            "drop the repeated rows"
        )
    models = sorted({text(row, "model") for row in rows})
    if len(models) > 1:
        raise ValueError(
            f"arm {name!r} mixes the models {', '.join(models)}, expected one; "
            "summarize each model on its own"
        )


def _tier_name(tier: int) -> str:
    return "exposure" if tier == 1 else f"exp_{tier}"


def _tier(rows: Sequence[Row], tier: int) -> Interval:
    """Returns a tier's exposure; with one seed the 1x tier has the interval over its canaries."""
    key = "exposure" if tier == 1 and _any(rows, "exposure") else f"exp_{tier}"
    interval = over_seeds([number(row, key) for row in rows])
    if len(rows) == 1 and tier == 1:
        interval = Interval(interval.mean, number(rows[0], "exp_low"), number(rows[0], "exp_high"))
    # Student's interval does not know that exposure lies between 0 and the ceiling.
    return interval.within(0.0, _median([number(row, "exp_ceiling") for row in rows]))


def _any(rows: Sequence[Row], column: str) -> bool:
    return any(not math.isnan(number(row, column)) for row in rows)


def _median(values: Sequence[float]) -> float:
    present = [value for value in values if not math.isnan(value)]
    return float(np.median(present)) if present else math.nan


def _present(rows: Sequence[Row], column: str) -> list[float]:
    return [value for row in rows if not math.isnan(value := number(row, column))]


def _bound(row: Row) -> float:
    """Returns the lower bound of a run; a run without one bounds nothing."""
    bound = number(row, "eps_lb")
    return -math.inf if math.isnan(bound) else bound


def _auc(line: Row) -> str:
    """Returns the median AUC, with its interval where there is one run."""
    low, high = number(line, "auc_low"), number(line, "auc_high")
    interval = "" if math.isnan(low + high) else f" [{low:.2f}, {high:.2f}]"
    return _cell(number(line, "auc"), f"{{:.3f}}{interval}")


def _claimed(row: Row) -> float:
    """Returns the epsilon a run claims; a run that says nothing claims nothing."""
    eps = number(row, "eps")
    return math.inf if math.isnan(eps) else eps


def _per_task(
    frame: pd.DataFrame, style: str, heading: str, table: Callable[[pd.DataFrame, str], str]
) -> str:
    tasks = list(dict.fromkeys(text(line, "task") for line in lines(frame)))
    tables = [table(frame[frame["task"] == task], style) for task in tasks]
    if len(tasks) == 1:
        return tables[0]
    names = map(escape, tasks) if style == "html" else tasks  # a store's path may be in a name
    return "\n\n".join(
        f"{heading.format(name)}\n\n{one}" for name, one in zip(names, tables, strict=True)
    )


def _main(frame: pd.DataFrame, style: str) -> str:
    """Returns arm | seeds | utility | exposure per tier that was measured | norm | epsilon."""
    held = lines(frame)
    tiers = [tier for tier in TIERS if _any(held, _tier_name(tier))]
    metric = next((text(line, "metric") for line in held if text(line, "metric")), "utility")
    cells = [
        {
            "arm": text(line, "arm"),
            "seeds": f"{number(line, 'seeds'):g}",
            metric: utility_text(line),
        }
        | {_head(tier): _interval(exposure_of(line, tier)) for tier in tiers}
        | {"norm pct": _cell(number(line, "norm_pct"), "{:.0f}"), "epsilon": epsilon_text(line)}
        for line in held
    ]
    return _render(cells, style, left=("arm", "epsilon"))


def _head(tier: int) -> str:
    return "exposure 1x, bits [95 %]" if tier == 1 else f"{tier}x"


def _interval(interval: Interval) -> str:
    return "-" if math.isnan(interval.mean) else str(interval)


def _cell(value: float, form: str, missing: str = "-") -> str:
    return missing if math.isnan(value) else form.format(value)


def _render(cells: list[dict[str, str]], style: str, left: Sequence[str]) -> str:
    """Returns the cells as a table; a column that no line fills is left out."""
    heads = [head for head in cells[0] if any(line[head] != "-" for line in cells)]
    body = [[line[head].replace("|", "/") for head in heads] for line in cells]
    sides = ["left" if head in left else "right" for head in heads]
    return tabulate(body, heads, tablefmt=style, colalign=sides, disable_numparse=True)
