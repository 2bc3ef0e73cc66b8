"""A look at a private training run: is it what the claim assumes?

What voids the claim (epsilon is inf from then on): something that is trained without clipping or
noise, or may be; noise that is not as declared; rows that depend on other records; statistics of
the data that the model keeps. What is only remarked: what makes training worse, or could not be
looked at, but leaks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from dpclip.doctor.evidence import LIMIT
from dpclip.doctor.findings import Finding, listed
from dpclip.doctor.first_step import NoiseSeen, first_step, noise_seen
from dpclip.doctor.in_place import in_place
from dpclip.doctor.local_rows import LocalRows, check_rows, chosen
from dpclip.doctor.prepared import Subject
from dpclip.doctor.undisturbed import same_numbers
from dpclip.engine import Engine


@dataclass(frozen=True)
class Report:
    """What was looked at, and what was found.

    Attributes:
        steps: optimizer steps taken so far.
        findings: those that void the claim first.
        noise: of the first step; None if none was declared, or none was watched.
        rows: of some records; None if they were not looked at.
    """

    steps: int
    findings: Sequence[Finding]
    noise: NoiseSeen | None = None
    rows: LocalRows | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing voids the claim."""
        return not any(finding.voids for finding in self.findings)

    def __str__(self) -> str:
        """Returns a few lines for people."""
        verdict = "nothing that voids the claim was found" if self.sound else "the claim is void"
        lines = [f"After {self.steps} steps: {verdict}."]
        lines += [f"  {'VOID' if f.voids else 'note'}   {f.text}" for f in self.findings]
        if (noise := self.noise) is not None:
            lines.append(
                f"  noise  {noise.ratio:.4f} of the declared std {noise.std:.4g}, over "
                f"{noise.coordinates} numbers ({noise.low:.4f} to {noise.high:.4f} expected)"
            )
        if (rows := self.rows) is not None:
            lines.append(
                f"  rows   {rows.records} records alone and in one batch differ by "
                f"{rows.change:.1e}{' in float64' if rows.double else ''} ({LIMIT:g} is allowed)"
            )
        return "\n".join(lines)


def examine(
    engine: Engine,
    source: DataLoader[Any],
    loss: Callable[[Any], Tensor] | None = None,
    records: int = 4,
) -> Report:
    """Returns what was found, and voids the claim where that must be.

    Training goes on afterwards as if nobody had looked. Over several ranks, every rank calls it.

    Args:
        engine: after its first step.
        source: the loader that was made private, for its data set and collate function.
        loss: batch -> scalar loss, exactly as in training; None leaves local rows unchecked.
        records: how many records are tried.

    Raises:
        RuntimeError: before the first step.
        ValueError: fewer than 2 records, or a loss that is not one number.
    """
    if not engine.steps:
        raise RuntimeError(
            "No step was taken yet: take one step first. If you have trained, then not with what "
            "make_private returned: an optimizer built afterwards, or a copy of the model."
        )
    if engine.pacer is not None and not engine.pacer.pace.updates:
        raise RuntimeError(
            f"{engine.pacer.rule.label} has not updated the weights yet. Train until it has."
        )
    if records < 2:
        raise ValueError(f"records={records}: expected at least 2, to compare one with others.")
    found, rows = [*in_place(engine), *first_step(engine.witness)], None
    if loss is None:
        found.append(_unchecked("no loss was given"))
    elif any(finding.voids for finding in found):
        found.append(_unchecked("mend what voids the claim first"))
    else:
        rows = _looked_at(engine, source, loss, records)
        found += _rows(engine.hooks._module, rows)
    for finding in found:
        if finding.voids:
            engine.mechanism.ledger.void(finding.text)
    return Report(engine.steps, _sorted(engine, found), noise_seen(engine.witness), rows)


def _sorted(engine: Engine, found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Returns all that voids the claim, whoever found it, and then the remarks."""
    voids = (Finding(True, reason) for reason in engine.why_not())
    return *voids, *(finding for finding in found if not finding.voids)


def _looked_at(
    engine: Engine, source: DataLoader[Any], loss: Callable[[Any], Tensor], records: int
) -> LocalRows | None:
    """Returns what the check of local rows found, None for a data set of one record."""
    with same_numbers():
        items = chosen(source.dataset, records, engine.steps)
    if len(items) < 2:
        return None
    return check_rows(Subject(engine.hooks, loss, source.collate_fn, engine.mean), items)


def _unchecked(why: str) -> Finding:
    return Finding(False, f"local rows were not checked: {why}")


def _rows(module: nn.Module, rows: LocalRows | None) -> Iterator[Finding]:
    if rows is None:
        yield _unchecked("the data set has one record")
        return
    if rows.why_not is not None:
        yield Finding(True, rows.why_not)
    if rows.unknown is not None:
        yield _unchecked(rows.unknown)
    kept = module.state_dict().keys()  # others are not released with the model
    for some, voids in (
        ([n for n in rows.followers if (n in kept) is v], v) for v in (True, False)
    ):
        if some:
            yield Finding(
                voids,
                "a forward writes statistics of the data into buffers, which no noise protects: "
                f"{listed(some)}; leave them out, or fix them before training",
            )
