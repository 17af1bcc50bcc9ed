"""What must hold between the parts of a spec, once all of them can be read."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.errors import SpecError, did_you_mean, shown
from experiments.pruning import Pruner, can_act
from experiments.spec_document import Final, Objective
from experiments.trial import TrialPlan
from experiments.yaml_source import YamlSource
from wsol.config import ExperimentConfig
from wsol.key_reads import ReadWhen, marked_keys, unread_keys
from wsol.metrics.names import metrics_of


def check_reads(plans: Sequence[TrialPlan], source: YamlSource) -> None:
    """Every swept key must reach the trainer in every trial that has it.

    Raises:
        SpecError: for a key that a trial sweeps and never reads.
    """
    marked = marked_keys(ExperimentConfig)
    for plan in plans:
        if marked.keys().isdisjoint(plan.swept):
            continue
        unread = unread_keys(plan.config)
        for key in plan.swept:
            if key in unread:
                raise _unread(key, unread[key], plan, source)


def _unread(key: str, marker: ReadWhen, plan: TrialPlan, source: YamlSource) -> SpecError:
    named = dict.fromkeys(name for alternative in marker.alternatives for name, _ in alternative)
    has = ", ".join(f"{name}: {_text(plan.value(name))}" for name in named)
    return source.error(
        f"got {key} as a swept key, which a trial with {has} never reads; expected it only with {marker.text()},"
        " by a `when` of the key or in a block of its own",
        plan.cell.place(key),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def checked_objective(given: Objective | None, plans: Sequence[TrialPlan], source: YamlSource) -> Objective:
    """The spec's objective, which every trial must be measured by; default: the mean of their first metric.

    Raises:
        SpecError: for a metric that some trial does not have.
    """
    kinds = dict.fromkeys((plan.config.task, plan.config.evaluate.metrics) for plan in plans)
    measured = [metrics_of(task, extra) for task, extra in kinds]
    metrics = [name for name in measured[0] if all(name in others for others in measured)]
    if given is None:
        return Objective(metric=f"{metrics[0]}/mean")
    metric, _, class_name = given.metric.partition("/")
    if metric not in metrics or not class_name:
        task = " and ".join(dict.fromkeys(task for task, _ in kinds))
        expected = (
            f"<metric>/mean or <metric>/<class> with a metric of task {task}: {', '.join(metrics)}, or one that every"
            " trial has in evaluate.metrics"
        )
        near = did_you_mean(given.metric, [f"{name}/{class_name or 'mean'}" for name in metrics])
        raise source.error(
            f"got {shown(given.metric)} for objective.metric; expected {expected}{near}", ("objective", "metric")
        )
    return given


def check_pruner(pruner: Pruner | None, plans: Sequence[TrialPlan], source: YamlSource) -> None:
    """A pruner must be able to stop some trial.

    Raises:
        SpecError: for one that would have its first say after the last chance.
    """
    lengths = dict.fromkeys((plan.config.train.epochs, plan.config.evaluate.every) for plan in plans)
    if pruner is not None and not any(can_act(pruner, epochs=epochs, every=every) for epochs, every in lengths):
        epochs, every = max(lengths)
        raise source.error(
            f"got a pruner that can never stop a trial: its first decision would be due after the last evaluation but "
            f"the final one (train.epochs {epochs}, evaluate.every {every}); expected an earlier one",
            ("pruner",),
        )


def check_final(final: Final | None, plans: Sequence[TrialPlan], source: YamlSource) -> None:
    """The search must never read the split of the final stage.

    Raises:
        SpecError: where it does, or where the final stage measures what it trains on.
    """
    if final is None:
        return
    if final.train == final.eval:
        raise source.error(f"got {final.eval!r} for both final.train and final.eval; expected two splits", ("final",))
    for plan in plans:
        for name, split in (("data.train", plan.config.data.train), ("data.eval", plan.config.data.eval)):
            if split == final.eval:
                raise source.error(
                    f"got {final.eval!r} for final.eval, which is {name} of the search too; expected a split that the "
                    "search never reads",
                    ("final", "eval"),
                )


def check_settings(settings: Sequence[str], swept: Sequence[Sequence[str]], source: YamlSource) -> None:
    """A config key that is set must be able to change a trial.

    Args:
        settings: as on the command line.
        swept: the keys of each search block that it has for every cell.

    Raises:
        SpecError: for a setting of a key that every block sweeps, which would win.
    """
    for setting in settings:
        for path, place in source.places.items():
            if place.file != f"--set {setting}" or path[0] != "experiment":
                continue
            key = ".".join(map(str, path[1:]))
            if swept and all(key in keys for keys in swept):
                raise SpecError(
                    f"got a value for {key}, which search sweeps, so that it would change nothing; expected another"
                    f" key, or --set 'search[0].grid.{key}=[...]'",
                    file=f"--set {setting}",
                )
