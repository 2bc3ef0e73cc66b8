"""What each command can be told. Imports nothing, so that help is quick."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Train:
    """Trains one arm without canaries and logs it.

    Args:
        task: digits, text, speech, speech_conformer, reuters, reuters52, images, translation, or
            module:function that returns an audits.tasks.Task.
        data: where the records of reuters (SGML files or their archive), images (a folder for each
            class, or archives of such), translation (train.en, train.de and the like) or speech
            (manifest.tsv, LibriSpeech's folders, spoken digits) are. Without it speech is spoken by
            espeak-ng.
        limit: how many records of the data to train on at most; the task's own if not given.
        bad: what to do with recordings that cannot be used: refuse, or skip, which counts them.
        grouping: none, sample, microbatch:B[:random], core:N[:fixed], cluster:K or
            cluster:B:per.
        weighting: clip:C, per_layer:C, normalize:GAMMA, quantile:Q, min or scarcity:L.
        noise: noise multiplier.
        pacing: none or angle:ALPHA[:CAP], updates when the gradient's direction fluctuates, or
            CAP samples are in it.
        seed: of the model, and of draws and noise where they are not secure.
        secure: draws batches and noise from a cryptographic generator, for a model that is given
            away.
        epochs: passes over the data; the task's own if not given.
        batch_size: expected logical batch; the task's own if not given.
        lr: learning rate; the task's own if not given.
        delta: at which epsilon is reported.
        accountant: prv or rdp.
        store: folder for results.
        quiet: only the result, no remarks.
        json: the row as JSON on stdout, all else on stderr.
    """

    task: str = "digits"
    data: str | None = None
    limit: int | None = None
    bad: str = "refuse"
    grouping: str = "sample"
    weighting: str = "clip:1.0"
    noise: float = 0.0
    pacing: str = "none"
    seed: int = 0
    secure: bool = False
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    delta: float = 1e-5
    accountant: str = "prv"
    store: Path = Path("runs/train")
    quiet: bool = False
    json: bool = False


@dataclass(frozen=True)
class Audit:
    """Trains every combination with canaries, measures memorization, and reports.

    Args:
        task: digits, text, speech, speech_conformer, reuters, reuters52, images, translation, or
            module:function that returns an audits.tasks.Task.
        data: where the records of reuters (SGML files or their archive), images (a folder for each
            class, or archives of such), translation (train.en, train.de and the like) or speech
            (manifest.tsv, LibriSpeech's folders, spoken digits) are. Without it speech is spoken by
            espeak-ng.
        limit: how many records of the data to train on at most; the task's own if not given.
        grouping: comma-separated: none, sample, microbatch:B[:random], core:N[:fixed],
            cluster:K, cluster:B:per. Without
            grouping, weighting and noise the task's own list of arms is run.
        weighting: comma-separated: clip:C, per_layer:C, normalize:GAMMA, quantile:Q, min,
            scarcity:L.
        noise: comma-separated noise multipliers.
        pacing: comma-separated: none, angle:ALPHA[:CAP], updates when the gradient's direction
            fluctuates, or CAP samples are in it.
        seeds: runs per arm.
        first_seed: the seeds are first_seed, first_seed + 1, ...
        epochs: passes over the data; the task's own if not given.
        batch_size: expected logical batch; the task's own if not given.
        lr: learning rate of every arm; the task's own if not given.
        search: picks each arm's learning rate from the task's grid, on validation data.
        canaries: per repetition tier and family, the task's own number if not given; a coin
            inserts about half of them.
        references: held-out canaries of each family that an inserted one is ranked among.
        gradient_canaries: join a second training of every arm that claims an epsilon, where the
            canaries among the records are too few to contradict it; 0 for none.
        families: comma-separated canary families of the task; all if not given.
        secret: format of the text task's canaries, with {} for each secret letter.
        alphabet: the letters.
        speeds: comma-separated, of the speech tasks' canaries, a family for each.
        words: random words in a canary of the speech tasks.
        recordings: your own as canaries of the speech tasks, laid out like their data, instead of
            random words.
        bad: what to do with recordings that cannot be used: refuse, or skip, which counts them.
        delta: at which epsilon is reported.
        accountant: prv or rdp.
        alpha: failure probability of all lower bounds on epsilon together.
        workers: processes; 0 for none beside this one.
        store: folder for results; the same command continues there after an interruption.
        quiet: only the table, neither progress nor remarks.
        json: the rows as JSON on stdout, all else on stderr.
        self_test: instead of all this, plants known bugs in a training loop and shows which of them
            an audit catches.
        loop: module:function of the loop to test, (engine factory, dataset, seed) -> released
            updates [T, d]; a small one of our own if not given.
        runs: of the self-test for each bug.
    """

    task: str = "digits"
    data: str | None = None
    limit: int | None = None
    grouping: str | None = None
    weighting: str | None = None
    noise: str | None = None
    pacing: str = "none"
    seeds: int = 1
    first_seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    search: bool = False
    canaries: int | None = None
    references: int = 1000
    gradient_canaries: int = 1000
    families: str | None = None
    secret: str = "my pin is {}{}{}{}{}{}"
    alphabet: str = "0123456789"
    speeds: str = "1,2,4"
    words: int = 5
    recordings: str | None = None
    bad: str = "refuse"
    delta: float = 1e-5
    accountant: str = "prv"
    alpha: float = 0.05
    workers: int = _cores()
    store: Path = Path("runs/audit")
    quiet: bool = False
    json: bool = False
    self_test: bool = False
    loop: str | None = None
    runs: int = 5


@dataclass(frozen=True)
class Demo:
    """Audits scikit-learn's digits under every granularity: the main job in minutes.

    Args:
        seeds: runs per arm.
        workers: processes.
        store: folder for results.
    """

    seeds: int = 8
    workers: int = _cores()
    store: Path = Path("demo")


@dataclass(frozen=True)
class Compare:
    """Puts the runs of earlier sweeps into one table and, with --out, into one report.

    Args:
        stores: folders of earlier sweeps, comma-separated; demo if neither these nor a server are
            given.
        tracking_uri: an MLflow server or database; of each task its last finished sweep is read.
        runs: comma-separated, which runs: words of an arm in their order (microbatch 4, noise 1,
            sample seed0), or ids in MLflow of runs or sweeps, at least their first 8 letters.
        out: folder for report.html, report.md, summary.csv and pictures.
        quiet: only the table, no remarks.
        json: the rows as JSON on stdout, all else on stderr.
    """

    stores: str | None = None
    tracking_uri: str | None = None
    runs: str | None = None
    out: Path | None = None
    quiet: bool = False
    json: bool = False


@dataclass(frozen=True)
class Ui:
    """Serves a store in the MLflow UI on this machine.

    Args:
        store: folder of an earlier sweep.
        port: of the server.
    """

    store: Path = Path("demo")
    port: int = 5000


@dataclass(frozen=True)
class Doctor:
    """Checks the installation, and a store for runs that never ended.

    Args:
        store: folder of earlier runs; none is looked at if not given.
    """

    store: Path | None = None


Chosen = Train | Audit | Demo | Compare | Ui | Doctor

_KINDS: dict[str, type[Chosen]] = {
    "demo": Demo,
    "train": Train,
    "audit": Audit,
    "compare": Compare,
    "ui": Ui,
    "doctor": Doctor,
}


def parse(words: Sequence[str]) -> tuple[str, Chosen]:
    """Returns the command and its options; prints help or a usage error and exits otherwise.

    `--first-seed 3` is `--first_seed 3`, and `--self-test` alone is `--self_test true`.
    """
    from jsonargparse import ArgumentParser

    from dpclip.cli.examples import Examples, told

    parser = ArgumentParser(
        prog="dpclip",
        description="Train with clipped gradients, audit memorization, compare reports.",
        formatter_class=Examples,
    )
    commands = parser.add_subcommands(required=True, metavar="command")
    for name, kind in _KINDS.items():
        about = (kind.__doc__ or "").splitlines()[0]
        command = ArgumentParser(description=about, epilog=told(name))
        command.add_argument("--config", action="config", help="read options from a YAML file")
        command.add_class_arguments(kind)
        commands.add_subcommand(name, command, help=about)
    given = parser.parse_args(list(_spelt(words)))
    name = str(given.subcommand)
    kind = _KINDS[name]
    return name, kind(**{f.name: given[name][f.name] for f in fields(kind)})


def _spelt(words: Sequence[str]) -> Iterator[str]:
    """Yields the words with options spelt as jsonargparse wants them."""
    switches = {f"--{f.name}" for kind in _KINDS.values() for f in fields(kind) if f.type == "bool"}
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        name, equals, value = word.partition("=")
        option = name[:2] + name[2:].replace("-", "_") if name.startswith("--") else name
        yield option + equals + value
        if option in switches and not equals and following.startswith("--"):
            yield "true"
