"""From the folders of trials to W&B runs. Knows W&B by its contract alone, so that a test can stand in for it.

What is to be done follows from the results folder and from what the server says it has: nothing here must survive a
kill.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.metrics_file import read_metrics
from experiments.store import StoredTrial, SweepStore, TrialResult, read_config, read_result
from experiments.tracking.identity import Identity
from experiments.tracking.run_content import (
    history_row,
    log_tail,
    media_step,
    per_class_table,
    run_end,
    run_head,
    step_of,
)
from experiments.tracking.run_writer import Media, OpenRun, RefusedError, RunWriter, UnreachableError
from experiments.tracking.sent_trials import SentTrials, result_digest, result_stamp
from experiments.tracking.trial_pictures import trial_pictures
from experiments.trial import TrialState

log = logging.getLogger(__name__)

MAX_OPEN = 32
"""Runs of trials that are still training. Those beyond are mirrored when they have ended."""
MAX_TRIES = 3
"""A trial whose files cannot be mirrored is left out after so many."""


@dataclass
class _Followed:
    """A trial that has not ended, or was not mirrored yet.

    Attributes:
        size: of metrics.jsonl when it was last read.
        tries: that failed.
    """

    trial: StoredTrial
    config: Mapping[str, Any]
    run: OpenRun | None = None
    size: int = -1
    tries: int = 0


@dataclass
class Mirror:
    """The state of one process that mirrors a sweep.

    Attributes:
        sweep: its name.
        live: whether trials are mirrored while they train; else once they have ended.
        say: takes a line for people.
    """

    store: SweepStore
    sweep: str
    swept_keys: Sequence[str]
    identity: Identity
    sent: SentTrials
    writer: RunWriter
    live: bool
    say: Callable[[str], None]
    _followed: dict[str, _Followed] = field(default_factory=dict, init=False)
    _over: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    """Trials that need no look until their result is written anew: its stamp by folder name."""
    _complete: set[str] = field(default_factory=set, init=False)
    """Those of them that need no look ever."""
    newly_sent: int = field(default=0, init=False)
    """Trials that were sent by this process."""

    def look(self) -> None:
        """Mirrors what has come since the last look.

        Raises:
            UnreachableError, RefusedError: from the writer; the rest is done at the next look.
        """
        for name in self.store.trial_names():
            if name not in self._complete:
                self._look_at(name)

    def left(self) -> int:
        """Trials with a result that is not sent."""
        return sum(1 for name in self.store.trial_names() if name not in self._complete and self._waits(name))

    def ended(self) -> int:
        """Trials that have ended and are sent."""
        return len(self._over)

    def ended_rows(self) -> dict[str, int]:
        """How many epochs each of them has, by the id of its run."""
        trials = (self.store.stored_trial(name) for name in self._over)
        return {self._run_id(trial): len(read_metrics(trial.paths)) for trial in trials if trial is not None}

    def send_again(self, run_id: str) -> None:
        """Has the next look open a run once more, whatever is known of it."""
        for name in list(self._over):
            trial = self.store.stored_trial(name)
            if trial is not None and self._run_id(trial) == run_id:
                self.sent.forget(run_id)
                self._over.pop(name)
                self._complete.discard(name)

    def close(self) -> None:
        """Ends what W&B runs in the background."""
        self.writer.close()

    def interrupt(self) -> None:
        """Leaves all open runs; what they lack is sent when their trials go on. Raises like `look`."""
        for followed in self._followed.values():
            if (run := followed.run) is not None:
                followed.run = None
                run.interrupt()

    def _waits(self, name: str) -> bool:
        trial = self._trial(name)
        stamp = result_stamp(trial.trial.paths) if trial is not None else None
        return stamp is not None and self._over.get(name) != stamp

    def _trial(self, name: str) -> _Followed | None:
        if name not in self._followed:
            trial = self.store.stored_trial(name)
            config = read_config(trial) if trial is not None else None
            if trial is None or not isinstance(config, Mapping):
                return None  # it is being written, or damaged
            self._followed[name] = _Followed(trial, config)
        return self._followed[name]

    def _look_at(self, name: str) -> None:
        followed = self._trial(name)
        if followed is None:
            return
        stamp = result_stamp(followed.trial.paths)
        if stamp is not None and self._over.get(name) == stamp:
            return
        try:
            if stamp is None:
                self._follow(followed)
            else:
                self._end(name, followed, stamp)
        except (UnreachableError, RefusedError):
            followed.run, followed.size = None, -1
            raise
        except Exception as error:
            self._count_failure(name, followed, stamp, error)

    def _count_failure(self, name: str, followed: _Followed, stamp: tuple[int, int] | None, error: Exception) -> None:
        """Whatever is wrong with a trial's files keeps no other trial from being mirrored."""
        log.exception("trial %s", name)
        if (run := followed.run) is not None:  # else its number would be taken when it is opened again
            followed.run = None
            run.interrupt()
        followed.tries += 1
        if followed.tries >= MAX_TRIES and stamp is not None:
            self.say(f"W&B: trial {followed.trial.number} cannot be mirrored ({type(error).__name__}: {error})")
            self._over[name] = stamp

    def _follow(self, followed: _Followed) -> None:
        """A trial that trains, or that will go on."""
        size = _size(followed.trial)
        if not self.live or size in (0, followed.size):
            return
        if followed.run is None and self._open_runs() >= MAX_OPEN:
            return
        followed.size = size
        self._log_rows(followed, read_metrics(followed.trial.paths))

    def _end(self, name: str, followed: _Followed, stamp: tuple[int, int]) -> None:
        digest, result = result_digest(followed.trial.paths), read_result(followed.trial)
        if digest is None or result is None:  # damaged: the trial is measured again
            return
        if not self.sent.has(self._run_id(followed.trial), digest):
            self._send(followed, result)
            self.sent.add(self._run_id(followed.trial), digest)
            self.newly_sent += 1
        followed.tries = 0
        self._over[name] = stamp
        if result.state is TrialState.COMPLETE:  # it is never taken up again
            self._complete.add(name)
            del self._followed[name]

    def _send(self, followed: _Followed, result: TrialResult) -> None:
        rows = read_metrics(followed.trial.paths)
        run = self._log_rows(followed, rows)
        if result.state is TrialState.COMPLETE:
            run.log_media(self._media(followed, result), step=media_step(rows))
        tail = log_tail(followed.trial.paths.log) if result.state is TrialState.FAIL else ""
        followed.run = None  # whatever comes of it, it is closed
        run.finish(run_end(result, sweep=self.sweep, stage=followed.trial.stage, tail=tail))

    def _log_rows(self, followed: _Followed, rows: Sequence[Mapping[str, Any]]) -> OpenRun:
        """The rows that the server has not. An epoch that was trained twice is the same, so the first one stays."""
        if followed.run is None:
            followed.run = self.writer.open(
                run_head(
                    followed.trial,
                    followed.config,
                    run_id=self._run_id(followed.trial),
                    sweep=self.sweep,
                    swept_keys=self.swept_keys,
                )
            )
        for row in rows:
            if step_of(row) >= followed.run.next_step:
                followed.run.log(history_row(row), step=step_of(row))
        return followed.run

    def _media(self, followed: _Followed, result: TrialResult) -> Media:
        return Media(pictures=trial_pictures(followed.trial, followed.config), table=per_class_table(result.metrics))

    def _run_id(self, trial: StoredTrial) -> str:
        return self.identity.run_id(self.sweep, trial.signature)

    def _open_runs(self) -> int:
        return sum(1 for followed in self._followed.values() if followed.run is not None)


def _size(trial: StoredTrial) -> int:
    try:
        return trial.paths.metrics.stat().st_size
    except FileNotFoundError:
        return 0
