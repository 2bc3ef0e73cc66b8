"""Physical batches of similar length: what changes is how little is padded, and nothing else."""

from __future__ import annotations

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dpclip import (
    PrivacyEngine,
    by_key,
    clip,
    clip_to_min,
    clusters,
    micro_batches,
    per_core,
    per_layer,
    per_sample,
    quantile,
)
from dpclip.limits import Limits, limits
from dpclip.pieces import Logical, cut, piece_of

LOGICAL = Logical(3, 0.5, 2)
N = 60
LENGTHS = [1 + (i * 37) % 50 for i in range(N)]
GROUPINGS = [
    per_sample(),
    micro_batches(4),
    micro_batches(4, slots="random"),
    per_core(2),
    per_core(2, slots="fixed"),
    by_key(lambda i: i % 7),
    by_key(lambda i: i // 3, unit="user"),
]
WAYS = [
    {"max_physical_batch": 5},
    {"max_physical_size": 120},
    {"max_physical_batch": 5, "max_physical_size": 150},
]
both = pytest.mark.parametrize("grouping", GROUPINGS, ids=lambda g: g.label)


# ---- where a logical batch is cut --------------------------------------------------------------


@st.composite
def drawn(draw):
    """Slots and lengths of a logical batch, and limits that hold its longest record."""
    slots = draw(st.lists(st.integers(0, 7), min_size=1, max_size=30))
    lengths = draw(st.lists(st.integers(1, 20), min_size=len(slots), max_size=len(slots)))
    rows = draw(st.none() | st.integers(1, 12))
    size = draw(st.none() | st.integers(max(lengths), 150))
    return slots, lengths, rows, size


def pieces(slots, lengths, rows, size):
    known = None if lengths is None else np.array(lengths)
    made = cut(range(len(slots)), torch.tensor(slots), Limits(rows, size, known), LOGICAL)
    return [piece_of(draws) for draws in made]


def holds(ids, lengths, rows, size):
    """The limits, spelled out."""
    padded = len(ids) * max(lengths[i] for i in ids)
    return (rows is None or len(ids) <= rows) and (size is None or padded <= size)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(drawn())
def test_pieces_keep_the_limits_and_the_slots(batch):
    slots, lengths, rows, size = batch
    made = pieces(*batch)
    assert sorted(i for p in made for i in p.ids.tolist()) == list(range(len(slots)))
    for number, piece in enumerate(made):
        ids = piece.ids.tolist()
        assert holds(ids, lengths, rows, size)
        assert piece.slots.tolist() == sorted(slots[i] for i in ids)
        assert (piece.first, piece.last) == (number == 0, number == len(made) - 1)
    runs = [slot for p in made for slot, _ in itertools.groupby(p.slots.tolist())]
    ends = [slot for slot, _ in itertools.groupby(runs)]
    assert len(ends) == len(set(slots))  # the pieces of a slot follow each other
    for piece, after in zip(made, [*made[1:], None], strict=True):
        goes_on = after is not None and piece.slots[-1] == after.slots[0]
        assert piece.open == goes_on
        assert not piece.open or len(piece.slots.unique()) == 1


def by_hand(slots, lengths, rows, size):
    """Returns the samples of each piece: whole slots from the front, as many as the limits hold."""
    held = {s: [i for i in range(len(slots)) if slots[i] == s] for s in sorted(set(slots))}
    todo = sorted(held.values(), key=lambda members: -max(lengths[i] for i in members))
    made = []
    while todo:
        fronts = [[i for block in todo[:n] for i in block] for n in range(1, len(todo) + 1)]
        whole = [front for front in fronts if holds(front, lengths, rows, size)]
        samples = max(whole, key=len, default=todo[0])
        todo = todo[max(1, len(whole)) :]
        samples.sort(key=lambda i: -lengths[i])
        while samples:
            some = next(
                n for n in range(len(samples), 0, -1) if holds(samples[:n], lengths, rows, size)
            )
            made.append(set(samples[:some]))
            samples = samples[some:]
    return made


@settings(max_examples=300, deadline=None, derandomize=True)
@given(drawn())
def test_longest_come_first_and_pieces_are_full(batch):
    assert [set(p.ids.tolist()) for p in pieces(*batch)] == by_hand(*batch)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(drawn())
def test_equal_lengths_change_nothing(batch):
    slots, _, rows, _ = batch
    alike = pieces(slots, [3] * len(slots), rows, None)
    for one, two in zip(alike, pieces(slots, None, rows, None), strict=True):
        assert torch.equal(one.ids, two.ids) and one[3:] == two[3:]


def test_little_is_padded():
    """Of 64 log-normal lengths, in pieces of 16: the sum of each piece's longest, by hand."""
    lengths = np.random.default_rng(0).lognormal(6, 0.7, 64).astype(int)
    made = pieces(list(range(64)), lengths, 16, None)
    down = np.sort(lengths)[::-1]
    assert [int(lengths[p.ids].max()) for p in made] == down[::16].tolist()
    assert [len(p.ids) for p in made] == [16] * 4
    assert 16 * down[::16].sum() < 0.7 * 64 * down[0]


# ---- what stays the same -----------------------------------------------------------------------


def made_private(kit, model, *, sigma=1.0, rule=None, seed=1, workers=0, data=None, **more):
    engine = PrivacyEngine(seed=seed, measure=False, fixed_shape=more.pop("fixed_shape", False))
    made = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        data_loader=DataLoader(data or kit.vectors(N), batch_size=20, num_workers=workers),
        noise_multiplier=sigma,
        weighting=rule or clip(0.2),
        **more,
    )
    return engine, *made


def run(kit, engine, model, optimizer, loader, steps=6):
    """Trains; returns the groups of each logical batch, and how many pieces there were."""
    groups, seen = {}, 0
    while engine.steps < steps:
        for x, y in loader:
            piece = engine._engine.yielded.piece
            for i, slot in zip(piece.ids[piece.real], piece.slots[piece.real], strict=True):
                groups.setdefault((piece.logical, int(slot)), set()).add(int(i))
            optimizer.zero_grad()
            kit.mean_loss(model(x), y).backward()
            optimizer.step()
            seen += 1
            if engine.steps == steps:
                break
    return groups, seen


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*supports no epsilon.*")
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("how", WAYS, ids=str)
@both
def test_training_is_the_same(kit, grouping, how):
    """Batches, groups, weights with noise, epsilon and guarantee."""
    model, data = kit.Mlp(), kit.vectors(N)
    found = []
    for given_ in ({}, how | {"lengths": LENGTHS}):
        trained = made_private(kit, copy.deepcopy(model), data=data, grouping=grouping, **given_)
        groups, seen = run(kit, *trained)
        found.append((groups, trained, seen))
    (groups, one, whole), (again, two, cuts) = found
    assert again == groups and cuts > whole
    kit.close(weights(two[1]), weights(one[1]), rtol=1e-12)
    assert two[0].get_epsilon(1e-5) == one[0].get_epsilon(1e-5)
    assert two[0].guarantee == one[0].guarantee
    assert two[0].steps == one[0].steps == 6


@pytest.mark.parametrize(
    "rule", [per_layer(clip(0.1)), quantile(0.5, bound=0.3, count_noise=1.0)], ids=lambda r: r.label
)
@pytest.mark.parametrize(
    "grouping", [per_sample(), per_core(2, slots="fixed")], ids=lambda g: g.label
)
def test_other_rules(kit, rule, grouping):
    model, data = kit.Mlp(), kit.vectors(N)
    found = []
    for how in ({}, {"max_physical_size": 120, "lengths": LENGTHS}):
        trained = made_private(
            kit, copy.deepcopy(model), data=data, rule=rule, grouping=grouping, **how
        )
        run(kit, *trained)
        found.append(weights(trained[1]))
    kit.close(found[1], found[0], rtol=1e-12)


def test_groups_by_position_are_those_of_the_draw(kit):
    """Clipping to the smallest norm, over groups that several pieces hold."""
    model, data = kit.Mlp(), kit.vectors(N)
    found = []
    for how in ({}, {"max_physical_batch": 3, "lengths": LENGTHS}):
        trained = made_private(
            kit,
            copy.deepcopy(model),
            data=data,
            sigma=0.0,
            rule=clip_to_min(),
            grouping=micro_batches(5),
            **how,
        )
        run(kit, *trained)
        found.append(weights(trained[1]))
    kit.close(found[1], found[0], rtol=1e-12)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_fixed_shape_and_the_loop(kit, loop, fixed):
    model, data = kit.Mlp(), kit.vectors(N)
    found, sizes = [], []
    for how in ({}, {"max_physical_batch": 5, "lengths": LENGTHS, "fixed_shape": fixed}):
        trained = kit.private(
            copy.deepcopy(model), data, batch_size=20, weighting=clip(0.2), loop=loop, **how
        )
        for x, y in trained.loader:
            sizes.append(len(x))
            kit.mean_loss(trained.model(x), y).backward()
            trained.optimizer.step()
        found.append(weights(trained.model))
    kit.close(found[1], found[0], rtol=1e-12)
    assert (set(sizes[3:]) == {5}) == fixed


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4])
def test_training_goes_on_in_the_middle_of_an_epoch(kit, workers, stop):
    model, data = kit.Mlp(), kit.vectors(N)
    how = {"data": data, "workers": workers, "max_physical_size": 120, "lengths": LENGTHS}
    how |= {"grouping": micro_batches(4, slots="random")}
    whole = made_private(kit, copy.deepcopy(model), **how)
    assert run(kit, *whole)[1] > 6  # pieces
    first = made_private(kit, copy.deepcopy(model), **how)
    run(kit, *first, steps=stop)
    second = made_private(kit, copy.deepcopy(model), seed=7, **how)
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(first[1].state_dict())
    second[2].load_state_dict(first[2].state_dict())
    run(kit, *second)
    kit.close(weights(second[1]), weights(whole[1]), rtol=1e-12)


def test_batches_without_a_record_and_with_one(kit):
    """At q = 1/60 a third of the batches is empty; each takes its step, with noise."""
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(N),
        batch_size=1,
        noise_multiplier=1.0,
        weighting=clip(0.2),
        max_physical_size=50,
        lengths=LENGTHS,
    )
    held = []
    for x, y in trained.loader:
        before = trained.engine.steps
        held.append(int(trained.inner.yielded.piece.real.sum()))
        last = trained.inner.yielded.piece.last
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
        assert trained.engine.steps == before + last
    assert {0, 1} <= set(held) and trained.engine.steps == N
    assert np.isfinite(trained.engine.get_epsilon(1e-5))


def test_own_batches_are_cut_as_well(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(N), poisson_sampling=False, max_physical_size=100, lengths=LENGTHS
    )
    batches = {}
    for x, y in trained.loader:
        piece = trained.inner.yielded.piece
        assert len(piece.ids) * max(LENGTHS[i] for i in piece.ids) <= 100
        batches.setdefault(piece.logical.number, []).extend(piece.ids.tolist())
        kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
    assert [sorted(b) for b in batches.values()] == [
        list(range(i, min(N, i + 8))) for i in range(0, N, 8)
    ]


def test_noise_for_a_target(kit):
    """The limits arrive through make_private_with_epsilon as well."""
    model = kit.Mlp()
    engine = PrivacyEngine(seed=0)
    made = engine.make_private_with_epsilon(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(kit.vectors(N), batch_size=20),
        target_epsilon=3.0,
        target_delta=1e-5,
        epochs=1,
        max_grad_norm=0.2,
        max_physical_size=120,
        lengths=LENGTHS,
    )
    for x, y in made[2]:
        assert len(x) * max(LENGTHS[i] for i in engine._engine.yielded.piece.ids) <= 120
        kit.mean_loss(model(x), y).backward()
        made[1].step()
    assert engine.steps == 3


# ---- records that really are padded ------------------------------------------------------------


class Sequences(Dataset):
    """Record i has LENGTHS[i] frames of 4 numbers."""

    def __init__(self):
        self.items = [torch.randn(length, 4) for length in LENGTHS]

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.items[i], i % 3


def padded(items):
    """Returns (frames [B, T, 4], lengths [B], classes [B])."""
    frames, classes = zip(*items, strict=True)
    lengths = torch.tensor([len(f) for f in frames])
    return nn.utils.rnn.pad_sequence(frames, batch_first=True), lengths, torch.tensor(classes)


class Masked(nn.Module):
    """A convolution over time and a mean over the frames of a record; or over all frames."""

    def __init__(self, local=True):
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 3)
        self.local = local

    def forward(self, x, lengths):
        seen = torch.tanh(self.conv(x.transpose(1, 2)))
        mask = torch.arange(x.shape[1]) < lengths[:, None]
        if not self.local:
            return self.head(seen.mean(2))
        return self.head((seen * mask[:, None]).sum(2) / lengths[:, None])


def sequence_loss(model, batch):
    x, lengths, y = batch
    return F.cross_entropy(model(x, lengths), y)


def sequences(model, data, **how):
    engine = PrivacyEngine(seed=1, measure=False)
    made = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        data_loader=DataLoader(data, batch_size=20, collate_fn=padded),
        noise_multiplier=1.0,
        max_grad_norm=0.2,
        **how,
    )
    frames = 0
    for batch in made[2]:
        frames += batch[0].shape[0] * batch[0].shape[1]
        sequence_loss(model, batch).backward()
        made[1].step()
    report = engine.doctor(lambda batch: sequence_loss(model, batch))
    return weights(model), frames, report


def test_padded_records_train_the_same_with_less_padding(kit):
    model, data = Masked(), Sequences()
    plain, frames, _ = sequences(copy.deepcopy(model), data, max_physical_batch=5)
    sorted_, fewer, report = sequences(model, data, max_physical_batch=5, lengths=LENGTHS)
    assert report.sound
    kit.close(sorted_, plain, rtol=1e-12)
    assert fewer < 0.8 * frames


def test_doctor_sees_rows_that_depend_on_their_padding():
    model = Masked(local=False)
    _, _, report = sequences(model, Sequences(), max_physical_size=120, lengths=LENGTHS)
    assert not report.sound and "with its padding" in report.findings[0].text


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"max_physical_size": 9}, "no lengths were given"),
        ({"lengths": LENGTHS}, "nothing cuts them"),
        ({"lengths": LENGTHS, "max_physical_size": 0}, "size=0: expected at least 1"),
        ({"lengths": LENGTHS, "max_physical_size": 49}, "Record 27 has length 50, which alone"),
        ({"lengths": LENGTHS[:-1], "max_physical_batch": 4}, r"shape \(59,\): expected \(60,\)"),
        ({"lengths": [LENGTHS], "max_physical_batch": 4}, r"shape \(1, 60\)"),
        ({"lengths": [1.5] * N, "max_physical_batch": 4}, "float64: expected whole numbers"),
        ({"lengths": [True] * N, "max_physical_batch": 4}, "bool: expected whole numbers"),
        ({"lengths": [3, 0] * (N // 2), "max_physical_batch": 4}, "Record 1 has length 0"),
        ({"lengths": [3, -1] * (N // 2), "max_physical_batch": 4}, "Record 1 has length -1"),
        (
            {"lengths": LENGTHS, "max_physical_batch": 4, "max_physical_size": 90, "fixed": True},
            "Leave one of the two out",
        ),
        (
            {
                "lengths": LENGTHS,
                "max_physical_size": 90,
                "grouping": clusters(2, features="layers.0"),
            },
            "max_physical_size=90 cuts it",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_limits_that_cannot_be_kept(kit, how, words):
    how = dict(how)
    with pytest.raises(ValueError, match=words):
        kit.private(
            kit.Mlp(), kit.vectors(N), fixed_shape=how.pop("fixed", False), weighting=clip(1), **how
        )


def test_lengths_are_read_from_what_holds_numbers():
    for given_ in (LENGTHS, tuple(LENGTHS), np.array(LENGTHS, np.int32), torch.tensor(LENGTHS)):
        made = limits(4, None, given_, N)
        assert made.of([0, 1, 2]) == LENGTHS[:3]
    assert limits(4, None, None, N).of([0, 1]) == [1, 1]


def test_lengths_are_not_those_that_change_later():
    given_ = np.array(LENGTHS)
    made = limits(4, None, given_, N)
    given_[:] = 0
    assert made.of([1]) == LENGTHS[1:2]
