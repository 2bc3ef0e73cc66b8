"""Sounds that stand for speech: every letter a tone of its own."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audits.tasks.speech.alphabet import LETTERS
from audits.tasks.speech.corpus import Corpus, words_of

RATE = 8000
WORDS = ("ab", "cab", "bad", "dad", "ace")
_SECONDS = 0.08  # of a letter


def tone(pitch: float, seconds: float, rate: int = RATE) -> NDArray[np.float32]:
    times = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def spoken(text: str, rng: np.random.Generator) -> NDArray[np.float32]:
    pitches = [200 + 120 * LETTERS.index(letter) for letter in text]
    wave = np.concatenate([tone(pitch, _SECONDS) for pitch in pitches])
    return wave + rng.normal(0, 0.01, len(wave)).astype(np.float32)


def utterances(n: int, seed: int) -> list[tuple[NDArray[np.float32], str]]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 5))) for _ in range(n)]
    return [(spoken(text, rng), text) for text in texts]


def corpus(train: int = 60) -> Corpus:
    parts = [utterances(n, seed) for seed, n in enumerate((train, 10, 10, 20))]
    return Corpus(*parts, RATE, words_of(parts[0]), facts={"voice": "tones"})


def written(path: Path, waveform: NDArray[np.float32], rate: int = RATE) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate)
