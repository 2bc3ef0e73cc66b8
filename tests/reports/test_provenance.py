from pathlib import Path

import pytest

from reports.provenance import NAME, Provenance, json_text, method, read, together

A = Provenance(
    command=["dpclip", "audit", "--data", "my data"],
    configuration={"task": "digits", "epochs": 5},
    learning_rates=(0.1, 0.2),
    chosen_by="validation",
    skipped=("none noise 1: no scale",),
)
B = Provenance(command="dpclip audit --epochs 10", configuration={"task": "digits", "epochs": 10})


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json_text(A))
    found = read(tmp_path)
    assert found is not None
    assert json_text(found) == json_text(A)
    assert method(found) == method(A)
    assert found.command == "dpclip audit --data 'my data'"


def test_an_older_store_keeps_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"command": "x"}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(ValueError, match="is damaged"):
        read(tmp_path)


def test_one_sweep_keeps_its_provenance() -> None:
    found = together({"a": A}, "dpclip compare --stores a")
    assert found.command == "dpclip audit --data 'my data'\ndpclip compare --stores a"
    assert method(found) == method(A)
    assert found.skipped == A.skipped


def test_what_sweeps_share_is_said_once() -> None:
    found = together({"a": A, "b": B}, "dpclip compare")
    assert dict(found.configuration) == {
        "task": "digits",
        "epochs (a)": 5,
        "epochs (b)": 10,
        "learning rate (a)": "for every arm the best of 2 (0.1, 0.2), chosen by validation.",
        "learning rate (b)": "no search; every arm used the one it was given.",
    }
    assert found.learning_rates is None
    assert found.command == (
        "dpclip audit --data 'my data'\ndpclip audit --epochs 10\ndpclip compare"
    )
    assert found.skipped == ["none noise 1: no scale"]


def test_what_is_not_recorded_is_not_invented() -> None:
    for held in ({"a": None}, {"a": A, "b": None}):
        found = together(held, "dpclip compare")
        told = "\n".join(method(found))
        name = "a" if len(held) == 1 else "b"
        assert f"{name}: how it was measured is not recorded" in told
        assert method(found)[0].startswith("Learning rate: how it was chosen is not the same")
        assert found.command.endswith("dpclip compare")
