from __future__ import annotations

from pathlib import Path

import pytest

from experiments.control_groups import memory_groups
from experiments.main_memory import main_memory
from experiments.placement import Reading

KIB, GIB = 2**10, 2**30
MEMINFO = (
    f"MemTotal:       {64 * GIB // KIB} kB\nMemFree:  1 kB\nMemAvailable:   {40 * GIB // KIB} kB\nHugePages_Total: 0\n"
)


def write(root: Path, files: dict[str, object]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}")
    return root / "proc", root / "cgroup"


def v2(group: str, *, limit: object, used: int, cache: tuple[int, int] = (0, 0)) -> dict[str, object]:
    return {
        f"cgroup/{group}memory.max": f"{limit}\n",
        f"cgroup/{group}memory.current": f"{used}\n",
        f"cgroup/{group}memory.stat": f"anon 7\nfile 8\ninactive_file {cache[0]}\nactive_file {cache[1]}\nshmem 9\n",
    }


V1 = {
    "cgroup/memory/job/memory.limit_in_bytes": 8 * GIB,
    "cgroup/memory/job/memory.usage_in_bytes": 5 * GIB,
    "cgroup/memory/job/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\ntotal_active_file {GIB}\n",
}


@pytest.mark.parametrize(
    ("groups", "files", "total", "used"),
    [
        (None, {}, 64, 24),
        ("0::/\n", {}, 64, 24),
        ("0::/a/b\n", v2("a/b/", limit="max", used=50 * GIB), 64, 24),
        ("0::/a/b\n", v2("a/b/", limit=10 * GIB, used=3 * GIB), 10, 3),
        ("0::/a/b\n", v2("a/b/", limit=10 * GIB, used=9 * GIB, cache=(2 * GIB, 3 * GIB)), 10, 4),
        ("0::/a/b\n", v2("a/b/", limit=10 * GIB, used=GIB, cache=(2 * GIB, 0)), 10, 0),  # read at two moments
        ("0::/a/b\n", v2("a/b/", limit=10 * GIB, used=11 * GIB), 10, 10),
        ("0::/a/b\n", v2("a/b/", limit=50 * GIB, used=GIB), 50, 10),  # 40 are free in the machine
        ("0::/a/b\n", v2("a/b/", limit=90 * GIB, used=GIB), 64, 24),
        ("0::/a/b\n", v2("a/", limit=20 * GIB, used=18 * GIB) | v2("a/b/", limit="max", used=GIB), 20, 18),
        ("0::/a/b\n", v2("a/", limit=20 * GIB, used=18 * GIB) | v2("a/b/", limit=10 * GIB, used=GIB), 10, 8),
        ("0::/of/the/host\n", v2("", limit=10 * GIB, used=3 * GIB), 10, 3),
        ("0::/../other\n", v2("", limit=10 * GIB, used=3 * GIB) | v2("../other/", limit=GIB, used=0), 10, 3),
        ("3:cpu,cpuacct:/job\n2:memory:/job\n0::/job\n", V1, 8, 3),
        ("2:memory:/job/step\n", V1, 8, 3),
        ("0::/a\n", {"cgroup/a/memory.max": GIB}, 64, 24),  # of a limit alone nothing follows
    ],
)  # fmt: skip
def test_what_there_is(tmp_path: Path, groups: str | None, files: dict[str, object], total: int, used: int) -> None:
    told = files | {"proc/meminfo": MEMINFO} | ({} if groups is None else {"proc/self/cgroup": groups})
    assert main_memory(*write(tmp_path, told)) == Reading(total_bytes=total * GIB, used_bytes=used * GIB)


@pytest.mark.parametrize("meminfo", [None, "", "MemTotal: 5 kB\n", "MemAvailable: 5 kB\n"])
def test_where_nothing_is_told(tmp_path: Path, meminfo: str | None) -> None:
    assert main_memory(*write(tmp_path, {} if meminfo is None else {"proc/meminfo": meminfo})) is None


def test_here() -> None:
    found = main_memory()
    assert found is not None
    assert 0 < found.used_bytes < found.total_bytes


def test_groups_from_the_inside_out(tmp_path: Path) -> None:
    proc, cgroups = write(tmp_path, {"proc/self/cgroup": "2:memory:/a/b\n1:cpu:/x\n0::/\n"})
    first, second = memory_groups(proc, cgroups)
    assert [group.folder for group in first] == [cgroups / "memory" / name for name in ("a/b", "a", "")]
    assert {group.version for group in first} == {1}
    assert [(group.folder, group.version) for group in second] == [(cgroups, 2)]
