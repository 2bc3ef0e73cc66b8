import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from audits.membership import (
    auc,
    lira_offline,
    lira_online,
    log_density,
    log_ratio,
    lower_tail,
    null_sd,
    pooled_std,
)


def drawn(
    models: int, records: int, shift: float = 1.0, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Target, shadows and both memberships, with records of different hardness."""
    rng = np.random.default_rng(seed)
    hardness = rng.normal(scale=5, size=records)
    inside = rng.random((models, records)).argsort(0) < models // 2
    coins = rng.random(records) < 0.5
    noise = rng.normal(size=(models + 1, records))
    phi = hardness + noise + shift * np.concatenate([coins[None], inside])
    return phi[0], phi[1:], inside, coins


def test_known_ratio_and_tails() -> None:
    assert log_ratio(2, 3, 1, 0, 1.5) == pytest.approx(0.794354, abs=1e-6)
    assert lower_tail(2, 0, 1.5) == pytest.approx(0.908789, abs=1e-6)
    for phi in (2, -2):
        assert -log_density(phi, 0, 1.5) == pytest.approx(2.213293, abs=1e-6)


def laws() -> tuple[list[float], list[list[float]], list[list[bool]]]:
    """One record, phi = 2: models with it have mean 3 and std 1, models without 0 and 1.5."""
    a, b = 1 / math.sqrt(2), 1.5 / math.sqrt(2)  # two values at +-a have the sample std 1
    shadows = [[3 + a], [3 - a], [b], [-b]]
    return [2.0], shadows, [[True], [True], [False], [False]]


@pytest.mark.parametrize("fixed", [None, True, False])
def test_known_values_from_arrays(fixed: bool | None) -> None:
    assert lira_online(*laws(), fixed=fixed) == pytest.approx([0.794354], abs=1e-6)
    one_sided = lira_offline(*laws(), fixed=fixed)
    assert 1 - np.exp(-one_sided) == pytest.approx([0.908789], abs=1e-6)
    two = lira_offline(*laws(), fixed=fixed, two_sided=True)
    assert two == pytest.approx([2.213293], abs=1e-6)
    below = lira_offline([-2.0], *laws()[1:], fixed=fixed, two_sided=True)
    assert below == pytest.approx(two)


@pytest.mark.parametrize("fixed", [True, False])
def test_scores_against_loops(fixed: bool) -> None:
    target, shadows, inside, _ = drawn(9, 30)
    laws = {}
    for side in (True, False):
        groups = [shadows[inside[:, i] == side, i] for i in range(30)]
        squares = sum(sum((v - g.mean()) ** 2 for v in g) for g in groups)
        pooled = math.sqrt(squares / sum(len(g) - 1 for g in groups))
        laws[side] = [(g.mean(), pooled if fixed else g.std(ddof=1)) for g in groups]
    online, offline, two_sided = [], [], []
    for i, phi in enumerate(target):
        p, q = norm(*laws[True][i]), norm(*laws[False][i])
        online.append(p.logpdf(phi) - q.logpdf(phi))
        offline.append(-q.logsf(phi))
        two_sided.append(-q.logpdf(phi))
    given = (torch.from_numpy(target), torch.from_numpy(shadows), torch.from_numpy(inside))
    assert lira_online(*given, fixed=fixed) == pytest.approx(online)
    assert lira_offline(*given, fixed=fixed) == pytest.approx(offline)
    assert lira_offline(*given, fixed=fixed, two_sided=True) == pytest.approx(two_sided)


def test_variance_is_fixed_below_sixteen_models() -> None:
    for models, fixed in ((15, True), (16, False)):
        target, shadows, inside, _ = drawn(models, 20)
        for attack in (lira_online, lira_offline):
            found = attack(target, shadows, inside)
            assert (found == attack(target, shadows, inside, fixed=fixed)).all()
            assert (found != attack(target, shadows, inside, fixed=not fixed)).any()


def test_queries_are_averaged() -> None:
    several = [drawn(8, 20, seed=seed)[:2] for seed in range(3)]
    inside = drawn(8, 20)[2]
    target = np.stack([one for one, _ in several])
    shadows = np.stack([many for _, many in several], axis=1)  # [models, queries, n]
    for attack in (lira_online, lira_offline):
        each = [attack(one, many, inside) for one, many in several]
        assert attack(target, shadows, inside) == pytest.approx(np.mean(each, axis=0))


def test_pooled_std_ignores_how_records_differ() -> None:
    _, shadows, inside, _ = drawn(200, 50)
    assert pooled_std(shadows, inside) == pytest.approx([1.0], abs=0.05)
    assert pooled_std(shadows, ~inside) == pytest.approx([1.0], abs=0.05)
    assert shadows[inside].std() > 4


def test_no_saturation_far_out() -> None:
    shadows = np.array([[1.0], [-1.0], [0.0], [0.5]])
    inside = np.zeros((4, 1), bool)
    scores = [float(lira_offline([phi], shadows, inside)[0]) for phi in (20.0, 40.0)]
    assert scores[0] < scores[1] < math.inf


@pytest.mark.parametrize("attack", [lira_online, lira_offline])
def test_the_area_of_two_known_normals_is_recovered(attack) -> None:
    # Signals N(0, 1) without and N(1, 1) with the record: the best attack has Phi(1 / sqrt 2).
    target, shadows, inside, coins = drawn(128, 6000)
    found = auc(attack(target, shadows, inside, fixed=True), coins, alpha=1e-3)
    assert found.low <= norm.cdf(1 / math.sqrt(2)) <= found.high
    assert found.high - found.low < 0.05
    raw = auc(target, coins)
    assert raw.high < 0.6


@pytest.mark.parametrize("attack", [lira_online, lira_offline])
def test_signals_that_know_nothing_score_nothing(attack) -> None:
    target, shadows, inside, coins = drawn(16, 4000, shift=0.0)
    found = auc(attack(target, shadows, inside), coins)
    sd = null_sd(found.counts["n_in"], found.counts["n_out"])
    assert abs(found.estimate - 0.5) < 3.3 * sd  # p = 1e-3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, s, m: (t, s, np.ones_like(m)), "fewer than 2 shadow models without"),
        (lambda t, s, m: (t, s[:, :-1], m), r"expected \[..., n\] and \[models, ..., n\]"),
        (lambda t, s, m: (t, s, m[:-1]), "inside has shape"),
        (lambda t, s, m: (t, s, m.astype(int)), "expected booleans"),
        (lambda t, s, m: (t, np.where(m, s, np.inf), m), "infinite values"),
        (lambda t, s, m: (t * np.nan, s, m), "NaN"),
        (lambda t, s, m: (t, np.zeros_like(s), m), "standard deviations"),
        (lambda t, s, m: (float(t[0]), s, m), r"expected \[..., n\]"),
    ],
)
@pytest.mark.parametrize("attack", [lira_online, lira_offline])
def test_bad_input_is_never_a_number(attack, change, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        attack(*change(*drawn(8, 5)[:3]))


def test_online_needs_models_with_the_record() -> None:
    target, shadows, inside, _ = drawn(8, 5)
    with pytest.raises(
        ValueError, match="5 of 5 records have fewer than 2 shadow models with them"
    ):
        lira_online(target, shadows, np.zeros_like(inside))
    assert lira_offline(target, shadows, np.zeros_like(inside)).shape == (5,)
