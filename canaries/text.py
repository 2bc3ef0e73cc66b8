"""Formatted secrets: a sentence with holes, each filled with a random letter of an alphabet."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class SecretFormat:
    """A family of secrets that are all equally likely and all equally long.

    Exposure ranks an inserted secret among others that were never seen in training, so the two
    must be exchangeable: draw canaries and references together, from one call of `draw`. Letters
    of one byte length keep the number of byte-level tokens the same for every filling.

    A secret is a row of letter numbers, [holes]; many secrets are an array [n, holes].

    Attributes:
        template: The sentence; every `{}` is a hole, `{{` and `}}` are braces.
        alphabet: The letters: the characters of a string, or strings.

    Raises:
        ValueError: If the template has no hole or a field other than `{}`, or the alphabet has
            fewer than two letters, a letter twice, or letters of different lengths in UTF-8.
    """

    template: str = "my pin is {}{}{}{}{}{}"
    alphabet: Sequence[str] = "0123456789"

    def __post_init__(self) -> None:
        """Refuses a template or an alphabet whose fillings are not equally long and distinct."""
        object.__setattr__(self, "alphabet", tuple(self.alphabet))
        _check_template(self.template)
        _check_alphabet(self.alphabet)

    @cached_property
    def _pieces(self) -> list[str]:
        """The text before each hole, and after the last."""
        pieces = [""]
        for literal, field, _, _ in Formatter().parse(self.template):
            pieces[-1] += literal
            if field is not None:
                pieces.append("")
        return pieces

    @property
    def holes(self) -> int:
        """The number of letters in a secret."""
        return len(self._pieces) - 1

    @property
    def space(self) -> int:
        """The number of secrets, |R|."""
        return int(len(self.alphabet) ** self.holes)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """[holes * bytes per letter] where the secret's bytes lie in every encoded sentence."""
        width = len(self.alphabet[0].encode())
        ends = np.cumsum([len(piece.encode()) for piece in self._pieces[:-1]])
        starts = ends + width * np.arange(self.holes)
        offsets = (starts[:, None] + np.arange(width)).reshape(-1).astype(np.int64)
        offsets.flags.writeable = False
        return offsets

    def fill(self, letters: Sequence[str]) -> str:
        """The sentence with the given letters in its holes: `fill("281265")`.

        Raises:
            ValueError: If there is not one letter per hole, or one is not in the alphabet.
        """
        if len(letters) != self.holes:
            raise ValueError(f"found {len(letters)} letters for {self.holes} holes; give one each")
        if foreign := [letter for letter in letters if letter not in self.alphabet]:
            raise ValueError(f"found letter {foreign[0]!r}, which the alphabet does not have")
        return "".join(map("".join, zip(self._pieces, [*letters, ""], strict=True)))

    def text(self, secret: Sequence[int] | NDArray[np.int64]) -> str:
        """The sentence that holds a secret, [holes] letter numbers.

        Raises:
            ValueError: If a letter number is outside the alphabet or the count is not `holes`.
        """
        numbers = [int(number) for number in secret]
        if wrong := [number for number in numbers if not 0 <= number < len(self.alphabet)]:
            raise ValueError(
                f"found letter number {wrong[0]}; expected 0 to {len(self.alphabet) - 1}"
            )
        return self.fill([self.alphabet[number] for number in numbers])

    def encode(self, secret: Sequence[int] | NDArray[np.int64]) -> bytes:
        """The sentence that holds a secret, in UTF-8; `offsets` says where the secret lies."""
        return self.text(secret).encode()

    def draw(self, n: int, rng: np.random.Generator, *, distinct: bool = True) -> NDArray[np.int64]:
        """[n, holes] secrets drawn uniformly, without replacement if `distinct`.

        Raises:
            ValueError: If n is negative or there are fewer than n distinct secrets.
        """
        if n < 0 or (distinct and n > self.space):
            raise ValueError(f"found n={n} distinct secrets; expected 0 to {self.space}")
        secrets = np.empty((0, self.holes), dtype=np.int64)
        while len(secrets) < n:
            fresh = rng.integers(0, len(self.alphabet), size=(n, self.holes))
            secrets = np.concatenate([secrets, fresh])
            if distinct:
                # Keeping first occurrences in the order drawn leaves every ordered selection
                # equally likely, and works where |R| is too large to enumerate.
                secrets = secrets[np.sort(np.unique(secrets, axis=0, return_index=True)[1])]
        return secrets[:n]

    def candidates(self, limit: int = 1_000_000) -> NDArray[np.int64]:
        """[space, holes] every secret once, in alphabetical order, for an exact rank.

        Raises:
            ValueError: If there are more than `limit`.
        """
        if self.space > limit:
            raise ValueError(
                f"found {self.space} secrets, more than limit={limit}; draw references instead"
            )
        shape = (len(self.alphabet),) * self.holes
        return np.stack(np.unravel_index(np.arange(self.space), shape), axis=1).astype(np.int64)


def text_records(
    secret_format: SecretFormat, secrets: NDArray[np.int64], length: int
) -> tuple[Tensor, Tensor]:
    """Byte-level records, one per secret: the sentence, a newline, then zeros.

    `span[i, t]` is about token t itself. A model that predicts token t from the tokens before it
    has its losses on `tokens[:, 1:]` and wants `span[:, 1:]`.

    Args:
        secret_format: The sentence.
        secrets: [n, holes] letter numbers.
        length: T, the length that every record of the data has.

    Returns:
        tokens [n, T] int64, and span [n, T] bool, true on the secret's bytes.

    Raises:
        ValueError: If the sentence and its newline do not fit, or a secret is not one of the
            format's.
    """
    if secrets.ndim != 2 or secrets.shape[1] != secret_format.holes:
        raise ValueError(
            f"found secrets of shape {list(secrets.shape)}; expected [n, {secret_format.holes}], "
            "as SecretFormat.draw gives"
        )
    lines = [secret_format.encode(secret) + b"\n" for secret in secrets]
    if (longest := max(map(len, lines), default=0)) > length:
        raise ValueError(
            f"found a sentence of {longest} bytes with its newline for records of {length}; "
            "shorten the template or lengthen the records"
        )
    tokens = torch.zeros(len(lines), length, dtype=torch.int64)
    for row, line in zip(tokens, lines, strict=True):
        row[: len(line)] = torch.tensor(list(line))
    span = torch.zeros(len(lines), length, dtype=torch.bool)
    span[:, secret_format.offsets.tolist()] = True
    return tokens, span


def _check_template(template: str) -> None:
    try:
        fields = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"found template {template!r}: {error}; write {{{{ for a brace") from error
    if not fields:
        raise ValueError(f"found no hole in template {template!r}; mark each letter with {{}}")
    if any(field != ("", "", None) for field in fields):
        raise ValueError(
            f"found a named, numbered or formatted field in template {template!r}; every hole "
            "takes one letter as it is: write {}"
        )
    if "\0" in template:
        raise ValueError("found a zero character in the template; records are padded with it")


def _check_alphabet(alphabet: Sequence[str]) -> None:
    if len(alphabet) < 2:
        raise ValueError(f"found an alphabet of {len(alphabet)}; a secret needs at least 2 letters")
    if twice := [letter for letter in alphabet if list(alphabet).count(letter) > 1]:
        raise ValueError(f"found letter {twice[0]!r} more than once; the draw would not be uniform")
    widths = {letter: len(letter.encode()) for letter in alphabet}
    if 0 in widths.values() or any("\0" in letter for letter in alphabet):
        raise ValueError("found an empty letter or a zero character; records are padded with zeros")
    short, long = (f(alphabet, key=widths.__getitem__) for f in (min, max))
    if widths[short] != widths[long]:
        raise ValueError(
            f"found letters of different length in UTF-8: {short!r} has {widths[short]} bytes, "
            f"{long!r} has {widths[long]}; secrets of unequal token counts cannot be ranked"
        )
