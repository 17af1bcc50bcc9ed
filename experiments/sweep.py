"""One run of the command `python runner.py SPEC`: from the spec to the tables."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from experiments.code_version import CodeVersion, present_version
from experiments.devices import usable_cores
from experiments.disk_use import weigh, weight_text
from experiments.dry_run import print_dry_run
from experiments.errors import printable
from experiments.executors.choice import ExecutorName, check_choice, local_executor, ray_executor, ray_slots
from experiments.executors.ray_bundles import Share
from experiments.footprint import Footprints
from experiments.frozen_code import Choice, admit, generation, refusal, run_stored_source
from experiments.input_checks import check_inputs
from experiments.json_file import write_json, write_text
from experiments.live_view import LiveView
from experiments.machine import Machine, this_machine
from experiments.report.entries import Entry, entries, has_work_left
from experiments.report.leaderboard import write_tables
from experiments.report.terminal import print_report
from experiments.reuse import Library
from experiments.slots import Slot
from experiments.spec import SweepSpec, load_spec, spec_name
from experiments.stopping import STOP_WITHIN_S, StopRequest, interrupt_on_signals, stop_on_signals
from experiments.storage_url import StorageUrl, take_storage
from experiments.store import SweepStore
from experiments.time_estimate import footprints, history
from experiments.tracking.supervision import mirrored
from experiments.trial import TrialState
from experiments.view import PlainView, View

if TYPE_CHECKING:
    from experiments.databases import Database
    from experiments.executors.attended import AttendedExecutor
    from experiments.executors.base import Executor
    from experiments.report.statistics import SweepStatistics
    from experiments.scheduler import Scheduler
    from experiments.study import Study

MAX_RESULTS = 2000
"""So many earlier trials are looked at for what trials cost."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """The command line of a sweep.

    Attributes:
        settings: `KEY=VALUE` each, over the spec.
        arguments: all of it, as it was given, for a stored source that runs it instead.
        code: what to do where the source, the packages or the data have changed; None: ask.
        report: the statistics are printed and report.html is written at the end.
        reuse: results of other sweeps in the same folder stand for trials of this one.
        storage: URL of the database that the study is kept in; None: as the environment says, else a file.
        ray_address: of the head of the cluster; None: what RAY_ADDRESS says, else the cluster of this machine.
    """

    results: Path = Path("results")
    settings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = field(default=(), repr=False)
    code: Choice | None = None
    dry_run: bool = False
    report: bool = True
    retry_failed: bool = False
    continue_pruned: bool = False
    reuse: bool = True
    gpus: str | None = None
    cpu_slots: int | None = None
    storage: str | None = field(default=None, repr=False)
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
        store = SweepStore(options.results / spec_name(file, options.settings))
        run_stored_source(store, options.arguments, storage=options.storage)
    storage = take_storage(options.storage, os.environ)
    spec = load_spec(file, options.settings)
    check_inputs(spec)
    store = SweepStore(options.results / spec.name)
    version = present_version(plan.config for plan in spec.corners)
    if code := generation(store, version, options.code):
        spec = load_spec(file, options.settings, code=code)
    console = Console(soft_wrap=not sys.stdout.isatty())
    _log_to(console)
    machine = _machine(spec, options, console) if options.executor == "local" else None
    if options.dry_run:
        if _has_work_left(spec, store, options) and (reason := refusal(store, version, options.code)):
            log.warning("%s", reason)
        slots = machine.slots if machine is not None else ray_slots(options.ray_address, share=_share(spec, options))
        print_dry_run(console, spec, store, slots, library=_library(store, version, options))
        return 0
    status, found = _run(spec, store, machine, console, options, version, storage)
    wanted = options.report and status != 130  # who stops it wants it to end
    statistics = _statistics(spec, found) if wanted else None
    print_report(console, spec, found, statistics=statistics)
    if statistics is not None and _write_page(spec, store, found, statistics):
        console.print(Text(f"report in {store.report}"))
    console.print(Text(f"results in {store.folder} ({weight_text(weigh(store.folder))})"))
    return status


def _statistics(spec: SweepSpec, found: Sequence[Entry]) -> SweepStatistics | None:
    """None where nothing has finished. A fault in it is a warning: the sweep is done, and its status is its trials'."""
    if not any(entry.result is not None for entry in found):
        return None
    from experiments.report.statistics import sweep_statistics  # numpy and scipy, which a dry run must not wait for

    try:
        return sweep_statistics(spec, found)
    except Exception as error:
        log.warning("no statistics: %s: %s (runner.py report shows where)", type(error).__name__, error)
        return None


def _write_page(spec: SweepSpec, store: SweepStore, found: Sequence[Entry], statistics: SweepStatistics) -> bool:
    """Writes report.html. What goes wrong with the disk then is no fault of the sweep."""
    from experiments.report.command import write_report

    try:
        write_report(spec, store, found, statistics, formats=["html"])
    except OSError as error:
        log.warning("%s: is not up to date (%s); `runner.py report` writes it again", store.report, error)
        return False
    return True


def _run(
    spec: SweepSpec,
    store: SweepStore,
    machine: Machine | None,
    console: Console,
    options: Options,
    version: CodeVersion,
    storage: StorageUrl | None,
) -> tuple[int, list[Entry]]:
    """Under the sweep's lock: reconcile, prepare, run, write the tables.

    Returns:
        The exit status, and the trials that the tables are made of.
    """
    # what only a real run needs, and a dry run must not wait for
    from experiments.databases import DatabaseAway
    from experiments.disk_space import FullDisk
    from experiments.environment import environment
    from experiments.executors.attended import AttendedExecutor
    from experiments.ledger import Ledger
    from experiments.local_monitor import LocalMonitor
    from experiments.lock import sweep_lock
    from experiments.patience import PatientWriter
    from experiments.scheduler import Scheduler
    from experiments.shrinking import shrink_left_over

    stop = StopRequest()
    with (
        interrupt_on_signals(),
        sweep_lock(store.lock, say=lambda line: console.print(Text(line))),
        contextlib.ExitStack() as stack,
    ):
        executor = stack.enter_context(_executor(spec, store, machine, console, options))
        view = _view(console, spec, lambda: executor.slots)
        stack.callback(view.stop)
        attended = AttendedExecutor(executor)
        patiently = PatientWriter(
            FullDisk(store.folder),
            DatabaseAway(),
            say=view.message,
            must_stop=lambda: stop.asked,
            sleep=attended.pass_time,
        ).write
        database = _database(store, storage, stop)
        with database.alone():
            pass  # so that nothing is written before it is known to be there
        if is_work_left := _has_work_left(spec, store, options):
            patiently(lambda: admit(store, version, choice=options.code, code=spec.code))
        study = patiently(lambda: _study(spec, store, database))
        stack.callback(study.close)
        patiently(lambda: write_text(store.spec, spec.text))
        patiently(lambda: write_json(store.environment, environment()))
        ledger = Ledger(
            store=store,
            study=study,
            objective=spec.objective,
            retry_failed=options.retry_failed,
            continue_pruned=options.continue_pruned,
            patiently=patiently,
            keep_checkpoints=spec.resources.keep_checkpoints,
            compares_epochs=spec.pruner is not None or bool(spec.blocks),
            library=_library(store, version, options),
            code_of=version.of_trial,
        )
        monitor = None if machine is None else stack.enter_context(contextlib.closing(LocalMonitor(machine.gpus)))
        stack.enter_context(mirrored(spec, store, say=view.message, is_work_left=is_work_left, stop=stop))
        known = _known_costs(store, options) if is_work_left else None
        scheduler = Scheduler(
            spec=spec, ledger=ledger, executor=attended, view=view, stop=stop, monitor=monitor, known=known
        )
        if scheduler.plans_to_run():
            executor.warm_up()
        _train(scheduler, attended, stop, view)
        found = entries(spec, store)
        with stop_on_signals(stop):
            patiently(lambda: write_tables(store, spec, found))
        if not stop.asked:
            shrink_left_over(found, spec.resources.keep_checkpoints, warn=lambda text: view.message(f"warning: {text}"))
        return _status(scheduler, stop), found


def _status(scheduler: Scheduler, stop: StopRequest) -> int:
    from experiments.exit_status import exit_status

    return exit_status(scheduler.results(), total=scheduler.total, stopped=stop.asked, gave_up=scheduler.gave_up)


def _known_costs(store: SweepStore, options: Options) -> Footprints:
    """What trials have taken, of this sweep first of all."""
    return footprints(itertools.islice(history((), options.results, first=store.folder), MAX_RESULTS))


def _train(scheduler: Scheduler, attended: AttendedExecutor, stop: StopRequest, view: View) -> None:
    """The search, then the final stage, each after what its trials share is there."""
    from experiments.prepare import prepare

    if plans := scheduler.plans_to_run():
        prepare(plans, workers=usable_cores(), view=view)
    with stop_on_signals(stop), _save_when_interrupted(attended, stop, view):
        scheduler.run()
    if plans := scheduler.enter_final_stage():
        prepare(plans, workers=usable_cores(), view=view)
        with stop_on_signals(stop), _save_when_interrupted(attended, stop, view):
            scheduler.run_final_stage()


def _database(store: SweepStore, storage: StorageUrl | None, stop: StopRequest) -> Database:
    from experiments.databases import SqliteFile

    if storage is None:
        if store.study_id.exists():
            log.warning(
                "%s: was kept in a database before (--storage); its study goes on in %s", store.folder, store.study
            )
        return SqliteFile(store.study)
    from experiments.postgresql import PostgresDatabase

    return PostgresDatabase(storage, must_stop=lambda: stop.asked)


def _study(spec: SweepSpec, store: SweepStore, database: Database) -> Study:
    """A study has one objective for life: another one is another study."""
    from experiments.shared_study import claim, sweep_id
    from experiments.study import Study

    name = f"{spec.name}: {spec.objective.direction} {spec.objective.metric}"
    if not database.is_shared:
        return Study(database=database, name=name, direction=spec.objective.direction)
    study = Study(database=database, name=f"{name} ({sweep_id(store)})", direction=spec.objective.direction)
    try:
        claim(study, store)
    except BaseException:
        study.close()
        raise
    return study


def _has_work_left(spec: SweepSpec, store: SweepStore, options: Options) -> bool:
    again = {TrialState.FAIL: options.retry_failed, TrialState.PRUNED: options.continue_pruned}
    return has_work_left(spec, store, again=[state for state, asked in again.items() if asked])


def _library(store: SweepStore, version: CodeVersion, options: Options) -> Library | None:
    return Library(options.results, but=store, code_of=version.of_trial) if options.reuse else None


def _machine(spec: SweepSpec, options: Options, console: Console) -> Machine:
    """Where trials may run, which is said."""
    machine = this_machine(spec.resources, gpus=options.gpus, cpus=options.cpu_slots, environment=os.environ)
    for warning in machine.warnings:
        log.warning("%s", warning)
    if machine.line:
        console.print(Text(machine.line))
    return machine


def _share(spec: SweepSpec, options: Options) -> Share:
    """How much of a cluster is used. Its GPUs' memory is not read: each takes one trial unless the spec says more."""
    count = options.cpu_slots if options.cpu_slots is not None else spec.resources.cpu_slots
    places = spec.resources.trials_per_gpu
    return Share(
        on_gpus=False if options.cpu_slots is not None else None,
        cpu_slots=None if count == "auto" else count,
        places=1 if places == "auto" else places,
    )


def _executor(
    spec: SweepSpec, store: SweepStore, machine: Machine | None, console: Console, options: Options
) -> contextlib.AbstractContextManager[Executor]:
    """Started when it is entered, under the sweep's lock.

    Args:
        machine: this one; None: a cluster.
    """
    if machine is not None:
        return local_executor(machine.slots)

    def say(line: str) -> None:
        console.print(Text(printable(line)))

    return ray_executor(options.ray_address, folder=store.folder, share=_share(spec, options), say=say)


def _view(console: Console, spec: SweepSpec, slots: Callable[[], Sequence[Slot]]) -> View:
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
def _save_when_interrupted(executor: AttendedExecutor, stop: StopRequest, view: View) -> Iterator[None]:
    """A stop that comes while something is waited for: attempts save all the same; the folders tell the next run."""
    try:
        yield
    except KeyboardInterrupt:
        view.message("stopping: running trials save and end")
        executor.save_all(within_s=STOP_WITHIN_S, at_once=lambda: stop.now)
        raise
