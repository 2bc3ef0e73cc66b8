"""A run that goes on from a checkpoint, and every way in which one may be damaged."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import shutil
import signal
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_file
from torch import nn

from dpclip import clip, normalize
from dpclip.checkpoints import sealed
from tests.dpclip.jobs.training import Built, Job, Model, build, result, train

FILES = ("manifest.json", "state.json", "state.safetensors", "weights.safetensors")
NEVER = 10**6


class Stopped(Exception):
    """Stands for a kill."""


def alike(made: Built, other: Built, steps: int) -> bool:
    """Returns whether two runs take the same steps, with the same dropout."""
    state, results = torch.get_rng_state(), []
    for each in (made, other):
        torch.set_rng_state(state)
        each.steps(steps)
        results.append(result(each))
    return bool(results[0] == results[1])


def stopped(job: Job, folder: Path, at: int) -> dict:
    """Returns what came of a run that was stopped after a step and started again."""

    def stop(made: Built) -> None:
        if made.engine.steps == at:
            raise Stopped

    with pytest.raises(Stopped):
        train(job, folder, saved=stop)
    return train(job, folder)


# ---- going on ----------------------------------------------------------------------------------

LATER = pytest.mark.xfail(strict=True, reason="the loader's position does not say it yet")
EXACT = [
    (Job(every=7), 7),
    (Job(every=10, optimizer="sgd"), 10),
    (Job(every=7, steered=True, transform=True), 7),
    (Job(every=13, workers=2), 13),
    (Job(every=13, workers=2, persistent=True), 13),
    (Job(every=13, poisson=False), 13),
    (Job(outside=True), 10),
    (Job(every=7, decay="epoch"), 7),
    pytest.param(Job(every=10, decay="epoch"), 10, marks=LATER),
    pytest.param(Job(outside=True, poisson=False, shuffle=True, own=True), 10, marks=LATER),
    pytest.param(Job(every=13, poisson=False, shuffle=True), 13, marks=LATER),
    pytest.param(Job(every=13, poisson=False, shuffle=True, own=True), 13, marks=LATER),
    pytest.param(Job(every=13, poisson=False, workers=2), 13, marks=LATER),
    pytest.param(Job(every=13, workers=2, transform=True), 13, marks=LATER),
]


def varied(job: Job) -> str:
    return ",".join(f"{k}={v}" for k, v in vars(job).items() if v != getattr(Job(), k))


@pytest.mark.filterwarnings("ignore:.*supports no epsilon")
@pytest.mark.parametrize(("job", "at"), EXACT, ids=lambda v: varied(v) if type(v) is Job else v)
def test_goes_on_bit_for_bit(tmp_path, job, at):
    """In the middle and at the end of an epoch; with whatever draws random numbers."""
    once = train(Job(**vars(job) | {"every": NEVER, "outside": False}), tmp_path / "once")
    assert once["steps"] == 30
    assert stopped(job, tmp_path / "stopped", at) == once


def test_workers_do_not_matter(tmp_path):
    def stop(made: Built) -> None:
        if made.engine.steps == 13:
            raise Stopped

    with pytest.raises(Stopped):
        train(Job(every=13, workers=2), tmp_path / "stopped", saved=stop)
    assert train(Job(), tmp_path / "stopped") == train(Job(every=NEVER), tmp_path / "once")


def test_shared_weights_stay_known(tmp_path):
    """How the uses of a weight are added up decides how they round."""
    made = build(Job(tied=True))
    checkpoints = made.checkpoints(tmp_path)
    made.steps(3)
    checkpoints.save()
    again = build(Job(tied=True))
    again.checkpoints(tmp_path).resume()
    shared = again.engine._engine._shared
    assert shared == {again.model.first.weight} and len(made.engine._engine._shared) == 1


def test_objects_stay_who_they_are(tmp_path):
    made = build(Job(tied=True))
    made.steps(3)
    made.checkpoints(tmp_path).save({"mine": (1, {2: "x"})})
    again = build(Job(tied=True))
    params = list(again.model.parameters())
    where = [p.data_ptr() for p in params]
    resumed = again.checkpoints(tmp_path).resume()
    assert resumed is not None and (resumed.steps, resumed.epoch, resumed.lost) == (3, 0, 0)
    assert resumed.extra == {"mine": (1, {2: "x"})} and resumed.path.name == "000001-step-3"
    assert [p.data_ptr() for p in params] == where
    assert all(a is b for a, b in zip(again.model.parameters(), params, strict=True))
    assert again.model.again.weight is again.model.first.weight
    assert int(again.model.seen) == int(made.model.seen) > 3
    groups = again.optimizer.param_groups
    assert [p for g in groups for p in g["params"]] == params
    assert all(type(key) is nn.Parameter for key in again.optimizer.state)
    assert result(again) == result(made)


class Counting(nn.Linear):
    """Has a state that is no tensor."""

    told: dict = {}  # noqa: RUF012

    def get_extra_state(self):
        return self.told

    def set_extra_state(self, state):
        self.told = state


def test_states_of_modules_that_are_no_tensors(tmp_path):
    made, again = build(Job()), build(Job())
    for each in (made, again):
        each.model.last = Counting(8, 3)
    made.model.last.told = {"calls": 3, 1: (2.5, None)}
    made.checkpoints(tmp_path).save()
    again.checkpoints(tmp_path).resume()
    assert again.model.last.told == {"calls": 3, 1: (2.5, None)}
    assert torch.equal(again.model.last.weight, made.model.last.weight)


def test_weights_are_a_file_that_others_read(tmp_path):
    made = build(Job(tied=True))
    path = made.checkpoints(tmp_path).save()
    other = Model(tied=True)
    load_model(other, path / "weights.safetensors")
    wanted = made.model.state_dict()
    assert all(torch.equal(v, wanted[n]) for n, v in other.state_dict().items())


def test_noise_that_was_changed_on_the_way(tmp_path):
    made = build(Job())
    checkpoints = made.checkpoints(tmp_path)
    made.steps(2)
    made.engine.noise_multiplier = 3.0
    made.steps(2)
    checkpoints.save()
    again = build(Job())
    again.checkpoints(tmp_path).resume()
    assert again.engine.noise_multiplier == 3.0 and result(again) == result(made)
    assert alike(made, again, 4)
    assert made.engine._ledger.history == [(1.0, 0.1, 2), (3.0, 0.1, 6)]


def test_starts_where_there_is_nothing(tmp_path):
    checkpoints = build(Job()).checkpoints(tmp_path / "a" / "b")
    assert checkpoints.resume() is None


def test_saved_again_before_the_next_step(tmp_path):
    made = build(Job())
    made.steps(13)
    made.checkpoints(tmp_path).save()
    again = build(Job())
    checkpoints = again.checkpoints(tmp_path)
    checkpoints.resume()
    checkpoints.save()
    last = build(Job())
    resumed = last.checkpoints(tmp_path).resume()
    assert resumed is not None and resumed.epoch == 1
    assert len(list(last.loader)) < len(list(last.loader))  # what is left of an epoch, and one


def test_resumes_before_training_only(tmp_path):
    """What was spent since would be forgotten; nothing is changed."""
    made = build(Job())
    checkpoints = made.checkpoints(tmp_path)
    made.steps(2)
    checkpoints.save()
    made.steps(2)
    before = result(made)
    with pytest.raises(RuntimeError, match="right after make_private"):
        checkpoints.resume()
    assert result(made) == before


# ---- when it may be saved ----------------------------------------------------------------------


def test_waits_for_the_end_of_a_step(tmp_path):
    made = build(Job())
    checkpoints = made.checkpoints(tmp_path, keep=9)
    for x, y in made.loader:
        made.optimizer.zero_grad()
        nn.functional.cross_entropy(made.model(x), y).backward()
        with pytest.raises(RuntimeError, match=r"Save after optimizer.step.*every"):
            checkpoints.save()
        made.optimizer.step()
        path = checkpoints.every(4)
        ended = made.engine._engine.stepped and made.engine.steps % 4 == 0
        assert (path is not None) == ended
    names = [p.name for p in sorted(tmp_path.glob("*-step-*"))]
    assert names == ["000001-step-4", "000002-step-8"]


def test_keeps_the_newest(tmp_path):
    made = build(Job())
    checkpoints = made.checkpoints(tmp_path, keep=3)
    for _ in range(6):
        made.steps(1)
        checkpoints.save()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["000004-step-4", "000005-step-5", "000006-step-6", "lock"]
    with pytest.raises(ValueError, match="keep=0: expected at least 1"):
        made.checkpoints(tmp_path, keep=0)


def test_a_run_that_was_not_resumed_writes_nothing(tmp_path):
    made = build(Job())
    made.checkpoints(tmp_path).save()
    with pytest.raises(RuntimeError, match=r"not resumed. Call resume\(\)"):
        build(Job()).checkpoints(tmp_path).save()
    assert len(list(tmp_path.glob("*-step-*"))) == 1


def test_values_that_are_not_plain_are_refused_and_nothing_is_written(tmp_path):
    made = build(Job())
    checkpoints = made.checkpoints(tmp_path)
    with pytest.raises(TypeError, match=r"extra\['model'\] is a .*Model"):
        checkpoints.save({"model": made.model})
    made.optimizer.param_groups[0]["odd"] = {1, 2}
    with pytest.raises(TypeError, match=r"optimizer\['param_groups'\]\[0\]\['odd'\] is a .*set"):
        checkpoints.save()
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_nothing_is_private_yet(tmp_path):
    made = build(Job())
    made.engine.close()
    with pytest.raises(RuntimeError, match="Call make_private first"):
        made.checkpoints(tmp_path)


@pytest.mark.filterwarnings("ignore:.*fork")
def test_one_process_at_a_time(tmp_path):
    held = build(Job())
    checkpoints = held.checkpoints(tmp_path)

    def other() -> str:
        try:
            held.checkpoints(tmp_path)
        except RuntimeError as error:
            return str(error)
        return ""

    assert f"in use by another process (pid {os.getpid()})" in forked(other)
    checkpoints.close()
    assert forked(other) == ""
    assert forked(other) == ""  # the other process has ended, and left its pid behind


# ---- what is passed over -----------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = (flip, shorten, halve, empty, lengthen, zero, Path.unlink)


@pytest.fixture
def two(tmp_path) -> tuple[Path, list[Path]]:
    """A folder with two checkpoints, of steps 2 and 4."""
    made, folder = build(Job(tied=True)), tmp_path / "run"
    checkpoints = made.checkpoints(folder)
    paths = []
    for _ in range(2):
        made.steps(2)
        paths.append(checkpoints.save())
    checkpoints.close()
    return folder, paths


def untouched(made: Built) -> list[bytes]:
    tensors = made.model.state_dict().values()
    state = [torch.get_rng_state(), made.engine._streams_made.noise.state()]
    return [t.detach().numpy().tobytes() for t in (*tensors, *state)]


def test_damaged_checkpoints_are_passed_over(two, tmp_path):
    """Every file, cut short, changed or missing; the one before is used, and named."""
    folder, paths = two
    for name in FILES:
        for damage in DAMAGES:
            made = build(Job(tied=True))
            copy = tmp_path / f"{name}-{damage.__name__}"
            shutil.copytree(folder, copy)
            damage(copy / paths[1].name / name)
            words = rf"{paths[1].name} is passed over: .*{name}.*Using .*{paths[0].name}"
            with pytest.warns(UserWarning, match=words):
                resumed = made.checkpoints(copy).resume()
            assert resumed is not None and resumed.steps == made.engine.steps == 2


def test_every_byte_counts(two):
    _, paths = two
    for name in FILES:
        data = (paths[1] / name).read_bytes()
        for at in range(0, len(data), max(1, len(data) // 40)):
            changed = bytearray(data)
            changed[at] ^= 1
            (paths[1] / name).write_bytes(changed)
            with pytest.raises(sealed.Unusable):
                sealed.unsealed(paths[1])
        (paths[1] / name).write_bytes(data)
    sealed.unsealed(paths[1])


def test_without_any_that_can_be_used_nothing_starts_anew(two):
    folder, paths = two
    flip(paths[0] / "weights.safetensors")
    shorten(paths[1] / "state.json")
    made = build(Job(tied=True))
    before = untouched(made)
    words = r"None of the checkpoints in .*step-4: state.json has .*step-2: weights.safetensors is"
    with pytest.raises(RuntimeError, match=words):
        made.checkpoints(folder).resume()
    assert untouched(made) == before and made.engine.steps == 0
    assert all(path.exists() for path in paths)


def test_a_damaged_one_does_not_count_as_kept(two):
    folder, paths = two
    flip(paths[1] / "weights.safetensors")
    made = build(Job(tied=True))
    checkpoints = made.checkpoints(folder)
    with pytest.warns(UserWarning, match="passed over"):
        checkpoints.resume()
    made.steps(2)
    new = checkpoints.save()
    assert new.name == "000003-step-4" and paths[0].exists()
    again = build(Job(tied=True))
    resumed = again.checkpoints(folder).resume()
    assert resumed is not None and resumed.path == new
    made.steps(1)
    checkpoints.save()
    assert not paths[0].exists() and not paths[1].exists()


def test_leftovers_of_a_kill_are_swept(two):
    folder, paths = two
    shutil.copytree(paths[1], folder / ".writing-000003-step-6")
    shutil.copytree(paths[1], folder / ".removing-000000-step-1")
    (folder / ".writing-000003-step-6" / "manifest.json").unlink()
    resumed = build(Job(tied=True)).checkpoints(folder).resume()
    assert resumed is not None and resumed.path == paths[1]
    assert sorted(p.name for p in folder.iterdir()) == [*(p.name for p in paths), "lock"]


def reseal(path: Path) -> None:
    """Makes the manifest fit to whatever the files are now."""
    facts = json.loads((path / "manifest.json").read_text())
    facts.pop("sha256")
    facts["files"] = {name: sealed._measured(path / name) for name in facts["files"]}
    text = json.dumps(facts | {"sha256": sealed._digest(facts)})
    (path / "manifest.json").write_text(text)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


def bombs(path: Path) -> None:
    torch.save({"x": Bomb()}, path)


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("damage", [bombs, nested, empty, halve])
def test_no_file_is_trusted_for_its_hash(two, name, damage):
    """Content of the wrong kind under hashes that are right: refused, and nothing is run."""
    folder, paths = two
    damage(paths[1] / name)
    reseal(paths[1])
    made = build(Job(tied=True))
    with pytest.warns(UserWarning, match="passed over: it (cannot be read|holds no safetensors)"):
        resumed = made.checkpoints(folder).resume()
    assert resumed is not None and resumed.steps == 2


def test_loading_runs_no_pickle(two, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a pickle was loaded")

    for owner, names in ((pickle, ("load", "loads", "Unpickler")), (torch, ("load",))):
        for name in names:
            monkeypatch.setattr(owner, name, forbidden)
    assert build(Job(tied=True)).checkpoints(two[0]).resume() is not None


def test_another_format_is_passed_over(two):
    folder, paths = two
    facts = json.loads((paths[1] / "manifest.json").read_text())
    facts["format"] = 99
    (paths[1] / "manifest.json").write_text(json.dumps(facts))
    reseal(paths[1])
    with pytest.warns(UserWarning, match="it has format 99, this version of dpclip reads 1"):
        build(Job(tied=True)).checkpoints(folder).resume()


def test_another_model_is_named(two):
    folder, _ = two
    for change, words in (
        (lambda m: setattr(m, "more", nn.Linear(2, 2)), r"missing: more.weight, more.bias"),
        (lambda m: m.__delattr__("last"), r"unexpected: last.bias, last.weight"),
        (
            lambda m: setattr(m, "last", nn.Linear(8, 4)),
            r"another shape: last.weight \[3, 8\] float64 instead of \[4, 8\] float64",
        ),
        (lambda m: m.float(), r"first.weight \[8, 8\] float64 instead of \[8, 8\] float32"),
    ):
        made = build(Job(tied=True))
        change(made.model)
        before = untouched(made)
        with pytest.raises(RuntimeError, match=words):
            made.checkpoints(folder).resume()
        assert untouched(made) == before


def test_another_optimizer_is_named(two):
    with pytest.raises(RuntimeError, match=r"another .*optimizer or version: .* Adam, here SGD"):
        build(Job(tied=True, optimizer="sgd")).checkpoints(two[0]).resume()


def test_another_order_of_parameters_is_named(two):
    made = build(Job(tied=True))
    made.optimizer.param_groups[0]["params"].reverse()
    with pytest.raises(RuntimeError, match=r"parameters \[\['first.weight'.*here \[\['last.bias'"):
        made.checkpoints(two[0]).resume()


def test_the_state_of_another_version_is_named(two, monkeypatch):
    made = build(Job(tied=True))
    state = made.engine.state_dict() | {"more": 1}
    monkeypatch.setattr(made.engine, "state_dict", lambda: state)
    before = untouched(made)
    with pytest.raises(RuntimeError, match=r"another .*version: engine .*'more'"):
        made.checkpoints(two[0]).resume()
    assert untouched(made) == before


def test_other_settings_are_named(two):
    folder, _ = two
    before = None
    for job, sigma, words in (
        (Job(tied=True), 2.0, r"noise_multiplier 1.0 \(now 2.0\)"),
        (Job(tied=True, steered=True), 1.0, r"weighting 'clip\(0.5\)' \(now 'quantile\(0.5\)'\)"),
        (Job(tied=True, poisson=False), 1.0, r"sampling rate 0.1 \(now None\)"),
        (Job(tied=True, secure=True), 1.0, r"randomness 'seeded' \(now 'secure'\)"),
    ):
        made = build(job, sigma)
        weights = [p.detach().clone() for p in made.model.parameters()]
        with pytest.raises(ValueError, match=rf"step-4 was written with .*{words}"):
            made.checkpoints(folder).resume()
        same = zip(weights, made.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in same) and made.engine.steps == 0
    assert before is None


def test_a_weighting_that_was_set_on_the_way_must_be_set_again(tmp_path):
    made = build(Job())
    made.engine.weighting = normalize(0.1)
    made.checkpoints(tmp_path).save()
    again = build(Job())
    with pytest.raises(ValueError, match=r"weighting 'normalize\(0.1, radius=1\)'"):
        again.checkpoints(tmp_path).resume()
    again.engine.weighting = normalize(0.1)
    assert again.checkpoints(tmp_path).resume() is not None
    again.engine.weighting = clip(1.0)


# ---- secure runs -------------------------------------------------------------------------------


def spent(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "spent.jsonl").read_text().splitlines()]


def test_lost_steps_of_a_secure_run_stay_spent(tmp_path):
    """After the second kill, those of the first one too."""
    made = build(Job(secure=True))
    checkpoints = made.checkpoints(tmp_path)
    assert checkpoints.resume() is None
    made.steps(4)
    checkpoints.save()
    made.steps(3)
    assert spent(tmp_path) == [{"sigma": 1.0, "q": 0.1, "reasons": []}] * 7
    for lost in (3, 5):
        made = build(Job(secure=True))
        resumed = made.checkpoints(tmp_path).resume()
        assert resumed is not None and (resumed.steps, resumed.lost) == (4, lost)
        assert made.engine._ledger.history == [(1.0, 0.1, 4 + lost)]
        made.steps(2)
        assert made.engine._ledger.history == [(1.0, 0.1, 6 + lost)]
    assert made.engine.steps == 6 and len(spent(tmp_path)) == 11


def test_steps_before_the_first_checkpoint_stay_spent(tmp_path):
    made = build(Job(secure=True))
    made.checkpoints(tmp_path)
    made.steps(3)
    again = build(Job(secure=True))
    assert again.checkpoints(tmp_path).resume() is None
    assert again.engine.steps == 0 and again.engine._ledger.history == [(1.0, 0.1, 3)]
    last = build(Job(secure=True))
    with pytest.raises(RuntimeError, match=r"not resumed. Call resume\(\)"):
        last.checkpoints(tmp_path).save()


def test_a_secure_key_is_not_written(tmp_path):
    made = build(Job(secure=True))
    made.steps(2)
    path = made.checkpoints(tmp_path).save()
    state = json.loads((path / "state.json").read_text())["engine"]
    assert state["noise"] is state["loose"] is state["position"]["stream"] is None
    streams = made.engine._streams_made
    keys = [s._key for s in (streams.draws, streams.loose, streams.noise)]
    for name in FILES:
        data = (path / name).read_bytes()
        assert not any(key in data or key.hex().encode() in data for key in keys)


def test_a_step_is_noted_before_its_noise_is_drawn(tmp_path, monkeypatch):
    made = build(Job(secure=True))
    made.checkpoints(tmp_path)
    stream = type(made.engine._streams_made.noise)
    seen, normal = [], stream.normal

    def watched(self, like, std):
        seen.append(len(spent(tmp_path)))
        return normal(self, like, std)

    monkeypatch.setattr(stream, "normal", watched)
    made.steps(2)
    assert set(seen) == {1, 2} and seen == sorted(seen)


TORN = ['{"sigma": 1.', "{", '{"sigma": 1.0, "q": 0.1, "reasons": []}', "\x00\x00", "null", "{}"]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_line_is_one_more_step(tmp_path, torn):
    made = build(Job(secure=True), sigma=2.0)
    checkpoints = made.checkpoints(tmp_path)
    checkpoints.save()
    made.steps(2)
    made.engine.noise_multiplier = 1.0
    made.steps(1)
    with (tmp_path / "spent.jsonl").open("a") as file:
        file.write(torn)
    for lost in (4, 5):  # it stays a line of its own
        again = build(Job(secure=True), sigma=2.0)
        resumed = again.checkpoints(tmp_path).resume()
        assert resumed is not None and resumed.lost == lost
        history = {sigma: count for sigma, _, count in again.engine._ledger.history}
        assert history == {2.0: 2 + (lost == 5), 1.0: 2}  # a torn one counts as the worst
        assert 0 < again.engine.get_epsilon(1e-5) < math.inf
        again.steps(1)


def test_reasons_of_lost_steps_stay(tmp_path):
    """A step that nobody can account for, after the checkpoint."""
    made = build(Job(secure=True))
    checkpoints = made.checkpoints(tmp_path)
    checkpoints.save()
    made.engine._ledger.void("of a reason")
    made.steps(1)
    again = build(Job(secure=True))
    again.checkpoints(tmp_path).resume()
    assert again.engine.get_epsilon(1e-5) == math.inf and "of a reason" in again.engine.guarantee


def test_a_journal_that_was_cut_voids(tmp_path):
    made = build(Job(secure=True))
    checkpoints = made.checkpoints(tmp_path)
    made.steps(2)
    checkpoints.save()
    (tmp_path / "spent.jsonl").unlink()
    again = build(Job(secure=True))
    with pytest.warns(UserWarning, match=r"journal of spent steps is shorter.*Bring it back"):
        again.checkpoints(tmp_path).resume()
    assert again.engine.get_epsilon(1e-5) == math.inf and "journal" in again.engine.guarantee


def test_a_full_disk_stops_the_step(tmp_path, monkeypatch):
    made = build(Job(secure=True))
    made.checkpoints(tmp_path)
    made.steps(1)
    before = [p.detach().clone() for p in made.model.parameters()]
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
    with pytest.raises(OSError, match="the disk is full"):
        made.steps(1)
    monkeypatch.undo()
    assert all(torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True))
    assert len((tmp_path / "spent.jsonl").read_text().splitlines()) == 2


def test_seeded_runs_keep_no_journal(tmp_path):
    made = build(Job())
    made.checkpoints(tmp_path)
    made.steps(2)
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_close_ends_the_journal(tmp_path):
    made = build(Job(secure=True))
    checkpoints = made.checkpoints(tmp_path)
    made.steps(1)
    checkpoints.close()
    made.steps(1)
    assert len(spent(tmp_path)) == 1 and made.engine._ledger.history == [(1.0, 0.1, 2)]


# ---- killed at every touch of the disk ---------------------------------------------------------


def forked(work) -> str:
    """Returns what work() returns in a process of its own; "killed" if that was killed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, str(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else said


TOUCHES = ("open", "os.rename", "os.mkdir", "shutil.rmtree")
REMOVES = ("os.remove", "os.rmdir")  # by names that are relative to a folder


def killed_at(touch: int, folder: Path, work) -> int:
    """Does work(), and kills this process at a touch of the disk; returns how many there were."""
    seen = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal seen
        if event in REMOVES or (event in TOUCHES and any(str(folder) in str(a) for a in args)):
            if seen == touch:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)
    work()
    return seen


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("keep", [1, 2])
def test_killed_at_every_touch_of_the_disk(tmp_path, keep):
    """SIGKILL before each file that a save opens, renames or removes; then the run goes on."""
    made, folder = build(Job()), tmp_path / "run"
    checkpoints = made.checkpoints(folder, keep=keep)
    digests = {}
    for _ in range(keep):
        made.steps(1)
        digests[made.engine.steps] = digest(made)
        checkpoints.save()
    checkpoints.close()
    made.steps(1)
    digests[made.engine.steps] = digest(made)
    newest, found, dropout = keep, set(), torch.get_rng_state()
    for touch in range(200):
        copy = tmp_path / str(touch)
        shutil.copytree(folder, copy)

        def save(copy=copy, touch=touch) -> int:
            here = made.checkpoints(copy, keep=keep)
            here._resumed = True
            torch.set_rng_state(dropout)
            return killed_at(touch, copy, here.save)

        said = forked(save)
        again = build(Job())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            resumed = again.checkpoints(copy, keep=keep).resume()
        assert resumed is not None and resumed.steps in (newest, newest + 1)
        assert digest(again) == digests[resumed.steps]
        for path in copy.glob("*-step-*"):
            sealed.unsealed(path)
        found.add(resumed.steps)
        if said != "killed":
            break
    assert touch > 20 and found == {newest, newest + 1} and resumed.steps == newest + 1


def digest(made: Built) -> str:
    return hashlib.sha256(json.dumps(result(made)).encode()).hexdigest()


def test_a_hostile_safetensors_file_is_refused(two):
    """Names and shapes that are not the model's, under hashes that are right."""
    folder, paths = two
    for path in paths:
        save_file({"first.weight": torch.zeros(1)}, path / "weights.safetensors")
        reseal(path)
    with pytest.raises(RuntimeError, match="its weights are of another model"):
        build(Job(tied=True)).checkpoints(folder).resume()
