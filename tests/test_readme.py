"""Every block of the README does what it says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dpclip.cli import main

ROOT = Path(__file__).parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"make", "python", "dpclip", "text"}
    assert all(blocks(kind) for kind in ("make", "python", "dpclip"))


@pytest.mark.parametrize("line", [x for b in blocks("make") for x in b.strip().splitlines()])
def test_make_lines(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert words[0] == "make"
    subprocess.run([*words, "-n"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.slow
def test_python_and_dpclip_blocks(tmp_path: Path) -> None:
    """Runs them in order in one folder, since later blocks use what earlier ones made.

    A block that begins with `# ...` goes on where the last one ended.
    """
    before = ""
    for kind, text in BLOCKS:
        if kind == "python":
            named = re.match(r"# (\w+\.py)(.*)\n", text)
            before = before + text if text.startswith("# ...") else text
            ranks = TORCHRUN if named and "torchrun" in named.group(2) else ()
            run(tmp_path, named.group(1) if named else "block.py", before, *ranks)
        if kind == "dpclip":
            for line in text.strip().splitlines():
                words = shlex.split(line, comments=True)
                assert words[0] == "dpclip"
                if words[1] != "ui":  # it serves until it is stopped; tested where it is started
                    call = f"sys.exit(main({words[1:]!r}))"
                    guard = 'if __name__ == "__main__":\n    '
                    code = f"import sys\nfrom dpclip.cli import main\n{guard}{call}\n"
                    run(tmp_path, "command.py", code)  # a file, which worker processes can import


def run(folder: Path, name: str, code: str, *launcher: str) -> None:
    (folder / name).write_text(code)
    done = subprocess.run(
        [sys.executable, *launcher, name],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_the_command_line_is_what_the_script_calls() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
