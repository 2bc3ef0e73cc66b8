"""Command lines: names, plans, and what is said about a wrong one."""

import sys

import pytest

from benchmarks.options import add_ways, chosen_ways, parser, plan_of, workload_of
from benchmarks.ways import Plan, Refusal


def parse(*words: str):
    made = parser(None)
    add_ways(made)
    return made.parse_args(words)


def test_the_plain_step_is_always_there_and_first():
    assert list(chosen_ways(parse("--ways", "loop-4,dpclip-1"))) == ["plain", "loop-4", "dpclip-1"]


def test_everything_by_default():
    assert {"plain", "dpclip-B", "loop-1", "opacus-ghost"} <= set(chosen_ways(parse()))


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        ([], Plan("fast", measure=True)),
        (["--memory", "low", "--no-measure"], Plan("low", measure=False)),
        (["--memory", "1000000"], Plan(1_000_000)),
        (["--loop"], Plan(loop=True)),
    ],
)
def test_plans(words, plan):
    assert plan_of(parse(*words)) == plan


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--models", "mlp,nothing"], "'nothing' is unknown: expected some of mlp, cnn"),
        (["--ways", "slow"], "'slow' is unknown: expected some of plain"),
        (["--memory", "much"], "'much': expected fast, low or a number of bytes"),
    ],
)
def test_wrong_words(words, says, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert says in capsys.readouterr().err


def test_a_model_whose_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmarks.models.conformer", None)
    assert isinstance(workload_of("conformer", True, "cpu"), Refusal)
