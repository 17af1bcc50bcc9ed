"""A database that goes away, says nothing, refuses, or is shared. What a study is there: tests/contracts."""

from __future__ import annotations

import gc
import itertools
import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import optuna
import psycopg
import pytest
from cutting_proxy import CuttingProxy
from postgres_server import ESCAPED, PASSWORD, USER, PostgresServer

from experiments import postgresql
from experiments.databases import DatabaseAway, DatabaseAwayError
from experiments.errors import UserError
from experiments.patience import PatientWriter
from experiments.postgresql import PostgresDatabase
from experiments.shared_study import claim, sweep_id
from experiments.spec import SweepSpec
from experiments.storage_url import parse_storage, take_storage
from experiments.store import SweepStore
from experiments.study import Study
from experiments.trial import TrialPlan, TrialState

FORGOTTEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Where Optuna's storage fails as it is made, nobody can close its connection but the garbage collector."""
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def open_study(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Study]]:
    opened: list[Study] = []

    def open_at(url: str, *, name: str = request.node.name, must_stop: Callable[[], bool] = lambda: False) -> Study:
        at = PostgresDatabase(parse_storage(url), must_stop=must_stop)
        opened.append(Study(database=at, name=name, direction="maximize"))
        return opened[-1]

    yield open_at
    for study in opened:
        study.close()


@pytest.fixture
def plans(load: Callable[[str], SweepSpec]) -> tuple[TrialPlan, ...]:
    return load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.5, 0.25]}\n").plans


def in_optuna(study: Study) -> list[tuple[int, str, float | None]]:
    """Every trial as Optuna has it: our number, state and value, in its order."""
    trials = study._studies["search"].get_trials()
    return [(trial.user_attrs["trial"], trial.state.name, trial.value) for trial in trials]


class TestAnswersThatAreLost:
    """The server has done what it was asked, and the connection breaks before it could say so."""

    WRITES: ClassVar[dict[str, Callable[[Study, int, TrialPlan], None]]] = {
        "start": lambda study, number, plan: study.start(number, plan),
        "start again": lambda study, number, plan: study.start(number + 1, plan, attempts=3),
        "record_attempt": lambda study, number, plan: study.record_attempt(number + 2, 5),
        "record_decision": lambda study, number, plan: study.record_decision(number + 2, "asha"),
        "complete": lambda study, number, plan: study.finish(number + 2, state=TrialState.COMPLETE, value=0.5),
        "fail": lambda study, number, plan: study.finish(
            number + 2, state=TrialState.FAIL, value=None, stop_reason="oom"
        ),
    }

    @staticmethod
    def prepare(study: Study, number: int, plan: TrialPlan) -> None:
        """There is none of the number, one that has failed, and one that runs."""
        for other in (number + 1, number + 2):
            study.start(other, plan)
        study.finish(number + 1, state=TrialState.FAIL, value=None, stop_reason="killed")

    @pytest.mark.parametrize("write", WRITES)
    def test_at_each_commit_of_a_write(
        self,
        postgres: PostgresServer,
        database: str,
        open_study: Callable[..., Study],
        plans: tuple[TrialPlan, ...],
        write: str,
    ) -> None:
        action, plan = self.WRITES[write], plans[0]
        undisturbed = open_study(postgres.url(database), name=f"{write}, undisturbed")
        said: list[str] = []
        writer = PatientWriter(DatabaseAway(), say=said.append, must_stop=lambda: False, sleep=lambda seconds: None)
        with CuttingProxy(postgres.port) as proxy:
            study = open_study(postgres.url(database, port=proxy.port), name=write)
            for commits in itertools.count():
                number = 3 * commits
                self.prepare(undisturbed, number, plan)
                action(undisturbed, number, plan)
                self.prepare(study, number, plan)
                proxy.swallow_answer(b"COMMIT", after=commits)
                writer.write(lambda number=number: action(study, number, plan))  # type: ignore[misc]
                proxy.swallow_nothing()
                if proxy.cuts == commits:
                    break
        assert commits >= 1, "something was cut"
        assert study.trials() == undisturbed.trials()
        assert in_optuna(study) == in_optuna(undisturbed)
        assert [line.split(":")[0] for line in said] == ["paused", "the database answers again"] * commits


class TestAServerThatGoesAway:
    def test_is_found_again_without_a_word(
        self, postgres: PostgresServer, database: str, open_study: Callable[..., Study], plans: tuple[TrialPlan, ...]
    ) -> None:
        """A connection that died while nobody used it."""
        study = open_study(postgres.url(database))
        study.start(0, plans[0])
        postgres.restart()
        study.finish(0, state=TrialState.COMPLETE, value=0.5)
        assert in_optuna(study) == [(0, "COMPLETE", 0.5)]

    def test_is_told_while_it_is_gone(
        self, postgres: PostgresServer, database: str, open_study: Callable[..., Study], plans: tuple[TrialPlan, ...]
    ) -> None:
        study = open_study(postgres.url(database))
        for number in (0, 1):
            study.start(number, plans[number])
        study.finish(1, state=TrialState.FAIL, value=None, stop_reason="killed")
        postgres.kill()
        try:
            for _ in range(2):
                with pytest.raises(DatabaseAwayError, match=r"failed: Connection refused$"):
                    study.finish(0, state=TrialState.COMPLETE, value=0.5)
                with pytest.raises(DatabaseAwayError, match=r"failed: Connection refused$"):
                    study.start(1, plans[1], attempts=3)
        finally:
            postgres.start()
        study.finish(0, state=TrialState.COMPLETE, value=0.5)
        study.start(1, plans[1], attempts=3)
        assert in_optuna(study) == [(0, "COMPLETE", 0.5), (1, "FAIL", None), (1, "RUNNING", None)]

    @pytest.mark.parametrize("stopping", [False, True])
    def test_says_nothing_any_more(
        self,
        postgres: PostgresServer,
        database: str,
        open_study: Callable[..., Study],
        plans: tuple[TrialPlan, ...],
        monkeypatch: pytest.MonkeyPatch,
        stopping: bool,
    ) -> None:
        """The system of a server that is frozen still takes what is sent, and new connections."""
        for name, seconds in (("SILENT_S", 0.3), ("SILENT_WHEN_STOPPING_S", 1000.0)):
            monkeypatch.setattr(postgresql, f"{name}", seconds if not stopping else 1000.3 - seconds)
        url = f"{postgres.url(database)}?connect_timeout=2"
        study = open_study(url, name=f"silent {stopping}", must_stop=lambda: stopping)
        study.start(0, plans[0])
        processes = postgres.processes()
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(DatabaseAwayError, match="timeout expired"):
                study.record_attempt(0, 1)
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
        study.record_attempt(0, 2)
        assert study.trials()[0].attempts == 2

    def test_a_lock_that_somebody_holds_is_not_waited_for_for_ever(
        self,
        postgres: PostgresServer,
        database: str,
        open_study: Callable[..., Study],
        plans: tuple[TrialPlan, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(postgresql, "STATEMENT_S", 1)
        study = open_study(postgres.url(database))
        study.start(0, plans[0])
        with psycopg.connect(
            host="127.0.0.1", port=postgres.port, user=USER, password=PASSWORD, dbname=database
        ) as other:
            other.execute("LOCK TABLE trial_user_attributes")
            with pytest.raises(DatabaseAwayError, match="statement timeout"):
                study.record_attempt(0, 1)
        study.record_attempt(0, 2)
        assert study.trials()[0].attempts == 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (
                {"password": ":s3cr3t"},
                'password authentication failed for user "sweeper"); is the password right?',
            ),
            ({"password": ""}, "no password supplied); put it into WSOL_STORAGE, PGPASSWORD or ~/.pgpass"),
            ({"user": "joe", "password": ":s3cr3t"}, 'authentication failed for user "joe"); is the password right?'),
            ({"port": 1}, "Connection refused); is the server running, and are host and port right?"),
            ({"database": "nix"}, 'database "nix" does not exist); make what is missing (createdb'),
        ],
    )
    def test_of_a_database_that_cannot_be_used(
        self,
        postgres: PostgresServer,
        database: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        change: dict[str, Any],
        expected: str,
    ) -> None:
        monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
        given = postgres.url(**{"database": database, **change})
        said = f"^--storage postgresql\\+psycopg://.*{re.escape(expected)}"
        with pytest.raises(UserError, match=said) as raised, PostgresDatabase(parse_storage(given)).alone():
            pytest.fail("it can be used")
        text = str(raised.value)
        assert not [secret for secret in (PASSWORD, ESCAPED, "s3cr3t") if secret in text]
        assert len(text.splitlines()) == 1

    @FORGOTTEN
    def test_of_tables_that_a_later_optuna_made(
        self, postgres: PostgresServer, open_study: Callable[..., Study]
    ) -> None:
        name = postgres.new_database()
        open_study(postgres.url(name)).close()
        postgres.sql("UPDATE alembic_version SET version_num = 'v99.0.0'", name)
        with pytest.raises(UserError, match=r"cannot be used \(The runtime optuna .*\); upgrade what is older"):
            open_study(postgres.url(name))
        gc.collect()

    @FORGOTTEN
    def test_of_an_account_that_may_make_no_tables(
        self, postgres: PostgresServer, open_study: Callable[..., Study]
    ) -> None:
        name = postgres.new_database()
        postgres.sql("CREATE USER guest PASSWORD 'guest'")
        with pytest.raises(UserError, match=r"permission denied for schema public.*; let the database's owner grant"):
            open_study(postgres.url(name, user="guest", password=":guest"))
        gc.collect()


class TestPasswords:
    """Outside of the URL they are found as PostgreSQL's own programs find them."""

    def test_in_a_file(
        self, postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "pgpass"
        file.write_text(f"127.0.0.1:{postgres.port}:*:{USER}:{PASSWORD}\n")
        file.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(file))
        with PostgresDatabase(parse_storage(postgres.url(database, password=""))).alone():
            pass

    def test_in_the_environment(self, postgres: PostgresServer, database: str) -> None:
        environment = {"WSOL_STORAGE": postgres.url(database, password=""), "PGPASSWORD": PASSWORD}
        storage = take_storage(None, environment)
        assert environment == {}
        assert storage is not None
        with PostgresDatabase(storage).alone():
            pass

    def test_nothing_that_is_kept_shows_one(self, postgres: PostgresServer, open_study: Callable[..., Study]) -> None:
        url = f"{postgres.url(postgres.new_database())}?application_name=mine&sslpassword={ESCAPED}"
        storage = parse_storage(url)
        database = PostgresDatabase(storage)
        study = open_study(url)
        for shown in (repr(storage), storage.shown, database.url, repr(study._storage.engine), study._storage.url):
            assert not [secret for secret in (PASSWORD, ESCAPED) if secret in shown]
            assert "127.0.0.1" in shown


class TestManyPeople:
    def test_two_are_the_first_ones_of_a_database(self, postgres: PostgresServer) -> None:
        """Optuna alone would break over it: both find no tables, and both make them."""
        storage = parse_storage(postgres.url(postgres.new_database()))
        ready = threading.Barrier(3)

        def begin(name: str) -> str:
            ready.wait()
            study = Study(database=PostgresDatabase(storage), name=name, direction="maximize")
            study.close()
            return name

        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(begin, "abc")) == ["a", "b", "c"]

    def test_a_reader_needs_no_more_than_select(
        self, postgres: PostgresServer, open_study: Callable[..., Study], plans: tuple[TrialPlan, ...]
    ) -> None:
        """As docs/postgresql.md says."""
        name = postgres.new_database()
        study = open_study(postgres.url(name))
        study.start(0, plans[0])
        documented = re.findall(r"^(?:CREATE ROLE|GRANT) .*;$", (DOCS / "postgresql.md").read_text(), re.M)
        assert len(documented) == 3
        for statement in documented:
            postgres.sql(statement.replace("sweeps", name), name)
        url = postgres.url(name, user="reader", password=":choose-one")
        storage = optuna.storages.RDBStorage(url)
        read = optuna.load_study(study_name=study._name, storage=storage)
        assert [trial.state.name for trial in read.trials] == ["RUNNING"]
        with pytest.raises(optuna.exceptions.StorageInternalError, match="exception is raised during the commit"):
            read.set_user_attr("mine", 1)
        storage.remove_session()
        storage.engine.dispose()


class TestWhoseStudyItIs:
    @pytest.fixture
    def at(self, postgres: PostgresServer, database: str, open_study: Callable[..., Study]) -> Callable[[Path], Study]:
        def opened(folder: Path) -> Study:
            store = SweepStore(folder)
            study = open_study(postgres.url(database), name=f"sweep ({sweep_id(store)})")
            claim(study, store)
            return study

        return opened

    def test_sweeps_of_one_name_are_told_apart(
        self, tmp_path: Path, at: Callable[[Path], Study], plans: tuple[TrialPlan, ...]
    ) -> None:
        mine, yours = at(tmp_path / "mine/sweep"), at(tmp_path / "yours/sweep")
        mine.start(0, plans[0])
        assert yours.trials() == {}
        assert at(tmp_path / "mine/sweep").trials().keys() == {0}
        assert mine.folder() == f"{socket.gethostname()}:{tmp_path / 'mine/sweep'}"

    def test_a_folder_that_moves_keeps_its_study(
        self, tmp_path: Path, at: Callable[[Path], Study], plans: tuple[TrialPlan, ...]
    ) -> None:
        at(tmp_path / "before").start(0, plans[0])
        (tmp_path / "before").rename(tmp_path / "after")
        study = at(tmp_path / "after")
        assert study.trials().keys() == {0}
        assert study.folder().endswith("/after")
        (tmp_path / "link").symlink_to("after")
        assert at(tmp_path / "link").trials().keys() == {0}

    def test_a_copy_is_refused_until_it_has_a_study_of_its_own(
        self, tmp_path: Path, at: Callable[[Path], Study], plans: tuple[TrialPlan, ...]
    ) -> None:
        at(tmp_path / "sweep").start(0, plans[0])
        shutil.copytree(tmp_path / "sweep", tmp_path / "copy")
        with pytest.raises(
            UserError, match=r"/copy: is a copy of .*/sweep, which .*; remove .*/copy/study\.id to have"
        ):
            at(tmp_path / "copy")
        assert at(tmp_path / "sweep").trials().keys() == {0}
        (tmp_path / "copy/study.id").unlink()
        assert at(tmp_path / "copy").trials() == {}

    def test_a_damaged_identifier_is_no_new_one(self, tmp_path: Path, at: Callable[[Path], Study]) -> None:
        at(tmp_path / "sweep")
        (tmp_path / "sweep/study.id").write_text("")
        with pytest.raises(UserError, match=r"study\.id: damaged; expected 12 hex digits"):
            at(tmp_path / "sweep")
