"""Letters for the frames of a model: greedily, or by a beam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audits.tasks.physical import parts_of
from audits.tasks.speech import alphabet
from audits.tasks.speech.extra import needed
from audits.tasks.speech.records import PHYSICAL, collate, halved, lengths

_BATCH = 64

Decoder = Callable[[Tensor, Tensor], list[str]]
"""(log probabilities [B, T', letters], frames [B] of them) -> the text of each record."""


def greedy(log_probs: Tensor, frames: Tensor) -> list[str]:
    """Returns the text of the likeliest letter of each frame: repeats merged, blanks left out.

    Args:
        log_probs: [B, T', letters].
        frames: [B], how many of T' are the record's.
    """
    best = log_probs.argmax(2)
    before = nn.functional.pad(best[:, :-1], (1, 0), value=alphabet.BLANK)
    places = torch.arange(best.shape[1], device=best.device)
    kept = (best != before) & (best != alphabet.BLANK) & (places < frames[:, None])
    rows = zip(best.cpu(), kept.cpu(), strict=True)
    return [alphabet.text(row[keep].tolist()) for row, keep in rows]


def beam(width: int = 50) -> Decoder:
    """Returns a decoder that searches for the likeliest text, without lexicon or language model.

    Args:
        width: hypotheses that are kept at each frame, >= 1.

    Raises:
        ModuleNotFoundError: torchaudio or flashlight-text is missing.
        ValueError: a width below 1.
    """
    if width < 1:
        raise ValueError(f"The beam is {width} wide: expected at least 1.")
    needed("flashlight.lib.text.decoder")
    tokens = ["-", *("|" if letter == " " else letter for letter in alphabet.LETTERS)]
    decoder: Any = needed("torchaudio.models.decoder").ctc_decoder(
        lexicon=None,
        tokens=tokens,
        blank_token="-",
        sil_token="|",
        beam_size=width,
        beam_threshold=1e4,  # only the width limits the search
        log_add=True,
    )

    def decode(log_probs: Tensor, frames: Tensor) -> list[str]:
        found = decoder(log_probs.float().cpu().contiguous(), frames.cpu().int())
        return [_text(best[0].tokens.tolist()) for best in found]

    return decode


def _text(tokens: Sequence[int]) -> str:
    return alphabet.text([token for token in tokens if token != alphabet.BLANK])


@torch.no_grad()
def transcribe(model: nn.Module, records: Any, decoder: Decoder = greedy) -> list[str]:
    """Returns what a model in eval mode hears in each record; its mode is put back.

    Args:
        model: (features, frames) -> log probabilities.
        records: training records, of any lengths.
        decoder: `greedy`, or a `beam`.
    """
    training = model.training
    model.eval()
    texts = [""] * len(records)
    try:
        for part in parts_of(lengths(records), PHYSICAL, _BATCH):
            batch = collate([records[i] for i in part])
            found = decoder(model(batch.features, batch.frames), halved(batch.frames))
            for i, text in zip(part, found, strict=True):
                texts[i] = text
    finally:
        model.train(training)
    return texts
