"""How much memory this process may still take: by the machine, its cgroup, its own limit."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil

from catdog_search.machine.cgroups import counters, number, own_cgroups


def free_bytes() -> int:
    """Bytes that can be allocated now without swapping, being killed or being refused."""
    return min(
        [int(psutil.virtual_memory().available), *_left_by_cgroups(), *_left_by_address_space()]
    )


def _left_by_cgroups() -> list[int]:
    left = []
    for folder in own_cgroups():
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, used = number(folder / limit), number(folder / usage)
            if most is not None and used is not None:
                left.append(max(most - used + _file_cache(folder), 0))
    return left


def _file_cache(folder: Path) -> int:
    """File cache: counts as used, but is released as soon as memory is needed."""
    counted = counters(folder / "memory.stat")
    return counted.get("total_inactive_file", counted.get("inactive_file", 0))


def _left_by_address_space() -> list[int]:
    """What `ulimit -v` leaves; mapped files count there too."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return []
    return [max(most - int(psutil.Process().memory_info().vms), 0)]
