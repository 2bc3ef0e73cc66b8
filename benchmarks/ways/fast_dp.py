"""FastDP (arXiv 2210.00038): samples clipped one by one, in one backward pass.

It is not on PyPI. To measure it, install it from its repository beside dpclip:

    git clone https://github.com/awslabs/fast-differential-privacy
    pip install transformers ./fast-differential-privacy

Without it, tables say so in a footnote.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module

from benchmarks.ways.sharing import single
from benchmarks.ways.way import Setup, Step, Way, usual_step


def fastdp() -> Way:
    """Returns its `PrivacyEngine` with `clipping_mode="MixOpt"`, its default."""

    def build(setup: Setup) -> Step:
        model, optimizer = setup.model, setup.optimizer()
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it is going to do
            private = import_module("fastDP").PrivacyEngine(
                model,
                batch_size=setup.batch.samples,
                sample_size=setup.batch.samples,
                epochs=1,
                noise_multiplier=0.0,
                max_grad_norm=setup.bound,
                clipping_fn="Abadi",
                clipping_mode="MixOpt",
            )
            private.attach(optimizer)
        return usual_step(model, setup, optimizer)

    return Way("FastDP", single(), build)
