"""Speech canaries: random words or real recordings, played so fast that few models follow.

A model without memory of a recording may still transcribe it, if it understands the words. Speech
that is sped up enough is hard to understand but as easy to memorize, so that a right transcript
tells of memory (Wang et al. 2023, arXiv 2310.11739).

Exposure ranks an inserted canary among references of its family that were never inserted: draw
the canaries and the references of a family together, in one call, and divide them afterwards.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import torch

from canaries.synthesis import needed
from canaries.voice import Say, Waveform, check_waveform

Recording = tuple[Waveform, str]
"""A waveform and what is said in it."""

Draw = Callable[[int, np.random.Generator], list[Recording]]
"""(n, rng) -> n recordings of one recipe."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_AT_ONCE = 256


def sped_up(waveform: Waveform, speed: float) -> Waveform:
    """[ceil(samples / speed)] the waveform played faster: shorter, and higher in pitch.

    It is resampled to 1 / speed as many samples by windowed sinc interpolation, as
    `torchaudio.functional.speed` does; what would lie beyond half the sample rate is cut off.

    Args:
        waveform: [samples], at any sample rate; the result has the same.
        speed: A multiple of 0.01; 1 gives the waveform itself back, below 1 it is slowed down.

    Raises:
        ValueError: The speed is not positive or no multiple of 0.01, or the waveform is empty,
            not of one channel or not finite.
        ModuleNotFoundError: The extra `speech` is missing.
    """
    ratio = _ratio(speed)
    check_waveform(waveform, "recording to speed up")
    return _resampled(waveform, ratio)


def random_words(vocabulary: Sequence[str], words: int, say: Say, speed: float = 1.0) -> Draw:
    """A recipe: words drawn uniformly with replacement, spoken, and sped up.

    The n recordings of a call are independent and identically distributed, hence exchangeable: any
    of them may serve as canary and the others as its references. Another n gives other recordings,
    the first ones included.

    Args:
        vocabulary: Words, all different.
        words: Words in a recording.
        say: The voice.
        speed: A multiple of 0.01.

    Raises:
        ValueError: The vocabulary has fewer than 2 words, a word twice, or an entry that is not
            one word; `words` or the speed is not positive. When drawing: n is negative.
    """
    _check_vocabulary(vocabulary)
    _check_lengths((words, words))
    ratio = _ratio(speed)

    def draw(n: int, rng: np.random.Generator) -> list[Recording]:
        found: list[Recording] = []
        for count in _counts(n):  # in parts: at their own speed all of them may not fit in memory
            texts = _texts(vocabulary, np.full(count, words), rng)
            faster = [_resampled(waveform, ratio) for waveform in say(texts, rng)]
            found += zip(faster, texts, strict=True)
        return found

    return draw


def from_recordings(pool: Sequence[Recording], speed: float = 1.0) -> Draw:
    """A recipe: recordings of a pool, each at most once, sped up.

    Drawn uniformly without replacement, in random order: exchangeable, so that any of them may
    serve as canary and the others as its references. Take the pool from data that is not trained
    on, or all of it from data that is; a mixture would not be exchangeable. Another n gives other
    recordings, the first ones included.

    Args:
        pool: Recordings and transcripts, all different.
        speed: A multiple of 0.01.

    Raises:
        ValueError: The speed is not positive. When drawing: the pool has fewer than n recordings,
            or one of them is empty, not of one channel or not finite.
    """
    ratio = _ratio(speed)

    def draw(n: int, rng: np.random.Generator) -> list[Recording]:
        if not 0 <= n <= len(pool):
            raise ValueError(
                f"found a pool of {len(pool)} recordings, expected at least {n}; enlarge the pool "
                "or ask for fewer canaries and references"
            )
        picks = rng.permutation(len(pool))[:n].tolist()
        for pick in picks:
            check_waveform(pool[pick][0], f"recording {pick} of the pool")
        return [(_resampled(pool[pick][0], ratio), pool[pick][1]) for pick in picks]

    return draw


def utterances(
    n: int,
    say: Say,
    rng: np.random.Generator,
    vocabulary: Sequence[str] = DIGITS,
    lengths: tuple[int, int] = (3, 5),
) -> list[Recording]:
    """Recordings to train on: words drawn uniformly with replacement, and so is their number.

    Args:
        n: How many.
        say: The voice.
        rng: Source of randomness.
        vocabulary: Words, all different.
        lengths: Fewest and most words of a recording, all numbers between equally likely.

    Raises:
        ValueError: As `random_words`; or the lengths are not (fewest, most) from 1.
    """
    _check_vocabulary(vocabulary)
    _check_lengths(lengths)
    found: list[Recording] = []
    for count in _counts(n):
        texts = _texts(vocabulary, rng.integers(*lengths, size=count, endpoint=True), rng)
        found += zip(say(texts, rng), texts, strict=True)
    return found


def _resampled(waveform: Waveform, ratio: Fraction) -> Waveform:
    if ratio == 1:
        return waveform
    resample = needed("torchaudio.functional").resample
    samples = torch.tensor(waveform, dtype=torch.float32)
    faster: Waveform = resample(samples, ratio.numerator, ratio.denominator).numpy()
    return faster


def _texts(vocabulary: Sequence[str], lengths: np.ndarray, rng: np.random.Generator) -> list[str]:
    words = [vocabulary[word] for word in rng.integers(len(vocabulary), size=lengths.sum())]
    ends = np.cumsum(lengths).tolist()
    return [" ".join(words[end - n : end]) for end, n in zip(ends, lengths, strict=True)]


def _counts(n: int) -> list[int]:
    if n < 0:
        raise ValueError(f"found n={n}; expected 0 or more recordings")
    return [min(_AT_ONCE, n - start) for start in range(0, n, _AT_ONCE)]


def _ratio(speed: float) -> Fraction:
    """The speed in hundredths, exactly: torchaudio's own rounds 1.15 down and takes it for 1.1499.

    A speed that is no simple fraction would need a filter of gigabytes.
    """
    if not 0 < speed < np.inf or abs(speed - round(speed * 100) / 100) > 1e-9:
        raise ValueError(f"found speed {speed}; expected a positive multiple of 0.01")
    return Fraction(round(speed * 100), 100)


def _check_vocabulary(vocabulary: Sequence[str]) -> None:
    if len(vocabulary) < 2 or len(set(vocabulary)) < len(vocabulary):
        raise ValueError(
            f"found {len(vocabulary)} words, {len(set(vocabulary))} of them different; expected 2 "
            "or more, each once"
        )
    if wrong := [word for word in vocabulary if word.split() != [word]]:
        raise ValueError(f"found {wrong[0]!r} in the vocabulary; expected one word")


def _check_lengths(lengths: tuple[int, int]) -> None:
    if not 1 <= lengths[0] <= lengths[1]:
        raise ValueError(f"found {lengths} words in a recording; expected (fewest, most) from 1")
