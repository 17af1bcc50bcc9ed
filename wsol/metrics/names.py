"""The flat names of metrics, `<metric>/<class>` and `<metric>/mean`. docs/protocol.md defines each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Task = Literal["wsddn", "localizer"]
Family = Literal[
    "ap_11pt",
    "ap_area",
    "corloc",
    "proposal_recall",
    "cls_ap",
    "point_ap",
    "pointing_game",
    "maxboxacc_v2",
]
"""A metric less the IoU threshold in its name."""

METRICS_OF_TASK: dict[Task, tuple[str, ...]] = {
    "wsddn": (
        "ap50_11pt",
        "ap50_area",
        "corloc50",
        "cls_ap",
        "point_ap",
        "pointing_game",
        "proposal_recall50",
    ),
    "localizer": (
        "cls_ap",
        "point_ap",
        "corloc50",
        "maxboxacc_v2",
        "ap50_11pt",
        "ap50_area",
        "pointing_game",
    ),
}
"""What every trial of a task is measured by. The first one is the default objective."""

PATTERNS = "ap<NN>_11pt, ap<NN>_area, corloc<NN>, proposal_recall<NN>, cls_ap, point_ap, pointing_game or maxboxacc_v2"
"""Of every name there is, for messages. NN is the IoU in percent, 05 to 95."""

_AT_AN_IOU: dict[str, Family] = {
    "ap{}_11pt": "ap_11pt",
    "ap{}_area": "ap_area",
    "corloc{}": "corloc",
    "proposal_recall{}": "proposal_recall",
}
_PLAIN: tuple[Family, ...] = ("cls_ap", "point_ap", "pointing_game", "maxboxacc_v2")
_PERCENTS = range(5, 96)
_ONLY_TASK_OF: dict[Family, Task] = {"proposal_recall": "wsddn", "maxboxacc_v2": "localizer"}


@dataclass(frozen=True)
class Metric:
    """A metric's name, taken apart.

    Attributes:
        name: such as `ap50_area`.
        family: such as `ap_area`.
        iou_threshold: 0.05 to 0.95; None for metrics without one.
    """

    name: str
    family: Family
    iou_threshold: float | None = None

    @property
    def only_task(self) -> Task | None:
        """The task whose trials alone can be measured by it; None: every task's."""
        return _ONLY_TASK_OF.get(self.family)


_METRICS = {name: Metric(name=name, family=name) for name in _PLAIN} | {
    pattern.format(f"{percent:02}"): Metric(
        name=pattern.format(f"{percent:02}"), family=family, iou_threshold=percent / 100
    )
    for pattern, family in _AT_AN_IOU.items()
    for percent in _PERCENTS
}


def parse_metric(name: str) -> Metric:
    """Takes a metric's name apart.

    Raises:
        ValueError: for a name that is no metric's: `expected ...`, with the nearest that is.
    """
    if name not in _METRICS:
        raise ValueError(f"expected {PATTERNS}, with NN from 05 to 95{_did_you_mean(name)}")
    return _METRICS[name]


def metrics_of(task: Task, extra: Iterable[str] = ()) -> tuple[str, ...]:
    """What a trial is measured by: the metrics of its task, then `evaluate.metrics`, each once."""
    return tuple(dict.fromkeys([*METRICS_OF_TASK[task], *extra]))


def _did_you_mean(name: str) -> str:
    """The nearest name with the same IoU, so that ap30 leads to ap30_area, not to ap50_area."""
    given = name.lower().partition("/")[0]
    at_iou = [pattern.format(f"{_percent(given):02}") for pattern in _AT_AN_IOU]
    near = difflib.get_close_matches(given, [*at_iou, *_PLAIN], n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _percent(name: str) -> int:
    """The IoU that a wrong name seems to mean, in percent: 50 of 50, 5, .5 and 0.50; 50 where there is none."""
    number = re.search(r"\d*\.\d+|\d+", name.replace("11pt", ""))
    if number is None:
        return 50
    value = float(number[0])
    if value < 1.0:
        value *= 100
    elif value < 10.0 and not number[0].startswith("0"):
        value *= 10
    return min(max(round(value), _PERCENTS[0]), _PERCENTS[-1])
