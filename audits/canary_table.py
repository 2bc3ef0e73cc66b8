"""The canaries of a run as a table: one flat dict for each."""

from __future__ import annotations

import math

from audits.error_ranks import ErrorRanks
from audits.planted import Planted
from audits.scoring import Scored
from audits.secret_ranks import SecretRanks
from audits.trial import Scalar


def canary_table(
    planted: Planted,
    before: Scored,
    after: Scored,
    ranks: SecretRanks,
    errors: ErrorRanks,
) -> list[dict[str, Scalar]]:
    """Returns a row per canary, in the panel's order; None where something was not looked for.

    Args:
        planted: who is in, and how often.
        before: exposures by loss at step 0.
        after: the same after training.
        ranks: of secrets that were searched for.
        errors: of transcripts; their columns are left out where no family has any.
    """
    return [
        {
            "id": planted.ids[i],
            "family": str(planted.families[i]),
            "repetitions": int(planted.repetitions[i]),
            "inserted": bool(planted.inserted[i]),
            "exposure": float(after.bits[i]),
            "low": float(after.low[i]),
            "high": float(after.high[i]),
            "before": float(before.bits[i]),
            "rank": None if math.isnan(ranks.rank[i]) else float(ranks.rank[i]),
            "rank_low": float(ranks.lowest[i]) if ranks.searched[i] else None,
            "extracted": bool(ranks.extracted[i]) if ranks.searched[i] else None,
            **(_errors_of(errors, i) if errors.known.any() else {}),
        }
        for i in range(len(planted.ids))
    ]


def _errors_of(errors: ErrorRanks, number: int) -> dict[str, Scalar]:
    columns = {
        "error": errors.rate,
        "exposure_by_error": errors.bits,
        "error_held_out": errors.held_out,
    }
    return {
        name: float(values[number]) if errors.known[number] else None
        for name, values in columns.items()
    }
