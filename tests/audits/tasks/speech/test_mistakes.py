import numpy as np
import pytest
import torch
from torch import nn

from audits.tasks.speech import mistakes
from audits.tasks.speech.alphabet import SIZE, labels

pytest.importorskip("jiwer")


def edits(said: list[str], heard: list[str]) -> int:
    """Levenshtein's distance, by its definition."""
    table = {(0, 0): 0}
    for i in range(len(said) + 1):
        for j in range(len(heard) + 1):
            ways = []
            if i:
                ways.append(table[i - 1, j] + 1)
            if j:
                ways.append(table[i, j - 1] + 1)
            if i and j:
                ways.append(table[i - 1, j - 1] + (said[i - 1] != heard[j - 1]))
            table[i, j] = min(ways, default=0)
    return table[len(said), len(heard)]


def texts(n: int, seed: int, empty: bool) -> list[str]:
    rng = np.random.default_rng(seed)
    words = ["one", "two", "to", "oh", "won't", "a"]
    return [" ".join(rng.choice(words, rng.integers(0 if empty else 1, 6))) for _ in range(n)]


def test_rates_are_edits_of_all_texts_over_their_lengths() -> None:
    said, heard = texts(40, 0, False), texts(40, 1, True)
    assert "" in heard
    pairs = list(zip(said, heard, strict=True))
    by_words = sum(edits(s.split(), h.split()) for s, h in pairs)
    by_letters = [edits(list(s), list(h)) for s, h in pairs]
    assert mistakes.wer(said, heard) == pytest.approx(by_words / sum(len(s.split()) for s in said))
    assert mistakes.cer(said, heard) == pytest.approx(sum(by_letters) / sum(map(len, said)))
    each = [e / len(s) for e, s in zip(by_letters, said, strict=True)]
    assert mistakes.record_cers(said, heard) == pytest.approx(each)


def test_what_is_right_has_no_errors_and_silence_has_all() -> None:
    assert mistakes.wer(["one two"], ["one two"]) == mistakes.cer(["one two"], ["one two"]) == 0
    assert mistakes.wer(["one two"], [""]) == mistakes.cer(["one two"], [""]) == 1


@pytest.mark.parametrize(
    ("said", "heard", "told"),
    [
        ([], [], "0 references and 0"),
        (["a"], ["a", "b"], "1 references and 2"),
        (["a", " "], ["a", "b"], "1 of 2 references are empty, first number 1"),
        ("ab", "ab", "one string"),
    ],
)
def test_what_has_no_rate_is_refused(said: list[str], heard: list[str], told: str) -> None:
    for rate in (mistakes.wer, mistakes.cer, mistakes.record_cers):
        with pytest.raises(ValueError, match=told):
            rate(said, heard)


class Saying(nn.Module):
    """Hears "ab" in everything."""

    def forward(self, features: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        heard = nn.functional.one_hot(labels("ab"), SIZE).float()
        return heard.expand(len(features), 2, SIZE)


def test_errors_of_records_compare_with_their_labels() -> None:
    records = [(torch.zeros(4, 2), labels(text)) for text in ("ab", "abcd", "b", "xyz")]
    found = mistakes.record_errors(Saying(), records)
    assert found == pytest.approx([0, 0.5, 1, 1])
    assert len(mistakes.record_errors(Saying(), [])) == 0
