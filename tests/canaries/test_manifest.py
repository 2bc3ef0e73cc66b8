import json
from pathlib import Path

import pytest

from canaries.manifest import fingerprint, read, write


def test_fingerprint_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})


def test_round_trip_leaves_one_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "m.json"
    write(path, {"name": "ä", "list": [1, None, True]})
    assert read(path) == {"name": "ä", "list": [1, None, True]}
    assert [entry.name for entry in path.parent.iterdir()] == ["m.json"]


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "m.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_declared_manifest_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write(path, {"a": 1})
    write(path, {"a": 1})
    with pytest.raises(FileExistsError, match="save this one under another name"):
        write(path, {"a": 2})
    assert read(path) == {"a": 1}


@pytest.mark.parametrize("text", ["", "[1]", "{}", "nonsense", '{"hash": "x", "manifest": 3}'])
def test_refuses_what_is_not_a_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match="expected"):
        read(tmp_path / "m.json")


def test_refuses_an_edited_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write(path, {"a": 1})
    stored = json.loads(path.read_text())
    for edit in ({"a": 2}, {"a": 1, "b": 0}, {"a": True}):
        path.write_text(json.dumps(stored | {"manifest": edit}))
        with pytest.raises(ValueError, match="changed after it was written"):
            read(path)
