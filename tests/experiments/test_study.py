"""The study's file. What a study is wherever it is kept: tests/contracts/test_studies.py."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.spec import SweepSpec
from experiments.study import Study
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

    @pytest.mark.parametrize("name", ["a b", "a?b", "a#b", "a%20b", "é", "a:b@c", "[x]", "q'q", "{x}", "{"])
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
