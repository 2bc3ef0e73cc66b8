"""Canaries: records whose presence in the training data was decided by a coin.

A canary's secret is drawn at random, a coin decides whether the canary is inserted, a tier decides
how often, and all of it is written down before training:

    plan = panel(per_tier=20, seed=0)                        # who, how often, which coin
    pins = SecretFormat("my pin is {}{}{}{}{}{}")
    secrets = pins.draw(len(plan), stream(0, "secrets"))     # one secret per canary
    tokens, spans = text_records(pins, secrets, length=64)
    plan = plan.seal(tokens)                                 # the content joins the manifest
    plan.save("panel.json")                                  # before training
    train = inject(dataset, tokens, plan.copies(), seed=0)
"""

from canaries.digest import digest
from canaries.gradient import GradientCanaries, dirac, random_directions
from canaries.image import mislabelled, noise_images
from canaries.inject import Injected, budget, inject
from canaries.panel import Panel, panel
from canaries.speech import DIGITS, from_recordings, random_words, sped_up, utterances
from canaries.streams import stream
from canaries.text import SecretFormat, text_records
from canaries.tokenizable import check_tokenizable
from canaries.voice import espeak, joined

__all__ = [
    "DIGITS",
    "GradientCanaries",
    "Injected",
    "Panel",
    "SecretFormat",
    "budget",
    "check_tokenizable",
    "digest",
    "dirac",
    "espeak",
    "from_recordings",
    "inject",
    "joined",
    "mislabelled",
    "noise_images",
    "panel",
    "random_directions",
    "random_words",
    "sped_up",
    "stream",
    "text_records",
    "utterances",
]
