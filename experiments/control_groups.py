"""The control groups (containers, batch jobs) that limit this process's memory, and where Linux keeps their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class MemoryGroup:
    """One folder of a group's files. `version`: of control groups, 1 or 2, as files are called by it."""

    folder: Path
    version: int


def memory_groups(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> list[list[MemoryGroup]]:
    """For each version that is in use: this process's own group, what that is in, and so on, to the top.

    Inside a container a group's path is often that of the host, and its files are at the top: not every folder exists.
    Empty where nothing is told (not Linux). Source: cgroups(7), /proc/[pid]/cgroup.
    """
    chains = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            own = PurePosixPath(path.lstrip("/"))
            inside = [own, *own.parents] if ".." not in own.parts else [PurePosixPath()]
            version = 1 if controllers else 2
            chains.append([MemoryGroup(cgroups / controllers / group, version) for group in inside])
    return chains


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
