"""Whether the files that a spec names are there, checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.errors import did_you_mean
from experiments.spec import SweepSpec
from experiments.trial import TrialPlan
from wsol.config import DIGITS_ROOT
from wsol.data.digits import CLASSES, SPLITS
from wsol.data.images import DataError
from wsol.data.mends import Mends
from wsol.data.voc import VOC_CLASSES, check_layout
from wsol.data.voc_layout import VocFolder


def check_inputs(spec: SweepSpec) -> None:
    """Checks data folders, split files, weights files and proposal files, each once, and the objective's class.

    Raises:
        SpecError: at the line of the key that names what is missing.
    """
    final = [spec.final_plans(plan)[0] for plan in _one_a_root(spec.corners)] if spec.final is not None else []
    plans = [*spec.corners, *final]
    _each(spec, plans, "data.root", lambda plan: plan.config.data.root, _root)
    _each(spec, plans, "data.train", lambda plan: (plan.config.data.root, plan.config.data.train), _training_split)
    _each(spec, plans, "data.eval", lambda plan: (plan.config.data.root, plan.config.data.eval), _evaluation_split)
    _each(spec, plans, "model.weights", lambda plan: plan.config.model.weights, _weights)
    _each(spec, plans, "proposals.file", lambda plan: plan.config.proposals.file, _proposals)
    _check_final_is_unseen(spec)
    for classes in dict.fromkeys(tuple(_known_classes(plan)) for plan in spec.corners):
        _check_objective_class(spec, classes)


def _one_a_root(plans: Iterable[TrialPlan]) -> list[TrialPlan]:
    return list({plan.config.data.root: plan for plan in plans}.values())


def _check_final_is_unseen(spec: SweepSpec) -> None:
    """No image of the final stage's eval split may be in another split that the sweep uses.

    The splits of the generated data set share none.
    """
    if spec.final is None:
        return
    seen = dict.fromkeys(
        (data.root, split)
        for data in (plan.config.data for plan in spec.corners)
        for split in (data.train, data.eval, spec.final.train)
        if data.root != DIGITS_ROOT
    )
    for root, split in seen:
        unseen = _image_ids(root, spec.final.eval)
        if shared := sorted(unseen & _image_ids(root, split)):
            raise spec.source.error(
                f"got {spec.final.eval!r} for final.eval, which shares {len(shared)} of its {len(unseen)} images with"
                f" split {split!r} (such as {shared[0]}); expected a split that nothing else uses",
                ("final", "eval"),
            )


def _image_ids(root: str, split: str) -> set[str]:
    return set(VocFolder(Path(root)).ids(split, Mends(root=Path(root), split=split)))


def _each(
    spec: SweepSpec,
    plans: Iterable[TrialPlan],
    key: str,
    what: Callable[[TrialPlan], Any],
    check: Callable[[Any], None],
) -> None:
    """Runs `check` on every distinct value; a fault becomes a SpecError at the line that gave the value first."""
    first: dict[Any, TrialPlan] = {}
    for plan in plans:
        first.setdefault(what(plan), plan)
    for value, plan in first.items():
        try:
            check(value)
        except DataError as error:
            raise spec.error(f"{key}: {error}", key=key, plan=plan) from None
        except OSError as error:  # a folder that may not be entered, a name too long for the file system
            raise spec.error(f"{key}: cannot be read: {error.strerror}", key=key, plan=plan) from None


def _root(root: str) -> None:
    if root == DIGITS_ROOT:
        return
    folder = Path(root)
    try:
        check_layout(folder, splits=[])
    except DataError as error:
        if not folder.exists() and (hint := did_you_mean(root, [DIGITS_ROOT])):
            raise DataError(f"got no folder at {root}; expected a data set in VOC layout, or digits{hint}") from None
        if folder.parts[-2:] != ("VOCdevkit", "VOC2007") or folder.exists():
            raise
        command = f"python runner.py data voc2007 --root {folder.parent.parent}"
        raise DataError(f"{error}; to download it: {command}") from None


def _training_split(value: tuple[str, str]) -> None:
    root, split = value
    if root == DIGITS_ROOT:
        _digits_split(split)
    else:
        check_layout(Path(root), splits=[split])


def _evaluation_split(value: tuple[str, str]) -> None:
    root, split = value
    if root == DIGITS_ROOT:
        _digits_split(split)
    else:
        check_layout(Path(root), splits=[], boxes_in=[split])


def _digits_split(split: str) -> None:
    if split not in SPLITS:
        raise DataError(
            f"got split {split!r} of the digits data set; expected one of {', '.join(SPLITS)}"
            f"{did_you_mean(split, SPLITS)}"
        )


def _weights(weights: str) -> None:
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise DataError(f"no such file: {weights}")


def _proposals(file: str | None) -> None:
    if file is not None and not Path(file).is_file():
        raise DataError(f"no such file: {file}")


def _known_classes(plan: TrialPlan) -> Sequence[str]:
    """The classes of a trial as far as they are known without reading its data; empty: not known."""
    data = plan.config.data
    if isinstance(data.classes, tuple):
        return data.classes
    if data.classes == "voc":
        return VOC_CLASSES
    return CLASSES if data.root == DIGITS_ROOT else ()


def _check_objective_class(spec: SweepSpec, classes: Sequence[str]) -> None:
    name = spec.objective.metric.partition("/")[2]
    if classes and name not in ("mean", *classes):
        raise spec.source.error(
            f"got class {name!r} in objective.metric; expected mean or one of {', '.join(classes)}"
            f"{did_you_mean(name, classes)}",
            ("objective", "metric"),
        )
