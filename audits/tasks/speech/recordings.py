"""Recordings with transcripts, read by path from the layouts that such data come in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audits.tasks.speech import fsdd, librispeech, manifest
from audits.tasks.speech.alphabet import normalised
from audits.tasks.speech.extra import needed
from audits.tasks.speech.listing import Entry

_NAMED = 3  # bad files that a message names
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
    """Utterances that were read.

    Attributes:
        items: in an order that does not depend on the file system.
        sample_rate: of all of them, in Hz.
        digits: whether they are the Free Spoken Digit Dataset, of which strings are made.
        facts: what a report should say of them.
    """

    items: Sequence[Recording]
    sample_rate: int
    digits: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)


def read(path: str | Path, bad: Literal["refuse", "skip"] = "refuse") -> Recordings:
    """Returns the recordings of a folder or of a manifest.

    Args:
        path: a .tsv file, or a folder: with manifest.tsv, laid out like LibriSpeech, or like the
            Free Spoken Digit Dataset. The first of these that is there counts.
        bad: "skip" leaves out what cannot be used and counts it in `facts`.

    Raises:
        ModuleNotFoundError: soundfile is missing.
        ValueError: no such folder, no layout that is known, no recordings; and unless skipped,
            missing or undecodable audio, other channels than one, another sample rate than most
            have, or a transcript that is empty or has other characters than letters.
    """
    if bad not in ("refuse", "skip"):
        raise ValueError(f'bad={bad!r}: expected "refuse" or "skip".')
    path = Path(path)
    digits, entries = _entries(path)
    problems: dict[str, str] = {}
    heard = {entry.name: found for entry in entries if (found := _heard(entry, problems))}
    _keep_one_rate(heard, problems)
    if problems and (bad == "refuse" or not heard):
        raise ValueError(_told(path, problems, len(entries), bool(heard)))
    items = [heard[entry.name][0] for entry in entries if entry.name in heard]
    facts = {"recordings": f"{len(items)} in the data"}
    if problems:
        facts["skipped"] = f"{len(problems)} of {len(entries)} recordings: {_some(problems)}"
    return Recordings(items, next(iter(heard.values()))[1], digits, facts)


def _entries(path: Path) -> tuple[bool, list[Entry]]:
    """Returns whether these are spoken digits, and what the layout lists."""
    if not path.exists():
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


def _heard(entry: Entry, problems: dict[str, str]) -> tuple[Recording, int] | None:
    """Returns (recording, sample rate), or None and what is wrong in `problems`."""
    try:
        text = normalised(entry.text)
        waveform, rate = _waveform(entry.file)
    except ValueError as error:
        problems[entry.name] = str(error)
        return None
    return Recording(entry.name, waveform, text, entry.split, entry.speaker), rate


def _waveform(file: Path) -> tuple[NDArray[np.float32], int]:
    """Returns (waveform [n], sample rate).

    Raises:
        ValueError: no such file, no sound in it, several channels, or an unreadable one.
    """
    library: Any = needed("soundfile")
    if not file.is_file():
        raise ValueError("there is no such file")
    try:
        samples, rate = library.read(file, dtype="float32", always_2d=True)
    except (library.SoundFileError, OSError) as error:
        raise ValueError(f"it cannot be decoded ({error})") from error
    if samples.shape[1] != 1:
        raise ValueError(f"it has {samples.shape[1]} channels, expected one: mix them down")
    if not np.isfinite(samples).all():
        raise ValueError("it has samples that are not finite")
    if not samples.any():
        raise ValueError(f"it has {len(samples)} samples, none of them a sound")
    return samples[:, 0].copy(), int(rate)


def _keep_one_rate(heard: dict[str, tuple[Recording, int]], problems: dict[str, str]) -> None:
    """Moves recordings of another sample rate than the most frequent one to the problems."""
    rates = Counter(rate for _, rate in heard.values())
    if len(rates) < 2:
        return
    most = max(rates, key=lambda rate: (rates[rate], rate))
    for name in [name for name, (_, rate) in heard.items() if rate != most]:
        problems[name] = (
            f"its sample rate is {heard.pop(name)[1]} Hz, and {rates[most]} others have {most}: "
            "resample it"
        )


def _told(path: Path, problems: Mapping[str, str], total: int, some: bool) -> str:
    way = ' Mend or remove them, or leave them out with bad="skip".' if some else ""
    return f"{path}: {len(problems)} of {total} recordings cannot be used: {_some(problems)}.{way}"


def _some(problems: Mapping[str, str]) -> str:
    told = [f"{name}: {why}" for name, why in list(problems.items())[:_NAMED]]
    return "; ".join(told) + ("; ..." if len(problems) > _NAMED else "")
