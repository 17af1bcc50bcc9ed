"""What the scheduler needs of a place where attempts run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from experiments.footprint import Usage
from experiments.slots import Slot
from experiments.spec_document import KeepCheckpoints


@dataclass(frozen=True)
class AttemptRequest:
    """One process of a trial.

    Attributes:
        attempt: 1 for the trial's first process, counted over all runs of the command.
        config: the resolved ExperimentConfig as plain values.
        folder: the trial's folder; the attempt writes there and nowhere else.
        images_at_a_time: at most so many go through the model at once; None: as many as the config says.
        keep_checkpoints: what stays of them once the trial is complete.
        code: what the attempt is to run, see `CodeVersion.of_trial`; empty: nobody asks.
        memory_bytes: of its GPU, at most; None: as much as there is.
        probe: whether it evaluates a few images before it trains, so that its first `Measured` holds for evaluations as
            well.
        metric: what reports will resample the images for, see `match_records`; empty: nothing.
    """

    number: int
    signature: str
    attempt: int
    config: Mapping[str, Any]
    folder: Path
    slot: Slot
    images_at_a_time: int | None = None
    keep_checkpoints: KeepCheckpoints = "weights"
    code: str = ""
    memory_bytes: int | None = None
    probe: bool = False
    metric: str = ""


@dataclass(frozen=True)
class EpochDone:
    """An epoch's row is on disk."""

    number: int
    row: Mapping[str, Any]


@dataclass(frozen=True)
class SignOfLife:
    """The attempt gets on. The next sign, or its end, is due within so many seconds."""

    number: int
    next_within_s: float


@dataclass(frozen=True)
class Measured:
    """What the attempt has taken so far. Later ones of the same attempt are never smaller in bytes."""

    number: int
    usage: Usage


@dataclass(frozen=True)
class SlotsChanged:
    """`Executor.slots` are others than before: machines came or went. What ran on those that went has ended."""


@dataclass(frozen=True)
class AttemptEnded:
    """The attempt's process is gone.

    Attributes:
        exit_code: as `multiprocessing.Process.exitcode`: negative for a signal.
        error: what the attempt said of its failure, None where it said nothing (it was killed, or it ended well).
        oom_kills: processes that the kernel killed for want of memory, where that may have ended this one.
    """

    number: int
    exit_code: int
    error: AttemptError | None = None
    oom_kills: int = 0


@dataclass(frozen=True)
class AttemptError:
    """A failure in the attempt's own words. `kind` is a value of `failures.FailureKind`."""

    kind: str
    message: str
    details: str = field(default="", repr=False)
    """The traceback."""


Event = EpochDone | SignOfLife | Measured | AttemptEnded | SlotsChanged


class Executor(Protocol):
    """Runs attempts in processes of their own.

    Promises:
    - `launch` returns at once; at most one attempt a slot is the caller's duty.
    - For every launched attempt exactly one `AttemptEnded` comes out of `wait`, after all its `EpochDone`, also
      when its process was killed; then nothing of it runs any more, its own child processes included.
    - When the process that owns the executor dies, in whatever way, its attempts die with it.
    - Not thread-safe: one thread calls it.
    """

    @property
    def slots(self) -> Sequence[Slot]:
        """Where attempts may run now. They change only within `wait`, which says so by `SlotsChanged`."""

    def warm_up(self) -> None:
        """What can be done before the first launch begins now. Nothing depends on it but how soon that one trains."""

    def launch(self, request: AttemptRequest) -> None:
        """Starts an attempt."""

    def wait(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; blocks until something does or the time is over."""

    def stop(self, number: int) -> None:
        """Asks a trial's attempt to end soon, with everything saved."""

    def dump_stacks(self, number: int) -> None:
        """Makes a trial's attempt write where each of its threads is to log.txt, whatever it is doing, if it can."""

    def kill(self, number: int) -> None:
        """Ends a trial's attempt now."""

    def close(self) -> None:
        """Kills what still runs and frees everything."""
