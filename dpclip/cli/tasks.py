"""Tasks with their canaries: where data, recipes and panels meet."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from torch.utils.data import TensorDataset

from audits.planted import Planted
from audits.tasks import Task, digits, images, reuters, text, translation
from audits.tasks.held_out import with_held_out_canaries
from audits.tasks.labelled import Labelled
from canaries import (
    GradientCanaries,
    SecretFormat,
    budget,
    check_tokenizable,
    dirac,
    inject,
    mislabelled,
    noise_images,
    panel,
    stream,
    text_records,
)
from dpclip.cli.speech import TASKS, speech_task

_OF_DATA = ("data", "limit")
_FEWEST = 20  # gradient canaries whose coins fall on both sides, but for one in 500,000
_BESIDE = 100  # coordinates without a canary, on which the noise is measured


def task_of(config: Mapping[str, Any]) -> Task:
    """Returns the task that a cell names, with its canary recipes.

    Raises:
        ModuleNotFoundError: the task needs an extra that is not installed.
        ValueError: an unknown task or family, data that cannot be read, or canaries that do not fit
            the task.
    """
    if config["task"] not in (*_BY_PATH, *TASKS) and (
        given := [n for n in _OF_DATA if config.get(n) is not None]
    ):
        raise ValueError(f"Task {config['task']} reads no data by path: leave out --{given[0]}.")
    makers = {"digits": _digits, "text": _text}
    makers |= dict.fromkeys(_BY_PATH, _by_path) | dict.fromkeys(TASKS, speech_task)
    task = makers.get(config["task"], _own)(config)
    if config["families"]:
        chosen = [word.strip() for word in config["families"].split(",")]
        if unknown := [word for word in chosen if word not in task.families]:
            raise ValueError(
                f"Task {task.name} has no canary family {unknown[0]!r}: expected any of "
                f"{', '.join(task.families)}."
            )
        task = dataclasses.replace(task, families={w: task.families[w] for w in chosen})
    changes = {k: config[k] for k in ("batch_size", "epochs") if config[k] is not None}
    return dataclasses.replace(task, **changes)


def _digits(config: Mapping[str, Any]) -> Task:
    def noise(_: digits.Digits) -> Any:
        return lambda n, rng: TensorDataset(*noise_images(n, digits.SHAPE, digits.CLASSES, rng))

    def wrong(data: digits.Digits) -> Any:
        images, labels = data.pool.tensors
        return lambda n, rng: TensorDataset(*mislabelled(images, labels, digits.CLASSES, n, rng))

    return digits.task({"noise": noise, "mislabelled": wrong}, config["references"])


def _text(config: Mapping[str, Any]) -> Task:
    form = SecretFormat(config["secret"], config["alphabet"])
    fillings = [form.fill([letter] * form.holes) for letter in form.alphabet]
    check_tokenizable(
        {filling: filling for filling in fillings},
        lambda words: list(words.encode()),
        lambda tokens: bytes(tokens).decode(),
        text.VOCABULARY,
    )
    letters = [letter.encode() for letter in form.alphabet]
    if len(letters[0]) != 1:
        raise ValueError(
            f"The alphabet has letters of {len(letters[0])} bytes; the byte-level task takes "
            "letters of one byte."
        )
    sentence, span = text_records(form, np.zeros((1, form.holes), dtype=np.int64), text.LENGTH)

    def draw(n: int, rng: np.random.Generator) -> Any:
        tokens, _ = text_records(form, form.draw(n, rng), text.LENGTH)
        return TensorDataset(tokens, tokens != 0)

    alphabet = [letter[0] for letter in letters]
    family = text.secret_family(draw, sentence[0], span[0], alphabet, config["references"])
    return text.task({"secret": family})


def _by_path(config: Mapping[str, Any]) -> Task:
    name, path = config["task"], config.get("data")
    if path is None:
        raise ValueError(f"Task {name} reads your data: give its path, --data PATH.")
    return _BY_PATH[name](path, config["references"], config.get("limit"))


def _reuters(path: str, references: int, limit: int | None) -> Task:
    return reuters.task(path, {"mislabelled": _wrong}, references, limit=limit)


def _every_topic(path: str, references: int, limit: int | None) -> Task:
    return reuters.task(path, {"mislabelled": _wrong}, references, topics=None, limit=limit)


def _images(path: str, references: int, limit: int | None) -> Task:
    def noise(data: Labelled) -> Any:
        classes = len(data.classes)
        return lambda n, rng: TensorDataset(*noise_images(n, images.SHAPE, classes, rng))

    recipes = {"noise": noise, "mislabelled": _wrong}
    return images.task(path, recipes, references, images.LIMIT if limit is None else limit)


def _translation(path: str, references: int, limit: int | None) -> Task:
    return translation.task(path, references, translation.LIMIT if limit is None else limit)


def _wrong(data: Labelled) -> Any:
    inputs, labels = data.pool.tensors
    return lambda n, rng: TensorDataset(*mislabelled(inputs, labels, len(data.classes), n, rng))


_BY_PATH: dict[str, Callable[[str, int, int | None], Task]] = {
    "reuters": _reuters,
    "reuters52": _every_topic,
    "images": _images,
    "translation": _translation,
}
"""Tasks whose data the user has: (path, references, limit) -> task."""


def _own(config: Mapping[str, Any]) -> Task:
    module, _, function = config["task"].partition(":")
    if not function:
        raise ValueError(
            f"Unknown task {config['task']!r}: expected digits, text, "
            f"{', '.join((*TASKS, *_BY_PATH))} or module:function."
        )
    if sys.path[:1] != [here := os.getcwd()]:
        sys.path.insert(0, here)  # first, since installed packages share names such as benchmarks
    try:
        made = getattr(import_module(module), function)()
    except Exception as error:  # a user's code may raise anything
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"Task {config['task']!r} cannot be loaded: {told}") from error
    if not isinstance(made, Task):
        raise ValueError(
            f"{config['task']} returned a {type(made).__name__}: expected an audits.tasks.Task."
        )
    try:
        return made if made.families else with_held_out_canaries(made, config["references"])
    except TypeError as error:  # data without a length, for one
        raise ValueError(f"Task {made.name}: {error}") from error


def plant(task: Task, per_tier: int, seed: int) -> Planted:
    """Returns the task's training set with a panel of canaries in it, decided by the seed."""
    plan = panel(per_tier, seed=seed, families=tuple(task.families))
    families = np.array(plan.families)
    records: list[Any] = [None] * len(plan)
    references: dict[str, list[Any]] = {}
    for name, family in task.families.items():
        members = np.flatnonzero(families == name)
        total = len(members) + family.references
        # One draw for both: canaries and references must be exchangeable.
        drawn = family.draw(total, stream(seed, f"canaries/{name}"))
        for place, member in enumerate(members):
            records[member] = drawn[place]
        references[name] = [drawn[i] for i in range(len(members), total)]
    plan = plan.seal(records)
    ragged = task.length is not None
    train = inject(task.train, records, plan.copies(), seed, ragged=ragged)
    return Planted(
        train=train,
        ids=plan.ids,
        families=families,
        repetitions=np.array(plan.repetitions),
        inserted=plan.inserted,
        records=records,
        references=references,
        budget=budget(train),
        manifest=plan.hash,
    )


def gradient_canaries(task: Task, wanted: int, seed: int) -> GradientCanaries:
    """Returns Dirac canaries for the task's model, with fair coins decided by the seed.

    They take at most half of its coordinates, so of a tiny model there are fewer than wanted.

    Raises:
        ValueError: there would be fewer than two.
    """
    size = sum(p.numel() for p in task.model(seed).parameters() if p.requires_grad)
    many = min(wanted, size // 2)
    if many < _FEWEST:
        raise ValueError(
            f"{wanted} gradient canaries for a model of {size} trainable parameters: at most half "
            f"of these can be canaries, and at least {_FEWEST} are needed. Use more, or 0 for none."
        )
    coins = stream(seed, "canaries.gradient.coins").integers(0, 2, many) == 1
    return dirac(coins, coordinates=size, seed=seed, beside=min(_BESIDE, size - many))
