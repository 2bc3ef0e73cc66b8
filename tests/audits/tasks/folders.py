"""Tiny data sets in the layouts that tasks read, made on the spot."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (20, 30, 220), "green": (20, 200, 40), "red": (210, 20, 30)}
ENGLISH = ("ten", "dogs", "run", "home", "cats", "sleep", "here", "two")
GERMAN = ("zehn", "Hunde", "rennen", "heim", "Katzen", "schlafen", "hier", "zwei")


def document(
    number: int, text: str, *, topics: tuple[str, ...] = (), split: str = "TRAIN", used: str = "YES"
) -> str:
    """Returns one document of Reuters-21578's SGML."""
    named = "".join(f"<D>{topic}</D>" for topic in topics)
    return (
        f'<REUTERS TOPICS="{used}" LEWISSPLIT="{split}" CGISPLIT="TRAINING-SET" OLDID="1" '
        f'NEWID="{number}">\n<DATE>26-FEB-1987</DATE>\n<TOPICS>{named}</TOPICS>\n'
        f'<PLACES><D>usa</D></PLACES>\n<TEXT TYPE="BRIEF">&#2;\n{text}&#3;</TEXT>\n</REUTERS>\n'
    )


def reuters(folder: Path, train: int = 180, test: int = 30) -> Path:
    """Writes documents of three topics, and some that the ModApte split leaves out."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    words = {"earn": "profit loss", "acq": "merger shares", "ship": "port vessel"}
    made = []
    for number in range(train + test):
        topic = list(words)[number % 3]
        other = " ".join(f"word{'abcdefgh'[i]}" for i in rng.integers(8, size=6))
        split = "TRAIN" if number < train else "TEST"
        text = f"<TITLE>{words[topic]}</TITLE><BODY>{words[topic]} {other} {number} &lt;X> </BODY>"
        made.append(document(number, text, topics=(topic,), split=split))
    made += [
        document(900, "two topics", topics=("earn", "ship")),
        document(901, "no topic at all"),
        document(902, "of neither part", topics=("earn",), split="NOT-USED"),
        document(903, "not judged", topics=("earn",), used="NO"),
        document(904, "trained on and never tested", topics=("tea",)),
    ]
    half = len(made) // 2
    for name, part in (("reut2-000.sgm", made[:half]), ("reut2-001.sgm", made[half:])):
        head = '<!DOCTYPE lewis SYSTEM "lewis.dtd">\n'
        (folder / name).write_text(head + "".join(part), encoding="latin-1")
    return folder


def image(path: Path, colour: tuple[int, int, int], seed: int, size: int = 32) -> None:
    """Writes one image: a colour with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (size, size, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def images(folder: Path, train: int = 60, test: int = 8) -> Path:
    """Writes images of three classes into train/CLASS and test/CLASS."""
    for split, many in (("train", train), ("test", test)):
        for label, (name, colour) in enumerate(COLOURS.items()):
            for i in range(many):
                ending = "png" if i % 2 else "jpg"
                size = 40 if i == 0 else 32
                place = folder / split / name / f"{i:04}.{ending}"
                image(place, colour, 1000 * label + i + (500 if split == "test" else 0), size)
    return folder


def sentences(many: int, seed: int) -> tuple[list[str], list[str]]:
    """Returns sentences that are translated word by word."""
    rng = np.random.default_rng(seed)
    picks = [rng.integers(len(ENGLISH), size=rng.integers(3, 7)) for _ in range(many)]
    return (
        [" ".join(ENGLISH[i] for i in row) + " ." for row in picks],
        [" ".join(GERMAN[i] for i in row) + " ." for row in picks],
    )


def pairs(folder: Path, train: int = 300, held: int = 6) -> Path:
    """Writes sentence pairs as Multi30k has them, the training part packed."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, many) in enumerate(
        (("train", train), ("val", held), ("test_2016_flickr", held))
    ):
        for language, lines in zip(("en", "de"), sentences(many, seed), strict=True):
            text = "".join(f"{line}\n" for line in lines).encode()
            if name == "train":
                (folder / f"{name}.{language}.gz").write_bytes(gzip.compress(text))
            else:
                (folder / f"{name}.{language}").write_bytes(text)
    return folder
