"""The panel: which canaries exist, which of them are inserted, and how often."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canaries.digest import digest
from canaries.manifest import Manifest, fingerprint, read, write
from canaries.records import Records, count
from canaries.streams import stream

FORMAT = "canaries.panel/1"
COLUMNS = ("id", "family", "repetitions", "inserted", "digest")


@dataclass(frozen=True)
class Panel:
    """Who is inserted and how often; canary number i is entry i of every field.

    Scores belong to ids, never to an order: join on `ids`.

    Attributes:
        ids: One name per canary, all different.
        families: The recipe each canary comes from; only members of one family are comparable.
        repetitions: How often a canary is inserted if its coin says so (its tier).
        coins: Whether it is inserted: fair, independent of one another and of everything else.
        seed: The seed that the coins come from.
        digests: Sha256 of each canary's content, or empty before `seal`.

    Raises:
        ValueError: If the fields disagree in length, ids repeat, a repetition is not a positive
            int or a coin is not a bool.
    """

    ids: tuple[str, ...]
    families: tuple[str, ...]
    repetitions: tuple[int, ...]
    coins: tuple[bool, ...]
    seed: int
    digests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what cannot be a panel, whether made here or read from a file."""
        n = len(self.ids)
        lengths = {"families": self.families, "repetitions": self.repetitions, "coins": self.coins}
        if self.digests:
            lengths["digests"] = self.digests
        for name, values in lengths.items():
            if len(values) != n:
                raise ValueError(f"found {len(values)} {name} for {n} ids; expected one per canary")
        if repeated := [name for name, times in Counter(self.ids).items() if times > 1]:
            raise ValueError(f"found id {repeated[0]!r} more than once; scores are joined by id")
        if wrong := [r for r in self.repetitions if type(r) is not int or r < 1]:
            raise ValueError(f"found repetition {wrong[0]!r}; expected an int of at least 1")
        if wrong := [c for c in self.coins if type(c) is not bool]:
            raise ValueError(f"found coin {wrong[0]!r}; expected True (inserted) or False")

    def __len__(self) -> int:
        """The number of canaries, inserted or not."""
        return len(self.ids)

    @property
    def inserted(self) -> NDArray[np.bool_]:
        """[n] true where the coin put the canary into the training data."""
        return np.array(self.coins, dtype=np.bool_)

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """[n] true where the canary stayed out: the twins that `inserted` is compared with."""
        return ~self.inserted

    def copies(self) -> NDArray[np.int64]:
        """[sum of the inserted canaries' repetitions] the canary number of each insertion."""
        times = np.where(self.inserted, np.array(self.repetitions, dtype=np.int64), 0)
        return np.repeat(np.arange(len(self), dtype=np.int64), times)

    def seal(self, items: Records) -> "Panel":
        """The same panel with the digest of every canary's content in its manifest.

        Args:
            items: [n] one record per canary, inserted or not, in the panel's order.

        Raises:
            ValueError: If there is not exactly one item per canary.
        """
        if (found := count(items, "items")) != len(self):
            raise ValueError(f"found {found} items for {len(self)} canaries; expected one for each")
        return replace(self, digests=tuple(digest(items[i]) for i in range(found)))

    def manifest(self) -> Manifest:
        """The whole panel as plain values that JSON can hold, without the canaries' content.

        It holds the coins: show its `hash` to whoever attacks the model, and the manifest later.
        """
        digests = self.digests or (None,) * len(self)
        rows = zip(self.ids, self.families, self.repetitions, self.coins, digests, strict=True)
        return {
            "format": FORMAT,
            "seed": self.seed,
            "canaries": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        }

    @property
    def hash(self) -> str:
        """Sha256, in hex, of the manifest: what a run records before training."""
        return fingerprint(self.manifest())

    def save(self, path: str | Path) -> None:
        """Writes the manifest, whole or not at all; see `canaries.manifest.write` for errors."""
        write(path, self.manifest())

    @classmethod
    def load(cls, path: str | Path) -> "Panel":
        """The panel saved at `path`.

        Raises:
            ValueError: If the file was changed since, or is not a panel's manifest.
        """
        manifest = read(path)
        if (found := manifest.get("format")) != FORMAT:
            raise ValueError(f"{path}: found format {found!r}, expected {FORMAT!r}")
        try:
            rows = manifest["canaries"]
            columns = {name: tuple(row[name] for row in rows) for name in COLUMNS}
            seed = manifest["seed"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} lacks part of a panel ({error!r}); expected what Panel.save writes"
            ) from error
        digests = columns["digest"]
        return cls(
            ids=columns["id"],
            families=columns["family"],
            repetitions=columns["repetitions"],
            coins=columns["inserted"],
            seed=seed,
            digests=() if set(digests) == {None} else digests,
        )


def panel(
    per_tier: int | Sequence[int],
    *,
    seed: int,
    tiers: Sequence[int] = (1, 2, 4, 8, 16),
    families: Sequence[str] = ("default",),
) -> Panel:
    """A panel with a fair coin for every canary of every family and tier.

    Half of the canaries, on average, are inserted; the others are their held-out twins. Bounds
    from one run use canaries that are inserted once, so tier 1 may deserve more than the rest:
    `panel((1000, 20, 20, 20, 20), seed=0)`.

    Args:
        per_tier: Canaries in each tier of each family, inserted or not; one number for all tiers
            or one for each.
        seed: Decides the coins and nothing else.
        tiers: How often the canaries of each tier are inserted.
        families: Names of the recipes.

    Raises:
        ValueError: If a count or a tier is below 1, or tiers or families repeat or are missing.
    """
    counts = [per_tier] * len(tiers) if isinstance(per_tier, int) else list(per_tier)
    if len(counts) != len(tiers):
        raise ValueError(f"found {len(counts)} counts for {len(tiers)} tiers; give one for each")
    if min([*counts, *tiers], default=0) < 1:
        raise ValueError(f"found counts {counts} for tiers {list(tiers)}; expected at least 1 each")
    for name, values in (("tiers", tiers), ("families", families)):
        if len(set(values)) != len(values) or not values:
            raise ValueError(f"found {name} {list(values)}; expected at least one, all different")
    who = [
        (f"{family}/{tier}x/{number}", family, int(tier))
        for family, (tier, size) in product(families, zip(tiers, counts, strict=True))
        for number in range(size)
    ]
    ids, family_of, repetitions = zip(*who, strict=True)
    # Drawn by canary number alone: neither tier nor family nor content can lean on a coin.
    coins = stream(seed, "canaries.coins").integers(0, 2, size=len(who)) == 1
    return Panel(ids, family_of, repetitions, tuple(coins.tolist()), int(seed))
