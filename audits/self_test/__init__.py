"""The self-test of an audit: does it catch training loops that are known to be broken?"""

from audits.self_test.cases import Case, Finder, Loop, Probe, Row, once, shared, trial
from audits.self_test.noise import correlation, repetition
from audits.self_test.verdict import Claim, Design, Observed, Verdict, judge

__all__ = [
    "Case",
    "Claim",
    "Design",
    "Finder",
    "Loop",
    "Observed",
    "Probe",
    "Row",
    "Verdict",
    "correlation",
    "judge",
    "once",
    "repetition",
    "shared",
    "trial",
]
