"""What a study promises, wherever it is kept."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import optuna
import pytest
from postgres_server import PostgresServer

from experiments.databases import Database, SqliteFile
from experiments.postgresql import PostgresDatabase
from experiments.spec import load_spec
from experiments.storage_url import parse_storage
from experiments.study import Study, StudyTrial
from experiments.trial import Draw, TrialPlan, TrialState

SPEC = """\
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
search:
  - grid: {train.lr: [0.5, 0.25], proposals.count: [null]}
seeds: [3]
"""
_names = itertools.count()


class Home:
    """A place for one study, which runners open one after the other and others read."""

    def __init__(self, database: Callable[[], Database], url: str, name: str) -> None:
        self._database, self._url, self._name = database, url, name
        self._opened: list[Study | optuna.storages.RDBStorage] = []

    def open(self, direction: Literal["maximize", "minimize"] = "maximize") -> Study:
        self._opened.append(study := Study(database=self._database(), name=self._name, direction=direction))
        return study

    def read(self, stage: str = "") -> optuna.Study:
        """As any reader of Optuna does."""
        self._opened.append(storage := optuna.storages.RDBStorage(self._url))
        return optuna.load_study(study_name=f"{self._name}{stage}", storage=storage)

    def close(self) -> None:
        for one in self._opened:
            if isinstance(one, Study):
                one.close()
            else:
                one.remove_session()
                one.engine.dispose()


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new study's file. Making its tables takes most of a second, so it is made once and copied."""
    file = tmp_path_factory.mktemp("study") / "study.db"
    Study(file=file, name="other", direction="maximize").close()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return file


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> str:
    return postgres.url(postgres.new_database())


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    if request.param == "sqlite":
        file = Path(shutil.copy(request.getfixturevalue("empty_file"), tmp_path / "study.db"))
        home = Home(lambda: SqliteFile(file), f"sqlite:///{file}", "sweep")
    else:
        url = request.getfixturevalue("url")
        storage = parse_storage(url)
        home = Home(lambda: PostgresDatabase(storage), url, f"sweep {next(_names)}")
    yield home
    home.close()


@pytest.fixture
def plans(tmp_path: Path) -> tuple[TrialPlan, ...]:
    file = tmp_path / "sweep.yaml"
    file.write_text(SPEC)
    return load_spec(file).plans


class TestLifeOfATrial:
    def test_started_and_finished_and_read_again(self, home: Home, plans: tuple[TrialPlan, ...]) -> None:
        study = home.open()
        assert study.trials() == {}
        study.start(0, plans[0])
        study.start(1, plans[1])
        assert study.trials()[0] == StudyTrial(0, plans[0].signature, TrialState.RUNNING, "", 0)
        study.record_attempt(0, 1)
        study.record_attempt(1, 1)
        study.record_attempt(1, 2)
        study.finish(0, state=TrialState.COMPLETE, value=0.75)
        study.finish(1, state=TrialState.FAIL, value=None, stop_reason="non_finite_loss")
        expected = {
            0: StudyTrial(0, plans[0].signature, TrialState.COMPLETE, "", 1),
            1: StudyTrial(1, plans[1].signature, TrialState.FAIL, "non_finite_loss", 2),
        }
        assert study.trials() == expected
        assert home.open().trials() == expected

    def test_what_readers_of_optuna_see(self, home: Home, plans: tuple[TrialPlan, ...]) -> None:
        study = home.open()
        study.start(4, plans[0])
        study.finish(4, state=TrialState.COMPLETE, value=0.75)
        read = home.read()
        assert read.best_value == 0.75
        assert read.best_trial.user_attrs == {
            "trial": 4,
            "signature": plans[0].signature,
            "attempts": 0,
            "seed": 3,
            "resolved_config": plans[0].config.model_dump_json(),
            "config/train.lr": "0.5",
            "config/proposals.count": "null",
        }

    def test_a_trial_goes_on_in_another_run(self, home: Home, plans: tuple[TrialPlan, ...]) -> None:
        home.open().start(0, plans[0], attempts=2)
        again = home.open()
        assert again.trials()[0].attempts == 2
        again.record_attempt(0, 3)
        again.finish(0, state=TrialState.PRUNED, value=0.5, stop_reason="asha")  # a value that is not final: not told
        assert again.trials()[0] == StudyTrial(0, plans[0].signature, TrialState.PRUNED, "asha", 3)

    def test_a_retry_is_the_same_trial(self, home: Home, plans: tuple[TrialPlan, ...]) -> None:
        study = home.open()
        for number, plan in enumerate(plans):
            study.start(number, plan)
            study.finish(number, state=TrialState.FAIL, value=None, stop_reason="killed")
        study.start(0, plans[0], attempts=3)
        assert study.trials()[0] == StudyTrial(0, plans[0].signature, TrialState.RUNNING, "", 3)
        study = home.open()  # also in the next run
        study.finish(0, state=TrialState.COMPLETE, value=0.5)
        assert {number: trial.state for number, trial in study.trials().items()} == {0: "COMPLETE", 1: "FAIL"}
        read = home.read()
        assert [trial.state.name for trial in read.trials] == ["FAIL", "FAIL", "COMPLETE"]  # Optuna reopens nothing

    def test_a_trial_ends_once(self, home: Home, plans: tuple[TrialPlan, ...]) -> None:
        study = home.open()
        study.start(0, plans[0])
        study.finish(0, state=TrialState.COMPLETE, value=0.5)
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError, match="Trial#0 has already finished"):
            study.finish(0, state=TrialState.FAIL, value=None)
        assert study.trials()[0].state is TrialState.COMPLETE

    def test_numbers_are_the_callers(self, home: Home, plans: tuple[TrialPlan, ...]) -> None:
        """Optuna numbers its own trials; a folder that was there before the study keeps its number."""
        study = home.open()
        study.start(40, plans[0])
        study.start(2, plans[1])
        study.finish(40, state=TrialState.COMPLETE, value=0.5)
        assert {number: trial.state for number, trial in study.trials().items()} == {40: "COMPLETE", 2: "RUNNING"}

    def test_trials_of_others_are_not_ours(self, home: Home) -> None:
        home.open()
        home.read().ask()
        assert home.open().trials() == {}

    def test_minimize(self, home: Home, plans: tuple[TrialPlan, ...]) -> None:
        study = home.open(direction="minimize")
        for number, (plan, value) in enumerate(zip(plans, (0.5, 0.25), strict=True)):
            study.start(number, plan)
            study.finish(number, state=TrialState.COMPLETE, value=value)
        assert home.read().best_value == 0.25

    def test_stages_are_studies_of_their_own(self, home: Home, plans: tuple[TrialPlan, ...]) -> None:
        study = home.open()
        study.start(0, plans[0])
        study.start(1, replace(plans[1], stage="final"))
        study.finish(1, state=TrialState.COMPLETE, value=0.5)
        for seen in (study.trials(), home.open().trials()):
            assert {number: (trial.stage, trial.state) for number, trial in seen.items()} == {
                0: ("search", "RUNNING"),
                1: ("final", "COMPLETE"),
            }
        assert home.read(" (final stage)").best_value == 0.5

    def test_decisions_draws_and_configs_come_back_as_they_were(self, home: Home, plans: tuple[TrialPlan, ...]) -> None:
        draw = Draw(block="""é \\u0000 'q' \t""", number=7)
        study = home.open()
        study.start(0, replace(plans[0], draw=draw))
        study.record_decision(0, "asha: 'rung' 3 ☃")
        trial = home.open().trials()[0]
        assert (trial.draw, trial.to_be_pruned) == (draw, "asha: 'rung' 3 ☃")
        assert trial.config == plans[0].config.model_dump_json()

    @pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, -1.7976931348623157e308, 0.0])
    def test_values_come_back_to_the_last_bit(self, home: Home, plans: tuple[TrialPlan, ...], value: float) -> None:
        study = home.open()
        study.start(0, plans[0])
        study.finish(0, state=TrialState.COMPLETE, value=value)
        assert home.read().best_value == value

    def test_the_folder_that_it_is_of(self, home: Home) -> None:
        study = home.open()
        assert study.folder() == ""
        study.sign("here:/results/a")
        study.sign("here:/results/b")
        assert home.open().folder() == "here:/results/b"
