"""Errors of a speech model that saw no canaries, by the speed of what it hears.

    python -m benchmarks.speech_speed --data /path/to/fsdd --epochs 12 --seeds 3

A cell is the mean character error rate of held-out canaries of one speed with Student's 95 %
interval over seeds. Where it is low, a right transcript tells nothing of memory.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from audits import trial
from audits.tasks import Task
from audits.tasks.speech import record_errors
from canaries import stream
from dpclip.arms import arms_of
from dpclip.cli.cells import privatizer
from dpclip.cli.speech import speech_task
from reports.intervals import over_seeds


def main(words: list[str] | None = None) -> None:
    """Prints a Markdown table.

    Args:
        words: of the command line; the process' own by default.
    """
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--data", default=None)
    made.add_argument("--limit", type=int, default=None)
    made.add_argument("--epochs", type=int, default=8)
    made.add_argument("--lr", type=float, default=4e-3)
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--speeds", default="1,1.5,2,3,4")
    made.add_argument("--records", type=int, default=500, help="of each speed")
    given = made.parse_args(words)
    torch.set_num_threads(1)
    task = speech_task(
        {"task": "speech", "data": given.data, "limit": given.limit, "references": 1}
        | {"speeds": given.speeds, "words": 5, "recordings": None, "bad": "refuse"}
    )
    runs = [_errors(task, given, seed) for seed in tqdm(range(given.seeds), disable=None)]
    line = {name: str(over_seeds([run[name] for run in runs])) for name in runs[0]}
    print(tabulate([line.values()], list(line), tablefmt="github", disable_numparse=True))


def _errors(task: Task, given: argparse.Namespace, seed: int) -> dict[str, float]:
    """Returns the error rates on test records and on each speed after one plain training."""
    setting = trial.Setting(seed, given.lr, given.epochs, 1e-5)
    plain = arms_of("none", "min", "0")[0][0]
    model = trial.train(task, task.train, setting, privatizer(plain, "prv", task)).model
    assert model is not None
    measured = task.measured(model, task.test)
    found = {"test WER": measured["wer"], "test CER": measured["cer"]}
    for name, family in task.families.items():
        records = family.draw(given.records, stream(seed, f"speeds/{name}"))
        found[name] = float(np.mean(record_errors(model, records)))
    return found


if __name__ == "__main__":
    main()
