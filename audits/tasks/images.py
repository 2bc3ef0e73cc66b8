"""Task images: a folder of images for each class, read by path, and a small convolutional net."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import TensorDataset

from audits.tasks.digits import cross_entropies
from audits.tasks.image_files import Picture, pictures, pixels
from audits.tasks.labelled import Labelled, accuracy, places
from audits.tasks.task import Draw, Task, families_of

SIZE = 32
SHAPE = (3, SIZE, SIZE)
LIMIT = 4000
_TESTED = 2000  # test images at most
_GROUPS = 8


def load(path: str | Path, limit: int | None = LIMIT, tested: int | None = _TESTED) -> Labelled:
    """Returns the images, [n, 3, 32, 32] in [0, 1]; those of another size are scaled.

    Where the data has no train and test folders, a fixed fifth is the test part.

    Args:
        path: see `image_files.pictures`.
        limit: how many images to train on at most, a fixed random choice; None for all.
        tested: how many to test on at most, likewise.

    Raises:
        ValueError: no images, another layout, or images that cannot be decoded.
    """
    found = pictures(path)
    train, test = _split(found)
    chosen = places(len(train), limit)
    held = np.random.default_rng(1).permutation(len(test))[:tested].tolist()
    parts = [[train[i] for i in part] for part in chosen] + [[test[i] for i in held]]
    names = sorted({picture.label for picture in found})
    colours = pixels(path, {picture.name for part in parts for picture in part}, SIZE)
    number = {name: label for label, name in enumerate(names)}

    def records(part: Sequence[Picture]) -> TensorDataset:
        images = torch.stack([colours[picture.name] for picture in part])
        labels = torch.tensor([number[picture.label] for picture in part])
        return TensorDataset(images.float() / 255, labels)

    facts = {"classes": f"{len(names)}: {', '.join(names)}", "images": f"{len(found)} in the data"}
    made, validation, pool, tests = (records(part) for part in parts)
    return Labelled(made, validation, pool, tests, tuple(names), facts)


def _split(found: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    if found[0].split:
        train = [picture for picture in found if picture.split == "train"]
        return train, [picture for picture in found if picture.split == "test"]
    order = np.random.default_rng(2).permutation(len(found)).tolist()
    fifth = max(1, len(found) // 5)
    return [found[i] for i in sorted(order[fifth:])], [found[i] for i in sorted(order[:fifth])]


def task(
    path: str | Path,
    recipes: Mapping[str, Callable[[Labelled], Draw]],
    references: int = 1000,
    limit: int | None = LIMIT,
) -> Task:
    """Returns the task.

    Args:
        path: where the images are, see `load`.
        recipes: canary family -> (data -> recipe), e.g. mislabelled images of the pool.
        references: held-out records of each family that its canaries are ranked among.
        limit: how many images to train on at most, None for all.
    """
    data = load(path, limit)
    return Task(
        name="images",
        metric="acc",
        train=data.train,
        validation=data.validation,
        test=data.test,
        model=lambda seed: _model(seed, len(data.classes)),
        losses=cross_entropies,
        evaluate=accuracy,
        optimizer=_sgd,
        batch_size=64,
        epochs=8,
        lr=0.0125,
        lrs=(0.003, 0.0125, 0.05, 0.2),
        families=families_of(recipes, data, cross_entropies, references),
        facts=data.facts,
        features="dense",
    )


class ConvNet(nn.Module):
    """Three convolutions with group norm, a dense layer, classes: [B, 3, 32, 32] -> [B, classes].

    Group norm looks at one image at a time, as claims need it. The output of `dense` describes an
    image, for methods that group records by features.
    """

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        blocks = [_block(a, b) for a, b in pairwise(widths)]
        self.blocks = nn.Sequential(*blocks, nn.Flatten())
        self.dense = nn.Linear(4 * width * (SIZE // 8) ** 2, 64)
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of every class."""
        centred = (images - 0.5) * 4
        return self.head(self.dense(self.blocks(centred)).relu())  # type: ignore[no-any-return]


def _block(before: int, after: int) -> nn.Module:
    conv = nn.Conv2d(before, after, 3, padding=1)
    return nn.Sequential(conv, nn.GroupNorm(_GROUPS, after), nn.ReLU(), nn.MaxPool2d(2))


def _model(seed: int, classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNet(classes)


def _sgd(parameters: Iterable[nn.Parameter], lr: float) -> SGD:
    return SGD(parameters, lr=lr, momentum=0.9)
