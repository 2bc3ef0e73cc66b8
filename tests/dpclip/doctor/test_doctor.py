"""What a look at hooks, parameters, noise and ranks finds, and what it makes of epsilon."""

from __future__ import annotations

import copy
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from dpclip import PrivacyEngine, gaussian
from dpclip.doctor import Report, examine
from dpclip.doctor.first_step import first_step, noise_seen
from dpclip.types import Noise
from dpclip.witness import Added, Witness
from tests.dpclip.ranks.runs import leave

ROOT = Path(__file__).parents[3]
LOOP = pytest.mark.parametrize("loop", [False, True])


class Run:
    """A model made private, and what it takes to train it and to look at it."""

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        loop: bool = False,
        sigma: float = 1.0,
        lr: float = 0.1,
        noise: Noise | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.model = model or nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5))
        self.engine = PrivacyEngine(seed=1, measure=False, loop=loop)
        data = TensorDataset(torch.randn(40, 6), torch.randint(5, (40,)))
        self.source: DataLoader[Any] = DataLoader(data, batch_size=8)
        _, self.optimizer, self.loader = self.engine.make_private(
            module=self.model,
            optimizer=torch.optim.SGD(self.model.parameters(), lr=lr),
            data_loader=self.source,
            noise_multiplier=sigma,
            max_grad_norm=1.0,
            noise=noise or gaussian(),
        )
        self.batches = itertools.chain.from_iterable(itertools.repeat(self.loader))

    def loss(self, batch: Any, model: nn.Module | None = None) -> Tensor:
        return F.cross_entropy((model or self.model)(batch[0]), batch[1])

    def train(self, steps: int = 1, model: nn.Module | None = None, optimizer: Any = None) -> Run:
        optimizer = optimizer or self.optimizer
        for batch in itertools.islice(self.batches, steps):
            optimizer.zero_grad()
            self.loss(batch, model).backward()
            optimizer.step()
        return self

    def doctor(self, **how: Any) -> Report:
        return examine(self.engine._engine, self.source, **how)

    @property
    def epsilon(self) -> float:
        return self.engine.get_epsilon(1e-5)


def assert_void(run: Run, words: str, **how: Any) -> Report:
    assert run.epsilon < math.inf
    report = run.doctor(**how)
    assert not report.sound and run.epsilon == math.inf
    assert words in run.engine.guarantee
    assert words in next(finding.text for finding in report.findings if finding.voids)
    assert str(report).startswith(f"After {run.engine.steps} steps: the claim is void.\n  VOID")
    return report


def assert_void_already(run: Run, words: str) -> None:
    """What others have found is said, too."""
    assert run.epsilon == math.inf and words in run.engine.guarantee
    report = run.doctor()
    assert not report.sound and any(f.voids and words in f.text for f in report.findings)


def assert_remarked(run: Run, *words: str, **how: Any) -> Report:
    report = run.doctor(**how)
    assert report.sound and run.epsilon < math.inf
    notes = [finding.text for finding in report.findings]
    assert all(any(word in note for note in notes) for word in words), str(report)
    return report


# ---- nothing is wrong --------------------------------------------------------------------------


@LOOP
def test_a_sound_run(loop):
    run = Run(loop=loop).train(3)
    report = run.doctor(loss=run.loss)
    assert report.sound and report.findings == () and report.steps == 3
    assert report.noise.coordinates == 89 and report.noise.low < 1 < report.noise.high
    first, noise, rows = str(report).splitlines()
    assert first == "After 3 steps: nothing that voids the claim was found."
    assert noise.startswith(f"  noise  {report.noise.ratio:.4f} of the declared std 0.125, over 89")
    assert rows.startswith("  rows   4 records alone and in one batch differ by ")
    assert 0 < run.epsilon < math.inf


def test_without_a_loss_it_says_what_was_not_checked():
    report = assert_remarked(Run().train(), "local rows were not checked: no loss was given")
    assert report.rows is None


@LOOP
def test_before_the_first_step(loop):
    run = Run(loop=loop)
    with pytest.raises(RuntimeError, match="take one step first"):
        run.doctor()
    run.train(2, optimizer=torch.optim.SGD(run.model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="an optimizer built afterwards, or a copy of the model"):
        run.doctor()


def test_a_copy_with_hooks_is_not_trained():
    run = Run()
    other = copy.deepcopy(run.model)
    with pytest.raises(RuntimeError, match="A copy of a private model"):
        run.train(2, other, torch.optim.SGD(other.parameters(), lr=0.1))


def test_a_copy_of_the_model():
    run = Run(loop=True)
    other = copy.deepcopy(run.model)
    run.train(2, other, torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="or a copy of the model"):
        run.doctor()


def test_a_copy_that_trains_on():
    """The engine itself sees that no step follows on its gradients."""
    run = Run(loop=True).train()
    other = copy.deepcopy(run.model)
    run.train(2, other, torch.optim.SGD(other.parameters(), lr=0.1))
    assert_void_already(run, "a second batch was drawn")


def test_numbers_that_make_no_sense():
    run = Run().train()
    with pytest.raises(ValueError, match="records=1: expected at least 2"):
        run.doctor(loss=run.loss, records=1)
    with pytest.raises(ValueError, match=r"loss returned shape \(4, 5\)"):
        run.doctor(loss=lambda batch: run.model(batch[0]))
    with pytest.raises(ValueError, match="loss returned <class 'float'>"):
        run.doctor(loss=lambda batch: float(run.loss(batch).detach()))
    with pytest.raises(RuntimeError, match="12 samples in a batch of 4 records"):
        run.doctor(loss=lambda b: run.loss((b[0].repeat(3, 1), b[1].repeat(3)), None))


def test_what_voids_the_claim_anyway_is_said_too():
    assert_void_already(Run(sigma=0.0).train(), "no noise was added")


# ---- hooks and objects -------------------------------------------------------------------------


@LOOP
def test_a_layer_that_was_replaced(loop):
    run = Run(loop=loop).train()
    run.model[2] = nn.Linear(7, 5)
    report = assert_void(run, "so that nothing clips them: 2.weight, 2.bias;", loss=run.loss)
    assert "no longer in the model: 2.weight, 2.bias" in str(report)
    assert report.rows is None and "mend what voids the claim first" in str(report)


@LOOP
def test_a_parameter_that_was_replaced(loop):
    run = Run(loop=loop).train()
    run.model[2].weight = nn.Parameter(torch.randn(5, 7))
    assert_void(run, "so that nothing clips them: 2.weight;")


@LOOP
def test_a_layer_that_came_late(loop):
    run = Run(loop=loop).train()
    run.model.append(nn.Linear(5, 5))
    assert_void(run, "so that nothing clips them: 3.weight, 3.bias;")


def test_a_frozen_layer_that_came_late_trains_nothing():
    run = Run().train()
    run.model.append(nn.Linear(5, 5).requires_grad_(False))
    assert run.doctor().sound


def test_other_objects_after_a_conversion():
    run = Run().train()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    run.model.float()
    torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert_void(run, "0.weight, 0.bias, 2.weight and 1 more")


def test_the_same_objects_after_a_conversion():
    run = Run().train()
    run.model.float()
    assert_remarked(run, "of another precision or device than in the first step: 0.weight")


def test_a_parameter_frozen_late():
    run = Run().train()
    run.model[0].bias.requires_grad_(False)
    assert_remarked(run, "the next step raises: 0.bias;")


def test_an_optimizer_in_the_place_of_the_other():
    run = Run().train()
    run.optimizer = torch.optim.Adam(run.model.parameters())
    assert_void(run, "the optimizer that make_private returned is gone")


def test_a_second_optimizer_beside_the_other():
    """The engine itself sees the next batch come without a step."""
    run = Run().train()
    run.train(2, optimizer=torch.optim.Adam(run.model.parameters()))
    assert_void_already(run, "a second batch was drawn")


def test_noise_hook_removed():
    run = Run().train()
    run.optimizer._optimizer_step_pre_hooks.clear()
    assert_void(run, "the hook that adds noise was removed")


def test_hooks_of_layers_removed():
    run = Run().train()
    run.model[0]._forward_hooks.clear()
    assert_void(run, "capture gradients were removed from the model (1)")


@LOOP
def test_hooks_of_parameters_removed(loop):
    run = Run(loop=loop).train()
    run.model[0].weight._backward_hooks.clear()
    assert_void(run, "capture gradients were removed from the model (1)")


def test_the_loop_removed():
    run = Run(loop=True).train()
    del run.model.forward
    assert_void(run, "capture gradients were removed from the model (1)")


def test_hooks_switched_off():
    run = Run().train()
    run.engine._engine.hooks.disable_hooks()
    assert_void(run, "the hooks that capture gradients were switched off")


# ---- the first step ----------------------------------------------------------------------------


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.not_used = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@LOOP
def test_a_layer_without_a_gradient_gets_noise_and_voids_nothing(loop):
    run = Run(Unused(), loop=loop).train()
    assert_remarked(run, "so moved by noise alone: not_used.weight, not_used.bias", loss=run.loss)


@LOOP
def test_a_layer_without_a_gradient_or_noise(loop):
    report = Run(Unused(), loop=loop, sigma=0.0).train().doctor()
    notes = [finding.text for finding in report.findings if not finding.voids]
    assert any("so not moved: not_used.weight, not_used.bias" in note for note in notes)
    assert not any("as before the first step" in note for note in notes)


def test_a_learning_rate_of_zero():
    run = Run(lr=0.0).train()
    assert_remarked(run, "as before the first step: 0.weight, 0.bias, 2.weight and 1 more;")


def test_noise_alone_should_have_moved_what_is_not_used():
    run = Run(Unused(), lr=0.0).train()
    assert_remarked(run, "as before the first step: used.weight, used.bias, not_used.weight and 1")


def test_one_parameter_that_did_not_move():
    run = Run()
    bias = run.model[0].bias.detach().clone()
    run.train()
    with torch.no_grad():
        run.model[0].bias.copy_(bias)
    assert_remarked(run, "as before the first step: 0.bias;")


def test_a_run_that_goes_on_from_a_checkpoint():
    state = Run().train(3).engine.state_dict()
    run = Run()
    run.engine.load_state_dict(state)
    assert_remarked(run, "the first step was taken before this engine's state was loaded")


def off_by(factor: float, only: int | None = None) -> Noise:
    """Normal noise with another std, on every gradient or on those of one number of dimensions."""

    def sample(like: Tensor, std: float, stream: Any) -> Tensor:
        wrong = only is None or like.dim() == only
        return stream.normal(like, std * factor if wrong else std)

    return Noise("off", sample)


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_noise_of_the_wrong_size(factor):
    """Of 30,005 numbers, the std is told to 2 %."""
    run = Run(nn.Sequential(nn.Linear(6, 5000), nn.Linear(5000, 5)), noise=off_by(factor)).train()
    report = assert_void(run, "the noise of the first step is not as declared")
    assert report.noise.ratio == pytest.approx(factor, abs=0.02)


def test_noise_of_the_right_size():
    run = Run(nn.Sequential(nn.Linear(6, 5000), nn.Linear(5000, 5))).train()
    report = assert_remarked(run)
    assert report.noise.low > 0.98 and report.noise.high < 1.02


@pytest.mark.parametrize("factor", [0.0, 10.0])
def test_noise_of_the_wrong_size_on_one_parameter(factor):
    """The biases are 505 of 6,005 numbers."""
    run = Run(nn.Sequential(nn.Linear(6, 500), nn.Linear(500, 5)), noise=off_by(factor, 1)).train()
    assert_void(run, "not as declared on 0.bias, 1.bias (measured over all: ")


def test_noise_that_is_a_little_off_everywhere():
    """1.14 of the std shows on 10,000 numbers, and on no hundred of them."""
    names = [str(i) for i in range(100)]
    witness = Witness({name: nn.Parameter(torch.zeros(100)) for name in names})
    witness.std, witness.added = 1.0, [Added(130.0, 100)] * 100
    texts = [finding.text for finding in first_step(witness) if finding.voids]
    assert texts == [
        "the noise of the first step is not as declared (measured over all: 1.1402 of the declared "
        "std, where 0.9661 to 1.0343 is expected)"
    ]


def test_noise_that_never_came():
    run = Run().train()
    run.engine._engine.witness.added.pop()
    assert_void(run, "noise was added to 84 of 89 numbers")


def test_the_limits_are_those_of_chi_square():
    """Two in a million: of 1 number between 1e-6 and 4.9 std, of many 4.9 / sqrt(2 n) off."""
    for n, low, high in ((1, 1.3e-6, 4.9), (10**4, 1 - 0.0340, 1 + 0.0342)):
        witness = Witness({})
        witness.std, witness.added = 2.0, [Added(float(n), n)]
        seen = noise_seen(witness)
        assert seen.ratio == 1 and seen.coordinates == n and seen.std == 2
        assert seen.low == pytest.approx(low, rel=0.05 if n == 1 else 1e-3)
        assert seen.high == pytest.approx(high, rel=0.01 if n == 1 else 1e-3)


def test_a_witness_tells_what_has_moved():
    params = {name: nn.Parameter(torch.zeros(3)) for name in ("still", "moved", "converted", "cut")}
    witness = Witness(params)
    witness.begin(0.5)
    params["moved"].data[0] = 1
    params["converted"].data = params["converted"].data.float()
    params["cut"].data = params["cut"].data[:2]
    witness.reach([*params.values()][:3])
    assert not witness.complete
    witness.reach([params["cut"]])
    assert witness.complete
    assert witness.unmoved() == ["still", "converted"] and witness.converted() == ["converted"]
    witness.noise(torch.full((4,), 1.0))
    witness.noise(torch.full((2,), 0.5))
    assert (witness.squares, witness.coordinates) == (18.0, 6)


# ---- ranks -------------------------------------------------------------------------------------


@pytest.mark.dist
@pytest.mark.slow
def test_over_ranks_and_wrapped():
    """Two ranks, DistributedDataParallel; then one rank's parameters are moved a little."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", "-m", "tests.dpclip.doctor.test_doctor"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("nothing that voids the claim was found") == 2
    assert done.stdout.count("4 records alone and in one batch differ by") == 2
    assert done.stdout.count("something beside the steps has moved the parameters") == 2
    assert done.stdout.count("epsilon inf") == 2


def main() -> None:
    """What each rank does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5))
    run = Run(DistributedDataParallel(model)).train(3)
    print(run.doctor(loss=run.loss), flush=True)
    run.train()
    if dist.get_rank() == 1:
        with torch.no_grad():
            model[0].weight[0, 0] += 1e-4
    print(run.doctor(), f"\nepsilon {run.epsilon}", flush=True)
    leave()


if __name__ == "__main__":
    main()
