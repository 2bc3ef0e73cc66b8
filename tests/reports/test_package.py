import ast
import subprocess
import sys
from pathlib import Path

import reports


def test_importing_loads_neither_mlflow_nor_matplotlib() -> None:
    check = (
        "import sys, reports, reports.tracking, reports.ui; "
        "print(sorted({'mlflow', 'matplotlib', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_knows_none_of_its_siblings() -> None:
    siblings = {"dpclip", "audits", "canaries"}
    for path in Path(reports.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not siblings & {name.split(".")[0] for name in names}, path


def test_what_is_exported_is_there() -> None:
    assert all(hasattr(reports, name) for name in reports.__all__)
