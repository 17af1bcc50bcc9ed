"""`runner.py predict`: what the best trial of a sweep, or a chosen one, finds in any images.

The model runs in a process of its own, so that the command needs no torch, and reports over a pipe.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from experiments.devices import visible_gpus
from experiments.errors import UserError
from experiments.executors.base import AttemptError
from experiments.executors.local import end_session, warm_context
from experiments.failures import FailureKind
from experiments.prediction_process import Predicted, PredictionRequest, run_prediction
from experiments.report.entries import entries
from experiments.report.leaderboard import ranked
from experiments.spec import SweepSpec
from experiments.spec_of_sweep import load_spec_of_sweep
from experiments.store import StoredTrial, SweepStore, read_config
from experiments.trial import TrialState
from wsol.checkpoint_files import checkpoint_files
from wsol.config import ExperimentConfig
from wsol.data.images import DataError, ImageRecord, image_size


@dataclass(frozen=True)
class Options:
    """The command line of a prediction.

    Attributes:
        settings: `KEY=VALUE` each, over the spec.
        trial: its number; None: the best complete one by the sweep's objective.
        out: folder of the pictures; None: `predictions` in the sweep's folder.
        top: a heat map is drawn for so many classes an image.
    """

    results: Path = Path("results")
    settings: tuple[str, ...] = ()
    trial: int | None = None
    out: Path | None = None
    top: int = 3


def predict(file: Path, images: Sequence[Path], options: Options) -> int:
    """Predicts and prints one JSON list to stdout, an item an image, in the order given. See README.md.

    Returns:
        0.

    Raises:
        UserError: for a fault in the spec, the command line, the images or the trial's files.
        RuntimeError: where the process broke in another way.
    """
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")  # to stderr
    spec = load_spec_of_sweep(file, options.settings, options.results)
    store = SweepStore(options.results / spec.name)
    trial = _best_trial(spec, store) if options.trial is None else _numbered_trial(store, options.trial)
    config = _config(trial)
    _check_weights(store, trial)
    request = PredictionRequest(
        config=config,
        checkpoint=trial.paths.checkpoint,
        images=tuple(_with_pictures(_readable(images), folder=_made(options.out or store.predictions), trial=trial)),
        top=options.top,
        use_gpu=bool(visible_gpus(os.environ).gpus),
    )
    print(f"trial {trial.number} of sweep {spec.name}, in {trial.paths.folder}", file=sys.stderr)
    documents = [
        {"image": str(image), "trial": trial.number, "picture": str(picture), **found}
        for (image, picture), found in zip(request.images, _run(request), strict=True)
    ]
    lines = ",\n".join(json.dumps(document, allow_nan=False) for document in documents)
    print(f"[\n{lines}\n]")
    return 0


def _best_trial(spec: SweepSpec, store: SweepStore) -> StoredTrial:
    order = ranked(entries(spec, store), metric=spec.objective.metric, direction=spec.objective.direction)
    for entry in order:
        if entry.state is TrialState.COMPLETE and entry.trial is not None:
            return entry.trial
    raise UserError(
        f"got no complete trial of {spec.file} in {store.folder}; expected one: run the sweep first, or choose a trial"
        " with --trial N"
    )


def _numbered_trial(store: SweepStore, number: int) -> StoredTrial:
    trials = {trial.number: trial for trial in store.trials()}
    if number not in trials:
        there = ", ".join(map(str, trials)) or "none is there yet"
        raise UserError(f"got {number} for --trial; expected the number of a trial in {store.folder}: {there}")
    return trials[number]


def _check_weights(store: SweepStore, trial: StoredTrial) -> None:
    if not checkpoint_files(trial.paths.checkpoint):
        those = ", ".join(str(other.number) for other in store.trials() if checkpoint_files(other.paths.checkpoint))
        raise UserError(
            f"got no checkpoint in {trial.paths.checkpoint}; expected a trial that trained for an epoch and keeps its "
            f"weights (see resources.keep_checkpoints, and gc --weights): {those or 'none does'}"
        )


def _config(trial: StoredTrial) -> Mapping[str, Any]:
    try:
        return ExperimentConfig.model_validate(read_config(trial)).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"got a config in {trial.paths.config} that this version cannot use:"
            f" {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


def _readable(images: Sequence[Path]) -> Sequence[Path]:
    """The same images, each of which has the header of an image."""
    for image in images:
        try:
            image_size(ImageRecord(id=image.stem, path=image))
        except DataError as error:
            raise UserError(str(error)) from None
    return images


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"got {error.strerror!r} for {folder}; expected a folder for the pictures") from None
    return folder


def _with_pictures(images: Iterable[Path], *, folder: Path, trial: StoredTrial) -> Iterator[tuple[Path, Path]]:
    """Each image with the file of its picture. Images of one name get different files, also where case is no matter."""
    taken: set[str] = set()
    for image in images:
        stem = f"trial-{trial.number}-{image.stem}"
        name, count = stem, 1
        while name.casefold() in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.casefold())
        yield image, folder / f"{name}.png"


def _run(request: PredictionRequest) -> list[Mapping[str, Any]]:
    """What was found in each image, in the order of the request."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = warm_context().Process(  # type: ignore[attr-defined]  # every concrete context has it
        target=run_prediction, args=(request, theirs), name="predict"
    )
    process.start()
    theirs.close()
    try:
        return _follow(process, ours)
    finally:
        end_session(process)
        ours.close()


def _follow(process: BaseProcess, connection: Connection) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    while True:
        try:
            message = connection.recv()
        except EOFError:
            break
        if isinstance(message, Predicted):
            found.append({"class_scores": message.class_scores, "detections": message.detections})
        elif isinstance(message, AttemptError):
            if message.kind == FailureKind.DATA:
                raise UserError(message.message.partition(": ")[2])
            raise RuntimeError(f"the prediction failed:\n{message.details}")
        else:
            print(f"warning: {message}", file=sys.stderr)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process that predicts ended with status {process.exitcode}")
    return found
