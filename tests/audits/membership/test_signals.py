import math
import zlib

import numpy as np
import pytest
import torch

from audits.membership import (
    log_confidence,
    loss,
    min_k,
    min_k_plus_plus,
    reference,
    stable_logit,
    token_z,
    zlib_ratio,
)

LOG_P = [-0.1, -2, -0.5, -4, -0.2, -1, -0.05, -3, -0.3, -0.6]


def test_known_stable_logits() -> None:
    found = stable_logit([[5.0, 2.0, -1.0], [800.0, 0.0, 0.0]], [0, 0])
    assert found == pytest.approx([2.951413, 799.306853], abs=1e-6)


def test_stable_logits_are_logits_of_the_right_class() -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    p = np.exp(z)[np.arange(50), y] / np.exp(z).sum(1)
    phi = stable_logit(torch.from_numpy(z).requires_grad_(), torch.from_numpy(y))
    assert phi == pytest.approx(np.log(p / (1 - p)), abs=1e-12)
    assert log_confidence(phi) == pytest.approx(np.log(p), abs=1e-12)
    assert phi.dtype == np.float64


def test_members_score_high() -> None:
    assert loss(-np.mean(LOG_P)) == pytest.approx(-1.175)
    assert loss([1.0, 3.0]).tolist() == [-1, -3]
    assert reference([1.0, 3.0], [2.0, 2.0]).tolist() == [1, -1]
    assert min_k(LOG_P, 0.2) == pytest.approx(-3.5)


@pytest.mark.parametrize(
    ("tokens", "k", "lowest"), [(10, 0.2, 2), (10, 0.01, 1), (100, 0.07, 7), (3, 0.5, 2), (5, 1, 5)]
)
def test_min_k_takes_the_ceiling_and_at_least_one(tokens: int, k: float, lowest: int) -> None:
    values = -np.arange(1.0, tokens + 1)
    assert min_k(values, k) == pytest.approx(np.mean(values[-lowest:]))


def test_known_token_scores() -> None:
    table = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    z = token_z(table, [0, 0])
    assert z == pytest.approx([0.633092, -2.0], abs=1e-6)
    mean = (np.exp(table[0]) * table[0]).sum()
    assert mean == pytest.approx(-0.801819, abs=1e-6)
    assert (table[0, 0] - mean) / z[0] == pytest.approx(0.703126, abs=1e-6)
    assert min_k_plus_plus(table, [0, 0], 0.5) == pytest.approx(-2.0)
    assert min_k_plus_plus(table, [0, 0], 1) == pytest.approx((0.633092 - 2) / 2, abs=1e-6)


def test_min_k_plus_plus_against_loops() -> None:
    rng = np.random.default_rng(1)
    table = torch.log_softmax(torch.from_numpy(rng.normal(size=(40, 30)) * 3), -1)
    tokens = rng.integers(0, 30, 40)
    each = []
    for row, token in zip(table.tolist(), tokens.tolist(), strict=True):
        mean = sum(math.exp(v) * v for v in row)
        square = sum(math.exp(v) * v * v for v in row)
        each.append((row[token] - mean) / math.sqrt(square - mean**2))
    assert token_z(table, tokens) == pytest.approx(each, abs=1e-9)
    assert min_k_plus_plus(table, tokens, 0.3) == pytest.approx(sum(sorted(each)[:12]) / 12)


def test_distributions_without_spread_and_excluded_tokens() -> None:
    flat = np.full((1, 50_257), -math.log(50_257))
    certain = np.array([[0.0, -np.inf, -np.inf]])
    assert token_z(flat, [7]) == token_z(certain, [0]) == 0
    masked = np.log([[0.7, 0.2, 0.1]])
    wider = np.concatenate([masked, [[-np.inf]]], axis=1)
    assert token_z(wider, [0]) == token_z(masked, [0])


def test_zlib_divides_by_the_compressed_bytes() -> None:
    text = "The random number is 281265017"
    assert zlib_ratio([76.0], [text]) == pytest.approx([-2.0])  # 38 bytes
    long = "aä" * 500
    assert zlib_ratio([1.0], [long]) == pytest.approx([-1 / len(zlib.compress(long.encode(), 6))])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: stable_logit([[1.0, math.inf]], [0]), "1 infinite values among 2"),
        (lambda: stable_logit([[1.0, math.nan]], [0]), "1 NaN among 2"),
        (lambda: stable_logit([[1.0]], [0]), r"expected \[n, k\] with k >= 2"),
        (lambda: stable_logit([[1.0, 2.0]], [0, 1]), "labels \\(2,\\)"),
        (lambda: stable_logit([[1.0, 2.0]], [2]), "reach from 2 to 2; expected 0 to 1"),
        (lambda: stable_logit([[1.0, 2.0]], [-1]), "reach from -1"),
        (lambda: stable_logit([[1.0, 2.0]], [0.0]), "type float64; expected integers"),
        (lambda: loss([math.inf]), "nll has 1 infinite"),
        (lambda: reference([1.0], [1.0, 2.0]), r"shape \(1,\) and reference_nll \(2,\)"),
        (lambda: zlib_ratio([1.0], ["a", "b"]), "2 texts"),
        (lambda: zlib_ratio([1.0], "a"), "one string"),
        (lambda: min_k([-1.0, 0.5]), "a maximum of 0.5"),
        (lambda: min_k([[-1.0]]), r"expected \[T\]"),
        (lambda: min_k([-1.0], 0.0), "k is 0.0"),
        (lambda: min_k([-1.0], 1.5), "k is 1.5"),
        (lambda: token_z([[0.2, 0.3]], [0]), "expected a log softmax"),
        (lambda: token_z([[0.0, -math.inf]], [1]), "of the tokens has 1 infinite"),
        (lambda: token_z([-1.0], [0]), r"expected \[T, V\]"),
        (lambda: token_z([[0.0, -50.0]], [2]), "tokens reach from 2"),
    ],
)
def test_bad_input_is_never_a_number(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
