"""Group gradients by kind of parameter: what they are, how long, and what they sum up to."""

from dpclip.parts.convolved import Convolved
from dpclip.parts.formed import Formed
from dpclip.parts.outer import Outer
from dpclip.parts.part import Part
from dpclip.parts.scattered import Scattered

__all__ = ["Convolved", "Formed", "Outer", "Part", "Scattered"]
