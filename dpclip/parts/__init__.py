"""Group gradients by kind of parameter: what they are, how long, and what they sum up to."""

from torch import Tensor

from dpclip.parts.convolved import Convolved
from dpclip.parts.formed import Formed
from dpclip.parts.outer import Outer
from dpclip.parts.part import Part
from dpclip.parts.scattered import Scattered
from dpclip.parts.separate import Separate

__all__ = ["Convolved", "Formed", "Outer", "Part", "Scattered", "Separate", "form"]


def form(part: Part, out: Tensor) -> Formed:
    """Returns the part with its rows formed in `out` [G, *shape]."""
    return part.formed(out) if isinstance(part, Convolved) else Formed(part.rows(out))
