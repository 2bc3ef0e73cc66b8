"""Rows that depend on other records are found out, and their cause is named; others are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpclip import PrivacyEngine, by_key, micro_batches, per_core, per_sample
from dpclip.doctor import Report, examine
from dpclip.doctor.evidence import LIMIT
from dpclip.doctor.local_rows import chosen


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Items(Dataset[Any]):
    """Any list; counts how often each item was loaded."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.loaded = items, [0] * len(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        self.loaded[i] += 1
        return self.items[i]


def looked_at(
    model: nn.Module,
    data: Dataset[Any],
    loss: Callable[[nn.Module, Any], Tensor] = cross_entropy,
    *,
    collate: Callable[[list[Any]], Any] | None = None,
    records: int = 4,
    loop: bool = False,
    sigma: float = 1.0,
    reduction: str = "mean",
    **more: Any,
) -> tuple[Report, PrivacyEngine]:
    """Takes a step and asks the doctor."""
    engine = PrivacyEngine(seed=1, measure=False, loop=loop)
    source = DataLoader(data, batch_size=8, collate_fn=collate)
    _, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=source,
        noise_multiplier=sigma,
        max_grad_norm=1.0,
        loss_reduction=reduction,
        **more,
    )
    while not engine.steps:
        for batch in loader:
            loss(model, batch).backward()
            optimizer.step()
            if engine.steps:
                break
    report = examine(engine._engine, source, lambda batch: loss(model, batch), records)
    return report, engine


def assert_void(report: Report, engine: PrivacyEngine, *words: str) -> None:
    assert not report.sound and engine.get_epsilon(1e-5) == math.inf
    assert report.rows is not None and report.rows.change > 100 * LIMIT
    for word in words:
        assert word in engine.guarantee and word in str(report)


def assert_sound(report: Report, engine: PrivacyEngine, at_most: float = LIMIT / 10) -> None:
    assert report.sound and not report.findings, str(report)
    assert report.rows is not None and report.rows.change < at_most
    assert 0 < engine.get_epsilon(1e-5) < math.inf


def vectors(n: int = 40) -> TensorDataset:
    return TensorDataset(torch.randn(n, 6), torch.randint(5, (n,)))


def around(middle: nn.Module, width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), middle, nn.Tanh(), nn.Linear(width, 5))


# ---- rows that depend on others ----------------------------------------------------------------


def texts() -> TensorDataset:
    """Sentences of 3 to 11 tokens, padded to 12; the padding is left out of the loss."""
    tokens = torch.randint(9, (40, 12))
    labels = tokens.roll(-1, 1)
    for i in range(40):
        labels[i, 3 + i % 9 :] = -100
    return TensorDataset(tokens, labels)


def token_mean(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]).transpose(1, 2), batch[1], ignore_index=-100)


def record_sums(model: nn.Module, batch: Any) -> Tensor:
    each = F.cross_entropy(model(batch[0]).transpose(1, 2), batch[1], reduction="none")
    return each.sum(1).div(12).mean()


@pytest.mark.parametrize("loop", [False, True])
def test_a_mean_over_tokens(kit, loop):
    found = looked_at(kit.Transformer(time=12), texts(), token_mean, loop=loop)
    assert_void(*found, "counted over the batch (as a mean over tokens does);", "public constant")


def test_a_sum_over_tokens_over_a_constant(kit):
    assert_sound(*looked_at(kit.Transformer(time=12), texts(), record_sums))


def nce(model: nn.Module, batch: Any) -> Tensor:
    one, other = (F.normalize(model(x), dim=1) for x in (batch[0], 1.1 * batch[0] + 0.1))
    return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(one)))


@pytest.mark.parametrize("loop", [False, True])
def test_negatives_in_the_batch(kit, loop):
    assert_void(*looked_at(kit.Mlp(), vectors(), nce, loop=loop), "samples meet in the loss")


class Standardized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()


class BatchNormLike(Standardized):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.seen.mul_(0.9).add_(0.1 * x.mean(0))
        return super().forward(x)


def test_statistics_of_the_batch():
    found = looked_at(around(Standardized()), vectors())
    assert_void(*found, "samples meet in the model", "1 (Standardized) is the first module")


def test_a_module_of_batchnorm_kind_and_what_it_remembers():
    found = looked_at(around(BatchNormLike()), vectors())
    assert_void(*found, "1 (BatchNormLike) computes with statistics", "into buffers", "1.seen")


def test_one_by_one_through_the_model_no_samples_meet_there():
    assert_sound(*looked_at(around(Standardized()), vectors(), loop=True))


class Remembers(nn.Module):
    """A buffer that follows the data, and is used for nothing."""

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(6), persistent)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.last, self.calls = x.detach().mean(0), self.calls + 1
        return x


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_that_follows_the_data(persistent):
    """What counts calls alone is no statistic of the data; what is not saved is only remarked."""
    report, engine = looked_at(around(Remembers(persistent)), vectors())
    assert report.rows.change < LIMIT and report.rows.followers == ("1.last",)
    assert report.sound is not persistent and "1.last;" in str(report)
    assert (engine.get_epsilon(1e-5) == math.inf) is persistent


def test_what_meets_in_the_loss_is_not_blamed_on_the_model():
    """One by one through the model, a module of BatchNorm kind is harmless."""
    found = looked_at(around(BatchNormLike()), vectors(), nce, loop=True)
    assert_void(*found, "samples meet in the loss")


class Mixup(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.7 * x + 0.3 * x[torch.randperm(len(x))]


def test_mixing_at_random():
    """Records alone are as they are; only beside others something random happens."""
    assert_void(*looked_at(around(Mixup()), vectors()), "samples meet in the model")


class Rolled(nn.Module):
    """The first layer sees samples in another place than the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)).roll(1, 0)).roll(-1, 0)


def test_samples_that_change_places():
    """The sum of all rows is right, so only rows can tell."""
    assert_void(*looked_at(Rolled(), vectors()), "parts of one are taken for another's")


@pytest.mark.parametrize(
    ("reduction", "declared"), [("sum", "mean"), ("mean", "sum")], ids="a {}".format
)
@pytest.mark.parametrize("loop", [False, True])
def test_a_reduction_that_was_not_declared(kit, reduction, declared, loop):
    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction=reduction)

    found = looked_at(kit.Mlp(), vectors(), loss, reduction=declared, loop=loop)
    assert_void(*found, f"the loss is a {reduction}", f'pass loss_reduction="{reduction}"')


# ---- padding -----------------------------------------------------------------------------------


def utterances() -> Items:
    """(frames [T, 8], T, label [4]) with 20 to 79 frames."""
    lengths = [20 + (37 * i) % 60 for i in range(24)]
    return Items([(torch.randn(t, 8), t, torch.randint(1, 5, (4,))) for t in lengths])


def padded(frames: int | None) -> Callable[[list[Any]], Any]:
    """Pads to a number of frames, None to the longest of the batch."""

    def collate(items: list[Any]) -> Any:
        longest = frames or max(t for _, t, _ in items)
        x = torch.stack([F.pad(x, (0, 0, 0, longest - t)) for x, t, _ in items])
        return x, torch.tensor([t for _, t, _ in items]), torch.stack([y for *_, y in items])

    return collate


def ctc(model: nn.Module, batch: Any) -> Tensor:
    x, lengths, labels = batch
    scores = model(x, lengths).log_softmax(-1).transpose(0, 1)
    sizes = torch.full_like(lengths, 4)
    return F.ctc_loss(scores, labels, lengths, sizes, reduction="none", zero_infinity=True).mean()


class Conv(nn.Module):
    """Its second layer sees what the first makes of the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(8, 10, 5, padding=2), nn.Conv1d(10, 6, 5, padding=2)

    def forward(self, x: Tensor, _lengths: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x.transpose(1, 2)))).transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 7, num_layers=2, dropout=0.4, batch_first=True)
        self.head = nn.Linear(7, 6)

    def forward(self, x: Tensor, _lengths: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


class Conformer(nn.Module):
    """Masks what is longer than `lengths`, or than a fixed number of frames."""

    def __init__(self, frames: int | None) -> None:
        super().__init__()
        models = pytest.importorskip("torchaudio.models")
        self.frames, self.head = frames, nn.Linear(8, 6)
        self.encoder = models.Conformer(8, 2, 16, 1, 7, dropout=0.1, use_group_norm=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.frames is not None:
            lengths = torch.full_like(lengths, self.frames)
        return self.head(self.encoder(x, lengths)[0])


def mean_over_time(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0], batch[1]).mean(1), batch[2][:, 0])


class Summed(nn.Module):
    """Zeros add nothing to it; it keeps positions, as many as the last batch had."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6, bias=False)
        self.register_buffer("positions", torch.zeros(0))

    def forward(self, x: Tensor, _lengths: Tensor) -> Tensor:
        self.positions = torch.arange(x.shape[1])
        return self.layer(x).sum(1, keepdim=True)


def test_padding_that_changes_nothing():
    assert_sound(*looked_at(Summed(), utterances(), mean_over_time, collate=padded(None)), 1e-12)


@pytest.mark.parametrize("loop", [False, True])
def test_convolutions_over_padding(loop):
    found = looked_at(Conv(), utterances(), ctc, collate=padded(None), loop=loop)
    assert_void(*found, "padded to the longest of the batch", "pad to a public length")


def test_a_mean_over_padded_time():
    found = looked_at(Conv(), utterances(), mean_over_time, collate=padded(None))
    assert_void(*found, "padded to the longest of the batch")


def test_a_conformer_over_padding():
    found = looked_at(Conformer(None), utterances(), ctc, collate=padded(None))
    assert_void(*found, "padded to the longest of the batch")


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", [Conv, Recurrent, lambda: Conformer(80)])
def test_padding_to_a_fixed_length(model, dtype, loop):
    torch.set_default_dtype(dtype)
    found = looked_at(model(), utterances(), ctc, collate=padded(80), loop=loop)
    assert_sound(*found, 1e-5 if dtype == torch.float32 else 1e-12)


# ---- rows of their own -------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["Mlp", "ConvNet", "Transformer"])
def test_no_false_alarm(kit, name, dtype, reduction, loop):
    torch.set_default_dtype(dtype)
    data = {"Mlp": kit.vectors, "ConvNet": kit.images, "Transformer": kit.texts}[name]()
    inner = kit.mean_loss if reduction == "mean" else kit.sum_loss

    def loss(model, batch):
        return inner(model(batch[0]), batch[1])

    found = looked_at(
        getattr(kit, name)(), data, loss, reduction=reduction, loop=loop, max_physical_batch=5
    )
    assert_sound(*found, 1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(
    "grouping",
    [
        per_sample(),
        micro_batches(4),
        micro_batches(4, slots="random"),
        per_core(2, slots="fixed"),
        by_key(lambda i: i % 7),
        by_key(lambda i: i % 7, unit="user"),
    ],
    ids=lambda grouping: grouping.label,
)
def test_every_grouping(kit, grouping, loop):
    positional = grouping.facts.radii is None
    report, _ = looked_at(
        kit.Mlp(), vectors(), grouping=grouping, loop=loop, sigma=0.0 if positional else 1.0
    )
    assert report.rows.change < 1e-12 and report.rows.why_not is None
    assert report.sound is not positional


class BatchSecond(nn.Module):
    """Tied weights, a checkpoint, and [T, B, d]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.mixes, self.head = nn.GRU(6, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.first, x, use_reentrant=False)
        return self.head(self.mixes(self.second(x))[0])


@pytest.mark.parametrize("loop", [False, True])
def test_batch_on_the_second_axis(loop):
    def loss(model, batch):
        return F.cross_entropy(model(batch[0].transpose(0, 1))[-1], batch[1])

    data = TensorDataset(torch.randn(40, 3, 6), torch.randint(5, (40,)))
    assert_sound(*looked_at(BatchSecond(), data, loss, loop=loop, batch_first=False), 1e-12)


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Attention(nn.Module):
    """Dropout as an argument of attention, by place or by name."""

    def __init__(self, by_name: bool) -> None:
        super().__init__()
        self.by_name = by_name

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), 3, 2)
        if self.by_name:
            return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5).flatten(1)
        return F.scaled_dot_product_attention(x, x, x, None, 0.5).flatten(1)


class Rate(nn.Module):
    """Dropout of one's own, by a number."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) >= self.dropout)


class DropPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1) >= self.p) if self.training else x


@pytest.mark.parametrize(
    "middle",
    [
        nn.Dropout(0.5),
        nn.RReLU(),
        FunctionalDropout(),
        Attention(True),
        Attention(False),
        Rate(),
        DropPath(),
    ],
    ids=lambda middle: type(middle).__name__,
)
def test_dropout_is_off(middle):
    assert_sound(*looked_at(around(middle), vectors()))


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


def test_other_randomness_leaves_the_question_open():
    report, engine = looked_at(around(Noisy()), vectors())
    assert report.sound and engine.get_epsilon(1e-5) < math.inf
    assert report.rows.change > LIMIT and report.rows.why_not is None
    assert "not checked: the gradient of a record alone is another" in str(report)


# ---- precision ---------------------------------------------------------------------------------


class Rough(nn.Module):
    """Off by one part in a thousand beside others, in single precision: rounding, as it were.

    It computes with a buffer, a frozen weight and a tensor that it makes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.frozen = nn.Linear(2, 6), nn.Linear(6, 6).requires_grad_(False)
        self.register_buffer("table", torch.eye(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(x @ self.table) + self.shift(torch.ones(1, 2))
        return x * 1.001 if len(x) > 1 and x.dtype == torch.float32 else x


class SingleOnly(nn.Module):
    """A model that float64 does not go through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x)).float()
        return self.second(x * 1.05 if len(x) > 1 else x)


def coarsely(model: nn.Module, batch: Any) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return cross_entropy(model, batch)


def test_rounding_is_told_apart_in_double_precision():
    torch.set_default_dtype(torch.float32)
    model = around(Rough())
    report, engine = looked_at(model, vectors())
    assert_sound(report, engine, 1e-12)
    assert report.rows.double and torch.get_default_dtype() == torch.float32
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}


def test_what_is_written_for_one_precision_is_judged_in_it():
    torch.set_default_dtype(torch.float32)
    report, engine = looked_at(SingleOnly(), vectors())
    assert_void(report, engine, "samples meet in the model")
    assert not report.rows.double


def test_what_may_be_rounding_is_left_open():
    torch.set_default_dtype(torch.float32)
    report, engine = looked_at(SingleOnly(), vectors(), coarsely)
    assert report.sound and engine.get_epsilon(1e-5) < math.inf
    assert report.rows.change > LIMIT and "may be rounding" in str(report)


def test_autocast_does_not_hide_what_is_wrong():
    torch.set_default_dtype(torch.float32)
    found = looked_at(around(Standardized()), vectors(), coarsely)
    assert_void(*found, "samples meet in the model")


@pytest.mark.parametrize("how", [coarsely, cross_entropy])
def test_half_precision_alone_is_no_reason(how):
    torch.set_default_dtype(torch.float32)
    model, data = around(nn.Identity(), 64), vectors()
    if how is cross_entropy:
        model, data = model.bfloat16(), TensorDataset(data.tensors[0].bfloat16(), data.tensors[1])
    report, _ = looked_at(model, data, how)
    assert report.rows.change < LIMIT and report.rows.why_not is report.rows.unknown is None


# ---- which records -----------------------------------------------------------------------------


def test_the_smallest_and_the_largest_are_among_those_chosen():
    data = Items([torch.zeros(5 + (7 * i) % 13) for i in range(13)])
    sizes = [len(item) for item in chosen(data, 4, seed=0)]
    assert len(sizes) == 4 and {5, 17} < set(sizes)
    assert data.loaded == [1] * 13


def test_what_is_padded_beforehand_counts_by_what_is_filled():
    rows = [[1] * (2 + (5 * i) % 11) + [0] * 12 for i in range(11)]
    found = chosen(Items([{"ids": torch.tensor(row[:13])} for row in rows]), 2, seed=0)
    assert [int(item["ids"].sum()) for item in found] == [12, 2]


def test_words_count_by_their_length():
    assert chosen(Items(["ab", "abcd", "a", "abc"]), 2, seed=0) == ["abcd", "a"]


def test_few_of_a_large_data_set_are_looked_at_and_other_ones_later():
    data = Items([torch.zeros(3)] * 10_000)
    for seed in (0, 0, 1):
        chosen(data, 4, seed)
    assert sum(data.loaded) == 48 and sorted(set(data.loaded)) == [0, 1, 2]


def test_a_data_set_of_two():
    report, _ = looked_at(around(nn.Identity()), vectors(2), records=5)
    assert report.rows.records == 2 and report.sound


def test_a_data_set_of_one():
    report, _ = looked_at(around(nn.Identity()), vectors(1))
    assert report.rows is None and "the data set has one record" in str(report)
