"""What the first step says of a training run: who got a gradient, who moved, what was the noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scipy.stats import chi2

from dpclip.doctor.findings import Finding, listed
from dpclip.witness import Added, Witness

_RARE = 1e-6  # probability, on either side, that right noise is called wrong
_ROUNDED = 1e-3  # relative error of a variance that was measured on rounded sums


class NoiseSeen(NamedTuple):
    """The noise of the first step, by its size.

    Attributes:
        std: declared, on each coordinate of `p.grad`.
        ratio: measured std over declared.
        low, high: between these the ratio of right noise lies, but for two cases in a million.
        coordinates: how many numbers were looked at.
    """

    std: float
    ratio: float
    low: float
    high: float
    coordinates: int


def noise_seen(witness: Witness) -> NoiseSeen | None:
    """Returns the size of the noise in the first step, None if none was declared or watched."""
    if not witness.std:
        return None
    n = witness.coordinates
    low, high = _interval(n, _RARE)
    return NoiseSeen(witness.std, _ratio(Added(witness.squares, n)), low, high, n)


def first_step(witness: Witness) -> Iterator[Finding]:
    """Yields what is odd about the first step.

    A parameter that no group gradient came back for voids nothing: it gets noise like all others.
    """
    if witness.std is None:
        yield Finding(
            False, "the first step was taken before this engine's state was loaded: not watched"
        )
        return
    unused = [name for name, param in witness.params.items() if param not in witness.reached]
    if unused:
        so = "moved by noise alone" if witness.std else "not moved"
        yield Finding(
            False,
            "without a group gradient so far as was watched (not used in the forward, or cut off "
            f"by detach()), and so {so}: {listed(unused)}",
        )
    still = [name for name in witness.unmoved() if name not in unused or witness.std]
    if still:
        yield Finding(
            False,
            f"as before the first step: {listed(still)}; is the learning rate 0, or is a copy of "
            "the model being trained?",
        )
    yield from _noise(witness)


def _noise(witness: Witness) -> Iterator[Finding]:
    """Compares the noise, all of it and that of each parameter, with the declared."""
    seen = noise_seen(witness)
    if seen is None:
        return
    wanted = sum(param.numel() for param in witness.params.values())
    if seen.coordinates != wanted:
        text = f"noise was added to {seen.coordinates} of {wanted} numbers in the first step"
    elif wrong := _wrong(list(witness.params), witness.added):
        text = f"the noise of the first step is not as declared on {listed(wrong)}"
    elif not seen.low <= seen.ratio <= seen.high:
        text = "the noise of the first step is not as declared"
    else:
        return
    yield Finding(
        True,
        f"{text} (measured over all: {seen.ratio:.4f} of the declared std, where {seen.low:.4f} "
        f"to {seen.high:.4f} is expected)",
    )


def _wrong(names: Sequence[str], added: Sequence[Added]) -> list[str]:
    """Returns the parameters whose own noise has the wrong size."""
    wrong = []
    for name, one in zip(names, added, strict=True):
        low, high = _interval(one.coordinates, _RARE / len(names))
        if not low <= _ratio(one) <= high:
            wrong.append(name)
    return wrong


def _ratio(added: Added) -> float:
    return math.sqrt(added.squares / added.coordinates) if added.coordinates else 0.0


def _interval(n: int, rare: float) -> tuple[float, float]:
    """Returns where the measured std of n normal numbers of std 1 lies, but for 2 `rare`."""
    if not n:
        return 0.0, math.inf
    low, high = chi2.ppf(rare, n) / n, chi2.isf(rare, n) / n
    return math.sqrt(low * (1 - _ROUNDED)), math.sqrt(high * (1 + _ROUNDED))
