"""Drawing: what is sampled, in which order, and that ids arrive with their rows."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from dpclip import by_key, micro_batches, per_sample
from dpclip.loader import sample_rate


class Numbers(Dataset):
    """Record i is the number i."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return torch.full((6,), float(i)), i % 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [None, 3])
def test_ids_travel_with_the_data(kit, workers, limit):
    from dpclip import PrivacyEngine

    model = kit.Mlp()
    engine = PrivacyEngine(seed=0)
    _, _, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(Numbers(40), batch_size=8, num_workers=workers),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        grouping=by_key(lambda i: i // 4),
        max_physical_batch=limit,
    )
    pieces = 0
    for x, _ in loader:
        piece = engine._engine.yielded.piece
        assert x[:, 0].tolist() == piece.ids.tolist()
        assert len(piece.ids) == len(set(piece.ids.tolist()))
        keys = piece.ids // 4
        same = keys[:, None] == keys[None, :]
        assert torch.equal(same, piece.slots[:, None] == piece.slots[None, :])
        pieces += piece.last
    assert pieces == len(loader) == 5


def drawn(kit, n=60, size=6, epochs=40, **how):
    trained = kit.private(kit.Mlp(), Numbers(n), batch_size=size, **how)
    for _ in range(epochs):
        for _x, _y in trained.loader:
            piece = trained.inner.yielded.piece
            yield piece.ids[piece.real]


def test_each_record_is_drawn_at_its_rate(kit):
    """Binomial interval at alpha 1e-6 for the total, the first, and pairs of neighbours."""
    batches = list(drawn(kit))
    assert len(batches) == 400
    total = sum(len(b) for b in batches)
    assert binomtest(total, 400 * 60, 0.1).pvalue > 1e-6
    assert binomtest(sum(0 in b for b in batches), 400, 0.1).pvalue > 1e-6
    pairs = sum(bool(0 in b and 1 in b) for b in batches)
    assert binomtest(pairs, 400, 0.01).pvalue > 1e-6


def test_order_within_a_batch_is_random(kit):
    batches = [b for b in drawn(kit) if len(b) > 1]
    rising = sum(bool(b[0] < b[1]) for b in batches)
    assert binomtest(rising, len(batches), 0.5).pvalue > 1e-6


def test_users_are_drawn_whole(kit):
    grouping = by_key(lambda i: i // 3, unit="user")
    batches = list(drawn(kit, grouping=grouping))
    for batch in batches:
        users = batch // 3
        assert all(int((users == u).sum()) == 3 for u in users.unique())
    assert binomtest(sum(len(b) // 3 for b in batches), 400 * 20, 0.1).pvalue > 1e-6


def test_random_slots_are_uniform_and_independent(kit):
    trained = kit.private(
        kit.Mlp(), Numbers(60), batch_size=12, grouping=micro_batches(4, slots="random")
    )
    slots = []
    for _ in range(40):
        for _x, _y in trained.loader:
            slots.append(trained.inner.yielded.piece.slots)
    flat = torch.cat(slots)
    assert trained.inner.yielded.divisor == (3.0, 4.0)
    for slot in range(3):
        assert binomtest(int((flat == slot).sum()), len(flat), 1 / 3).pvalue > 1e-6


def test_given_batches_keep_their_order(kit):
    trained = kit.private(kit.Mlp(), Numbers(20), batch_size=8, poisson_sampling=False)
    seen = [x[:, 0].tolist() for x, _ in trained.loader]
    assert [len(s) for s in seen] == [8, 8, 4] and [i for s in seen for i in s] == list(range(20))


def test_sample_rate():
    data = TensorDataset(torch.zeros(10, 1))
    assert sample_rate(DataLoader(data, batch_size=4)) == 0.4
    assert sample_rate(DataLoader(data, batch_size=40)) == 1.0
    batches = BatchSampler(SequentialSampler(data), 5, drop_last=False)
    assert sample_rate(DataLoader(data, batch_sampler=batches)) == 0.5
    with pytest.raises(ValueError, match="has no batch_size"):
        sample_rate(DataLoader(data, batch_sampler=[[0, 1], [2]]))
    with pytest.raises(ValueError, match=r"SubsetRandomSampler would be ignored.*Subset"):
        sample_rate(DataLoader(data, batch_size=2, sampler=SubsetRandomSampler([0, 1])))


def test_batch_size_of_one_rank_is_that_of_a_share():
    data = TensorDataset(torch.zeros(10, 1))
    sampler = DistributedSampler(data, num_replicas=3, rank=0)
    assert sample_rate(DataLoader(data, batch_size=2, sampler=sampler)) == 0.6


class Truncated(BatchSampler):
    """Poisson batches that are cut at their expected size, which Poisson accounting is not for."""

    def __iter__(self):
        drawn = (torch.rand(10) < 0.5).nonzero()[:, 0].tolist()
        yield drawn[: self.batch_size]


def test_batches_cut_in_their_own_way_are_refused():
    data = TensorDataset(torch.zeros(10, 1))
    loader = DataLoader(data, batch_sampler=Truncated(SequentialSampler(data), 5, False))
    with pytest.raises(ValueError, match=r"Truncated would be ignored.*max_physical_batch"):
        sample_rate(loader)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("stop", [1, 3, 5, 7])
def test_drawing_goes_on_where_training_stopped(kit, workers, limit, stop):
    """Prefetching workers have drawn ahead by then; five batches are an epoch."""
    from dpclip import PrivacyEngine

    def start(seed):
        model = kit.Mlp()
        engine = PrivacyEngine(seed=seed)
        made = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(Numbers(40), batch_size=8, num_workers=workers),
            noise_multiplier=0.0,
            max_grad_norm=1.0,
            grouping=micro_batches(4, slots="random"),
            max_physical_batch=limit,
        )
        return engine, *made

    def run(engine, model, optimizer, loader, until):
        seen = []
        while engine.steps < until:
            for x, y in loader:
                piece = engine._engine.yielded.piece
                seen.append((piece.logical.number, piece.ids.tolist(), piece.slots.tolist()))
                kit.mean_loss(model(x), y).backward()
                optimizer.step()
                if engine.steps == until:
                    break
        return seen

    whole = run(*start(3), 10)
    first = start(3)
    before = run(*first, stop)
    state = first[0].state_dict()
    second = start(4)
    second[0].load_state_dict(state)
    assert before + run(*second, 10) == whole


def test_persistent_workers_and_collate(kit):
    def pairs(items):
        return torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])

    from dpclip import PrivacyEngine, clip

    model = kit.Mlp()
    engine = PrivacyEngine(seed=0)
    original = DataLoader(
        Numbers(40),
        batch_size=8,
        num_workers=1,
        persistent_workers=True,
        prefetch_factor=3,
        collate_fn=pairs,
    )
    _, _, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=original,
        noise_multiplier=0.0,
        weighting=clip(1.0),
        grouping=per_sample(),
    )
    assert loader.persistent_workers and loader.prefetch_factor == 3
    epochs = [torch.cat([x[:, 0] for x, _ in loader]).tolist() for _ in range(2)]
    assert epochs[0] != epochs[1]
    del loader._iterator
