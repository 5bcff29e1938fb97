"""What memory this process may still take: the machine's, its cgroup's, its own limit."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def free_bytes() -> int:
    """Bytes that can be had now without swapping, being killed or being refused."""
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
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None and used is not None:
                left.append(max(most - used + _file_cache(folder), 0))
    return left


def _file_cache(folder: Path) -> int:
    """What counts as used, but is given up as soon as somebody wants it: files that were read."""
    counted = counters(folder / "memory.stat")
    return counted.get("total_inactive_file", counted.get("inactive_file", 0))


def _left_by_address_space() -> list[int]:
    """As `ulimit -v` says; mapped files count there too."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return []
    return [max(most - int(psutil.Process().memory_info().vms), 0)]


def own_cgroups() -> list[Path]:
    """Folders of this process's memory cgroup, in either version, as seen from inside or out."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = CGROUPS / controllers
            folders += [root / path.lstrip("/"), root]
    return [folder for folder in folders if folder.is_dir()]


def counters(path: Path) -> Mapping[str, int]:
    """Names and numbers of a cgroup's file; empty where there is none."""
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # `max` is no limit
