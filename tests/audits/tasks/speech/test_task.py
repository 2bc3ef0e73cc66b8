import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from audits.tasks import Task, speech
from audits.tasks.speech.mel import Mel
from audits.tasks.speech.records import PHYSICAL, recorder, transcript
from audits.tasks.task import scores
from dpclip.measure import gradient_norms
from tests.audits.tasks.speech import sounds

pytest.importorskip("torchaudio")
pytest.importorskip("jiwer")

SMALL = partial(speech.ConvCTC, width=32, layers=2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def held_out(corpus: speech.Corpus) -> Callable[..., list[speech.Utterance]]:
    def speak(n: int, rng: np.random.Generator) -> list[speech.Utterance]:
        return [corpus.pool[i] for i in rng.choice(len(corpus.pool), n, replace=False)]

    return speak


@pytest.fixture(scope="module")
def made() -> Task:
    return speech.task(sounds.corpus(), {"pool": held_out}, references=7, model=SMALL)


@pytest.fixture(scope="module")
def trained(made: Task) -> nn.Module:
    torch.set_num_threads(1)
    model = made.model(0)
    optimizer = made.optimizer(model.parameters(), 4 * made.lr)
    torch.manual_seed(0)
    loader = DataLoader(made.train, 10, shuffle=True, collate_fn=made.collate)
    for _ in range(30):
        for batch in loader:
            optimizer.zero_grad()
            made.losses(model, batch).mean().backward()
            optimizer.step()
    return model


def test_a_model_learns_to_hear(made: Task, trained: nn.Module) -> None:
    before = made.measured(made.model(0), made.test)
    after = made.measured(trained, made.test)
    assert list(after) == ["wer", "cer", "test_loss"]
    assert before["wer"] == 1 != before["cer"]
    assert before["cer"] > 0.5
    assert after["cer"] < 0.05
    assert after["test_loss"] < before["test_loss"] / 5
    assert made.evaluate(trained, made.test) == after["wer"]
    assert not made.higher_is_better


def test_measures_are_those_of_what_is_heard(made: Task, trained: nn.Module) -> None:
    said = [transcript(made.test[i]) for i in range(10)]
    assert said == [text for _, text in sounds.utterances(10, 2)]
    heard = speech.transcribe(trained, made.test)
    found = made.measured(trained, made.test)
    assert found["wer"] == speech.wer(said, heard)
    assert found["cer"] == speech.cer(said, heard)
    losses = scores(trained, made.test, made.losses, made.collate)
    assert found["test_loss"] == pytest.approx(losses.mean())


def test_no_more_frames_than_in_training_go_through_the_model(made: Task) -> None:
    draw = torch.Generator().manual_seed(0)
    long = torch.randint(400, 1500, (24,), generator=draw).tolist()
    records = [(torch.randn(t, 40, generator=draw), torch.tensor([2, 3])) for t in long]
    model, seen = made.model(0), []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    found = made.measured(model, records)  # type: ignore[arg-type]
    assert max(rows * frames for rows, frames, _ in seen) <= PHYSICAL
    assert sum(rows for rows, _, _ in seen) == 2 * 24
    seen.clear()
    losses = scores(model, records, made.losses, made.collate)
    assert [(rows, frames) for rows, frames, _ in seen] == [(24, max(long))]
    assert found["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    cut = scores(model, records, made.losses, made.collate, made.parts(records))
    assert np.allclose(cut, losses, rtol=1e-4)
    norms = [gradient_norms(model, made.losses, speech.collate([record])) for record in records]
    cut_norms = np.empty(24)
    for part in made.parts(records):
        batch = speech.collate([records[i] for i in part])
        cut_norms[part] = gradient_norms(model, made.losses, batch)
    assert np.allclose(cut_norms, torch.cat(norms), rtol=1e-3)


def test_canaries_are_records_like_the_datas(made: Task) -> None:
    family = made.families["pool"]
    assert (family.references, family.losses) == (7, made.losses)
    drawn = family.draw(5, np.random.default_rng(3))
    record = recorder(Mel(sounds.RATE))
    for found, utterance in zip(
        drawn, held_out(sounds.corpus())(5, np.random.default_rng(3)), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(found, record(utterance), strict=True))


def test_records_are_ranked_by_what_is_misheard(made: Task, trained: nn.Module) -> None:
    features, labels = made.train[0]
    wrong = torch.cat([labels, labels])
    found = speech.record_errors(trained, [(features, labels), (features, wrong)])
    assert found[0] < 0.2 < found[1]
    whole = speech.record_errors(trained, made.train)
    assert whole.shape == (60,)


def test_the_same_seed_gives_the_same_model(made: Task) -> None:
    state = torch.random.get_rng_state()
    one, two, other = made.model(1), made.model(1), made.model(2)
    assert torch.equal(state, torch.random.get_rng_state())
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_the_default_model_is_of_its_size() -> None:
    for model in (speech.ConvCTC(40), speech.ConformerCTC(40)):
        assert 3e5 < sum(p.numel() for p in model.parameters()) < 6.5e5


def test_features_name_a_module(made: Task) -> None:
    for model in (made.model(0), speech.ConformerCTC(40)):
        assert made.features in dict(model.named_modules())


def test_the_length_of_a_record_is_that_of_its_frames(made: Task) -> None:
    assert made.length is not None
    some = [made.train[i] for i in range(4)]
    assert [made.length(record) for record in some] == speech.collate(some).frames.tolist()


def test_facts_tell_of_the_data_and_of_added_silence() -> None:
    corpus = sounds.corpus(train=12)
    assert isinstance(corpus.train, list)
    corpus.train[3] = (corpus.train[3][0][:600], corpus.train[3][1])
    made = speech.task(corpus, {}, model=SMALL)
    assert made.facts["voice"] == "tones"
    assert made.facts["silence"].startswith("added at the end of 1 of 12 utterances")
    seconds = sum(len(waveform) for waveform, _ in corpus.train) / sounds.RATE
    assert made.facts["utterances"].startswith(f"12 to train on, {seconds / 60:.1f} minutes")
    assert made.families == {}


@pytest.mark.parametrize("library", ["jiwer", "torchaudio", "soundfile"])
def test_a_missing_library_is_named_with_what_installs_it(
    library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'dpclip[speech]'")):
        if library == "soundfile":
            (tmp_path / "manifest.tsv").write_text("path\ttext\na.wav\tone\n")
            speech.read(tmp_path)
        else:
            speech.task(sounds.corpus(12), {}, model=SMALL)


@pytest.mark.slow
def test_pieces_of_librispeech_train(real: Callable[[str], Path]) -> None:
    corpus = speech.corpus_of(speech.read(real("librispeech")), limit=12)
    made = speech.task(corpus, {}, model=SMALL)
    model = made.model(0)
    optimizer = made.optimizer(model.parameters(), made.lr)
    batch = next(iter(DataLoader(made.train, 4, collate_fn=made.collate)))
    found = []
    for _ in range(4):
        optimizer.zero_grad()
        losses = made.losses(model, batch)
        losses.mean().backward()
        optimizer.step()
        found.append(losses.mean().item())
    assert found[-1] < found[0]
