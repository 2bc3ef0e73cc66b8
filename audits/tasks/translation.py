"""Task translation: sentence pairs read by path, and a small transformer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import Dataset, TensorDataset

from audits.tasks.sentence_pairs import Corpus, Pairs, read
from audits.tasks.subwords import PAD, Subwords, learn, needed, padded
from audits.tasks.task import Draw, Family, Task, scores
from audits.tasks.translator import Translator, translate

LENGTH = 29
"""Tokens of a sentence with its beginning and end; the few that are longer are cut."""

VOCABULARY = 3000
LIMIT = 20_000
_HELD = 1500  # pairs at most that are held out for canaries
_WORDS = 8  # in a sentence of random words
_COMMON = 5  # how often a word occurs that random sentences use
_BATCH = 250  # sentences decoded at once


class Sentences(TensorDataset):
    """Records (source [T] int64, target [T] int64) with the text of their translations."""

    def __init__(self, sources: Tensor, targets: Tensor, references: Sequence[str]) -> None:
        super().__init__(sources, targets)
        self.references = list(references)


class Parts(NamedTuple):
    """What is trained on, chosen with and reported, and the pairs held out for canaries."""

    train: Sentences
    validation: Sentences
    test: Sentences
    pool: Sentences


class Translations(NamedTuple):
    """The data.

    Attributes:
        parts: the pairs, in disjoint parts.
        subwords: the vocabulary of both languages.
        words: the common words of the two languages, in alphabetical order.
        facts: what a report should say of the data.
    """

    parts: Parts
    subwords: Subwords
    words: tuple[tuple[str, ...], tuple[str, ...]]
    facts: Mapping[str, str]


class Quality(NamedTuple):
    """How good translations are.

    Attributes:
        bleu: of the corpus, 0 to 100 (Papineni et al. 2002), as sacrebleu computes it.
        chrf: of the corpus, 0 to 100 (Popovic 2015).
        test_loss: mean loss of a record, `record_losses`.
    """

    bleu: float
    chrf: float
    test_loss: float


def load(
    path: str | Path, limit: int | None = LIMIT, source: str = "en", target: str = "de"
) -> Translations:
    """Returns the pairs as tokens; vocabulary and words are those of the training pairs.

    Args:
        path: see `sentence_pairs.read`.
        limit: how many pairs to train on at most, a fixed random choice; None for all.
        source: language to translate from, the ending of its files.
        target: language to translate to.

    Raises:
        ModuleNotFoundError: the library tokenizers is missing.
        ValueError: files that are missing, damaged or don't belong together; fewer than ten pairs.
    """
    corpus = read(path, source, target)
    train, pool = _divided(corpus, limit)
    subwords = learn([*train.sources, *train.targets], VOCABULARY)
    cut = 0

    def records(pairs: Pairs) -> Sentences:
        nonlocal cut
        sides = [padded(subwords.encode(texts), LENGTH) for texts in pairs]
        cut += sum(many for _, many in sides)
        return Sentences(sides[0][0], sides[1][0], pairs.targets)

    made = Parts(*map(records, (train, corpus.validation, corpus.test, pool)))
    whole = 2 * sum(len(part) for part in made)
    facts = {
        "languages": f"{source} to {target}",
        # A subword's being there tells of the records, and no epsilon covers it.
        "vocabulary": f"{subwords.size} subwords of the training pairs, outside of any claim",
        "cut": f"{cut} of {whole} sentences after {LENGTH - 2} tokens",
    }
    words = (common_words(train.sources), common_words(train.targets))
    return Translations(made, subwords, words, facts)


def _divided(corpus: Corpus, limit: int | None) -> tuple[Pairs, Pairs]:
    """Returns training pairs and the pool, which does not depend on the limit."""
    many = len(corpus.train.sources)
    if many < 10:
        raise ValueError(f"Found {many} training pairs: expected at least 10.")
    if limit is not None and limit < 1:
        raise ValueError(f"The limit is {limit} training records: expected at least 1.")
    order = np.random.default_rng(0).permutation(many).tolist()
    held = min(_HELD, many // 10)
    return corpus.train.at(order[held:][:limit]), corpus.train.at(order[:held])


def common_words(texts: Iterable[str], least: int = _COMMON) -> tuple[str, ...]:
    """Returns the words of letters alone that occur often enough, in alphabetical order."""
    counted: dict[str, int] = {}
    for text in texts:
        for word in text.split():
            counted[word] = counted.get(word, 0) + 1
    return tuple(sorted(w for w, times in counted.items() if times >= least and w.isalpha()))


def task(
    path: str | Path,
    references: int = 1000,
    limit: int | None = LIMIT,
    source: str = "en",
    target: str = "de",
) -> Task:
    """Returns the task, measured by BLEU; chrF and the loss of the test part are told beside it.

    Its canary families are `words`, sentences of random words with other random words for their
    translation, which only memory can know, and `records`, pairs that were held out, whose exposure
    is that of ordinary members of the data.

    Args:
        path: where the pairs are, see `load`.
        references: held-out records of each family that its canaries are ranked among; of
            `records` at most half the pool.
        limit: how many pairs to train on at most, None for all.
        source: language to translate from.
        target: language to translate to.

    Raises:
        ModuleNotFoundError: tokenizers or sacrebleu is missing, known before any training.
        ValueError: see `load`.
    """
    needed("sacrebleu")
    data = load(path, limit, source, target)
    half = len(data.parts.pool) // 2

    def quality(model: nn.Module, records: Dataset[Any]) -> Quality:
        return measured(model, records, data.subwords)

    return Task(
        name="translation",
        metric="bleu",
        train=data.parts.train,
        validation=data.parts.validation,
        test=data.parts.test,
        model=lambda seed: _model(seed, data.subwords.size),
        losses=record_losses,
        evaluate=lambda model, records: quality(model, records).bleu,
        optimizer=_adam,
        batch_size=64,
        epochs=2,
        lr=2e-3,
        lrs=(1e-3, 2e-3, 4e-3, 8e-3),
        families={
            "words": Family(random_words(data), record_losses, references),
            "records": Family(held_out(data.parts.pool), record_losses, min(references, half)),
        },
        facts=data.facts,
        measures=lambda model, records: quality(model, records)._asdict(),
    )


def record_losses(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Returns [B] summed losses over the public length T - 1, whatever the record holds."""
    source, target = batch
    logits, following = model(source, target[:, :-1]), target[:, 1:]
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), following.flatten(), reduction="none", ignore_index=PAD
    )
    return losses.view(following.shape).sum(1) / following.shape[1]


def measured(model: nn.Module, records: Dataset[Any], subwords: Subwords) -> Quality:
    """Returns BLEU and chrF of greedy translations, and the mean loss.

    Args:
        model: a Translator.
        records: with the texts of their translations.
        subwords: to make text of tokens.

    Raises:
        ModuleNotFoundError: the library sacrebleu is missing.
    """
    assert isinstance(records, Sentences)
    sources = records.tensors[0].split(_BATCH)
    found = [row for part in sources for row in translate(model, part, LENGTH - 1)]
    texts, references = subwords.decode(found), [records.references]
    library = needed("sacrebleu")
    return Quality(
        bleu=float(library.corpus_bleu(texts, references).score),
        chrf=float(library.corpus_chrf(texts, references).score),
        test_loss=float(scores(model, records, record_losses).mean()),
    )


def random_words(data: Translations) -> Draw:
    """Returns the recipe of eight random words whose translation is eight other random words."""

    def draw(n: int, rng: np.random.Generator) -> Sequence[Any]:
        sides = []
        for words in data.words:
            if len(words) < 2:
                raise ValueError(
                    f"The training pairs have {len(words)} words that occur {_COMMON} times: "
                    "expected at least 2 for canaries of random words. Use more pairs."
                )
            picks = rng.integers(len(words), size=(n, _WORDS))
            texts = [" ".join(words[i] for i in row) for row in picks]
            sides.append(padded(data.subwords.encode(texts), LENGTH)[0])
        return list(zip(*sides, strict=True))

    return draw


def held_out(pool: Sentences) -> Draw:
    """Returns the recipe of pairs of a pool, each at most once."""

    def draw(n: int, rng: np.random.Generator) -> Sequence[Any]:
        if n > len(pool):
            raise ValueError(
                f"Task translation has {len(pool)} pairs standing by for canaries, and {n} are "
                "needed. Use fewer canaries or references, or --families words."
            )
        return [pool[int(i)] for i in rng.choice(len(pool), n, replace=False)]

    return draw


def _model(seed: int, vocabulary: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Translator(vocabulary, LENGTH)


def _adam(parameters: Iterable[nn.Parameter], lr: float) -> Adam:
    return Adam(parameters, lr=lr, betas=(0.9, 0.98))
