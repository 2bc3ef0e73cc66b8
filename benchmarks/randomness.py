"""Time and memory of the noise: from seeded streams, and from secure ones.

    python -m benchmarks.randomness --coordinates 10000000

Seconds are of 10^8 coordinates in float32, scaled from fewer, and those of the quickest round: a
busy machine only ever adds. The time of a call is that of a small parameter. Memory is what is
needed at once beside the numbers themselves, in one thread; each further thread of a secure
stream takes as much again.
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from benchmarks.machine import clock_of, described
from benchmarks.meters import allocated
from benchmarks.table import Cell, markdown
from dpclip.secure import KEY_BYTES, secure
from dpclip.streams import seeded
from dpclip.types import Stream

_WHOLE = 10**8
_FEW = 100  # coordinates of a small parameter
_CALLS = 100
_MIB = 2**20


class Cost(NamedTuple):
    """What a stream costs.

    Attributes:
        seconds: of 10^8 coordinates, for each number of threads.
        call: seconds of one call for few coordinates.
        beside: peak bytes beside the numbers.
    """

    seconds: list[float]
    call: float
    beside: int

    def cells(self) -> list[Cell]:
        """Returns a row of the table."""
        seconds = [Cell(f"{it:.2f} s") for it in self.seconds]
        return [*seconds, Cell(f"{self.call * 1e6:.0f} us"), Cell(f"{self.beside / _MIB:.1f} MiB")]


def streams() -> dict[str, Stream]:
    """Returns the streams that noise is drawn from, on the CPU."""
    return {
        "seeded": seeded(0, torch.device("cpu")).noise,
        "secure": secure(bytes(KEY_BYTES)).noise,
    }


def measure(
    chosen: Mapping[str, Stream], coordinates: int, threads: Sequence[int], rounds: int
) -> dict[str, Cost]:
    """Returns what each stream costs.

    Args:
        chosen: name -> stream.
        coordinates: drawn at a time.
        threads: numbers of threads to try.
        rounds: of which the quickest counts.
    """
    return {
        name: Cost(
            [_least(stream, coordinates, it, rounds) * _WHOLE / coordinates for it in threads],
            _least(stream, _FEW, 1, rounds, _CALLS),
            _beside(stream, coordinates),
        )
        for name, stream in chosen.items()
    }


def _least(stream: Stream, coordinates: int, threads: int, rounds: int, calls: int = 1) -> float:
    """Returns the seconds of a call in the quickest round."""
    torch.set_num_threads(threads)
    clock = clock_of("cpu", threads)
    like, spent = torch.empty(coordinates, dtype=torch.float32), []
    for _ in range(rounds):
        begun = clock()
        for _ in range(calls):
            stream.normal(like, 1.0)
        spent.append((clock() - begun) / calls)
    torch.set_num_threads(1)
    return min(spent)


def _beside(stream: Stream, coordinates: int) -> int:
    """Returns the peak bytes of torch's tensors and of numpy's arrays beside the numbers."""
    like = torch.empty(coordinates, dtype=torch.float32)
    (tensors,) = allocated(lambda: stream.normal(like, 1.0), 1)
    tracemalloc.start()
    stream.normal(like, 1.0)
    arrays = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return tensors + arrays - like.numel() * like.element_size()


def main(words: list[str] | None = None) -> None:
    """Prints a Markdown table.

    Args:
        words: of the command line; the process' own by default.
    """
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--coordinates", type=int, default=10**7, help="(default: %(default)s)")
    made.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    made.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    given = made.parse_args(words)
    print("\n".join(described("cpu", it) for it in given.threads), flush=True)
    found = measure(streams(), given.coordinates, given.threads, given.rounds)
    print(f"{described('cpu', 1)} at the end\n")
    heads = [*(f"10^8, {it} thread(s)" for it in given.threads), f"a call for {_FEW}", "memory"]
    columns = zip(*(cost.cells() for cost in found.values()), strict=True)
    print(markdown("stream", list(found), dict(zip(heads, columns, strict=True))))


if __name__ == "__main__":
    main()
