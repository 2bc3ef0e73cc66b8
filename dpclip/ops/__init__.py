"""Capture at the operations that use parameters, for modules nobody wrote a rule for."""

from dpclip.ops.around import Host, Parts, Watched
from dpclip.ops.capture import Capture

__all__ = ["Capture", "Host", "Parts", "Watched"]
