"""Groups that are spread over several passes, and gradients that nobody has cleared."""

from __future__ import annotations

import itertools

import pytest
import torch

from dpclip import by_key, clip, per_core, per_sample


def test_padding_does_not_join_groups(kit):
    """A user who slices padded batches gets the groups of one who does not."""
    found = []
    for fixed, cut in itertools.product((False, True), (None, 7, 2)):
        torch.manual_seed(0)
        trained = kit.private(
            kit.Mlp(),
            kit.vectors(12),
            batch_size=12,
            grouping=by_key(lambda i: i // 3, unit="user"),
            weighting=clip(0.2),
            max_physical_batch=8,
            fixed_shape=fixed,
        )
        for x, y in trained.loader:
            for part in range(0, len(x), cut or len(x)):
                some = slice(part, part + (cut or len(x)))
                loss = kit.mean_loss(trained.model(x[some]), y[some]) * len(x[some]) / len(x)
                loss.backward()
            trained.optimizer.step()
        found.append(trained.engine.diagnostics().norms)
    assert all(len(norms) == 4 for norms in found)


def test_skipped_piece_does_not_join_its_neighbours(kit):
    """Each user keeps a row of its own where the rest of one was skipped."""
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(12),
        batch_size=12,
        grouping=by_key(lambda i: i // 6, unit="user"),
        weighting=clip(0.2),
        max_physical_batch=4,
    )
    for number, (x, y) in enumerate(trained.loader):
        if number != 1:
            kit.mean_loss(trained.model(x), y).backward()
        trained.optimizer.step()
    assert len(trained.engine.diagnostics().norms) == 2


@pytest.mark.parametrize("clear", [True, False])
def test_nobody_has_to_clear_gradients(kit, clear):
    """Also where the first pass of a step only opens a group."""
    trained = kit.private(
        kit.Mlp(),
        kit.vectors(24),
        batch_size=24,
        grouping=per_core(1, slots="fixed"),
        weighting=clip(0.01),
        max_physical_batch=8,
        lr=1e-9,
    )
    lengths = []
    for _ in range(3):
        for x, y in trained.loader:
            if clear:
                trained.optimizer.zero_grad()
            kit.mean_loss(trained.model(x), y).backward()
            trained.optimizer.step()
        lengths.append(torch.cat([g.flatten() for g in trained.grads]).norm())
    assert max(lengths) <= 0.01 * (1 + 1e-6)


def test_gradients_of_an_unfinished_batch_are_dropped(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(24), batch_size=24, weighting=clip(0.2), max_physical_batch=8
    )
    for x, y in trained.loader:
        kit.mean_loss(trained.model(x), y).backward()
        break
    next(iter(trained.loader))
    assert all(p.grad is None for p in trained.inner.params)


def test_step_on_foreign_gradients_voids_the_guarantee(kit):
    trained = kit.private(
        kit.Mlp(), kit.vectors(), noise_multiplier=1.0, max_grad_norm=0.2, grouping=per_sample()
    )
    x, y = next(iter(trained.loader))
    kit.mean_loss(trained.model(x), y).backward()
    trained.optimizer.step()
    trained.optimizer.step()  # once more on what was released
    assert trained.engine.get_epsilon(1e-5) < float("inf")
    for p in trained.inner.params:
        p.grad = torch.ones_like(p)
    trained.optimizer.step()
    assert trained.engine.get_epsilon(1e-5) == float("inf")
    assert "nothing has clipped" in trained.engine.guarantee
