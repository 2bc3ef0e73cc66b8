"""What holds of both models: a record is heard as if it were alone."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from audits.tasks.speech.augmentation import SpecAugment
from audits.tasks.speech.conformer import ConformerCTC
from audits.tasks.speech.convolutional import ConvCTC
from audits.tasks.speech.frames import MaskedNorm, inside, normalised
from audits.tasks.speech.loss import record_losses
from audits.tasks.speech.records import Record, Utterances, collate, halved
from dpclip import PrivacyEngine, micro_batches, per_core, per_sample
from dpclip.types import Grouping

torchaudio = pytest.importorskip("torchaudio")

MODELS = [
    pytest.param(partial(ConvCTC, 8, width=16, layers=3), id="conv"),
    pytest.param(partial(ConformerCTC, 8, width=16, layers=2, kernel=7), id="conformer"),
]
Build = Callable[[], nn.Module]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def records(dtype: torch.dtype = torch.float32) -> list[Record]:
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(t, 8, generator=draw).to(dtype), torch.randint(1, 29, (n,), generator=draw))
        for t, n in ((40, 5), (97, 9), (160, 20), (61, 3), (33, 6), (120, 11), (44, 5), (75, 4))
    ]


def build(made: Build, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return made().to(dtype)


def looked(model: nn.Module, some: list[Record], place: int) -> tuple[Tensor, Tensor]:
    """(loss, gradient) of one record of a batch."""
    model.zero_grad()
    loss = record_losses(model, collate(some))[place]
    loss.backward()
    return loss.detach(), flat(model)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("made", MODELS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 3e-5), (torch.float64, 1e-9)])
def test_a_record_is_heard_as_if_it_were_alone(
    made: Build, dtype: torch.dtype, close: float
) -> None:
    model, all_of_them = build(made, dtype), records(dtype)
    for place in (0, 2, 4):
        loss, gradient = looked(model, all_of_them, place)
        own_loss, own_gradient = looked(model, [all_of_them[place]], 0)
        assert abs(loss - own_loss) < close * own_loss
        assert (gradient - own_gradient).norm() < close * own_gradient.norm()


@pytest.mark.parametrize("made", MODELS)
def test_what_lies_behind_a_record_is_not_looked_at(made: Build) -> None:
    model = build(made).eval()
    batch = collate(records())
    behind = torch.arange(batch.features.shape[1]) >= batch.frames[:, None]
    noisy = batch.features.masked_fill(behind[:, :, None], 9.0)
    own = inside(halved(batch.frames), 80)[:, 0]
    with torch.no_grad():
        clean, other = (model(x, batch.frames) for x in (batch.features, noisy))
    assert clean.exp().sum(2).allclose(torch.ones(len(own), 80), atol=1e-5)
    assert torch.equal(clean[own], other[own])


@pytest.mark.parametrize("made", MODELS)
@pytest.mark.parametrize(
    ("grouping", "size"), [(per_sample(), 1), (per_core(4), 2), (micro_batches(2), 2)]
)
def test_group_gradients_are_those_of_each_record_by_itself(
    made: Build, grouping: Grouping, size: int
) -> None:
    model, bound, data = build(made).train(), 0.2, records()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    engine = PrivacyEngine(seed=0, measure=False)
    model, optimizer, loader = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=DataLoader(Utterances(data), len(data), collate_fn=collate),
        noise_multiplier=0.0,
        max_grad_norm=bound,
        grouping=grouping,
        poisson_sampling=False,
    )
    (batch,) = loader
    record_losses(model, batch).mean().backward()
    found = flat(model).clone()
    engine.close()
    assert (found - _slow(build(made), data, size, bound)).norm() < 1e-4 * found.norm()


def _slow(model: nn.Module, data: list[Record], size: int, bound: float) -> Tensor:
    groups = []
    for start in range(0, len(data), size):
        rows = [looked(model, [record], 0)[1] for record in data[start : start + size]]
        mean = torch.stack(rows).mean(0)
        assert mean.norm() > bound  # all are clipped
        groups.append(mean * bound / mean.norm())
    return torch.stack(groups).mean(0)


@pytest.mark.parametrize("made", MODELS)
def test_features_are_one_row_for_each_record(made: Build) -> None:
    model, seen = build(made), []
    model.get_submodule("pooled").register_forward_hook(lambda _m, _i, out: seen.append(out))
    for some in (records(), records()[:1]):
        batch = collate(some)
        model(batch.features, batch.frames)
    together, alone = seen
    assert together.shape == (8, 16)
    assert torch.allclose(together[0], alone[0], atol=1e-5)


def test_the_conformer_is_torchaudios_where_nothing_is_padded() -> None:
    model = build(MODELS[1].values[0]).eval()
    record = records()[2]
    batch = collate([record])
    theirs = torchaudio.models.Conformer(16, 4, 32, 2, 7, use_group_norm=True).eval()
    theirs.load_state_dict(model.conformer.state_dict())
    with torch.no_grad():
        x = torch.relu(model.enter(batch.features.transpose(1, 2))).transpose(1, 2)
        x, _ = theirs(x, halved(batch.frames))
        expected = model.head(x).log_softmax(2)
        assert torch.allclose(model(batch.features, batch.frames), expected, atol=1e-5)


def test_normalization_is_group_norm_of_the_own_frames() -> None:
    x, frames = torch.randn(3, 6, 9) * 3 + 1, torch.tensor([9, 4, 1])
    norm = MaskedNorm(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    found = norm(x, inside(frames, 9))
    for row, whole, t in zip(found, x, frames.tolist(), strict=True):
        own = whole[None, :, :t]
        expected = nn.functional.group_norm(own, 1, norm.weight, norm.bias)
        assert torch.allclose(row[:, :t], expected[0], atol=1e-5)
    assert normalised(x, inside(frames, 9))[1, :, 4:].abs().max() == 0


def test_masks_stay_inside_the_own_frames_and_go_in_eval_mode() -> None:
    torch.manual_seed(0)
    layer, frames = SpecAugment(times=2, frames=10, bands=1, width=3), torch.tensor([50, 20])
    features = torch.rand(2, 50, 8) + 1
    features[1, 20:] = 0
    for _ in range(20):
        masked = layer(features, frames)
        assert ((masked == 0) | (masked == features)).all()
        times = (masked == 0).all(2)
        assert times[0].sum() <= 20
        assert times[1, :20].sum() <= 8  # a fifth of its own frames each
        assert (masked == 0).all(1)[0].sum() <= 3
        assert times[1, 20:].all()
    assert layer.eval()(features, frames) is features


def test_masks_are_drawn_for_each_record() -> None:
    torch.manual_seed(0)
    layer = SpecAugment(times=1, frames=10, bands=0)
    masked = layer(torch.ones(20, 50, 8), torch.full((20,), 50))
    assert len({tuple(row) for row in (masked[:, :, 0] == 0).tolist()}) > 10


@pytest.mark.parametrize("made", MODELS)
def test_models_augment_in_training_only(made: Build) -> None:
    torch.manual_seed(0)
    model = made(augment=SpecAugment())  # type: ignore[call-arg]
    batch = collate(records())
    with torch.no_grad():
        first, second = (model(batch.features, batch.frames) for _ in range(2))
        assert not torch.equal(first, second)
        model.eval()
        plain = build(made).eval()
        plain.load_state_dict(model.state_dict())
        expected = plain(batch.features, batch.frames)
        assert torch.equal(model(batch.features, batch.frames), expected)
