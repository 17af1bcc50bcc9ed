"""A PostgreSQL database that studies are kept in. It may go away and come back while a sweep runs.

Nothing here waits for ever: the server is told how long a statement may take, the system how long an answer may be
missing on the network, and `_Connection` gives up a server that is there and says nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from psycopg.abc import PQGen

from experiments.databases import DatabaseAwayError, reason_of
from experiments.errors import UserError
from experiments.storage_url import StorageUrl

T = TypeVar("T")

STATEMENT_S = 30
"""The server ends a statement that takes longer."""
SILENT_S = 35.0
"""A connection on which no byte came for so long, though one is due, is given up."""
SILENT_WHEN_STOPPING_S = 2.0
"""The same for a run that is to stop."""
CONNECT_S = 5

_PARAMETERS = {
    "connect_timeout": str(CONNECT_S),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "application_name": "wsol-sweeps",
}
"""Of libpq: a network that is gone shows within half a minute. A URL may say otherwise."""

_TABLES_LOCK = 7_307_205_917_711_520_001
"""Of those who make Optuna's tables; no other program is likely to use the number."""

_PASSING_CLASSES = ("08", "40", "53", "57")
"""SQLSTATE: no connection; lost against another transaction; full, too many connections; shut down, timeout."""
_PASSING = ("25006", "55P03")
"""A server that only reads, as it is taking over for another one; a lock that was not to be had."""

_REMEDIES = (
    ("no password supplied", "put it into WSOL_STORAGE, PGPASSWORD or ~/.pgpass"),
    ("password authentication failed", "is the password right? It may stand in WSOL_STORAGE, PGPASSWORD or ~/.pgpass"),
    ("does not exist", "make what is missing (createdb, createuser), or name another one"),
    ("Connection refused", "is the server running, and are host and port right?"),
    ("failed to resolve host", "is the host's name right?"),
    ("timeout expired", "is the server running, and does a firewall let this machine through?"),
    ("permission denied", "let the database's owner grant it: see docs/postgresql.md"),
    ("starting up", "try again when it has started"),
    ("optuna", "upgrade what is older, Optuna's package or (`optuna storage upgrade`) the tables, or use another one"),
)
"""What servers and libpq say (in English) and what to do."""


class PostgresDatabase:
    """See `Database` for what it promises.

    Args:
        must_stop: whether the run is to stop, so that no answer is waited for any longer.
    """

    is_shared = True

    def __init__(self, storage: StorageUrl, *, must_stop: Callable[[], bool] = lambda: False) -> None:
        self._storage, self._must_stop = storage, must_stop

    @property
    def url(self) -> str:
        """Without secrets."""
        return self._storage.url.render_as_string()

    @property
    def engine_options(self) -> dict[str, Any]:
        """One connection is enough: one thread writes. It is tried before it is used again."""
        ours = {key: value for key, value in _PARAMETERS.items() if key not in self._storage.url.query}
        return {"pool_pre_ping": True, "pool_size": 1, "connect_args": {**ours, **self._storage.secrets}}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Where two sweeps are the first ones of a database, one makes the tables."""
        engine = sqlalchemy.create_engine(self._storage.url, **self.engine_options)
        try:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"SET statement_timeout = '{STATEMENT_S}s'"))
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_TABLES_LOCK})"))
                yield
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise UserError(self.refusal(error)) from None
        finally:
            engine.dispose()

    def prepare(self, engine: sqlalchemy.Engine) -> None:
        """Connections that wait for no answer for ever."""

        @sqlalchemy.event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
            connection = _Connection.connect(*arguments, **parameters)
            connection.must_stop = self._must_stop
            return connection

        @sqlalchemy.event.listens_for(engine, "connect")
        def _on_connect(connection: Any, _record: Any) -> None:
            connection.execute(f"SET statement_timeout = '{STATEMENT_S}s'")
            connection.commit()

        sqlalchemy.event.listen(engine, "handle_error", _tell_what_passes)

    def check(self, engine: sqlalchemy.Engine) -> None:
        """The server looks after its files itself."""

    def refusal(self, error: Exception) -> str:
        """What the server says, and what to do."""
        reason = reason_of(error)
        remedy = next((remedy for words, remedy in _REMEDIES if words in reason), "see docs/postgresql.md")
        return f"{self._storage.shown}: cannot be used ({reason}); {remedy}"


def _tell_what_passes(context: sqlalchemy.engine.ExceptionContext) -> None:
    """Raised from here, it is not taken for a deadlock by Optuna, which would add a trial that it has added already."""
    error = context.original_exception
    if context.is_pre_ping or not isinstance(error, psycopg.Error):  # a connection that is dead is replaced
        return
    state = error.sqlstate or ""
    if context.is_disconnect or context.connection is None or state[:2] in _PASSING_CLASSES or state in _PASSING:
        raise DatabaseAwayError(reason_of(error))


class _Connection(psycopg.Connection[Any]):
    """Gives up a server that keeps the connection and says nothing: one that is frozen, or a proxy before it."""

    must_stop: Callable[[], bool] = staticmethod(lambda: False)

    def wait(self, gen: PQGen[T], *how: Any, **named: Any) -> T:
        """As psycopg's, which calls it for all that is asked of the server."""
        return super().wait(self._attended(gen), *how, **named)

    def _attended(self, asking: PQGen[T]) -> Generator[Any, Any, T]:
        heard_at = time.monotonic()
        try:
            state = next(asking)
            while True:
                ready = yield state
                if ready:
                    heard_at = time.monotonic()
                else:
                    self._give_up(after_s=time.monotonic() - heard_at)
                state = asking.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value

    def _give_up(self, *, after_s: float) -> None:
        if after_s >= (SILENT_WHEN_STOPPING_S if self.must_stop() else SILENT_S):
            self.close()
            raise psycopg.OperationalError(f"no answer for {after_s:.0f} s")
