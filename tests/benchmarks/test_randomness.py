"""What noise costs."""

from __future__ import annotations

import pytest
import torch

from benchmarks.randomness import main, measure, streams


class Slow:
    """Takes half a MiB beside the numbers, and some time."""

    def normal(self, like, std):
        held = torch.ones(2**16, dtype=torch.float64).exp_()
        return torch.zeros_like(like) + held[0]


def test_costs_are_of_the_stream():
    both = {"slow": Slow(), "seeded": streams()["seeded"]}
    found = measure(both, coordinates=1000, threads=[1, 2], rounds=2)
    assert found["slow"].beside == pytest.approx(2**19, rel=0.05)
    assert 0 <= found["seeded"].beside < 10_000
    assert len(found["slow"].seconds) == 2
    assert min(found["slow"].seconds) > max(found["seeded"].seconds) > 0
    assert found["slow"].call > found["seeded"].call > 0
    assert torch.get_num_threads() == 1


def test_secure_numbers_need_little_memory():
    """A thread holds one piece at a time, however many there are."""
    stream = {"secure": streams()["secure"]}
    few, many = (measure(stream, n, threads=[1], rounds=1)["secure"] for n in (10**5, 10**6))
    assert many.beside == pytest.approx(few.beside, rel=0.05) and few.beside < 8 * 2**20


def test_command_line(capsys):
    main(["--coordinates", "1000", "--rounds", "1", "--threads", "1", "2"])
    printed = capsys.readouterr().out
    heads = "| stream   | 10^8, 1 thread(s)   | 10^8, 2 thread(s)   | a call for 100   | memory"
    assert heads in printed
    assert "| seeded   |" in printed and "| secure   |" in printed
