from __future__ import annotations

import sys

import pytest

from experiments.errors import UserError
from experiments.storage_url import parse_storage, take_storage, without_storage


class TestParse:
    @pytest.mark.parametrize(
        ("given", "shown", "secrets"),
        [
            ("postgresql+psycopg://me:pw@h:5/db", "postgresql+psycopg://me@h:5/db", {"password": "pw"}),
            ("postgresql+psycopg://me:p%40ss%2Fword@h/db", "postgresql+psycopg://me@h/db", {"password": "p@ss/word"}),
            ("postgresql://me:p{w}%25@[::1]:5/db", "postgresql+psycopg://me@[::1]:5/db", {"password": "p{w}%"}),
            (" postgres://h/db\n", "postgresql+psycopg://h/db", {}),
            (
                "postgresql://h/db?sslmode=require&password=a%40b&sslpassword=c",
                "postgresql+psycopg://h/db?sslmode=require",
                {"password": "a@b", "sslpassword": "c"},
            ),
            ("postgresql:///db?host=%2Frun", "postgresql+psycopg:///db?host=%2Frun", {}),
            ("postgresql://?service=mine", "postgresql+psycopg://?service=mine", {}),
        ],
    )
    def test_a_password_is_kept_apart(self, given: str, shown: str, secrets: dict[str, str]) -> None:
        storage = parse_storage(given)
        assert storage.shown == f"--storage {shown}"
        assert storage.secrets == secrets

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("", r"got what is no URL; expected postgresql\+psycopg://USER@HOST:5432/DATABASE"),
            ("results/study.db", "got what is no URL"),
            ("sqlite:///s3cr3t.db", "got sqlite://; expected .*, or nothing: a sweep's own study is an SQLite file"),
            ("mysql+pymysql://me:s3cr3t@h/db", r"got mysql\+pymysql://; only PostgreSQL by psycopg is supported"),
            ("postgresql+psycopg2://me:s3cr3t@h/db", r".*; did you mean postgresql\+psycopg\?$"),
            ("postgresq://me:s3cr3t@h/db", r".*; did you mean postgresql\+psycopg\?$"),
            ("postgresql://me:s3cr3t@h", "got a URL without a database"),
            ("postgresql://me:s3cr3t@h/", "got a URL without a database"),
            ("postgresql://me:p@s3cr3t@h/db", "got a URL with more than one @; expected .* @ is %40, / is %2F"),
            ("postgresql://me:p@?s3cr3t@h/db", "got a URL with more than one @"),
            ("postgresql://me:s3cr3t/db", "got what is no URL"),
            ("postgresql://me:pw@h:s3cr3t/db", "got what is no URL"),
        ],
    )
    def test_others_are_refused_and_not_shown(self, given: str, expected: str) -> None:
        with pytest.raises(UserError, match=f"^--storage: {expected}") as raised:
            parse_storage(given)
        assert "s3cr3t" not in str(raised.value)


class TestTake:
    def test_nothing_is_asked_for(self) -> None:
        environment = {"WSOL_STORAGE": "", "PGPASSWORD": "pw", "HOME": "/"}
        assert take_storage(None, environment) is None
        assert environment == {"HOME": "/"}

    def test_the_environments(self) -> None:
        environment = {"WSOL_STORAGE": "postgresql://me@h/db", "PGPASSWORD": "pw"}
        storage = take_storage(None, environment)
        assert storage is not None
        assert storage.shown == "WSOL_STORAGE postgresql+psycopg://me@h/db"
        assert storage.secrets == {"password": "pw"}
        assert environment == {}

    def test_the_option_wins_and_so_does_its_password(self) -> None:
        environment = {"WSOL_STORAGE": "postgresql://me@h/other", "PGPASSWORD": "pw"}
        storage = take_storage("postgresql://me:mine@h/db", environment)
        assert storage is not None
        assert (storage.url.database, storage.secrets) == ("db", {"password": "mine"})
        assert environment == {}

    def test_an_empty_option_is_a_mistake(self) -> None:
        with pytest.raises(UserError, match="--storage: got what is no URL"):
            take_storage("", {})

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(UserError, match=r"h/db: needs the package psycopg \(.*\); install it: pip install '.\[pos"):
            take_storage("postgresql://me:s3cr3t@h/db", {})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        (["a.yaml", "--storage", "url", "--dry-run"], ["a.yaml", "--dry-run"]),
        (["--storage=url", "a.yaml"], ["a.yaml"]),
        (["a.yaml", "--storage"], ["a.yaml"]),
        (["--storage", "--storage", "a.yaml", "--storage", "b"], ["a.yaml"]),
        (["--storages", "x"], ["--storages", "x"]),
    ],
)
def test_a_command_line_without_it(given: list[str], kept: list[str]) -> None:
    assert without_storage(given) == kept
