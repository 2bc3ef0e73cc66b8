"""Losses of every filling of a format under a language model, with shared prefixes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["LARGEST_SPACE", "LogProbs", "Slot", "enumerate_losses", "index_of", "space_size"]

# Prefixes of tokens [n, t] int64 -> log-probabilities [n, V] of the token that comes next.
LogProbs = Callable[[Tensor], Tensor]
# A fixed token, or a hole: the tokens it may take.
Slot = int | Sequence[int]

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
        Losses in nats [|A_1| * ... * |A_h|], float32, on the device of `prefix`. The index of a
        filling is its number in mixed radix, first hole most significant (`index_of`).

    Raises:
        ValueError: There is no prefix or no hole, a hole repeats a token, there are more than
            10^7 fillings, or the log-probabilities have another shape or are NaN.
    """
    size = space_size(slots)
    if size > LARGEST_SPACE:
        raise ValueError(
            f"The format has {size} fillings; at most {LARGEST_SPACE} are enumerated. Use the "
            "sampled estimator, audits.exposure.sampled, with references drawn from the format."
        )
    if batch < 1:
        raise ValueError(f"batch is {batch}; expected at least 1 prefix in a call.")
    context = torch.as_tensor(prefix, dtype=torch.int64).reshape(-1)
    if len(context) == 0:
        raise ValueError("prefix is empty; expected at least one token, as one for start of text.")
    template, holes = _layout(context, slots)
    losses = torch.zeros(1, dtype=torch.float64, device=context.device)
    with torch.no_grad():
        for depth in range(len(holes)):
            numbers = torch.arange(len(losses), device=context.device)
            chunks = [
                losses[part, None] - _next(log_probs, template, holes, depth, part)
                for part in torch.split(numbers, batch)
            ]
            losses = torch.cat(chunks).reshape(-1)
    return losses.float()


def index_of(slots: Sequence[Slot], filling: Sequence[int]) -> int:
    """The index of a filling, one token for each hole, among the losses of `enumerate_losses`.

    Raises:
        ValueError: The number of tokens is not the number of holes, or a hole cannot take a token.
    """
    alphabets = _alphabets(slots)
    if len(filling) != len(alphabets):
        raise ValueError(
            f"filling has {len(filling)} tokens; the format has {len(alphabets)} holes."
        )
    index = 0
    for position, (token, alphabet) in enumerate(zip(filling, alphabets, strict=True)):
        if token not in alphabet:
            raise ValueError(
                f"Hole {position} cannot take token {token}; expected one of {alphabet}."
            )
        index = index * len(alphabet) + alphabet.index(token)
    return index


def space_size(slots: Sequence[Slot]) -> int:
    """The number of fillings |R| of a format.

    Raises:
        ValueError: There is no hole, or a hole is empty or repeats a token.
    """
    return math.prod(len(alphabet) for alphabet in _alphabets(slots))


def _alphabets(slots: Sequence[Slot]) -> list[list[int]]:
    alphabets = [list(slot) for slot in slots if not isinstance(slot, int)]
    if not alphabets:
        raise ValueError(f"The format of {len(slots)} slots has no hole; expected at least one.")
    for position, alphabet in enumerate(alphabets):
        if not alphabet or len(set(alphabet)) < len(alphabet) or min(alphabet) < 0:
            raise ValueError(
                f"Hole {position} takes {alphabet}; expected different tokens, one or more."
            )
    return alphabets


def _layout(context: Tensor, slots: Sequence[Slot]) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """All tokens [t0 + slots], 0 in the holes, and the place and alphabet [|A|] of each hole."""
    fixed = [slot if isinstance(slot, int) else 0 for slot in slots]
    holes = [
        (len(context) + place, torch.tensor(list(slot), device=context.device))
        for place, slot in enumerate(slots)
        if not isinstance(slot, int)
    ]
    return torch.cat([context, context.new_tensor(fixed)]), holes


def _next(
    log_probs: LogProbs,
    template: Tensor,
    holes: list[tuple[int, Tensor]],
    depth: int,
    numbers: Tensor,
) -> Tensor:
    """Log-probabilities [n, |A|] at hole `depth`, given the fillings `numbers` [n] before it."""
    place, alphabet = holes[depth]
    prefixes = template[:place].repeat(len(numbers), 1)
    rest = numbers
    for earlier, tokens in reversed(holes[:depth]):
        prefixes[:, earlier] = tokens[rest % len(tokens)]
        rest = rest // len(tokens)
    scores = log_probs(prefixes)
    needed = int(alphabet.max()) + 1
    if scores.dim() != 2 or len(scores) != len(numbers) or scores.shape[1] < needed:
        raise ValueError(
            f"log_probs returned shape {tuple(scores.shape)} for {len(numbers)} prefixes; expected "
            f"[{len(numbers)}, V] with V >= {needed}: one row a prefix, for the next token only."
        )
    chosen = scores[:, alphabet.to(scores.device)].to(numbers.device, torch.float64)
    if chosen.isnan().any():
        raise ValueError("log_probs returned NaN; a diverged model has no ranking.")
    return chosen
