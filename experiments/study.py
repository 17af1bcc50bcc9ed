"""The Optuna study: which trials were started and how they ended. With sampling.py the only module that imports optuna.

Promises: one process writes (it holds the sweep's lock), so what is read here is what was written.
The trial folders are the truth about results; the study is what samplers, dashboards and other readers
of Optuna see, and what counts attempts. Optuna cannot reopen a failed trial, so a retry adds an Optuna
trial that names the same trial number: the last one speaks for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, create_trial

from experiments.disk_space import is_disk_full
from experiments.errors import UserError
from experiments.trial import Draw, Stage, TrialPlan, TrialState

_NUMBER, _SIGNATURE, _ATTEMPTS, _STOP_REASON = "trial", "signature", "attempts", "stop_reason"
_TO_BE_PRUNED = "to_be_pruned"
_CONFIG, _DRAW = "resolved_config", "draw"

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

    def __init__(self, *, file: Path, name: str, direction: Literal["maximize", "minimize"]) -> None:
        """Opens or makes the study.

        Raises:
            UserError: where the file is no study.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._name, self._direction = name, direction
        self._studies: dict[Stage, optuna.Study] = {}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._storage = _sqlite(file)
            self._open("search")
            if self._name_of("final") in optuna.get_all_study_names(self._storage):
                self._open("final")
            self._check()
            known = self._known()
            self._optuna_id = {_number(trial): trial._trial_id for _, trial in known}
            self.at_first = _by_number(known)
        except _UNREADABLE as error:
            if is_disk_full(error):
                raise
            reason = (str(getattr(error, "orig", error)) or type(error).__name__).splitlines()[0].rstrip(" .")
            raise UserError(
                f"{file}: cannot be opened as an Optuna study ({reason}); "
                "move it away to have it rebuilt from the trial folders"
            ) from None

    def close(self) -> None:
        """Gives the file back."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def trials(self) -> dict[int, StudyTrial]:
        """Every trial by its number, read now. What there was when the study was opened is in `at_first`."""
        return _by_number(self._known())

    def start(self, number: int, plan: TrialPlan, *, attempts: int = 0) -> None:
        """Adds a RUNNING trial: a new one, or the reopening of a finished one."""
        study = self._studies.get(plan.stage) or self._open(plan.stage)
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

    def record_attempt(self, number: int, attempts: int) -> None:
        """Notes that another process of the trial starts."""
        self._set_attr(number, _ATTEMPTS, attempts)

    def record_decision(self, number: int, stop_reason: str) -> None:
        """Notes that the trial's report stops its configuration, before anything of that is stopped."""
        self._set_attr(number, _TO_BE_PRUNED, stop_reason)

    def finish(self, number: int, *, state: TrialState, value: float | None, stop_reason: str = "") -> None:
        """Ends a trial as COMPLETE (with its objective value) or FAIL (with a reason)."""
        if stop_reason:
            self._set_attr(number, _STOP_REASON, stop_reason)
        values = None
        if state is TrialState.COMPLETE:
            assert value is not None, f"trial {number} is complete without a value"
            values = [value]
        self._storage.set_trial_state_values(self._optuna_id[number], optuna.trial.TrialState[state.name], values)

    def _check(self) -> None:
        """Finds a file that was torn or overwritten in its midst, before anything is written to it."""
        with self._storage.engine.connect() as connection:
            problem = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if problem != "ok":
            raise RuntimeError(problem)

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


def _sqlite(file: Path) -> optuna.storages.RDBStorage:
    """SQLite in WAL mode: readers (a dashboard) never block the writer, and a crash leaves a readable file.

    BEGIN IMMEDIATE takes the write lock at once: Optuna's SELECT ... FOR UPDATE does nothing on SQLite.
    """
    url = sqlalchemy.URL.create("sqlite", database=str(file))
    storage = optuna.storages.RDBStorage(
        url.render_as_string(hide_password=False), engine_kwargs={"connect_args": {"timeout": 60}}
    )

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are ours, not the driver's
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @sqlalchemy.event.listens_for(storage.engine, "begin")
    def _on_begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # connections made before the listeners
    return storage
