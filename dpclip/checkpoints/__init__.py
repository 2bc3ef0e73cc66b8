"""Checkpoints that survive a killed process: no pickle, and all or nothing."""

from dpclip.checkpoints.run import Checkpoints, Resumed

__all__ = ["Checkpoints", "Resumed"]
