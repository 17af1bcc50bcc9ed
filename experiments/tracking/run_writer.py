"""What the mirror needs of W&B: the contract. `wandb_runs.py` keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from experiments.tracking.run_content import RunEnd, RunHead
from experiments.tracking.trial_pictures import TrialPictures


class UnreachableError(Exception):
    """The server does not answer, or not as a server of W&B does. It may do so later."""


class RefusedError(Exception):
    """The server answers and will not have us: a key that is wrong or has expired, or no right to the project."""


@dataclass(frozen=True)
class Media:
    """The last row of a complete trial.

    Attributes:
        table: columns and rows of the table per class.
    """

    pictures: TrialPictures
    table: tuple[Sequence[str], Sequence[Sequence[Any]]]


class OpenRun(Protocol):
    """A run that is written to."""

    @property
    def next_step(self) -> int:
        """The server has a row of every step before this one that it will ever have."""

    def log(self, row: Mapping[str, Any], *, step: int) -> None:
        """Adds a row. Never waits for the server."""

    def log_media(self, media: Media, *, step: int) -> None:
        """Adds a row of pictures and tables, or, where the server has that row, uploads its files again."""

    def finish(self, end: RunEnd) -> None:
        """Says how the trial ended and waits until the server has everything.

        Raises:
            UnreachableError: where it has not after some time. The run is closed all the same.
        """

    def interrupt(self) -> None:
        """Leaves a trial that is to go on in another run of the command. Raises like `finish`."""


class RunWriter(Protocol):
    """W&B, online or offline."""

    def open(self, head: RunHead) -> OpenRun:
        """Opens a trial's run, which goes on where the server has one.

        Raises:
            UnreachableError: where there is no answer in time.
            RefusedError: where it is not allowed.
        """

    def close(self) -> None:
        """Ends what W&B runs in the background. What is still open is left as it is."""
