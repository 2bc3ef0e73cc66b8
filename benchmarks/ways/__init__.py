"""Every way to take a clipped training step, by name."""

from __future__ import annotations

from benchmarks.ways.dpclip_engine import Plan, engine, grad_queue, paced
from benchmarks.ways.fast_dp import fastdp
from benchmarks.ways.group_loop import loop
from benchmarks.ways.opacus_wrappers import hooks, two_passes
from benchmarks.ways.plain_step import plain
from benchmarks.ways.refusal import Refusal, attempt
from benchmarks.ways.sharing import Sharing, cores, groups_of, single, whole
from benchmarks.ways.started import Reference, Started, reference, start
from benchmarks.ways.way import Setup, Step, Way

__all__ = [
    "PLAIN",
    "SHARINGS",
    "Plan",
    "Reference",
    "Refusal",
    "Setup",
    "Sharing",
    "Started",
    "Step",
    "Way",
    "attempt",
    "engine",
    "loop",
    "reference",
    "start",
    "ways",
]

PLAIN = "plain"

SHARINGS: dict[str, Sharing] = {
    "1": single(),
    "4": groups_of(4),
    "16": groups_of(16),
    "B": whole(),
    "2-cores": cores(2),
    "8-cores": cores(8),
}


def ways(plan: Plan) -> dict[str, Way]:
    """Returns name -> way.

    Args:
        plan: of dpclip; the others have none.
    """
    return {
        PLAIN: plain(),
        **{f"dpclip-{name}": engine(it, plan) for name, it in SHARINGS.items()},
        "paced-1": paced(single(), plan),
        **{f"queue-{k}": grad_queue(k, plan) for k in (1, 4, 8)},
        **{f"loop-{name}": loop(it) for name, it in SHARINGS.items()},
        "opacus-hooks": hooks(),
        "opacus-functorch": hooks(functorch=True),
        "opacus-ghost": two_passes(ghost=True),
        "opacus-two-passes": two_passes(ghost=False),
        "fastdp": fastdp(),
    }
