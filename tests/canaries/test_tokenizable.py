from collections.abc import Sequence

import pytest

from canaries import SecretFormat, check_tokenizable, stream

PINS = SecretFormat()
TEXTS = {f"pin/{i}": PINS.text(s) for i, s in enumerate(PINS.draw(20, stream(0, "test")))}
# The second has a pair of letters that a byte-pair tokenizer joins.
JOINED = {"a": "my pin is 123456", "b": "my pin is 100456"}


def to_bytes(text: str) -> list[int]:
    return list(text.encode())


def from_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode()


def to_pairs(text: str) -> list[int]:
    return list(text.replace("00", "\1").encode())


def from_pairs(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode().replace("\1", "00")


def test_bytes_carry_every_canary() -> None:
    assert check_tokenizable(TEXTS, to_bytes, from_bytes, 256) == 16


def test_names_the_canary_with_a_token_outside_the_vocabulary() -> None:
    highest = max(max(to_bytes(text)) for text in TEXTS.values())
    assert check_tokenizable(TEXTS, to_bytes, from_bytes, highest + 1) == 16
    with pytest.raises(ValueError, match=f"'pin/0': found token {highest}, expected 0 to 120"):
        check_tokenizable(TEXTS, to_bytes, from_bytes, highest)


def test_a_negative_token_is_outside_too() -> None:
    with pytest.raises(ValueError, match="found token -1"):
        check_tokenizable({"a": "x"}, lambda _: [-1], lambda _: "x", 256)


def test_names_the_canary_that_does_not_come_back() -> None:
    texts = {"low": "pin", "high": "Pin"}
    with pytest.raises(ValueError, match=r"'high': found 'pin'.*expected 'Pin'"):
        check_tokenizable(texts, lambda text: to_bytes(text.lower()), from_bytes, 256)


def test_names_the_canary_of_another_length() -> None:
    assert check_tokenizable(JOINED, to_bytes, from_bytes, 256) == 16
    with pytest.raises(ValueError, match="'b': found 15 tokens, canary 'a' has 16"):
        check_tokenizable(JOINED, to_pairs, from_pairs, 256)


def test_refuses_to_check_nothing() -> None:
    with pytest.raises(ValueError, match="no text"):
        check_tokenizable({}, to_bytes, from_bytes, 256)
