import numpy as np
import pytest
import torch

from audits.tasks.speech.mel import Mel, bands
from tests.audits.tasks.speech import sounds

pytest.importorskip("torchaudio")


def slow(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Log-mel cells by an explicit discrete Fourier transform, frame by frame."""
    window, hop = round(0.025 * rate), round(0.01 * rate)
    size = 1 << (window - 1).bit_length()
    left = (size - window) // 2
    hann = np.zeros(size)
    hann[left : left + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    cells = []
    for start in range(0, len(waveform) - size + 1, hop):
        power = np.abs(np.fft.rfft(waveform[start : start + size] * hann)) ** 2
        cells.append(triangles(rate, size, bands(rate)) @ power)
    logs = np.log10(np.maximum(np.array(cells), 1e-20))
    logs = np.maximum(logs, logs.max() - 8)
    return (logs - logs.mean()) / logs.std()


def triangles(rate: int, size: int, many: int) -> np.ndarray:
    """Triangular filters, equally spaced by mel = 2595 log10(1 + f / 700)."""
    mels = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), many + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    found = np.linspace(0, rate / 2, size // 2 + 1)
    return np.array(
        [
            np.clip(np.minimum((found - a) / (b - a), (c - found) / (c - b)), 0, None)
            for a, b, c in zip(edges, edges[1:], edges[2:], strict=False)
        ]
    )


@pytest.mark.parametrize("rate", [8000, 16000])
def test_features_are_log_mel_cells(rate: int) -> None:
    waveform = np.random.default_rng(0).normal(0, 0.1, rate // 4).astype(np.float32)
    waveform += sounds.tone(900, 0.25, rate)
    found, expected = Mel(rate)(waveform), slow(waveform.astype(np.float64), rate)
    assert found.shape == expected.shape == (found.shape[0], bands(rate))
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - expected).max() < 2e-3


def test_a_record_is_brought_to_mean_0_and_deviation_1() -> None:
    quiet, loud = 0.01 * sounds.tone(500, 1), sounds.tone(500, 1)
    mel = Mel(8000)
    found = mel(loud)
    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.std().item() == pytest.approx(1, abs=1e-3)
    assert torch.allclose(mel(quiet), found, atol=1e-3)


def test_silence_has_finite_features() -> None:
    assert Mel(8000)(np.zeros(2000, dtype=np.float32)).abs().max() == 0
    half = np.concatenate([sounds.tone(500, 0.5), np.zeros(4000, dtype=np.float32)])
    assert Mel(8000)(half).abs().max() < 20


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050])
def test_samples_are_what_frames_need(rate: int) -> None:
    mel = Mel(rate)
    for frames in (1, 2, 77):
        few = np.ones(mel.samples(frames), dtype=np.float32)
        assert len(mel(few)) == frames
        if frames > 1:
            assert len(mel(few[1:])) == frames - 1


def test_a_rate_below_speech_is_refused() -> None:
    with pytest.raises(ValueError, match="sample rate is 4000 Hz"):
        Mel(4000)
