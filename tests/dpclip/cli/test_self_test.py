"""Known bugs are caught, in our loop and in others; loops that break their claim end with 3."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from audits.self_test import Design
from dpclip.cli import planted_bugs, self_test, small_loop
from dpclip.cli.errors import Contradicted, Usage
from dpclip.cli.planted_bugs import BUGS, NONE, Bug, Factory, Planted

NAMES = [bug.name for bug in BUGS]


@pytest.fixture
def home(monkeypatch, tmp_path):
    """`own_loops` can be imported, and nothing lies around."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick(monkeypatch, home):
    """Judges a loop and plants nothing but what a test plants."""
    monkeypatch.setattr(self_test, "BUGS", (NONE,))


# ---- what is planted -------------------------------------------------------------------------


def planted(bug, steps=3, **more):
    """Returns an engine that has trained a small model, its canaries, and its updates."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 60), nn.Tanh(), nn.Linear(60, 4))
    engine = Planted(bug, seed=5, count=1000)
    model, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        data_loader=DataLoader(small_loop.records(), batch_size=64),
        noise_multiplier=2.0,
        max_grad_norm=0.01,
        **more,
    )
    for _ in range(steps):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return engine, engine.canaries


def bug(name):
    return BUGS[NAMES.index(name)]


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("none", 1),
        ("noise / sqrt(8)", math.sqrt(8)),
        ("noise / batch size", 64),
        ("groups claimed with C, not 2 C", 2),
        ("no clipping", 1),
        ("the same noise in every step", 1),
    ],
)
def test_noise_is_that_much_too_small(name, by):
    engine, canaries = planted(bug(name))
    assert canaries.beside().std() == pytest.approx(2.0 / by, rel=0.1)
    assert engine.claimed(1e-5) == planted(NONE)[0].claimed(1e-5)  # the claim knows nothing of it


def test_no_noise_is_none():
    _, canaries = planted(bug("no noise"))
    assert np.abs(canaries.beside()).max() < 1e-4  # rounding


def test_noise_that_repeats_is_the_same_in_all_steps():
    _, canaries = planted(bug("the same noise in every step"))
    first, *others = canaries.beside()
    assert all(np.allclose(first, other, atol=1e-4) for other in others)
    first, *others = planted(NONE)[1].beside()
    assert not any(np.allclose(first, other, atol=0.5) for other in others)


def test_without_clipping_rows_and_canaries_enter_as_they_are():
    _, clipped = planted(NONE)
    engine, raw = planted(bug("no clipping"))
    own = [np.abs(group.trace.own()).max() for group in (clipped, raw)]
    assert own[1] > 3 * own[0]
    added = [group.trace.steps[0].amounts.max() for group in (clipped, raw)]
    assert added == pytest.approx([0.01, 0.1])
    assert "every group is clipped to 0.01" in engine.guarantee


def test_groups_swing_in_the_bug_about_groups():
    _, canaries = planted(bug("groups claimed with C, not 2 C"))
    step = canaries.trace.steps[0]
    assert (step.amounts.min(), step.amounts.max()) == pytest.approx((-0.01, 0.01))
    assert planted(NONE)[1].trace.steps[0].amounts.min() == 0


def test_half_of_the_canaries_are_in_and_runs_differ():
    one, other = (Planted(NONE, seed, 1000) for seed in (1, 2))
    coins = []
    for engine in (one, other):
        model = nn.Linear(20, 60)
        engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(small_loop.records(), batch_size=64),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
        )
        coins.append(engine.canaries.coins)
    assert 430 < coins[0].sum() < 570 and not np.array_equal(*coins)


# ---- the table -------------------------------------------------------------------------------


def judged(rows):
    return {row.case.name: row for row in rows}


@pytest.mark.parametrize("loop", ["train", "grouped"])
def test_each_bug_is_caught_at_once(loop, home):
    import own_loops

    run = small_loop.train if loop == "train" else own_loops.grouped
    rows = judged(self_test.table(run, small_loop.records(), BUGS, 1, 0, Design()))
    assert set(rows) == set(NAMES)
    for name, row in rows.items():
        assert row.caught == (name != "none")
        assert row.mean("steinke") < row.verdicts[0].claim.epsilon
    claim = rows["none"].verdicts[0].claim
    assert (claim.rate, claim.noise_multiplier, claim.steps, claim.mu) == (1, 4, 16, 1)
    assert claim.epsilon == pytest.approx(4.377178, abs=0.02)
    assert rows["the same noise in every step"].exceeding == 0  # invisible to a sum


@pytest.mark.slow
def test_each_bug_is_caught_in_nearly_all_runs():
    """Over 40 runs: `python -m benchmarks.self_test`."""
    rows = self_test.table(small_loop.train, small_loop.records(), BUGS, 10, 7, Design())
    assert rows[0].interval[0] <= 0.05
    for row in rows[1:]:
        assert row.caught >= 9, row.case.name


@pytest.mark.slow
def test_bugs_are_caught_with_sampled_batches(home):
    import own_loops

    rows = self_test.table(own_loops.sampled, small_loop.records(), BUGS, 1, 0, Design())
    assert [row.caught for row in rows] == [0] + [1] * (len(BUGS) - 1)
    claim = rows[0].verdicts[0].claim
    assert (claim.rate, claim.steps, claim.mu) == (0.25, 24, None)


def test_the_command_prints_the_table_and_the_verdict(capsys, home):
    self_test.self_test(runs=1)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].split("  ")[0] == "bug" and all(name in printed for name in NAMES)
    caught = [line for line in lines if line.startswith("noise / sqrt(8)")]
    assert "1 of 1" in caught[0] and "0.21 to 1.00" in caught[0]
    assert "Too much noise is invisible" in printed
    assert "is within the claimed epsilon 4.39 (q = 1, noise 4, 16 steps)" in lines[-1]


def test_a_bug_that_is_missed_is_a_failure(monkeypatch, capsys, home):
    harmless = Bug("harmless", "bound")
    monkeypatch.setattr(self_test, "BUGS", (NONE, harmless))
    with pytest.raises(RuntimeError, match="misses what it must catch in this loop: harmless"):
        self_test.self_test(runs=2)
    assert "0 of 2" in capsys.readouterr().out


# ---- a user's own loop -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["good", "grouped", "sampled"])
def test_good_loops_pass(name, quick, capsys):
    self_test.self_test(f"own_loops:{name}", runs=1)
    assert f"own_loops:{name}: lower bound" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("noiseless", r"lower bound 6.* exceeds the claimed epsilon 4.39 .* repeats or is smaller"),
        (
            "eight_at_once",
            r"lower bound 6.* exceeds the claimed epsilon 4.39 .* repeats or is smal",
        ),
        ("averaged", r"is within the claimed epsilon .* the noise repeats or is smaller"),
    ],
)
def test_loops_that_do_not_keep_their_claim(name, message, quick, capsys):
    with pytest.raises(Contradicted, match=message):
        self_test.self_test(f"own_loops:{name}", runs=1)
    assert "bug" in capsys.readouterr().out  # the table was printed all the same


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "the loop own_loops:failing failed: KeyError: 'weights'"),
        ("idle", "made 0 engines and 0 trainings private"),
        ("untrained", "claims no epsilon.*no step was taken"),
        ("twice", "made 2 engines and 2 trainings private"),
        ("tiny", "204 trainable coordinates; 1000 canaries"),
        ("one_short", r"shape \[15, 2004\]; expected \[16, 2004\]"),
        ("narrow", r"shape \[16, 2003\]; expected \[16, 2004\]"),
        ("diverged", "1 steps with NaN"),
        ("a_list", "returned list"),
        ("shuffled_batches", "not drawn by Poisson sampling"),
        ("without_noise", "no noise was added"),
        ("quieter_later", "2 different noise multipliers"),
        ("epsilon_of_ten", "claims epsilon 10.* can be 6.59 at most"),
        ("NUMBER", "is a int: expected a function"),
        ("missing", "cannot be loaded: AttributeError"),
    ],
)
def test_loops_that_cannot_be_judged(name, message, quick):
    with pytest.raises(Usage, match=message):
        self_test.self_test(f"own_loops:{name}", runs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loop": "own_loops"}, "expected module:function"),
        ({"loop": "no_such_module:x"}, "cannot be loaded: ModuleNotFoundError"),
        ({"runs": 0}, "0 runs"),
        ({"seed": -1}, "seed -1"),
        ({"alpha": 1.0}, "alpha is 1.0"),
        ({"delta": -1.0}, "delta is -1.0"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options, message, quick):
    with pytest.raises(Usage, match=message):
        self_test.self_test(**options)


def test_a_loop_that_fails_with_a_bug_says_with_which(home, monkeypatch):
    def broken(engine):
        raise ValueError("not today")

    monkeypatch.setattr(self_test, "BUGS", (NONE, Bug("broken", "bound", after=broken)))
    with pytest.raises(Usage, match="not today"):
        self_test.self_test(runs=1)


def test_one_training_for_one_engine():
    engine, _ = planted(NONE)
    engine.close()
    with pytest.raises(ValueError, match="call make_private once"):
        model = nn.Linear(20, 60)
        engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(small_loop.records(), batch_size=64),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
        )


def test_observations_come_from_what_the_loop_returns():
    """And not from what the engine saw: a loop may have spoilt it afterwards."""
    factory = Factory(NONE, 3, 1000, 1e-5)
    released = small_loop.train(factory, small_loop.records(), 0)
    honest = factory.observed(released.double().numpy())
    half = factory.observed(released.double().numpy() / 2)
    assert honest.places.std() == pytest.approx(4, rel=0.1)
    assert half.places.std() < 2.5
    assert honest.ids == half.ids and planted_bugs.BUGS[0] is NONE


@pytest.mark.parametrize(
    ("name", "code"), [("good", 0), ("averaged", 3), ("one_short", 2), ("missing", 2)]
)
def test_exit_codes(name, code, quick, call):
    ended = call("audit", "--self-test", "--loop", f"own_loops:{name}", "--runs", "1")
    assert ended.code == code
    assert ended.err.startswith("dpclip: ") == (code != 0)
    assert ended.out.startswith("bug ") == (code != 2)


def test_the_exit_code_of_an_audit_that_misses(monkeypatch, call):
    monkeypatch.setattr(self_test, "BUGS", (NONE, Bug("harmless", "bound")))
    ended = call("audit", "--self-test", "--runs", "1")
    assert ended.code == 1 and "misses what it must catch" in ended.err


@pytest.mark.slow
def test_a_process_that_ends_with_3():
    command = "import sys; from dpclip.cli import main; sys.exit(main())"
    options = ["audit", "--self-test", "--loop", "own_loops:noiseless", "--runs", "1"]
    ended = subprocess.run(
        [sys.executable, "-c", command, *options],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 3, ended.stderr
    assert "dpclip: own_loops:noiseless does not keep what it claims" in ended.stderr
    assert all(name in ended.stdout for name in NAMES)
