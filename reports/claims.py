"""What may be claimed about privacy, in words: an epsilon, or the reason why there is none."""

import math
import re
import textwrap
from collections.abc import Iterable

from reports.arms import arm_name
from reports.rows import Row, number, text

_PREFIX = re.compile(
    r"^(none|no epsilon|no guarantee|no claim|nothing is claimed)\s*[:,;.]?\s*", re.I
)
SHORT = 48

VERDICTS = {
    "consistent": "the audit found nothing above the claim, which is no proof of it",
    "contradicted": "the audit found more than is claimed; do not rely on the claim",
    "not-claimed": "there is no epsilon that an audit could contradict",
    "unresolvable": (
        "even a perfect attack of this design could not have shown more than is claimed, so the "
        "audit says nothing about the claim"
    ),
}


def claims_epsilon(row: Row) -> bool:
    """Whether the run or line has a finite epsilon."""
    return math.isfinite(number(row, "eps"))


def out_of_reach(row: Row) -> bool:
    """Whether even a perfect attack could not have contradicted the claim; False if unknown."""
    return claims_epsilon(row) and number(row, "eps_lb_ceiling") <= number(row, "eps")


def verdict_text(row: Row) -> str:
    """Returns what the verdict means, in a clause; that it is not recorded where there is none."""
    verdict = text(row, "verdict")
    return VERDICTS.get(verdict, verdict) or "the audit's verdict is not recorded"


def bound_text(row: Row) -> str:
    """Returns the audit's lower bound with where it comes from and how high it could have been."""
    bound, ceiling = number(row, "eps_lb"), number(row, "eps_lb_ceiling")
    if math.isnan(bound):
        return "not recorded"
    source = text(row, "eps_lb_by")
    told = f"{bound:.3g} from {source}" if source else f"{bound:.3g}"
    if math.isnan(ceiling):
        return f"{told}; what a perfect attack could have shown is not recorded"
    return f"{told}; a perfect attack could have shown {ceiling:.3g}"


def reason(row: Row) -> str:
    """Returns why there is no epsilon, without the leading `none:` that guarantees may carry."""
    return _PREFIX.sub("", text(row, "guarantee")).strip() or "no reason recorded"


def guarantee_text(row: Row) -> str:
    """Returns the whole guarantee: its own sentence, or `none: reason`."""
    if claims_epsilon(row):
        return text(row, "guarantee", missing=f"epsilon {number(row, 'eps'):.4g}")
    return f"none: {reason(row)}"


def epsilon_text(row: Row) -> str:
    """Returns what fits into a table: the epsilon, or `none: reason` cut short."""
    if claims_epsilon(row):
        return f"{number(row, 'eps'):.3g}"
    first = re.split(r"; |\. ", reason(row), maxsplit=1)[0].rstrip(".")
    return f"none: {textwrap.shorten(first, SHORT, placeholder=' ...')}"


def claims(lines: Iterable[Row]) -> list[str]:
    """Returns one sentence per arm that claims an epsilon, or one saying that none does.

    With several tasks each claim starts with the name of its task.
    """
    held = list(lines)
    several = len({text(line, "task") for line in held}) > 1
    sentences = [
        f"{text(line, 'task')}: {_claim(line)}" if several else _claim(line)
        for line in held
        if claims_epsilon(line)
    ]
    silent = len(held) - len(sentences)
    if not sentences:
        return ["No arm has a finite epsilon: no differential privacy may be claimed for any."]
    if silent == 1:
        sentences.append("The other arm has no epsilon: nothing may be claimed for it.")
    elif silent:
        told = f"The other {silent} arms have no epsilon"
        sentences.append(f"{told}: nothing may be claimed for them.")
    return sentences


def _claim(line: Row) -> str:
    delta, bound = number(line, "delta"), number(line, "eps_lb")
    at = "" if math.isnan(delta) else f" at delta {delta:.3g}"
    told = text(line, "guarantee").rstrip(".")
    claim = f"{arm_name(line)}: epsilon {number(line, 'eps'):.3g}{at}."
    claim += f" Guarantee: {told}." if told else ""
    if text(line, "verdict") == "contradicted":
        found = "" if math.isnan(bound) else f", which found an epsilon of at least {bound:.3g}"
        return f"{claim} CONTRADICTED by the audit{found}: do not rely on it."
    if text(line, "verdict") == "unresolvable" or out_of_reach(line):
        return f"{claim} NOT TESTED: {VERDICTS['unresolvable']}. Its bound: {bound_text(line)}."
    return claim if math.isnan(bound) else f"{claim} The audit's lower bound: {bound_text(line)}."
