"""A process that speaks with espeak-ng: jobs as JSON on stdin, waveforms on stdout.

It is run as a script, on the standard library alone: what it imports is copied with every fork.
espeak-ng carries its oscillators' state from one utterance into the next, so that the same words
sound another way the second time. Hence every utterance is spoken by a process of its own, forked
from one that has set its voice and not yet spoken: its waveform depends on nothing said before.

    python espeak_process.py LIBRARY DATA < jobs.json > waveforms

A job is [text, voice, rate, pitch]. On stdout each gives its number and its number of samples, as
two 64-bit integers, and then the samples, 16 bits each, in the machine's byte order.
"""

import ctypes
import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Sequence

Job = tuple[str, str, int, int]

NATIVE_RATE = 22_050
"""Samples per second."""

SEED = 0
"""Of the breath that some voices have; espeak-ng itself would take the time."""

HEADER = struct.Struct("=QQ")

NO_SUCH_VOICE = 3
"""Exit status."""

_SECONDS_PER_UTTERANCE = 60
_SYNCHRONOUS, _RATE, _PITCH, _CHARACTERS, _UTF8 = 2, 1, 3, 1, 1
_RECEIVER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def apart(act: Callable[[], None], doing: str) -> None:
    """Runs an act in a fork and waits for it; where it fails this process ends, as it did.

    In the fork an exception goes up to the interpreter, which prints it and exits with 1.
    """
    child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        sys.exit(f"espeak-ng died of signal {signal.Signals(-code).name} {doing}")
    if code > 0:
        sys.exit(code)


def ready(library: str, data: str) -> ctypes.CDLL:
    """The library, initialised, without a voice yet; it starts no threads, so it can be forked."""
    espeak = ctypes.CDLL(library)
    if (rate := espeak.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), 0)) != NATIVE_RATE:
        sys.exit(f"espeak-ng gave {rate} for its sample rate; expected {NATIVE_RATE}")
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(SEED))
    return espeak


def set_voice(espeak: ctypes.CDLL, voice: str, data: str) -> None:
    """Sets the voice; exits with `NO_SUCH_VOICE` if there is none of that name."""
    _, plus, variant = voice.partition("+")
    # espeak-ng itself takes an unknown variant for none at all.
    known = not plus or os.path.isfile(os.path.join(data, "voices", "!v", variant))
    if not known or espeak.espeak_SetVoiceByName(voice.encode()) != 0:
        print(f"voice {voice!r}", file=sys.stderr)
        sys.exit(NO_SUCH_VOICE)


def speak(espeak: ctypes.CDLL, number: int, job: Job) -> None:
    """Writes the waveform of one job to stdout, in the voice that is set."""
    signal.alarm(_SECONDS_PER_UTTERANCE)
    text, _, rate, pitch = job
    parts: list[bytes] = []

    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            parts.append(ctypes.string_at(samples, 2 * count))
        return 0

    receiver = _RECEIVER(collect)  # referred to until all is said, or it is freed
    espeak.espeak_SetSynthCallback(receiver)
    encoded = text.encode() + b"\0"
    failed = (
        espeak.espeak_SetParameter(_RATE, rate, 0)
        or espeak.espeak_SetParameter(_PITCH, pitch, 0)
        or espeak.espeak_Synth(encoded, len(encoded), 0, _CHARACTERS, 0, _UTF8, None, None)
    )
    if failed:
        sys.exit(f"espeak-ng failed with error {failed} on {text!r}")
    pcm = b"".join(parts)
    with open(1, "wb", closefd=False) as out:
        out.write(HEADER.pack(number, len(pcm) // 2) + pcm)


def serve(library: str, data: str, jobs: Sequence[Job]) -> None:
    """Speaks all jobs, those of one voice together."""
    espeak = ready(library, data)

    def speak_all(voice: str) -> None:
        set_voice(espeak, voice, data)
        for number, job in enumerate(jobs):
            if job[1] == voice:
                apart(lambda n=number, j=job: speak(espeak, n, j), f"on {job[0]!r}")  # type: ignore[misc]

    for voice in sorted({job[1] for job in jobs}):
        apart(lambda v=voice: speak_all(v), f"on setting voice {voice!r}")  # type: ignore[misc]


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], [tuple(job) for job in json.load(sys.stdin)])
