"""Rows of a sweep as tables, a sentence, pictures, a report and runs in MLflow.

Everything starts from rows: one flat dict of scalars per run. `summarize(rows)` is the frame that
tables, sentences and figures are made from. Importing this package loads neither MLflow nor
matplotlib; `reports.figures`, `reports.tracking` and `reports.ui` are imported by who needs them.
"""

from reports.arms import COLORS, arm_name, run_name, shared_settings
from reports.caveats import remarks
from reports.document import Provenance, report_html, report_markdown, write
from reports.rows import Row, Scalar
from reports.sentence import headline
from reports.summary import read
from reports.table import console, details, markdown, summarize

__all__ = [
    "COLORS",
    "Provenance",
    "Row",
    "Scalar",
    "arm_name",
    "console",
    "details",
    "headline",
    "markdown",
    "read",
    "remarks",
    "report_html",
    "report_markdown",
    "run_name",
    "shared_settings",
    "summarize",
    "write",
]
