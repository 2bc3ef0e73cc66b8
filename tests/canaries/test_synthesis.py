import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample_poly

from canaries import espeak_process, synthesis
from canaries.synthesis import NATIVE_RATE, Utterance, spoken
from canaries.waveform_cache import Pcm

pytest.importorskip("espeakng_loader", reason="needs the extra speech")

ASKED = [
    Utterance(text, voice, rate, pitch)
    for text, voice, rate, pitch in [
        ("one two", "en-us", 175, 50),
        ("three", "en+f4", 150, 40),
        ("one two", "en-us", 176, 50),
        ("four five", "en-us", 175, 50),
        ("three", "en+f4", 150, 60),
    ]
]


def same(found: list[Pcm], expected: list[Pcm]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Pcm]:
    """Each utterance asked for by itself, by a process of its own."""
    folder = tmp_path_factory.mktemp("alone")
    return [spoken([asked], 16_000, folder)[0] for asked in ASKED]


def test_an_utterance_is_the_same_in_any_company(alone: list[Pcm], tmp_path: Path) -> None:
    assert len({wave.tobytes() for wave in alone}) == len(ASKED)
    assert same(spoken(ASKED, 16_000, tmp_path / "together"), alone)
    assert same(spoken(ASKED[::-1], 16_000, tmp_path / "backwards")[::-1], alone)
    assert same(spoken([*ASKED, *ASKED], 16_000, tmp_path / "twice"), alone + alone)


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_workers_change_nothing(
    alone: list[Pcm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(synthesis, "PER_PROCESS", 2)
    assert same(spoken(ASKED, 16_000, tmp_path, workers), alone)
    assert same(spoken(ASKED, 16_000, tmp_path, workers), alone)
    assert spoken([], 16_000, tmp_path, workers) == []


def test_what_is_kept_is_not_spoken_again(
    alone: list[Pcm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "PER_PROCESS", 2)
    spoken(ASKED, 16_000, tmp_path)
    started = []

    class Counted(synthesis._Process):
        def __init__(self, part: Any) -> None:
            started.append(part)
            super().__init__(part)

    monkeypatch.setattr(synthesis, "_Process", Counted)
    assert same(spoken(ASKED, 16_000, tmp_path), alone)
    assert started == []
    assert same(spoken([*ASKED[:2], ASKED[4]], 16_000, tmp_path), [*alone[:2], alone[4]])
    assert started == []  # of the three the first two and the last one are files
    damaged = min(tmp_path.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert same(spoken(ASKED, 16_000, tmp_path), alone)
    assert len(started) == 1
    spoken(ASKED, 16_000, tmp_path)
    assert len(started) == 1


def test_all_that_decides_a_waveform_is_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ASKED[0]
    changes = [one._replace(text="one too"), one._replace(voice="en"), one._replace(rate=99)]
    names = {synthesis._key([asked], 16_000) for asked in (one, *changes, one._replace(pitch=9))}
    names.add(synthesis._key([one], 8_000))
    names.add(synthesis._key([one, one], 16_000))
    monkeypatch.setattr(synthesis, "_engine", lambda: "another")
    names.add(synthesis._key([one], 16_000))
    monkeypatch.undo()
    monkeypatch.setattr("scipy.__version__", "another")
    names.add(synthesis._key([one], 16_000))
    assert len(names) == 9


def test_two_programs_at_once_find_the_same(alone: list[Pcm], tmp_path: Path) -> None:
    package = str(Path(synthesis.__file__).parent)
    body = (
        "import sys, hashlib; from pathlib import Path; from types import ModuleType\n"
        "sys.modules['canaries'] = ModuleType('canaries')\n"  # without torch it starts sooner
        f"sys.modules['canaries'].__path__ = [{package!r}]\n"
        "from canaries.synthesis import Utterance, spoken\n"
        "asked = [Utterance(*a) for a in eval(sys.argv[1])]\n"
        "waves = spoken(asked, 16_000, Path(sys.argv[2]))\n"
        "print(hashlib.sha256(b''.join(w.tobytes() for w in waves)).hexdigest())"
    )
    command = [sys.executable, "-c", body, repr([tuple(a) for a in ASKED]), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0] for process in both)
    assert first == second != ""
    assert len(list(tmp_path.iterdir())) == 1
    assert same(spoken(ASKED, 16_000, tmp_path), alone)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_resampling_is_scipys_own_and_rounded(tmp_path: Path, rate: int) -> None:
    (native,) = spoken(ASKED[:1], NATIVE_RATE, tmp_path)
    (found,) = spoken(ASKED[:1], rate, tmp_path)
    assert found.dtype == native.dtype == np.int16
    expected = resample_poly(native.astype(float), rate, NATIVE_RATE)
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() <= 0.5 + 1e-6


def test_a_tone_keeps_its_pitch_at_another_rate() -> None:
    tone = 9000 * np.sin(2 * np.pi * 440 * np.arange(NATIVE_RATE) / NATIVE_RATE)
    found = synthesis._resampled(np.rint(tone).astype(np.int16), 16_000)
    expected = 9000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(found - expected)[200:-200].max() < 20


def test_loud_sound_is_cut_off_and_does_not_wrap_around() -> None:
    square = np.where(np.arange(4000) // 500 % 2 == 0, 32767, -32768).astype(np.int16)
    found = synthesis._resampled(square, 16_000).astype(float)
    expected = resample_poly(square.astype(float), 16_000, NATIVE_RATE)
    assert np.abs(expected).max() > 33_000
    assert np.abs(found - np.clip(expected, -32768, 32767)).max() <= 0.5 + 1e-6


Instead = Callable[[str], None]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Instead:
    """Has another script run where espeak-ng would speak."""

    folder = str(Path(espeak_process.__file__).parent)

    def write(body: str) -> None:
        script = tmp_path / "script.py"
        head = f"import os, sys, time; sys.path.insert(0, {folder!r}); import espeak_process as e\n"
        script.write_text(head + body)
        monkeypatch.setattr(espeak_process, "__file__", str(script))

    return write


def test_a_process_that_dies_is_told_with_its_text(instead: Instead, tmp_path: Path) -> None:
    instead(
        "e.speak = lambda *given: os.kill(os.getpid(), 11)\n"
        "e.serve(sys.argv[1], sys.argv[2], [('one two', 'en', 175, 50)])"
    )
    with pytest.raises(RuntimeError, match=r"of signal SIGSEGV on 'one two'.*leave that text"):
        spoken(ASKED, 16_000, tmp_path)
    instead("os.kill(os.getpid(), 9)")
    with pytest.raises(RuntimeError, match="ended with -9: it was killed"):
        spoken(ASKED, 16_000, tmp_path)


def test_nothing_is_kept_of_a_process_that_failed(
    instead: Instead, tmp_path: Path, alone: list[Pcm], monkeypatch: pytest.MonkeyPatch
) -> None:
    instead("e.serve(sys.argv[1], sys.argv[2], [('one', 'en', 175, 50)]); sys.exit(5)")
    with pytest.raises(RuntimeError, match="ended with 5"):
        spoken(ASKED, 16_000, tmp_path / "kept")
    monkeypatch.undo()
    assert same(spoken(ASKED, 16_000, tmp_path / "kept"), alone)


def test_an_interruption_leaves_no_processes(instead: Instead, tmp_path: Path) -> None:
    instead(
        f"name = {str(tmp_path)!r} + '/pid'\n"
        "if os.fork() == 0: name += '2'\n"
        "open(name + '.part', 'w').write(str(os.getpid())); os.rename(name + '.part', name)\n"
        "time.sleep(100)"
    )
    written = [tmp_path / "pid", tmp_path / "pid2"]

    def interrupt(*_: object) -> None:
        if all(path.exists() for path in written):
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            spoken(ASKED, 16_000, tmp_path / "kept")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for path in written:
        assert gone(int(path.read_text()))


def gone(process: int) -> bool:
    """Whether a process ends; one that nobody has waited for yet counts as ended."""
    for _ in range(100):
        done = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True)
        if not done.stdout.strip() or done.stdout.strip().startswith(b"Z"):
            return True
        time.sleep(0.05)
    return False


def test_a_voice_that_is_not_there_is_a_wrong_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found voice 'en-us\+nobody'; expected one of espeak-ng"):
        spoken([ASKED[0]._replace(voice="en-us+nobody")], 16_000, tmp_path)


def test_a_missing_extra_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"espeakng_loader.*pip install 'dpclip\[speech\]"
    ):
        spoken(ASKED, 16_000, tmp_path)


def test_a_system_that_cannot_fork_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(RuntimeError, match="cannot fork: use Linux"):
        spoken(ASKED, 16_000, tmp_path)
