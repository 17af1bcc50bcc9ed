"""One run of the command `python runner.py SPEC`: from the spec to the tables."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from experiments.code_version import CodeVersion, present_version
from experiments.devices import chosen_gpus, usable_cores, visible_gpus
from experiments.disk_use import weigh, weight_text
from experiments.dry_run import print_dry_run
from experiments.errors import printable
from experiments.executors.choice import ExecutorName, check_choice, local_executor, ray_executor, ray_slots
from experiments.frozen_code import Choice, admit, generation, refusal, run_stored_source
from experiments.input_checks import check_inputs
from experiments.live_view import LiveView
from experiments.placement import Slot, cpu_slots, gpu_slots
from experiments.report.entries import entries, has_work_left
from experiments.report.leaderboard import write_tables
from experiments.report.terminal import print_report
from experiments.reuse import Library
from experiments.spec import SweepSpec, load_spec, spec_name
from experiments.store import SweepStore, write_json, write_text
from experiments.trial import TrialState
from experiments.view import PlainView, View
from wsol.parent_death import STOPPING_SIGNALS

if TYPE_CHECKING:
    from experiments.executors.base import Executor
    from experiments.scheduler import StopRequest

ONE_SIGNAL_S = 2.0
"""Signals of a batch system that come so soon after the first are the same."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """The command line of a sweep.

    Attributes:
        settings: `KEY=VALUE` each, over the spec.
        arguments: all of it, as it was given, for a stored source that runs it instead.
        code: what to do where the source, the packages or the data have changed; None: ask.
        reuse: results of other sweeps in the same folder stand for trials of this one.
        ray_address: of the head of the cluster; None: what RAY_ADDRESS says, else the cluster of this machine.
    """

    results: Path = Path("results")
    settings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    code: Choice | None = None
    dry_run: bool = False
    retry_failed: bool = False
    continue_pruned: bool = False
    reuse: bool = True
    gpus: str | None = None
    cpu_slots: int | None = None
    executor: ExecutorName = "local"
    ray_address: str | None = None


def run(file: Path, options: Options) -> int:
    """Runs what is left of a sweep and prints its tables.

    Returns:
        The exit status: 0 every trial complete or pruned, 1 a trial failed, 130 interrupted.

    Raises:
        UserError: before anything is started, for a fault in the spec or the command line.
    """
    check_choice(executor=options.executor, ray_address=options.ray_address, gpus=options.gpus)
    if options.code == "keep":  # first of all: the present source may not even read what the stored one reads
        run_stored_source(SweepStore(options.results / spec_name(file, options.settings)), options.arguments)
    spec = load_spec(file, options.settings)
    check_inputs(spec)
    store = SweepStore(options.results / spec.name)
    version = present_version(plan.config for plan in spec.corners)
    if code := generation(store, version, options.code):
        spec = load_spec(file, options.settings, code=code)
    console = Console(soft_wrap=not sys.stdout.isatty())
    _log_to(console)
    if options.dry_run:
        if _has_work_left(spec, store, options) and (reason := refusal(store, version, options.code)):
            log.warning("%s", reason)
        print_dry_run(console, spec, store, _slots(spec, options), library=_library(store, version, options))
        return 0
    status = _run(spec, store, _executor(spec, store, console, options), console, options, version)
    print_report(console, spec, entries(spec, store))
    console.print(Text(f"results in {store.folder} ({weight_text(weigh(store.folder))})"))
    return status


def _run(
    spec: SweepSpec,
    store: SweepStore,
    chosen: contextlib.AbstractContextManager[Executor],
    console: Console,
    options: Options,
    version: CodeVersion,
) -> int:
    """Under the sweep's lock: reconcile, prepare, run, write the tables."""
    # what only a real run needs, and a dry run must not wait for
    from experiments.disk_space import PatientWriter
    from experiments.environment import environment
    from experiments.ledger import Ledger
    from experiments.lock import sweep_lock
    from experiments.prepare import prepare
    from experiments.scheduler import Scheduler, StopRequest, exit_status
    from experiments.shrinking import shrink_left_over
    from experiments.study import Study

    stop = StopRequest()
    with (
        _interrupt_on_signals(),
        sweep_lock(store.lock, say=lambda line: console.print(Text(line))),
        contextlib.ExitStack() as stack,
    ):
        objective = spec.objective  # a study has one objective for life: another one is another study in the file
        name = f"{spec.name}: {objective.direction} {objective.metric}"
        executor = stack.enter_context(chosen)
        view = _view(console, spec, executor.slots)
        stack.callback(view.stop)
        patiently = PatientWriter(store.folder, say=view.message, must_stop=lambda: stop.asked).write
        if _has_work_left(spec, store, options):
            patiently(lambda: admit(store, version, choice=options.code, code=spec.code))
        study = patiently(lambda: Study(file=store.study, name=name, direction=objective.direction))
        stack.callback(study.close)
        patiently(lambda: write_text(store.spec, spec.text))
        patiently(lambda: write_json(store.environment, environment()))
        ledger = Ledger(
            store=store,
            study=study,
            objective=objective,
            retry_failed=options.retry_failed,
            continue_pruned=options.continue_pruned,
            patiently=patiently,
            keep_checkpoints=spec.resources.keep_checkpoints,
            library=_library(store, version, options),
            code_of=version.of_trial,
        )
        scheduler = Scheduler(spec=spec, ledger=ledger, executor=executor, view=view, stop=stop)
        if plans := scheduler.plans_to_run():
            executor.warm_up()
            prepare(plans, workers=usable_cores(), view=view)
        with _stop_on_signals(stop):
            scheduler.run()
        if plans := scheduler.enter_final_stage():
            prepare(plans, workers=usable_cores(), view=view)
            with _stop_on_signals(stop):
                scheduler.run_final_stage()
        found = entries(spec, store)
        with _stop_on_signals(stop):
            patiently(lambda: write_tables(store, spec, found))
        if not stop.asked:
            shrink_left_over(found, spec.resources.keep_checkpoints, warn=lambda text: view.message(f"warning: {text}"))
        return exit_status(scheduler.results(), total=scheduler.total, stopped=stop.asked, gave_up=scheduler.gave_up)


def _has_work_left(spec: SweepSpec, store: SweepStore, options: Options) -> bool:
    again = {TrialState.FAIL: options.retry_failed, TrialState.PRUNED: options.continue_pruned}
    return has_work_left(spec, store, again=[state for state, asked in again.items() if asked])


def _library(store: SweepStore, version: CodeVersion, options: Options) -> Library | None:
    return Library(options.results, but=store, code_of=version.of_trial) if options.reuse else None


def _slots(spec: SweepSpec, options: Options) -> list[Slot]:
    """Where trials may run: the GPUs that are visible, else CPU slots; or what a cluster has of them."""
    if options.executor == "ray":
        return ray_slots(options.ray_address, cpu_slots=_cpu_slots(spec, options), on_gpus=_on_gpus(options))
    cores = usable_cores()
    gpus = visible_gpus(os.environ)
    if options.gpus is not None:
        return gpu_slots(chosen_gpus(options.gpus, gpus), cores=cores)
    if gpus and options.cpu_slots is None:
        return gpu_slots(gpus, cores=cores)
    return cpu_slots(_cpu_slots(spec, options), cores=cores)


def _cpu_slots(spec: SweepSpec, options: Options) -> int | None:
    """Trials at a time on a machine's cores; None: one a core."""
    count = options.cpu_slots if options.cpu_slots is not None else spec.resources.cpu_slots
    return None if count == "auto" else count


def _on_gpus(options: Options) -> bool | None:
    """Whether a cluster's GPUs are used; None: where there are any."""
    return False if options.cpu_slots is not None else None


def _executor(
    spec: SweepSpec, store: SweepStore, console: Console, options: Options
) -> contextlib.AbstractContextManager[Executor]:
    """Started when it is entered, under the sweep's lock."""
    if options.executor == "local":
        return local_executor(_slots(spec, options))
    return ray_executor(
        address=options.ray_address,
        folder=store.folder,
        cpu_slots=_cpu_slots(spec, options),
        on_gpus=_on_gpus(options),
        say=lambda line: console.print(Text(printable(line))),
    )


def _view(console: Console, spec: SweepSpec, slots: Sequence[Slot]) -> View:
    if console.is_terminal:
        return LiveView(console=console, objective=spec.objective.metric, slots=slots)
    return PlainView(objective=spec.objective.metric)


def _log_to(console: Console) -> None:
    """Warnings of this process, one line each, among the view's lines."""
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s", handlers=[_Lines(console)], force=True)


class _Lines(logging.Handler):
    """Log records as lines of a console, unfolded where it is no terminal. (RichHandler folds them at 80 columns.)"""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text(printable(self.format(record))))


@contextlib.contextmanager
def _stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """The first signal lets running trials save and stop; the second ends them now.

    A batch system may send one signal twice at a time, to a script that passes it on and to this process: that is one.
    """
    first_at = -math.inf

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal first_at
        now = time.monotonic()
        if not stop.asked:
            stop.asked, first_at = True, now
        elif number == signal.SIGINT or now - first_at >= ONE_SIGNAL_S:
            stop.now = True

    with contextlib.ExitStack() as stack:
        for number in STOPPING_SIGNALS:
            stack.enter_context(_handler(number, on_signal))
        yield


@contextlib.contextmanager
def _interrupt_on_signals() -> Iterator[None]:
    """What else may end a run is a Ctrl-C, so that it leaves no process behind either."""
    with contextlib.ExitStack() as stack:
        for number in STOPPING_SIGNALS:
            stack.enter_context(_handler(number, signal.default_int_handler))
        yield


@contextlib.contextmanager
def _handler(number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """One that is ignored stays so: under nohup the end of the terminal is no reason to stop."""
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
