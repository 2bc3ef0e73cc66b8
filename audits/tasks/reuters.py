"""Task reuters: the topic of a news item, Reuters-21578 read by path, and a small text net."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import TensorDataset

from audits.tasks.digits import cross_entropies
from audits.tasks.labelled import Labelled, accuracy, places
from audits.tasks.reuters_sgml import Document, mod_apte
from audits.tasks.task import Draw, Task, families_of

LENGTH = 200
"""Words of a record; longer documents (one in eight) are cut, shorter ones padded."""

VOCABULARY = 5000
FREQUENT = 10
"""Topics that are kept: the most frequent of the training documents."""

_PAD, _UNKNOWN = 0, 1
_WORD = re.compile("[a-z]+")


def load(path: str | Path, topics: int | None = FREQUENT, limit: int | None = None) -> Labelled:
    """Returns the documents of the ModApte split that have exactly one topic.

    With the ten most frequent topics this is R8 (two of them, wheat and corn, never stand alone),
    with all topics R52 (Cardoso-Cachopo, "Improving methods for single-label text
    categorization", 2007): topics that no document of either part has alone are left out. Words
    are the runs of letters of title, dateline and body; the vocabulary is that of the training
    records. Records are tokens [n, 200] int64, 0 where the text has ended, 1 for other words.

    Args:
        path: see `reuters_sgml.mod_apte`.
        topics: how many of the most frequent topics to keep, None for all.
        limit: how many documents to train on at most.

    Raises:
        ValueError: nothing to read, documents without words, or fewer than two topics.
    """
    documents = mod_apte(path)
    kept, classes = _single(documents, topics)
    if len(classes) < 2:
        raise ValueError(
            f"{path}: {len(classes)} topics have documents of their own in both the training and "
            "the test part, expected at least 2. Keep more topics."
        )
    words = {split: [_words(d) for d in kept if d.split == split] for split in ("train", "test")}
    if empty := sum(not held for part in words.values() for held in part):
        raise ValueError(f"{path}: {empty} of {len(kept)} documents have no words. Remove them.")
    labels = {
        split: [classes.index(d.topics[0]) for d in kept if d.split == split] for split in words
    }
    chosen = places(len(words["train"]), limit)
    known = vocabulary(words["train"][i] for i in chosen.train)

    def records(split: str, which: Sequence[int]) -> TensorDataset:
        rows = torch.stack([_tokens(words[split][i], known) for i in which])
        return TensorDataset(rows, torch.tensor([labels[split][i] for i in which]))

    train, validation, pool = (records("train", which) for which in chosen)
    facts = {
        "topics": f"{len(classes)}: {', '.join(classes)}",
        # A word's being there tells of the records, and no epsilon covers it.
        "vocabulary": f"{len(known)} words of the training records, outside of any claim",
    }
    test = records("test", range(len(words["test"])))
    return Labelled(train, validation, pool, test, classes, facts)


def _single(
    documents: Sequence[Document], topics: int | None
) -> tuple[list[Document], tuple[str, ...]]:
    """Returns the documents of one topic alone, and these topics, the most frequent first."""
    counted = Counter(t for d in documents if d.split == "train" for t in d.topics)
    frequent = sorted(counted, key=lambda topic: (-counted[topic], topic))[:topics]
    alone = {
        split: {d.topics[0] for d in documents if d.split == split and len(d.topics) == 1}
        for split in ("train", "test")
    }
    classes = tuple(t for t in frequent if t in alone["train"] & alone["test"])
    return [d for d in documents if len(d.topics) == 1 and d.topics[0] in classes], classes


def _words(document: Document) -> list[str]:
    return _WORD.findall(document.text.lower())


def vocabulary(texts: Iterable[Sequence[str]], size: int = VOCABULARY) -> dict[str, int]:
    """Returns word -> token, from 2, of the words that the most texts use."""
    used = Counter(word for text in texts for word in set(text))
    ranked = sorted(used, key=lambda word: (-used[word], word))[:size]
    return {word: token for token, word in enumerate(ranked, start=_UNKNOWN + 1)}


def _tokens(words: Sequence[str], known: Mapping[str, int]) -> Tensor:
    tokens = torch.full((LENGTH,), _PAD)
    cut = [known.get(word, _UNKNOWN) for word in words[:LENGTH]]
    tokens[: len(cut)] = torch.tensor(cut)
    return tokens


def task(
    path: str | Path,
    recipes: Mapping[str, Callable[[Labelled], Draw]],
    references: int = 1000,
    topics: int | None = FREQUENT,
    limit: int | None = None,
) -> Task:
    """Returns the task.

    Args:
        path: where the collection is, see `load`.
        recipes: canary family -> (data -> recipe), e.g. mislabelled documents of the pool.
        references: held-out records of each family that its canaries are ranked among.
        topics: how many of the most frequent topics to keep, None for all.
        limit: how many documents to train on at most.
    """
    data = load(path, topics, limit)
    return Task(
        name="reuters" if topics == FREQUENT else f"reuters{len(data.classes)}",
        metric="acc",
        train=data.train,
        validation=data.validation,
        test=data.test,
        model=lambda seed: _model(seed, len(data.classes)),
        losses=cross_entropies,
        evaluate=accuracy,
        optimizer=_adam,
        batch_size=64,
        epochs=6,
        lr=8e-3,
        lrs=(2e-3, 8e-3, 3.2e-2),
        families=families_of(recipes, data, cross_entropies, references),
        facts=data.facts,
        features="dense",
    )


class TextNet(nn.Module):
    """The mean of word embeddings, a dense layer, classes: [B, T] int64 -> logits [B, classes].

    The output of `dense` describes a document, for methods that group records by features.
    """

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(VOCABULARY + 2, width, mode="mean", padding_idx=_PAD)
        self.dense = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the logits of every class."""
        return self.head(self.dense(self.words(tokens)).relu())  # type: ignore[no-any-return]


def _model(seed: int, classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextNet(classes)


def _adam(parameters: Iterable[nn.Parameter], lr: float) -> Adam:
    return Adam(parameters, lr=lr)
