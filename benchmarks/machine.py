"""The machine that is measured on: its load, its clock, its device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

Clock = Callable[[], float]


def clock_of(device: str, threads: int) -> Clock:
    """Returns a clock in seconds.

    With one thread it is CPU time, which other processes disturb less than wall time; a GPU is
    waited for before it is read.
    """
    if device == "cuda":

        def after_kernels() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return after_kernels
    return time.process_time if threads == 1 else time.perf_counter


def described(device: str, threads: int) -> str:
    """Returns one line about what is measured with, and how busy the machine is."""
    what = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    time_of = "wall" if device == "cuda" or threads > 1 else "CPU"
    return (
        f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores, {what}, {threads} thread(s), "
        f"{time_of} time, torch {torch.__version__}"
    )
