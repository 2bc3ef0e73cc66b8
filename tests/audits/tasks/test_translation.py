import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from audits.tasks import Task, translation
from audits.tasks.subwords import BEGIN, END, PAD, learn, needed, padded
from audits.tasks.translator import Translator, translate
from tests.audits.tasks import folders

pytest.importorskip("tokenizers")
sacrebleu = pytest.importorskip("sacrebleu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def data(folder: Path) -> translation.Translations:
    return translation.load(folder)


@pytest.fixture(scope="module")
def made(folder: Path) -> Task:
    return translation.task(folder, references=10)


@pytest.fixture(scope="module")
def trained(made: Task) -> nn.Module:
    """A model that knows eight training sentences, and the words of the others."""
    torch.set_num_threads(1)
    model = made.model(0)
    optimizer = made.optimizer(model.parameters(), made.lr)
    batch = next(iter(DataLoader(made.train, 8)))
    for _ in range(60):
        optimizer.zero_grad()
        made.losses(model, batch).mean().backward()
        optimizer.step()
    return model


def test_text_survives_tokens() -> None:
    subwords = learn(["zwei junge Männer", "two men"], 300)
    texts = ["Zwei Männer, «jung»", "two men", "\u4f60\u597d"]
    tokens = subwords.encode(texts)
    assert subwords.decode(tokens) == texts
    assert not {PAD, BEGIN, END} & {t for row in tokens for t in row}
    assert subwords.decode([[BEGIN, *tokens[1], END, PAD]]) == ["two men"]
    (alone,) = subwords.encode(["men"])  # a word is the same at the beginning
    assert tokens[1][-len(alone) :] == alone


_LEARN = """
from audits.tasks.subwords import learn
from tests.audits.tasks.folders import sentences
english, german = sentences(300, 0)
print(learn([*english, *german], 400).tokenizer.to_str())
"""


def test_the_vocabulary_is_the_same_in_every_process() -> None:
    """Each run of a sweep learns it anew."""
    root = Path(__file__).parents[3]
    english, german = folders.sentences(300, 0)
    here = learn([*english, *german], 400).tokenizer.to_str()
    there = subprocess.run(
        [sys.executable, "-c", _LEARN], cwd=root, check=True, capture_output=True, text=True
    )
    assert there.stdout.strip() == here


def test_sequences_have_one_length_and_an_end() -> None:
    rows, cut = padded([[5, 6], [5, 6, 7, 8], [5, 6, 7, 8, 9]], 6)
    assert rows.tolist() == [
        [BEGIN, 5, 6, END, PAD, PAD],
        [BEGIN, 5, 6, 7, 8, END],
        [BEGIN, 5, 6, 7, 8, END],
    ]
    assert cut == 1


def test_parts_are_disjoint_and_as_large_as_told(data: translation.Translations) -> None:
    assert [len(part) for part in data.parts] == [270, 6, 6, 30]
    sources, targets = data.parts.test.tensors
    assert sources.shape == targets.shape == (6, translation.LENGTH)
    texts = data.subwords.decode(sources.tolist())
    assert texts == folders.sentences(6, 2)[0]
    assert data.subwords.decode(targets.tolist()) == data.parts.test.references
    assert data.facts["cut"] == f"0 of {2 * 312} sentences after {translation.LENGTH - 2} tokens"
    assert data.words[0] == tuple(sorted(folders.ENGLISH))


def test_limits_leave_the_pool_as_it_is(folder: Path, data: translation.Translations) -> None:
    few = translation.load(folder, limit=20)
    assert len(few.parts.train) == 20
    assert few.parts.train.references == data.parts.train.references[:20]
    assert few.parts.pool.references == data.parts.pool.references
    with pytest.raises(ValueError, match="The limit is 0"):
        translation.load(folder, limit=0)


def test_a_record_has_its_own_loss_whatever_is_beside_it(made: Task, trained: nn.Module) -> None:
    trained.eval()
    batch = next(iter(DataLoader(made.train, 6)))
    with torch.no_grad():
        together = made.losses(trained, batch)
        alone = [made.losses(trained, [t[i : i + 1] for t in batch]) for i in range(6)]
    assert together.shape == (6,)
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_losses_are_sums_over_the_public_length(made: Task, trained: nn.Module) -> None:
    trained.eval()
    source, target = (t[:1] for t in made.train[:1])
    length = int((target != PAD).sum())
    with torch.no_grad():
        chances = trained(source, target[:, :-1]).log_softmax(-1)[0]
        slow = -sum(chances[i, target[0, i + 1]] for i in range(length - 1))
        found = made.losses(trained, (source, target))
    assert found.item() == pytest.approx(float(slow) / (translation.LENGTH - 1), rel=1e-4)


def test_padding_is_not_looked_at(made: Task, trained: nn.Module) -> None:
    assert isinstance(trained, Translator)
    trained.eval()
    source, target = (t[:4] for t in made.train[:4])
    longest = int((source != PAD).sum(1).max())
    assert longest < translation.LENGTH
    with torch.no_grad():
        assert torch.allclose(
            trained(source, target), trained(source[:, :longest], target), atol=1e-5
        )
        assert trained(torch.zeros_like(source), target).isfinite().all()


def test_no_token_sees_what_comes_after_it(made: Task, trained: nn.Module) -> None:
    trained.eval()
    source, target = (t[:2] for t in made.train[:2])
    changed = target.clone()
    changed[:, 5:] = 7
    with torch.no_grad():
        found, other = trained(source, target), trained(source, changed)
    assert torch.allclose(found[:, :5], other[:, :5], atol=1e-5)
    assert not torch.allclose(found[:, 5:], other[:, 5:], atol=1e-2)


def test_greedy_decoding_is_the_likeliest_token_each_time(made: Task, trained: nn.Module) -> None:
    sources = made.test.tensors[0]  # type: ignore[attr-defined]
    found = translate(trained, sources, 12)
    trained.eval()
    for source, row in zip(sources, found, strict=True):
        tokens = [BEGIN]
        while tokens[-1] != END and len(tokens) <= 12:
            with torch.no_grad():
                logits = trained(source[None], torch.tensor([tokens]))
            tokens.append(int(logits[0, -1].argmax()))
        assert row == [t for t in tokens if t not in (PAD, BEGIN, END)]


class Scripted(Translator):
    """Says what it was told to say, whatever it reads."""

    def __init__(self, script: list[list[int]]) -> None:
        super().__init__(10, 8, width=4, layers=0, heads=1)
        self.script = nn.functional.one_hot(torch.tensor(script), 10).float()
        self.head = nn.Identity()  # type: ignore[assignment]

    def decode(self, memory: torch.Tensor, seen: torch.Tensor, target: torch.Tensor) -> Any:
        return self.script[:, : target.shape[1]]


def test_nothing_is_said_after_the_end() -> None:
    model = Scripted([[5, END, 6, 7, 8], [5, 6, 7, 8, 9]])
    assert translate(model, torch.ones(2, 3, dtype=torch.int64), 4) == [[5], [5, 6, 7, 8]]


def test_quality_is_what_sacrebleu_says(made: Task, trained: nn.Module) -> None:
    seen = translation.Sentences(
        *(t[:8] for t in made.train.tensors),  # type: ignore[attr-defined]
        made.train.references[:8],  # type: ignore[attr-defined]
    )
    found = made.measured(trained, seen)
    assert set(found) == {"bleu", "chrf", "test_loss"}
    assert found["bleu"] > 80  # these eight were learned
    assert made.evaluate(trained, seen) == found["bleu"]
    assert found["bleu"] > made.evaluate(trained, made.test)
    assert made.evaluate(made.model(0), made.test) < 5


def test_corpus_scores_are_those_of_the_texts(data: translation.Translations, made: Task) -> None:
    model = made.model(3)
    found = translation.measured(model, data.parts.test, data.subwords)
    rows = translate(model, data.parts.test.tensors[0], translation.LENGTH - 1)
    texts = data.subwords.decode(rows)
    assert found.chrf == sacrebleu.corpus_chrf(texts, [data.parts.test.references]).score
    with torch.no_grad():
        losses = made.losses(model, data.parts.test.tensors)
    assert found.test_loss == pytest.approx(float(losses.mean()), rel=1e-5)


def test_random_words_are_no_translation(data: translation.Translations, made: Task) -> None:
    family = made.families["words"]
    drawn = family.draw(50, np.random.default_rng(0))
    texts = [data.subwords.decode([r.tolist() for r in side]) for side in zip(*drawn, strict=True)]
    for side, known in zip(texts, (folders.ENGLISH, folders.GERMAN), strict=True):
        words = [text.split() for text in side]
        assert {len(row) for row in words} == {8}
        assert {word for row in words for word in row} == set(known)
    same = [
        folders.ENGLISH.index(a) == folders.GERMAN.index(b)
        for source, target in zip(*texts, strict=True)
        for a, b in zip(source.split(), target.split(), strict=True)
    ]
    assert sum(same) / len(same) == pytest.approx(1 / 8, abs=0.07)  # 4 standard errors
    assert family.references == 10


def test_held_out_pairs_are_none_that_is_trained_on(made: Task, folder: Path) -> None:
    family = made.families["records"]
    drawn = {tuple(source.tolist()) for source, _ in family.draw(30, np.random.default_rng(0))}
    pool = translation.load(folder).parts.pool
    assert drawn == {tuple(row.tolist()) for row in pool.tensors[0]}
    assert translation.task(folder, references=1000).families["records"].references == 15
    with pytest.raises(ValueError, match="30 pairs standing by for canaries, and 31 are needed"):
        family.draw(31, np.random.default_rng(0))


def test_too_few_words_are_told(tmp_path: Path) -> None:
    data = translation.load(folders.pairs(tmp_path, train=10), limit=2)
    with pytest.raises(ValueError, match="words that occur 5 times: expected at least 2"):
        translation.random_words(data)(3, np.random.default_rng(0))


def test_what_is_missing_is_told_before_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs sacrebleu.*'dpclip\[translation\]'"):
        translation.task(folder)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs tokenizers.*'dpclip\[translation\]'"):
        translation.load(folder)
    assert needed("json").__name__ == "json"


@pytest.mark.slow
def test_real_sentences_are_read_and_learned(real: Callable[[str], Path]) -> None:
    made = translation.task(real("multi30k_en_de"), limit=3200)
    sizes = [len(part) for part in (made.train, made.validation, made.test)]  # type: ignore[arg-type]
    assert sizes == [3200, 1014, 1000]
    model = made.model(0)
    before = made.losses(model, made.test[:64]).mean().item()
    optimizer = made.optimizer(model.parameters(), made.lr)
    for batch in DataLoader(made.train, made.batch_size):
        optimizer.zero_grad()
        made.losses(model, batch).mean().backward()
        optimizer.step()
    assert made.losses(model, made.test[:64]).mean().item() < 0.8 * before
