from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from reports.rows import Row
from reports.sentence import headline
from reports.table import summarize

MakeRow = Callable[..., dict[str, Any]]
Said = Callable[..., str]
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1}
WORSE = "at accuracy 0.938 ± 0.005 against 0.962 ± 0.005 (worse)"


@pytest.fixture
def said(row: MakeRow) -> Said:
    """Says the headline of an unclipped arm and a sample arm of three seeds each."""

    def say(
        base: float,
        clipped: float,
        *,
        utility: tuple[float, float] = (0.962, 0.938),
        metric: str = "acc",
        spread: tuple[float, float] = (0.12, 0.12),
        seeds: int = 3,
    ) -> str:
        rows = []
        arms = (({}, base, utility[0], spread[0]), (SAMPLE, clipped, utility[1], spread[1]))
        for settings, bits, value, apart in arms:
            for seed in range(seeds):
                shift = seed - (seeds - 1) / 2
                measured: dict[str, Any] = {"acc": None, metric: value + 0.002 * shift}
                measured |= {"exposure": bits + apart * shift}
                measured |= {"exp_low": bits - 0.3, "exp_high": bits + 0.3}
                rows.append(row(seed=seed, **(settings | measured)))
        return headline(summarize(rows))

    return say


def test_the_whole_sentence(sweep: list[Row]) -> None:
    assert headline(summarize(sweep)) == (
        "On digits, unclipped training memorizes canaries seen once (5.05 [4.75, 5.35] bits, null "
        "1.44); sample C=0.1 (1.55 [1.25, 1.85]) brings that to where it cannot be told from the "
        f"null, {WORSE}, the highest mean accuracy of 2 arms that do. 1x exposure rises with the "
        "group size for C=0.1 (sample 1.55, microbatch 16 5.14) and core min (core 8 3.90, core 4 "
        "4.80)."
    )


def test_reaching_the_null_is_said_with_its_cost(said: Said) -> None:
    assert f"cannot be told from the null, {WORSE}." in said(5.0, 1.5)


def test_overlapping_utilities_carry_no_cost(said: Said) -> None:
    sentence = said(5.0, 1.5, utility=(0.962, 0.960))
    assert "(intervals overlap: no cost can be claimed)" in sentence
    assert "worse" not in sentence


def test_higher_accuracy_is_better_and_higher_perplexity_worse(said: Said) -> None:
    assert "(better)" in said(5.0, 1.5, utility=(0.93, 0.96))
    for metric, label in (("wer", "word error rate"), ("cer", "character error rate")):
        sentence = said(5.0, 1.5, utility=(0.10, 0.20), metric=metric)
        assert f"at {label} 0.200 ± 0.005 against 0.100 ± 0.005 (worse)" in sentence
    sentence = said(5.0, 1.5, utility=(8.5, 8.0), metric="ppl")
    assert "at perplexity 8.00 ± 0.00 against 8.50 ± 0.00 (better)" in sentence


def test_lower_but_not_the_null(said: Said) -> None:
    sentence = said(5.0, 3.0)
    assert "sample C=0.1 (3.00 [2.70, 3.30]) lowers that, but not to the null, at acc" in sentence


def test_overlapping_exposures_carry_no_reduction(said: Said) -> None:
    sentence = said(5.0, 4.6)
    assert "no arm's interval lies below that, so no reduction can be claimed" in sentence
    assert "lowers" not in sentence
    assert "brings" not in sentence


def test_a_wide_interval_that_holds_the_null_and_overlaps_is_no_reduction(said: Said) -> None:
    sentence = said(5.0, 2.0, spread=(0.12, 1.5))
    assert "no arm's interval lies below that, so no reduction can be claimed" in sentence
    assert "brings" not in sentence


def test_amplification_is_said(said: Said) -> None:
    sentence = said(3.4, 7.0)
    assert "sample C=0.1 (7.00 [6.70, 7.30]) raises the exposure" in sentence
    assert "no reduction can be claimed" in sentence


def test_nothing_to_reduce_where_nothing_is_memorized(said: Said) -> None:
    sentence = said(1.5, 1.4)
    assert "shows no memorization of canaries seen once" in sentence
    assert "so no arm can be shown to reduce it" in sentence
    assert "no reduction can be claimed" not in sentence
    assert "brings" not in sentence


def test_below_the_null_is_a_warning_not_a_success(said: Said) -> None:
    assert "which points to ties or unequal references" in said(0.5, 0.5)
    assert "lies below the null: check ties and references" in said(5.0, 0.5)


def test_one_seed_compares_exposure_by_canaries_and_utility_not_at_all(said: Said) -> None:
    sentence = said(5.0, 1.5, seeds=1)
    assert "(1.50 [1.20, 1.80]) brings that" in sentence
    assert "at accuracy 0.938 against 0.962 (too few seeds to claim a cost or none)" in sentence


def test_without_an_interval_nothing_is_compared(row: MakeRow) -> None:
    rows = [row(exp_low=None, exp_high=None), row(**SAMPLE, exposure=1.4)]
    sentence = headline(summarize(rows))
    assert "has a 1x exposure of 5.05 bits without an interval" in sentence
    assert "sample" not in sentence


def test_without_an_unclipped_arm_no_reduction_is_claimed(row: MakeRow) -> None:
    arms = [SAMPLE, SAMPLE | {"C": 1.0}]
    rows = [
        row(**arm, exposure=bits, exp_low=bits - 0.3, exp_high=bits + 0.3)
        for arm, bits in zip(arms, (1.5, 3.0), strict=True)
    ]
    assert headline(summarize(rows)) == (
        "On digits, no unclipped arm was run, so no reduction can be claimed; the 1x exposure "
        "interval contains the null of 1.44 bits for sample C=0.1 (1.50 [1.20, 1.80])."
    )
    assert "for no arm." in headline(summarize(rows[1:]))


def test_a_cost_that_was_not_measured_is_said_to_be(row: MakeRow) -> None:
    low = {"exposure": 1.5, "exp_low": 1.2, "exp_high": 1.8}
    sentence = headline(summarize([row(acc=None), row(acc=None, **SAMPLE, **low)]))
    assert "(its cost in utility was not measured)" in sentence


def test_each_task_has_its_sentence(row: MakeRow) -> None:
    sentence = headline(summarize([row(), row(task="text")]))
    assert sentence.startswith("On digits, ")
    assert ". On text, " in sentence


def test_contradicted_and_untested_claims_are_in_the_answer(row: MakeRow) -> None:
    noise = {"clip": "sample", "weighting": "clip", "C": 1.0, "mb": 1}
    verdicts = ("contradicted", "unresolvable", "unresolvable", "unresolvable", "consistent")
    rows = [
        row(**noise, sigma=sigma, eps=4.0 / sigma, verdict=verdict)
        for sigma, verdict in zip((0.5, 1.0, 2.0, 4.0, 8.0), verdicts, strict=True)
    ]
    sentence = headline(summarize([row(), *rows]))
    assert ". The audit CONTRADICTS the epsilon claimed by sample C=1 sigma=0.5 (8)" in sentence
    assert sentence.endswith(
        "; the audit is too weak to test the epsilon claimed by sample C=1 sigma=1 (4), "
        "sample C=1 sigma=2 (2) and 1 more."
    )
    assert "he audit" not in headline(summarize([row(), rows[-1]]))


def test_an_empty_summary_is_refused() -> None:
    with pytest.raises(ValueError, match="the summary has no lines"):
        headline(pd.DataFrame())
