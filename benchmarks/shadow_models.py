"""How well membership attacks do on a small model of digits, and how long 64 shadow models take.

    python -m benchmarks.shadow_models
    python -m benchmarks.shadow_models --output reports/published/membership/digits.md

Trains models of the task digits without any protection, each on its own random half of the 1,300
training records, with the task's own optimizer, batch size and epochs. Then every model in turn is
the target: all others but its pair (the model with the other half) are the shadow models. The
records that nobody is trained on are RMIA's population.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset

from audits.membership import (
    Auc,
    TprAtFpr,
    auc,
    best_attack,
    lira_offline,
    lira_online,
    log_confidence,
    loss,
    reference,
    rmia_offline,
    rmia_online,
    tpr_at_fpr,
)
from audits.shadow import Held, ShadowModels, held_out, recipe_of, train_shadows
from audits.tasks import digits
from benchmarks.table import Cell, markdown

Scores = NDArray[np.float64]
Attack = Callable[[Held], Scores]

RATES: Final = (0.01, 0.001)
RESAMPLES: Final = 500
LEVEL: Final = 0.05


def _loss(held: Held) -> Scores:
    return loss(-log_confidence(held.target))


def _reference(held: Held) -> Scores:
    """Returns the loss below the mean loss of the models without the record."""
    theirs = -log_confidence(held.shadows)
    without = ~held.inside
    return reference(-log_confidence(held.target), theirs.mean(0, where=without))


def _rmia(attack: Callable[..., Scores]) -> Attack:
    def scores(held: Held) -> Scores:
        log_p, shadows = log_confidence(held.target), log_confidence(held.shadows)
        return attack(log_p, shadows, held.inside, held.compared())

    return scores


ATTACKS: Final[Mapping[str, Attack]] = {
    "loss": _loss,
    "reference": _reference,
    "RMIA offline": _rmia(rmia_offline),
    "RMIA online": _rmia(rmia_online),
    "LiRA offline": lambda held: lira_offline(held.target, held.shadows, held.inside),
    "LiRA online": lambda held: lira_online(held.target, held.shadows, held.inside),
}


def of_one(held: Held) -> str:
    """Returns the table of one target, and the best attack with its choice paid for."""
    scores = {name: attack(held) for name, attack in ATTACKS.items()}
    columns: dict[str, list[Cell]] = {"AUC [DeLong]": []}
    columns |= {f"TPR at FPR {rate:g}": [] for rate in RATES}
    columns |= {f"realized FPR at {rate:g}": [] for rate in RATES}
    for values in scores.values():
        area = auc(values, held.coins, LEVEL)
        columns["AUC [DeLong]"].append(Cell(_interval(area)))
        for rate in RATES:
            tpr, fpr = _rate_cells(values, held.coins, rate)
            columns[f"TPR at FPR {rate:g}"].append(tpr)
            columns[f"realized FPR at {rate:g}"].append(fpr)
    best = best_attack(scores, held.coins, LEVEL)
    return (
        markdown("attack", list(scores), columns)
        + f"\n\nBest of {best.auc.n_tests} attacks, alpha shared among them: {best.attack}, AUC "
        + f"{_interval(best.auc)}."
    )


def of_all(shadows: ShadowModels) -> str:
    """Returns the table of every model in turn as the target."""
    every = [held_out(shadows, number) for number in range(len(shadows.phi))]
    coins = np.stack([held.coins for held in every])
    columns: dict[str, list[Cell]] = {"mean AUC": [], "lowest to highest": []}
    columns |= {f"TPR at FPR {rate:g}": [] for rate in RATES}
    columns |= {f"realized FPR at {rate:g}": [] for rate in RATES}
    for attack in ATTACKS.values():
        scores = np.stack([attack(held) for held in every])
        areas = [auc(*pair).estimate for pair in zip(scores, coins, strict=True)]
        columns["mean AUC"].append(Cell(f"{np.mean(areas):.3f}"))
        columns["lowest to highest"].append(Cell(f"{min(areas):.3f} to {max(areas):.3f}"))
        for rate in RATES:
            tpr, fpr = pooled(scores, coins, rate)
            low, high = _over_pairs(scores, coins, rate)
            columns[f"TPR at FPR {rate:g}"].append(Cell(f"{tpr:.2%} [{low:.2%}, {high:.2%}]"))
            columns[f"realized FPR at {rate:g}"].append(Cell(f"{fpr:.3%}"))
    return markdown("attack", list(ATTACKS), columns)


def pooled(scores: Scores, coins: NDArray[np.bool_], rate: float) -> tuple[float, float]:
    """Returns the rates of true and of false positives over all targets, at one threshold.

    Args:
        scores: [targets, n].
        coins: [targets, n].
        rate: of false positives, at most.
    """
    members, others = scores[coins], np.sort(scores[~coins])
    threshold = others[len(others) - 1 - int(rate * len(others) + 1e-9)]  # .29 * 100 < 29
    return float((members > threshold).mean()), float((others > threshold).mean())


def _over_pairs(scores: Scores, coins: NDArray[np.bool_], rate: float) -> tuple[float, float]:
    """Returns the 95 % interval of a bootstrap that draws pairs of targets."""
    rng, pairs = np.random.default_rng(0), len(scores) // 2
    rates = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, pairs, pairs)
        targets = np.concatenate([2 * drawn, 2 * drawn + 1])
        rates.append(pooled(scores[targets], coins[targets], rate)[0])
    low, high = np.quantile(rates, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def _rate_cells(scores: Scores, coins: NDArray[np.bool_], rate: float) -> tuple[Cell, Cell]:
    try:
        found = tpr_at_fpr(scores, coins, rate, LEVEL)
    except ValueError as refusal:
        return Cell("refused", str(refusal)), Cell("-")
    fp, n_out = found.counts["fp"], found.counts["n_out"]
    realized = f"{fp} of {n_out:,}, at most {found.fpr_bound:.2%}"
    return Cell(_interval(found, percent=True)), Cell(realized)


def _interval(found: Auc | TprAtFpr, percent: bool = False) -> str:
    form = ".2%" if percent else ".3f"
    return f"{found.estimate:{form}} [{found.low:{form}}, {found.high:{form}}]"


def report(shadows: ShadowModels, seconds: float, words: Sequence[str]) -> str:
    """Returns the page.

    Args:
        shadows: the models.
        seconds: that training and scoring took.
        words: of the command line.
    """
    models, records = shadows.phi.shape
    half, population = records // 2, shadows.population.shape[1]
    command = " ".join(["python -m benchmarks.shadow_models", *words])
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = " Other processes were busy." if load > torch.get_num_threads() + 0.5 else ""
    return f"""# Membership inference on digits, without protection

```
{command}
```

{models} shadow models of the task digits, each trained on {half} of {records:,} records: trained \
and scored in {seconds:.1f} s of wall time ({torch.get_num_threads()} thread(s), load {load:.1f} \
on {cores} cores, torch {torch.__version__}).{busy} {shadows.way.capitalize()}.

Attacks and signals were fixed before scores were seen; thresholds are set on the non-members' \
scores, which the limits allow for. LiRA with the default variance \
({"each record's own" if models - 2 >= 16 else "pooled"}), RMIA with gamma 1, a = .3 and \
{population} records that nobody was trained on; the reference is the mean loss of the models \
without the record.

## One target

Model 0 against {models - 2} shadow models: {half} members, {half} non-members. Intervals at 95 % \
each: DeLong for the AUC; Clopper and Pearson for rates, at the threshold. "At most" is what may \
be claimed of the false-positive rate at 95 %.

{of_one(held_out(shadows, 0))}

## Every model in turn

{models} targets, {models * half:,} pairs of a target and a member and as many of a non-member, \
one threshold for all. Pairs share records and models, so that no limit for independent records \
holds; the intervals in brackets come from drawing pairs of targets ({RESAMPLES} bootstrap \
resamples) and leave out how other records would have done. The realized false-positive rate is \
that of the same pairs. RMIA's score is a share of {population} records: where more non-members \
than the rate allows have the highest score, nobody passes.

{of_all(shadows)}
"""


def main(words: list[str] | None = None) -> int:
    """Prints the page and returns the exit code.

    Args:
        words: of the command line; the process' own by default.
    """
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--models", type=int, default=64, help="(default: %(default)s)")
    made.add_argument("--epochs", type=int, help="(default: the task's)")
    made.add_argument("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    made.add_argument("--output", type=Path, help="file to write, too")
    given = made.parse_args(words)
    torch.set_num_threads(given.threads)
    task, data = digits.task({}), digits.load()
    unused: ConcatDataset[Any] = ConcatDataset([data.validation, data.pool, data.test])
    recipe = recipe_of(task, epochs=given.epochs)
    started = time.perf_counter()
    shadows = train_shadows(recipe, task.train, given.models, given.seed, unused)
    seconds = time.perf_counter() - started
    page = report(shadows, seconds, sys.argv[1:] if words is None else words)
    print(page)
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
