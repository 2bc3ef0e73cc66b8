"""Steps of a secure run stay spent when the process that took them is killed."""

from __future__ import annotations

import warnings
from pathlib import Path

from dpclip.checkpoints.journal import Journal, Spent
from dpclip.privacy_engine import PrivacyEngine
from dpclip.sensitivity import effective_multiplier


class Account:
    """Notes what each step of a secure run spends; does nothing for a seeded one.

    Args:
        engine: after make_private.
        path: of the journal.
        rate: q that logical batches are drawn at, None if nobody knows.
        writes: whether this process is the one that writes.

    Attributes:
        before: bytes of the journal that an earlier process has left.
    """

    def __init__(self, engine: PrivacyEngine, path: Path, rate: float | None, writes: bool) -> None:
        self._engine, self._ledger, self._rate = engine, engine._ledger, rate
        self._secure = engine._streams_made.noise.secure
        self._journal = Journal(path)
        self.before = self._journal.size() if self._secure else 0
        if self._secure and writes:
            self._ledger.note = self._note

    def _note(self, sigma: float, rate: float | None) -> None:
        """Writes a step down before it releases anything."""
        self._journal.note(Spent(sigma, rate, tuple(self._ledger.reasons)))

    def noted(self) -> int:
        """Returns the size of the journal, safely on the disk."""
        self._journal.sync()
        return self._journal.size()

    def count_lost(self, size: int) -> int:
        """Returns how many steps were noted after the journal had this size, and counts them."""
        if not self._secure:
            return 0
        engine = self._engine._private
        shift = engine.claim().count_shift
        worst = effective_multiplier(engine.mechanism.noise_multiplier, shift)
        try:
            lost = self._journal.since(size, Spent(worst, self._rate))
        except ValueError as error:
            reason = "the journal of spent steps is shorter than when the checkpoint was written"
            self._ledger.void(reason)
            warnings.warn(f"No epsilon: {reason} ({error}). Bring it back.", stacklevel=3)
            return 0
        for spent in lost:
            for reason in spent.reasons:
                self._ledger.void(reason)
            if spent.rate is None or spent.sigma == 0:
                self._ledger.void("a step was lost of which nobody knows what it spent")
        steps = [(s.sigma, s.rate, 1) for s in lost if s.rate is not None and s.sigma > 0]
        self._ledger.history = [*self._ledger.history, *steps]
        return len(lost)

    def close(self) -> None:
        """Stops writing."""
        if self._secure:
            self._ledger.note = None
        self._journal.close()
