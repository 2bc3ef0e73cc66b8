"""Membership inference: scores, their join by id, and metrics that say how far they hold.

Everywhere higher = more member-like. Scores: `loss`, `reference`, `zlib_ratio`, `min_k`,
`min_k_plus_plus` need one model; `lira_online`, `lira_offline`, `rmia_online`, `rmia_offline` also
need shadow models (`audits.shadow`). `join` puts scores and coins together by id. `auc`,
`tpr_at_fpr`, `roc` judge one attack that was chosen beforehand; `best_attack` one of several.
"""

from __future__ import annotations

from audits.membership.area import Auc, auc, hanley_mcneil, null_sd
from audits.membership.curve import RocCurve, roc
from audits.membership.joined import Joined, join
from audits.membership.lira import (
    lira_offline,
    lira_online,
    log_density,
    log_ratio,
    lower_tail,
    pooled_std,
)
from audits.membership.rates import TprAtFpr, non_members_needed, tpr_at_fpr
from audits.membership.rmia import Population, rmia_offline, rmia_online
from audits.membership.several import Best, best_attack
from audits.membership.signals import (
    log_confidence,
    loss,
    min_k,
    min_k_plus_plus,
    reference,
    stable_logit,
    token_z,
    zlib_ratio,
)

__all__ = [
    "Auc",
    "Best",
    "Joined",
    "Population",
    "RocCurve",
    "TprAtFpr",
    "auc",
    "best_attack",
    "hanley_mcneil",
    "join",
    "lira_offline",
    "lira_online",
    "log_confidence",
    "log_density",
    "log_ratio",
    "loss",
    "lower_tail",
    "min_k",
    "min_k_plus_plus",
    "non_members_needed",
    "null_sd",
    "pooled_std",
    "reference",
    "rmia_offline",
    "rmia_online",
    "roc",
    "stable_logit",
    "token_z",
    "tpr_at_fpr",
    "zlib_ratio",
]
