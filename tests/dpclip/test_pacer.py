"""Increments by themselves: their sum, its angles, the layer that is watched, when it is full."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dpclip import by_angle
from dpclip.pacer import Paced, Pacer, layers_of, turn
from dpclip.streams import Seeded


def _pacer(rule=None, count=2, seed=0, mean=True) -> Pacer:
    names = [f"layer{i}.weight" for i in range(count)]
    stream = Seeded(np.random.SeedSequence(seed))
    return Pacer(rule or by_angle(), names, stream, mean=mean, records=100)


def test_null_angles_never_trigger():
    """Orthogonal increments of one length turn the sum by atan(1 / sqrt(k - 1))."""
    pacer = _pacer(by_angle(monitor=""), count=1)
    for row in torch.eye(12):
        assert not pacer.take([row], 1.0, 1.0, None)
    wanted = [math.degrees(math.atan(1 / math.sqrt(k - 1))) for k in range(2, 13)]
    assert pacer.pace.angles == pytest.approx(wanted, abs=1e-9)
    assert wanted[:4] == pytest.approx([45, 35.3, 30, 26.6], abs=0.04)


def test_angles_are_of_the_watched_layer():
    pacer = _pacer(by_angle(alpha=5.0, monitor="layer1"))
    pacer.take([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])], 1.0, 1.0, None)
    pacer.take([torch.tensor([-9.0, 5.0]), torch.tensor([0.0, 1.0, 0.0])], 1.0, 1.0, None)
    assert pacer.pace.angles == pytest.approx([45.0])
    names = ["embed.weight", "body.0.weight", "body.0.bias", "body.1.weight", "scale"]
    assert layers_of(names, None) == {"embed": [0], "body.0": [1, 2], "body.1": [3], "scale": [4]}
    assert layers_of(names, "body") == {"body": [1, 2, 3]}
    assert layers_of(names, "") == {"": [0, 1, 2, 3, 4]}


def test_the_angle_between_a_sum_before_and_after():
    """Over all parts together, in float64, and the same in pieces as at once."""
    east, north, west = (torch.tensor(v) for v in ([2.0, 0.0], [0.0, 2.0], [-2.0, 0.0]))
    assert turn([east], [north]) == pytest.approx(45.0)
    assert turn([east], [north], 10.0) == pytest.approx(math.degrees(math.atan(10)))
    assert turn([east], [west], 2.0) == 180.0
    assert turn([east], [west]) == turn([torch.zeros(2)], [north]) == 90.0
    assert turn([east], [torch.zeros(2)]) is None
    assert turn([east.double() * 1e-90], [north.double() * 1e-90]) == pytest.approx(45.0)
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (), (1 << 20,), (700, 1600)]
    sums, added = ([torch.randn(s, generator=draw) for s in shapes] for _ in range(2))
    a, g = (torch.cat([part.flatten() for part in parts]).double() for parts in (sums, added))
    b = a + 0.3 * g
    wanted = math.degrees(math.acos(float(a @ b / (a.norm() * b.norm()))))
    assert turn(sums, added, 0.3) == pytest.approx(wanted, rel=1e-9)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="is not finite"):
            turn([east], [torch.tensor([bad, 0.0])])


def test_layers_are_drawn_by_their_rewards():
    """p = softmax of the mean of the last 50 rewards; the first is 1. A twin draws alike."""
    rule = by_angle(alpha=1e9, patience=1)
    pacer = _pacer(rule, count=3, seed=7)
    twin, rewards = Seeded(np.random.SeedSequence(7)), {f"layer{i}": [1.0] for i in range(3)}
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        mean = np.array([np.mean(rewards[name][-50:]) for name in rewards])
        p = np.exp(mean) / np.exp(mean).sum()
        wanted = list(rewards)[int((p.cumsum() < float(twin.uniform(1))).sum())]
        while True:
            # Layer 0 turns evenly, layer 2 wildly: their rewards differ.
            wild = [torch.randn(2, generator=draw) * s for s in (0.01, 0.5, 2.0)]
            before = len(pacer.pace.complete)
            pacer.take([torch.tensor([0.5, 0.0]) + w for w in wild], 1.0, 1.0, None)
            if len(pacer.pace.complete) > before:
                break
        last = pacer.pace.complete[-1]
        assert last.layer == wanted
        a = last.angles
        rewards[wanted].append((max(a) - min(a)) / max(a))
    assert len({len(r) for r in rewards.values()}) > 1
    assert max(map(len, rewards.values())) > 51  # so that some were forgotten
    kept = pacer.state()["rewards"]
    assert all(kept[name] == pytest.approx(rewards[name][-50:]) for name in rewards)


def test_a_layer_without_a_gradient_is_not_watched():
    for seed in range(20):
        pacer = _pacer(seed=seed)
        pacer.take([torch.zeros(2), torch.ones(3)], 1.0, 1.0, None)
        assert pacer.state()["layer"] == "layer1"
    pacer = _pacer(by_angle(cap=2))
    assert not pacer.take([torch.zeros(2), torch.zeros(3)], 1.0, 1.0, None)
    assert pacer.take([torch.zeros(2), torch.zeros(3)], 1.0, 1.0, None)
    assert pacer.pace.complete == (Paced(2.0, (), None, False),)


def test_an_increment_that_moves_nothing_has_no_angle():
    """Nor does it end a sum, which an angle of zero would after the next increment."""
    pacer = _pacer(by_angle(monitor=""), count=1)
    rows = [torch.tensor(v) for v in ([1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0])]
    for row in rows:
        assert not pacer.take([row], 1.0, 1.0, None)
    wanted = [45.0, 45.0 - math.degrees(math.atan(1 / 2))]
    assert pacer.pace.angles == pytest.approx(wanted)


def test_increments_of_nothing_up_to_the_cap():
    """Their mean is zero and not 0 / 0."""
    pacer = _pacer(by_angle(cap=2), count=1)
    assert not pacer.take([torch.zeros(2)], 0.0, 1.0, None)
    last = torch.zeros(2)
    assert pacer.take([last], 0.0, 1.0, None)
    assert last.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("records", [49, 50, 98, 103])
def test_the_cap_is_reached_by_as_many_increments_as_fill_it(records):
    """4 / 49 * 49 is a little less than 4."""
    names = ["layer.weight"]
    stream = Seeded(np.random.SeedSequence(0))
    pacer = Pacer(by_angle(cap=12), names, stream, mean=True, records=records)
    rows = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.1]), torch.tensor([0.0, 0.1])]
    assert [pacer.take([g], 4.0, 4.0, 4 / records) for g in rows] == [False, False, True]
    assert pacer.pace.sizes == [12.0]


def test_a_named_layer_that_does_not_learn():
    """Nothing would be complete. With a cap it is, and where nothing learns all may wait."""
    still = [torch.zeros(2), torch.ones(3)]
    pacer = _pacer(by_angle(monitor="layer0"))
    with pytest.raises(RuntimeError, match="of this layer was zero in 20 increments"):
        for _ in range(40):
            assert not pacer.take([g.clone() for g in still], 1.0, 1.0, None)
    assert pacer.pace.samples == 19.0
    again = _pacer(by_angle(monitor="layer0"))
    again.go_on(pacer.state())
    with pytest.raises(RuntimeError, match="in 21 increments"):
        again.take([g.clone() for g in still], 1.0, 1.0, None)
    pacer = _pacer(by_angle(monitor="layer0", cap=50))
    assert sum(pacer.take([g.clone() for g in still], 1.0, 1.0, None) for _ in range(100)) == 2
    pacer = _pacer(by_angle(monitor="layer0"))
    for _ in range(40):
        pacer.take([torch.zeros(2), torch.zeros(3)], 1.0, 1.0, None)


def test_the_mean_is_over_samples_and_the_sum_a_sum():
    for mean, wanted in ((True, [1.75, 0.0]), (False, [3.0, 0.0])):
        pacer = _pacer(by_angle(cap=8, monitor=""), count=1, mean=mean)
        d = (2.0, 6.0) if mean else (1.0, 1.0)
        assert not pacer.take([torch.tensor([1.0, 0.0])], d[0], 2.0, None)
        last = torch.tensor([2.0, 0.0])
        assert pacer.take([last], d[1], 6.0, None)
        assert last.tolist() == wanted
        assert pacer.pace.sizes == [8.0] and pacer.pace.samples == 8.0
