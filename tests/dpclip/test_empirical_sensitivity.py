"""What one record or user moves when it leaves, through the real engine, against what is claimed.

The model's gradient on a record is the record itself, so that data sets can be built to move the
sum as far as possible. All records are drawn in every step, and others keep their ids and slots.
N, the divisor and the expected group size are public constants: they are those of the larger data
set in both.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dpclip import (
    by_key,
    chain,
    clip,
    clip_to_min,
    micro_batches,
    normalize,
    per_core,
    per_layer,
    per_sample,
    quantile,
    uniform,
)
from dpclip.types import Members

LAYERS, WIDTH, RECORDS = 2, 3, 9
HUGE = 1e6


class Chosen(nn.Module):
    """The sum of <w_l, x_l> over layers: the gradient for w_l is x_l, for any w."""

    def __init__(self, layers=LAYERS):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, 1, bias=False) for _ in range(layers))

    def forward(self, x):
        return sum(layer(x[:, i]) for i, layer in enumerate(self.layers))


class Side:
    """One of two neighbouring data sets, rows [N, L, W], under a real engine without noise."""

    def __init__(self, kit, rows, slices=1, **how):
        self.rows, self.slices = rows, slices
        self.reduction = how.get("reduction", "mean")
        self.trained = kit.private(Chosen(rows.shape[1]), TensorDataset(rows), lr=0.0, **how)
        self.inner = self.trained.inner

    def total(self):
        """The sum of weighted groups [L * W] of one step, before it is divided by D."""
        for (x,) in self.trained.loader:
            self.trained.optimizer.zero_grad()
            for part in x.split(-(-len(x) // self.slices)):
                out = self.trained.model(part)
                (out.mean() if self.reduction == "mean" else out.sum()).backward()
            self.remembered = self.inner.state
            self.trained.optimizer.step()
        public = self.inner.yielded.divisor
        groups = public.groups if public else self.inner.yielded.piece.logical.groups
        d = groups if self.reduction == "mean" else 1.0
        return d * torch.cat([g.flatten() for g in self.trained.grads])


class Neighbours:
    """A data set, and the one that its last `leavers` records have left."""

    def __init__(self, kit, make, rule, leavers=1, **how):
        self.script = torch.zeros(RECORDS, dtype=torch.int64)
        grouping = make(self.script)
        public = grouping.divisor(1.0, RECORDS)
        fixed = dataclasses.replace(grouping, divisor=lambda _q, _n: public)
        how = {"batch_size": RECORDS, "grouping": fixed, "weighting": rule, **how}
        self.rows, self.leavers = torch.zeros(RECORDS, LAYERS, WIDTH), leavers
        self.grouping, self.more = fixed, Side(kit, self.rows, **how)
        self.less = Side(kit, self.rows[:-leavers].clone(), **how)

    @property
    def claim(self):
        return self.more.inner.claim()

    def slots(self):
        return self.grouping.assign(Members(RECORDS, torch.arange(RECORDS), 0, None))

    def moved(self, rows):
        """How far the sum moves, at the state that the larger data set has led to."""
        self.rows.copy_(rows)
        self.less.rows.copy_(rows[: -self.leavers])
        self.less.inner.state = dict(self.more.inner.state)
        more, less = self.more.total(), self.less.total()
        return float((more - less).norm())

    def worst(self, others):
        """Rows in which the leavers turn their group around, beside whatever is elsewhere.

        Their group lies at +C with them and at -C without them, in every layer.
        """
        rows, slots = others.clone(), self.slots()
        mates = (slots == slots[-1]).nonzero()[:, 0]
        rows[mates] = -0.4 * HUGE
        rows[-self.leavers :] = HUGE * len(mates)
        return rows


def scripted(script):
    """Random slots, drawn in advance: the same for the records of both data sets."""
    grouping = micro_batches(3, slots="random")
    return dataclasses.replace(grouping, assign=lambda members: script[members.ids])


GROUPINGS = {
    "sample": (lambda _: per_sample(), 1),
    "random": (scripted, 1),
    "fixed": (lambda _: per_core(3, slots="fixed"), 1),
    "record": (lambda _: by_key(lambda i: i % 3), 1),
    "user": (lambda _: by_key(lambda i: i // 3, unit="user"), 3),
}
RULES = [
    clip(0.7),
    normalize(0.01, radius=0.7),
    quantile(0.5, bound=0.7, count_noise=2.0),
    per_layer(clip(0.7)),
    per_layer(normalize(0.01, radius=0.7)),
    chain(uniform(), clip(0.7)),
    chain(clip(9.0), normalize(1e-3, radius=0.7)),
    chain(normalize(0.01, radius=5.0), clip(0.7)),
    chain(clip(3.0), per_layer(clip(0.7))),
    chain(per_layer(clip(2.0)), clip(0.7)),
    chain(per_layer(clip(2.0)), per_layer(clip(0.7))),
    chain(clip(2.0), quantile(0.5, bound=0.7, count_noise=2.0)),
]


def label(value):
    return str(getattr(value, "label", value))


def wild(draw):
    """Rows whose lengths and layers differ by orders of magnitude; some are zero, some invalid."""
    shape = (RECORDS, 1, 1)
    lengths = 10 ** (4 * torch.rand(shape, generator=draw) - 2)
    layers = 10 ** (2 * torch.rand((1, LAYERS, 1), generator=draw) - 1)
    rows = lengths * layers * torch.randn((RECORDS, LAYERS, WIDTH), generator=draw)
    kind = torch.rand(shape, generator=draw)
    rows = rows.masked_fill(kind < 0.1, 0.0)
    rows[:, :1] = rows[:, :1].masked_fill(kind > 0.97, math.nan)
    return rows.masked_fill((kind > 0.93) & (kind < 0.95), math.inf)


def search(pair, trials=5, seed=0):
    """Returns the largest move, in units of the claim, over random and built neighbours."""
    draw = torch.Generator().manual_seed(seed)
    largest = 0.0
    for trial in range(2 * trials):
        pair.script.copy_(torch.randint(3, (RECORDS,), generator=draw))
        rows = wild(draw)
        rows = pair.worst(rows) if trial % 2 else rows
        claimed = pair.claim.sensitivity
        moved = pair.moved(rows) / claimed
        assert moved <= 1 + 1e-9, f"moved by {moved} claims of {claimed}: {rows.tolist()}"
        largest = max(largest, moved)
    return largest


@pytest.mark.parametrize("rule", RULES, ids=label)
@pytest.mark.parametrize("kind", GROUPINGS)
def test_a_claim_is_kept_and_reached(kit, kind, rule):
    make, leavers = GROUPINGS[kind]
    pair = Neighbours(kit, make, rule, leavers)
    assert pair.claim.sensitivity is not None
    assert search(pair) >= 0.95


VARIANTS = {
    "slices": {"slices": 4},
    "pieces": {"max_physical_batch": 2},
    "single rows": {"max_physical_batch": 1},
    "slices of pieces": {"max_physical_batch": 3, "slices": 2},
    "sum": {"reduction": "sum"},
    "sum in pieces": {"reduction": "sum", "max_physical_batch": 2},
    "loop": {"loop": True},
    "low memory": {"memory": "low"},
    "padded": {"max_physical_batch": 4, "fixed_shape": True},
}


@pytest.mark.parametrize("rule", [clip(0.7), per_layer(clip(0.7))], ids=label)
@pytest.mark.parametrize("kind", ["sample", "random", "user"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ways_of_computing_keep_the_claim(kit, variant, kind, rule):
    """Also where a group is larger than the memory allows, or is cut by a slice."""
    make, leavers = GROUPINGS[kind]
    assert search(Neighbours(kit, make, rule, leavers, **VARIANTS[variant]), 3) >= 0.95


@pytest.mark.parametrize("kind", GROUPINGS)
def test_the_count_moves_as_claimed(kit, kind):
    """The released count of unclipped groups, in units of what `count_shift` says of its noise."""
    make, leavers = GROUPINGS[kind]
    pair = Neighbours(kit, make, quantile(0.5, bound=1.0, count_noise=2.0), leavers)
    draw, largest = torch.Generator().manual_seed(0), 0.0
    for trial in range(12):
        pair.script.copy_(torch.randint(3, (RECORDS,), generator=draw))
        rows = wild(draw)
        if trial % 2:  # the leaver holds back a group that is long without it
            mates = pair.slots() == pair.slots()[-1]
            rows[mates] = HUGE
            rows[-leavers:] = -HUGE * (int(mates.sum()) - leavers)
        allowed = 2.0 * pair.claim.count_shift
        pair.moved(rows)
        more, less = (float(side.remembered["tally"]) for side in (pair.more, pair.less))
        assert abs(more - less) <= allowed
        largest = max(largest, abs(more - less))
    assert largest == allowed == (0.5 if kind in ("sample", "user") else 1.0)


# ---- constructions without a claim -------------------------------------------------------------


def line(values):
    """Records on one axis."""
    rows = torch.zeros(len(values), 1, WIDTH)
    rows[:, 0, 0] = torch.tensor(values)
    return rows


def both(kit, values, leaver, **how):
    """How far the sum moves when one record leaves the batch as the user's loader gives it."""
    sides = [
        Side(kit, line(v), batch_size=len(values), poisson_sampling=False, **how)
        for v in (values, values[:leaver] + values[leaver + 1 :])
    ]
    assert all(side.inner.claim().sensitivity is None for side in sides)
    more, less = (side.total() for side in sides)
    return float((more - less).norm())


@pytest.mark.parametrize("how", [{}, {"slices": 3}, {"max_physical_batch": 5}], ids=str)
@pytest.mark.parametrize("groups", [8, 16])
@pytest.mark.parametrize("make", [lambda _: micro_batches(2), per_core], ids=["micro", "core"])
def test_by_position_one_record_turns_every_group_around(kit, make, groups, how):
    """16 C with 8 groups and 32 C with 16: alternating signs and decreasing sizes."""
    values = [(-1) ** i * (1000.0 - 10 * i) for i in range(2 * groups)]
    c = 0.3
    moved = both(kit, values, 0, grouping=make(groups), weighting=clip(c), **how)
    assert moved == pytest.approx(2 * groups * c)


@pytest.mark.parametrize("how", [{}, {"slices": 5}, {"max_physical_batch": 7}], ids=str)
def test_the_smallest_row_holds_all_others_back(kit, how):
    """31 C with 32 rows that are each at most C long."""
    c = 0.3
    values = [1e-9] + [50.0] * 31
    rule = chain(clip(c), clip_to_min())
    moved = both(kit, values, 0, grouping=per_sample(), weighting=rule, **how)
    assert moved == pytest.approx(31 * c)


# ---- rounding ----------------------------------------------------------------------------------


def cancelling(kit, layer, inputs):
    """How far the last record moves the sum, whose two positions cancel: its gradient is zero.

    The layer has no bias; of the inputs [B, 2, ...] all others are alike and add up.
    """
    back = torch.randn(1, 2, 256).expand(len(inputs), 2, 256).clone()
    back[-1] = torch.stack([torch.ones(256), -torch.ones(256)]) * 2.0**27
    sums = []
    for end in (len(inputs), len(inputs) - 1):
        data = TensorDataset(inputs[:end], back[:end])
        trained = kit.private(
            layer, data, batch_size=len(inputs), max_grad_norm=1.0, lr=0.0, memory="low"
        )
        for x, b in trained.loader:
            (trained.model(x) * b).sum((1, 2)).mean().backward()
            trained.optimizer.step()
        sums.append(trained.inner.yielded.divisor.groups * trained.grads[0].double())
        assert "norms and sum" in trained.engine.plan()
        trained.engine.close()
    return float((sums[0] - sums[1]).norm())


class Convolution(nn.Conv1d):
    """Over [B, T, channels], as the other layers take them."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("kind", ["linear", "embedding", "convolution"])
def test_terms_that_cancel_wipe_out_nobody(kit, kind):
    """Where rows are never formed, a sum is rounded to the size of the terms that it adds up.

    A record of norm zero then has weight 1, and 15 others, all of length 1, are gone.
    """
    torch.set_default_dtype(torch.float32)
    if kind == "linear":
        inputs = torch.randn(1, 2, 256).expand(16, 2, 256).clone()
        inputs[-1] = 2.0**18
        layer = nn.Linear(256, 256, bias=False)
    elif kind == "convolution":
        inputs = torch.randn(1, 3, 256).expand(16, 3, 256).clone()
        inputs[-1] = 2.0**18
        layer = Convolution(256, 256, 2, bias=False)
    else:
        inputs, layer = torch.zeros(16, 2, dtype=torch.int64), nn.Embedding(9, 256)
    assert cancelling(kit, layer, inputs) <= 1.001
