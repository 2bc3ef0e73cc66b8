"""Recordings divided into the parts of a corpus."""

from __future__ import annotations

from audits.tasks.speech.corpus import Corpus, words_of
from audits.tasks.speech.digit_strings import divided_digits
from audits.tasks.speech.parting import LEAST, PARTS, check_limit, parted
from audits.tasks.speech.recordings import Recordings
from audits.tasks.speech.records import Utterance


def corpus_of(recordings: Recordings, limit: int | None = None) -> Corpus:
    """Returns the corpus of what was read; spoken digits become strings of digits.

    A split that the data have is kept. Of what is left to train on, a fixed random tenth (500 at
    most) makes each part that is missing. Nothing but spoken digits has a pool for canaries.

    Args:
        recordings: see `recordings.read`.
        limit: how many utterances to train on at most, a fixed random choice; None for all. The
            other parts do not depend on it.

    Raises:
        ValueError: fewer than ten recordings to train on, some that say their split beside some
            that don't, or a limit below 1.
    """
    check_limit(limit)
    if recordings.digits:
        return divided_digits(recordings, limit)
    parts = _parts(recordings)
    train = parts["train"][:limit]
    if len(train) < (least := min(limit or LEAST, LEAST)):
        raise ValueError(
            f"Found {len(train)} recordings to train on that can be used: expected at least "
            f"{least}."
        )
    return Corpus(
        train=train,
        validation=parts["validation"],
        test=parts["test"],
        pool=(),
        sample_rate=recordings.sample_rate,
        words=words_of(train),
        # A word's being there tells of the records, and no epsilon covers it.
        facts=dict(recordings.facts)
        | {
            "parts": f"{len(train)} utterances to train on, {len(parts['validation'])} for "
            f"validation, {len(parts['test'])} to test on",
            "vocabulary": "words of the training transcripts, outside of any claim",
        },
    )


def _parts(recordings: Recordings) -> dict[str, list[Utterance]]:
    """Returns train (in a fixed random order), validation and test, of what was decoded."""
    heard = {item.name: (item.waveform, item.text) for item in recordings.items}
    names = parted(recordings.listed or {item.name: item.split for item in recordings.items})
    return {part: [heard[name] for name in names[part] if name in heard] for part in PARTS}
