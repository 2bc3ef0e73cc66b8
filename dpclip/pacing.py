"""When to step: batches that grow until the direction of their gradient fluctuates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dpclip.types import Pacing
from dpclip.whole_numbers import check_count


def by_angle(
    alpha: float = 1.1,
    patience: int = 3,
    cap: float | None = None,
    monitor: str | None = None,
) -> Pacing:
    """Returns the rule of arXiv 2005.02008: step when the gradient has stopped turning.

    Every batch of the loader is an increment. What `backward()` leaves in `p.grad` is added up
    beside it, and `optimizer.step()` does nothing (parameters without a gradient are skipped)
    until the sum is complete. It then steps on the mean of the increments, each by its number of
    groups (or, for a summed loss, on the sum); with one group per increment (`per_core(1)`) an
    increment that Poisson sampling left small counts as much as a large one, so take
    `per_sample()` with `uniform()` where samples should count alike. With a_k the angle between
    the sum before and after increment k, it is complete when

    - a_k >= alpha * min(a_2, ..., a_{k-1}), or
    - `patience` angles in all were no new minimum, or
    - the sum holds `cap` samples.

    If the last angle is above 90 / alpha degrees, the sum is thrown away instead and weights and
    optimizer stay as they are, as in the authors' code. Angles are taken on one layer (a module
    with its own parameters), drawn anew for each sum: p(layer) = softmax of the mean of its last
    50 rewards, (max a - min a) / max a of a sum, the first of which is 1. An increment that leaves
    that layer's sum where it was (an empty batch of Poisson sampling, an embedding whose words did
    not occur) has no angle.

    For orthogonal increments of equal length a_k is atan(1 / sqrt(k - 1)): it falls by averaging
    alone, so without a cap the sum may become large. The decision needs the angle, so the step
    waits for the device.

    With noise every increment is one step of the mechanism, is noised and charged by itself,
    thrown away or not, and the rule reads nothing but noised sums and public numbers: epsilon is
    that of as many steps as there were increments. Under Poisson sampling an increment counts
    its expected samples, q N, because the actual number is not public.

    A learning rate by update or by sample needs to know which steps were updates::

        optimizer.step()
        if engine.updated:  # by update
            scheduler.step()
        # by sample: scheduler.step() each time, of LambdaLR(optimizer, lambda _:
        # rate(engine.pace.samples))

    How many updates there will be is not known beforehand, so a schedule with an end goes by
    sample: its end is epochs * len(loader) * batch_size under Poisson sampling, where every batch
    counts as an expected one, and epochs * N otherwise.
    `checkpoints.save(extra=scheduler.state_dict())` keeps it.

    `engine.pace` has sizes and angles. The sum takes the memory of one more gradient; a checkpoint
    holds it, and them. What is under way when training ends is never used, and with noise it was
    paid for.

    Args:
        alpha: fluctuation that is noticed, >= 1.
        patience: angles that are no new minimum, >= 1.
        cap: samples; None for no limit.
        monitor: the layer whose angle is taken, by the beginning of its parameters' names ("" for
            the whole model); None draws one. A step raises RuntimeError if this layer's gradient
            stays zero while that of others does not, as nothing would ever be complete.

    Raises:
        ValueError: an argument outside its range.
    """
    if not (math.isfinite(alpha) and alpha >= 1):
        raise ValueError(f"by_angle(alpha={alpha}): expected a finite number >= 1.")
    check_count("by_angle(patience", patience, "angles")
    if cap is not None and not cap > 0:
        raise ValueError(f"by_angle(cap={cap}): expected a positive number of samples, or None.")

    def decide(angles: Sequence[float]) -> bool:
        low, worse = math.inf, 0
        for k, angle in enumerate(angles, 2):
            if not 0 <= angle <= 180:
                raise ValueError(f"a_{k} = {angle}: expected an angle of 0 to 180 degrees.")
            worse += angle >= low
            if angle >= alpha * low or worse >= patience:
                return True
            low = min(low, angle)
        return False

    limits = f"{'' if cap is None else f', cap={cap:g}'}"
    watched = "" if monitor is None else f", monitor={monitor!r}"
    return Pacing(
        label=f"by_angle({alpha:g}, patience={patience}{limits}{watched})",
        decide=decide,
        discards=lambda angle: angle > 90 / alpha,
        cap=cap,
        monitor=monitor,
    )
