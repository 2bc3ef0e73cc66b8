"""Which shadow model is trained on which records."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audits.intervals import check_count


def halves(records: int, models: int, seed: int) -> NDArray[np.bool_]:
    """Returns [models, records]: every record is in half of the models, every model has half.

    Models 2j and 2j + 1 are trained on a random half and on the other half. Taking out such a pair
    leaves a balanced design: how many of the others have a record says nothing about it, as it
    would if one of them were taken out by itself.

    Raises:
        ValueError: An odd number of records or of models, or fewer than 2 of either.
    """
    n, m = check_count("records", records, 2), check_count("models", models, 2)
    for name, count in (("records", n), ("models", m)):
        if count % 2:
            raise ValueError(
                f"There are {count} {name}; expected an even number, for halves of one size: "
                f"{'leave one out' if name == 'records' else 'train one more or less'}."
            )
    rng = np.random.default_rng([seed, 0])
    first = np.zeros((m // 2, n), dtype=np.bool_)
    for row in first:
        row[rng.permutation(n)[: n // 2]] = True
    return np.stack([first, ~first], axis=1).reshape(m, n)
