"""The main memory that this process can have: the machine's, or less where a control group limits it."""

from __future__ import annotations

from pathlib import Path

from experiments.control_groups import MemoryGroup, memory_groups
from experiments.placement import Reading

_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
_USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
_CACHE = {1: ("total_inactive_file", "total_active_file"), 2: ("inactive_file", "active_file")}
"""Pages of files, which the kernel takes back when memory is short. Shared memory is not among them."""


def main_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Reading | None:
    """The main memory as it is now; None where it is not told (not Linux).

    Groups are nested, and any of them may be the one that is short: the total is the smallest limit, and what is free
    is what the tightest of them leaves. A group's cache of files is free, as the machine's own is in MemAvailable.

    Sources: proc_meminfo(5); Linux, admin-guide/cgroup-v2 (memory.max, .current, .stat), cgroup-v1/memory.
    """
    machine = _numbers(proc / "meminfo")
    if not {"MemTotal:", "MemAvailable:"} <= machine.keys():
        return None
    limits = [(machine["MemTotal:"] * 1024, machine["MemAvailable:"] * 1024)]
    for chain in memory_groups(proc, cgroups):
        limits += [limit for group in chain if (limit := _limit(group)) is not None]
    total = min(limit for limit, _ in limits)
    free = min(left for _, left in limits)
    return Reading(total_bytes=total, used_bytes=max(0, total - free))


def _limit(group: MemoryGroup) -> tuple[int, int] | None:
    """A group's limit and what it leaves, in bytes; None where it has none."""
    limit = _number(group.folder / _LIMIT[group.version])
    usage = _number(group.folder / _USAGE[group.version])
    if limit is None or usage is None:
        return None
    stat = _numbers(group.folder / "memory.stat")
    cache = sum(stat.get(name, 0) for name in _CACHE[group.version])
    return limit, max(0, limit - max(0, usage - cache))


def _number(file: Path) -> int | None:
    """What a file of one number says; None for `max`, and where there is no such file."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _numbers(file: Path) -> dict[str, int]:
    """Lines of a name and a number, units ignored; empty where there is no such file."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}
