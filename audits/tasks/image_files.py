"""Images by path, laid out as CIFAR-10 and many others are: a folder for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from audits.tasks.archives import entries

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")
_SPLITS = ("train", "test")
_WHAT = "images, in train/CLASS/ and test/CLASS/, or in CLASS/"


class Picture(NamedTuple):
    """Where an image is.

    Attributes:
        split: train or test, empty where the data has no such folders.
        label: the name of the folder it lies in.
        name: its path.
    """

    split: str
    label: str
    name: str


def pictures(path: str | Path) -> list[Picture]:
    """Returns all images below a path, in an order that doesn't depend on folder or archive.

    Args:
        path: a folder, a zip or tar file, or a folder with such files (train.zip, test.zip).

    Raises:
        ValueError: no images, images outside of a class's folder, only one of train and test, or
            fewer than two classes.
    """
    found = sorted(_picture(path, name) for name, _ in entries(path, _ENDINGS, _WHAT))
    splits = Counter(picture.split or "neither" for picture in found)
    if len(splits) > 1 and set(splits) != set(_SPLITS):
        told = ", ".join(f"{n} in {split}" for split, n in splits.items())
        raise ValueError(f"{path} has images {told}: expected {_WHAT}.")
    if set(splits) & set(_SPLITS) and len(splits) == 1:
        missing = "test" if "train" in splits else "train"
        raise ValueError(f"{path} has no images in {missing}/CLASS/: expected {_WHAT}.")
    if len(classes := {picture.label for picture in found}) < 2:
        raise ValueError(
            f"{path} has images of {len(classes)} class ({', '.join(classes)}), expected at least "
            f"2: {_WHAT}."
        )
    return found


def _picture(path: str | Path, name: str) -> Picture:
    folders = PurePosixPath(name).parent.parts
    if not folders or folders[-1] in _SPLITS:
        raise ValueError(f"{path}: {name} lies in no folder of a class. Expected {_WHAT}.")
    above = [folder for folder in folders[:-1] if folder in _SPLITS]
    return Picture(above[-1] if above else "", folders[-1], name)


def pixels(path: str | Path, names: Container[str], size: int) -> dict[str, Tensor]:
    """Returns name -> [3, size, size] uint8, of images that are brought to this size.

    Args:
        path: as for `pictures`.
        names: which images to read.
        size: height and width.

    Raises:
        ValueError: images that cannot be decoded; the first is named and all are counted.
    """
    found: dict[str, Tensor] = {}
    broken: list[str] = []
    for name, read in entries(path, _ENDINGS, _WHAT):
        if name in names:
            try:
                found[name] = _decoded(read, size)
            except (UnidentifiedImageError, OSError, SyntaxError) as error:
                broken.append(f"{name} ({error})")
    if broken:
        raise ValueError(
            f"{path}: {len(broken)} of {len(found) + len(broken)} images cannot be decoded, first "
            f"{broken[0]}. Mend or remove them."
        )
    return found


def _decoded(read: Callable[[], bytes], size: int) -> Tensor:
    image = Image.open(BytesIO(read())).convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
