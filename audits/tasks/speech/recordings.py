"""Recordings with transcripts, read by path from the layouts that such data come in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audits.tasks.speech import audio, fsdd, librispeech, manifest
from audits.tasks.speech.alphabet import normalised
from audits.tasks.speech.listing import Entry
from audits.tasks.speech.parting import check_limit, parted

_NAMED = 3  # bad files that a message names
_LONGEST = 100_000  # characters of a transcript: two hours of speech
_LAYOUTS = (
    "a folder with manifest.tsv (or a .tsv file) with columns path and text, LibriSpeech's "
    "SPEAKER/CHAPTER/*.trans.txt, or digit_speaker_index.flac"
)


class Recording(NamedTuple):
    """One utterance of a data set.

    Attributes:
        name: its file, relative to the data's folder.
        waveform: [n] float32 in [-1, 1].
        text: its transcript, see `alphabet.normalised`.
        split: train, validation or test; empty where the data does not say.
        speaker: empty where the data does not say.
    """

    name: str
    waveform: NDArray[np.float32]
    text: str
    split: str = ""
    speaker: str = ""


@dataclass(frozen=True)
class Recordings:
    """Utterances that were read, no recording twice.

    Attributes:
        items: in an order that does not depend on the file system.
        sample_rate: of all of them, in Hz.
        digits: whether they are the Free Spoken Digit Dataset, of which strings are made.
        facts: what a report should say of them.
        listed: name -> split of all that could be divided into parts, decoded or not; empty where
            these are the items.
    """

    items: Sequence[Recording]
    sample_rate: int
    digits: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)
    listed: Mapping[str, str] = field(default_factory=dict)


def read(
    path: str | Path, bad: Literal["refuse", "skip"] = "refuse", limit: int | None = None
) -> Recordings:
    """Returns the recordings of a folder or of a manifest, their waveforms in memory.

    Args:
        path: a .tsv file, or a folder: with manifest.tsv, laid out like LibriSpeech, or like the
            Free Spoken Digit Dataset. The first of these that is there counts.
        bad: "skip" leaves out what cannot be used and counts it in `facts`.
        limit: decode (and hold) no more than `corpus_of` needs for so many utterances to train on,
            and the parts held out; of the others only transcripts and headers are looked at. Spoken
            digits are decoded whole. None decodes all.

    Raises:
        ModuleNotFoundError: soundfile is missing.
        ValueError: no such folder, no layout that is known, no recordings, or with a limit those
            that `corpus_of` refuses; and unless skipped, missing or undecodable audio, other
            channels than one, another sample rate than most have, a recording that is listed
            twice, or a transcript that is empty or has other characters than letters.
    """
    if bad not in ("refuse", "skip"):
        raise ValueError(f'bad={bad!r}: expected "refuse" or "skip".')
    check_limit(limit)
    path = Path(path)
    digits, entries = _entries(path)
    problems: list[tuple[str, str]] = []
    rate, fit = _of_one_rate(_looked_at(entries, problems), problems)
    if problems and (bad == "refuse" or not fit):
        raise ValueError(_told(path, problems, len(entries), bool(fit)))
    listed = {name: entry.split for name, entry in fit.items()}
    # Parts are made of what is listed, so that they do not depend on how much is decoded.
    cut = limit is not None and not digits
    parts = parted(listed) if cut else {"train": list(fit)}
    items = _heard(fit, parts, None if digits else limit, problems)
    if problems and (bad == "refuse" or not items):
        raise ValueError(_told(path, problems, len(entries), bool(items)))
    used = f"{len(items)} used of {len(fit)}" if cut else f"{len(items)}"
    facts = {"recordings": f"{used} in the data"}
    if problems:
        facts["skipped"] = f"{len(problems)} of {len(entries)} recordings: {_some(problems)}"
    return Recordings(items, rate, digits, facts, listed)


def _entries(path: Path) -> tuple[bool, list[Entry]]:
    """Returns whether these are spoken digits, and what the layout lists."""
    if not os.path.exists(path):  # False for names that no file can have, too
        raise ValueError(f"{path} does not exist: expected {_LAYOUTS}.")
    if path.is_file():
        return False, _some_of(path, manifest.listed(path))
    if (path / manifest.NAME).is_file():
        return False, _some_of(path, manifest.listed(path / manifest.NAME))
    if found := librispeech.listed(path):
        return False, found
    if found := fsdd.listed(path):
        return True, found
    raise ValueError(f"{path} has no recordings in a layout that is known: expected {_LAYOUTS}.")


def _some_of(path: Path, entries: list[Entry]) -> list[Entry]:
    if not entries:
        raise ValueError(f"{path} lists no recordings: expected a line for each, below the header.")
    return entries


def _looked_at(
    entries: Iterable[Entry], problems: list[tuple[str, str]]
) -> dict[str, tuple[Entry, int]]:
    """Returns name -> (entry with its text normalised, sample rate), of those without problems."""
    seen: dict[str, str] = {}
    fit: dict[str, tuple[Entry, int]] = {}
    for entry in entries:
        try:
            _refuse_again(entry, seen)
            text = _text(entry.text)
            fit[entry.name] = entry._replace(text=text), audio.sample_rate(entry.file)
        except ValueError as error:
            problems.append((entry.name, str(error)))
    return fit


def _refuse_again(entry: Entry, seen: dict[str, str]) -> None:
    """Refuses a recording that was seen under any name, or remembers it."""
    keys = [key for key in (os.path.realpath(entry.file), entry.key) if key]
    if before := [seen[key] for key in keys if key in seen]:
        raise ValueError(f"it is the same recording as {before[0]}, which is listed before it")
    seen.update(dict.fromkeys(keys, entry.name))


def _text(text: str) -> str:
    if len(text) > _LONGEST:
        raise ValueError(
            f"its transcript has {len(text)} characters, expected at most {_LONGEST}: cut it into "
            "utterances"
        )
    return normalised(text)


def _of_one_rate(
    looked: Mapping[str, tuple[Entry, int]], problems: list[tuple[str, str]]
) -> tuple[int, dict[str, Entry]]:
    """Returns the most frequent sample rate and what has it; the rest goes to the problems."""
    rates = Counter(rate for _, rate in looked.values())
    most = max(rates, key=lambda rate: (rates[rate], rate), default=0)
    problems.extend(
        (
            name,
            f"its sample rate is {rate} Hz, and {rates[most]} others have {most}: resample it",
        )
        for name, (_, rate) in looked.items()
        if rate != most
    )
    return most, {name: entry for name, (entry, rate) in looked.items() if rate == most}


def _heard(
    fit: Mapping[str, Entry],
    parts: Mapping[str, Sequence[str]],
    limit: int | None,
    problems: list[tuple[str, str]],
) -> list[Recording]:
    """Returns the recordings of the parts, `limit` of train, in the order of `fit`."""
    found: dict[str, Recording] = {}
    for part, names in parts.items():
        decoded = _decoded((fit[name] for name in names), problems)
        found |= {item.name: item for item in islice(decoded, limit if part == "train" else None)}
    return [found[name] for name in fit if name in found]


def _decoded(entries: Iterable[Entry], problems: list[tuple[str, str]]) -> Iterator[Recording]:
    """Yields recordings, each decoded when it is asked for."""
    for entry in entries:
        try:
            waveform = audio.waveform(entry.file)
        except ValueError as error:
            problems.append((entry.name, str(error)))
        else:
            yield Recording(entry.name, waveform, entry.text, entry.split, entry.speaker)


def _told(path: Path, problems: Sequence[tuple[str, str]], total: int, some: bool) -> str:
    way = ' Mend or remove them, or leave them out: bad="skip", or --bad skip.' if some else ""
    return f"{path}: {len(problems)} of {total} recordings cannot be used: {_some(problems)}.{way}"


def _some(problems: Sequence[tuple[str, str]]) -> str:
    told = [f"{name}: {why}" for name, why in problems[:_NAMED]]
    return "; ".join(told) + ("; ..." if len(problems) > _NAMED else "")
