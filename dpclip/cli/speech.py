"""The speech tasks: recordings by path or spoken by espeak-ng, with sped-up canaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

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
    recipe = _recipe(config, corpus)
    families = {
        f"speed{speed:g}": lambda _, speed=speed: recipe(speed)
        for speed in _speeds(config["speeds"])
    }
    made = task(corpus, families, config["references"], TASKS[config["task"]])
    return dataclasses.replace(made, name=config["task"])


def _corpus(config: Mapping[str, Any]) -> Corpus:
    if config["data"] is None:
        return spoken(config["limit"])
    return corpus_of(read(config["data"], bad=_bad(config)), config["limit"])


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


def _recipe(config: Mapping[str, Any], corpus: Corpus) -> Callable[[float], Draw]:
    """Returns speed -> recipe of canaries."""
    if config["recordings"] is not None:
        own = _own(config, corpus.sample_rate)
        return lambda speed: from_recordings(own, speed)
    say = (
        joined(corpus.single_words, corpus.sample_rate)
        if corpus.single_words
        else espeak(corpus.sample_rate, rates=_SLOW)
    )
    return lambda speed: random_words(corpus.words, config["words"], say, speed)


def _own(config: Mapping[str, Any], sample_rate: int) -> list[Recording]:
    found = read(config["recordings"], bad=_bad(config))
    if found.sample_rate != sample_rate:
        raise ValueError(
            f"--recordings {config['recordings']} are at {found.sample_rate} Hz, the data at "
            f"{sample_rate} Hz: expected the same. Resample them."
        )
    return [(item.waveform, item.text) for item in found.items]


def _bad(config: Mapping[str, Any]) -> Any:
    if config["bad"] not in ("refuse", "skip"):
        raise ValueError(f"--bad {config['bad']}: expected refuse or skip.")
    return config["bad"]


def _speeds(words: str) -> list[float]:
    try:
        found = [float(word) for word in words.split(",")]
    except ValueError:
        raise ValueError(f"--speeds {words}: expected numbers such as 1,1.5,2,4.") from None
    if len(set(found)) < len(found):
        raise ValueError(f"--speeds {words}: expected each once.")
    return found
