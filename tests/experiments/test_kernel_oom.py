from __future__ import annotations

from pathlib import Path

import pytest

from experiments.kernel_oom import oom_kills


def write(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "proc", root / "cgroup"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 0),
        ({"proc/vmstat": "nr_free_pages 12\noom_kill 3\n"}, 3),
        ({"proc/vmstat": "nr_free_pages 12\n"}, 0),
        ({"proc/self/cgroup": "0::/job/7\n", "cgroup/job/7/memory.events": "low 0\noom 5\noom_kill 4\n"}, 4),
        ({"proc/self/cgroup": "0::/of/the/host\n", "cgroup/memory.events": "oom_kill 2\n"}, 2),
        (
            {
                "proc/self/cgroup": "3:cpu:/x\n2:memory:/job\n0::/\n",
                "cgroup/memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n",
            },
            6,
        ),
        ({"proc/vmstat": "oom_kill 1\n", "proc/self/cgroup": "0::/\n", "cgroup/memory.events": "oom_kill 1\n"}, 2),
    ],
    ids=["nothing told", "machine", "old kernel", "v2", "v2 in a container", "v1", "both"],
)
def test_counts(tmp_path: Path, files: dict[str, str], count: int) -> None:
    assert oom_kills(*write(tmp_path, files)) == count


def test_here() -> None:
    assert oom_kills() >= 0
