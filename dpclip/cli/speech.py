"""The speech tasks: recordings by path or spoken by espeak-ng, with sped-up canaries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from audits.tasks import Task
from audits.tasks.speech import ConformerCTC, ConvCTC, Corpus, corpus_of, read, task
from audits.tasks.speech.corpus import words_of
from canaries import stream
from canaries.speech import Draw, Recording, from_recordings, random_words, utterances
from canaries.voice import espeak, joined

TASKS: dict[str, Callable[[int], nn.Module]] = {
    "speech": ConvCTC,
    "speech_conformer": ConformerCTC,
}
OPTIONS = ("speeds", "words", "recordings", "bad")
"""What only these tasks are told."""

_RATE = 8_000
_SLOW = (80, 110)  # words per minute: sped up four times, a word has a frame for each letter still
_SPOKEN = {"train": 600, "validation": 100, "test": 200}  # utterances of three to five digits


def speech_task(config: Mapping[str, Any]) -> Task:
    """Returns the task that a cell names.

    Without data the utterances are strings of digits spoken by espeak-ng. Canaries are random words
    of the training transcripts in the same voice: espeak-ng's, or where the data has recordings of
    single words, those that are held out, one after the other.

    Args:
        config: of the cell.

    Raises:
        ModuleNotFoundError: the extra speech is not installed.
        ValueError: recordings that cannot be used, or words that are no speeds.
    """
    corpus = _corpus(config)
    facts: dict[str, str] = {}
    own: list[Recording] | None = None
    if config["recordings"] is not None:
        own, facts = _own(config, corpus)
    families = {
        f"speed{speed:g}": lambda _, speed=speed: _recipe(config["words"], corpus, own, speed)
        for speed in _speeds(config["speeds"])
    }
    made = task(corpus, families, config["references"], TASKS[config["task"]])
    return dataclasses.replace(made, name=config["task"], facts={**made.facts, **facts})


def _corpus(config: Mapping[str, Any]) -> Corpus:
    if config["data"] is None:
        return spoken(config["limit"])
    limit = config["limit"]
    return corpus_of(read(config["data"], bad=_bad(config), limit=limit), limit)


def spoken(limit: int | None = None) -> Corpus:
    """Returns strings of three to five digits in the voices of espeak-ng, always the same.

    Args:
        limit: how many to train on at most.

    Raises:
        ModuleNotFoundError: the extra speech is not installed.
    """
    say = espeak(_RATE)
    parts = {
        name: utterances(many, say, stream(0, f"speech/{name}")) for name, many in _SPOKEN.items()
    }
    train = parts["train"][:limit]
    return Corpus(
        train=train,
        validation=parts["validation"],
        test=parts["test"],
        pool=(),
        sample_rate=_RATE,
        words=words_of(train),
        facts={"voice": "espeak-ng, strings of three to five digits"},
    )


def _recipe(words: int, corpus: Corpus, own: list[Recording] | None, speed: float) -> Draw:
    """Returns the recipe of canaries of one speed.

    It is put together when canaries are drawn: a training without any asks nothing of the words.
    """

    def draw(n: int, rng: np.random.Generator) -> list[Recording]:
        if own is not None:
            return from_recordings(own, speed)(n, rng)
        if len(corpus.words) < 2:
            raise ValueError(
                f"The training transcripts have {len(corpus.words)} different words: canaries of "
                "random words need at least 2. Give recordings of your own, --recordings PATH."
            )
        say = (
            joined(corpus.single_words, corpus.sample_rate)
            if corpus.single_words
            else espeak(corpus.sample_rate, rates=_SLOW)
        )
        return random_words(corpus.words, words, say, speed)(n, rng)

    return draw


def _own(config: Mapping[str, Any], corpus: Corpus) -> tuple[list[Recording], dict[str, str]]:
    """Returns the user's recordings for canaries, and what a report should say of them."""
    path = config["recordings"]
    found = read(path, bad=_bad(config))
    if found.sample_rate != corpus.sample_rate:
        raise ValueError(
            f"--recordings {path} are at {found.sample_rate} Hz, the data at "
            f"{corpus.sample_rate} Hz: expected the same. Resample them."
        )
    held = {
        waveform.tobytes()
        for part in (corpus.train, corpus.validation, corpus.test)
        for waveform, _ in part
    }
    if both := [item.name for item in found.items if item.waveform.tobytes() in held]:
        raise ValueError(
            f"--recordings {path}: {len(both)} of {len(found.items)} are in the data as well, "
            f"{both[0]} for one. A canary that is held out must not be trained on: take other "
            "recordings, or leave these out of the data."
        )
    facts = {"canary recordings": f"{len(found.items)} of your own"}
    if "skipped" in found.facts:
        facts["canary recordings skipped"] = found.facts["skipped"]
    return [(item.waveform, item.text) for item in found.items], facts


def _bad(config: Mapping[str, Any]) -> Any:
    if config["bad"] not in ("refuse", "skip"):
        raise ValueError(f"--bad {config['bad']}: expected refuse or skip.")
    return config["bad"]


def _speeds(words: str) -> list[float]:
    try:
        found = [float(word) for word in words.split(",")]
    except ValueError:
        raise ValueError(f"--speeds {words}: expected numbers such as 1,1.5,2,4.") from None
    if len(set(found)) < len(found) or not all(0 < speed < math.inf for speed in found):
        raise ValueError(f"--speeds {words}: expected positive numbers, each once.")
    return found
