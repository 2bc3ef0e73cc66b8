"""What cutting by length saves."""

from __future__ import annotations

import torch

from benchmarks.bucketing import Cut, Recognizer, Utterances, collate, losses, main, measure
from dpclip import per_sample


def test_utterances_last_one_to_sixteen_seconds():
    """The median of 2000 is within four standard errors (1.25 sigma / sqrt n) of five seconds."""
    lengths = torch.tensor(Utterances(2000).lengths).double()
    assert len(lengths) == 2000 and lengths.min() >= 100 and lengths.max() <= 1600
    assert abs(float(lengths.median()) / 500 - 1) < 0.12  # what is left out moves it as well
    assert [it.tolist() for it in Utterances(5)[3]] == [it.tolist() for it in Utterances(5)[3]]


def test_losses_do_not_depend_on_padding():
    torch.manual_seed(0)
    data, model = Utterances(4), Recognizer().double()
    items = [(frames.double(), labels) for frames, labels in (data[i] for i in range(4))]
    together = losses(model, collate(items))
    alone = torch.cat([losses(model, collate([item])) for item in items])
    assert torch.allclose(together, alone, rtol=1e-12)


def test_costs_are_of_the_same_records():
    cuts = [Cut(2, None, False), Cut(None, 1600, True)]
    one, two = measure(Utterances(12), 6, per_sample(), cuts, rounds=2)
    assert one.real == two.real > 0
    assert two.padded < one.padded and two.largest <= 1600 < one.largest
    assert one.timing.ratios == [1, 1] and len(two.timing.ratios) == 2
    assert two.timing.seconds > 0


def test_command_line(capsys):
    main(["--samples", "8", "--records", "12", "--rounds", "1", "--rows", "2", "--frames", "1600"])
    printed = capsys.readouterr().out
    assert "| padded   | physical batches   | largest   | step   | ratio" in printed
    for label in ("2 samples as drawn", "2 samples by length", "1600 frames by length"):
        assert f"per_sample(), {label}" in printed
