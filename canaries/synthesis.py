"""Speech of espeak-ng, made in processes of their own and kept on disk."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import cache
from importlib import import_module
from math import gcd
from pathlib import Path
from types import ModuleType
from typing import IO, NamedTuple

import numpy as np
import scipy
from scipy.signal import firwin, resample_poly

from canaries import espeak_process, waveform_cache
from canaries.espeak_process import HEADER, NATIVE_RATE, SEED
from canaries.waveform_cache import Pcm

PER_PROCESS = 256
"""Utterances that a process speaks, and that a file keeps."""


class Utterance(NamedTuple):
    """Words and the manner in which they are spoken; it decides the waveform.

    Attributes:
        text: What is said.
        voice: A language of espeak-ng, and after a plus one of its variants: `en-us+f3`.
        rate: Words per minute.
        pitch: 0 to 100; 50 is the voice's own.
    """

    text: str
    voice: str
    rate: int
    pitch: int


def needed(name: str) -> ModuleType:
    """A module of the extra `speech`.

    Raises:
        ModuleNotFoundError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Speech needs {name}. Install it: pip install 'dpclip[speech]'", name=name
        ) from error


def spoken(
    utterances: Sequence[Utterance], sample_rate: int, folder: Path, workers: int = 1
) -> list[Pcm]:
    """The waveform of each utterance: the same whatever else is asked for, and by how many workers.

    Args:
        utterances: What to say, and how.
        sample_rate: Samples per second.
        folder: Where waveforms are kept.
        workers: Processes that speak at the same time.

    Raises:
        ModuleNotFoundError: The extra `speech` is missing.
        ValueError: espeak-ng has no such voice, or the folder cannot be used.
        RuntimeError: espeak-ng failed or died.
    """
    starts = range(0, len(utterances), PER_PROCESS)
    parts = [utterances[start : start + PER_PROCESS] for start in starts]
    paths = [folder / _key(part, sample_rate) for part in parts]
    kept = [waveform_cache.read(path, len(part)) for path, part in zip(paths, parts, strict=True)]
    missing = [number for number, found in enumerate(kept) if found is None]
    with closing(_synthesised([parts[number] for number in missing], workers)) as made:
        for number, native in zip(missing, made, strict=True):
            kept[number] = waveforms = [_resampled(waveform, sample_rate) for waveform in native]
            waveform_cache.write(paths[number], waveforms)
    return [waveform for part in kept if part is not None for waveform in part]


def _key(part: Sequence[Utterance], sample_rate: int) -> str:
    """A name made of all that decides the waveforms."""
    content = json.dumps([_engine(), SEED, scipy.__version__, sample_rate, *part])
    return hashlib.sha256(content.encode()).hexdigest()


@cache
def _engine() -> str:
    """A digest of espeak-ng's library, and of the names and sizes of its data."""
    loader = needed("espeakng_loader")
    data = Path(loader.get_data_path())
    sizes = sorted(
        (str(p.relative_to(data)), p.stat().st_size) for p in data.rglob("*") if p.is_file()
    )
    library = Path(loader.get_library_path()).read_bytes()
    return hashlib.sha256(library + json.dumps(sizes).encode()).hexdigest()


class _Process:
    """A process that is speaking.

    It reads and writes files, not pipes: nobody waits for a reader, however many run at once.
    """

    def __init__(self, part: Sequence[Utterance]) -> None:
        loader = needed("espeakng_loader")
        self.count = len(part)
        self.out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.err: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-I", "-S", espeak_process.__file__]
        with tempfile.TemporaryFile() as jobs:
            jobs.write(json.dumps(part).encode())
            jobs.seek(0)
            # Of a session of its own, so that Ctrl-C reaches only the caller, who ends it.
            self.process = subprocess.Popen(
                [*command, loader.get_library_path(), loader.get_data_path()],
                stdin=jobs,
                stdout=self.out,
                stderr=self.err,
                start_new_session=True,
            )

    def waveforms(self) -> list[Pcm]:
        """Waits for the process and returns what it said, at its native rate."""
        code = self.process.wait()
        self.err.seek(0)
        said = self.err.read().decode(errors="replace").strip()
        if code == espeak_process.NO_SUCH_VOICE:
            raise ValueError(f"found {said}; expected one of espeak-ng: en-us, en-us+f3 and others")
        if code != 0:
            raise RuntimeError(
                f"the process that speaks ended with {code}: {said or 'it was killed'}. "
                "Run again; if it fails on the same text, leave that text out."
            )
        self.out.seek(0)
        return _parsed(self.out.read(), self.count)

    def end(self) -> None:
        """Ends the process and its forks if they still run."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.out.close()
        self.err.close()


def _synthesised(
    parts: Sequence[Sequence[Utterance]], workers: int
) -> Generator[list[Pcm], None, None]:
    if parts and not hasattr(os, "fork"):
        raise RuntimeError(
            "espeak-ng speaks in forked processes, and this system cannot fork: use Linux "
            "or macOS, or recordings"
        )
    running: deque[_Process] = deque()
    waiting = deque(parts)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_Process(waiting.popleft()))
            yield running[0].waveforms()
            running.popleft().end()
    finally:
        for process in running:
            process.end()


def _parsed(content: bytes, count: int) -> list[Pcm]:
    found: dict[int, Pcm] = {}
    at = 0
    while at < len(content):
        number, samples = HEADER.unpack_from(content, at)
        found[number] = np.frombuffer(content, np.int16, samples, at + HEADER.size)
        at += HEADER.size + 2 * samples
    return [found[number] for number in range(count)]


def _resampled(native: Pcm, sample_rate: int) -> Pcm:
    """At another rate, one by one in double precision: no neighbour decides the last bit."""
    if sample_rate == NATIVE_RATE:
        return native
    up, down, window = _filter(sample_rate)
    # The stubs do not know that the window may be a filter.
    wave = resample_poly(native.astype(np.float64), up, down, window=window)  # type: ignore[call-overload]
    rounded: Pcm = np.clip(np.rint(wave), -32768, 32767).astype(np.int16)
    return rounded


@cache
def _filter(sample_rate: int) -> tuple[int, int, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Up, down and the filter between them: scipy's own, designed once."""
    common = gcd(sample_rate, NATIVE_RATE)
    up, down = sample_rate // common, NATIVE_RATE // common
    widest = max(up, down)
    return up, down, firwin(20 * widest + 1, 1 / widest, window=("kaiser", 5.0))
