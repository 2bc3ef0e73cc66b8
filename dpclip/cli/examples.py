"""What is shown at the end of each command's help. Loads the parser's library and nothing else."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter

from jsonargparse import DefaultHelpFormatter

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "demo": (
        ("the whole job in minutes", "dpclip demo"),
        ("quicker, with wider intervals", "dpclip demo --seeds 2 --store quick"),
    ),
    "train": (
        ("micro-batches of 8, no noise", "dpclip train --grouping microbatch:8"),
        (
            "differentially private, for a model that is given away",
            "dpclip train --weighting clip:0.1 --noise 1 --secure",
        ),
        ("the result for a script", "dpclip train --quiet --json"),
    ),
    "audit": (
        ("the task's own list of arms, three seeds each", "dpclip audit --task digits --seeds 3"),
        (
            "every combination of these; what makes no sense is left out",
            "dpclip audit --grouping none,sample,microbatch:4 --weighting clip:0.1,min --noise 0,1",
        ),
        (
            "pictures of your own, in a folder for each class",
            "dpclip audit --task images --data pictures --grouping none,sample",
        ),
        ("keep the options in a file", "dpclip audit --seeds 3 --print_config"),
        ("and use them, with one changed", "dpclip audit --config audit.yaml --seeds 5"),
        ("does the audit catch planted bugs?", "dpclip audit --self-test"),
    ),
    "compare": (
        ("the table of an earlier sweep again", "dpclip compare --stores demo"),
        (
            "two sweeps in one report",
            "dpclip compare --stores runs/a,runs/b --out compare",
        ),
        ("some of its runs", "dpclip compare --stores demo --runs 'none,sample,microbatch 4'"),
        ("from a server", "dpclip compare --tracking_uri http://localhost:5000"),
        ("rows for a script", "dpclip compare --stores demo --quiet --json"),
    ),
    "ui": (("look at the demo's runs", "dpclip ui --store demo"),),
    "doctor": (("is the installation sound?", "dpclip doctor"),),
}


class Examples(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Help with its examples as they are written, each on a line to copy."""


def told(command: str) -> str:
    """Returns the examples of a command."""
    lines = [f"  {line}\n      {what}" for what, line in EXAMPLES[command]]
    return "\n".join(["examples:", *lines])
