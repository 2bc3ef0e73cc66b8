import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dpclip.cli.looking
from dpclip.cli.errors import Contradicted, Usage

Call = Callable[..., Any]
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


@pytest.mark.slow
def test_help_is_quick() -> None:
    """Less than half a second, by the best of three: other processes may be busy."""
    code = "from dpclip.cli import main; main(['audit', '--help'])"
    times = []
    for _ in range(3):
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - before)
    assert min(times) < 0.5


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RuntimeError("it broke"), 1, "dpclip: it broke\n"),
        (OSError(28, "No space left"), 1, "dpclip: [Errno 28] No space left\n"),
        (Usage("not so"), 2, "dpclip: not so\n"),
        (Contradicted("too small"), 3, "dpclip: too small\n"),
        (ModuleNotFoundError("No module named 'torchaudio'"), 4, "pip install"),
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
