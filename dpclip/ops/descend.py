"""Running the body of a Python function of torch under a mode that is asked about its parts."""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any

_QUESTIONS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def _no(*_args: Any) -> bool:
    return False


@cache
def opened(function: FunctionType) -> FunctionType:
    """Returns the same function without its first line, which hands itself to the mode.

    `F.multi_head_attention_forward` and its like begin with `if has_torch_function(...): return
    handle_torch_function(...)`. A mode that is active sees the whole call and nothing inside; with
    this answered "no", the body runs, and the mode sees the operations it is made of.
    """
    scope = {**function.__globals__, **dict.fromkeys(_QUESTIONS, _no)}
    copy = FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
