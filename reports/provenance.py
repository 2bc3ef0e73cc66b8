"""How the rows of a report came about, kept beside it so that a later comparison can tell it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from reports.address import without_password
from reports.rows import Scalar

__all__ = ["NAME", "Provenance", "command_text", "json_text", "method", "read", "together"]

NAME = "provenance.json"


@dataclass(frozen=True)
class Provenance:
    """How the rows came about: what a reader needs in order to judge and repeat them.

    Attributes:
        command: What repeats the sweep, as a shell would take it, or its words.
        configuration: What was the same for all runs.
        learning_rates: The learning rates that were tried for each arm; empty for no search, None
            where it is not recorded.
        chosen_by: What picked one of them.
        skipped: Combinations that were asked for and not run, each with its reason.
    """

    command: str | Sequence[str]
    configuration: Mapping[str, object] = field(default_factory=dict)
    learning_rates: Sequence[float] | None = ()
    chosen_by: str = ""
    skipped: Sequence[str] = ()


def json_text(provenance: Provenance) -> str:
    """Returns the provenance as JSON."""
    rates = provenance.learning_rates
    content = {
        "command": command_text(provenance),
        "configuration": {k: _scalar(v) for k, v in provenance.configuration.items()},
        "learning_rates": None if rates is None else list(rates),
        "chosen_by": provenance.chosen_by,
        "skipped": list(provenance.skipped),
    }
    return json.dumps(content, indent=1) + "\n"


def read(directory: Path) -> Provenance | None:
    """Returns what was kept beside an earlier report; None where an older version kept nothing.

    Raises:
        ValueError: If the file is damaged.
    """
    path = directory / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Provenance(**{name: content[name] for name in Provenance.__dataclass_fields__})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}), expected what a sweep keeps beside its report; delete "
            "it and run the sweep's command again, which repeats no finished run"
        ) from error


def method(provenance: Provenance) -> list[str]:
    """Returns how learning rates were found, then what was the same for all runs."""
    told = (f"{key}: {value}" for key, value in provenance.configuration.items())
    return [f"Learning rate: {_search(provenance)}", *told]


def command_text(provenance: Provenance) -> str:
    """Returns the command as a shell would take it, without the passwords of addresses in it."""
    command = provenance.command
    return without_password(command if isinstance(command, str) else shlex.join(command))


def together(held: Mapping[str, Provenance | None], command: str) -> Provenance:
    """Returns the provenance of a table made of several sweeps.

    What all sweeps share is said once; what differs, or is not recorded, with the sweep's name.

    Args:
        held: The name of each sweep -> its provenance, None where it is not recorded.
        command: What makes the table from them.
    """
    known = {name: found for name, found in held.items() if found is not None}
    commands = [*dict.fromkeys(command_text(found) for found in known.values()), command]
    whole = "\n".join(commands)
    if len(held) == len(known) == 1:
        return replace(next(iter(known.values())), command=whole)
    told = _configuration(known)
    told |= {name: "how it was measured is not recorded" for name in held if name not in known}
    searches = {_search(found) for found in known.values()}
    one = len(searches) == 1 and len(held) == len(known)
    if not one:
        told |= {f"learning rate ({n})": _search(found) for n, found in known.items()}
    first = next(iter(known.values()), Provenance(command))
    return Provenance(
        command=whole,
        configuration=told,
        learning_rates=first.learning_rates if one else None,
        chosen_by=first.chosen_by if one else "",
        skipped=list(dict.fromkeys(s for found in known.values() for s in found.skipped)),
    )


def _configuration(known: Mapping[str, Provenance]) -> dict[str, object]:
    told: dict[str, object] = {}
    for key in dict.fromkeys(key for found in known.values() for key in found.configuration):
        values = {n: found.configuration.get(key, "-") for n, found in known.items()}
        if len({str(value) for value in values.values()}) == 1:
            told[key] = next(iter(values.values()))
        else:
            told |= {f"{key} ({name})": value for name, value in values.items()}
    return told


def _search(provenance: Provenance) -> str:
    tried = provenance.learning_rates
    if tried is None:
        return "how it was chosen is not the same for all runs, or not recorded."
    if len(tried) < 2:
        return "no search; every arm used the one it was given."
    by = f", chosen by {provenance.chosen_by}" if provenance.chosen_by else ""
    return f"for every arm the best of {len(tried)} ({', '.join(f'{r:g}' for r in tried)}){by}."


def _scalar(value: object) -> Scalar:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
