from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from experiments.errors import UserError
from experiments.spec import SweepSpec
from experiments.study import Study, StudyTrial
from experiments.trial import TrialPlan, TrialState

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def empty_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new study's file. Making its tables takes most of a second, so it is made once and copied."""
    file = tmp_path_factory.mktemp("study") / "study.db"
    Study(file=file, name="sweep", direction="maximize")
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return file


@pytest.fixture
def file(tmp_path: Path, empty_study: Path) -> Path:
    return Path(shutil.copy(empty_study, tmp_path / "study.db"))


@pytest.fixture
def plans(load: Callable[[str], SweepSpec]) -> tuple[TrialPlan, ...]:
    return load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.5, 0.25], proposals.count: [null]}\nseeds: [3]\n").plans


def open_study(file: Path) -> Study:
    return Study(file=file, name="sweep", direction="maximize")


class TestLifeOfATrial:
    def test_started_and_finished_and_read_again(self, file: Path, plans: tuple[TrialPlan, ...]) -> None:
        study = open_study(file)
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
        assert open_study(file).trials() == expected

    def test_what_readers_of_optuna_see(self, file: Path, plans: tuple[TrialPlan, ...]) -> None:
        study = open_study(file)
        study.start(4, plans[0])
        study.finish(4, state=TrialState.COMPLETE, value=0.75)
        read = optuna.load_study(study_name="sweep", storage=f"sqlite:///{file}")
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

    def test_a_trial_goes_on_in_another_run(self, file: Path, plans: tuple[TrialPlan, ...]) -> None:
        open_study(file).start(0, plans[0], attempts=2)
        again = open_study(file)
        assert again.trials()[0].attempts == 2
        again.record_attempt(0, 3)
        again.finish(0, state=TrialState.PRUNED, value=0.5, stop_reason="asha")  # a value that is not final: not told
        assert again.trials()[0] == StudyTrial(0, plans[0].signature, TrialState.PRUNED, "asha", 3)

    def test_a_retry_is_the_same_trial(self, file: Path, plans: tuple[TrialPlan, ...]) -> None:
        study = open_study(file)
        for number, plan in enumerate(plans):
            study.start(number, plan)
            study.finish(number, state=TrialState.FAIL, value=None, stop_reason="killed")
        study.start(0, plans[0], attempts=3)
        assert study.trials()[0] == StudyTrial(0, plans[0].signature, TrialState.RUNNING, "", 3)
        study = open_study(file)  # also in the next run
        study.finish(0, state=TrialState.COMPLETE, value=0.5)
        assert {number: trial.state for number, trial in study.trials().items()} == {0: "COMPLETE", 1: "FAIL"}
        read = optuna.load_study(study_name="sweep", storage=f"sqlite:///{file}")
        assert [trial.state.name for trial in read.trials] == ["FAIL", "FAIL", "COMPLETE"]  # Optuna reopens nothing

    def test_a_trial_ends_once(self, file: Path, plans: tuple[TrialPlan, ...]) -> None:
        study = open_study(file)
        study.start(0, plans[0])
        study.finish(0, state=TrialState.COMPLETE, value=0.5)
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError, match="Trial#0 has already finished"):
            study.finish(0, state=TrialState.FAIL, value=None)
        assert study.trials()[0].state is TrialState.COMPLETE

    def test_numbers_are_the_callers(self, file: Path, plans: tuple[TrialPlan, ...]) -> None:
        """Optuna numbers its own trials; a folder that was there before the study keeps its number."""
        study = open_study(file)
        study.start(40, plans[0])
        study.start(2, plans[1])
        study.finish(40, state=TrialState.COMPLETE, value=0.5)
        assert {number: trial.state for number, trial in study.trials().items()} == {40: "COMPLETE", 2: "RUNNING"}

    def test_trials_of_others_are_not_ours(self, file: Path) -> None:
        optuna.load_study(study_name="sweep", storage=f"sqlite:///{file}").ask()
        assert open_study(file).trials() == {}

    def test_minimize(self, tmp_path: Path, plans: tuple[TrialPlan, ...]) -> None:
        file = tmp_path / "a folder" / "study.db"
        study = Study(file=file, name="sweep", direction="minimize")
        for number, (plan, value) in enumerate(zip(plans, (0.5, 0.25), strict=True)):
            study.start(number, plan)
            study.finish(number, state=TrialState.COMPLETE, value=value)
        assert optuna.load_study(study_name="sweep", storage=f"sqlite:///{file}").best_value == 0.25


class TestFile:
    def test_readers_do_not_wait_for_the_writer(self, file: Path, plans: tuple[TrialPlan, ...]) -> None:
        study = open_study(file)
        with sqlite3.connect(file, timeout=0, isolation_level=None) as writer:
            assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            study.start(0, plans[0])
            writer.execute("BEGIN IMMEDIATE")
            with sqlite3.connect(file, timeout=0) as reader:
                assert reader.execute("SELECT count(*) FROM trials").fetchone() == (1,)
            reader.close()
            writer.execute("ROLLBACK")
        writer.close()

    def test_survives_a_killed_runner(self, tmp_path: Path, file: Path, spec_file: Callable[[str], Path]) -> None:
        program = """
import os, signal, sys
from pathlib import Path
from experiments.spec import load_spec
from experiments.study import Study
study = Study(file=Path(sys.argv[1]), name="sweep", direction="maximize")
study.start(0, load_spec(Path(sys.argv[2])).plans[0])
study.record_attempt(0, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
        child = subprocess.run(
            [sys.executable, "-c", program, str(file), str(spec_file("{EXPERIMENT}\n"))],
            env={"PYTHONPATH": str(REPOSITORY)},
            check=False,
        )
        assert child.returncode == -9
        study = open_study(file)
        assert [(trial.state, trial.attempts) for trial in study.trials().values()] == [("RUNNING", 1)]
        study.finish(0, state=TrialState.COMPLETE, value=0.5)

    @pytest.mark.parametrize("name", ["a b", "a?b", "a#b", "a%20b", "é", "a:b@c", "[x]", "q'q"])
    def test_in_a_folder_of_any_name(self, tmp_path: Path, empty_study: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        file = Path(shutil.copy(empty_study, tmp_path / name / "study.db"))
        open_study(file)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name / "study.db-wal").exists()  # this file was opened, and no other

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"hello", "file is not a database"), (b"\x00\xff" * 10_000, "file is not a database")],
    )
    def test_that_is_no_study_is_left_alone(self, tmp_path: Path, content: bytes, reason: str) -> None:
        file = tmp_path / "study.db"
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"study\.db: cannot be opened as an Optuna study \({reason}\); move it"):
            open_study(file)
        assert file.read_bytes() == content

    def test_that_lost_its_end(self, file: Path) -> None:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 3])
        with pytest.raises(UserError, match=r"cannot be opened as an Optuna study \(.+\); move it away"):
            open_study(file)
        assert file.read_bytes() == whole[: len(whole) // 3]

    def test_of_a_later_optuna(self, file: Path) -> None:
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
        connection.close()
        with pytest.raises(UserError, match=r"study\.db: cannot be opened as an Optuna study \(The runtime optuna"):
            open_study(file)

    def test_that_is_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "study.db").mkdir()
        with pytest.raises(UserError, match="unable to open database file"):
            open_study(tmp_path / "study.db")


def test_a_page_that_is_not_read_today_is_checked_too(file: Path, plans: tuple[TrialPlan, ...]) -> None:
    """What stands in an index would be found only when something is looked up by it, after more was written."""
    study = open_study(file)
    study.start(0, plans[0])
    study.close()
    with contextlib.closing(sqlite3.connect(file)) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
        (page,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'trial_heartbeats'"
        ).fetchone()
    data = bytearray(file.read_bytes())
    data[(page - 1) * size : page * size] = bytes(size)
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be opened as an Optuna study \(.*\); move it away"):
        open_study(file)
    assert file.read_bytes() == data
