"""What each rank runs: `torchrun --nproc-per-node N -m tests.dpclip.ranks.job FOLDER`."""

from __future__ import annotations

import json
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from dpclip.wrapped import unwrapped
from tests.dpclip.ranks.runs import RUNS, leave, train


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*supports no epsilon.*")
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    for run in RUNS:
        around = DistributedDataParallel if run.wrapped else (lambda m: m)
        model, engine = train(run, None, around)
        inner = unwrapped(model)
        save_file(inner.state_dict(), folder / f"{run.name}.{rank}.safetensors")
        said = {
            "epsilon": engine.get_epsilon(1e-5),
            "guarantee": engine.guarantee,
            "norms": engine.diagnostics().norms.tolist(),
            "steps": engine.steps,
        }
        (folder / f"{run.name}.{rank}.json").write_text(json.dumps(said))
        engine.close()
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
