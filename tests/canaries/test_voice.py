from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import stft
from scipy.stats import chisquare

from canaries import DIGITS, espeak, joined, stream, voice
from canaries.synthesis import Utterance
from canaries.voice import VOICES, Waveform, check_text
from canaries.waveform_cache import Pcm


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Utterance]:
    """What would be spoken, in place of speech."""
    found: list[Utterance] = []

    def spoken(utterances: Sequence[Utterance], *_: object) -> list[Pcm]:
        found.extend(utterances)
        return [np.array([-32768, 16384], np.int16) for _ in utterances]

    monkeypatch.setattr(voice, "spoken", spoken)
    return found


def test_every_manner_is_as_likely_for_every_text(asked: list[Utterance]) -> None:
    say = espeak(voices=("a", "b", "c"), rates=(100, 103), pitches=(40, 41))
    rng = stream(0, "test")
    for _ in range(600):
        say(["x", "y"], rng)
    for place in range(2):
        mine = asked[place::2]
        assert {utterance.text for utterance in mine} == {"xy"[place]}
        codes = ["abc".index(u.voice) * 8 + (u.rate - 100) * 2 + u.pitch - 40 for u in mine]
        assert chisquare(np.bincount(codes, minlength=24)).pvalue > 1e-3
    same = np.mean([a.voice == b.voice for a, b in zip(asked[::2], asked[1::2], strict=True)])
    assert abs(same - 1 / 3) < 4 * np.sqrt(2 / 9 / 600)


def test_waveforms_are_floats_from_minus_one_to_one(asked: list[Utterance]) -> None:
    (wave,) = espeak()(["x"], stream(0, "test"))
    assert wave.dtype == np.float32
    assert wave.tolist() == [-1.0, 0.5]
    assert asked[0].voice in VOICES


def test_capitals_are_not_spelled_out(asked: list[Utterance]) -> None:
    espeak()(["AND SO LET US"], stream(0, "test"))
    assert asked[0].text == "and so let us"


def test_a_voice_repeats_with_its_seed_and_only_with_it(asked: list[Utterance]) -> None:
    say = espeak()
    for seed in (0, 0, 1):
        say(["x"] * 9, stream(seed, "test"))
    assert asked[:9] == asked[9:18] != asked[18:]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sample_rate": 0}, "sample_rate=0"),
        ({"workers": 0}, "workers=0"),
        ({"voices": ()}, r"voices \[\]"),
        ({"voices": ("en", "")}, r"voices \['en', ''\]"),
        ({"rates": (79, 200)}, r"rates=\(79, 200\).*80 to 450"),
        ({"rates": (200, 100)}, r"rates=\(200, 100\)"),
        ({"pitches": (0, 101)}, r"pitches=\(0, 101\).*0 to 100"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        espeak(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["one two", "don't", "Zoë, 3 cafe\u0301s!", "vis-à-vis (or so)"])
def test_takes_plain_text(text: str) -> None:
    check_text(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "nothing to speak"),
        (" ... ", "nothing to speak"),
        ("one\x01", r"character '\\x01'"),
        ("one\ntwo", r"character '\\n'"),
        ("one\0two", r"character '\\x00'"),
        ("[[h@l'oU]]", r"character '\['"),
        ("<b>one</b>", "character '<'"),
        ("a\u200bb", "character"),
        ("a\ud800b", "character"),
        ("50%", "character '%'"),
    ],
)
def test_refuses_text_that_would_not_be_read_as_it_is(
    asked: list[Utterance], text: str, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        espeak()(["fine", text], stream(0, "test"))
    assert asked == []


def spectrum(wave: Waveform, frames: int = 16) -> np.ndarray:
    """[frames, bands] logarithms of energy, of any length of sound."""
    power = np.abs(stft(wave, 8000, nperseg=256)[2]) ** 2  # [129, T]
    bands = np.stack([part.sum(axis=0) for part in np.array_split(power[4:104], 20)])
    logs = np.log(bands + 1e-6)
    at = np.linspace(0, logs.shape[1] - 1, frames)
    columns = [np.interp(at, np.arange(logs.shape[1]), band) for band in logs]
    return np.stack(columns, axis=1)


def test_spoken_digits_are_recognised(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra speech")
    rng = stream(0, "test")

    def say(rate: int, pitch: int) -> list[np.ndarray]:
        manner = espeak(8000, ("en-us",), (rate, rate), (pitch, pitch), folder=tmp_path)
        return [spectrum(wave) for wave in manner(DIGITS, rng)]

    known, heard = say(175, 50), say(150, 65)
    distance = [[np.abs(a - b).mean() for a in known] for b in heard]
    # By chance one of ten is right, and five or more with probability 0.002.
    assert (np.argmin(distance, axis=1) == np.arange(10)).sum() >= 8


def test_every_voice_is_there_and_sounds_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra speech")
    waves = [
        espeak(8000, (name,), (170, 170), (50, 50), folder=tmp_path)(["seven"], stream(0, "test"))
        for name in VOICES
    ]
    assert len({wave.tobytes() for (wave,) in waves}) == len(VOICES)
    assert all(0.2 < len(wave) / 8000 < 1 and wave.std() > 0.01 for (wave,) in waves)


def takes(*values: float) -> list[Waveform]:
    return [np.full(2, value, np.float32) for value in values]


def test_joined_words_follow_each_other_after_a_gap() -> None:
    say = joined([{"a": takes(1), "b": takes(2)}], sample_rate=100, gap=0.03)
    first, second = say(["a b a", " b"], stream(0, "test"))
    assert first.tolist() == [1, 1, 0, 0, 0, 2, 2, 0, 0, 0, 1, 1]
    assert second.tolist() == [2, 2]
    assert first.dtype == np.float32
    assert joined([{"a": takes(1)}], 100, gap=0)(["a a"], stream(0, "t"))[0].tolist() == [1] * 4


def test_an_utterance_has_one_speaker_and_any_of_their_recordings() -> None:
    speakers = [{"a": takes(10, 11), "b": takes(12)}, {"a": takes(20, 21), "b": takes(22)}]
    say = joined(speakers, sample_rate=100, gap=0)
    waves = say(["a b a"] * 800, stream(0, "test"))
    found = np.array(waves, dtype=int)[:, ::2]
    assert (found // 10 == found[:, :1] // 10).all()
    assert set(found[:, 1]) == {12, 22}
    codes = (found[:, 0] // 20) * 4 + found[:, 0] % 2 * 2 + found[:, 2] % 2
    assert chisquare(np.bincount(codes, minlength=8)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("speakers", "told"),
    [
        ([], "no recordings"),
        ([{}], "no recordings"),
        ([{"a": takes(1)}, {"b": takes(1)}], "speaker 1: found other words.*'a'"),
        ([{"a": takes(1), "b": []}], "speaker 0: found other words.*none of 'b'"),
        ([{"a": [np.zeros(0, np.float32)]}], r"speaker 0, word 'a'.*shape \[0\]"),
        ([{"a": [np.zeros((2, 9), np.float32)]}], r"shape \[2, 9\]"),
        ([{"a": takes(float("nan"))}], "not finite"),
    ],
)
def test_refuses_recordings_that_cannot_be_joined(
    speakers: list[dict[str, list[Waveform]]], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        joined(speakers, 100)


def test_refuses_words_without_recordings() -> None:
    say = joined([{"a": takes(1), "b": takes(2)}], 100)
    with pytest.raises(ValueError, match="word 'c' in text 'a c'; there are recordings of a, b"):
        say(["a c"], stream(0, "test"))
    with pytest.raises(ValueError, match="no word in text ' '"):
        say([" "], stream(0, "test"))
    for gap, rate in ((-1.0, 100), (float("nan"), 100), (0.0, 0)):
        with pytest.raises(ValueError, match=f"gap={gap}, sample_rate={rate}"):
            joined([{"a": takes(1)}], rate, gap)
