"""A vocabulary of subwords, learned by byte pair encoding (Sennrich et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

PAD, BEGIN, END = 0, 1, 2


class Subwords(NamedTuple):
    """A vocabulary over bytes, so that every text has tokens and tokens give back the text.

    Attributes:
        tokenizer: of the library tokenizers.
        size: how many tokens there are, the three special ones among them.
    """

    tokenizer: Any
    size: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of each text, without special ones."""
        return [list(found.ids) for found in self.tokenizer.encode_batch(list(texts))]

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of tokens; special ones are left out."""
        return [text.strip() for text in self.tokenizer.decode_batch([list(t) for t in tokens])]


def needed(name: str) -> ModuleType:
    """Returns a module of the extra `translation`.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Task translation needs {name}. Install it: pip install 'dpclip[translation]'",
            name=name,
        ) from error


def learn(texts: Iterable[str], size: int) -> Subwords:
    """Returns the subwords of some texts, the same for the same texts.

    Args:
        texts: of all languages.
        size: tokens at most; 259 of them are the bytes and the special ones.

    Raises:
        ModuleNotFoundError: the library tokenizers is missing.
    """
    library = needed("tokenizers")
    model, bytewise = library.models.BPE(), library.pre_tokenizers.ByteLevel
    tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = bytewise(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["[PAD]", "[BEGIN]", "[END]"],
        initial_alphabet=bytewise.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Subwords(tokenizer, tokenizer.get_vocab_size())


def padded(tokens: Sequence[Sequence[int]], length: int) -> tuple[Tensor, int]:
    """Returns [n, length] int64 of BEGIN, tokens, END and padding, and how many texts were cut.

    Every text is as long, whatever the others are, so that no record's gradient depends on the
    longest text of its batch. Of a text that is cut END stays.
    """
    rows = torch.full((len(tokens), length), PAD)
    for row, held in zip(rows, tokens, strict=True):
        whole = [BEGIN, *held[: length - 2], END]
        row[: len(whole)] = torch.tensor(whole)
    return rows, sum(len(held) > length - 2 for held in tokens)
