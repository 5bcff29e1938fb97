"""The CPU cores that this process may use."""

from __future__ import annotations

import os


def count() -> int:
    """How many it may use, at least 1: `taskset` and cpusets may restrict it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
