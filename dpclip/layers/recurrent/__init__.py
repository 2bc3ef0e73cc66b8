"""Recurrent layers that say what their weights saw instead of forming weight gradients."""

from dpclip.layers.recurrent.layer import Capture
from dpclip.layers.recurrent.stack import recur

__all__ = ["Capture", "recur"]
