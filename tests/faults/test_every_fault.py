"""Every kind of fault, again and again in one sweep of real processes: its kind is told, its policy followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_sweep import Sweep

from wsol.data.digits import generate

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc"),
]

SPEC = """\
name: digits
experiment:
  task: wsddn
  data: {root: ROOT, workers: 0}
  proposals: {source: grid, count: 10, min_size_px: 8}
  model: {backbone: tiny, weights: none, roi_size: 2, fc_dim: 8}
  train: {epochs: 2, lr: 1.0e-3, scales_px: [48], batch_size: 4}
  evaluate: {batch_size: 4, pictures: 0}
seeds: TRIALS
"""

CASES: dict[str, tuple[list[str], str, int, int | None]] = {
    "nothing": ([], "", 1, None),
    "error": (["error"], "error", 1, None),
    "data": (["data"], "data", 1, None),
    "divergence": (["nan"], "non_finite_loss", 1, None),
    "crash": (["crash"] * 3, "crash", 3, None),
    "crash once": (["crash"], "", 2, None),
    "hang": (["hang"] * 2, "hang", 2, None),
    "hang once": (["hang"], "", 2, None),
    "gpu memory": (["gpu_memory"] * 3, "oom", 3, None),
    "gpu memory twice": (["gpu_memory"] * 2, "", 3, 2),
    "host memory once": (["host_memory"], "", 2, None),
    "killed": (["killed"] * 4, "", 5, None),
    "preempted": (["preempted"] * 4, "", 3, None),  # each time the step is saved, and there are two
    "disk full": (["disk_full"], "", 2, None),
}
"""Faults of the attempts in turn -> the reason of the failure (empty: complete), attempts, images at a time."""


@pytest.fixture(scope="module", params=[2, pytest.param(10, marks=pytest.mark.slow)])
def times(request: pytest.FixtureRequest) -> int:
    """How often each fault is injected."""
    return int(request.param)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, times: int) -> Iterator[Sweep]:
    folder = tmp_path_factory.mktemp("faults")
    root = folder / "digits"
    generate(root, seed=0, train=8, val=4, test=1, image_px=48)
    trials = times * len(CASES)
    faults = {number: CASES[case][0] for number, case in enumerate(list(CASES) * times)}
    sweep = Sweep(folder, root, SPEC.replace("TRIALS", str(trials)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS", json.dumps(faults))
        patch.setenv("TMPDIR", str(folder))
        runner = sweep.start(slots=4, command=("-m", "faulty_runner"))
    assert runner.end() == 1, runner.output + runner.errors
    assert runner.errors == ""
    yield sweep
    sweep.clean_up()


@pytest.mark.parametrize("case", CASES)
def test_each_is_told_and_treated(swept: Sweep, case: str, times: int) -> None:
    _, reason, attempts, images_at_a_time = CASES[case]
    numbers = [number for number, other in enumerate(list(CASES) * times) if other == case]
    rows = {int(row["trial"]): row for row in swept.rows()}
    assert len(numbers) == times
    for number in numbers:
        row = rows[number]
        expected = ("FAIL", reason) if reason else ("COMPLETE", "")
        assert (row["state"], row["stop_reason"], int(row["attempts"])) == (*expected, attempts), number
        assert bool(row["ap50_11pt/mean"]) == (not reason), "a failed trial has no AP, and never 0"
        result = json.loads((swept.trial(number) / "result.json").read_text())
        assert result["images_at_a_time"] == images_at_a_time
        if not reason:
            assert swept.epochs(number) == [1, 2]


def test_a_hang_leaves_all_stacks(swept: Sweep) -> None:
    log = (swept.trial(list(CASES).index("hang")) / "log.txt").read_text()
    assert "most recent call first" in log
    assert "_hang" in log


def test_an_error_leaves_its_traceback(swept: Sweep) -> None:
    log = (swept.trial(list(CASES).index("error")) / "log.txt").read_text()
    assert "Traceback (most recent call last)" in log
    assert "ValueError: the bug" in log


def test_what_had_a_fault_on_the_way_ends_with_the_same_metrics(swept: Sweep, tmp_path: Path) -> None:
    """Seeds differ from trial to trial, so each is compared with itself, undisturbed."""
    numbers = [number for number, case in enumerate(list(CASES)) if not CASES[case][1]]
    seeds = str([number for number in numbers if CASES[list(CASES)[number]][3] is None])
    again = Sweep(tmp_path, swept._root, SPEC.replace("TRIALS", seeds))
    runner = again.start(slots=4)
    try:
        assert runner.end() == 0, runner.output + runner.errors
        undisturbed = {row["seed"]: row["ap50_11pt/mean"] for row in again.rows()}
        found = {row["seed"]: row["ap50_11pt/mean"] for row in swept.rows() if row["seed"] in undisturbed}
        assert found == undisturbed
        assert len(found) == len(numbers) - 1
    finally:
        again.clean_up()
