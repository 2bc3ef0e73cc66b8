"""Mechanisms of known epsilon, and the audits that are simulated of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from audits import bounds
from audits.gaussian_dp import epsilon_of
from audits.trade_off import epsilon_of_claim
from benchmarks.audit_methods import (
    ALPHA,
    DELTA,
    Coins,
    Method,
    Values,
    best_of,
    best_threshold,
    by_all_thresholds,
    by_answers,
    by_guesses,
    by_threshold,
    of_attack,
)

MUS = (0.0, 0.5, 1.0, 2.0, 4.0)
EPSILONS = (0.0, 1.0, 4.0)
CLAIMS = ((0.1, 50, 1.0), (0.01, 200, 0.6), (0.5, 4, 2.0))
ALPHABET = 1001
_CALIBRATION = 100_000  # scores from which the threshold of a subsampled claim is declared

Audit = tuple[Coins, Values]


@dataclass(frozen=True)
class Case:
    """A mechanism of known epsilon.

    Attributes:
        name: of the mechanism.
        draw: canaries, generator -> coins [m] and scores [m].
        methods: label -> method; each takes the coins and the scores, and returns its bound.
        truth: the true epsilon, for each method by its label.
        fails: whether its methods are there as warnings.
    """

    name: str
    draw: Callable[[int, np.random.Generator], Audit]
    methods: Mapping[str, Method]
    truth: Mapping[str, float]
    fails: bool = False


def gaussian_case(mu: float) -> Case:
    """Returns Dirac canaries: scores N(mu, 1) inside, N(0, 1) outside, independent of each other.

    The tail threshold is the one at which the expected ratio counts for pure epsilon.
    """
    at, middle, tail = {"delta": DELTA, "alpha": ALPHA}, mu / 2, mu + 1.0
    methods = {
        "steinke": by_guesses(bounds.steinke, **at),
        "gaussian one-run": by_guesses(bounds.gaussian_one_run, **at),
        "clopper-pearson": by_threshold(bounds.clopper_pearson, tail, **at),
        "gaussian": by_threshold(bounds.gaussian, middle, **at),
        "dkw": by_all_thresholds(bounds.dkw, **at),
        "gaussian dkw": by_all_thresholds(bounds.gaussian_dkw, **at),
    }
    truth = dict.fromkeys(methods, epsilon_of(mu, DELTA))
    return Case(f"Gaussian, mu {mu:g}", partial(_shifted, mu), methods, truth)


def _shifted(mu: float, canaries: int, rng: np.random.Generator) -> Audit:
    coins = rng.random(canaries) < 0.5
    return coins, rng.standard_normal(canaries) + mu * coins


def laplace_case(epsilon: float) -> Case:
    """Returns canaries that add 1 to Laplace noise of scale 1 / epsilon: purely private."""
    at = {"delta": 0.0, "alpha": ALPHA}
    methods = {
        "steinke": by_guesses(bounds.steinke, **at),
        "clopper-pearson": by_threshold(bounds.clopper_pearson, 1.0, **at),
        "dkw": by_all_thresholds(bounds.dkw, **at),
    }
    truth = dict.fromkeys(methods, epsilon)
    return Case(f"Laplace, epsilon {epsilon:g}", partial(_laplace, epsilon), methods, truth)


def _laplace(epsilon: float, canaries: int, rng: np.random.Generator) -> Audit:
    coins = rng.random(canaries) < 0.5
    noise = rng.laplace(scale=1 / epsilon if epsilon else 1.0, size=canaries)
    return coins, noise + coins * (epsilon > 0)


def response_case(epsilon: float) -> Case:
    """Returns randomized response of coins, for which the one-run bound is tight."""
    at = {"delta": 0.0, "alpha": ALPHA}
    methods = {
        "steinke": by_answers(bounds.steinke, **at),
        "clopper-pearson": by_threshold(bounds.clopper_pearson, 0.5, **at),
    }
    truth = dict.fromkeys(methods, epsilon)
    name = f"randomized response, epsilon {epsilon:g}"
    return Case(name, partial(_response, epsilon), methods, truth)


def _response(epsilon: float, canaries: int, rng: np.random.Generator) -> Audit:
    coins = rng.random(canaries) < 0.5
    told = coins == (rng.random(canaries) < 1 / (1 + math.exp(-epsilon)))
    return coins, told.astype(np.float64)


def secrets_case(epsilon: float) -> Case:
    """Returns randomized response of secrets from a large alphabet, told by rank 1 (exposure).

    Under replacement of a secret its epsilon is the one named. Under adding it to a run that tells
    a uniform one it is that of the ratio of a hit with it to one without.
    """
    accuracy = math.exp(epsilon) / (ALPHABET - 1 + math.exp(epsilon))
    bits = math.log2(ALPHABET)
    one = lru_cache(maxsize=None)(
        lambda n, hits: bounds.hits_one_run(hits=hits, canaries=n, bits=bits, alpha=ALPHA).epsilon
    )
    many = lru_cache(maxsize=None)(
        lambda n, hits: (
            bounds.hits_many_runs(hits=hits, canaries=n, bits=bits, delta=0.0, alpha=ALPHA).epsilon
        )
    )
    methods = {
        "exposure, one run": lambda coins, scores: float(one(len(coins), int(coins.sum()))),
        "exposure, many runs": lambda coins, scores: float(many(len(coins), int(coins.sum()))),
    }
    truth = {
        "exposure, one run": epsilon,
        "exposure, many runs": math.log(accuracy * ALPHABET),
    }
    name = f"response of {ALPHABET} secrets, epsilon {epsilon:g}"
    return Case(name, partial(_hits, accuracy), methods, truth)


def _hits(accuracy: float, canaries: int, rng: np.random.Generator) -> Audit:
    hits = rng.random(canaries) < accuracy
    return hits, hits.astype(np.float64)


def subsampled_case(rate: float, steps: int, sigma: float) -> Case:
    """Returns Dirac canaries in Poisson-subsampled training, told by their likelihood ratio."""
    claim = {"rate": rate, "steps": steps, "delta": DELTA, "alpha": ALPHA}
    draw = partial(sampled, rate, steps, sigma)
    scores = draw(_CALIBRATION, np.random.default_rng(70))
    # Where one in twenty canaries outside is called "in".
    threshold = float(np.quantile(scores[1][~scores[0]], 0.95))
    methods = {
        "subsampled one-run": by_guesses(bounds.subsampled_one_run, **claim),
        "subsampled": by_threshold(bounds.subsampled, threshold, **claim),
    }
    truth = dict.fromkeys(methods, epsilon_of_claim(rate, steps, sigma, DELTA))
    return Case(f"subsampled, q {rate:g}, T {steps}, sigma {sigma:g}", draw, methods, truth)


def sampled(
    rate: float, steps: int, sigma: float, canaries: int, rng: np.random.Generator
) -> Audit:
    """Returns coins and likelihood ratios of canaries in Poisson-subsampled training."""
    coins = rng.random(canaries) < 0.5
    took_part = (rng.random((steps, canaries)) < rate) & coins
    seen = sigma * rng.standard_normal((steps, canaries)) + took_part
    ratios = np.log1p(rate * np.expm1((2 * seen - 1) / (2 * sigma**2)))
    return coins, ratios.sum(0)


def chosen_case() -> Case:
    """Returns what goes wrong at epsilon 0: the best threshold, count or attack is taken."""
    at = {"delta": DELTA, "alpha": ALPHA}
    shares = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
    attacks: tuple[Callable[[Values], Values], ...] = (
        lambda x: x,
        lambda x: -x,
        np.abs,
        lambda x: -np.abs(x),
        lambda x: np.sin(9 * x),
    )
    declared = by_guesses(bounds.steinke, **at)
    methods = {
        "clopper-pearson, best threshold": best_threshold,
        "steinke, best of 9 numbers of guesses": best_of(
            [by_guesses(bounds.steinke, it, **at) for it in shares]
        ),
        "steinke, best of 5 attacks": best_of([of_attack(declared, it) for it in attacks]),
    }
    truth = dict.fromkeys(methods, 0.0)
    return Case("nothing, chosen afterwards", partial(_shifted, 0.0), methods, truth, fails=True)


def cases() -> list[Case]:
    """Returns all that are simulated."""
    return [
        *map(gaussian_case, MUS),
        *map(laplace_case, EPSILONS),
        *map(response_case, EPSILONS),
        *map(secrets_case, (0.0, 4.0, 8.0)),
        *(subsampled_case(*claim) for claim in CLAIMS),
        chosen_case(),
    ]
