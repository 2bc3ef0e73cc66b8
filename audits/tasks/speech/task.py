"""Task speech: utterances with transcripts, and a network trained by CTC."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Adam
from torch.utils.data import Dataset

from audits.tasks.physical import parts_of
from audits.tasks.speech.convolutional import ConvCTC
from audits.tasks.speech.corpus import Corpus
from audits.tasks.speech.decoding import transcribe
from audits.tasks.speech.extra import needed
from audits.tasks.speech.loss import record_losses
from audits.tasks.speech.mel import Mel
from audits.tasks.speech.mistakes import cer, record_errors, wer
from audits.tasks.speech.records import (
    PHYSICAL,
    Record,
    Utterance,
    Utterances,
    collate,
    frames_of,
    lengths,
    recorder,
    short,
    transcript,
)
from audits.tasks.task import Draw, Family, Task, scores

Speak = Callable[[int, np.random.Generator], Sequence[Utterance]]
"""(n, rng) -> n utterances (waveform, normalised text) of one recipe."""


class Hearing(NamedTuple):
    """How well a model hears.

    Attributes:
        wer: word error rate of greedy decoding, over all words.
        cer: character error rate, likewise.
        test_loss: mean loss of a record, `record_losses`.
    """

    wer: float
    cer: float
    test_loss: float


def task(
    corpus: Corpus,
    families: Mapping[str, Callable[[Corpus], Speak]],
    references: int = 1000,
    model: Callable[[int], nn.Module] = ConvCTC,
) -> Task:
    """Returns the task, measured by word error rate; character errors and loss are told beside it.

    Args:
        corpus: the data.
        families: canary family -> (corpus -> recipe of utterances); they become records in the same
            way as the data does.
        references: held-out records of each family that its canaries are ranked among.
        model: mel bands -> a fresh model; `ConvCTC`, `ConformerCTC`, or a `functools.partial` of
            one.

    Raises:
        ModuleNotFoundError: torchaudio or jiwer is missing, known before any training.
        ValueError: a sample rate below 8000 Hz.
    """
    needed("jiwer")
    mel = Mel(corpus.sample_rate)
    record = recorder(mel)

    def part(utterances: Sequence[Utterance]) -> Utterances:
        return Utterances(map(record, utterances))

    return Task(
        name="speech",
        metric="wer",
        train=part(corpus.train),
        validation=part(corpus.validation),
        test=part(corpus.test),
        model=lambda seed: _seeded(model, mel.bands, seed),
        losses=record_losses,
        evaluate=lambda net, records: _word_errors(net, records),
        optimizer=_adam,
        batch_size=16,
        epochs=8,
        lr=4e-3,
        lrs=(5e-4, 1e-3, 2e-3, 4e-3),
        families={
            name: Family(
                _recorded(recipe(corpus), record), record_losses, references, errors=record_errors
            )
            for name, recipe in families.items()
        },
        canaries=6,
        collate=collate,
        length=frames_of,
        physical_size=PHYSICAL,
        features="pooled",
        facts=dict(corpus.facts) | _facts(corpus, mel),
        measures=lambda net, records: heard(net, records)._asdict(),
    )


def heard(model: nn.Module, records: Dataset[Any]) -> Hearing:
    """Returns error rates of greedy decoding and the mean loss, of a model in eval mode.

    Args:
        model: (features, frames) -> log probabilities.
        records: training records, at least one.

    Raises:
        ModuleNotFoundError: jiwer is missing.
    """
    said, found = _texts(model, records)
    parts = parts_of(lengths(records), PHYSICAL)
    loss = float(scores(model, records, record_losses, collate, parts).mean())
    return Hearing(wer(said, found), cer(said, found), loss)


def _word_errors(model: nn.Module, records: Dataset[Any]) -> float:
    return wer(*_texts(model, records))


def _texts(model: nn.Module, records: Any) -> tuple[list[str], list[str]]:
    said = [transcript(cast(Record, records[i])) for i in range(len(records))]
    return said, transcribe(model, records)


def _recorded(speak: Speak, record: Callable[[Utterance], Record]) -> Draw:
    def draw(n: int, rng: np.random.Generator) -> Sequence[Record]:
        return [record(utterance) for utterance in speak(n, rng)]

    return draw


def _facts(corpus: Corpus, mel: Mel) -> dict[str, str]:
    seconds = sum(len(waveform) for waveform, _ in corpus.train) / corpus.sample_rate
    filled = sum(short(mel, utterance) for utterance in corpus.train)
    return {
        "utterances": f"{len(corpus.train)} to train on, {seconds / 60:.1f} minutes at "
        f"{corpus.sample_rate} Hz",
        "silence": f"added at the end of {filled} of {len(corpus.train)} utterances, which were "
        "too short for their transcripts",
    }


def _seeded(model: Callable[[int], nn.Module], bands: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(bands)


def _adam(parameters: Iterable[nn.Parameter], lr: float) -> Adam:
    return Adam(parameters, lr=lr)
