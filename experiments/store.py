"""The files of a sweep. The only module that knows file names under results/.

Promises: a file is whole or absent (temporary name, fsync, rename, fsync of the folder); `metrics.jsonl`
(`metrics_file.py`), logs and the timeline alone grow line by line. A trial is finished when its `result.json` exists,
and only then.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from experiments.footprint import Usage
from experiments.hard_links import share_folder
from experiments.json_file import read_json, write_json
from experiments.sealed import sealed
from experiments.trial import Draw, Stage, TrialState
from wsol.atomic_file import sync_folder

log = logging.getLogger(__name__)

_TRIAL_FOLDER = re.compile(r"^(\d+)-([0-9a-f]{8})$")


@dataclass(frozen=True)
class TrialPaths:
    """Every file of one trial."""

    folder: Path

    @property
    def config(self) -> Path:
        """The resolved config, with the trial's signature."""
        return self.folder / "config.json"

    @property
    def metrics(self) -> Path:
        """One line an epoch."""
        return self.folder / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """The trial's last word: see `TrialResult`."""
        return self.folder / "result.json"

    @property
    def detections(self) -> Path:
        """What the final model found on the eval split."""
        return self.folder / "detections.npz"

    @property
    def images(self) -> Path:
        """Folder of the pictures of the final model's detections, as many as `evaluate.pictures` says."""
        return self.folder / "images"

    @property
    def checkpoint(self) -> Path:
        """Folder of the trial's checkpoints."""
        return self.folder / "checkpoint"

    def record(self, metric: str) -> Path:
        """What reports keep of a complete trial, to be made again where it is gone: a metric on resampled images."""
        return self.folder / f"resampled-{metric}.npz"

    @property
    def log(self) -> Path:
        """What the trial's processes printed, tracebacks included."""
        return self.folder / "log.txt"


@dataclass(frozen=True)
class StoredTrial:
    """A trial folder, as its config.json tells of it.

    Attributes:
        stage: of the sweep.
        draw: how a sampler came to it, None for a trial of a grid or zip.
        may_be_pruned: False for a trial that was pruned and then taken up again.
        images_at_a_time: at most so many go through the model at once, since more did not fit into memory; None: as
            many as the config says.
        code: what it was begun with, see `CodeVersion.of_trial`; empty where that is not known.
    """

    number: int
    signature: str
    paths: TrialPaths
    stage: Stage = "search"
    draw: Draw | None = None
    may_be_pruned: bool = True
    images_at_a_time: int | None = None
    code: str = ""


@dataclass(frozen=True)
class TrialResult:
    """The last word on a trial.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        stop_reason: why a PRUNED or FAIL trial ended; empty for COMPLETE.
        attempts: processes it took, over all runs of the command.
        metrics: flat name -> value, None where undefined (a class without ground truth).
        epochs: epochs trained.
        duration_s: wall seconds of those epochs, whichever attempt ran them.
        images_at_a_time: at most so many went through the model at once in the last attempt, as more did not fit into
            memory; None: as many as the config says.
        reused_from: `<sweep>/<trial folder>` that it was taken from; empty where this sweep ran it.
        config: the resolved config as the attempt's process used it; empty where none got so far.
        code: what the last attempt ran, see `CodeVersion.of_trial`; empty where that is not known.
        usage: what it took of the machine, over all attempts that finished an epoch; None where that was not measured.
    """

    signature: str
    state: TrialState
    stop_reason: str
    attempts: int
    metrics: Mapping[str, float | None]
    epochs: int
    duration_s: float
    images_at_a_time: int | None = None
    reused_from: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    usage: Usage | None = None


_RESULT = TypeAdapter(TrialResult)
_WITHOUT_RESULT = "continues from its checkpoint"
_DRAW = TypeAdapter(Draw)
_USAGE = TypeAdapter(Usage)


@dataclass(frozen=True)
class SweepStore:
    """A sweep's folder."""

    folder: Path

    @property
    def study(self) -> Path:
        """Optuna's SQLite file."""
        return self.folder / "study.db"

    @property
    def study_id(self) -> Path:
        """What tells the sweep's study from all others in a database that sweeps share."""
        return self.folder / "study.id"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the sweep."""
        return self.folder / "runner.lock"

    @property
    def leaderboard(self) -> Path:
        """A row a trial."""
        return self.folder / "leaderboard.csv"

    @property
    def per_class(self) -> Path:
        """A row a trial and class."""
        return self.folder / "per_class_ap.csv"

    @property
    def report(self) -> Path:
        """The page of the sweep."""
        return self.folder / "report.html"

    @property
    def report_json(self) -> Path:
        """The page's figures for other programs."""
        return self.folder / "report.json"

    @property
    def report_latex(self) -> Path:
        """The page's table of classes for papers."""
        return self.folder / "report.tex"

    @property
    def environment(self) -> Path:
        """Versions and machine of the last run."""
        return self.folder / "environment.json"

    @property
    def timeline(self) -> Path:
        """When which attempt ran where: see `Timeline`."""
        return self.folder / "timeline.jsonl"

    @property
    def spec(self) -> Path:
        """The spec's text at the last run."""
        return self.folder / "spec.yaml"

    @property
    def code(self) -> Path:
        """With what source, packages and data the sweep trains: see `StoredCode`."""
        return self.folder / "code.json"

    def snapshot(self, source: str, suffix: str = "") -> Path:
        """Folder of a copy of the source, by the hash of it. With `.diff`: a file that tells it from its commit."""
        return self.folder / "code" / f"{source[:12]}{suffix}"

    @property
    def wandb(self) -> Path:
        """Folder of the W&B mirror: see `tracking/paths.py`. W&B itself keeps its runs there."""
        return self.folder / "wandb"

    @property
    def predictions(self) -> Path:
        """Folder of the pictures that `runner.py predict` makes, unless it is told another."""
        return self.folder / "predictions"

    def trial_paths(self, number: int, signature: str) -> TrialPaths:
        """Of a trial that may not exist yet."""
        return TrialPaths(self.folder / "trials" / f"{number:04d}-{signature[:8]}")

    def create_trial(
        self,
        number: int,
        signature: str,
        config: Mapping[str, Any],
        *,
        stage: Stage = "search",
        draw: Draw | None = None,
        code: str = "",
    ) -> StoredTrial:
        """Makes the trial's folder with its config.json."""
        trial = StoredTrial(number, signature, self.trial_paths(number, signature), stage, draw, code=code)
        trial.paths.folder.mkdir(parents=True, exist_ok=True)
        _write_config(trial, config)
        return trial

    def adopt(self, number: int, found: StoredTrial, *, stage: Stage, draw: Draw | None) -> StoredTrial:
        """Takes over a finished trial of another sweep, with all its files, under a number of this one.

        The folder appears whole. Files are shared with the other sweep where the file system can: nothing writes into
        a file of a finished trial.
        """
        own = self.trial_paths(number, found.signature)
        trial = StoredTrial(number, found.signature, own, stage, draw, code=found.code)
        result = read_result(found)
        assert result is not None, f"{found.paths.folder} is not finished"
        folder = trial.paths.folder
        pending = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(pending, ignore_errors=True)  # left by a runner that was killed
        share_folder(found.paths.folder, pending, growing=found.paths.log.name, shrinking=found.paths.checkpoint.name)
        at_pending = replace(trial, paths=TrialPaths(pending))
        _write_config(at_pending, read_config(found))
        origin = result.reused_from or f"{found.paths.folder.parent.parent.name}/{found.paths.folder.name}"
        write_result(at_pending.paths, replace(result, reused_from=origin))
        os.rename(pending, folder)
        sync_folder(folder.parent)
        return trial

    def temporary(self) -> list[Path]:
        """Files and folders that a killed process left before they had their names; of use to nobody once none runs."""
        found = [path for at in (".*.tmp", "*/.*.tmp") for path in self.folder.glob(at)]
        for name in self.trial_names():
            paths = TrialPaths(self.folder / "trials" / name)
            for folder in (paths.folder, paths.checkpoint, paths.images):
                found += [*folder.glob(".*.tmp"), *folder.glob(".*.pending")]
        return sorted(found)

    def trial_names(self) -> list[str]:
        """The names of all trial folders, sorted."""
        folder = self.folder / "trials"
        return sorted(name for name in os.listdir(folder) if _TRIAL_FOLDER.match(name)) if folder.is_dir() else []

    def mend_config(
        self, name: str, signature: str, config: Mapping[str, Any], *, stage: Stage, draw: Draw | None
    ) -> None:
        """Writes the config.json of a trial folder anew, from what is known of the trial elsewhere."""
        match = _TRIAL_FOLDER.match(name)
        assert match is not None, f"{name} is no trial's folder"
        trial = StoredTrial(int(match[1]), signature, TrialPaths(self.folder / "trials" / name), stage, draw)
        _write_config(trial, config)
        log.warning("%s: was damaged or missing and is written anew", trial.paths.config)

    def stored_trial(self, name: str) -> StoredTrial | None:
        """The trial in a folder; None, with a warning, where its config.json cannot be read."""
        return _stored_trial(self.folder / "trials" / name)

    def trials(self) -> list[StoredTrial]:
        """Every trial folder with a readable config.json, by number. Others are named in a warning."""
        found = [trial for name in self.trial_names() if (trial := self.stored_trial(name)) is not None]
        return sorted(found, key=lambda trial: trial.number)


def number_of(name: str) -> int:
    """Of the trial in a trial's folder."""
    return int(name.partition("-")[0])


def belongs_to(name: str, signature: str) -> bool:
    """Whether a trial folder of this name may be that of a trial with this signature."""
    return name.partition("-")[2] == signature[:8]


def sweep_folders(results: Path) -> list[SweepStore]:
    """The sweeps in a results folder, by name."""
    return [SweepStore(folder) for folder in sorted(results.glob("*")) if (folder / "trials").is_dir()]


def _stored_trial(folder: Path) -> StoredTrial | None:
    name = _TRIAL_FOLDER.match(folder.name)
    if name is None:
        return None
    paths = TrialPaths(folder)
    config = read_json(paths.config)
    signature = config.get("signature") if isinstance(config, dict) else None
    if not isinstance(signature, str) or signature[:8] != name[2] or not _is_draw(config.get("draw")):
        log.warning("%s: no readable config.json", folder)
        return None
    draw = _DRAW.validate_python(config["draw"]) if config.get("draw") else None
    return StoredTrial(
        number=int(name[1]),
        signature=signature,
        paths=paths,
        stage="final" if config.get("stage") == "final" else "search",
        draw=draw,
        may_be_pruned=config.get("may_be_pruned") is not False,
        images_at_a_time=_positive(config.get("images_at_a_time")),
        code=str(config.get("code", "")),
    )


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _is_draw(value: Any) -> bool:
    try:
        return value is None or _DRAW.validate_python(value) is not None
    except ValidationError:
        return False


def _write_config(trial: StoredTrial, config: Any) -> None:
    values: dict[str, Any] = {"number": trial.number, "signature": trial.signature, "stage": trial.stage}
    if trial.draw is not None:
        values["draw"] = asdict(trial.draw)
    if not trial.may_be_pruned:
        values["may_be_pruned"] = False
    optional = {"images_at_a_time": trial.images_at_a_time, "code": trial.code}
    values |= {name: value for name, value in optional.items() if value}
    write_json(trial.paths.config, sealed({**values, "config": config}))


def exempt_from_pruning(trial: StoredTrial) -> StoredTrial:
    """Notes in the trial's folder that it is not to be pruned any more."""
    exempt = replace(trial, may_be_pruned=False)
    _write_config(exempt, read_config(trial))
    return exempt


def limit_images_at_a_time(trial: StoredTrial, images: int) -> StoredTrial:
    """Notes in the trial's folder that more do not fit into memory."""
    limited = replace(trial, images_at_a_time=images)
    _write_config(limited, read_config(trial))
    return limited


def read_config(trial: StoredTrial) -> Any:
    """The resolved config of a trial as plain values, not validated; None where config.json has none."""
    values = read_json(trial.paths.config)
    return values.get("config") if isinstance(values, dict) else None


def write_result(paths: TrialPaths, result: TrialResult) -> None:
    """Writes the trial's last word."""
    write_json(paths.result, sealed(asdict(result)))


def read_result(trial: StoredTrial) -> TrialResult | None:
    """The trial's last word, or None where it has none. A damaged file is named in a warning and counts as none."""
    values = read_json(trial.paths.result)
    if values is None:
        return None
    try:
        result = _RESULT.validate_python(values)
    except ValidationError:
        result = None
    if result is None or not result.state.is_finished:
        log.warning("%s: not a result; the trial %s", trial.paths.result, _WITHOUT_RESULT)
        return None
    if result.signature != trial.signature:
        log.warning("%s: belongs to another trial; this one %s", trial.paths.result, _WITHOUT_RESULT)
        return None
    return result
