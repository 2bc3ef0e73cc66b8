"""Opacus 1.6: samples clipped one by one, by gradients per sample or by their norms alone.

The model is what Opacus' own `ModuleValidator.fix` makes of it: it replaces recurrent layers and
multi-head attention by slower ones that its hooks can see into.
"""

from __future__ import annotations

from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor

from benchmarks.models import Batch
from benchmarks.ways.sharing import single
from benchmarks.ways.way import Setup, Step, Way, usual_step


def hooks(functorch: bool = False) -> Way:
    """Returns `GradSampleModule` and `DPOptimizer`: gradients per sample, kept until the step.

    Args:
        functorch: vmap for every layer, rather than Opacus' rules where it has one.
    """

    def build(setup: Setup) -> Step:
        model = GradSampleModule(ModuleValidator.fix(setup.model), force_functorch=functorch)
        optimizer = DPOptimizer(
            setup.optimizer(model),
            noise_multiplier=0.0,
            max_grad_norm=setup.bound,
            expected_batch_size=setup.batch.samples,
        )
        return usual_step(model, setup, optimizer)

    return Way("Opacus functorch" if functorch else "Opacus hooks", single(), build)


def two_passes(ghost: bool) -> Way:
    """Returns fast gradient clipping: a backward for the norms, and one for the weighted loss.

    Args:
        ghost: norms of linear and embedding layers without the gradients ("ghost clipping").
    """

    def build(setup: Setup) -> Step:
        model = GradSampleModuleFastGradientClipping(
            ModuleValidator.fix(setup.model),
            max_grad_norm=setup.bound,
            use_ghost_clipping=ghost,
        )
        optimizer = DPOptimizerFastGradientClipping(
            setup.optimizer(model),
            noise_multiplier=0.0,
            max_grad_norm=setup.bound,
            expected_batch_size=setup.batch.samples,
        )

        def criterion(output: Tensor, y: Tensor) -> Tensor:
            return setup.losses(output, y)

        loss_of = DPLossFastGradientClipping(model, optimizer, criterion)

        def run(batch: Batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model(batch.x), batch.y)
            loss.backward()
            optimizer.step()
            mean: Tensor = loss.detach()
            return mean

        return Step(model, run)

    return Way("Opacus ghost" if ghost else "Opacus two passes", single(), build)
