from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from experiments.dry_run import MAX_ROWS, print_dry_run
from experiments.report.entries import Entry
from experiments.spec import SweepSpec
from experiments.store import SweepStore, TrialResult
from experiments.trial import TrialState

Load = Callable[[str], SweepSpec]


def shown(spec: SweepSpec, entries: list[Entry]) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    with console.capture() as text:
        print_dry_run(console, spec, entries, folder="results/sweep")
    return text.get()


def waiting(spec: SweepSpec) -> list[Entry]:
    return [Entry(plan=plan, trial=None, result=None) for plan in spec.plans]


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_the_trials_in_the_order_they_would_run(load: Load, tmp_path: Path) -> None:
    spec = load(
        "question: Which? [red]\n{EXPERIMENT}\nsearch:\n"
        "  - grid: {train.lr: [0.1, 0.10], proposals.count: [20, null]}\nseeds: [4, 2]\n"
    )
    store = SweepStore(tmp_path / "results")
    entries = waiting(spec)
    result = TrialResult("", TrialState.COMPLETE, "", 1, {}, 3, 1.0)
    trials = [store.create_trial(number, plan.signature, {}) for number, plan in enumerate(spec.plans[:2])]
    entries[0] = Entry(plan=spec.plans[0], trial=trials[0], result=result)
    entries[1] = Entry(plan=spec.plans[1], trial=trials[1], result=None)
    text = shown(spec, entries)
    assert text.splitlines()[:3] == [
        "sweep sweep: 4 trials (1 COMPLETE, 1 RUNNING, 2 WAITING) in results/sweep",
        "Which? [red]",
        "4 cells ask for a trial that another cell asks for already; they run once",
    ]
    assert rows(text) == [
        ["0", "COMPLETE", "0.1", "20", "4"],
        ["1", "RUNNING", "0.1", "20", "2"],
        ["-", "WAITING", "0.1", "null", "4"],
        ["-", "WAITING", "0.1", "null", "2"],
    ]
    assert text.endswith("dry run: nothing was started\n")


@pytest.mark.parametrize(("trials", "more"), [(MAX_ROWS, None), (MAX_ROWS + 1, "... and 1 more")])
def test_a_long_list_is_cut(load: Load, trials: int, more: str | None) -> None:
    spec = load(f"{{EXPERIMENT}}\nseeds: {trials}\n")
    text = shown(spec, waiting(spec))
    assert len(rows(text)) == MAX_ROWS
    assert ("more" in text) == (more is not None)
    assert more is None or more in text


def test_a_single_trial(load: Load) -> None:
    text = shown(load("{EXPERIMENT}\n"), waiting(load("{EXPERIMENT}\n")))
    assert text.startswith("sweep sweep: 1 trials (1 WAITING)")
    assert rows(text) == [["-", "WAITING", "0"]]
