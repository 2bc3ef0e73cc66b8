import math

import numpy as np
import pytest
from numpy.typing import NDArray

from audits.membership import Population, auc, log_confidence, rmia_offline, rmia_online

# Four shadow models; the record is in the first two, nobody has the population.
P_X, IN_X, OUT_X = 0.9, (0.9, 0.7), (0.5, 0.7)
P_Z, OUT_Z = (0.5, 0.95, 0.3), (0.6, 0.4, 0.2)
INSIDE = [[True], [True], [False], [False]]


def known() -> tuple[NDArray[np.float64], NDArray[np.float64], list[list[bool]], Population]:
    population = Population(np.log(P_Z), np.log([OUT_Z] * 4))
    return np.log([P_X]), np.log([[p] for p in (*IN_X, *OUT_X)]), INSIDE, population


def test_known_offline_score() -> None:
    # pr_x = .74 and ratios 1.216216 of x; .675676, 1.557377, .625 of the population.
    assert rmia_offline(*known()) == pytest.approx([2 / 3])


@pytest.mark.parametrize(
    ("p", "out", "ratio"),
    [(0.9, 0.6, 1.216216), (0.5, 0.6, 0.675676), (0.95, 0.4, 1.557377), (0.3, 0.2, 0.625)],
)
def test_known_ratios_are_where_the_score_steps(p: float, out: float, ratio: float) -> None:
    population = Population(np.log([p]), np.log([[out]] * 2))
    shadows = np.full((2, 1), math.log((2 * 0.625 - 0.7) / 1.3))  # pr = .625
    for nudge, score in ((1 + 2e-6, 1.0), (1 - 2e-6, 0.0)):
        target = [math.log(ratio * nudge * 0.625)]
        assert rmia_offline(target, shadows, [[False], [False]], population) == [score]


def test_equal_ratios_count() -> None:
    signals = np.log([0.3, 0.4, 0.5]), np.log([[0.2, 0.3, 0.2], [0.3, 0.3, 0.1]])
    inside = np.zeros((2, 3), bool)
    ranks = rmia_offline(*signals, inside, Population(*signals))
    assert sorted(ranks) == pytest.approx([1 / 3, 2 / 3, 1])


def test_known_online_score() -> None:
    # pr_x = (.8 + .6) / 2 = .7 and ratio 1.285714, again above .675676 and .625 only.
    assert rmia_online(*known()) == pytest.approx([2 / 3])
    assert rmia_online(*known(), gamma=1.9) == pytest.approx([2 / 3])
    assert rmia_online(*known(), gamma=1.95) == pytest.approx([1 / 3])  # 1.285714/.675676 = 1.903
    assert rmia_online(*known(), gamma=2.1) == pytest.approx([0])  # 1.285714/.625 = 2.057


def signals(models: int, n: int, seed: int) -> tuple[NDArray[np.float64], ...]:
    rng = np.random.default_rng(seed)
    inside = rng.random((models, n)).argsort(0) < models // 2
    coins = rng.random(n) < 0.5
    phi = rng.normal(size=n) + rng.normal(size=(models + 1, n)) * 0.7
    phi += np.concatenate([coins[None], inside])
    return log_confidence(phi[0]), log_confidence(phi[1:]), inside, coins


@pytest.mark.parametrize("gamma", [1.0, 1.3])
def test_scores_against_loops(gamma: float) -> None:
    target, shadows, inside, _ = signals(8, 40, 0)
    z_target, z_shadows, z_inside, _ = signals(8, 25, 1)
    z_inside[:, :10] = False  # in nobody: the line stands for the models with them
    a = 0.4

    def line(p: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
        return ((1 + a) * p[~mask].mean() + 1 - a) / 2

    def both(p: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
        return (p[mask].mean() + p[~mask].mean()) / 2 if mask.any() else line(p, mask)

    population = Population(z_target, z_shadows, z_inside)
    for attack, prior in ((rmia_offline, line), (rmia_online, both)):
        expected = []
        for x in range(40):
            p_x = math.exp(target[x]) / prior(np.exp(shadows[:, x]), inside[:, x])
            beaten = 0
            for z in range(25):
                p_z = math.exp(z_target[z]) / prior(np.exp(z_shadows[:, z]), z_inside[:, z])
                beaten += p_x / p_z >= gamma
            expected.append(beaten / 25)
        found = attack(target, shadows, inside, population, gamma, a)
        assert found == pytest.approx(expected)


def test_log_probabilities_of_long_texts_do_not_underflow() -> None:
    target, shadows = np.array([-2000.0, -2003.0]), np.full((2, 2), -2001.0)
    population = Population([-2001.0], [[-2001.0]] * 2)
    inside = np.zeros((2, 2), bool)
    found = rmia_offline(target, shadows, inside, population, a=1.0)
    assert found.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("attack", [rmia_online, rmia_offline])
def test_members_stand_out_and_nothing_does_under_the_null(attack) -> None:
    target, shadows, inside, coins = signals(16, 2000, 2)
    z_target, z_shadows, _, z_coins = signals(16, 600, 3)
    out = ~z_coins
    population = Population(z_target[out], z_shadows[:, out])
    assert auc(attack(target, shadows, inside, population), coins).low > 0.6
    shuffled = np.random.default_rng(4).permutation(coins)
    null = auc(attack(target, shadows, inside, population), shuffled, alpha=1e-3)
    assert null.low < 0.5 < null.high


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, s, m, p: (t, s, m, p, 0.5), "gamma is 0.5"),
        (lambda t, s, m, p: (t, s, m, p, 1, 1.5), "a is 1.5"),
        (lambda t, s, m, p: (-t, s, m, p), "at most 0: log_confidence"),
        (lambda t, s, m, p: (t, -s, m, p), "at most 0: log_confidence"),
        (lambda t, s, m, p: (t, s, [[True]] * 4, p), "fewer than 1 shadow models without"),
        (lambda t, s, m, p: (t, s, m, Population(-np.log(P_Z), p.shadows)), "at most 0"),
        (lambda t, s, m, p: (t, s, m, Population(p.target, p.shadows[:, 1:])), "have shape"),
        (lambda t, s, m, p: (t, s, m, Population(p.target, p.shadows[1:])), "3 shadow models"),
        (lambda t, s, m, p: (t, s[None], m, p), "have shape"),
    ],
)
@pytest.mark.parametrize("attack", [rmia_online, rmia_offline])
def test_bad_input_is_never_a_number(attack, change, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        attack(*change(*known()))


def test_online_needs_models_with_the_record() -> None:
    target, shadows, _, population = known()
    with pytest.raises(ValueError, match="fewer than 1 shadow models with them"):
        rmia_online(target, shadows, [[False]] * 4, population)
