"""Hugging Face's Trainer, as it is, trains a model that make_private has hooked."""

from __future__ import annotations

import math
import os
import socket

import pytest
import torch
from scipy.stats import chi2
from torch import nn

from dpclip import per_sample
from dpclip.accounting.spending import epsilon

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")

SIGMA, C, SIZE, RECORDS, EPOCHS, DELTA = 1.3, 2.2, 8, 40, 2, 1e-5
STEPS = EPOCHS * RECORDS // SIZE


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Nothing is downloaded or reported, nothing is written to the working directory.

    What a Trainer leaves in the process is taken back: the state that accelerate shares, an
    environment variable, and autocast.
    """

    def refuse(*_):
        raise AssertionError("a connection was opened")

    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    accelerate.state.AcceleratorState._reset_state(True)
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    torch.set_autocast_enabled("cpu", False)
    assert not list(folder.iterdir())


def classifier():
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=12, max_position_embeddings=6, num_labels=3,
            initializer_range=0.5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def language_model():
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=9, n_positions=6, n_embd=8, n_layer=2, n_head=2, use_cache=False,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    model.loss_type = "ForCausalLM"  # else a Trainer divides by six tokens, not five
    return model


def records(make):
    ids, labels = torch.randint(9, (RECORDS, 6)), torch.randint(3, (RECORDS,))
    if make is language_model:
        labels = ids
    return [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]


class Fed(transformers.Trainer):
    """A Trainer with a loader: to override this method is the documented way."""

    loader = None

    def get_train_dataloader(self):
        return self.loader or super().get_train_dataloader()


class Counted:
    """A loader that is told how many physical batches it has, and keeps what it yields."""

    def __init__(self, loader, batches):
        self.loader, self.batches, self.seen = loader, batches, []
        self.dataset = loader.dataset

    def __iter__(self):
        for batch in self.loader:
            self.seen.append(batch)
            yield batch

    def __len__(self):
        return self.batches


def private(kit, make=classifier, **how):
    torch.manual_seed(5)
    model = make().train()
    how = {"max_grad_norm": C, "noise_multiplier": SIGMA, "batch_size": SIZE} | how
    return kit.private(model, records(make), **how)


def fit(trained, loader, folder, data=None, callbacks=None, **how):
    how = {"num_train_epochs": EPOCHS, "save_strategy": "no"} | how
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        per_device_train_batch_size=SIZE,
        lr_scheduler_type="constant",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **how,
    )
    trainer = Fed(
        model=trained.model,
        args=arguments,
        optimizers=(trained.optimizer, None),
        train_dataset=data,
        eval_dataset=data,
        callbacks=callbacks,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.loader = loader
    trainer.train()
    return trainer


def by_hand(trained, epochs=EPOCHS, clipping=0.0):
    for _ in range(epochs):
        for batch in trained.loader:
            trained.optimizer.zero_grad()
            trained.model(**batch).loss.backward()
            if clipping:
                nn.utils.clip_grad_norm_(trained.model.parameters(), clipping)
            trained.optimizer.step()


def weights(trained):
    return [p.detach().clone() for p in trained.model.parameters()]


def flat(grads):
    return torch.cat([g.flatten() for g in grads])


def claims(trained, steps=STEPS):
    """Checks that epsilon is that of so many steps, at the rate and the noise asked for."""
    rate = SIZE / RECORDS
    assert trained.engine.steps == steps
    assert trained.engine.get_epsilon(DELTA) == epsilon("prv", [(SIGMA, rate, steps)], DELTA)
    assert f"q = {rate:.4g}" in trained.engine.guarantee


# ---- on our loader -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "how"),
    [(classifier, {}), (classifier, {"max_grad_norm": 0.0}), (language_model, {})],
)
def test_trains_like_a_loop_by_hand(kit, tmp_path, make, how):
    """The Trainer clips at 1 unless it is told not to, and divides by the number of tokens."""
    wanted = private(kit, make)
    start = weights(wanted)
    by_hand(wanted, clipping=how.get("max_grad_norm", 1.0))
    trained = private(kit, make)
    trainer = fit(trained, trained.loader, tmp_path, **how)
    assert trainer.state.global_step == STEPS == EPOCHS * len(trained.loader)
    claims(trained)
    # Transformers compute the loss of a language model in single precision.
    kit.close(weights(trained), weights(wanted), 1e-6 if make is language_model else 1e-12)
    assert not any(map(torch.equal, weights(trained), start))


class Before(transformers.TrainerCallback):
    """Keeps p.grad as it is after backward and the Trainer's clipping."""

    def __init__(self, trained):
        self.params, self.grads = list(trained.model.parameters()), []

    def on_pre_optimizer_step(self, *_, **__):
        self.grads.append(flat([p.grad for p in self.params]))


@pytest.mark.parametrize("make", [classifier, language_model])
def test_gradient_before_the_noise_is_the_clipped_sum(kit, tmp_path, make):
    trained = private(kit, make, lr=0.0)
    before, loader = Before(trained), Counted(trained.loader, len(trained.loader))
    fit(trained, loader, tmp_path, callbacks=[before], max_grad_norm=0.0)
    twin, divisor, norms = trained.twin, per_sample().divisor(SIZE / RECORDS, RECORDS), []
    for batch, found in zip(loader.seen, before.grads, strict=True):
        ids, labels = batch["input_ids"], batch["labels"]
        rows = []
        for x, y in zip(ids[:, None], labels[:, None], strict=True):
            loss = twin.model(input_ids=x, labels=y).loss
            row = flat(torch.autograd.grad(loss, twin.params))
            norms.append(float(row.norm()))
            rows.append(row * min(1.0, C / norms[-1]))
        kit.close([found], [sum(rows) / divisor.groups], 1e-6)
    assert min(norms) < C < max(norms)


@pytest.mark.parametrize("clipping", [1.0, 1e-3])
def test_noise_of_the_declared_std(kit, tmp_path, clipping):
    """It comes after the Trainer's own clipping, which therefore does not shrink it."""
    trained = private(kit, lr=0.0)
    before, after = Before(trained), []
    trained.optimizer.register_step_pre_hook(
        lambda *_: after.append(flat([p.grad for p in before.params]))
    )
    fit(trained, trained.loader, tmp_path, callbacks=[before], max_grad_norm=clipping)
    assert max(float(g.norm()) for g in before.grads) == pytest.approx(clipping, rel=2e-3)
    noise = torch.cat(after) - torch.cat(before.grads)
    assert len(noise) > 10_000
    squares = float((noise / (SIGMA * C / SIZE)).square().sum())
    assert 2 * min(chi2.cdf(squares, len(noise)), chi2.sf(squares, len(noise))) > 1e-3
    claims(trained)


def test_evaluation_and_checkpoints_in_between(kit, tmp_path):
    """Evaluation batches are larger than any training batch; a checkpoint has the plain keys."""
    wanted = private(kit)
    by_hand(wanted, clipping=1.0)
    trained = private(kit)
    fit(
        trained,
        trained.loader,
        tmp_path / "out",
        records(classifier),
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        per_device_eval_batch_size=RECORDS,
        save_strategy="epoch",
    )
    kit.close(weights(trained), weights(wanted), 1e-12)
    claims(trained)
    saved = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path / "out" / f"checkpoint-{STEPS}"
    )
    for found, want in zip(saved.parameters(), weights(wanted), strict=True):
        assert torch.allclose(found, want.to(found.dtype))


# ---- physical batches --------------------------------------------------------------------------


def in_pieces(kit, folder, *, counted, clipping=0.0):
    """Returns (trained with physical batches by a Trainer, trained without by hand)."""
    wanted = private(kit)
    by_hand(wanted, 1, clipping)
    pieces = sum(1 for _ in private(kit, max_physical_batch=3).loader)
    assert pieces > RECORDS // SIZE
    trained = private(kit, max_physical_batch=3)
    loader = Counted(trained.loader, pieces) if counted else trained.loader
    fit(trained, loader, folder, num_train_epochs=1, max_grad_norm=clipping)
    return trained, wanted


def test_physical_batches(kit, tmp_path):
    """The Trainer steps after each of them; only the last of a logical batch counts."""
    trained, wanted = in_pieces(kit, tmp_path, counted=True)
    claims(trained, RECORDS // SIZE)
    kit.close(weights(trained), weights(wanted), 1e-12)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="len(loader) counts logical batches, and a Trainer ends an epoch after as many "
    "physical ones",
)
def test_physical_batches_of_a_whole_epoch(kit, tmp_path):
    trained, wanted = in_pieces(kit, tmp_path, counted=False)
    claims(trained, RECORDS // SIZE)
    kit.close(weights(trained), weights(wanted), 1e-12)


def test_clipping_by_the_trainer_sees_the_whole_sum(kit, tmp_path):
    """Clipping each part of it would move more than the claim says."""
    trained, wanted = in_pieces(kit, tmp_path, counted=True, clipping=1.0)
    kit.close(weights(trained), weights(wanted), 1e-12)


# ---- no claim ----------------------------------------------------------------------------------


def test_own_loader(kit, tmp_path):
    trained = private(kit)
    start = weights(trained)
    fit(trained, None, tmp_path, records(classifier))
    assert not any(map(torch.equal, start, weights(trained)))
    assert trained.engine.steps == STEPS
    assert trained.engine.get_epsilon(DELTA) == math.inf
    assert "did not come from the loader" in trained.engine.guarantee


def test_accumulation_over_batches_claims_nothing(kit, tmp_path):
    """The Trainer draws both batches first, so that the first one may be longer than expected."""
    stepped = 0
    for seed in range(4):
        trained = private(kit, seed=seed)
        try:
            fit(trained, trained.loader, tmp_path, gradient_accumulation_steps=2)
        except RuntimeError as error:
            assert "but the loader yielded" in str(error)
        if trained.engine.steps:
            stepped += 1
            assert trained.engine.get_epsilon(DELTA) == math.inf
            assert "the loader had not just yielded" in trained.engine.guarantee
    assert stepped


@pytest.mark.xfail(
    strict=True,
    raises=RuntimeError,
    reason="of two batches drawn ahead, the engine knows the last",
)
def test_accumulation_over_batches_trains(kit, tmp_path):
    trained = private(kit)
    fit(trained, trained.loader, tmp_path, gradient_accumulation_steps=2)


# ---- precision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [classifier, language_model])
def test_bfloat16(kit, tmp_path, make):
    torch.set_default_dtype(torch.float32)
    wanted = private(kit, make)
    by_hand(wanted, clipping=1.0)
    trained = private(kit, make)
    fit(trained, trained.loader, tmp_path, bf16=True)
    claims(trained)
    assert not torch.is_autocast_enabled("cpu")
    assert all(found.dtype == torch.float32 for found in weights(trained))
    found, want = flat(weights(trained)), flat(weights(wanted))
    assert 0 < float((found - want).norm()) < 0.05 * float(want.norm())


def test_language_models_in_bfloat16(kit):
    """Each first step asks the model where its samples are; autocast is entered as usual."""
    torch.set_default_dtype(torch.float32)
    for seed in range(8):
        trained = private(kit, language_model, seed=seed)
        batch = next(iter(trained.loader))
        with torch.autocast("cpu", torch.bfloat16):
            loss = trained.model(**batch).loss
        loss.backward()
        trained.optimizer.step()


def test_loader_that_accelerate_prepares(kit):
    trained = private(kit)
    for batch in accelerate.Accelerator(cpu=True).prepare(trained.loader):
        assert set(batch) == {"input_ids", "labels"}
