"""`--storage`: where the study is kept, as people say it. A password is not shown, nor left in the environment."""

from __future__ import annotations

import importlib
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from experiments.errors import UserError, did_you_mean, shown

if TYPE_CHECKING:
    from sqlalchemy import URL

OPTION = "--storage"
VARIABLE = "WSOL_STORAGE"
"""Says the same as the option, out of the sight of `ps`."""
PASSWORD_VARIABLE = "PGPASSWORD"
"""Of PostgreSQL's own programs."""

EXAMPLE = "postgresql+psycopg://USER@HOST:5432/DATABASE"
_DRIVER = "postgresql+psycopg"
_TAKEN = (_DRIVER, "postgresql", "postgres")
_SECRET = ("password", "sslpassword")
"""Keys of libpq that may stand behind the question mark."""
_INSTALL = "pip install '.[postgres]'"


@dataclass(frozen=True)
class StorageUrl:
    """A PostgreSQL database.

    Attributes:
        url: without any password.
        secrets: libpq's parameters that are to be seen nowhere.
        given_by: the option or the variable.
    """

    url: URL
    secrets: dict[str, str] = field(repr=False)
    given_by: str = OPTION

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.given_by} {self.url.render_as_string(hide_password=True)}"


def take_storage(given: str | None, environment: MutableMapping[str, str]) -> StorageUrl | None:
    """The database that is asked for; None for the SQLite file in the sweep's folder.

    What the environment says of it is taken out: no attempt and no other child process is to have it.

    Args:
        given: by the option, which wins; None where it was not.

    Raises:
        UserError: where it is no URL of a PostgreSQL database, or the package for it is missing.
    """
    in_environment = environment.pop(VARIABLE, "")
    password = environment.pop(PASSWORD_VARIABLE, "")
    if given is None and not in_environment:
        return None
    text, given_by = (given, OPTION) if given is not None else (in_environment, VARIABLE)
    storage = parse_storage(text, given_by=given_by, password=password)
    try:
        importlib.import_module("psycopg")
    except ImportError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{storage.shown}: needs the package psycopg ({reason}); install it: {_INSTALL}") from None
    return storage


def parse_storage(text: str, *, given_by: str = OPTION, password: str = "") -> StorageUrl:
    """A URL as it was given. `postgresql://` and `postgres://` mean the one driver that there is.

    Args:
        password: what counts where the URL has none; empty: libpq looks into ~/.pgpass.

    Raises:
        UserError: where it is none of PostgreSQL. The message shows no part that may belong to a password.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    scheme, separator, rest = text.strip().partition("://")
    if not separator or scheme not in _TAKEN:
        raise UserError(f"{given_by}: {_wrong_scheme(scheme if separator else '')}")
    if rest.count("@") > 1:
        raise UserError(
            f"{given_by}: got a URL with more than one @; expected {EXAMPLE}, with special characters of user and"
            " password as %XX: @ is %40, / is %2F, : is %3A, % is %25"
        )
    try:
        url = make_url(f"{_DRIVER}://{rest}")
        if not url.database and not {"dbname", "service"} & url.query.keys():
            raise UserError(f"{given_by}: got a URL without a database; expected {EXAMPLE}")
    except (ArgumentError, ValueError):
        raise UserError(f"{given_by}: got what is no URL; expected {EXAMPLE}") from None
    found = {"password": url.password if url.password is not None else password}
    found |= {key: str(url.query[key]) for key in _SECRET if key in url.query}
    secrets = {key: value for key, value in found.items() if value}
    bare = url.set(query={key: value for key, value in url.query.items() if key not in _SECRET})
    return StorageUrl(url=bare._replace(password=None), secrets=secrets, given_by=given_by)


def _wrong_scheme(scheme: str) -> str:
    if not scheme:
        return f"got what is no URL; expected {EXAMPLE}"
    if scheme.partition("+")[0] == "sqlite":
        return f"got {scheme}://; expected {EXAMPLE}, or nothing: a sweep's own study is an SQLite file in its folder"
    hint = did_you_mean(scheme, (_DRIVER,))
    return f"got {shown(scheme)[1:-1]}://; only PostgreSQL by psycopg is supported: expected {EXAMPLE}{hint}"


def without_storage(arguments: Sequence[str]) -> list[str]:
    """A command line less its `--storage`, for a process that is told by the environment."""
    kept: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == OPTION:
            next(left, None)
        elif not argument.startswith(f"{OPTION}="):
            kept.append(argument)
    return kept
