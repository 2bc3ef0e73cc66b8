"""Strings of digits, put together of recordings of single ones by the same speaker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from audits.tasks.speech.corpus import Corpus, words_of
from audits.tasks.speech.recordings import Recording, Recordings
from audits.tasks.speech.records import Utterance

SHORTEST, LONGEST = 3, 5
_GAP = 0.05  # seconds between two digits
_ROUNDS = 2  # how often each recording is used to train on
_VALIDATED, _HELD = 10, 5  # every tenth recording of a speaker's digit, and every fifth


def divided_digits(recordings: Recordings, limit: int | None = None) -> Corpus:
    """Returns the corpus of spoken digits: strings of 3 to 5 by one speaker each.

    Of each speaker's recordings of a digit, one tenth is for validation and two tenths are held
    out for canaries (`pool` has them in strings, `single_words` by themselves); strings of one part
    use recordings of that part only. Each recording to train on is used twice, but for what is
    left over at the end; each of the others once.

    Args:
        recordings: single digits, each with its split and its speaker.
        limit: how many strings to train on at most, a fixed random choice; None for all.

    Raises:
        ValueError: a part with too few recordings of any speaker to make a string.
    """
    parts = _parts(recordings.items)
    rng = np.random.default_rng(0)
    gap = round(_GAP * recordings.sample_rate)
    strings = {
        name: _strings(parts[name], _ROUNDS if name == "train" else 1, gap, rng)
        for name in ("test", "validation", "pool", "train")
    }
    if short := [name for name, made in strings.items() if not made]:
        raise ValueError(
            f"The digits make no strings for {short[0]}: expected at least {SHORTEST} recordings "
            "of one speaker there (index 0 to 4 are the test part)."
        )
    train = [strings["train"][i] for i in rng.permutation(len(strings["train"]))[:limit]]
    return Corpus(
        train=train,
        validation=strings["validation"],
        test=strings["test"],
        pool=strings["pool"],
        sample_rate=recordings.sample_rate,
        words=words_of(train),
        single_words=_by_word(parts["pool"]),
        facts=dict(recordings.facts)
        | {
            "strings": f"{SHORTEST} to {LONGEST} digits by one speaker, {_GAP:g} s apart; "
            f"{len(strings['train'])} to train on, with each recording used {_ROUNDS} times",
            "parts": f"{len(train)} utterances to train on, {len(strings['validation'])} for "
            f"validation, {len(strings['test'])} to test on, {len(strings['pool'])} held out for "
            "canaries",
        },
    )


def _parts(items: Sequence[Recording]) -> dict[str, list[Recording]]:
    counted: dict[tuple[str, str], int] = defaultdict(int)
    parts: dict[str, list[Recording]] = defaultdict(list)
    for item in items:
        if item.split == "test":
            parts["test"].append(item)
            continue
        number = counted[item.speaker, item.text]
        counted[item.speaker, item.text] += 1
        held = number % _HELD == 1
        parts["validation" if number % _VALIDATED == 0 else "pool" if held else "train"].append(
            item
        )
    return parts


def _strings(
    items: Sequence[Recording], rounds: int, gap: int, rng: np.random.Generator
) -> list[Utterance]:
    """Returns strings by one speaker each, in which every recording is used once a round."""
    speakers: dict[str, list[Recording]] = defaultdict(list)
    for item in items:
        speakers[item.speaker].append(item)
    return [
        string
        for speaker in sorted(speakers)
        for _ in range(rounds)
        for string in _round(speakers[speaker], gap, rng)
    ]


def _round(items: Sequence[Recording], gap: int, rng: np.random.Generator) -> list[Utterance]:
    order, strings = rng.permutation(len(items)).tolist(), []
    while len(order) >= SHORTEST:
        size = int(rng.integers(SHORTEST, LONGEST + 1))
        chosen, order = order[:size], order[size:]
        strings.append(_joined([items[i] for i in chosen], gap))
    return strings


def _joined(items: Sequence[Recording], gap: int) -> Utterance:
    silence = np.zeros(gap, dtype=np.float32)
    pieces = [piece for item in items for piece in (silence, item.waveform)][1:]
    return np.concatenate(pieces), " ".join(item.text for item in items)


def _by_word(items: Sequence[Recording]) -> list[Mapping[str, Sequence[NDArray[np.float32]]]]:
    """Returns word -> recordings of each speaker, in the order of their names."""
    found: dict[str, dict[str, list[NDArray[np.float32]]]] = {}
    for item in sorted(items, key=lambda item: item.speaker):
        found.setdefault(item.speaker, defaultdict(list))[item.text].append(item.waveform)
    return [dict(words) for words in found.values()]
