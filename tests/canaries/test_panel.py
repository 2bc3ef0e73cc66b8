import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from canaries import Panel, panel
from canaries.manifest import fingerprint

SMALL = panel(3, seed=5, tiers=(1, 4), families=("pin", "noise"))
CONTENTS = [f"secret {number}" for number in range(12)]


def fair(successes: int, trials: int) -> bool:
    return bool(binomtest(successes, trials, 0.5).pvalue > 1e-3)


def test_lists_every_family_tier_and_number() -> None:
    assert len(SMALL) == 12
    assert SMALL.ids[:4] == ("pin/1x/0", "pin/1x/1", "pin/1x/2", "pin/4x/0")
    assert SMALL.families == ("pin",) * 6 + ("noise",) * 6
    assert SMALL.repetitions == (1, 1, 1, 4, 4, 4) * 2
    assert len(panel(20, seed=0)) == 100


def test_tiers_may_differ_in_size() -> None:
    uneven = panel((5, 2), seed=0, tiers=(1, 16))
    assert uneven.repetitions == (1,) * 5 + (16,) * 2


def test_coins_are_fair_in_every_tier_and_family() -> None:
    coins = np.array([panel(4, seed=seed, families=("a", "b")).coins for seed in range(400)])
    first = panel(4, seed=0, families=("a", "b"))
    groups = np.array(first.repetitions) + 100 * (np.array(first.families) == "b")
    for group in np.unique(groups):
        inside = coins[:, groups == group]
        assert fair(int(inside.sum()), inside.size)


def test_coins_are_independent_of_one_another() -> None:
    signs = 2 * np.array([panel(4, seed=seed).coins for seed in range(600)]) - 1
    products = signs.T @ signs / len(signs)
    pairs = products[np.triu_indices(len(products), 1)]
    assert np.abs(pairs).max() < 4.5 / np.sqrt(len(signs))
    assert np.abs(pairs.mean()) < 4 / np.sqrt(len(signs) * len(pairs))
    # A fixed number of heads per panel would make the coins dependent.
    assert np.var(signs.sum(axis=1)) == pytest.approx(signs.shape[1], rel=0.25)


def test_coins_do_not_look_at_tiers_or_families() -> None:
    one = panel(6, seed=9, tiers=(1, 2))
    other = panel(3, seed=9, tiers=(16, 4), families=("x", "y"))
    assert one.coins == other.coins


def test_coins_are_not_the_numbers_that_the_seed_gives_elsewhere() -> None:
    elsewhere = np.random.default_rng(0).integers(0, 2, size=1000) == 1
    assert fair(int((panel(200, seed=0).inserted == elsewhere).sum()), 1000)


def test_inserted_and_held_out_divide_the_panel() -> None:
    assert SMALL.inserted.tolist() == list(SMALL.coins)
    assert (SMALL.inserted ^ SMALL.held_out).all()


@given(st.lists(st.tuples(st.integers(1, 16), st.booleans()), max_size=12))
def test_copies_repeat_exactly_the_inserted(rows: list[tuple[int, bool]]) -> None:
    who = Panel(
        ids=tuple(map(str, range(len(rows)))),
        families=("f",) * len(rows),
        repetitions=tuple(times for times, _ in rows),
        coins=tuple(coin for _, coin in rows),
        seed=0,
    )
    slow = [i for i, (times, coin) in enumerate(rows) if coin for _ in range(times)]
    assert who.copies().tolist() == slow
    assert who.copies().dtype == np.int64


def test_same_arguments_have_the_same_hash() -> None:
    again = panel(3, seed=5, tiers=(1, 4), families=("pin", "noise"))
    assert again == SMALL
    assert again.hash == SMALL.hash
    assert again.seal(CONTENTS).hash == SMALL.seal(CONTENTS).hash
    assert len(SMALL.hash) == 64


def test_everything_is_part_of_the_hash() -> None:
    sealed = SMALL.seal(CONTENTS)
    flipped = (not SMALL.coins[0], *SMALL.coins[1:])
    others = [
        SMALL,
        SMALL.seal(["other", *CONTENTS[1:]]),
        SMALL.seal(CONTENTS[::-1]),
        replace(sealed, coins=flipped),
        replace(sealed, seed=6),
        replace(sealed, repetitions=(2, *sealed.repetitions[1:])),
        replace(sealed, families=("x", *sealed.families[1:])),
        replace(sealed, ids=("x", *sealed.ids[1:])),
    ]
    hashes = {other.hash for other in others}
    assert len(hashes) == len(others)
    assert sealed.hash not in hashes


def test_manifest_is_plain_and_keeps_contents_to_itself() -> None:
    sealed = SMALL.seal(CONTENTS)
    text = json.dumps(sealed.manifest())
    assert json.loads(text) == sealed.manifest()
    assert fingerprint(json.loads(text)) == sealed.hash
    assert "secret" not in text
    assert sealed.manifest()["canaries"][3] == {
        "id": "pin/4x/0",
        "family": "pin",
        "repetitions": 4,
        "inserted": SMALL.coins[3],
        "digest": sealed.digests[3],
    }


def test_seal_reads_tensors_and_wants_one_item_each() -> None:
    sealed = SMALL.seal(torch.arange(24).reshape(12, 2))
    assert len(set(sealed.digests)) == 12
    with pytest.raises(ValueError, match="found 11 items for 12 canaries"):
        SMALL.seal(CONTENTS[1:])


@pytest.mark.parametrize("original", [SMALL, SMALL.seal(CONTENTS)])
def test_save_and_load_round_trip(tmp_path: Path, original: Panel) -> None:
    original.save(tmp_path / "panel.json")
    loaded = Panel.load(tmp_path / "panel.json")
    assert loaded == original
    assert loaded.hash == original.hash


EDITS: list[tuple[str, Any]] = [
    ("inserted", not SMALL.coins[0]),
    ("repetitions", 2),
    ("id", "other"),
    ("family", "other"),
    ("digest", "0" * 64),
]


@pytest.mark.parametrize(("column", "value"), EDITS)
def test_load_refuses_a_tampered_file(tmp_path: Path, column: str, value: object) -> None:
    path = tmp_path / "panel.json"
    SMALL.seal(CONTENTS).save(path)
    stored = json.loads(path.read_text())
    stored["manifest"]["canaries"][0][column] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="changed after it was written"):
        Panel.load(path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"format": "something/2"}, "expected 'canaries.panel/1'"),
        ({"canaries": [{"id": "a"}]}, "lacks part of a panel"),
        ({"canaries": 3}, "lacks part of a panel"),
    ],
)
def test_load_refuses_another_format(tmp_path: Path, edit: dict[str, Any], words: str) -> None:
    manifest = SMALL.manifest() | edit
    stored = {"hash": fingerprint(manifest), "manifest": manifest}
    (tmp_path / "panel.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=words):
        Panel.load(tmp_path / "panel.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"per_tier": 0}, "at least 1"),
        ({"per_tier": 2, "tiers": (0, 1)}, "at least 1"),
        ({"per_tier": (1, 2, 3)}, "3 counts for 5 tiers"),
        ({"per_tier": 1, "tiers": (2, 2)}, "all different"),
        ({"per_tier": 1, "families": ("a", "a")}, "all different"),
        ({"per_tier": 1, "families": ()}, "at least one"),
        ({"per_tier": 1, "tiers": ()}, "at least"),
        ({"per_tier": 1, "seed": -1}, "non-negative"),
    ],
)
def test_panel_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        panel(**({"seed": 0} | arguments))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("ids", ("same",) * 12, "more than once"),
        ("families", ("pin",), "1 families for 12 ids"),
        ("repetitions", (0,) * 12, "repetition 0"),
        ("repetitions", (True,) * 12, "repetition True"),
        ("coins", (1,) * 12, "coin 1"),
        ("digests", ("0",), "1 digests for 12 ids"),
    ],
)
def test_a_panel_that_contradicts_itself_is_refused(field: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **{field: value})
