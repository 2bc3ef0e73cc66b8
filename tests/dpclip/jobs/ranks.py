"""One of two ranks: `python -m tests.dpclip.jobs.ranks FOLDER RANK stop|go-on`.

"stop" trains once, then in another folder until it is killed after a step that was not saved;
"go-on" resumes that one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.dpclip.jobs.training import Built, Job, train
from tests.dpclip.ranks.runs import leave

JOB = Job(epochs=1, every=3)


def own_dropout(made: Built) -> None:
    """Each rank draws its own; the first step is taken with the same."""
    if made.engine.steps == 1:
        torch.manual_seed(10 + dist.get_rank())


def killed(made: Built) -> None:
    if made.engine.steps == 8:
        os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, rank: int, what: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / f'meeting-{what}'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    if what == "stop":
        once = train(JOB, folder / "once", own_dropout)
        (folder / f"once-{rank}.json").write_text(json.dumps(once))
        train(JOB, folder / "killed", own_dropout, killed)
    found = train(JOB, folder / "killed", own_dropout)
    (folder / f"killed-{rank}.json").write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
