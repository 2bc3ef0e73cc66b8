import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from audits.exposure import exact
from audits.tasks import text
from canaries import SecretFormat, text_records

FORM = SecretFormat("the pin {}-{}{} is it", "0123456789")


@pytest.fixture(scope="module")
def prose() -> text.Prose:
    return text.load(12_000)


def family(form: SecretFormat = FORM) -> Any:
    sentence, span = text_records(form, np.zeros((1, form.holes), dtype=np.int64), text.LENGTH)

    def draw(n: int, rng: np.random.Generator) -> TensorDataset:
        tokens, _ = text_records(form, form.draw(n, rng), text.LENGTH)
        return TensorDataset(tokens, tokens != 0)

    return text.secret_family(draw, sentence[0], span[0], [ord(c) for c in form.alphabet])


@pytest.fixture(scope="module")
def trained(prose: text.Prose) -> nn.Module:
    """A model that has seen some prose, and one secret often."""
    torch.set_num_threads(1)
    task = text.task({}, prose)
    model = task.model(0)
    optimizer = task.optimizer(model.parameters(), 3e-3)
    tokens, _ = text_records(FORM, np.array([[4, 2, 7]]), text.LENGTH)
    for batch in torch.utils.data.DataLoader(prose.train, 32):
        batch = [torch.cat([batch[0], tokens]), torch.cat([batch[1], tokens != 0])]
        for _ in range(8):
            optimizer.zero_grad()
            task.losses(model, batch).mean().backward()
            optimizer.step()
    return model


def test_the_corpus_is_prose_with_its_hash_on_record(prose: text.Prose) -> None:
    whole = text.corpus()
    assert len(whole) > 300_000
    assert "statement" in whole.decode()
    assert prose.digest == hashlib.sha256(whole[:12_000]).hexdigest()
    assert text.task({}, prose).facts == {"corpus": f"sha256 {prose.digest[:16]}"}
    assert text.corpus() == whole


def test_the_parts_are_all_chunks_once(prose: text.Prose) -> None:
    parts = [prose.train, prose.validation, prose.test]
    assert [len(part) for part in parts] == [169, 9, 9]
    rows = torch.cat([part.tensors[0] for part in parts])
    chunks = [text.corpus()[i : i + 64] for i in range(0, 12_000 - 63, 64)]
    assert sorted(bytes(row.tolist()) for row in rows) == sorted(chunks)
    assert all(part.tensors[1].all() for part in parts)


def test_perplexity_of_a_uniform_model_is_the_vocabulary(prose: text.Prose) -> None:
    class Uniform(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.zeros(*tokens.shape, text.VOCABULARY)

    assert text.perplexity(Uniform(), prose.test) == pytest.approx(256, rel=1e-5)


def test_training_lowers_perplexity(prose: text.Prose, trained: nn.Module) -> None:
    before = text.perplexity(text.task({}, prose).model(0), prose.test)
    assert 150 < before < 500
    assert 1 < text.perplexity(trained, prose.test) < 40


def test_perplexity_beyond_floats_is_infinite(prose: text.Prose) -> None:
    class Wrong(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.full((*tokens.shape, text.VOCABULARY), 0.0).index_fill(
                2, torch.tensor([0]), 1e4
            )

    assert math.isinf(text.perplexity(Wrong(), prose.test))


def test_padding_costs_nothing(trained: nn.Module) -> None:
    tokens, _ = text_records(FORM, np.array([[1, 2, 3]]), text.LENGTH)
    each = text.token_losses(trained, (tokens, tokens != 0))
    length = int((tokens != 0).sum())
    assert each.shape == (1, text.LENGTH - 1)
    assert (each[0, : length - 1] > 0).all()
    assert (each[0, length - 1 :] == 0).all()
    record = text.record_losses(trained, (tokens, tokens != 0))
    assert record.item() == pytest.approx(each.sum().item() / (text.LENGTH - 1))


def test_no_byte_sees_what_comes_after_it(trained: nn.Module) -> None:
    tokens = torch.randint(256, (1, 20))
    changed = tokens.clone()
    changed[0, 12:] = 65
    trained.eval()
    assert torch.allclose(trained(tokens)[0, :12], trained(changed)[0, :12], atol=1e-5)


def test_enumerated_losses_are_those_of_each_filling_alone(trained: nn.Module) -> None:
    found = family()
    trained.eval()
    with torch.no_grad():
        every = found.space.losses(trained)
        assert every.shape == (1000,)
        secrets = FORM.draw(50, np.random.default_rng(0))
        tokens, _ = text_records(FORM, secrets, text.LENGTH)
        numbers = [found.space.number((row, row != 0)) for row in tokens]
        assert numbers == [int(a * 100 + b * 10 + c) for a, b, c in secrets]
        alone = torch.cat([found.losses(trained, (row[None], row[None] != 0)) for row in tokens])
    assert torch.allclose(every[numbers], alone.double(), atol=1e-4)


def test_enumerated_ranks_are_those_of_scoring_all_one_by_one(trained: nn.Module) -> None:
    found = family()
    trained.eval()
    tokens, _ = text_records(FORM, FORM.candidates(), text.LENGTH)
    with torch.no_grad():
        every = found.space.losses(trained)
        slow = found.losses(trained, (tokens, tokens != 0))
    for number in (427, 0, 999, 123):
        fast = exact(every[number], every).bits
        clear = (slow < slow[number] - 1e-3).sum() + 1, (slow < slow[number] + 1e-3).sum()
        assert (
            math.log2(1000 / int(clear[1])) - 1e-9 <= fast <= math.log2(1000 / int(clear[0])) + 1e-9
        )


def test_a_secret_seen_often_ranks_first(trained: nn.Module) -> None:
    trained.eval()
    every = family().space.losses(trained)
    assert exact(every[427], every).bits > 5


class Knows(nn.Module):
    """A model of one record: its next byte is likely at every place, other digits less so."""

    def __init__(self, record: Tensor) -> None:
        super().__init__()
        self.record = record

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, text.VOCABULARY)
        logits[..., 48:58] = torch.arange(10) / 10
        places = torch.arange(tokens.shape[1]).expand(tokens.shape)
        right = self.record[1:][places.clamp(max=text.LENGTH - 2)]
        return logits.scatter(2, right[..., None], 12.0)


def test_too_large_a_space_is_sampled_and_searched() -> None:
    form = SecretFormat("the pin {}-{}{}{}{}{}{}{} is it")
    found = family(form)
    assert found.space is None and found.references == 1000
    assert found.vast.size == 10**8
    secrets = np.array([[1, 2, 3, 4, 5, 6, 7, 8]] * 3)
    secrets[1, 7], secrets[2, 0] = 9, 3
    tokens, _ = text_records(form, secrets, text.LENGTH)
    model = Knows(tokens[0])
    seen = found.vast.search(model, [(row, row != 0) for row in tokens])
    assert seen.space == 10**8 and seen.exact.all()
    # Behind the secret come the 8 with one 9 in place of a letter; one 3 costs more.
    assert seen.lowest[0] == 1 and 2 <= seen.lowest[1] <= 9 < seen.lowest[2] <= 73
    # What comes out likely has the losses that ranking among references would give it.
    likely, _ = text_records(form, seen.fillings - ord("0"), text.LENGTH)
    alone = found.losses(model, (likely, likely != 0))
    assert len(likely) == 3 and likely[0].tolist() == tokens[0].tolist()
    assert seen.losses == pytest.approx(alone.numpy(), abs=1e-4)


def test_fillings_up_to_ten_million_are_enumerated() -> None:
    found = family(SecretFormat("pin {}{}{}{}{}{}{}"))
    assert found.vast is None and found.space is not None and found.references == 0


def test_a_secret_needs_something_before_it() -> None:
    with pytest.raises(ValueError, match="begins with a hole"):
        family(SecretFormat("{}{} is the pin"))
