import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from canaries import espeak_process
from canaries.espeak_process import HEADER

loader = pytest.importorskip("espeakng_loader", reason="needs the extra speech")

PLAIN = """
import ctypes, sys
library, data, text, voice, rate, pitch = sys.argv[1:]
espeak = ctypes.CDLL(library)
espeak.espeak_Initialize(2, 0, data.encode(), 0)
espeak.espeak_ng_SetRandSeed(ctypes.c_long(0))
parts = []
def collect(samples, count, events):
    if samples and count > 0:
        parts.append(ctypes.string_at(samples, 2 * count))
    return 0
receiver = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(collect)
espeak.espeak_SetSynthCallback(receiver)
espeak.espeak_SetVoiceByName(voice.encode())
espeak.espeak_SetParameter(1, int(rate), 0)
espeak.espeak_SetParameter(3, int(pitch), 0)
espeak.espeak_Synth(text.encode(), len(text.encode()) + 1, 0, 1, 0, 1, None, None)
sys.stdout.buffer.write(b"".join(parts))
"""
"""One utterance in a process without forks, the obvious way."""

JOBS = [
    ("seven three", "en-us+f2", 175, 50),
    ("seven three", "en", 150, 40),
    ("nine", "en-us+f2", 175, 50),
    ("seven three", "en-us+f2", 175, 50),
    ("seven three", "en-us+f2", 300, 50),
    ("seven three", "en-us+f2", 175, 90),
    ("café zoë", "en-gb-scotland", 120, 60),
]


def run(command: list[str], given: str = "") -> subprocess.CompletedProcess[bytes]:
    whole = [sys.executable, "-I", "-S", *command]
    return subprocess.run(whole, input=given.encode(), capture_output=True, check=False)


def served(jobs: list[tuple[str, str, int, int]]) -> subprocess.CompletedProcess[bytes]:
    paths = [loader.get_library_path(), loader.get_data_path()]
    return run([espeak_process.__file__, *paths], json.dumps(jobs))


def parsed(content: bytes) -> dict[int, bytes]:
    found = {}
    while content:
        number, samples = HEADER.unpack_from(content)
        content = content[HEADER.size :]
        found[number], content = content[: 2 * samples], content[2 * samples :]
    return found


def test_each_utterance_is_as_if_it_were_the_only_one() -> None:
    done = served(JOBS)
    assert (done.returncode, done.stderr) == (0, b"")
    found = parsed(done.stdout)
    assert sorted(found) == list(range(len(JOBS)))
    for number, (text, voice, rate, pitch) in enumerate(JOBS):
        paths = [loader.get_library_path(), loader.get_data_path()]
        alone = run(["-c", PLAIN, *paths, text, voice, str(rate), str(pitch)])
        assert found[number] == alone.stdout, JOBS[number]
    assert found[0] == found[3]
    assert len({found[number] for number in range(len(JOBS))}) == len(JOBS) - 1
    assert len(found[4]) < 0.8 * len(found[0])
    assert np.frombuffer(found[0], np.int16).std() > 500


@pytest.mark.parametrize("voice", ["xx", "en-us+nobody", "en-us+", "../en"])
def test_a_voice_that_is_not_there_has_its_own_exit_status(voice: str) -> None:
    done = served([("one", "en", 175, 50), ("one", voice, 175, 50)])
    assert done.returncode == espeak_process.NO_SUCH_VOICE
    assert done.stderr.decode() == f"voice {voice!r}\n"


def scripted(body: str) -> subprocess.CompletedProcess[bytes]:
    folder = str(Path(espeak_process.__file__).parent)
    head = f"import os, sys, time; sys.path.insert(0, {folder!r}); import espeak_process as e\n"
    return run(["-c", head + body + "\nprint('went on')"])


def test_a_fork_that_dies_is_named_and_ends_the_process() -> None:
    done = scripted("e.apart(lambda: os.kill(os.getpid(), 11), 'on this text')")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"espeak-ng died of signal SIGSEGV on this text\n"


def test_a_fork_that_fails_ends_the_process_as_it_ended() -> None:
    done = scripted("e.apart(lambda: e.apart(lambda: sys.exit(7), 'inner'), 'outer')")
    assert (done.returncode, done.stdout) == (7, b"")
    done = scripted("e.apart(lambda: 1 / 0, 'on this text')")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"ZeroDivisionError" in done.stderr


def test_a_fork_that_succeeds_lets_the_process_go_on() -> None:
    done = scripted("e.apart(lambda: None, 'on this text')")
    assert (done.returncode, done.stdout) == (0, b"went on\n")


def test_an_utterance_without_end_is_ended() -> None:
    done = scripted(
        "e._SECONDS_PER_UTTERANCE = 1\n"
        "class Stuck: espeak_SetSynthCallback = lambda self, receiver: time.sleep(100)\n"
        "e.apart(lambda: e.speak(Stuck(), 0, ('a', 'en', 175, 50)), 'on this text')"
    )
    assert done.returncode == 1
    assert done.stderr == b"espeak-ng died of signal SIGALRM on this text\n"


def test_a_library_that_fails_to_start_is_no_silence() -> None:
    done = run([espeak_process.__file__, __file__, loader.get_data_path()], "[]")
    assert done.returncode == 1
    assert b"OSError" in done.stderr
