"""Voices: texts -> waveforms, by espeak-ng or from recordings of single words."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canaries.synthesis import Utterance, spoken
from canaries.waveform_cache import cache_folder

Waveform = NDArray[np.float32]
"""[samples] in -1 to 1, one channel."""

Say = Callable[[Sequence[str], np.random.Generator], list[Waveform]]
"""(texts, rng) -> a waveform of each, spoken independently of the others, at one sample rate."""

VOICES = (
    *("en-us", "en-us+f2", "en-us+m3", "en", "en+f4", "en+m7"),
    *("en-gb-x-rp+f3", "en-gb-x-rp+m1", "en-gb-scotland", "en-gb-scotland+f1"),
)
"""Voices of espeak-ng that speak English, women's and men's."""

_PUNCTUATION = frozenset(" '\u2019-.,;:!?\"()")


def espeak(
    sample_rate: int = 16_000,
    voices: Sequence[str] = VOICES,
    rates: tuple[int, int] = (130, 210),
    pitches: tuple[int, int] = (30, 70),
    workers: int = 1,
    folder: Path | None = None,
) -> Say:
    """A voice that speaks each text in a manner drawn for it: voice, rate and pitch.

    One text in one manner has one waveform, whatever was said before and by however many workers.
    Capitals are read as small letters. espeak-ng is a C library under the GPL: it runs in processes
    of its own, never in the caller's, which fork, as Linux and macOS can. What was spoken is kept
    on disk.

    Args:
        sample_rate: Samples per second.
        voices: Of espeak-ng, for example `en-us`, or with a variant `en-us+f3`.
        rates: Slowest and fastest, words per minute, 80 to 450.
        pitches: Lowest and highest, 0 to 100; 50 is a voice's own.
        workers: Processes that speak at the same time.
        folder: Where waveforms are kept; None is `dpclip/speech` in $XDG_CACHE_HOME or ~/.cache.

    Raises:
        ValueError: A setting is out of its range. When speaking: a text has nothing to speak, or
            characters that are no plain text; there is no such voice; the folder cannot be used.
        ModuleNotFoundError: When speaking: the extra `speech` is missing.
        RuntimeError: When speaking: espeak-ng failed or died, or the system cannot fork.
    """
    if sample_rate < 1 or workers < 1:
        raise ValueError(f"found sample_rate={sample_rate}, workers={workers}; expected 1 or more")
    if not voices or not all(voices):
        raise ValueError(f"found voices {list(voices)}; expected one or more names")
    _check_range("rates", rates, 80, 450)
    _check_range("pitches", pitches, 0, 100)

    def say(texts: Sequence[str], rng: np.random.Generator) -> list[Waveform]:
        for text in texts:
            check_text(text)
        n = len(texts)
        chosen = rng.integers(0, len(voices), size=n).tolist()
        rate = rng.integers(*rates, size=n, endpoint=True).tolist()
        pitch = rng.integers(*pitches, size=n, endpoint=True).tolist()
        # espeak-ng would spell US and LA out: in a transcript of capitals those are words.
        small = [text.lower() for text in texts]
        manners = zip(small, [voices[voice] for voice in chosen], rate, pitch, strict=True)
        asked = [Utterance(*manner) for manner in manners]
        made = spoken(asked, sample_rate, folder or cache_folder(), workers)
        return [pcm.astype(np.float32) / np.float32(32768) for pcm in made]

    return say


def joined(
    speakers: Sequence[Mapping[str, Sequence[Waveform]]], sample_rate: int, gap: float = 0.05
) -> Say:
    """A voice made of recordings of single words, one after the other.

    Each text has one speaker, and each of its words one of that speaker's recordings of it, all
    drawn uniformly, with replacement.

    Args:
        speakers: For each of them word -> recordings, of the same words for all.
        sample_rate: Samples per second of all recordings.
        gap: Seconds of silence between words.

    Raises:
        ValueError: There is no speaker or no word, a speaker lacks a word that another has, a
            recording is empty or not one channel, or the gap is negative. When speaking: a text
            is empty or has a word without recordings.
    """
    if not 0 <= gap < np.inf or sample_rate < 1:
        raise ValueError(
            f"found gap={gap}, sample_rate={sample_rate}; expected a gap of 0 s or more and a "
            "positive rate"
        )
    words = _check_speakers(speakers)
    silence = np.zeros(round(gap * sample_rate), dtype=np.float32)

    def say(texts: Sequence[str], rng: np.random.Generator) -> list[Waveform]:
        return [_join(_words_of(text, words), rng) for text in texts]

    def _join(text: Sequence[str], rng: np.random.Generator) -> Waveform:
        speaker = speakers[int(rng.integers(len(speakers)))]
        pieces: list[Waveform] = []
        for word in text:
            takes = speaker[word]
            pieces += [takes[int(rng.integers(len(takes)))], silence]
        return np.concatenate(pieces[:-1], dtype=np.float32)

    return say


def check_text(text: str) -> None:
    """Refuses what espeak-ng would not read as the words that are written.

    Raises:
        ValueError: The text has no letter or digit; or a character other than letters, digits,
            spaces and plain punctuation, such as a control character or markup.
    """
    if not any(character.isalnum() for character in text):
        raise ValueError(f"found text {text!r} with nothing to speak; expected words")
    for character in text:
        plain = character.isalnum() or unicodedata.category(character)[0] == "M"
        if not plain and character not in _PUNCTUATION:
            raise ValueError(
                f"found character {character!r} in text {text!r}; expected letters, digits, spaces "
                "and plain punctuation: write out in words what should be spoken"
            )


def check_waveform(waveform: Waveform, what: str) -> None:
    """Refuses what is not sound of one channel.

    Raises:
        ValueError: The waveform is empty, of another shape than [samples], or not finite.
    """
    if waveform.ndim != 1 or not waveform.size:
        raise ValueError(
            f"{what}: found a waveform of shape {list(waveform.shape)}; expected [samples], one "
            "channel, not empty"
        )
    if not np.isfinite(waveform).all():
        raise ValueError(f"{what}: found a waveform that is not finite; read the file again")


def _check_range(name: str, found: tuple[int, int], low: int, high: int) -> None:
    if not low <= found[0] <= found[1] <= high:
        raise ValueError(f"found {name}={found}; expected (lowest, highest) in {low} to {high}")


def _check_speakers(speakers: Sequence[Mapping[str, Sequence[Waveform]]]) -> frozenset[str]:
    if not speakers or not speakers[0]:
        raise ValueError("found no recordings of words; expected word -> recordings of a speaker")
    words = frozenset(speakers[0])
    for number, speaker in enumerate(speakers):
        if different := words ^ frozenset(word for word, takes in speaker.items() if len(takes)):
            raise ValueError(
                f"speaker {number}: found other words than of speaker 0, or none of "
                f"{min(different)!r}; expected recordings of the same words for every speaker"
            )
        for word, takes in speaker.items():
            for take in takes:
                check_waveform(take, f"speaker {number}, word {word!r}")
    return words


def _words_of(text: str, words: frozenset[str]) -> list[str]:
    found = text.split()
    if not found or (unknown := [word for word in found if word not in words]):
        what = f"word {unknown[0]!r} in" if found else "no word in"
        raise ValueError(
            f"found {what} text {text!r}; there are recordings of {', '.join(sorted(words)[:20])}"
        )
    return found
