import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dpclip.cli.looking
from dpclip.cli.errors import Contradicted, Usage

Call = Callable[..., Any]


def missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


HEAVY = ("torch", "mlflow", "numpy", "scipy", "pandas", "matplotlib", "opacus")


@pytest.mark.parametrize(
    "words", [["--help"], *([name, "--help"] for name in ("audit", "train", "compare", "demo"))]
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom dpclip.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as ended:\n"
        f"    loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    sys.exit(f'loaded {loaded}' if loaded else ended.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: dpclip" in done.stdout


def test_the_package_can_be_run() -> None:
    words = [sys.executable, "-m", "dpclip", "ui", "--port", "0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--port 0: expected 1 to 65535" in done.stderr


def test_help_is_quick() -> None:
    """Less than half a second of a processor, which is what help takes on an idle machine."""
    code = (
        "import time\nfrom dpclip.cli import main\n"
        "try:\n    main(['audit', '--help'])\n"
        "except SystemExit:\n    print(time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < 0.5


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RuntimeError("it broke"), 1, "dpclip: it broke\n"),
        (OSError(28, "No space left"), 1, "dpclip: [Errno 28] No space left\n"),
        (Usage("not so"), 2, "dpclip: not so\n"),
        (Contradicted("too small"), 3, "dpclip: too small\n"),
        (missing("torchaudio.models"), 4, "Install it: pip install 'dpclip[speech]'"),
        (missing("psycopg2"), 4, "Install it: pip install psycopg2\n"),
        (ModuleNotFoundError("pip install this"), 4, "dpclip: pip install this\n"),
        (KeyboardInterrupt(), 130, "dpclip: interrupted"),
    ],
)
def test_each_end_has_its_exit_code_and_one_sentence(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, told: str
) -> None:
    def ends(_chosen: object, _words: str) -> None:
        raise error

    monkeypatch.setattr(dpclip.cli.looking, "doctor", ends)
    ended = call("doctor")
    assert ended.code == code
    assert told in ended.err
    assert ended.err.count("\n") == 1


def test_a_bug_is_not_hidden(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpclip.cli.looking, "doctor", lambda _chosen, _words: [][1])
    with pytest.raises(IndexError):
        call("doctor")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "subcommand"),
        (["fly"], "invalid choice"),
        (["audit", "--groping", "sample"], "unrecognized arguments: --groping"),
        (["audit", "--seeds", "many"], "seeds"),
        (["audit", "--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_words_that_mean_nothing(call: Call, tmp_path: Path, words: list[str], told: str) -> None:
    ended = call(*words)
    assert ended.code == 2
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert not list(tmp_path.iterdir())
