"""How often the kernel has killed for want of memory: what tells its kill from a person's."""

from __future__ import annotations

from pathlib import Path

from experiments.control_groups import memory_groups

_KEY = "oom_kill"


def oom_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Processes that were killed for want of memory since the machine, or this process's control group, started.

    Both count, as a kill within a container's limit is not always among the machine's. 0 where nothing is told
    (not Linux, or an old kernel). Source: Linux, admin-guide/cgroup-v2 (memory.events), cgroup-v1/memory (oom_control).
    """
    return _count(proc / "vmstat") + max((_count(file) for file in _of_own_group(proc, cgroups)), default=0)


def _of_own_group(proc: Path, cgroups: Path) -> list[Path]:
    """Those of its own group, and those at the top, which inside a container may be its own."""
    names = {1: "memory.oom_control", 2: "memory.events"}
    ends = [group for chain in memory_groups(proc, cgroups) for group in {chain[0], chain[-1]}]
    return [group.folder / names[group.version] for group in ends]


def _count(file: Path) -> int:
    for line in _lines(file):
        name, _, value = line.partition(" ")
        if name == _KEY:
            return int(value)
    return 0


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
