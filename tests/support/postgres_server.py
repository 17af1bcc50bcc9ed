"""A throw-away PostgreSQL server on loopback, with passwords and durable commits, as a real one has them."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

import psycopg

USER = "sweeper"
PASSWORD = "p@ss/word"
"""One that a URL can only hold escaped."""
ESCAPED = urllib.parse.quote(PASSWORD, safe="")

_MEMORY = Path("/dev/shm")
_UNPRIVILEGED = ("postgres", "nobody")
"""Users of whom one runs the server, where this is root: the server refuses to be."""


def binaries() -> Path | None:
    """The folder of the server's programs; None where there are none."""
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


class PostgresServer:
    """Starts at once; `close` removes everything."""

    def __init__(self) -> None:
        folder = binaries()
        assert folder is not None, "no server installed: ask `binaries` first"
        self._binaries = folder
        # in memory, where it can be: what a crash leaves to be synchronized takes seconds on a disk
        self._folder = Path(tempfile.mkdtemp(prefix="wsol-postgres-", dir=_MEMORY if _MEMORY.is_dir() else None))
        self._data = self._folder / "data"
        # what ends the server and its folder when this process is gone, in whatever way
        self._guard = subprocess.Popen(
            [sys.executable, __file__, self._folder], stdin=subprocess.PIPE, start_new_session=True
        )
        self._user = _unprivileged()
        self.port = _free_port()
        self._databases = 0
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if self._user is not None:
            for path in (self._folder, secret):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        self._run(
            "initdb",
            *("--pgdata", str(self._data), "--username", USER, "--pwfile", str(secret)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )
        self.start()

    def start(self) -> None:
        """Returns when it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",
        }
        options = " ".join([f"-p {self.port}", *(f"-c {name}='{value}'" for name, value in settings.items())])
        self._run("pg_ctl", "start", "--wait", "-D", str(self._data), "-l", str(self._folder / "log"), "-o", options)

    def stop(self) -> None:
        """As a power cut that the processes hear of."""
        self._run("pg_ctl", "stop", "--wait", "-D", str(self._data), "-m", "immediate")

    def restart(self) -> None:
        """At once, whoever is connected."""
        self._run("pg_ctl", "restart", "--wait", "-D", str(self._data), "-m", "immediate")

    def kill(self) -> None:
        """SIGKILL for every process of it."""
        _kill(self._data)

    def processes(self) -> list[int]:
        """The first is the one that the others come of."""
        return _processes(self._data)

    @property
    def is_running(self) -> bool:
        """Whether it was started and neither stopped nor killed since."""
        return (self._data / "postmaster.pid").exists()

    def close(self) -> None:
        """Leaves nothing."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

    def new_database(self) -> str:
        """Its name."""
        self._databases += 1
        name = f"sweeps{self._databases}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str, *, password: str = f":{ESCAPED}", user: str = USER, port: int | None = None) -> str:
        """As people give it."""
        return f"postgresql+psycopg://{user}{password}@127.0.0.1:{port or self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of a statement, run by itself."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> None:
        as_user: dict[str, Any] = {}
        if self._user is not None:
            as_user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        with (self._folder / "said").open("a") as said:  # not a pipe: the server would hold it open
            subprocess.run(
                [self._binaries / program, *arguments],
                check=True,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                **as_user,
            )


def _processes(data: Path) -> list[int]:
    first = int((data / "postmaster.pid").read_text().splitlines()[0])
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [first, *map(int, children)]


def _kill(data: Path) -> None:
    for pid in _processes(data):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            select.select([descriptor], [], [])
            os.close(descriptor)
    (data / "postmaster.pid").unlink()  # it counts while nobody has asked how the process ended


def _guard(folder: Path) -> None:
    """Waits for the end of who started this."""
    sys.stdin.read()
    with contextlib.suppress(FileNotFoundError):  # it was stopped or killed
        _kill(folder / "data")
    shutil.rmtree(folder)


def _unprivileged() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError(f"none of the users {_UNPRIVILEGED}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
