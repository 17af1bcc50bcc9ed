"""500 short trials on four slots, workers killed at random: the runner ends as small as it was in the beginning."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from short_attempt import short_attempt

from experiments import worker
from experiments.executors.local import LocalExecutor
from experiments.ledger import Ledger
from experiments.scheduler import Scheduler
from experiments.slots import cpu_slots
from experiments.spec import load_spec
from experiments.store import SweepStore
from experiments.study import Study
from experiments.trial import TrialState
from experiments.view import PlainView

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts in /proc"),
]
SLOTS = 4

SPEC = """\
name: many
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 1}
seeds: %d
"""


class _Counts:
    """Of this process, at a moment."""

    def __init__(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory = pages * os.sysconf("SC_PAGE_SIZE")
        self.handles = len(os.listdir("/proc/self/fd"))
        self.threads = threading.active_count()
        self.processes = len(_descendants(os.getpid()))


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


class CountingView(PlainView):
    """Looks at this process after so many trials."""

    def __init__(self, at: Callable[[int], None]) -> None:
        super().__init__(objective="ap50_11pt/mean")
        self._at = at

    def progress(self, counts: Any, best: Any) -> None:
        super().progress(counts, best)
        self._at(counts.finished)


@pytest.mark.parametrize("trials", [200, pytest.param(500, marks=pytest.mark.slow)])
def test_the_runner_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int) -> None:
    monkeypatch.setattr(worker, "run_attempt", short_attempt)
    file = tmp_path / "many.yaml"
    file.write_text(SPEC % trials)
    spec = load_spec(file)
    store = SweepStore(tmp_path / "results" / "many")
    study = Study(file=store.study, name="many", direction="maximize")
    executor = LocalExecutor(slots=cpu_slots(SLOTS, cores=2))
    counts: dict[int, _Counts] = {}

    def look(finished: int) -> None:
        if finished in (100, trials - SLOTS):
            counts[finished] = _Counts()

    try:
        ledger = Ledger(store=store, study=study, objective=spec.objective)
        scheduler = Scheduler(spec=spec, ledger=ledger, executor=executor, view=CountingView(look))
        scheduler.run()
    finally:
        executor.close()
        study.close()
    results = scheduler.results()
    assert len(results) == trials
    assert {result.state for result in results.values()} == {TrialState.COMPLETE}
    assert sum(result.attempts > 1 for result in results.values()) > trials / 20
    early, late = counts[100], counts[trials - SLOTS]
    assert late.handles <= early.handles + 2 * SLOTS
    assert late.threads == early.threads
    assert late.processes <= early.processes + SLOTS
    assert late.memory - early.memory < (trials - 100) * 40_000, "40 kB a trial: what is known of it, and no more"
