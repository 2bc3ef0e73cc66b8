from collections import Counter

import numpy as np
import pytest

from audits.tasks.speech.corpus import Corpus, words_of
from audits.tasks.speech.division import corpus_of
from audits.tasks.speech.fsdd import WORDS
from audits.tasks.speech.recordings import Recording, Recordings
from audits.tasks.speech.records import Utterance

RATE = 8000
GAP = 400


def read(splits: str) -> Recordings:
    """One recording for each letter of t(rain), v(alidation), (t)e(st) or - for none."""
    names = {"t": "train", "v": "validation", "e": "test", "-": ""}
    items = [
        Recording(f"{i}.wav", np.full(10, i + 1, np.float32), f"word {'ab'[i % 2]}", names[split])
        for i, split in enumerate(splits)
    ]
    return Recordings(items, RATE, facts={"recordings": "some"})


def marks(part: object) -> list[float]:
    return [float(waveform[0]) for waveform, _ in part]  # type: ignore[attr-defined]


def test_parts_that_are_missing_are_a_fixed_tenth_each() -> None:
    corpus = corpus_of(read("-" * 50))
    parts = [marks(p) for p in (corpus.train, corpus.validation, corpus.test)]
    assert [len(part) for part in parts] == [40, 5, 5]
    assert sorted(mark for part in parts for mark in part) == list(range(1, 51))
    assert marks(corpus_of(read("-" * 50)).train) == parts[0] != sorted(parts[0])
    assert corpus.sample_rate == RATE
    assert corpus.single_words == corpus.pool == ()
    assert set(corpus.facts) == {"recordings", "vocabulary", "parts"}
    assert corpus.facts["parts"].startswith("40 utterances to train on, 5 for validation, 5 to ")


def test_splits_that_the_data_have_are_kept() -> None:
    corpus = corpus_of(read("e" * 4 + "t" * 20 + "v" * 3))
    assert marks(corpus.test) == [1, 2, 3, 4]
    assert marks(corpus.validation) == [25, 26, 27]
    assert sorted(marks(corpus.train)) == list(range(5, 25))
    without = corpus_of(read("e" * 4 + "t" * 20))
    assert marks(without.test) == [1, 2, 3, 4]
    assert (len(without.validation), len(without.train)) == (2, 18)


def test_a_limit_leaves_the_other_parts_as_they_are() -> None:
    whole, few = corpus_of(read("-" * 50)), corpus_of(read("-" * 50), limit=3)
    assert marks(few.train) == marks(whole.train)[:3]
    assert marks(few.test) == marks(whole.test)
    assert few.facts["parts"].startswith("3 utterances to train on, 5 for")
    with pytest.raises(ValueError, match="limit is 0"):
        corpus_of(read("-" * 50), limit=0)


def test_too_few_recordings_or_half_a_split_are_refused() -> None:
    with pytest.raises(ValueError, match="Found 9 recordings to train on, and 5 for"):
        corpus_of(read("t" * 9 + "e" * 5))
    with pytest.raises(ValueError, match="10 of 12 recordings say which split"):
        corpus_of(read("t" * 10 + "--"))


def test_parts_are_of_what_is_listed() -> None:
    """What turned out to be bad while it was decoded is missing from its part, and that is all."""
    whole = read("-" * 50)
    listed = {item.name: item.split for item in whole.items}
    part = Recordings(whole.items[7:], RATE, listed=listed)
    for found, full in zip(
        (corpus_of(part).train, corpus_of(part).validation, corpus_of(part).test),
        (corpus_of(whole).train, corpus_of(whole).validation, corpus_of(whole).test),
        strict=True,
    ):
        assert marks(found) == [mark for mark in marks(full) if mark > 7]
    few = Recordings(whole.items[:9], RATE, listed=listed)
    with pytest.raises(ValueError, match=r"to train on that can be used: expected at least 10"):
        corpus_of(few)


def test_words_come_by_frequency() -> None:
    texts = ["b a", "b c", "a b", "d"]
    assert words_of((np.zeros(1, np.float32), text) for text in texts) == ("b", "a", "c", "d")
    many = " ".join(f"w{i}" for i in range(10_100))
    assert len(words_of([(np.zeros(1, np.float32), many)])) == 10_000


def test_a_corpus_without_a_part_is_refused() -> None:
    one = [(np.ones(1, np.float32), "a")]
    with pytest.raises(ValueError, match="no validation utterances"):
        Corpus(one, [], one, one, RATE, ("a",))


def digits(speakers: str = "xy", each: int = 30) -> Recordings:
    """Recordings of digits, each a waveform of a constant of its own."""
    items, mark = [], 0
    for speaker in speakers:
        for word in WORDS:
            for index in range(each):
                mark += 1
                split = "test" if index < 5 else "train"
                wave = np.full(20, mark, np.float32)
                items.append(Recording(f"{mark}.wav", wave, word, split, speaker))
    return Recordings(items, RATE, digits=True)


def pieces(utterance: Utterance) -> list[int]:
    """The recordings that a string is made of, by their constants."""
    waveform, text = utterance
    words = len(text.split())
    assert len(waveform) == 20 * words + GAP * (words - 1)
    starts = range(0, len(waveform), 20 + GAP)
    assert all((waveform[s + 20 : s + 20 + GAP] == 0).all() for s in starts)
    assert all((waveform[s : s + 20] == waveform[s]).all() for s in starts)
    return [int(waveform[s]) for s in starts]


def test_strings_are_digits_of_one_speaker_in_their_order() -> None:
    found, data = corpus_of(digits()), digits().items
    for part in (found.train, found.validation, found.test, found.pool):
        for utterance in part:
            used = [data[mark - 1] for mark in pieces(utterance)]
            assert 3 <= len(used) <= 5
            assert len({item.speaker for item in used}) == 1
            assert " ".join(item.text for item in used) == utterance[1]
    sizes = Counter(len(text.split()) for _, text in found.train)
    assert set(sizes) == {3, 4, 5}
    assert set(found.words) == set(WORDS)


def test_no_recording_is_in_two_parts_and_each_is_used_as_often() -> None:
    found = corpus_of(digits())
    parts = {
        name: Counter(mark for u in getattr(found, name) for mark in pieces(u))
        for name in ("train", "validation", "test", "pool")
    }
    names = list(parts)
    assert all(not parts[a] & parts[b] for a in names for b in names if a < b)
    assert all((mark - 1) % 30 < 5 for mark in parts["test"])
    # 25 recordings of each digit by two speakers are no test; a tenth (3) and two tenths (5) go.
    assert len(parts["train"]) > 0.95 * 17 * 20
    assert Counter(parts["train"].values())[2] > 0.9 * 17 * 20
    assert max(parts["train"].values()) == 2
    assert max(parts["pool"].values()) == 1


def test_single_words_of_each_speaker_are_not_trained_on() -> None:
    found, data = corpus_of(digits()), digits().items
    trained = {mark for u in (*found.train, *found.validation, *found.test) for mark in pieces(u)}
    assert len(found.single_words) == 2
    for speaker, words in zip("xy", found.single_words, strict=True):
        assert set(words) == set(WORDS)
        for word, takes in words.items():
            assert len(takes) == 5
            for take in takes:
                item = data[int(take[0]) - 1]
                assert (item.speaker, item.text) == (speaker, word)
                assert int(take[0]) not in trained


def test_limits_on_strings() -> None:
    whole, few = corpus_of(digits()), corpus_of(digits(), limit=4)
    assert few.facts["parts"] == (
        f"4 utterances to train on, {len(few.validation)} for validation, {len(few.test)} to test "
        f"on, {len(few.pool)} held out for canaries"
    )
    assert [t for _, t in few.train] == [t for _, t in whole.train][:4]
    assert [t for _, t in few.pool] == [t for _, t in whole.pool]


def test_digits_without_a_test_part_are_refused() -> None:
    items = [item for item in digits().items if item.split == "train"]
    with pytest.raises(ValueError, match="no strings for test"):
        corpus_of(Recordings(items, RATE, digits=True))
