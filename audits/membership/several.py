"""The best of several attacks, the choice paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from audits.intervals import Scores
from audits.membership.area import Auc, auc
from audits.membership.sides import Flags


@dataclass(frozen=True)
class Best:
    """The attack with the largest AUC among those that were tried.

    Attributes:
        attack: Its name.
        auc: Its AUC; the interval covers with probability 1 - alpha whichever attack came out best.
        tried: All attacks and their AUCs, each with the same shared alpha.
    """

    attack: str
    auc: Auc
    tried: Mapping[str, Auc]


def best_attack(attacks: Mapping[str, Scores], inside: Flags, alpha: float = 0.05) -> Best:
    """The best attack; alpha is shared among all that were tried (Bonferroni).

    The estimate itself is that of a winner and too high on average; the interval is what holds.
    Pass the number of attacks as `n_tests` to `tpr_at_fpr` for rates of the chosen one.

    Args:
        attacks: Name -> scores [n]. Every attack that was looked at belongs here.
        inside: [n] booleans.
        alpha: Failure probability for all attacks together.

    Raises:
        ValueError: There are no attacks, or as in `auc`.
    """
    if not attacks:
        raise ValueError("attacks is empty; expected every attack that was tried, by name.")
    tried = {name: auc(scores, inside, alpha, len(attacks)) for name, scores in attacks.items()}
    name = max(tried, key=lambda attack: tried[attack].estimate)
    return Best(name, tried[name], tried)
