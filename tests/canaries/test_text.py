import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from canaries import SecretFormat, stream, text_records

SSN = SecretFormat("My SSN is {}{}{}-{}{}-{}{}{}{}")
UMLAUT = SecretFormat("π {}€{}!", "äöüß")
WORDS = SecretFormat("say {} and {}", ["one", "two", "six"])


def test_default_is_a_pin() -> None:
    pins = SecretFormat()
    assert (pins.holes, pins.space) == (6, 10**6)
    assert pins.text([0, 1, 2, 3, 4, 5]) == "my pin is 012345"
    assert pins.fill("281265") == "my pin is 281265"


def test_spaces() -> None:
    assert SSN.space == 10**9
    assert UMLAUT.space == 16
    assert WORDS.space == 9
    assert SecretFormat("{}" * 30, "abcdefghijklmnopqrstuvwxyz").space == 26**30


def test_doubled_braces_are_braces() -> None:
    braces = SecretFormat("{{{}}} {{}} {}", "01")
    assert braces.text([0, 1]) == "{0} {} 1"
    assert [braces.encode([0, 1])[i] for i in braces.offsets] == list(b"01")


def test_is_a_value() -> None:
    assert SecretFormat("a{}", ["0", "1"]) == SecretFormat("a{}", "01")
    assert hash(WORDS) == hash(SecretFormat("say {} and {}", ("one", "two", "six")))


@st.composite
def formats(draw: st.DrawFn) -> SecretFormat:
    literal = st.text(
        st.characters(exclude_characters="{}\0", exclude_categories=["Cs"]), max_size=4
    )
    pieces = draw(st.lists(literal, min_size=2, max_size=5))
    alphabet = draw(st.sampled_from(["01", "0123456789", "äöü", "日本語", ["one", "two"]]))
    return SecretFormat("{}".join(pieces), alphabet)


@given(formats(), st.integers(0, 2**32))
def test_offsets_cover_exactly_the_secret(secret_format: SecretFormat, seed: int) -> None:
    secrets = secret_format.draw(2, stream(seed, "test"))
    for secret in secrets:
        sentence = secret_format.encode(secret)
        letters = "".join(secret_format.alphabet[i] for i in secret).encode()
        assert bytes(sentence[i] for i in secret_format.offsets) == letters
        # What is left after taking the secret out is the same for every filling.
        rest = bytes(np.delete(np.frombuffer(sentence, np.uint8), secret_format.offsets))
        assert rest == secret_format.template.replace("{}", "").encode()
        assert sentence.decode() == secret_format.template.format(
            *(secret_format.alphabet[i] for i in secret)
        )


def test_offsets_of_two_byte_letters_by_hand() -> None:
    # "π " takes 3 bytes, the sign 3 more: letters lie at 3-4 and 8-9.
    assert UMLAUT.offsets.tolist() == [3, 4, 8, 9]
    assert UMLAUT.encode([0, 1]).decode() == "π ä€ö!"


def test_draw_is_uniform_over_secrets() -> None:
    tiny = SecretFormat("{}{}", "abc")
    codes = tiny.draw(9000, stream(0, "test"), distinct=False) @ np.array([3, 1])
    assert chisquare(np.bincount(codes, minlength=9)).pvalue > 1e-3


def test_distinct_draws_are_uniform_in_every_place() -> None:
    # Not only which secrets are drawn: each must be equally likely to come first or last.
    tiny = SecretFormat("{}{}", "abc")
    rng = stream(1, "test")
    draws = np.stack([tiny.draw(5, rng) @ np.array([3, 1]) for _ in range(1800)])
    for place in range(5):
        assert chisquare(np.bincount(draws[:, place], minlength=9)).pvalue > 1e-3


@pytest.mark.parametrize("secret_format", [UMLAUT, WORDS, SecretFormat("{}{}{}")])
def test_distinct_draw_can_exhaust_the_space(secret_format: SecretFormat) -> None:
    secrets = secret_format.draw(secret_format.space, stream(0, "test"))
    assert len(np.unique(secrets, axis=0)) == secret_format.space
    with pytest.raises(ValueError, match=f"expected 0 to {secret_format.space}"):
        secret_format.draw(secret_format.space + 1, stream(0, "test"))


def test_draw_shapes_and_repeats() -> None:
    assert SSN.draw(0, stream(0, "test")).shape == (0, 9)
    assert SSN.draw(7, stream(0, "test")).shape == (7, 9)
    assert np.array_equal(SSN.draw(7, stream(0, "test")), SSN.draw(7, stream(0, "test")))
    assert len(SecretFormat("{}", "01").draw(50, stream(0, "test"), distinct=False)) == 50
    with pytest.raises(ValueError, match="n=-1"):
        SSN.draw(-1, stream(0, "test"), distinct=False)


def test_candidates_are_all_secrets_in_order() -> None:
    texts = [WORDS.text(secret) for secret in WORDS.candidates()]
    assert len(set(texts)) == WORDS.space == len(texts)
    assert texts[:2] == ["say one and one", "say one and two"]
    with pytest.raises(ValueError, match="more than limit=1000000"):
        SSN.candidates()


def test_records_hold_sentence_newline_and_zeros() -> None:
    secrets = UMLAUT.draw(5, stream(0, "test"))
    tokens, span = text_records(UMLAUT, secrets, length=20)
    assert (tokens.shape, span.shape) == ((5, 20), (5, 20))
    assert (str(tokens.dtype), str(span.dtype)) == ("torch.int64", "torch.bool")
    for row, marked, secret in zip(tokens, span, secrets, strict=True):
        sentence = UMLAUT.encode(secret)
        assert bytes(row.tolist()) == (sentence + b"\n").ljust(20, b"\0")
        letters = "".join(UMLAUT.alphabet[i] for i in secret)
        assert bytes(row[marked].tolist()).decode() == letters


def test_records_must_fit() -> None:
    pins = SecretFormat()
    secrets = pins.draw(2, stream(0, "test"))
    assert text_records(pins, secrets, length=17)[0].shape == (2, 17)
    with pytest.raises(ValueError, match="17 bytes with its newline for records of 16"):
        text_records(pins, secrets, length=16)


def test_no_records_are_fine() -> None:
    tokens, span = text_records(SSN, SSN.draw(0, stream(0, "test")), length=40)
    assert tokens.shape == span.shape == (0, 40)


@pytest.mark.parametrize("secrets", [np.zeros(6, int), np.zeros((2, 5), int)])
def test_records_refuse_secrets_of_another_format(secrets: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("expected [n, 6]")):
        text_records(SecretFormat(), secrets, length=40)


@pytest.mark.parametrize(
    ("template", "alphabet", "words"),
    [
        ("no hole", "01", "found no hole"),
        ("only {{}}", "01", "found no hole"),
        ("{0}", "01", "numbered"),
        ("{name}", "01", "named"),
        ("{:>3}", "01", "formatted"),
        ("{!r}", "01", "formatted"),
        ("open {", "01", "write {{ for a brace"),
        ("zero \0 {}", "01", "zero character"),
        ("{}", "0", "at least 2 letters"),
        ("{}", "", "at least 2 letters"),
        ("{}", "010", "'0' more than once"),
        ("{}", ["", "0"], "empty letter"),
        ("{}", ["a", "\0"], "zero character"),
        ("{}", "aé", "'a' has 1 bytes, 'é' has 2"),
        ("{}", ["ten", "four"], "'ten' has 3 bytes, 'four' has 4"),
    ],
)
def test_refuses_a_format(template: str, alphabet: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        SecretFormat(template, alphabet)


def test_refuses_letters_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="5 letters for 6 holes"):
        SecretFormat().fill("12345")
    with pytest.raises(ValueError, match="'x'"):
        SecretFormat().fill("12345x")
    for wrong in (-1, 10):
        with pytest.raises(ValueError, match=f"letter number {wrong}; expected 0 to 9"):
            SecretFormat().text([0, 0, 0, 0, 0, wrong])
