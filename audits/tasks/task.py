"""What a task is: data, a model, a loss for each record, a measure of utility, canary recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from audits.extraction import Search
from audits.tasks.physical import ROWS, in_order, parts_of

T = TypeVar("T")

METRICS = ("acc", "wer", "cer", "ppl", "bleu", "chrf")
"""Measures of utility that reports know; of acc, bleu and chrf more is better, of others less."""

_MORE_IS_BETTER = frozenset({"acc", "bleu", "chrf"})

Draw = Callable[[int, np.random.Generator], Sequence[Any]]
"""(n, rng) -> n records of one recipe, independent and alike, laid out like training records."""


@dataclass(frozen=True)
class Space:
    """All fillings of a secret format, scored one by one.

    Attributes:
        losses: model -> [|R|] loss of every filling.
        number: record -> which filling it is.
    """

    losses: Callable[[nn.Module], Tensor]
    number: Callable[[Any], int]


@dataclass(frozen=True)
class Vast:
    """A secret format with too many fillings to score one by one.

    Attributes:
        size: |R|, how many there are.
        search: (model in eval mode, records) -> the ranks of their secrets among all fillings, as
            far as the search's budget goes, and as many of the most likely fillings.
    """

    size: int
    search: Callable[[nn.Module, Sequence[Any]], Search]


@dataclass(frozen=True)
class Family:
    """A recipe for canaries.

    Attributes:
        draw: the recipe. Canaries and references come from it in one call, so they are
            exchangeable; exposure rests on that.
        losses: (model, batch) -> [B], low where the model knows the record; the loss of the
            secret part alone where there is one.
        references: how many held-out records a canary is ranked among (unless `space` is given).
        space: all candidates, for exact ranks.
        vast: the space that the references are a sample of, where it can only be searched.
        errors: (model in eval mode, records) -> [n] error rate of what the model makes of each,
            0 where it is right: a second score, beside the loss. Needs references.
    """

    draw: Draw
    losses: Callable[[nn.Module, Any], Tensor]
    references: int = 1000
    space: Space | None = None
    vast: Vast | None = None
    errors: Callable[[nn.Module, Sequence[Any]], NDArray[np.float64]] | None = None

    def __post_init__(self) -> None:
        """Refuses errors that nothing could be ranked among."""
        if self.errors is not None and (self.space is not None or self.references < 1):
            raise ValueError(
                "A family with errors is ranked among held-out references: expected no space and "
                f"at least 1 reference, found {self.references}."
            )


def families_of(
    recipes: Mapping[str, Callable[[T], Draw]],
    data: T,
    losses: Callable[[nn.Module, Any], Tensor],
    references: int,
) -> dict[str, Family]:
    """Returns families of canaries that are scored as records are, each among sampled references.

    Args:
        recipes: family -> (data -> recipe).
        data: that the recipes draw from.
        losses: (model, batch) -> [B].
        references: held-out records of each family.
    """
    return {name: Family(recipe(data), losses, references) for name, recipe in recipes.items()}


@dataclass(frozen=True)
class Task:
    """Data, model, loss and utility, and how to train by default.

    Attributes:
        name: used in experiment names.
        metric: acc, wer, cer, ppl, bleu or chrf.
        train: training records.
        validation: for choosing the learning rate.
        test: for reporting.
        model: seed -> a fresh model, the same for the same seed.
        losses: (model, batch) -> [B] loss of each record by itself; training uses the mean.
        evaluate: (model, records) -> the metric.
        optimizer: (parameters, lr) -> the optimizer.
        batch_size: expected logical batch.
        epochs: passes over the training records.
        lr: learning rate where none is searched for.
        lrs: grid of the learning-rate search.
        families: name -> recipe.
        canaries: per repetition tier and family, unless told otherwise; half of them are inserted.
        collate: the data loader's collate function, None for torch's own.
        length: record -> its length, for tasks whose records are padded to the longest beside them.
        physical_size: records times the longest of them, in units of `length`, that go through the
            model at once; a drawn batch is cut by length into such parts.
        features: name of the model's submodule whose output tells records apart, for groupings
            that cluster them; empty if there is none.
        facts: what else a report should say of the data.
        measures: (model, records) -> several measures by name, the metric among them, where one
            look at the records gives them all.
    """

    name: str
    metric: str
    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    model: Callable[[int], nn.Module]
    losses: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module, Dataset[Any]], float]
    optimizer: Callable[[Iterable[nn.Parameter], float], Optimizer]
    batch_size: int
    epochs: int
    lr: float
    lrs: tuple[float, ...]
    families: Mapping[str, Family] = field(default_factory=dict)
    canaries: int = 10
    collate: Callable[[list[Any]], Any] | None = None
    length: Callable[[Any], int] | None = None
    physical_size: int | None = None
    features: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    measures: Callable[[nn.Module, Dataset[Any]], Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        """Refuses what only a report would stumble over, when all runs are done."""
        if not self.name.strip() or "/" in self.name:
            raise ValueError(f"name is {self.name!r}: expected one without a slash, for MLflow.")
        if self.metric not in METRICS:
            raise ValueError(f"metric is {self.metric!r}: expected one of {', '.join(METRICS)}.")

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger metric is a better model."""
        return self.metric in _MORE_IS_BETTER

    def parts(self, records: Any, rows: int = ROWS) -> list[list[int]]:
        """Returns places of records in parts that go through the model at once.

        By length and within `physical_size`, as in training, where the task has lengths; else as
        the records come.

        Args:
            records: a data set or sequence of the task's records.
            rows: of a part, at most.
        """
        if self.length is None:
            return in_order(len(records), rows)
        lengths = [self.length(records[i]) for i in range(len(records))]
        return parts_of(lengths, self.physical_size, rows)

    def measured(self, model: nn.Module, records: Dataset[Any]) -> dict[str, float]:
        """Returns all that the task measures of a model: the metric, and what comes with it."""
        if self.measures is None:
            return {self.metric: self.evaluate(model, records)}
        return dict(self.measures(model, records))


@torch.no_grad()
def scores(
    model: nn.Module,
    records: Any,
    losses: Callable[[nn.Module, Any], Tensor],
    collate: Callable[[list[Any]], Any] | None = None,
    parts: Sequence[list[int]] | None = None,
) -> NDArray[np.float64]:
    """Returns [n] losses of records by a model in eval mode; its mode is put back.

    Args:
        model: to score with.
        records: a data set or sequence.
        losses: (model, batch) -> [B].
        collate: as in `Task`.
        parts: places of all records, those that go through the model at once together, see
            `Task.parts`; None takes them as they come. The losses are in the records' order.
    """
    parts = in_order(len(records)) if parts is None else parts
    loader = DataLoader(records, batch_sampler=parts, collate_fn=collate)
    found = np.full(len(records), np.nan)
    training = model.training
    model.eval()
    try:
        for part, batch in zip(parts, loader, strict=True):
            found[part] = losses(model, batch).double().numpy()
    finally:
        model.train(training)
    return found
