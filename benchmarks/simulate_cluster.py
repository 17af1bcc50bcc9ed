"""What a sweep of 20,000 trials on 1,000 GPUs costs the runner, and how well it uses them.

The scheduler, its placement, the ledger, the study (SQLite) and all files are the real ones; the GPUs, the clock, the
failures and the trials' times are simulated (`simulated_cluster.py`). Prints milliseconds of processor time a trial,
in our own code and with the study; the last twentieth of it against the first, which is near 1 when a trial costs the
same however many have finished; the memory of this process, which has the simulated attempts, too; and the time to the
last trial against what no order could beat, and against the longest trials first, their times known beforehand.

Run: `python benchmarks/simulate_cluster.py`. With `--folder` the sweep stays there, and the same command goes on with
it: `--stop-after 10000`, then the same without it shows what a restart in the midst costs.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from cost_ledger import PER_TRIAL, CostLedger
from simulated_cluster import Lived, SimulatedCluster

from experiments.ledger import Ledger
from experiments.report.entries import entries
from experiments.report.leaderboard import write_tables
from experiments.scheduler import Scheduler
from experiments.slots import gpu_slots, planned_slots
from experiments.spec import load_spec
from experiments.stopping import StopRequest
from experiments.store import SweepStore
from experiments.study import Study
from experiments.trial import TrialState
from experiments.view import Best, Counts, PlainView

PROPOSAL_COUNTS = (100, 300, 1000, 2000, 4000)
SEEDS = 10
TRIALS_A_RATE = len(PROPOSAL_COUNTS) * SEEDS
SHARE = 0.05
"""Of the operations, for the first and the last ones: 1,000 trials of 20,000."""
_PRUNERS = {"asha": "{asha: {min_epochs: 1, reduction_factor: 2}}", "median": "{median: {}}"}


def spec_text(trials: int, pruner: str | None = None) -> str:
    """A grid over learning rates and proposal counts, with replicates."""
    rates = ", ".join(f"{(index + 1) * 1e-6:.6e}" for index in range(trials // TRIALS_A_RATE))
    return (
        "name: cluster\n"
        "experiment:\n  task: wsddn\n  data: {root: digits}\n  model: {backbone: tiny, weights: none}\n"
        "  train: {epochs: 3}\n"
        f"search:\n  - grid:\n      train.lr: [{rates}]\n      proposals.count: {list(PROPOSAL_COUNTS)}\n"
        f"seeds: {SEEDS}\n" + (f"pruner: {_PRUNERS[pruner]}\n" if pruner else "")
    )


@dataclass
class Simulation:
    """What came of a run.

    Attributes:
        phases: seconds of the processor and by the clock, by what was done.
        states: of the results, how many of each.
    """

    costs: CostLedger
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)
    lived: list[Lived] = field(default_factory=list)
    states: Counter[TrialState] = field(default_factory=Counter)
    reused: int = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times what is done in it."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.phases[name] = time.process_time() - cpu, time.perf_counter() - wall


class _MeteredView(PlainView):
    """The lines of a log file; the ends of trials are told to the costs, and when to stop to the scheduler."""

    def __init__(self, *, stream: TextIO, costs: CostLedger, stop: StopRequest, stop_after: int | None) -> None:
        super().__init__(objective="ap50_11pt/mean", stream=stream)
        self._costs, self._stop, self._stop_after = costs, stop, stop_after

    def progress(self, counts: Counts, best: Best | None) -> None:
        """An attempt has ended, and all has been done about it."""
        super().progress(counts, best)
        self._stop.asked = self._stop_after is not None and counts.finished >= self._stop_after
        if self._costs.handling == "end":
            self._costs.charge()


def simulate(
    folder: Path,
    *,
    trials: int,
    slots: int,
    seed: int,
    pruner: str | None = None,
    stop_after: int | None = None,
    costs: CostLedger | None = None,
) -> Simulation:
    """Runs the sweep in `folder`, or what is left of it, and writes its tables.

    Args:
        trials: a multiple of `TRIALS_A_RATE`.
        stop_after: so many results the sweep is asked to stop; None: never.
        costs: takes what is measured.
    """
    costs = costs or CostLedger()
    run = Simulation(costs=costs)
    file = folder / "cluster.yaml"
    file.write_text(spec_text(trials, pruner), "utf-8")
    store = SweepStore(folder / "cluster")
    stop = StopRequest()
    cluster = SimulatedCluster(gpu_slots([str(index) for index in range(slots)], cores=slots), costs=costs, seed=seed)
    with run.phase("reading the spec"):
        spec = load_spec(file)
    with run.phase("opening the study"):
        study = Study(file=store.study, name="cluster", direction="maximize")
    costs.watch(study)
    try:
        with (folder / "log.txt").open("a", encoding="utf-8") as stream:
            view = _MeteredView(stream=stream, costs=costs, stop=stop, stop_after=stop_after)
            with run.phase("reading the folders"):
                ledger = Ledger(
                    store=store, study=study, objective=spec.objective, compares_epochs=spec.pruner is not None
                )
            with run.phase("taking stock"):
                scheduler = Scheduler(
                    spec=spec,
                    ledger=ledger,
                    executor=cluster,
                    view=view,
                    stop=stop,
                    monitor=cluster,
                    clock=cluster.clock,
                )
            run.reused = len(scheduler.results())
            costs.begin()
            with run.phase("running"):
                scheduler.run()
            costs.charge()
        with run.phase("writing the tables"):
            write_tables(store, spec, entries(spec, store))
    finally:
        study.close()
    run.lived = cluster.lived
    run.states = Counter(result.state for result in scheduler.results().values())
    return run


def lower_bound(durations: Sequence[float], *, slots: int) -> float:
    """No order of work on so many slots ends before."""
    return max(sum(durations) / slots, max(durations))


def report(run: Simulation, *, slots: int) -> None:
    """Prints what the run cost."""
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(run.states.items()))
    print(f"results: {states}; {run.reused:,} of them from before; {len(run.lived):,} attempts")
    for name, (cpu, wall) in run.phases.items():
        print(f"{name:20} {cpu:8.2f} s of CPU {wall:8.2f} s by the clock")
    print(f"{'playing the attempts':20} {run.costs.outside:8.2f} s of CPU, of no concern here")
    trials = sum(run.states.values()) - run.reused
    if trials and run.lived:
        _report_costs(run, trials)
        _report_packing(run.lived, slots=slots)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {peak / 1e6:,.0f} MB")


def _report_costs(run: Simulation, trials: int) -> None:
    print(f"{'a trial, in ms':20} {'own CPU':>9} {'study CPU':>9} {'wall':>9}")
    for operation, costs in run.costs.costs.items():
        parts = [1000 * total / trials for total in (costs.total("own"), costs.total("study"), costs.total("wall"))]
        print(f"  {operation:18} {parts[0]:9.3f} {parts[1]:9.3f} {parts[2]:9.3f}  ({len(costs.own):,} times)")
    every = run.costs.costs.values()
    own, study, wall = (1000 * sum(c.total(part) for c in every) / trials for part in ("own", "study", "wall"))
    print(f"  {'all':18} {own:9.3f} {study:9.3f} {wall:9.3f}")
    print(f"own {own:.2f} ms of CPU a trial, with the study {own + study:.2f} ms; {wall:.2f} ms by the clock")
    count = max(1, round(SHARE * trials))
    for part in ("own", "study", "wall"):
        first, last = (
            sum(run.costs.costs[operation].ends(part, SHARE)[index] for operation in PER_TRIAL) for index in (0, 1)
        )
        print(
            f"first {count:,} trials {1000 * first / count:.2f} ms each, last {1000 * last / count:.2f} ms each"
            f" ({part}): ratio {last / first:.2f}"
        )


def _report_packing(lived: Sequence[Lived], *, slots: int) -> None:
    durations = [one.ended - one.began for one in lived]
    makespan, bound = max(one.ended for one in lived), lower_bound(durations, slots=slots)
    _, best_fit = planned_slots(sorted(durations, reverse=True), slots=slots)
    print(
        f"the last trial ends after {makespan:,.0f} s: {makespan / bound:.3f} of the lower bound {bound:,.0f} s,"
        f" {makespan / best_fit:.3f} of the longest first ({best_fit:,.0f} s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=1_000, help="GPUs (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=20_000, help=f"a multiple of {TRIALS_A_RATE} (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of times and failures (default: %(default)s)")
    parser.add_argument("--pruner", choices=sorted(_PRUNERS), help="none but for this")
    parser.add_argument("--folder", type=Path, help="where the sweep is kept; default: a temporary one")
    parser.add_argument("--stop-after", type=int, help="so many results the sweep is stopped")
    options = parser.parse_args()
    if options.trials < TRIALS_A_RATE or options.trials % TRIALS_A_RATE or options.slots < 1:
        sys.exit(f"got {options.trials} trials, {options.slots} slots; expected a multiple of {TRIALS_A_RATE}, and 1")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = simulate(
            folder,
            trials=options.trials,
            slots=options.slots,
            seed=options.seed,
            pruner=options.pruner,
            stop_after=options.stop_after,
        )
        report(run, slots=options.slots)


if __name__ == "__main__":
    main()
