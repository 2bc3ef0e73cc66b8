import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from audits.tasks import images
from audits.tasks.image_files import pictures
from audits.tasks.labelled import Labelled
from tests.audits.tasks import folders


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.images(tmp_path_factory.mktemp("images"))


def zipped(folder: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted(folder.rglob("*.*")):
            packed.write(file, file.relative_to(folder.parent))
    return archive


def same(a: Labelled, b: Labelled) -> bool:
    parts = [(x.tensors, y.tensors) for x, y in zip(a[:4], b[:4], strict=True)]
    return all(torch.equal(p, q) for x, y in parts for p, q in zip(x, y, strict=True))


def test_images_are_read_with_the_label_of_their_folder(folder: Path) -> None:
    data = images.load(folder)
    assert data.classes == ("blue", "green", "red")
    assert [len(part) for part in data[:4]] == [144, 18, 18, 24]
    for part in data[:4]:
        pixels, labels = part.tensors
        assert pixels.shape[1:] == images.SHAPE
        assert (pixels.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert 0 <= pixels.min() < 0.2 < 0.8 < pixels.max() <= 1
        channel = {"red": 0, "green": 1, "blue": 2}
        expected = [channel[data.classes[label]] for label in labels]
        assert pixels.mean((2, 3)).argmax(1).tolist() == expected


def test_archives_give_the_same_images(folder: Path, tmp_path: Path) -> None:
    expected = images.load(folder)
    for split in ("train", "test"):
        zipped(folder / split, tmp_path / "two" / f"{split}.zip")
    assert same(images.load(tmp_path / "two"), expected)
    shutil.make_archive(str(tmp_path / "one"), "zip", folder)
    assert same(images.load(tmp_path / "one.zip"), expected)


def test_without_a_test_folder_a_fifth_is_held_out(folder: Path) -> None:
    data = images.load(folder / "train")
    assert [len(part) for part in data[:4]] == [116, 14, 14, 36]
    rows = {image.numpy().tobytes() for part in data[:4] for image in part.tensors[0]}
    assert len(rows) == 180


def test_limits(folder: Path) -> None:
    whole, few = images.load(folder), images.load(folder, limit=10, tested=5)
    assert [len(part) for part in few[:4]] == [10, 18, 18, 5]
    assert torch.equal(few.train.tensors[0], whole.train.tensors[0][:10])
    assert torch.equal(few.pool.tensors[0], whole.pool.tensors[0])


def test_an_image_is_looked_at_alone_and_features_have_a_name(folder: Path) -> None:
    made = images.task(folder, {})
    model, (pixels, _) = made.model(0), made.train[:4]
    seen = []
    model.get_submodule("dense").register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    together = model(pixels)
    assert seen == [(4, 64)]
    alone = torch.cat([model(image[None]) for image in pixels])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_few_epochs_learn_the_classes(folder: Path) -> None:
    made = images.task(folder, {}, limit=120)
    model = made.model(0)
    optimizer = made.optimizer(model.parameters(), made.lr)
    for _ in range(4):
        for batch in DataLoader(made.train, 16):
            optimizer.zero_grad()
            made.losses(model, batch).mean().backward()
            optimizer.step()
    assert made.evaluate(model, made.test) > 0.9


def test_what_cannot_be_decoded_is_named_and_counted(tmp_path: Path) -> None:
    folders.images(tmp_path, train=10, test=2)
    (tmp_path / "train" / "red" / "0001.png").write_bytes(b"no image")
    whole = (tmp_path / "test" / "blue" / "0000.jpg").read_bytes()
    (tmp_path / "test" / "blue" / "0000.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"2 of 36 images cannot be decoded, first test/blue/0000"):
        images.load(tmp_path)


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (["train/a/1.png", "train/b/1.png"], "no images in test/CLASS/"),
        (["test/a/1.png", "test/b/1.png"], "no images in train/CLASS/"),
        (["train/a/1.png", "b/1.png"], "has images 1 in neither, 1 in train"),
        (["a/1.png", "a/2.png"], r"images of 1 class \(a\), expected at least 2"),
        (["a/1.png", "2.png"], "2.png lies in no folder of a class"),
        (["train/1.png"], "train/1.png lies in no folder of a class"),
        (["a/1.txt"], "holds no file that ends in .jpg"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, layout: list[str], told: str) -> None:
    for name in layout:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=told):
        pictures(tmp_path)


@pytest.mark.slow
def test_real_images_are_learned(real: Callable[[str], Path]) -> None:
    made = images.task(real("cifar10_jpg"), {}, limit=2000)
    assert made.facts["classes"].startswith("10: airplane, automobile, bird")
    model = made.model(0)
    optimizer = made.optimizer(model.parameters(), made.lr)
    for _ in range(2):
        for batch in DataLoader(made.train, made.batch_size):
            optimizer.zero_grad()
            made.losses(model, batch).mean().backward()
            optimizer.step()
    assert made.evaluate(model, made.test) > 0.25
