"""A model judged with shadow models, as scalars of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

from audits.membership import auc, join, lira_online, tpr_at_fpr
from audits.shadow.models import ShadowModels

FPR = 0.01


def row(
    shadows: ShadowModels,
    phi: Mapping[str, float],
    inside: Mapping[str, bool],
    alpha: float = 0.05,
) -> dict[str, float | str]:
    """Flat scalars: `attack`, `auc`, `auc_low`, `auc_high`, `tpr_at_1pct`, `fpr_realized`.

    The attack is LiRA online, fixed beforehand. With fewer than 100 non-members the last two are
    NaN: there is no such rate.

    Args:
        shadows: Models of the same recipe; the target is none of them.
        phi: id -> the target's signal, for exactly the records of the shadow models.
        inside: id -> whether the target was trained on the record.
        alpha: Failure probability of the AUC's interval.

    Raises:
        ValueError: Ids that are missing or unknown, signals that are not finite, no members or no
            non-members, or as `lira_online`.
    """
    if strange := set(inside) ^ set(shadows.ids):
        raise ValueError(
            f"{len(strange)} ids, as {min(strange)!r}, have a coin or signals of shadow models and "
            "not both; expected the same records."
        )
    target = join(phi, shadows.ids, [inside[name] for name in shadows.ids])
    scores = lira_online(target.scores, shadows.phi, shadows.inside)
    area = auc(scores, target.inside, alpha)
    rates = (math.nan, math.nan)
    if area.counts["n_out"] * FPR >= 1:
        found = tpr_at_fpr(scores, target.inside, FPR, alpha)
        rates = (found.estimate, found.fpr_realized)
    return {
        "attack": "lira online",
        "auc": area.estimate,
        "auc_low": area.low,
        "auc_high": area.high,
        "tpr_at_1pct": rates[0],
        "fpr_realized": rates[1],
    }
