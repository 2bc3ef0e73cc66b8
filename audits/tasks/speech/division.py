"""Recordings divided into the parts of a corpus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from audits.tasks.speech.corpus import Corpus, words_of
from audits.tasks.speech.digit_strings import divided_digits
from audits.tasks.speech.recordings import Recording, Recordings
from audits.tasks.speech.records import Utterance

_HELD = 500  # recordings at most in each part that is held out
_LEAST = 10
_PARTS = ("train", "validation", "test")


def corpus_of(recordings: Recordings, limit: int | None = None) -> Corpus:
    """Returns the corpus of what was read; spoken digits become strings of digits.

    A split that the data have is kept. Of what is left to train on, a fixed random tenth (500 at
    most) makes each part that is missing, and another the pool for canaries.

    Args:
        recordings: see `recordings.read`.
        limit: how many utterances to train on at most, a fixed random choice; None for all. The
            other parts do not depend on it.

    Raises:
        ValueError: fewer than ten recordings to train on, some that say their split beside some
            that don't, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"The limit is {limit} training records: expected at least 1.")
    if recordings.digits:
        return divided_digits(recordings, limit)
    parts = _parts(recordings.items)
    train = parts["train"][:limit]
    return Corpus(
        train=train,
        validation=parts["validation"],
        test=parts["test"],
        pool=parts["pool"],
        sample_rate=recordings.sample_rate,
        words=words_of(train),
        # A word's being there tells of the records, and no epsilon covers it.
        facts=dict(recordings.facts)
        | {"vocabulary": "words of the training transcripts, outside of any claim"},
    )


def _parts(items: Sequence[Recording]) -> dict[str, list[Utterance]]:
    """Returns train (in a fixed random order), validation, test and pool."""
    told = [item for item in items if item.split]
    if told and len(told) < len(items):
        raise ValueError(
            f"{len(told)} of {len(items)} recordings say which split they belong to: expected all "
            "or none."
        )
    parts: dict[str, list[Utterance]] = defaultdict(list)
    for item in items:
        parts[item.split or "train"].append((item.waveform, item.text))
    if (many := len(parts["train"])) < _LEAST:
        raise ValueError(
            f"Found {many} recordings to train on, and {len(items) - many} for validation or test: "
            f"expected at least {_LEAST} to train on."
        )
    order = np.random.default_rng(0).permutation(many).tolist()
    rest = [parts["train"][i] for i in order]
    held = min(_HELD, many // 10)
    for name in (*(part for part in _PARTS if not parts[part]), "pool"):
        parts[name], rest = rest[:held], rest[held:]
    return {**parts, "train": rest}
