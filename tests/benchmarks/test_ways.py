"""Every way takes a step on every model, or says why not; dpclip's gradient is the loop's."""

from __future__ import annotations

import copy
import re
import sys
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from benchmarks.models import MODELS, Workload
from benchmarks.ways import (
    SHARINGS,
    Plan,
    Reference,
    Refusal,
    Setup,
    Way,
    attempt,
    engine,
    loop,
    reference,
    start,
    ways,
)
from benchmarks.ways.group_loop import gradient, median_norm
from dpclip.types import Members

WAYS = ways(Plan())
# (models, ways, what the refusal says): all that is known not to run.
CANNOT = (
    # Opacus takes the first axis of every layer for the batch.
    ("conformer", "opacus-.*", "stack expects each tensor to be equal size"),
    ("gpt-tied", "opacus-ghost", "Parameter tying is not supported"),
)
PLANS = (Plan(), Plan(measure=False), Plan("low", measure=False), Plan(loop=True))
# Runs, and is wrong: Opacus 1.6 mixes heads and time where attention has the batch first.
WRONG = (("conformer-batch-first", "opacus-.*"),)


def refusal_of(model: str, way: str) -> str | None:
    found = (says for m, w, says in CANNOT if re.fullmatch(m, model) and re.fullmatch(w, way))
    return next(found, None)


@cache
def made(model: str, sharing: str) -> tuple[Workload, Reference]:
    workload = MODELS[model].reduced()
    by_label = {it.label: it for it in SHARINGS.values()}
    return workload, reference(workload, workload.make_batch(0), by_label[sharing])


@pytest.mark.filterwarnings("ignore")  # Opacus' hooks warn about inputs without a gradient
@pytest.mark.parametrize("way", [name for name in WAYS if name != "fastdp"])
@pytest.mark.parametrize("model", MODELS)
def test_takes_a_step(model, way):
    workload, known = made(model, WAYS[way].sharing.label)
    found = start(WAYS[way], workload, workload.make_batch(0), known)
    expected = refusal_of(model, way)
    if isinstance(found, Refusal):
        assert expected is not None, found.reason
        assert expected in found.reason
        return
    assert expected is None, "it runs: take it out of CANNOT"
    loss = found.step.run(workload.make_batch(1))
    assert loss.shape == () and loss.isfinite()
    wrong = any(re.fullmatch(m, model) and re.fullmatch(w, way) for m, w in WRONG)
    assert (found.note is not None) == wrong, found.error


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("model", MODELS)
def test_dpclip_has_the_gradient_of_the_loop(model, sharing, double):
    workload, way = MODELS[model].reduced(), SHARINGS[sharing]
    batches = [workload.make_batch(seed) for seed in range(2)]
    bound = median_norm(workload.model, workload.losses, batches[0], way)

    def trained(built: Way) -> list[tuple[torch.Tensor, list[torch.Tensor | None]]]:
        own = copy.deepcopy(workload.model)
        step = built.build(Setup(own, workload.losses, batches[0], bound, lr=0.1))
        return [(step.run(batch), [p.grad for p in own.parameters()]) for batch in batches]

    twin = trained(loop(way))
    for plan in PLANS:
        # Tighter than what is usual for float64: nothing but rounding is left.
        torch.testing.assert_close(
            trained(engine(way, plan)),
            twin,
            rtol=1e-9,
            atol=1e-12,
            msg=lambda text, plan=plan: f"{plan.label}: {text}",
        )


@pytest.mark.parametrize("sharing", SHARINGS)
def test_groups_are_the_same_for_dpclip_and_the_loop(sharing):
    rows = torch.arange(18)
    slots = SHARINGS[sharing].grouping.assign(Members(18, None, 0, torch.Generator()))
    expected = [rows[slots == slot].tolist() for slot in slots.unique()]
    assert [part.tolist() for part in SHARINGS[sharing].split(rows)] == expected


class FastDp:
    """Stands in for FastDP's engine, and clips nothing."""

    def __init__(self, module, **settings):
        self.settings = settings

    def attach(self, optimizer):
        assert self.settings["batch_size"] == 18
        assert self.settings["clipping_fn"] == "Abadi"


@pytest.mark.parametrize("package", [None, SimpleNamespace(PrivacyEngine=FastDp)])
def test_fastdp_is_used_where_it_is_installed(monkeypatch, package):
    monkeypatch.setitem(sys.modules, "fastDP", package)
    workload = MODELS["mlp"].reduced()
    batch = workload.make_batch(0)
    known = reference(workload, batch, WAYS["fastdp"].sharing)
    found = start(WAYS["fastdp"], workload, batch, known)
    if package is None:
        assert isinstance(found, Refusal) and "fastDP" in found.reason
    else:
        assert not isinstance(found, Refusal)
        assert found.note is not None  # it has not clipped


def test_grad_queue_begins_when_its_queue_is_full(double):
    workload = MODELS["mlp"].reduced()
    batches = [workload.make_batch(seed) for seed in range(4)]
    means = [gradient(workload.model, workload.losses, batch)[1] for batch in batches]

    def taken(way: str) -> list[list[torch.Tensor]]:
        model = copy.deepcopy(workload.model)
        setup = Setup(model, workload.losses, batches[0], 1.0, features=workload.features)
        step, found = WAYS[way].build(setup), []
        for batch in batches:
            step.run(batch)
            found.append([p.grad.clone() for p in model.parameters()])
        return found

    one, four = taken("queue-1"), taken("queue-4")
    for got in (one, four):
        torch.testing.assert_close(got[:3], [list(mean) for mean in means[:3]])
    for i, gradients in enumerate(zip(*means, strict=True)):
        *queue, last = gradients
        mu, sigma = torch.stack(queue).mean(0), torch.stack(queue).std(0, correction=0)
        boosted = last * ((last - mu).abs() / (sigma + 1e-12)).clamp(1 / 3, 3)
        torch.testing.assert_close(one[3][i], boosted)
    assert not torch.allclose(four[3][0], one[3][0])  # clusters are boosted one by one


def test_every_third_increment_is_an_update(double):
    workload = MODELS["mlp"].reduced()
    batches = [workload.make_batch(seed) for seed in range(3)]
    setups = [
        Setup(copy.deepcopy(workload.model), workload.losses, batches[0], 0.3) for _ in range(2)
    ]
    paced, alone = WAYS["paced-1"].build(setups[0]), WAYS["loop-1"].build(setups[1])
    held = []
    for number, batch in enumerate(batches):
        paced.run(batch)
        alone.run(batch)
        held.append([p.grad.clone() for p in alone.model.parameters()])
        released = [p.grad is not None for p in paced.model.parameters()]
        assert all(released) if number == 2 else not any(released)
    for param, parts in zip(paced.model.parameters(), zip(*held, strict=True), strict=True):
        torch.testing.assert_close(param.grad, torch.stack(parts).mean(0))


def test_half_of_the_groups_are_clipped():
    workload = MODELS["mlp"].reduced()
    batch = workload.make_batch(0)
    bound = reference(workload, batch, SHARINGS["1"]).bound
    norms = []
    for i in range(batch.samples):
        loss = workload.losses(workload.model(batch.x[i : i + 1]), batch.y[i : i + 1]).mean()
        grads = torch.autograd.grad(loss, list(workload.model.parameters()))
        norms.append(torch.nn.utils.get_total_norm(grads))
    assert float(torch.stack(norms).median()) == pytest.approx(bound)


def test_a_refusal_is_the_first_line_of_the_exception():
    def work() -> None:
        raise ValueError("one line\nand another")

    assert attempt(work) == Refusal("ValueError: one line")
    assert attempt(lambda: 3) == 3
