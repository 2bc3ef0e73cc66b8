"""The package itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dpclip


def test_import_loads_no_torch():
    code = "import dpclip, sys; dir(dpclip); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names():
    assert set(dpclip.__all__) == set(dir(dpclip)) == set(dpclip._HOME)
    for name in dir(dpclip):
        assert getattr(dpclip, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'clipp'"):
        dpclip.clipp  # noqa: B018
