"""Where a study can be kept: what the study needs of such a place, and the one that a sweep has of its own, SQLite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy


class DatabaseAwayError(Exception):
    """The database does not answer, or not now. What was asked last may have been done all the same."""


class Database(Protocol):
    """A place for studies.

    Once its engine was prepared, `DatabaseAwayError` is raised for all that waiting may mend, and nothing else is.
    """

    @property
    def url(self) -> str:
        """For SQLAlchemy; without secrets."""

    @property
    def engine_options(self) -> dict[str, Any]:
        """Keyword arguments of `sqlalchemy.create_engine`."""

    @property
    def is_shared(self) -> bool:
        """Whether studies of other sweeps are there, too."""

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """While tables are made and looked for, nobody else does it.

        Raises:
            UserError: where the database cannot be used, with what to do.
        """

    def prepare(self, engine: sqlalchemy.Engine) -> None:
        """Of new connections: what they must be told first, and how their faults are taken."""

    def check(self, engine: sqlalchemy.Engine) -> None:
        """Finds what is damaged, as far as that can be told.

        Raises:
            RuntimeError: says what it is.
        """

    def refusal(self, error: Exception) -> str:
        """Why it cannot be opened as an Optuna study, and what to do."""


class SqliteFile:
    """SQLite in WAL mode: readers (a dashboard) never block the writer, and a crash leaves a readable file.

    BEGIN IMMEDIATE takes the write lock at once: Optuna's SELECT ... FOR UPDATE does nothing on SQLite.
    """

    is_shared = False

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def url(self) -> str:
        """Of the file."""
        return sqlalchemy.URL.create("sqlite", database=str(self._file)).render_as_string()

    @property
    def engine_options(self) -> dict[str, Any]:
        """A reader may hold it for a while."""
        return {"connect_args": {"timeout": 60}}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The sweep's lock keeps others out."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        yield

    def prepare(self, engine: sqlalchemy.Engine) -> None:
        """Durable commits, and transactions of our own."""

        @sqlalchemy.event.listens_for(engine, "connect")
        def _on_connect(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # transactions are ours, not the driver's
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")

        @sqlalchemy.event.listens_for(engine, "begin")
        def _on_begin(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def check(self, engine: sqlalchemy.Engine) -> None:
        """Finds a file that was torn or overwritten in its midst."""
        with engine.connect() as connection:
            problem = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if problem != "ok":
            raise RuntimeError(problem)

    def refusal(self, error: Exception) -> str:
        """It can be made again."""
        return (
            f"{self._file}: cannot be opened as an Optuna study ({reason_of(error)}); "
            "move it away to have it rebuilt from the trial folders"
        )


def reason_of(error: Exception) -> str:
    """The first line of what a database's own error says, without a full stop."""
    text = str(getattr(error, "orig", error)).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(" .")


class DatabaseAway:
    """An `Obstacle` of the study's writes. Trying again is the only way to know."""

    look_every_s = 2.0
    over_text = "the database answers again: going on"

    def stopped(self, error: Exception) -> bool:
        """Whether a write failed as the database did not answer."""
        return isinstance(error, DatabaseAwayError)

    def paused_text(self, error: Exception) -> str:
        """A line for people."""
        return (
            f"paused: the database does not answer ({error}); nothing is lost, and the sweep goes on once it does: what"
            " runs goes on training (Ctrl-C stops it)"
        )

    def may_be_gone(self) -> bool:
        """Whether to try again."""
        return True
