"""The command line, and the one place where the four packages meet."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

from dpclip.cli.errors import Contradicted, Usage
from dpclip.cli.options import Chosen, parse
from dpclip.cli.signals import orderly

_HOME = {
    "demo": "sweep",
    "audit": "sweep",
    "train": "train",
    "compare": "comparing",
    "ui": "looking",
    "doctor": "looking",
}

_SPEECH = frozenset({"torchaudio", "soundfile", "jiwer", "espeakng_loader", "flashlight"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 ok, 1 failed, 2 usage, 3 an audit contradicts a claim, 4 optional dependency missing,
    130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, chosen = parse(words)
    try:
        with orderly():
            _run(name, chosen, words)
    except Contradicted as error:
        return _say(error, 3)
    except Usage as error:
        return _say(error, 2)
    except ModuleNotFoundError as error:
        told = str(error)
        if "pip install" not in told:
            told += f". Install it: pip install {_source(error)}"
        return _say(told, 4)
    except KeyboardInterrupt:
        return _say("interrupted; finished runs are kept, the same command goes on", 130)
    except (RuntimeError, OSError) as error:
        return _say(error, 1)
    return 0


def _run(name: str, chosen: Chosen, words: Sequence[str]) -> None:
    command = getattr(import_module(f"dpclip.cli.{_HOME[name]}"), name)
    command(chosen, shlex.join(["dpclip", *words]))


def _source(missing: ModuleNotFoundError) -> str:
    """Returns what to install: only some modules come with the extra."""
    name = (missing.name or str(missing).rpartition(" ")[2]).strip("'").partition(".")[0]
    return "'dpclip[speech]'" if name in _SPEECH else name


def _say(what: object, code: int) -> int:
    print(f"dpclip: {what}", file=sys.stderr)
    return code
