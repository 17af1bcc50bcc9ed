"""The simulated cluster tells the truth, and what a trial costs the runner does not grow with those that are finished.

Work is counted, not timed: instructions of our own code, files opened.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest
import simulate_cluster
import simulated_cluster
from cost_ledger import PER_TRIAL, CostLedger
from simulate_cluster import Simulation, lower_bound, main, simulate, spec_text

from experiments.metrics_file import read_metrics
from experiments.spec import load_spec
from experiments.store import SweepStore, read_result
from experiments.study import StudyTrial
from experiments.trial import TrialState

ENGINE = str(Path(__file__).resolve().parents[2] / "experiments")
TRIALS, SLOTS = 50, 4

_opened: list[str] | None = None


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_note_opened)  # for ever: Python takes none back


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """The paths that are opened meanwhile, or tried to."""
    global _opened
    _opened = found = []
    try:
        yield found
    finally:
        _opened = None


class Instructions:
    """Counts the instructions of Python that the engine's own code runs. A loop over n things counts n times."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Instructions:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(ENGINE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._ran

    def _ran(self, frame: FrameType, event: str, _: Any) -> Any:
        self.count += event == "opcode"
        return self._ran


class NoStudy:
    """In the study's place where only our own code is of interest."""

    at_first: ClassVar[dict[int, StudyTrial]] = {}

    def __init__(self, **_: Any) -> None: ...

    def start(self, *_: Any, **__: Any) -> None: ...

    record_attempt = record_decision = finish = close = start


@pytest.fixture
def no_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_cluster, "Study", NoStudy)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Simulation, SweepStore]:
    """A sweep in two runs of the command, stopped in between; failures are frequent."""
    folder = tmp_path_factory.mktemp("cluster")
    often = {"oom": 0.1, "killed": 0.1, "crash": 0.1, "error": 0.1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_cluster, "FAILURES", often)
        first = simulate(folder, trials=TRIALS, slots=SLOTS, seed=1, stop_after=20)
        second = simulate(folder, trials=TRIALS, slots=SLOTS, seed=1)
    assert second.reused == sum(first.states.values()) >= 20
    return replace(second, lived=[*first.lived, *second.lived]), SweepStore(folder / "cluster")


class TestSimulation:
    def test_every_trial_once(self, run: tuple[Simulation, SweepStore]) -> None:
        simulation, store = run
        spec = load_spec(store.folder.parent / "cluster.yaml")
        trials = store.trials()
        assert sorted(t.signature for t in trials) == sorted(plan.signature for plan in spec.plans)
        results = {trial.signature: read_result(trial) for trial in trials}
        assert all(result is not None for result in results.values())
        complete = Counter(one.signature for one in simulation.lived if one.ending == "complete")
        assert complete == {s: 1 for s, r in results.items() if r is not None and r.state is TrialState.COMPLETE}
        assert simulation.states == Counter(result.state for result in results.values() if result is not None)
        assert simulation.states[TrialState.FAIL] > 0

    def test_every_epoch_once(self, run: tuple[Simulation, SweepStore]) -> None:
        _, store = run
        epochs = {
            trial.number: [row["epoch"] for row in read_metrics(trial.paths)]
            for trial in store.trials()
            if (result := read_result(trial)) is not None and result.state is TrialState.COMPLETE
        }
        assert epochs == dict.fromkeys(epochs, [1, 2, 3])

    def test_all_endings_come(self, run: tuple[Simulation, SweepStore]) -> None:
        assert {one.ending for one in run[0].lived} == {"complete", "oom", "killed", "crash", "error", "stopped"}

    @pytest.mark.parametrize("of", ["slot", "signature"])
    def test_nothing_overlaps_in_a_slot_or_a_trial(self, run: tuple[Simulation, SweepStore], of: str) -> None:
        ends: dict[object, float] = {}
        simulation, _ = run
        second = simulation.lived[-1]
        assert second.ending == "complete"
        began_again = next(
            i for i, one in enumerate(simulation.lived) if i and one.ended < simulation.lived[i - 1].ended
        )
        for one in sorted(simulation.lived[began_again:], key=lambda one: one.began):
            assert one.began >= ends.get(getattr(one, of), 0.0)
            ends[getattr(one, of)] = one.ended

    @pytest.mark.usefixtures("no_study")
    def test_the_same_seed_is_the_same_run(self, tmp_path: Path) -> None:
        lived = []
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            (tmp_path / name).mkdir()
            lived.append(simulate(tmp_path / name, trials=TRIALS, slots=20, seed=seed).lived)
        assert lived[0] == lived[1] != lived[2]


class TestCosts:
    @pytest.mark.usefixtures("no_study")
    def test_do_not_grow_with_the_trials_that_are_finished(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(simulated_cluster, "FAILURES", {})
        counted = Instructions()
        costs = CostLedger(clock=lambda: counted.count)
        with counted:
            simulate(tmp_path, trials=100, slots=5, seed=0, costs=costs)
        for operation in PER_TRIAL:
            first, last = costs.costs[operation].ends("own", 0.1)
            assert 0 < last <= 1.05 * first, operation

    def test_a_finished_trial_is_not_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each run of the command reads its result once to know it, and once for the tables."""
        monkeypatch.setattr(simulated_cluster, "FAILURES", {})
        store = SweepStore(tmp_path / "cluster")
        with files_opened() as paths:
            simulate(tmp_path, trials=TRIALS, slots=SLOTS, seed=0, stop_after=20)
        opened, trials = Counter(paths), store.trials()
        finished = [trial for trial in trials if trial.paths.result.exists()]
        assert 20 <= len(finished) < len(trials) < TRIALS
        assert {opened[str(trial.paths.result)] for trial in finished} == {2}
        assert {opened[str(trial.paths.config)] for trial in finished} == {1}  # for the tables
        with files_opened() as paths:
            simulate(tmp_path, trials=TRIALS, slots=SLOTS, seed=0)
        again = Counter(paths)
        assert {again[str(trial.paths.result)] for trial in finished} == {2}
        assert {again[str(trial.paths.config)] for trial in finished} == {2}
        assert {again[str(trial.paths.metrics)] for trial in finished} == {0}
        begun = {trial.number for trial in trials}
        new = [trial for trial in store.trials() if trial.number not in begun]
        assert {again[str(trial.paths.result)] for trial in new} == {2}


class TestPrinted:
    def test_figures(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["simulate_cluster.py", "--trials", "50", "--slots", "50"])
        main()
        printed = capsys.readouterr().out
        assert printed.startswith("results: 50 COMPLETE; 0 of them from before; ")
        for words in ("ms of CPU a trial, with the study", "first 2 trials", "of the lower bound", "peak memory"):
            assert words in printed

    @pytest.mark.parametrize("arguments", [["--trials", "0"], ["--trials", "51"], ["--slots", "0"]])
    def test_what_cannot_be_simulated(self, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["simulate_cluster.py", *arguments])
        with pytest.raises(SystemExit, match="expected a multiple of 50"):
            main()


def test_the_lower_bound() -> None:
    assert lower_bound([3.0, 3.0, 3.0], slots=3) == 3.0
    assert lower_bound([9.0, 1.0], slots=2) == 9.0
    assert lower_bound([1.0, 1.0, 1.0, 1.0], slots=2) == 2.0


@pytest.mark.parametrize("pruner", [None, "asha", "median"])
def test_the_grid_has_as_many_trials_as_asked_for(tmp_path: Path, pruner: str | None) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(spec_text(100, pruner))
    spec = load_spec(file)
    assert len(spec.plans) == 100
    assert (spec.pruner is None) == (pruner is None)
    assert len({plan.configuration for plan in spec.plans}) == 100 // simulate_cluster.SEEDS
