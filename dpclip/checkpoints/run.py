"""Saving a training run, and going on with it after it was killed."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from dpclip.checkpoints.account import Account
from dpclip.checkpoints.generators import of_all_ranks, set_generators
from dpclip.checkpoints.lock import Lock
from dpclip.checkpoints.sealed import Unusable, remove, sweep
from dpclip.checkpoints.settings import check_layout, check_settings, layout_of, settings_of
from dpclip.checkpoints.stored import check_weights, store, stored
from dpclip.privacy_engine import PrivacyEngine
from dpclip.wrapped import unwrapped

_NAME = re.compile(r"(\d{6,})-step-\d+")


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on.

    Attributes:
        steps: optimizer steps that the weights have seen.
        epoch: number of the epoch that the next batch lies in; the loader's next iteration yields
            what is left of it, so that `for epoch in range(resumed.epoch, epochs)` goes on right.
        extra: what was given to `save`.
        path: the checkpoint.
        lost: steps of a secure run that are spent although their result is lost.
    """

    steps: int
    epoch: int
    extra: Any
    path: Path
    lost: int


class Checkpoints:
    """The checkpoints of one training run, in one folder; a killed run goes on from the newest.

    A seeded run goes on bit for bit, as if it had not been killed: weights, optimizer, account,
    plans, batches, noise, and the global generators of torch, Python and numpy are saved. (One that
    is killed before its first checkpoint starts anew; to round alike, it needs
    `PrivacyEngine(measure=False)`, since the plan is made in the first step.) A secure
    run does not save its noise stream, since who holds it could subtract the noise; what each
    step spends is written down beforehand, and stays spent if the step is lost.

    Files are safetensors and JSON; nothing that is loaded can run code. The state of a seeded run
    tells its noise: whoever gets the model gets `weights.safetensors` alone. Over several ranks the
    first one writes, into a folder that all can read; buffers of the model are the first rank's.

    Args:
        folder: of this run alone; it is made if it is not there.
        engine: after make_private.
        module: that was made private.
        optimizer: that was made private.
        keep: how many checkpoints stay.

    Raises:
        ValueError: keep < 1.
        RuntimeError: nothing is private yet, or another process writes into the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        engine: PrivacyEngine,
        module: nn.Module,
        optimizer: Optimizer,
        keep: int = 2,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: expected at least 1 checkpoint to stay.")
        self._folder, self._keep = Path(folder), keep
        self._engine, self._module, self._optimizer = engine, unwrapped(module), optimizer
        self._settings = settings_of(engine)
        self._ranks = int(self._settings["ranks"])
        self._rank = dist.get_rank() if self._ranks > 1 else 0
        self._refused: set[Path] = set()
        self._resumed = False
        if self._rank == 0:
            self._lock = Lock(self._folder)
            sweep(self._folder)
        rate, journal = self._settings["sampling rate"], self._folder / "spent.jsonl"
        self._account = Account(engine, journal, rate, self._rank == 0)

    def save(self, extra: Any = None) -> Path:
        """Returns the path of a new checkpoint; older ones but `keep` are removed after it.

        Over several ranks every rank calls it; the first one writes.

        Args:
            extra: plain values (and tensors) of your own, such as a scheduler's `state_dict()`.

        Raises:
            TypeError: a value that is not plain; the message names the path to it.
            RuntimeError: in the middle of a step, or in the folder of a run that was not resumed.
        """
        if self._engine._private.midway:
            raise RuntimeError(
                "A checkpoint was asked for between backward() and the end of the step. Save after "
                "optimizer.step(); with max_physical_batch, use every(n), which waits for the end "
                "of a logical batch."
            )
        there = self._paths()
        if (there or self._account.before) and not self._resumed:
            raise RuntimeError(
                f"{self._folder} holds what is left of a run that was not resumed. Call resume() "
                "before training, or name another folder."
            )
        self._resumed = True
        steps = self._engine.steps
        path = self._folder / f"{_number(there[-1]) + 1 if there else 1:06d}-step-{steps}"
        weights, state = self._collected(extra)
        if self._rank == 0:
            store(path, weights, state, steps)
            self._prune()
        if self._ranks > 1:
            dist.barrier()
        return path

    def every(self, steps: int, extra: Any = None) -> Path | None:
        """Returns what `save` returns if a step was just taken whose number `steps` divides.

        Call it after each `optimizer.step()`.
        """
        engine = self._engine
        return self.save(extra) if engine._private.stepped and engine.steps % steps == 0 else None

    def resume(self) -> Resumed | None:
        """Returns where the run goes on, None if it starts; call it right after make_private.

        Model, optimizer and engine get the state of the newest checkpoint in place, after all of
        it was read and verified. A damaged one, or one of another model, is passed over with a
        warning.

        Raises:
            RuntimeError: checkpoints are there, and none can be used; or steps were taken already.
            ValueError: the engine has other settings than the one that wrote the checkpoint.
        """
        found = self._newest()
        self._resumed = True
        if found is None:
            self._account.count_lost(0)
            return None
        path, weights, state = found
        check_settings(state["settings"], self._now(), str(path))
        self._load(weights, state)
        lost = self._account.count_lost(int(state["journal"]))
        if self._ranks > 1:
            dist.barrier()
        position = state["engine"]["position"]
        epoch = int(position["batch"]) // len(self._engine._batches)
        return Resumed(self._engine.steps, epoch, state["extra"], path, lost)

    def close(self) -> None:
        """Lets another process write into the folder; checkpoints stay."""
        self._account.close()
        if self._rank == 0:
            self._lock.close()

    def _now(self) -> dict[str, Any]:
        """Returns the settings, with the weighting that is in use: a rule cannot be saved."""
        return self._settings | {"weighting": self._engine.weighting.label}

    def _layout(self) -> dict[str, Any]:
        return layout_of(self._engine, self._module, self._optimizer)

    def _collected(self, extra: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns (weights, everything else); every rank must call it."""
        held = self._module.state_dict()
        weights = {name: value for name, value in held.items() if isinstance(value, Tensor)}
        device = next(self._module.parameters()).device
        return weights, {
            "settings": self._now(),
            "layout": self._layout(),
            "journal": self._account.noted(),
            "noise_multiplier": self._engine.noise_multiplier,
            "engine": self._engine.state_dict(),
            "module": {name: value for name, value in held.items() if name not in weights},
            "optimizer": self._optimizer.state_dict(),
            "extra": extra,
            "generators": of_all_ranks(self._ranks, device),
        }

    def _load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Puts a checkpoint that fits into model, optimizer, engine and global generators."""
        self._engine.load_state_dict(state["engine"])  # may refuse, so it comes first
        self._module.load_state_dict(weights | state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        if state["engine"]["steps"]:  # else a scheduler warns that it comes before the first step
            self._optimizer._opt_called = True  # type: ignore[attr-defined]
        self._engine.noise_multiplier = state["noise_multiplier"]
        set_generators(state["generators"][self._rank])

    def _newest(self) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        """Returns the newest checkpoint that can be used, None if there is none at all."""
        refused: dict[Path, str] = {}
        for path in reversed(self._paths()):
            try:
                weights, state = stored(path)
                check_weights(weights, self._module)
                check_layout(state["layout"], self._layout())
            except Unusable as why:
                refused[path] = str(why)
                continue
            self._refused = set(refused)
            for other, reason in refused.items():
                warnings.warn(f"{other} is passed over: {reason}. Using {path}.", stacklevel=3)
            return path, weights, state
        if refused:
            reasons = "; ".join(f"{path.name}: {reason}" for path, reason in refused.items())
            raise RuntimeError(
                f"None of the checkpoints in {self._folder} can be used ({reasons}). Bring one "
                "back, or name another folder to start anew."
            )
        return None

    def _paths(self) -> list[Path]:
        """Returns the checkpoints in the order they were written."""
        return sorted((p for p in self._folder.glob("*") if _NAME.fullmatch(p.name)), key=_number)

    def _prune(self) -> None:
        """Removes what is older than the newest `keep` that are not known to be damaged."""
        there = self._paths()
        good = [path for path in there if path not in self._refused][-self._keep :]
        for path in there[: there.index(good[0])]:
            remove(path)


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])
