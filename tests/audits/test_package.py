import subprocess
import sys

import pytest

import audits


def test_the_estimators_are_there_without_being_imported() -> None:
    code = "import audits; print(audits.exposure.null_mean(9), audits.bounds.default_guesses(90))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    null, guesses = done.stdout.split()
    assert float(null) == pytest.approx(1.142822, abs=1e-6)
    assert int(guesses) == 30
    assert dir(audits) == [
        "bounds",
        "enumeration",
        "exposure",
        "extraction",
        "membership",
        "shadow",
    ]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'exposures'"):
        audits.exposures  # noqa: B018
