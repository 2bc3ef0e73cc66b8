"""Models as people have them, unmodified, equal the slow twin."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from dpclip import clip, clip_to_min, micro_batches, per_core, per_sample

GROUPINGS = [per_sample(), micro_batches(3), per_core(2)]
each_grouping = pytest.mark.parametrize("grouping", GROUPINGS, ids=lambda g: g.label)


class Logits(nn.Module):
    """A Hugging Face model, called on ids and asked for its logits."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).logits


def hugging_face(name):
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    sizes = {
        "gpt2": lambda t: t.GPT2LMHeadModel(
            t.GPT2Config(
                vocab_size=9, n_positions=8, n_embd=8, n_layer=2, n_head=2, use_cache=False,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )
        ),
        "llama": lambda t: t.LlamaForCausalLM(
            t.LlamaConfig(
                vocab_size=9, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=1, use_cache=False,
            )
        ),
        "vit": lambda t: t.ViTForImageClassification(
            t.ViTConfig(
                hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
                image_size=8, patch_size=4, num_channels=2, num_labels=5,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )
        ),
    }  # fmt: skip
    return Logits(sizes[name](transformers).double()).train()


@each_grouping
@pytest.mark.parametrize("name", ["gpt2", "llama", "vit"])
def test_hugging_face(kit, name, grouping):
    model = hugging_face(name)
    data = kit.texts()
    if name == "vit":
        data = TensorDataset(torch.randn(20, 2, 8, 8), torch.randint(5, (20,)))
    trained = kit.private(model, data, batch_size=5, grouping=grouping, weighting=clip(0.2))
    # Llama's norms compute in single precision whatever they are given.
    kit.agree(trained, steps=2, rtol=1e-6 if name == "llama" else 1e-9)


class Speech(nn.Module):
    """torchaudio's Conformer as it is, between two linear layers."""

    def __init__(self, conformer):
        super().__init__()
        self.bands = nn.Linear(5, 8)
        self.conformer, self.head = conformer, nn.Linear(8, 4)

    def forward(self, x):
        lengths = torch.full((len(x),), x.shape[1])
        return self.head(self.conformer(self.bands(x), lengths)[0])


def square(output, _y):
    return output.square().flatten(1).sum(1).mean()


@each_grouping
@pytest.mark.parametrize("time", [5, 9])
def test_torchaudio_conformer(kit, grouping, time):
    """It mixes (T, B, D) and (B, C, T); five frames of five samples look alike in both."""
    torchaudio = pytest.importorskip("torchaudio")
    conformer = torchaudio.models.Conformer(8, 2, 12, 2, 3, use_group_norm=True)
    data = TensorDataset(torch.randn(20, time, 5), torch.zeros(20))
    trained = kit.private(
        Speech(conformer.double()),
        data,
        batch_size=5,
        grouping=grouping,
        weighting=clip(0.2),
        poisson_sampling=False,
    )
    trained.twin.loss = square
    kit.agree(trained, steps=2, loss=square)


class Adapter(nn.Module):
    """A frozen layer with a low-rank adapter (Hu et al. 2021)."""

    def __init__(self, frozen, rank):
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features))
        self.up = nn.Parameter(torch.randn(frozen.out_features, rank))

    def forward(self, x):
        return self.frozen(x) + x @ self.down.T @ self.up.T


@each_grouping
def test_low_rank_adapters(kit, grouping):
    model = nn.Sequential(Adapter(nn.Linear(6, 8), 2), nn.Tanh(), Adapter(nn.Linear(8, 5), 2))
    trained = kit.private(model, kit.vectors(), grouping=grouping, weighting=clip_to_min())
    kit.agree(trained)


def test_encoder_with_dropout(kit):
    """The same numbers drop out: with weight one, the sum of the groups is the plain gradient."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.3, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    trained = kit.private(model, TensorDataset(torch.randn(20, 4, 8)), poisson_sampling=False)
    twin = trained.twin.model.train()
    (x,) = next(iter(trained.loader))
    for _ in range(2):  # the first finds out where samples are
        torch.manual_seed(7)
        trained.model(x).square().sum((1, 2)).mean().backward()
        torch.manual_seed(7)
        wanted = torch.autograd.grad(twin(x).square().sum((1, 2)).mean(), list(twin.parameters()))
        kit.close(trained.grads, list(wanted))
        trained.optimizer.zero_grad()
        trained.inner._forget()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch.compile's own looking
@pytest.mark.parametrize("loop", [False, True])
def test_compiled_parts(kit, loop):
    """A compiled function inside a model runs as it is; its weights are the layers'."""

    class Compiled(kit.Mlp):
        def __init__(self):
            super().__init__()
            self.act = torch.compile(lambda x: F.gelu(x) * 2.0, backend="aot_eager")

        def forward(self, x):
            return self.layers[2](self.act(self.layers[0](x)))

    trained = kit.private(Compiled(), kit.vectors(), loop=loop, weighting=clip(0.2))
    kit.agree(trained, steps=2)
