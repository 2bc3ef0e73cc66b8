"""Signals of one model that a record was trained on; higher = more member-like.

They are pure functions of logits, losses or per-token log probabilities, of one record or of many.
numpy arrays, torch tensors and lists are taken; float64 is returned.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logsumexp

from audits.intervals import Scores, check_scores
from audits.membership.sides import finite

LEVEL: Final = 6  # of zlib; published figures use its default
ROUNDING: Final = 1e-9  # .07 * 100 is 7.000000000000001, and 8 tokens would be one too many
NORMALISED: Final = 0.02  # bfloat16 log probabilities of a whole vocabulary sum to 1 within this


def stable_logit(logits: Scores, labels: Any) -> NDArray[np.float64]:
    """The logit of the right class's probability, [n]: `z_y - log sum_{j != y} exp z_j`.

    `log(p / (1 - p))` without the loss of digits in 1 - p (Carlini et al. 2022).

    Args:
        logits: [n, k], at least two classes.
        labels: [n] integers in 0..k-1.

    Raises:
        ValueError: Not finite, other shapes, or labels that are no classes.
    """
    z, y = finite("logits", logits), _integers("labels", labels)
    if z.ndim != 2 or z.shape[1] < 2 or y.shape != z.shape[:1]:
        raise ValueError(
            f"logits have shape {z.shape} and labels {y.shape}; expected [n, k] with k >= 2, and "
            "[n]."
        )
    _check_classes("labels", y, z.shape[1])
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    return np.asarray(z[rows, y] - logsumexp(others, axis=1), np.float64)


def log_confidence(phi: Scores) -> NDArray[np.float64]:
    """The log probability of the right class, from its stable logit: `-log(1 + e^-phi)`."""
    return np.asarray(log_expit(finite("phi", phi)))


def loss(nll: Scores) -> NDArray[np.float64]:
    """Minus the loss: a member's loss is low, so its score is high (Yeom et al. 2018).

    Args:
        nll: Mean negative log likelihood of each record, any shape; for a text the mean over its
            tokens.

    Raises:
        ValueError: Not finite.
    """
    return -finite("nll", nll)


def reference(nll: Scores, reference_nll: Scores) -> NDArray[np.float64]:
    """How much lower the loss is than a reference's: `NLL_ref - NLL` (Carlini et al. 2021).

    The reference is the base checkpoint, the model before training, or models without the record.

    Raises:
        ValueError: Not finite, or shapes that differ.
    """
    mine, theirs = finite("nll", nll), finite("reference_nll", reference_nll)
    if mine.shape != theirs.shape:
        raise ValueError(
            f"nll has shape {mine.shape} and reference_nll {theirs.shape}; expected the same "
            "records in the same order."
        )
    return np.asarray(theirs - mine)


def zlib_ratio(nll_sum: Scores, texts: Sequence[str]) -> NDArray[np.float64]:
    """Minus the summed loss per byte of the compressed text, [n] (Carlini et al. 2021).

    Args:
        nll_sum: [n] negative log likelihoods, summed over the tokens of each text.
        texts: [n] texts, compressed as UTF-8 at zlib's level 6.

    Raises:
        ValueError: Not finite, or not one text for each loss.
    """
    total = finite("nll_sum", nll_sum)
    if isinstance(texts, str) or total.shape != (len(texts),):
        found = "one string" if isinstance(texts, str) else f"{len(texts)} texts"
        raise ValueError(
            f"nll_sum has shape {total.shape} and there is {found}; expected [n] each."
        )
    sizes = np.array([len(zlib.compress(text.encode(), LEVEL)) for text in texts])
    return np.asarray(-total / sizes)


def min_k(log_probs: Scores, k: float = 0.2) -> float:
    """The mean of one text's max(1, ceil(k T)) lowest token log probabilities (Shi et al. 2024).

    Args:
        log_probs: [T] log probability of each token given those before it.
        k: Share of the tokens, in (0, 1].

    Raises:
        ValueError: Not finite or above 0, not [T], or k outside (0, 1].
    """
    values = finite("log_probs", log_probs)
    if values.ndim != 1 or (values > 0).any():
        raise ValueError(
            f"log_probs have shape {values.shape} and a maximum of {values.max():g}; expected [T] "
            "log probabilities of one text, at most 0."
        )
    return _mean_of_lowest(values, k)


def min_k_plus_plus(log_probs: Scores, tokens: Any, k: float = 0.2) -> float:
    """The mean of one text's max(1, ceil(k T)) lowest `token_z` (Zhang et al. 2025).

    Arguments and errors as in `token_z` and `min_k`.
    """
    return _mean_of_lowest(token_z(log_probs, tokens), k)


def token_z(log_probs: Scores, tokens: Any) -> NDArray[np.float64]:
    """Each token's log probability in standard deviations from the vocabulary's mean, [T].

    `(log p(x_t) - mu_t) / sigma_t` with the mean and the standard deviation of log p under p
    itself. A distribution without spread has z = 0: then every token is as likely as expected.

    Args:
        log_probs: [T, V] log softmax at each position; minus infinity for excluded tokens.
        tokens: [T] the tokens that came.

    Raises:
        ValueError: Other shapes, rows that don't sum to 1, or tokens that are not in the
            vocabulary or have probability 0.
    """
    table, came = check_scores("log_probs", log_probs), _integers("tokens", tokens)
    if table.ndim != 2 or came.shape != table.shape[:1]:
        raise ValueError(
            f"log_probs have shape {table.shape} and tokens {came.shape}; expected [T, V] and [T]."
        )
    _check_classes("tokens", came, table.shape[1])
    worst = float(np.abs(np.exp(logsumexp(table, axis=1)) - 1).max())
    if not worst < NORMALISED:
        raise ValueError(
            f"Probabilities sum to 1 +- {worst:g}; expected a log softmax over the vocabulary."
        )
    mine = finite("log probabilities of the tokens", table[np.arange(len(table)), came])
    p = np.exp(table)
    known = np.where(p > 0, table, 0.0)  # 0 log 0 = 0
    mean = (p * known).sum(1)
    spread = np.sqrt((p * (known - mean[:, None]) ** 2).sum(1))
    flat = spread < ROUNDING
    return np.where(flat, 0.0, (mine - mean) / np.where(flat, 1.0, spread))


def _mean_of_lowest(values: NDArray[np.float64], k: float) -> float:
    if not 0 < k <= 1:
        raise ValueError(f"k is {k}; expected a share of the tokens in (0, 1], as .2.")
    count = max(1, math.ceil(k * len(values) - ROUNDING))
    return float(np.sort(values)[:count].mean())


def _integers(name: str, values: Any) -> NDArray[np.int64]:
    found = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if found.dtype.kind not in "iu":
        raise ValueError(f"{name} have type {found.dtype}; expected integers.")
    return found.astype(np.int64)


def _check_classes(name: str, found: NDArray[np.int64], classes: int) -> None:
    if ((found < 0) | (found >= classes)).any():
        raise ValueError(
            f"{name} reach from {found.min()} to {found.max()}; expected 0 to {classes - 1}."
        )
