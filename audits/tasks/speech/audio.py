"""Files of sound: what their headers say, and the sound itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audits.tasks.speech.extra import needed


def sample_rate(file: Path) -> int:
    """Returns the sample rate that a file's header tells, in Hz; nothing is decoded.

    Raises:
        ModuleNotFoundError: soundfile is missing.
        ValueError: no such file, an unreadable one, or several channels.
    """
    library: Any = needed("soundfile")
    try:
        file.stat()
    except FileNotFoundError as error:
        raise ValueError("there is no such file") from error
    except OSError as error:
        raise ValueError(f"it cannot be reached ({error.strerror})") from error
    header = _opened(lambda: library.info(file))
    if header.channels != 1:
        raise ValueError(f"it has {header.channels} channels, expected one: mix them down")
    return int(header.samplerate)


def waveform(file: Path) -> NDArray[np.float32]:
    """Returns the sound [n] of a file with one channel.

    Raises:
        ModuleNotFoundError: soundfile is missing.
        ValueError: it cannot be decoded, or there is no sound in it.
    """
    library: Any = needed("soundfile")
    samples, _ = _opened(lambda: library.read(file, dtype="float32", always_2d=True))
    if not np.isfinite(samples).all():
        raise ValueError("it has samples that are not finite")
    if not samples.any():
        raise ValueError(f"it has {len(samples)} samples, none of them a sound")
    return samples[:, 0].copy()  # type: ignore[no-any-return]


def _opened(call: Callable[[], Any]) -> Any:
    library: Any = needed("soundfile")
    try:
        return call()
    except (library.SoundFileError, OSError, TypeError) as error:
        # A TypeError comes of files without a header, such as .raw: soundfile wants to be told.
        raise ValueError(f"it cannot be decoded ({error})") from error
