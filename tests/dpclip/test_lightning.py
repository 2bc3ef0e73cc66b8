"""Lightning's Trainer, as it is, trains a model that make_private has hooked."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2
from torch import nn
from torch.utils.data import DataLoader

from dpclip import micro_batches, per_sample
from dpclip.accounting.spending import epsilon

lightning = pytest.importorskip("pytorch_lightning")

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # of Lightning's own looking at trees
]

SIGMA, C, SIZE, RECORDS, EPOCHS, DELTA = 1.3, 1.7, 8, 40, 2, 1e-5
STEPS = EPOCHS * RECORDS // SIZE


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Nothing is written to the working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert not list(folder.iterdir())


def flat(net):
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    return torch.cat([g.flatten() for g in grads])


class Task(lightning.LightningModule):
    """What a user of Lightning writes: nothing in it knows of dpclip."""

    def __init__(self, net, by_hand=False):
        super().__init__()
        self.net, self.chosen = net, None
        self.seen, self.batches, self.grads = [], [], []
        self.automatic_optimization = not by_hand

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _number):
        x, y = batch
        self.seen.append("loss")
        self.batches.append(batch)
        loss = F.cross_entropy(self(x), y)
        if not self.automatic_optimization:
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
        return loss

    def validation_step(self, batch, _number):
        assert not self.training
        self.seen.append("validation")
        self(batch[0])

    def configure_optimizers(self):
        return self.chosen

    def on_before_zero_grad(self, _optimizer):
        self.seen.append("zero")

    def on_after_backward(self):
        self.seen.append("backward")

    def on_before_optimizer_step(self, _optimizer):
        self.seen.append("step")

    def configure_gradient_clipping(self, optimizer, **how):
        """Keeps p.grad as the trainer leaves it, before the noise."""
        self.clip_gradients(optimizer, **how)
        self.grads.append(flat(self.net))


class Layers(Task):
    """Calls a layer of its own, not itself."""

    def forward(self, x):
        raise AssertionError("nobody calls it")

    def training_step(self, batch, _number):
        return F.cross_entropy(self.net(batch[0]), batch[1])


class Counted:
    """A loader that is told how many physical batches it has."""

    def __init__(self, loader, batches):
        self.loader, self.batches = loader, batches

    def __iter__(self):
        return iter(self.loader)

    def __len__(self):
        return self.batches


class Endless:
    """A loader that does not know its length, so that Lightning draws a batch ahead."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


def private(kit, *, task=Task, hooked="net", net=None, by_hand=False, **how):
    """Returns (task, what kit.private returns)."""
    torch.manual_seed(5)
    made = task((net or kit.Mlp)(), by_hand)
    how = {"max_grad_norm": C, "noise_multiplier": SIGMA, "batch_size": SIZE} | how
    trained = kit.private(made.net if hooked == "net" else made, kit.vectors(RECORDS), **how)
    made.chosen = trained.optimizer
    return made, trained


def fit(task, loader, folder, validation=None, **how):
    how = {"max_epochs": EPOCHS, "enable_checkpointing": False} | how
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **how,
    )
    trainer.fit(task, loader, val_dataloaders=validation)
    return trainer


def by_hand(kit, trained, epochs=EPOCHS):
    for _ in range(epochs):
        for x, y in trained.loader:
            trained.optimizer.zero_grad()
            kit.mean_loss(trained.model(x), y).backward()
            trained.optimizer.step()


def weights(trained):
    return [p.detach().clone() for p in trained.model.parameters()]


def claims(trained, steps=STEPS):
    """Checks that epsilon is that of so many steps, at the rate and the noise asked for."""
    rate = SIZE / RECORDS
    assert trained.engine.steps == steps
    assert trained.engine.get_epsilon(DELTA) == epsilon("prv", [(SIGMA, rate, steps)], DELTA)
    assert f"q = {rate:.4g}" in trained.engine.guarantee


# ---- on our loader -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [{}, {"hooked": "task"}, {"task": Layers, "hooked": "task"}, {"by_hand": True}],
    ids=["the network", "the module", "its layers", "manual optimization"],
)
def test_trains_like_a_loop_by_hand(kit, tmp_path, how):
    """Nothing is put in between: no factor on the loss, no clipping, no second pass."""
    _, wanted = private(kit)
    start = weights(wanted)
    by_hand(kit, wanted)
    task, trained = private(kit, **how)
    trainer = fit(task, trained.loader, tmp_path)
    assert trainer.global_step == STEPS == EPOCHS * len(trained.loader)
    claims(trained)
    for before, found, want in zip(start, weights(trained), weights(wanted), strict=True):
        assert torch.equal(found, want)
        assert not torch.equal(found, before)


def test_closure_runs_once_a_step(kit, tmp_path):
    """Lightning hands over a closure, which the engine runs before it adds noise."""
    task, trained = private(kit)
    fit(task, trained.loader, tmp_path)
    assert task.seen == ["loss", "zero", "backward", "step"] * STEPS


def test_gradient_before_the_noise_is_the_clipped_sum(kit, tmp_path):
    task, trained = private(kit, lr=0.0)
    fit(task, trained.loader, tmp_path)
    divisor = per_sample().divisor(SIZE / RECORDS, RECORDS)
    for (x, y), found in zip(task.batches, task.grads, strict=True):
        want = trained.twin.update(x, y, torch.arange(len(x)), divisor)
        kit.close([found], [torch.cat([w.flatten() for w in want])])
    norms = trained.engine.diagnostics().norms
    assert norms.min() < C < norms.max()


def wide():
    return nn.Sequential(nn.Linear(6, 400), nn.Tanh(), nn.Linear(400, 5))


@pytest.mark.parametrize(
    "clipping",
    [
        {},
        {"gradient_clip_val": 1e-3},
        {"gradient_clip_val": 1e-5, "gradient_clip_algorithm": "value"},
    ],
    ids=["none", "norm", "value"],
)
def test_noise_of_the_declared_std(kit, tmp_path, clipping):
    """It comes after the trainer's own clipping, which therefore does not shrink it."""
    task, trained = private(kit, net=wide, lr=0.0)
    after = []
    trained.optimizer.register_step_pre_hook(lambda *_: after.append(flat(task.net)))
    fit(task, trained.loader, tmp_path, **clipping)
    if clipping:
        norm = {"norm": 2, "value": torch.inf}[clipping.get("gradient_clip_algorithm", "norm")]
        sizes = torch.stack([g.norm(norm) for g in task.grads])
        assert (sizes - clipping["gradient_clip_val"]).abs().max() < 1e-6
    noise = torch.cat(after) - torch.cat(task.grads)
    squares = float((noise / (SIGMA * C / SIZE)).square().sum())
    assert 2 * min(chi2.cdf(squares, len(noise)), chi2.sf(squares, len(noise))) > 1e-3
    claims(trained)


@pytest.mark.parametrize("size", [1e-7, 0.3, 2.0])
def test_clipping_by_a_trainer_moves_no_two_sums_apart(size):
    """So one record can do no more to the clipped sum than to the sum: epsilon stays right.

    Both project onto a convex set, the 1e-6 that PyTorch adds to the norm included.
    """
    draws = torch.Generator().manual_seed(0)
    for clipped in (nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_):
        for far in (1e-6, 1e-3, 1.0, 10.0):
            one = torch.randn(3, 7, generator=draws)
            two = one + far * torch.randn(3, 7, generator=draws)
            gap = float((one - two).norm())
            for value in (one, two):
                param = nn.Parameter(torch.zeros(3, 7))
                param.grad = value
                clipped([param], size)
            assert float((one - two).norm()) <= gap * (1 + 1e-9)


def test_validation_and_checkpoints_in_between(kit, tmp_path):
    """Validation batches are larger than any training batch; a checkpoint has the plain keys."""
    _, wanted = private(kit)
    by_hand(kit, wanted)
    task, trained = private(kit)
    validation = DataLoader(kit.vectors(RECORDS), batch_size=RECORDS)
    trainer = fit(
        task,
        trained.loader,
        tmp_path,
        validation,
        val_check_interval=1,
        enable_checkpointing=True,
    )
    assert task.seen.count("validation") == 1 + STEPS  # and once before training
    assert all(map(torch.equal, weights(trained), weights(wanted)))
    claims(trained)
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=False)
    assert list(saved["state_dict"]) == list(Task(kit.Mlp()).state_dict())


# ---- physical batches --------------------------------------------------------------------------


def in_pieces(kit, folder, *, counted, **how):
    """Returns (trained with physical batches by Lightning, trained without by hand)."""
    clipping = how.pop("gradient_clip_val", None)
    _, wanted = private(kit, **how)
    for x, y in wanted.loader:
        wanted.optimizer.zero_grad()
        kit.mean_loss(wanted.model(x), y).backward()
        if clipping:
            nn.utils.clip_grad_norm_(wanted.model.parameters(), clipping)
        wanted.optimizer.step()
    pieces = sum(1 for _ in private(kit, max_physical_batch=3, **how)[1].loader)
    assert pieces > RECORDS // SIZE
    task, trained = private(kit, max_physical_batch=3, **how)
    loader = Counted(trained.loader, pieces) if counted else trained.loader
    fit(task, loader, folder, max_epochs=1, gradient_clip_val=clipping)
    return trained, wanted


def test_physical_batches(kit, tmp_path):
    """Lightning steps after each of them; only the last of a logical batch counts."""
    trained, wanted = in_pieces(kit, tmp_path, counted=True)
    claims(trained, RECORDS // SIZE)
    kit.close(weights(trained), weights(wanted), 1e-12)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="len(loader) counts logical batches, and Lightning ends an epoch after as many "
    "physical ones",
)
def test_physical_batches_of_a_whole_epoch(kit, tmp_path):
    trained, wanted = in_pieces(kit, tmp_path, counted=False)
    claims(trained, RECORDS // SIZE)
    kit.close(weights(trained), weights(wanted), 1e-12)


def test_clipping_by_the_trainer_sees_the_whole_sum(kit, tmp_path):
    """Clipping each part of it would move more than the claim says."""
    trained, wanted = in_pieces(kit, tmp_path, counted=True, gradient_clip_val=0.01)
    kit.close(weights(trained), weights(wanted), 1e-12)


# ---- no claim ----------------------------------------------------------------------------------


def test_own_loader(kit, tmp_path):
    task, trained = private(kit)
    start = weights(trained)
    fit(task, DataLoader(kit.vectors(RECORDS), batch_size=SIZE, shuffle=True), tmp_path)
    assert not any(map(torch.equal, start, weights(trained)))
    assert trained.engine.steps == STEPS
    assert trained.engine.get_epsilon(DELTA) == math.inf
    assert "did not come from the loader" in trained.engine.guarantee


def test_accumulation_over_batches(kit, tmp_path):
    """A record may be in both, so that it counts twice; what is divided does not matter then."""
    task, trained = private(kit)
    fit(task, trained.loader, tmp_path, accumulate_grad_batches=2)
    assert trained.engine.steps == EPOCHS * math.ceil(RECORDS / SIZE / 2)
    assert trained.engine.get_epsilon(DELTA) == math.inf
    assert "second batch was drawn" in trained.engine.guarantee


@pytest.mark.parametrize("grouping", [per_sample(), micro_batches(2, slots="random")])
def test_batch_drawn_ahead(kit, tmp_path, grouping):
    """Padding must not be taken for records, nor a group for another."""
    task, trained = private(kit, grouping=grouping, max_physical_batch=30, fixed_shape=True)
    fit(task, Endless(trained.loader), tmp_path, max_steps=3)
    assert trained.engine.get_epsilon(DELTA) == math.inf


# ---- precision ---------------------------------------------------------------------------------


def test_bfloat16(kit, tmp_path):
    """Weights, their gradients and the noise stay in single precision."""
    torch.set_default_dtype(torch.float32)
    _, wanted = private(kit, net=wide)
    by_hand(kit, wanted)
    task, trained = private(kit, net=wide)
    fit(task, trained.loader, tmp_path, precision="bf16-mixed")
    claims(trained)
    for found, want in zip(weights(trained), weights(wanted), strict=True):
        assert found.dtype == torch.float32
        assert 0 < float((found - want).abs().max()) < 0.05
    assert not torch.is_autocast_enabled("cpu")


def test_float16_is_refused(kit, tmp_path):
    from pytorch_lightning.plugins.precision import MixedPrecision

    torch.set_default_dtype(torch.float32)
    task, trained = private(kit)
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(RuntimeError, match=r"GradScaler.*Use bfloat16"):
        fit(task, trained.loader, tmp_path, plugins=[scaled])
    assert trained.engine.steps == 0
