"""What cutting each logical batch by length saves: padding, and time of a step.

    python -m benchmarks.bucketing --samples 64 --rounds 9

Utterances last 1 to 16 seconds, log-normal with median 5: 80 bands of random numbers, 100 frames
a second, and 10 labels; the model is four convolutions under CTC. All ways train on the same
logical batches, in one process and in turns, each on its own copy of the model. The first way
cuts a batch as it was drawn; a ratio is to the step of that one on the same batch, the median
over rounds, with the quartiles. "padded" is the share of all frames that is padding, "largest"
the frames of the largest physical batch, padding included. A busy machine makes every ratio
wrong, so its load is printed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset

from benchmarks.machine import Clock, clock_of, described
from benchmarks.models.workload import generator, seeded
from benchmarks.step_time import Timing
from benchmarks.table import Cell, markdown
from dpclip import PrivacyEngine, clip, micro_batches, per_core, per_sample
from dpclip.types import Grouping

_MELS, _SYMBOLS, _RATE = 80, 32, 100  # bands, the blank and labels, frames a second
_SECONDS = (1.0, 5.0, 16.0)  # shortest, median, longest
_SPREAD = 0.7  # std of the logarithm of a length
_WIDTH, _KERNEL, _STRIDES = 128, 5, (2, 2, 1, 1)

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Frames [B, T, 80], their number [B], labels [B, L], their number [B]."""


class Utterances(Dataset[tuple[Tensor, Tensor]]):
    """Random frames [T, 80] and labels [L]; T is different for each.

    Args:
        count: how many.
        seed: of everything.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        draws = generator(seed)
        shortest, median, longest = _SECONDS
        seconds = median * torch.exp(_SPREAD * torch.randn(20 * count, generator=draws))
        seconds = seconds[(seconds >= shortest) & (seconds <= longest)][:count]
        self.lengths: list[int] = (_RATE * seconds).int().tolist()
        # Views of one tensor: the data set of a benchmark need not be large.
        self._frames = torch.randn(2 * int(_RATE * longest), _MELS, generator=draws)
        self._labels = torch.randint(1, _SYMBOLS, (int(_RATE * longest),), generator=draws)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start, length = index % int(_RATE * _SECONDS[2]), self.lengths[index]
        return self._frames[start : start + length], self._labels[: length // 10]


def collate(items: list[tuple[Tensor, Tensor]]) -> Batch:
    """Returns the batch, padded to its longest."""
    frames, labels = [it[0] for it in items], [it[1] for it in items]
    counts = [torch.tensor([len(it) for it in column]) for column in (frames, labels)]
    padded = [pad_sequence(column, batch_first=True) for column in (frames, labels)]
    return padded[0], counts[0], padded[1], counts[1]


class Recognizer(nn.Module):
    """Convolutions over time, each frame normalized by itself; what is padded stays 0."""

    def __init__(self) -> None:
        super().__init__()
        widths = (_MELS, *[_WIDTH] * len(_STRIDES))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, _WIDTH, _KERNEL, stride, _KERNEL // 2)
            for width, stride in zip(widths[:-1], _STRIDES, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(_WIDTH) for _ in _STRIDES)
        self.head = nn.Linear(_WIDTH, _SYMBOLS)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities [B, T/4, 32] and how many of each record's count [B]."""
        x = frames
        for convolution, norm, stride in zip(self.convolutions, self.norms, _STRIDES, strict=True):
            lengths = (lengths + stride - 1) // stride
            x = nn.functional.gelu(norm(convolution(x.transpose(1, 2)).transpose(1, 2)))
            x = x * (torch.arange(x.shape[1]) < lengths[:, None])[..., None]
        return self.head(x).log_softmax(-1), lengths


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """Returns [B] CTC losses per label."""
    frames, lengths, labels, counts = batch
    found, left = model(frames, lengths)
    each = nn.functional.ctc_loss(found.transpose(0, 1), labels, left, counts, reduction="none")
    return each / counts


class Cut(NamedTuple):
    """Where a logical batch is cut.

    Attributes:
        rows: largest number of samples, or None.
        frames: largest number of padded frames, or None.
        by_length: whether it is sorted by length before.
    """

    rows: int | None
    frames: int | None
    by_length: bool

    @property
    def label(self) -> str:
        """What it is, for people."""
        order = "by length" if self.by_length else "as drawn"
        return f"{self.rows} samples {order}" if self.rows else f"{self.frames} frames {order}"


@dataclass
class Way:
    """One training that is measured.

    Attributes:
        engine: of the training.
        model: its own.
        optimizer: with learning rate 0.
        batches: physical batches without an end.
        shapes: (samples, longest, frames that are no padding) of each so far.
    """

    engine: PrivacyEngine
    model: nn.Module
    optimizer: SGD
    batches: Iterator[Batch]
    shapes: list[tuple[int, int, int]] = field(default_factory=list)

    def step(self) -> None:
        """Trains on one logical batch."""
        before = self.engine.steps
        while self.engine.steps == before:
            batch = next(self.batches)
            self.shapes.append((*batch[0].shape[:2], int(batch[1].sum())))
            losses(self.model, batch).mean().backward()
            self.optimizer.step()


class Cost(NamedTuple):
    """What was measured of one way of cutting.

    Attributes:
        real: frames of the records of all steps.
        padded: share of all frames that is padding.
        physical: physical batches in a step.
        largest: frames of the largest one.
        timing: of a step, with ratios to the first way.
    """

    real: int
    padded: float
    physical: float
    largest: int
    timing: Timing

    def cells(self) -> list[Cell]:
        """Returns a row of the table."""
        texts = f"{self.padded:.0%}", f"{self.physical:.1f}", str(self.largest)
        return [*map(Cell, texts), Cell(f"{self.timing.seconds:.2f} s"), self.timing.cell()]


def start(data: Utterances, samples: int, grouping: Grouping, cut: Cut) -> Way:
    """Returns a training on logical batches that are the same for every way of cutting."""
    model = seeded(Recognizer)
    engine = PrivacyEngine(seed=0, measure=False)
    _, optimizer, loader = engine.make_private(
        module=model,
        optimizer=SGD(model.parameters(), lr=0.0),
        data_loader=DataLoader(data, batch_size=samples, collate_fn=collate),
        noise_multiplier=0.0,
        grouping=grouping,
        weighting=clip(1.0),
        max_physical_batch=cut.rows,
        max_physical_size=cut.frames,
        lengths=data.lengths if cut.by_length else None,
    )
    assert isinstance(optimizer, SGD)

    def batches() -> Iterator[Batch]:
        while True:
            yield from loader

    return Way(engine, model, optimizer, batches())


def measure(
    data: Utterances, samples: int, grouping: Grouping, cuts: Sequence[Cut], rounds: int
) -> list[Cost]:
    """Returns what each way of cutting costs.

    Args:
        data: what is trained on.
        samples: expected logical batch.
        grouping: of the records.
        cuts: of which the first is compared with.
        rounds: logical batches, after one that is not timed.
    """
    clock = clock_of("cpu", torch.get_num_threads())
    ways = [start(data, samples, grouping, cut) for cut in cuts]
    for way in ways:
        way.step()
        way.shapes.clear()
    seconds: list[list[float]] = [[] for _ in ways]
    for number in range(rounds):
        turns = range(len(ways)) if number % 2 else reversed(range(len(ways)))
        for turn in turns:
            seconds[turn].append(_timed(ways[turn], clock))
    return [_cost(way, own, seconds[0]) for way, own in zip(ways, seconds, strict=True)]


def _timed(way: Way, clock: Clock) -> float:
    begun = clock()
    way.step()
    return clock() - begun


def _cost(way: Way, seconds: Sequence[float], first: Sequence[float]) -> Cost:
    sizes = [rows * longest for rows, longest, _ in way.shapes]
    real = sum(frames for *_, frames in way.shapes)
    ratios = [mine / other for mine, other in zip(seconds, first, strict=True)]
    return Cost(
        real,
        1 - real / sum(sizes),
        len(sizes) / len(seconds),
        max(sizes),
        Timing(statistics.median(seconds), ratios, None),
    )


def groupings() -> Mapping[str, Grouping]:
    """Returns what records are grouped by, the largest groups last."""
    made = per_sample(), micro_batches(8, slots="random"), per_core(4, slots="fixed")
    return {grouping.label: grouping for grouping in made}


def main(words: list[str] | None = None) -> None:
    """Prints a Markdown table.

    Args:
        words: of the command line; the process' own by default.
    """
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--samples", type=int, default=64, help="of a batch (default: %(default)s)")
    made.add_argument("--records", type=int, default=512, help="(default: %(default)s)")
    made.add_argument("--rounds", type=int, default=9, help="(default: %(default)s)")
    made.add_argument("--rows", type=int, default=16, help="(default: %(default)s)")
    made.add_argument("--frames", type=int, nargs="+", default=[12800, 6400, 3200])
    made.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    given = made.parse_args(words)
    torch.set_num_threads(given.threads)
    print(described("cpu", given.threads), flush=True)
    data = Utterances(given.records)
    cuts = [Cut(given.rows, None, False), Cut(given.rows, None, True)]
    cuts += [Cut(None, frames, True) for frames in given.frames]
    labels, rows = [], []
    for name, grouping in groupings().items():
        found = measure(data, given.samples, grouping, cuts, given.rounds)
        labels += [f"{name}, {cut.label}" for cut in cuts]
        rows += [cost.cells() for cost in found]
    print(f"{described('cpu', given.threads)} at the end\n")
    heads = ("padded", "physical batches", "largest", "step", "ratio")
    columns = zip(*rows, strict=True)
    print(markdown("groups, cut", labels, dict(zip(heads, columns, strict=True))))


if __name__ == "__main__":
    main()
