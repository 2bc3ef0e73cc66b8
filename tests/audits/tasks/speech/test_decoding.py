import itertools

import pytest
import torch
from torch import Tensor, nn

from audits.tasks.speech import alphabet
from audits.tasks.speech.decoding import beam, greedy, transcribe
from audits.tasks.speech.records import PHYSICAL, halved


def slow(log_probs: Tensor, frames: int) -> str:
    best = [int(k) for k in log_probs[:frames].argmax(1)]
    letters = [k for k, _ in itertools.groupby(best) if k != alphabet.BLANK]
    return " ".join("".join(alphabet.LETTERS[k - 1] for k in letters).split())


def likelihood(log_probs: Tensor, text: str) -> float:
    """Log of the chance of a text, over all its alignments."""
    labels = alphabet.labels(text)[None]
    steps, length = torch.tensor([len(log_probs)]), torch.tensor([labels.shape[1]])
    loss = nn.functional.ctc_loss(log_probs[:, None], labels, steps, length, reduction="sum")
    return -float(loss)


def drawn(rows: int, frames: int, sharp: float) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return (sharp * torch.randn(rows, frames, alphabet.SIZE, generator=draw)).log_softmax(2)


def test_greedy_merges_repeats_and_leaves_out_blanks() -> None:
    log_probs, frames = drawn(50, 30, 1), torch.randint(1, 31, (50,))
    log_probs[:, :, :4] += 2  # blanks, spaces and repeats
    expected = [slow(row, int(t)) for row, t in zip(log_probs, frames, strict=True)]
    assert greedy(log_probs, frames) == expected
    assert len(set(expected)) > 10


def test_a_letter_that_is_there_twice_has_a_blank_between() -> None:
    path = alphabet.labels("aab").tolist()
    best = torch.tensor([path[0], path[0], 0, path[0], path[2], path[2]])
    log_probs = nn.functional.one_hot(best, alphabet.SIZE)[None].float()
    assert greedy(log_probs, torch.tensor([6])) == ["aab"]


def test_a_beam_finds_what_no_single_alignment_shows() -> None:
    """Two frames, each blank with .6 and a with .4: "" has .36, "a" has .64."""
    pytest.importorskip("flashlight")
    log_probs = torch.full((1, 2, alphabet.SIZE), 1e-6)
    log_probs[:, :, 0], log_probs[:, :, int(alphabet.labels("a"))] = 0.6, 0.4
    log_probs = log_probs.log()
    frames = torch.tensor([2])
    assert greedy(log_probs, frames) == [""]
    assert beam(10)(log_probs, frames) == ["a"]


def test_texts_of_a_beam_are_likelier_than_greedy_ones() -> None:
    pytest.importorskip("flashlight")
    log_probs, frames = drawn(30, 12, 1.5), torch.full((30,), 12)
    found, quick = beam(100)(log_probs, frames), greedy(log_probs, frames)
    gains = [
        likelihood(row, f) - likelihood(row, q)
        for row, f, q in zip(log_probs, found, quick, strict=True)
    ]
    assert sum(gains) / len(gains) > 0.1
    assert sum(gain < -1e-4 for gain in gains) <= 3
    assert beam(100)(log_probs, frames - 3) == beam(100)(log_probs[:, :9], frames - 3)


def test_a_beam_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="beam is 0 wide"):
        beam(0)


class Spelling(nn.Module):
    """Writes the letter whose label is the first feature."""

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        assert not self.training
        assert features.shape[1] == frames.max()
        assert features.shape[0] * features.shape[1] <= PHYSICAL or len(features) == 1
        labels = features[:, ::2, 0].long()
        assert labels.shape[1] == int(halved(frames).max())
        return nn.functional.one_hot(labels, alphabet.SIZE).float()


def test_records_are_heard_in_their_order_whatever_their_lengths() -> None:
    draw = torch.Generator().manual_seed(0)
    records = [
        (torch.randint(0, alphabet.SIZE, (int(t), 2), generator=draw).float(), torch.tensor([1]))
        for t in [*torch.randint(1, 60, (150,), generator=draw), *[900] * 30, 2 * PHYSICAL]
    ]
    model = Spelling().train()
    found = transcribe(model, records)
    for (features, _), text in zip(records, found, strict=True):
        row = nn.functional.one_hot(features[::2, 0].long(), alphabet.SIZE)
        assert text == slow(row, len(row))
    assert model.training
