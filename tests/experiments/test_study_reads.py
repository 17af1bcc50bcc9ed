"""What the study reads: all of it once, when it is opened, and then nothing of other trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from optuna.storages._rdb import models

from experiments.spec import SweepSpec
from experiments.study import Study, StudyTrial
from experiments.trial import TrialPlan, TrialState


@pytest.fixture
def plans(load: Callable[[str], SweepSpec]) -> tuple[TrialPlan, ...]:
    return load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.5, 0.25]}\n").plans


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


def open_study(file: Path) -> Study:
    return Study(file=file, name="sweep", direction="maximize")


def test_what_a_trial_costs_does_not_depend_on_the_others(file: Path, plans: tuple[TrialPlan, ...]) -> None:
    """Rows that Optuna makes trials of: it would read all that run to tell the newest one's number."""
    study = open_study(file)
    loaded: list[object] = []

    def on_load(target: object, _context: object) -> None:
        loaded.append(target)

    def of_a_trial(number: int) -> int:
        loaded.clear()
        study.start(number, plans[0])
        study.record_attempt(number, 1)
        study.finish(number, state=TrialState.COMPLETE, value=0.5)
        return len(loaded)

    sqlalchemy.event.listen(models.TrialModel, "load", on_load)
    try:
        first = of_a_trial(0)
        for number in range(1, 20):
            study.start(number, plans[1])
        assert 0 < first == of_a_trial(20)
    finally:
        sqlalchemy.event.remove(models.TrialModel, "load", on_load)


def test_what_was_there_when_it_was_opened(file: Path, plans: tuple[TrialPlan, ...]) -> None:
    study = open_study(file)
    study.start(0, plans[0])
    again = open_study(file)
    again.finish(0, state=TrialState.COMPLETE, value=0.5)
    assert study.at_first == {}
    assert again.at_first == {0: StudyTrial(0, plans[0].signature, TrialState.RUNNING, "", 0)}
    assert again.trials()[0].state is TrialState.COMPLETE
