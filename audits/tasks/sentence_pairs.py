"""Sentence pairs by path: one file for each language and part, a sentence a line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

from audits.tasks.archives import DAMAGED

_TEST = "test_2016_flickr"


class Pairs(NamedTuple):
    """Sentences [n] of two languages; sentence i of one is the translation of i of the other."""

    sources: list[str]
    targets: list[str]

    def at(self, places: list[int]) -> Pairs:
        """Returns the pairs at these places, in this order."""
        return Pairs([self.sources[i] for i in places], [self.targets[i] for i in places])


class Corpus(NamedTuple):
    """The pairs of the three parts."""

    train: Pairs
    validation: Pairs
    test: Pairs


def read(path: str | Path, source: str = "en", target: str = "de") -> Corpus:
    """Returns the parts `train`, `val` and `test_2016_flickr` (or the only `test*` there is).

    Args:
        path: a folder with PART.LANGUAGE or PART.LANGUAGE.gz, as Multi30k has them.
        source: ending of the files to translate from.
        target: ending of the files to translate to.

    Raises:
        ValueError: no folder, a missing file, one that is no UTF-8, an empty line, or files of a
            part that differ in length.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder: expected one with train.{source}, train.{target} and the like "
            "for val and test, as such or as .gz."
        )
    names = ("train", "val", _tested(folder, source))
    return Corpus(*(_pairs(folder, name, (source, target)) for name in names))


def _tested(folder: Path, source: str) -> str:
    files = [*folder.glob(f"test*.{source}"), *folder.glob(f"test*.{source}.gz")]
    names = sorted({file.name.partition(f".{source}")[0] for file in files})
    if _TEST in names or not names:
        return _TEST
    if len(names) > 1:
        raise ValueError(
            f"{folder} has {len(names)} test parts ({', '.join(names)}): expected {_TEST}, or one."
        )
    return names[0]


def _pairs(folder: Path, name: str, languages: tuple[str, str]) -> Pairs:
    sides = [_sentences(folder, f"{name}.{language}") for language in languages]
    if len(sides[0]) != len(sides[1]):
        found = " and ".join(
            f"{len(side)} in {name}.{language}"
            for side, language in zip(sides, languages, strict=True)
        )
        raise ValueError(f"{folder} has {found} sentences: expected as many in both.")
    return Pairs(*sides)


def _sentences(folder: Path, name: str) -> list[str]:
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        raise ValueError(f"{folder} has neither {name} nor {name}.gz.")
    file = plain if plain.exists() else packed
    try:
        raw = plain.read_bytes() if file is plain else gzip.decompress(packed.read_bytes())
        lines = [line.strip() for line in raw.decode().split("\n")]
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{file} is not UTF-8: line {line} has other bytes.") from error
    except DAMAGED as error:
        raise ValueError(f"{file} cannot be read to its end ({error}). Fetch it again.") from error
    if not lines[-1]:
        del lines[-1]  # what comes after the last line break
    if empty := [number for number, line in enumerate(lines, start=1) if not line]:
        raise ValueError(
            f"{file} has {len(empty)} of {len(lines)} lines without text, first line {empty[0]}. "
            "Remove them, and the same lines of the other language."
        )
    if not lines:
        raise ValueError(f"{file} is empty: expected a sentence a line.")
    return lines
