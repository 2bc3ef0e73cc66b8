"""The house keeps its shape: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dpclip", "canaries", "audits", "reports")
# Inside dpclip, each name may import those before it; names of one tuple do not import each other.
LAYERS = (
    ("types", "limits", "whole_numbers"),
    ("grouping", "weighting", "noise", "streams", "groups", "pieces", "ranks", "precision"),
    ("clustering", "grad_queue", "pacing", "features"),
    ("sensitivity", "promises", "draws", "parts", "diagnostics", "wrapped", "witness", "secure"),
    ("loader",),
    ("aliases", "anchor", "native", "outputs", "swapping"),
    ("layers", "speed"),
    ("accounting",),
    ("ops", "gathering", "ledger"),
    ("units", "passes", "sums", "budgets", "extra_groups", "pacer", "closure"),
    ("mechanism", "step"),
    ("yielded",),
    ("axes", "probe"),
    ("placement",),
    ("arrival", "backward"),
    ("host",),
    ("hooks", "looping"),
    ("engine", "measure", "plan", "refusals", "arms"),
    ("doctor",),
    ("privacy_engine",),
    ("checkpoints",),
    ("cli",),
    ("__main__",),
)


def imports(path: Path) -> set[str]:
    """Returns the dotted names a file imports anywhere, relative imports resolved by hand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_meet_in_the_command_line_only(package: str) -> None:
    others = set(PACKAGES) - {package}
    for path in files(package):
        if path.is_relative_to(ROOT / "dpclip" / "cli"):
            continue
        meets = {name.split(".")[0] for name in imports(path)} & others
        assert not meets, f"{path.relative_to(ROOT)} imports {meets}"


def _layer(module: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if module in names)


def test_dependencies_inside_dpclip_go_one_way() -> None:
    for path in files("dpclip"):
        own = path.relative_to(ROOT / "dpclip").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "dpclip" or len(parts) == 1 or parts[1] == own:
                continue
            assert _layer(parts[1]) < _layer(own), f"{own} imports {parts[1]}"


def test_no_file_is_a_drawer() -> None:
    names = {path.name for package in PACKAGES for path in files(package)}
    assert not names & {"utils.py", "helpers.py", "common.py", "misc.py"}


def test_public_functions_swallow_no_keywords() -> None:
    for package in PACKAGES:
        for path in files(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    assert node.args.kwarg is None, f"{path.name}: {node.name} takes **kwargs"
