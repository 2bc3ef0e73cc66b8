"""The pipeline as a measuring device: the null where nothing can be known, and more where it is."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from audits import record_audit, trial
from audits.bounds import default_guesses, steinke
from audits.declaration import Refused, by_id
from audits.planted import Planted
from audits.tasks import Task
from audits.tasks.digits import load
from audits.trial import Outcome
from canaries import manifest
from dpclip.arms import arms_of
from dpclip.cli.cells import privatizer
from dpclip.cli.manifests import safe
from dpclip.cli.tasks import plant, task_of
from dpclip.measure import gradient_norms

SEEDS = range(3)


def setting(**changes: Any) -> trial.Setting:
    return trial.Setting(**{"seed": 0, "lr": 0.2, "epochs": 10, "delta": 1e-5} | changes)


def privatize(grouping: str = "none", weighting: str = "clip:1", noise: str = "0") -> Any:
    return privatizer(arms_of(grouping, weighting, noise)[0][0], "prv")


@pytest.fixture(scope="module")
def outcomes(digits: Task, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """Unclipped training on ten canaries per tier and family, with several seeds."""
    torch.set_num_threads(1)
    return [
        record_audit.audit(
            digits,
            plant(digits, 10, s),
            setting(seed=s),
            privatize(),
            gradient_norms,
            safe(tmp_path_factory.mktemp(f"seed{s}"), "records"),
        )
        for s in SEEDS
    ]


def column(outcomes: list[Outcome], name: str, **where: Any) -> NDArray[np.float64]:
    rows = [row for outcome in outcomes for row in outcome.canaries]
    return np.array(
        [r[name] for r in rows if all(r[k] == v for k, v in where.items())], dtype=float
    )


def spread(canaries: int, references: int = 500) -> float:
    """Standard deviation of the null's mean; canaries of a run share their references."""
    return 1.4427 * math.sqrt(1 / canaries + 1 / (2 * len(SEEDS) * references))


def test_before_training_every_canary_is_at_the_null(outcomes: list[Outcome]) -> None:
    before = column(outcomes, "before")
    assert len(before) == 300
    assert before.mean() == pytest.approx(outcomes[0].row["exp_null"], abs=3 * spread(300))
    assert outcomes[0].row["exp_null"] == pytest.approx(1.4427, abs=0.02)


def test_held_out_canaries_stay_at_the_null(outcomes: list[Outcome]) -> None:
    out = column(outcomes, "exposure", inserted=False)
    assert len(out) > 100
    assert out.mean() == pytest.approx(1.4427, abs=3 * spread(len(out)))


def test_canaries_inserted_sixteen_times_are_remembered(outcomes: list[Outcome]) -> None:
    often = column(outcomes, "exposure", inserted=True, repetitions=16)
    assert often.mean() > 1.4427 + 5 * spread(len(often))
    assert often.mean() > column(outcomes, "exposure", inserted=True, repetitions=1).mean() + 1


def test_the_row_is_what_the_canaries_say(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        for tier in record_audit.TIERS:
            values = column([outcome], "exposure", inserted=True, repetitions=tier)
            assert outcome.row[f"exp_{tier}"] == pytest.approx(values.mean())
        row = outcome.row
        assert row["exposure"] == row["exp_1"]
        assert row["exp_low"] <= row["exposure"] <= row["exp_high"]  # type: ignore[operator]
        assert row["n_in"] + row["n_out"] == 100  # type: ignore[operator]
        assert row["exp_ceiling"] == pytest.approx(math.log2(501))
        assert 0.85 < row["acc"] < 1  # type: ignore[operator]
        assert row["verdict"] == "not-claimed"


def test_series_have_growing_steps(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        for points in outcome.series.values():
            steps = [step for step, _ in points]
            assert steps == sorted(set(steps))
            assert steps[0] >= 1
        losses = [value for _, value in outcome.series["train/loss"]]
        assert len(losses) == 10
        assert losses[-1] < losses[0]
        assert outcome.series["train/loss"][-1][0] == outcome.row["steps"]


def test_canaries_reach_the_training_data_only(digits: Task) -> None:
    planted = plant(digits, 10, seed=0)
    untouched = load()
    for part in ("train", "validation", "test"):
        for mine, theirs in zip(
            getattr(digits, part).tensors, getattr(untouched, part).tensors, strict=True
        ):
            assert torch.equal(mine, theirs)
    held = {
        image.numpy().tobytes() for part in (digits.validation, digits.test) for image, _ in part
    }  # type: ignore[attr-defined]
    assert not held & {image.numpy().tobytes() for image, _ in planted.train}


def pointed(data: list[float], held_out: list[float]) -> tuple[Task, Planted]:
    """A linear task, in which a record's gradient norm is the number in it."""

    def losses(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0])[:, 0]

    def records(values: list[float]) -> TensorDataset:
        return TensorDataset(torch.tensor(values)[:, None])

    base = task_of(
        {"task": "digits", "families": None, "batch_size": None, "epochs": 1, "references": 1}
    )
    task = dataclasses.replace(base, train=records(data), losses=losses)
    n = len(held_out)
    planted = Planted(
        train=records(data),
        ids=[f"a/{i}" for i in range(n + 1)],
        families=np.array(["a"] * (n + 1)),
        repetitions=np.ones(n + 1, dtype=np.int64),
        inserted=np.arange(n + 1) == 0,
        records=[records([1e9])[0], *(record for record in records(held_out))],
        references={"a": []},
        budget=0.0,
        manifest="",
    )
    return task, planted


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        ([100.0, 200.0], 100.0),
        ([0.1, 0.2], 0.0),
        ([2.5], 50.0),
        ([0.1, 2.5, 100.0], 50.0),
        ([2.0], 37.5),  # in the middle of its own tie
        ([], math.nan),
    ],
)
def test_norm_percentile_of_held_out_canaries(held_out: list[float], expected: float) -> None:
    task, planted = pointed([1.0, 2.0, 3.0, 4.0], held_out)
    model = nn.Linear(1, 1, bias=False)
    found = record_audit.norm_percentile(task, model, planted, gradient_norms)
    assert found == pytest.approx(expected, nan_ok=True)


def test_norm_percentile_looks_at_all_families() -> None:
    """With more canaries than are looked at, the first are all of one family."""
    task, planted = pointed([1.0, 2.0], [0.1] * 300 + [100.0] * 900)
    found = record_audit.norm_percentile(task, nn.Linear(1, 1, bias=False), planted, gradient_norms)
    assert found == 100.0


def test_norms_of_records_cut_by_length_are_those_of_each_alone() -> None:
    """The twin takes the gradient of one unpadded record at a time."""
    drawn = torch.Generator().manual_seed(0)
    many = torch.randint(1, 40, (90,), generator=drawn).tolist()
    data = [torch.randn(n, 1, generator=drawn) for n in many]
    fresh = [torch.randn(n, 1, generator=drawn) for n in many[:30]]
    seen: list[tuple[int, int]] = []

    def collate(records: list[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(records, batch_first=True)

    def losses(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch)[..., 0] * batch[..., 0]).sum(1)

    def norms(model: nn.Module, losses: Any, batch: Tensor) -> Tensor:
        seen.append((batch.shape[0], batch.shape[1]))
        return gradient_norms(model, losses, batch)

    task, planted = pointed([1.0], [1.0])
    task = dataclasses.replace(
        task, train=data, losses=losses, collate=collate, length=len, physical_size=100
    )
    planted = dataclasses.replace(
        planted,
        ids=[f"a/{i}" for i in range(30)],
        inserted=np.zeros(30, dtype=np.bool_),
        repetitions=np.ones(30, dtype=np.int64),
        families=np.array(["a"] * 30),
        records=fresh,
    )
    model = nn.Linear(1, 1, bias=False)
    found = record_audit.norm_percentile(task, model, planted, norms)
    theirs, mine = ([float((record**2).sum()) for record in part] for part in (data, fresh))
    below = [100 * np.mean([other < own for other in theirs]) for own in mine]
    assert found == pytest.approx(np.median(below))
    assert max(rows * longest for rows, longest in seen) <= 100
    whole = dataclasses.replace(task, length=None)
    assert record_audit.norm_percentile(whole, model, planted, norms) == pytest.approx(found)


def bits_of(bits: Any) -> NDArray[np.float64]:
    return np.asarray(bits, dtype=np.float64)


def coins(inserted: Any, repetitions: Any = 1) -> Planted:
    n = len(inserted)
    _, panel = pointed([1.0], [0.0] * (n - 1))
    return dataclasses.replace(
        panel,
        inserted=np.array(inserted, dtype=bool),
        repetitions=np.broadcast_to(np.asarray(repetitions, dtype=np.int64), n),
    )


def lower_bound(bits: NDArray[np.float64], panel: Planted, delta: float, alpha: float) -> float:
    declared = record_audit.declare(panel, setting(delta=delta, alpha=alpha))
    return record_audit.judge(declared, by_id(panel.ids, bits)).bound.epsilon


@pytest.mark.parametrize("n", [2, 3, 10, 99, 1000])
def test_a_perfect_attack_reaches_the_ceiling_of_its_guesses(n: int) -> None:
    inserted = np.arange(n) % 2 == 1
    guesses = 2 * max(1, default_guesses(n) // 2)
    best = steinke(canaries=n, guesses=guesses, correct=guesses, delta=1e-5, alpha=0.05)
    found = lower_bound(bits_of(inserted + np.arange(n) / n / 2), coins(inserted), 1e-5, 0.05)
    assert found == pytest.approx(best.epsilon)
    assert lower_bound(bits_of(~inserted), coins(inserted), 1e-5, 0.05) == 0.0


def test_one_wrong_guess_counts() -> None:
    inserted = np.arange(100) >= 50
    bits = np.arange(100.0)
    half = default_guesses(100) // 2
    right = 2 * half
    found = [lower_bound(bits_of(bits), coins(inserted), 1e-5, 0.05)]
    for wrong in (0, 99):  # the lowest and the highest are certainly guessed
        flipped = inserted.copy()
        flipped[wrong] = ~flipped[wrong]
        right -= 1
        inserted = flipped
        bound = steinke(canaries=100, guesses=2 * half, correct=right, delta=1e-5, alpha=0.05)
        found.append(lower_bound(bits_of(bits), coins(inserted), 1e-5, 0.05))
        assert found[-1] == pytest.approx(bound.epsilon)
    assert found[0] > found[1] > found[2]


def test_only_canaries_that_appear_at_most_once_are_guessed() -> None:
    inserted = np.arange(20) % 2 == 1
    perfect = bits_of(inserted.astype(float))
    with pytest.raises(ValueError, match="There are 0 canaries of repetition 1"):
        lower_bound(perfect, coins(inserted, 2), 1e-5, 0.05)
    half = np.where(np.arange(20) < 10, 1, 16)
    fewer = lower_bound(perfect, coins(inserted, half), 1e-5, 0.05)
    assert fewer == pytest.approx(
        lower_bound(bits_of(inserted[:10].astype(float)), coins(inserted[:10]), 1e-5, 0.05)
    )
    with pytest.raises(ValueError, match="There are 1 canaries of repetition 1"):
        lower_bound(bits_of([1.0]), coins([1]), 1e-5, 0.05)


def test_coins_that_nothing_leans_on_rarely_give_a_bound() -> None:
    """The level holds whatever the scores, ties included."""
    rng = np.random.default_rng(0)
    fired = 0
    for turn in range(200):
        bits = rng.normal(size=100) if turn % 2 else np.zeros(100)
        fired += lower_bound(bits_of(bits), coins(rng.integers(0, 2, 100)), 1e-5, 0.05) > 0
    assert fired <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05)


# ---- what was declared before training -----------------------------------------------------


def small(digits: Task) -> Task:
    few = dataclasses.replace(digits.families["noise"], references=20)
    return dataclasses.replace(digits, families={"noise": few})


def run_small(task: Task, folder: Path, way: Any = None, **changes: Any) -> Outcome:
    return record_audit.audit(
        task,
        plant(task, 4, 0),
        setting(epochs=1, **changes),
        way or privatize(),
        gradient_norms,
        safe(folder, "records"),
    )


def test_the_declaration_is_there_before_training_and_its_hash_in_the_row(
    digits: Task, tmp_path: Path
) -> None:
    task, seen = small(digits), []

    def model(seed: int) -> nn.Module:
        seen.append((tmp_path / "records.json").exists())
        return digits.model(seed)

    outcome = run_small(dataclasses.replace(task, model=model), tmp_path)
    assert seen
    assert all(seen)
    stored = json.loads((tmp_path / "records.json").read_text())
    assert outcome.row["manifest"] == stored["hash"]
    declared = stored["manifest"]
    assert (declared["attack"], declared["sign"], declared["guesses"]) == ("exposure", 1, 2)
    assert declared["panel"] == plant(task, 4, 0).manifest
    assert declared["coins"] == plant(task, 4, 0).inserted.tolist()


def test_a_declaration_that_was_edited_after_training_began_gives_no_number(
    digits: Task, tmp_path: Path
) -> None:
    def meddles(model: Any, optimizer: Any, loader: Any, seed: int) -> trial.Private:
        path = tmp_path / "records.json"
        path.write_text(path.read_text().replace('"guesses": 2', '"guesses": 4'))
        return privatize()(model, optimizer, loader, seed)

    with pytest.raises(ValueError, match="was changed after it was written"):
        run_small(small(digits), tmp_path, meddles)


def test_a_declaration_exchanged_for_one_with_a_hash_of_its_own_gives_no_number(
    digits: Task, tmp_path: Path
) -> None:
    def exchanges(model: Any, optimizer: Any, loader: Any, seed: int) -> trial.Private:
        path = tmp_path / "records.json"
        declared = json.loads(path.read_text())["manifest"]
        path.unlink()
        manifest.write(path, declared | {"alpha": 0.5})
        return privatize()(model, optimizer, loader, seed)

    with pytest.raises(Refused, match="exchanged after training began"):
        run_small(small(digits), tmp_path, exchanges)


def test_another_declaration_cannot_take_its_place(digits: Task, tmp_path: Path) -> None:
    task = small(digits)
    run_small(task, tmp_path)
    run_small(task, tmp_path)  # the same one may be declared again, as a resumed run does
    with pytest.raises(FileExistsError, match="already declares"):
        run_small(task, tmp_path, alpha=0.01)


def test_scores_of_another_panel_give_no_number(digits: Task, tmp_path: Path) -> None:
    task = small(digits)
    declared = record_audit.declare(plant(task, 4, 0), setting())
    other = plant(task, 5, 0)
    with pytest.raises(Refused, match="belong to no canary that was declared"):
        record_audit.judged(declared, by_id(other.ids, np.zeros(len(other.ids))), math.inf)


@pytest.mark.parametrize("broken", [math.nan, None])
def test_a_model_without_numbers_gives_none(digits: Task, broken: float | None) -> None:
    panel = plant(small(digits), 4, 0)
    declared = record_audit.declare(panel, setting())
    scores = by_id(panel.ids, np.arange(float(len(panel.ids))))
    name = panel.ids[3]
    if broken is None:
        del scores[name]
    else:
        scores[name] = broken
    with pytest.raises(Refused, match=name):
        record_audit.judged(declared, scores, math.inf)


def test_the_row_says_what_chance_would_make_of_the_scores(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        row = outcome.row
        assert (row["eps_lb_by"], row["n_tests"]) == ("records", 1)
        assert 0 < row["coin_p"] <= 1  # type: ignore[operator]
        assert row["coin_fired"] <= 0.05  # type: ignore[operator]
        assert row["eps_lb"] <= row["eps_lb_ceiling"]  # type: ignore[operator]
        assert row["before_p"] > 1e-3  # type: ignore[operator]
        assert row["auc_low"] <= row["auc"] <= row["auc_high"]  # type: ignore[operator]
        assert abs(row["auc_before"] - 0.5) < 0.45  # type: ignore[operator]
