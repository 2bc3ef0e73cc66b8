"""Log-mel spectrograms, each normalised by its own frames only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audits.tasks.speech.extra import needed

_WINDOW, _HOP = 0.025, 0.010  # seconds
_RANGE = 8.0  # powers of ten below the record's loudest cell, where silence begins
_LEAST_STD = 1e-3
_LEAST_RATE = 8000
_TINY = 1e-20  # of a record without any sound, whose logarithm must be finite


class Mel:
    """waveform [n] -> log-mel features [T, M].

    Windows of 25 ms every 10 ms, none of them beyond the ends. Cells that are more than 80 dB
    below the loudest of the same record are raised to there, and each record is brought to mean 0
    and standard deviation 1 over all its cells: nothing depends on other records.

    Args:
        sample_rate: in Hz, at least 8000.

    Raises:
        ModuleNotFoundError: torchaudio is missing.
        ValueError: a sample rate below 8000 Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        if sample_rate < _LEAST_RATE:
            raise ValueError(f"The sample rate is {sample_rate} Hz: expected at least 8000.")
        self.window, self.hop = round(_WINDOW * sample_rate), round(_HOP * sample_rate)
        self.bands = bands(sample_rate)
        self._spectrogram: Callable[[Tensor], Tensor] = needed(
            "torchaudio.transforms"
        ).MelSpectrogram(
            sample_rate=sample_rate,
            n_fft=1 << (self.window - 1).bit_length(),
            win_length=self.window,
            hop_length=self.hop,
            n_mels=self.bands,
            center=False,
        )

    def samples(self, frames: int) -> int:
        """Returns how many samples give so many frames, frames >= 1."""
        size = 1 << (self.window - 1).bit_length()
        return size + (frames - 1) * self.hop

    def __call__(self, waveform: NDArray[np.float32]) -> Tensor:
        """Returns the features [T, M] float32 of a waveform [n] of at least one window."""
        power = self._spectrogram(torch.from_numpy(np.ascontiguousarray(waveform)))
        cells = power.clamp(min=_TINY).log10().T
        cells = cells.clamp(min=float(cells.max()) - _RANGE)
        return ((cells - cells.mean()) / cells.std(correction=0).clamp(min=_LEAST_STD)).contiguous()


def bands(sample_rate: int) -> int:
    """Returns the number of mel bands: 40 up to 8 kHz, else 80."""
    return 40 if sample_rate <= 8000 else 80
