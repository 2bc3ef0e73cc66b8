import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from audits.tasks import reuters
from audits.tasks.reuters_sgml import mod_apte
from tests.audits.tasks import folders


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_split_is_by_the_attributes(tmp_path: Path) -> None:
    documents = mod_apte(folders.reuters(tmp_path))
    assert len(documents) == 180 + 30 + 3
    assert sum(d.split == "test" for d in documents) == 30
    assert [d.topics for d in documents[-3:]] == [("earn", "ship"), (), ("tea",)]
    assert documents[0].text.split()[:4] == ["profit", "loss", "profit", "loss"]
    assert documents[0].text.split()[-2:] == ["0", "<X>"]


def test_an_archive_gives_the_same_documents(tmp_path: Path) -> None:
    folder = folders.reuters(tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "all.tar.xz", "w:xz") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)
    assert mod_apte(tmp_path / "packed") == mod_apte(folder)
    assert mod_apte(tmp_path / "packed" / "all.tar.xz") == mod_apte(folder)


def test_documents_of_one_topic_are_kept_and_the_parts_disjoint(tmp_path: Path) -> None:
    data = reuters.load(folders.reuters(tmp_path))
    assert data.classes == ("earn", "ship", "acq")  # earn and ship are each in one more document
    assert [len(part) for part in data[:4]] == [144, 18, 18, 30]
    assert data.facts["topics"] == "3: earn, ship, acq"
    for part in data[:4]:
        tokens, labels = part.tensors
        assert tokens.shape[1:] == (reuters.LENGTH,)
        assert tokens.dtype == labels.dtype == torch.int64
        assert set(labels.tolist()) == {0, 1, 2}
    assert data.test.tensors[1].bincount().tolist() == [10, 10, 10]


def test_the_most_frequent_topics_are_those_of_all_training_documents(tmp_path: Path) -> None:
    assert reuters.load(folders.reuters(tmp_path), topics=2).classes == ("earn", "ship")
    assert reuters.load(tmp_path, topics=None).classes == ("earn", "ship", "acq")
    with pytest.raises(ValueError, match="1 topics have documents of their own"):
        reuters.load(tmp_path, topics=1)


def test_words_are_ranked_by_how_many_texts_use_them() -> None:
    texts = [["b", "b", "b", "a"], ["c", "a"], ["c"]]
    assert reuters.vocabulary(texts) == {"a": 2, "c": 3, "b": 4}
    assert reuters.vocabulary(texts, size=1) == {"a": 2}


def test_the_vocabulary_is_that_of_the_training_records(tmp_path: Path) -> None:
    data = reuters.load(folders.reuters(tmp_path), limit=1)
    (tokens,), (label,) = data.train.tensors
    assert len(data.train) == 1
    words = {2: "one topic's words, each in one text", 1: "other words"}
    assert set(tokens.tolist()) - {0} <= set(range(2, 20))
    assert (tokens > 0).sum() < 20
    others = data.test.tensors[0][data.test.tensors[1] != label]
    assert (others[:, 0] == 1).all(), words  # their topic's word was never seen


def test_long_texts_are_cut(tmp_path: Path) -> None:
    folders.reuters(tmp_path)
    long = folders.document(950, "profit " * 500, topics=("earn",), split="TEST")
    (tmp_path / "reut2-002.sgm").write_text(long)
    last = reuters.load(tmp_path).test.tensors[0][-1]
    assert last.shape == (reuters.LENGTH,)
    assert (last == last[0]).all()


def test_padding_changes_nothing(tmp_path: Path) -> None:
    made = reuters.task(folders.reuters(tmp_path), {})
    model, (tokens, _) = made.model(0), made.train[:6]
    ended = [row[row > 0][None] for row in tokens]
    assert torch.allclose(model(tokens), torch.cat([model(row) for row in ended]), atol=1e-6)


def test_features_are_the_output_of_the_dense_layer(tmp_path: Path) -> None:
    model = reuters.task(folders.reuters(tmp_path), {}).model(0)
    seen = []
    model.get_submodule("dense").register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    model(torch.ones(5, reuters.LENGTH, dtype=torch.int64))
    assert seen == [(5, 64)]


def test_a_few_epochs_learn_the_topics(tmp_path: Path) -> None:
    made = reuters.task(folders.reuters(tmp_path), {})
    model = made.model(0)
    optimizer = made.optimizer(model.parameters(), made.lr)
    for _ in range(made.epochs):
        for batch in DataLoader(made.train, 16):
            optimizer.zero_grad()
            made.losses(model, batch).mean().backward()
            optimizer.step()
    assert made.evaluate(model, made.test) > 0.9
    assert made.name == "reuters"
    assert reuters.task(tmp_path, {}, topics=None).name == "reuters3"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("<html>not it</html>", "0 documents that begin and 0 that end"),
        (folders.document(1, "x", topics=("earn",))[:-9], "1 documents that begin and 0 that end"),
        ('<REUTERS NEWID="7"></REUTERS>', "document 7 lacks its topics, its text or its split"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "reut2-000.sgm").write_text(content)
    with pytest.raises(ValueError, match=told) as error:
        mod_apte(tmp_path)
    assert "reut2-000.sgm" in str(error.value)


def test_documents_without_words_are_counted(tmp_path: Path) -> None:
    folders.reuters(tmp_path)
    empty = [folders.document(i, "&#3; 12 ", topics=("earn",)) for i in (950, 951)]
    (tmp_path / "reut2-002.sgm").write_text("".join(empty))
    with pytest.raises(ValueError, match="2 of 212 documents have no words"):
        reuters.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topics", "classes", "train", "test"), [(10, 8, 5485, 2190), (None, 52, 6532, 2569)]
)
def test_r8_and_r52_have_their_known_sizes(
    real: Callable[[str], Path], topics: int | None, classes: int, train: int, test: int
) -> None:
    """Cardoso-Cachopo counts 5,485 and 2,189, 6,532 and 2,568: one test document fewer."""
    folder = real("reuters")
    documents = mod_apte(folder)
    assert sum(d.split == "train" for d in documents) == 9603
    assert sum(d.split == "test" for d in documents) == 3299
    data = reuters.load(folder, topics)
    assert len(data.classes) == classes
    assert sum(map(len, data[:3])) == train
    assert len(data.test) == test


@pytest.mark.slow
def test_real_news_are_learned(real: Callable[[str], Path]) -> None:
    made = reuters.task(real("reuters"), {})
    model = made.model(0)
    optimizer = made.optimizer(model.parameters(), made.lr)
    for _ in range(3):
        for batch in DataLoader(made.train, made.batch_size):
            optimizer.zero_grad()
            made.losses(model, batch).mean().backward()
            optimizer.step()
    assert made.evaluate(model, made.test) > 0.92
