"""Secret formats in tokens: fixed ones, and holes with the tokens that each may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layout", "LogProbs", "Slot", "alphabets_of", "filling_of", "lay_out", "space_size"]

# Prefixes of tokens [n, t] int64 -> log-probabilities [n, V] of the token that comes next.
LogProbs = Callable[[Tensor], Tensor]
# A fixed token, or a hole: the tokens it may take.
Slot = int | Sequence[int]

# Log-probabilities exceed 0 by no more than this, from rounding in half precision.
ROUNDING = 0.01


@dataclass(frozen=True)
class Layout:
    """A format behind its prefix.

    Attributes:
        template: All tokens [t0 + slots], 0 in the holes.
        places: Where each hole is in the template.
        alphabets: The tokens that each hole may take.
    """

    template: Tensor
    places: tuple[int, ...]
    alphabets: tuple[Tensor, ...]

    def next_losses(self, log_probs: LogProbs, filled: Tensor) -> Tensor:
        """-log p of every token of the next hole [n, |A|] float64, after the tokens [n, d] before.

        Raises:
            ValueError: The log-probabilities have another shape, are NaN or lie above 0.
        """
        depth = filled.shape[1]
        alphabet = self.alphabets[depth]
        prefixes = self.template[: self.places[depth]].repeat(len(filled), 1)
        prefixes[:, list(self.places[:depth])] = filled
        with torch.no_grad():
            scores = log_probs(prefixes)
        needed = int(alphabet.max()) + 1
        if scores.dim() != 2 or len(scores) != len(filled) or scores.shape[1] < needed:
            raise ValueError(
                f"log_probs returned shape {tuple(scores.shape)} for {len(filled)} prefixes; "
                f"expected [{len(filled)}, V] with V >= {needed}: one row a prefix, for the next "
                "token only."
            )
        chosen = scores[:, alphabet.to(scores.device)].to(filled.device, torch.float64)
        if chosen.isnan().any():
            raise ValueError("log_probs returned NaN; a diverged model has no ranking.")
        if (chosen > ROUNDING).any():
            raise ValueError(
                f"log_probs returned {float(chosen.max()):.3g}; log-probabilities are at most 0: "
                "apply log_softmax to the logits."
            )
        return (-chosen).clamp(min=0)


def lay_out(prefix: Sequence[int] | Tensor, slots: Sequence[Slot]) -> Layout:
    """The format behind its prefix, on the device of `prefix`.

    Raises:
        ValueError: There is no prefix or no hole, or a hole is empty or repeats a token.
    """
    context = torch.as_tensor(prefix, dtype=torch.int64).reshape(-1)
    if len(context) == 0:
        raise ValueError("prefix is empty; expected at least one token, as one for start of text.")
    fixed = context.new_tensor([slot if isinstance(slot, int) else 0 for slot in slots])
    places = [i for i, slot in enumerate(slots) if not isinstance(slot, int)]
    return Layout(
        torch.cat([context, fixed]),
        tuple(len(context) + place for place in places),
        tuple(context.new_tensor(alphabet) for alphabet in alphabets_of(slots)),
    )


def alphabets_of(slots: Sequence[Slot]) -> list[list[int]]:
    """The tokens of each hole.

    Raises:
        ValueError: There is no hole, or a hole is empty or repeats a token.
    """
    alphabets = [list(slot) for slot in slots if not isinstance(slot, int)]
    if not alphabets:
        raise ValueError(f"The format of {len(slots)} slots has no hole; expected at least one.")
    for position, alphabet in enumerate(alphabets):
        if not alphabet or len(set(alphabet)) < len(alphabet) or min(alphabet) < 0:
            raise ValueError(
                f"Hole {position} takes {alphabet}; expected different tokens, one or more."
            )
    return alphabets


def filling_of(slots: Sequence[Slot], filling: Sequence[int]) -> list[int]:
    """The number of each token of a filling in its hole's alphabet.

    Raises:
        ValueError: The number of tokens is not the number of holes, or a hole cannot take a token.
    """
    alphabets = alphabets_of(slots)
    if len(filling) != len(alphabets):
        raise ValueError(
            f"filling has {len(filling)} tokens; the format has {len(alphabets)} holes."
        )
    for position, (token, alphabet) in enumerate(zip(filling, alphabets, strict=True)):
        if token not in alphabet:
            raise ValueError(
                f"Hole {position} cannot take token {token}; expected one of {alphabet}."
            )
    return [alphabet.index(token) for token, alphabet in zip(filling, alphabets, strict=True)]


def space_size(slots: Sequence[Slot]) -> int:
    """The number of fillings |R| of a format.

    Raises:
        ValueError: There is no hole, or a hole is empty or repeats a token.
    """
    return math.prod(len(alphabet) for alphabet in alphabets_of(slots))
