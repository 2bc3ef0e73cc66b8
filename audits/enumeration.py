"""Losses of every filling of a format under a language model, with shared prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audits.slots import LogProbs, Slot, alphabets_of, filling_of, lay_out, space_size

__all__ = ["LARGEST_SPACE", "LogProbs", "Slot", "enumerate_losses", "index_of", "space_size"]

# Fillings above which enumeration is refused: about the largest ranking worth the time.
LARGEST_SPACE = 10**7


def enumerate_losses(
    log_probs: LogProbs, prefix: Sequence[int] | Tensor, slots: Sequence[Slot], batch: int = 4096
) -> Tensor:
    """The summed loss -log p of the secret tokens, for each filling of the holes.

    Exact: for h holes with |A| tokens each the model sees 1 + |A| + ... + |A|^(h-1) prefixes,
    instead of h |A|^h. Fixed tokens after a hole extend the context and cost nothing themselves.

    Args:
        log_probs: Maps prefixes [n, t] (int64, on the device of `prefix`) to log-probabilities
            [n, V] of the next token. Called without gradients; a model that drops out at random
            must be in evaluation mode.
        prefix: Tokens [t0] before the first slot, at least one.
        slots: The format: fixed tokens and holes, each hole a list of different tokens. A byte
            string is a hole of those bytes.
        batch: Prefixes in one call.

    Returns:
        Losses in nats [|A_1| * ... * |A_h|], float64, on the device of `prefix`. The index of a
        filling is its number in mixed radix, first hole most significant (`index_of`).

    Raises:
        ValueError: There is no prefix or no hole, a hole repeats a token, there are more than
            10^7 fillings, or the log-probabilities have another shape, are NaN or lie above 0.
    """
    size = space_size(slots)
    if size > LARGEST_SPACE:
        raise ValueError(
            f"The format has {size} fillings; at most {LARGEST_SPACE} are enumerated. Use "
            "audits.extraction.search, which visits the likely ones first, or the sampled "
            "estimator, audits.exposure.sampled, with references drawn from the format."
        )
    if batch < 1:
        raise ValueError(f"batch is {batch}; expected at least 1 prefix in a call.")
    layout = lay_out(prefix, slots)
    losses = torch.zeros(1, dtype=torch.float64, device=layout.template.device)
    for depth in range(len(layout.alphabets)):
        numbers = torch.arange(len(losses), device=losses.device)
        chunks = [
            losses[part, None]
            + layout.next_losses(log_probs, _tokens(part, layout.alphabets[:depth]))
            for part in torch.split(numbers, batch)
        ]
        losses = torch.cat(chunks).reshape(-1)
    return losses


def index_of(slots: Sequence[Slot], filling: Sequence[int]) -> int:
    """The index of a filling, one token for each hole, among the losses of `enumerate_losses`.

    Raises:
        ValueError: The number of tokens is not the number of holes, or a hole cannot take a token.
    """
    index = 0
    for number, alphabet in zip(filling_of(slots, filling), alphabets_of(slots), strict=True):
        index = index * len(alphabet) + number
    return index


def _tokens(numbers: Tensor, alphabets: Sequence[Tensor]) -> Tensor:
    """The tokens [n, d] of the fillings of d holes with these numbers [n] in mixed radix."""
    tokens = numbers.new_empty(len(numbers), len(alphabets))
    for depth in reversed(range(len(alphabets))):
        alphabet = alphabets[depth]
        tokens[:, depth] = alphabet[numbers % len(alphabet)]
        numbers = numbers // len(alphabet)
    return tokens
