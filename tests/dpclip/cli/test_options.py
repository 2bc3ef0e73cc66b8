import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dpclip.cli.examples import EXAMPLES
from dpclip.cli.options import Audit, Compare, Train, parse

Call = Callable[..., Any]


def test_nothing_said_is_the_defaults() -> None:
    assert parse(["audit"]) == ("audit", Audit())
    assert parse(["train"]) == ("train", Train())


def test_words_reach_their_options() -> None:
    secret = "pin {}{} of {{me}}: #1"
    words = ["--noise", "0", "--secret", secret, "--alphabet", "01", "--search", "true"]
    words += ["--store", "a b/c", "--lr", "1e-3", "--workers", "0"]
    _, chosen = parse(["audit", *words])
    assert chosen == Audit(
        noise="0",
        secret=secret,
        alphabet="01",
        search=True,
        store=Path("a b/c"),
        lr=1e-3,
        workers=0,
    )


def test_switches_and_hyphens() -> None:
    _, plain = parse(["audit", "--self_test", "true", "--first_seed", "3", "--search", "true"])
    assert plain == Audit(self_test=True, first_seed=3, search=True)
    for words in (
        ["--self-test", "--first-seed", "3", "--search"],
        ["--search", "--first-seed=3", "--self-test"],
        ["--self-test=true", "--first-seed", "3", "--search", "true"],
    ):
        assert parse(["audit", *words]) == ("audit", plain)
    assert parse(["audit", "--self-test", "false"]) == ("audit", Audit())
    assert parse(["audit", "--secret", "a-{}"]) == ("audit", Audit(secret="a-{}"))


@pytest.mark.parametrize("lists", ["0", "0,1", "0.5,1e-1"])
def test_lists_of_numbers_stay_words(lists: str) -> None:
    _, chosen = parse(["audit", "--noise", lists, "--families", "1,2", "--grouping", "none"])
    assert isinstance(chosen, Audit)
    assert (chosen.noise, chosen.families, chosen.grouping) == (lists, "1,2", "none")


@pytest.mark.parametrize("command", ["audit", "train", "demo", "compare", "ui"])
def test_a_printed_config_is_read_back(call: Call, tmp_path: Path, command: str) -> None:
    printed = call(command, "--print_config")
    assert printed.code == 0
    (tmp_path / "given.yaml").write_text(printed.out)
    assert parse([command, "--config", str(tmp_path / "given.yaml")]) == parse([command])


def test_a_config_round_trip_keeps_what_was_chosen(call: Call, tmp_path: Path) -> None:
    words = ["audit", "--noise", "0.5", "--seeds", "3", "--secret", "a: {} # {}", "--store", "x"]
    words += ["--alphabet", "0123", "--grouping", "sample,core:2", "--epochs", "4"]
    (tmp_path / "given.yaml").write_text(call(*words, "--print_config").out)
    again = parse(["audit", "--config", str(tmp_path / "given.yaml")])
    assert again == parse(words)
    assert parse(["audit", "--config", str(tmp_path / "given.yaml"), "--seeds", "4"]) != again


def test_a_config_with_an_unknown_key_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("seeeds: 3\n")
    ended = call("audit", "--config", "given.yaml")
    assert ended.code == 2
    assert "seeeds" in ended.err


@pytest.mark.parametrize("command", ["audit", "train"])
def test_help_tells_every_option(call: Call, command: str) -> None:
    told = call(command, "--help").out
    kind = {"audit": Audit, "train": Train}[command]
    assert all(f"--{field.name}" in told for field in fields(kind))
    assert "learning rate" in told  # the docstring's lines became help


def test_switches_of_output_stand_alone() -> None:
    _, chosen = parse(["compare", "--quiet", "--json", "--out", "a b"])
    assert chosen == Compare(quiet=True, json=True, out=Path("a b"))
    _, chosen = parse(["compare", "--tracking-uri", "http://a:1", "--runs", "microbatch 4,none"])
    assert chosen == Compare(tracking_uri="http://a:1", runs="microbatch 4,none")


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_examples_stand_in_the_help_as_they_are_written(call: Call, command: str) -> None:
    told = call(command, "--help").out
    assert EXAMPLES[command]
    for what, line in EXAMPLES[command]:
        assert f"  {line}\n      {what}" in told


@pytest.mark.parametrize("line", [line for held in EXAMPLES.values() for _, line in held])
def test_examples_are_understood(call: Call, tmp_path: Path, line: str) -> None:
    (tmp_path / "audit.yaml").write_text("seeds: 3\n")
    program, *words = shlex.split(line)
    assert program == "dpclip"
    if "--print_config" in words:
        assert call(*words).code == 0
    else:
        assert parse(words)[0] == words[0]
