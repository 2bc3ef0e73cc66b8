import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from canaries import DIGITS, espeak, from_recordings, random_words, sped_up, speech, stream
from canaries import utterances as spoken_utterances
from canaries.speech import Draw, Recording
from canaries.voice import Waveform

WORDS = ("a", "b", "c")


def tones(texts: Sequence[str], rng: np.random.Generator) -> list[Waveform]:
    """A voice: a number for each word, and one for the manner."""
    return [
        np.array([*(WORDS.index(word) for word in text.split()), rng.random()], dtype=np.float32)
        for text in texts
    ]


def noise(samples: int, rate: int, highest: float) -> Waveform:
    """Noise of frequencies up to the highest, in Hz."""
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    phases = stream(0, "noise").uniform(0, 2 * np.pi, len(frequencies))
    heights = np.where((frequencies > 100) & (frequencies < highest), 1.0, 0.0)
    wave = np.fft.irfft(heights * np.exp(1j * phases), samples)
    return (wave / np.abs(wave).max()).astype(np.float32)


def centroid(wave: Waveform, rate: int) -> float:
    """The mean frequency in Hz, by power."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float((power * np.fft.rfftfreq(len(wave), 1 / rate)).sum() / power.sum())


@pytest.mark.parametrize("speed", [0.5, 1.15, 2.0, 3.7, 4.0])
def test_faster_is_shorter_and_higher(speed: float) -> None:
    pytest.importorskip("torchaudio", reason="needs the extra speech")
    wave = noise(16_001, 16_000, highest=1500)
    faster = sped_up(wave, speed)
    assert len(faster) == np.ceil(16_001 / speed)
    assert faster.dtype == np.float32
    assert centroid(faster, 16_000) == pytest.approx(speed * centroid(wave, 16_000), rel=0.01)
    # Every tone below half the rate is kept at its height.
    assert faster.std() == pytest.approx(wave.std(), rel=0.02)


@pytest.mark.parametrize("speed", [0.5, 1.5, 2.0, 4.0])
def test_speed_is_torchaudios(speed: float) -> None:
    functional = pytest.importorskip("torchaudio.functional", reason="needs the extra speech")
    wave = noise(8_000, 16_000, highest=7000)
    expected = functional.speed(torch.from_numpy(wave), 16_000, speed)[0]
    assert np.array_equal(sped_up(wave, speed), expected.numpy())


def test_speed_one_needs_no_work_and_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    wave = noise(100, 16_000, highest=7000)
    assert sped_up(wave, 1.0) is wave
    with pytest.raises(ModuleNotFoundError, match=r"torchaudio.*pip install 'dpclip\[speech\]'"):
        sped_up(wave, 2.0)


def test_the_waveform_itself_is_left_alone() -> None:
    pytest.importorskip("torchaudio", reason="needs the extra speech")
    wave = noise(100, 16_000, highest=7000)
    wave.flags.writeable = False
    assert np.array_equal(sped_up(wave, 2.0), sped_up(wave.copy(), 2.0))


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf"), 1.234, 0.001])
def test_refuses_speeds(speed: float) -> None:
    told = f"found speed {speed}; expected a positive multiple of 0.01"
    with pytest.raises(ValueError, match=told):
        sped_up(np.ones(9, np.float32), speed)
    with pytest.raises(ValueError, match=told):
        random_words(WORDS, 2, tones, speed)
    with pytest.raises(ValueError, match=told):
        from_recordings([], speed)


@pytest.mark.parametrize(
    ("wave", "told"),
    [
        (np.zeros(0, np.float32), r"shape \[0\]"),
        (np.zeros((1, 9), np.float32), r"shape \[1, 9\]"),
        (np.full(9, np.inf, np.float32), "not finite"),
    ],
)
def test_refuses_what_is_no_sound(wave: Waveform, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sped_up(wave, 2.0)
    with pytest.raises(ValueError, match="recording 0 of the pool: .*" + told):
        from_recordings([(wave, "a")])(1, stream(0, "test"))


def test_waveforms_hold_the_words_of_their_texts() -> None:
    found = random_words(WORDS, 4, tones)(600, stream(0, "test"))
    assert len(found) == 600
    for wave, text in found:
        assert wave[:-1].tolist() == [WORDS.index(word) for word in text.split()]
        assert len(text.split()) == 4


def alike(draw: Draw, places: int, draws: int) -> None:
    """Checks that every place of a draw is as likely to hold the lowest, second lowest, and so on.

    Two different statistics of a record are ranked: what is said, and the manner.
    """
    rng = stream(0, "test")
    found = [draw(places, rng) for _ in range(draws)]
    ties = rng.random((draws, places))
    said = [[float(wave[:-1].sum()) for wave, _ in records] for records in found]
    manner = [[float(wave[-1]) for wave, _ in records] for records in found]
    for statistic in (said, manner):
        order = np.lexsort((ties, np.array(statistic)))  # [draws, places]
        for rank in range(places):
            assert chisquare(np.bincount(order[:, rank], minlength=places)).pvalue > 1e-3 / 2


def test_canaries_and_references_are_exchangeable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "_AT_ONCE", 2)  # so that a draw has several parts
    alike(random_words(WORDS, 2, tones), places=5, draws=2000)
    pool = list(zip(tones(WORDS * 2, stream(1, "pool")), "abcdef", strict=True))
    alike(from_recordings(pool), places=5, draws=2000)


def test_words_are_uniform_and_independent_of_each_other() -> None:
    draw = random_words(WORDS, 2, tones)
    rng = stream(0, "test")
    texts = [" ".join(text for _, text in draw(2, rng)).split() for _ in range(4000)]
    codes = np.array([[WORDS.index(word) for word in text] for text in texts]) @ 3 ** np.arange(4)
    assert chisquare(np.bincount(codes, minlength=81)).pvalue > 1e-3


def test_a_draw_repeats_with_its_seed_and_only_with_it() -> None:
    draw = random_words(WORDS, 3, tones)
    first, again, other = (
        [wave.tolist() for wave, _ in draw(9, stream(s, "t"))] for s in (0, 0, 1)
    )
    assert first == again != other


def test_recordings_are_drawn_without_replacement_and_sped_up() -> None:
    pytest.importorskip("torchaudio", reason="needs the extra speech")
    pool: list[Recording] = [(np.full(100, i / 10, np.float32), str(i)) for i in range(5)]
    found = from_recordings(pool, 2.0)(5, stream(0, "test"))
    assert sorted(text for _, text in found) == list("01234")
    for wave, text in found:
        assert len(wave) == 50
        assert wave[25] == pytest.approx(int(text) / 10, abs=1e-2)
    assert from_recordings(pool)(0, stream(0, "test")) == []


@pytest.mark.parametrize("n", [6, -1])
def test_says_how_many_recordings_the_pool_has(n: int) -> None:
    pool: list[Recording] = [(np.ones(9, np.float32), "a")] * 5
    with pytest.raises(ValueError, match=f"pool of 5 recordings, expected at least {n}|n={n}"):
        from_recordings(pool)(n, stream(0, "test"))


def test_utterances_to_train_on_have_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "_AT_ONCE", 1000)
    found = spoken_utterances(2500, tones, stream(0, "test"), WORDS, lengths=(2, 4))
    assert len(found) == 2500
    lengths = np.array([len(text.split()) for _, text in found])
    assert chisquare(np.bincount(lengths - 2, minlength=3)).pvalue > 1e-3
    words = [WORDS.index(word) for _, text in found for word in text.split()]
    assert chisquare(np.bincount(words, minlength=3)).pvalue > 1e-3
    for wave, text in found:
        assert wave[:-1].tolist() == [WORDS.index(word) for word in text.split()]


def test_no_more_is_said_at_once_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "_AT_ONCE", 4)
    sizes: list[int] = []

    def counting(texts: Sequence[str], rng: np.random.Generator) -> list[Waveform]:
        sizes.append(len(texts))
        return tones(texts, rng)

    assert len(random_words(WORDS, 2, counting)(9, stream(0, "test"))) == 9
    assert len(spoken_utterances(8, counting, stream(0, "test"), WORDS)) == 8
    assert sizes == [4, 4, 1, 4, 4]


@pytest.mark.parametrize(
    ("vocabulary", "told"),
    [
        (["a"], "found 1 words, 1 of them different"),
        (["a", "b", "a"], "found 3 words, 2 of them different"),
        (["a", "b c"], "found 'b c' in the vocabulary"),
        (["a", ""], "found '' in the vocabulary"),
    ],
)
def test_refuses_vocabularies(vocabulary: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        random_words(vocabulary, 2, tones)
    with pytest.raises(ValueError, match=told):
        spoken_utterances(1, tones, stream(0, "test"), vocabulary)


def test_refuses_impossible_counts() -> None:
    rng = stream(0, "test")
    with pytest.raises(ValueError, match=r"found \(0, 0\) words"):
        random_words(WORDS, 0, tones)
    with pytest.raises(ValueError, match=r"found \(3, 2\) words"):
        spoken_utterances(1, tones, rng, WORDS, (3, 2))
    with pytest.raises(ValueError, match="n=-1"):
        random_words(WORDS, 1, tones)(-1, rng)
    with pytest.raises(ValueError, match="n=-1"):
        spoken_utterances(-1, tones, rng, WORDS)


def test_real_canaries_of_digits(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra speech")
    pytest.importorskip("torchaudio", reason="needs the extra speech")
    say = espeak(16_000, folder=tmp_path)
    slow = random_words(DIGITS, 3, say)(6, stream(0, "test"))
    fast = random_words(DIGITS, 3, say, speed=4.0)(6, stream(0, "test"))
    assert [text for _, text in slow] == [text for _, text in fast]
    for (one, text), (other, _) in zip(slow, fast, strict=True):
        assert len(text.split()) == 3
        assert np.array_equal(sped_up(one, 4.0), other)
        assert 0.6 < len(one) / 16_000 < 2.5
        assert centroid(other, 16_000) > 1.5 * centroid(one, 16_000)
