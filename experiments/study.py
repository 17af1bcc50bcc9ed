"""The Optuna study: which trials were started and how they ended. With sampling.py the only module that imports optuna.

Promises: one process writes (it holds the sweep's lock), so what is read here is what was written. A write that failed
may be repeated: what was done all the same, as the database's answer alone was lost, is found and not done twice.
The trial folders are the truth about results; the study is what samplers, dashboards and other readers
of Optuna see, and what counts attempts. Optuna cannot reopen a failed trial, so a retry adds an Optuna
trial that names the same trial number: the last one speaks for it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, create_trial

from experiments.databases import Database, SqliteFile
from experiments.disk_space import is_disk_full
from experiments.errors import UserError
from experiments.trial import Draw, Stage, TrialPlan, TrialState

_NUMBER, _SIGNATURE, _ATTEMPTS, _STOP_REASON = "trial", "signature", "attempts", "stop_reason"
_TO_BE_PRUNED = "to_be_pruned"
_CONFIG, _DRAW, _FOLDER = "resolved_config", "draw", "folder"

_UNREADABLE = (
    sqlalchemy.exc.SQLAlchemyError,
    optuna.exceptions.OptunaError,
    RuntimeError,  # the tables are of another version of Optuna
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
"""What reading a file may raise that is no study, is torn, or has turned bits."""


@dataclass(frozen=True)
class StudyTrial:
    """What the study knows of one trial.

    Attributes:
        to_be_pruned: why its report stopped its configuration; empty where none has.
        config: the resolved config as JSON, from which a damaged config.json is mended; empty in older studies.
        stage: of the sweep.
        draw: how a sampler came to it.
    """

    number: int
    signature: str
    state: TrialState
    stop_reason: str
    attempts: int
    to_be_pruned: str = ""
    config: str = field(default="", compare=False, repr=False)
    stage: Stage = "search"
    draw: Draw | None = None


class Study:
    """The study of one sweep.

    Attributes:
        at_first: every trial by its number, as it was when the study was opened.
    """

    def __init__(
        self,
        *,
        file: Path | None = None,
        database: Database | None = None,
        name: str,
        direction: Literal["maximize", "minimize"],
    ) -> None:
        """Opens or makes the study.

        Args:
            file: of SQLite, where no database is given.

        Raises:
            UserError: where there is no study to be had, with what to do.
            DatabaseAwayError: where the database stops answering meanwhile.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if database is None:
            assert file is not None, "either of them"
            database = SqliteFile(file)
        self._name, self._direction = name, direction
        self._studies: dict[Stage, optuna.Study] = {}
        self._in_doubt: set[int] = set()
        """Trials of which a write failed and may have been done all the same."""
        try:
            with database.alone():
                self._storage = optuna.storages.RDBStorage(_no_template(database.url), database.engine_options)
            database.prepare(self._storage.engine)
            self._storage.engine.dispose()  # connections made before that
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(self.close)
                self._read(database)
                on_failure.pop_all()
        except _UNREADABLE as error:
            if is_disk_full(error):
                raise
            raise UserError(database.refusal(error)) from None

    def _read(self, database: Database) -> None:
        """All of it, so that what is damaged shows before anything is written."""
        self._open("search")
        if self._name_of("final") in optuna.get_all_study_names(self._storage):
            self._open("final")
        database.check(self._storage.engine)
        known = self._known()
        self._optuna_id = {_number(trial): trial._trial_id for _, trial in known}
        self.at_first = _by_number(known)

    def close(self) -> None:
        """Gives the file back."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def folder(self) -> str:
        """Of the sweep that it is of, as `sign` was told last; empty where it never was."""
        return str(self._studies["search"].user_attrs.get(_FOLDER, ""))

    def sign(self, folder: str) -> None:
        """Says which folder it is of, for people who look into a database that sweeps share."""
        self._studies["search"].set_user_attr(_FOLDER, folder)

    def trials(self) -> dict[int, StudyTrial]:
        """Every trial by its number, read now. What there was when the study was opened is in `at_first`."""
        return _by_number(self._known())

    def start(self, number: int, plan: TrialPlan, *, attempts: int = 0) -> None:
        """Adds a RUNNING trial: a new one, or the reopening of a finished one."""
        study = self._studies.get(plan.stage) or self._open(plan.stage)
        if number in self._in_doubt and (added := self._added(study, number)) is not None:
            self._optuna_id[number] = added
            self._in_doubt.remove(number)
            return
        self._in_doubt.add(number)
        self._optuna_id[number] = self._storage.create_new_trial(
            study._study_id,
            create_trial(
                state=optuna.trial.TrialState.RUNNING,
                user_attrs={
                    _NUMBER: number,
                    _SIGNATURE: plan.signature,
                    _ATTEMPTS: attempts,
                    "seed": plan.config.seed,
                    _CONFIG: plan.config.model_dump_json(),
                    **({_DRAW: json.dumps(asdict(plan.draw))} if plan.draw is not None else {}),
                    **{f"config/{key}": json.dumps(value) for key, value in plan.swept.items()},
                },
            ),
        )
        self._in_doubt.remove(number)

    def record_attempt(self, number: int, attempts: int) -> None:
        """Notes that another process of the trial starts."""
        self._set_attr(number, _ATTEMPTS, attempts)

    def record_decision(self, number: int, stop_reason: str) -> None:
        """Notes that the trial's report stops its configuration, before anything of that is stopped."""
        self._set_attr(number, _TO_BE_PRUNED, stop_reason)

    def finish(self, number: int, *, state: TrialState, value: float | None, stop_reason: str = "") -> None:
        """Ends a trial as COMPLETE (with its objective value), or as PRUNED or FAIL (with a reason)."""
        if number in self._in_doubt and self._storage.get_trial(self._optuna_id[number]).state.name == state.name:
            self._in_doubt.remove(number)
            return
        self._in_doubt.add(number)
        if stop_reason:
            self._set_attr(number, _STOP_REASON, stop_reason)
        values = None
        if state is TrialState.COMPLETE:
            assert value is not None, f"trial {number} is complete without a value"
            values = [value]
        self._storage.set_trial_state_values(self._optuna_id[number], optuna.trial.TrialState[state.name], values)
        self._in_doubt.remove(number)

    def _name_of(self, stage: Stage) -> str:
        return self._name if stage == "search" else f"{self._name} (final stage)"

    def _open(self, stage: Stage) -> optuna.Study:
        """The trials of the final stage are a study of their own: their values are of another split."""
        self._studies[stage] = optuna.create_study(
            storage=self._storage,
            study_name=self._name_of(stage),
            direction=self._direction,
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: see sampling.py
        )
        return self._studies[stage]

    def _known(self) -> list[tuple[Stage, FrozenTrial]]:
        """Read past Optuna's cache, which would keep all that it has ever seen of each trial: 20 kB."""
        return [
            (stage, trial)
            for stage, study in self._studies.items()
            for trial in self._storage.get_all_trials(study._study_id, deepcopy=False)
            if _NUMBER in trial.user_attrs
        ]

    def _added(self, study: optuna.Study, number: int) -> int | None:
        """Optuna's id of a trial that was added though nobody heard of it; None where it was not."""
        for trial in reversed(study.get_trials(deepcopy=False)):
            if trial.user_attrs.get(_NUMBER) == number:
                return trial._trial_id if trial._trial_id != self._optuna_id.get(number) else None
        return None

    def _set_attr(self, number: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._optuna_id[number], key, value)


def _by_number(known: Iterable[tuple[Stage, FrozenTrial]]) -> dict[int, StudyTrial]:
    return {_number(trial): _study_trial(stage, trial) for stage, trial in known}


def _number(trial: FrozenTrial) -> int:
    return int(trial.user_attrs[_NUMBER])


def _study_trial(stage: Stage, trial: FrozenTrial) -> StudyTrial:
    attrs: Mapping[str, Any] = trial.user_attrs
    return StudyTrial(
        number=_number(trial),
        signature=attrs[_SIGNATURE],
        state=TrialState[trial.state.name],
        stop_reason=attrs.get(_STOP_REASON, ""),
        attempts=attrs[_ATTEMPTS],
        to_be_pruned=attrs.get(_TO_BE_PRUNED, ""),
        config=attrs.get(_CONFIG, ""),
        stage=stage,
        draw=Draw(**json.loads(attrs[_DRAW])) if _DRAW in attrs else None,
    )


def _no_template(url: str) -> str:
    """Optuna takes braces in a URL for places to fill in."""
    return url.replace("{", "{{").replace("}", "}}")
