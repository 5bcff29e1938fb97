"""What Linux says about this process's cgroups, in either version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


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
    """Names and numbers in a cgroup's file; empty where there is none."""
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004


def oom_kills() -> int | None:
    """How many processes of our cgroup the OOM killer has killed; None where it isn't known.

    Reads `memory.events` (version 2) or `memory.oom_control` (version 1).
    """
    for folder in own_cgroups():
        for name in ("memory.events", "memory.oom_control"):
            counted = counters(folder / name)
            if "oom_kill" in counted:
                return counted["oom_kill"]
    return None


def number(path: Path) -> int | None:
    """The number in a cgroup's file; None where there is none or it means no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # `max` is no limit
