"""`runner.py gc`: gives back the space of what a sweep does not need any more, and says how much it was."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.disk_use import FileOnDisk, bytes_text, file_on_disk, files_in, weigh
from experiments.errors import UserError
from experiments.final_stage import best_configuration, by_configuration
from experiments.knowledge import Knowledge
from experiments.lock import sweep_lock
from experiments.report.entries import Entry, entries
from experiments.report.leaderboard import ranked
from experiments.shrinking import has_weights_alone, shrink
from experiments.spec import SweepSpec
from experiments.spec_document import KeepCheckpoints
from experiments.spec_of_sweep import load_spec_of_sweep
from experiments.store import StoredTrial, SweepStore, read_result
from experiments.trial import TrialState
from wsol.atomic_file import sync_folder
from wsol.checkpoint_files import checkpoint_files, superfluous

log = logging.getLogger(__name__)

TEMPORARY = "temporary files"
OLDER = "older checkpoints"
OPTIMIZERS = "optimizer states"
WEIGHTS = "weights of complete trials"
PRUNED = "checkpoints of pruned trials"
FAILED = "checkpoints of failed trials"
DROPPED = "trials that the spec does not have"


@dataclass(frozen=True)
class CleaningOptions:
    """The command line of `gc`.

    Attributes:
        settings: `KEY=VALUE` each, over the spec.
        dry_run: only say what would be removed.
        weights: which complete trials keep their model's weights; None: what the spec says.
        pruned, failed: checkpoints of such trials go, too.
        dropped: folders of trials go that the spec does not have any more.
    """

    results: Path = Path("results")
    settings: tuple[str, ...] = ()
    dry_run: bool = False
    weights: Literal["best", "all", "none"] | None = None
    pruned: bool = False
    failed: bool = False
    dropped: bool = False


@dataclass(frozen=True)
class FoundTrial:
    """A trial folder.

    Attributes:
        state: as the folder tells it; None where it has no result.
        in_spec: whether it counts for the spec as it is now.
    """

    trial: StoredTrial
    state: TrialState | None
    in_spec: bool


class Removal:
    """Removes files and keeps account of them.

    Args:
        dry_run: only keep account.
    """

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.rows: dict[str, tuple[int, int]] = {}
        """Files and bytes of each kind."""
        self.shared = 0
        """Bytes that have another name, so that they stay."""
        self.faults = 0

    def remove(self, kind: str, paths: Iterable[Path]) -> None:
        """Removes files and folders. What cannot be removed is a warning."""
        for path in paths:
            files = list(files_in(path)) if path.is_dir() and not path.is_symlink() else [file_on_disk(path)]
            self._attempt(kind, files, path, _delete)

    def remove_trial(self, trial: StoredTrial) -> None:
        """Removes a trial's folder."""
        folder = trial.paths.folder
        self._attempt(DROPPED, list(files_in(folder)), folder, lambda _: _remove_trial(trial))

    def record(self, kind: str, *, files: int, size: int, is_shared: bool) -> None:
        """Takes account of what was, or would be, removed."""
        if files:
            before = self.rows.get(kind, (0, 0))
            self.rows[kind] = (before[0] + files, before[1] + size)
            self.shared += size if is_shared else 0

    def warn(self, text: str) -> None:
        """Something stays though it should not."""
        self.faults += 1
        log.warning("%s", text)

    def _attempt(self, kind: str, files: Sequence[FileOnDisk], path: Path, delete: Callable[[Path], None]) -> None:
        try:
            if not self.dry_run:
                delete(path)
        except OSError as error:
            self.warn(f"{path} stays: {error.strerror}")
            return
        for file in files:
            self.record(kind, files=1, size=file.size, is_shared=file.is_shared)


def clean(file: Path, options: CleaningOptions) -> int:
    """Removes from a sweep's folder what nothing needs, and what the options name; prints a table of it.

    Metrics, results, configs, detections and pictures of a trial that stays are never touched.

    Returns:
        The exit status: 0 done, 1 something could not be removed.

    Raises:
        UserError: for a fault in the spec or the command line, a sweep without results, and one that is running.
    """
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")  # to stderr
    spec = load_spec_of_sweep(file, options.settings, options.results)
    store = SweepStore(options.results / spec.name)
    if not store.folder.is_dir():
        raise UserError(f"got no results of {file} in {store.folder}; expected those of a sweep that was run")
    console = Console(soft_wrap=not sys.stdout.isatty())
    with sweep_lock(store.lock):
        before = sum(weigh(store.folder).values())
        removal = Removal(dry_run=options.dry_run)
        _remove(spec, store, options, removal, console)
        after = before - sum(size for _, size in removal.rows.values())
        if not options.dry_run:
            after = sum(weigh(store.folder).values())
    _print(console, store.folder, removal, before=before, after=after)
    return 1 if removal.faults else 0


def _remove(spec: SweepSpec, store: SweepStore, options: CleaningOptions, removal: Removal, console: Console) -> None:
    found = entries(spec, store)
    trials = found_trials(spec, store, found)
    removal.remove(TEMPORARY, store.temporary())
    if options.dropped:
        dropped = [one for one in trials if not one.in_spec]
        for one in dropped:
            console.print(Text(_dropped_line(one, dry_run=options.dry_run)))
        for one in dropped:
            removal.remove_trial(one.trial)
        trials = [one for one in trials if one.in_spec]
    keep = weights_to_keep(spec, found, options)
    to_shrink: list[Path] = []
    for one in trials:
        folder = one.trial.paths.checkpoint
        if one.state is TrialState.COMPLETE:
            kept = keep(one.trial)
            if kept == "none":
                removal.remove(WEIGHTS, _paths(folder))
            elif kept == "weights" and not has_weights_alone(folder):
                to_shrink.append(folder)
        elif (one.state is TrialState.PRUNED and options.pruned) or (one.state is TrialState.FAIL and options.failed):
            removal.remove(PRUNED if one.state is TrialState.PRUNED else FAILED, _paths(folder))
        elif one.state is not None and (options.weights or spec.resources.keep_checkpoints != "all"):
            removal.remove(OLDER, superfluous(folder))
    _shrink(to_shrink, removal)


def found_trials(spec: SweepSpec, store: SweepStore, found: Sequence[Entry]) -> list[FoundTrial]:
    """Every trial folder. In the spec is what the leaderboard has, and the final stage of an earlier winner.

    Trials of the final stage tell that its split is no longer unseen, so they stay while the spec has such a stage.
    """
    signatures = {entry.plan.signature for entry in found}
    results = {entry.trial.paths.folder: entry.result for entry in found if entry.trial is not None}
    trials = []
    for trial in store.trials():
        folder = trial.paths.folder
        result = results[folder] if folder in results else read_result(trial)
        in_spec = trial.signature in signatures or (trial.stage == "final" and spec.final is not None)
        trials.append(FoundTrial(trial, result.state if result is not None else None, in_spec))
    return trials


def weights_to_keep(
    spec: SweepSpec, found: Sequence[Entry], options: CleaningOptions
) -> Callable[[StoredTrial], KeepCheckpoints]:
    """What stays of the checkpoints of a complete trial.

    `best`: weights of the best configuration, of the final stage, and of the trial that `predict` takes.
    """
    if options.weights is None:
        return lambda trial: spec.resources.keep_checkpoints
    if options.weights == "best":
        best = _best(spec, found)
        return lambda trial: "weights" if trial.stage == "final" or trial.signature in best else "none"
    kept: KeepCheckpoints = "weights" if options.weights == "all" else "none"
    return lambda trial: kept


def _best(spec: SweepSpec, found: Sequence[Entry]) -> set[str]:
    """Signatures of the best configuration's trials and of the best complete trial."""
    objective = spec.objective
    known = Knowledge(metric=objective.metric, direction=objective.direction)
    search = [entry for entry in found if entry.plan.stage == "search"]
    for entry in search:
        if entry.result is not None:
            known.finish(entry.plan.signature, entry.result)
    configurations = by_configuration(entry.plan for entry in search)
    best = best_configuration(configurations, known, direction=objective.direction)
    order = ranked(found, metric=objective.metric, direction=objective.direction)
    first = [entry.plan.signature for entry in order if entry.state is TrialState.COMPLETE][:1]
    return {*first, *(plan.signature for plan in (configurations[best.configuration] if best else []))}


def _shrink(folders: Sequence[Path], removal: Removal) -> None:
    """Replaces checkpoints by weights; what the weights do not need is what was removed."""
    files = {folder: [(file, file_on_disk(file.path)) for file in checkpoint_files(folder)] for folder in folders}
    for folder, size in shrink(folders, warn=removal.warn, dry_run=removal.dry_run).items():
        *older, (newest, on_disk) = files[folder]
        for _, file in older:
            removal.record(OLDER, files=1, size=file.size, is_shared=file.is_shared)
        if not newest.weights_alone:
            removal.record(OPTIMIZERS, files=1, size=on_disk.size - size, is_shared=on_disk.is_shared)


def _paths(folder: Path) -> list[Path]:
    return [file.path for file in checkpoint_files(folder)]


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _dropped_line(one: FoundTrial, *, dry_run: bool) -> str:
    size = sum(file.size for file in files_in(one.trial.paths.folder))
    state = one.state or "not finished"
    verb = "would go" if dry_run else "goes"
    return f"trial {one.trial.number} {verb}: {state}, {bytes_text(size)} in {one.trial.paths.folder}"


def _print(console: Console, folder: Path, removal: Removal, *, before: int, after: int) -> None:
    if removal.rows:
        console.print(removed_table(removal))
    else:
        console.print("nothing to remove")
    verb = "would start" if removal.dry_run else "start"
    for kind, state, option in ((PRUNED, "pruned", "--continue-pruned"), (FAILED, "failed", "--retry-failed")):
        if kind in removal.rows:
            console.print(Text(f"{state} trials {verb} anew with {option}"))
    if removal.shared:
        console.print(Text(f"{bytes_text(removal.shared)} of that is shared with other sweeps and stays there"))
    sizes = bytes_text(before), bytes_text(after)
    if removal.dry_run:
        console.print(Text("{}: {} now, {} then; dry run: nothing was removed".format(folder, *sizes)))
    else:
        console.print(Text("{}: {} before, {} after".format(folder, *sizes)))


def removed_table(removal: Removal) -> Table:
    """A row a kind, and their sum."""
    table = Table()
    table.add_column("would be removed" if removal.dry_run else "removed")
    table.add_column("files", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    for kind, (files, size) in removal.rows.items():
        table.add_row(kind, str(files), bytes_text(size))
    files, size = (sum(column) for column in zip(*removal.rows.values(), strict=True))
    table.add_section()
    table.add_row("in all", str(files), bytes_text(size))
    return table


def _remove_trial(trial: StoredTrial) -> None:
    """Deletes a trial's folder. Stopped at any instant, it is there as it was or is among `SweepStore.temporary`."""
    folder = trial.paths.folder
    going = folder.with_name(f".{folder.name}.tmp")
    if going.exists():
        shutil.rmtree(going)
    os.rename(folder, going)
    sync_folder(folder.parent)
    shutil.rmtree(going)
