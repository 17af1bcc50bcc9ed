from __future__ import annotations

import re

import pytest

from wsol.metrics.names import METRICS_OF_TASK, metrics_of, parse_metric


@pytest.mark.parametrize(
    ("name", "family", "iou_threshold", "only_task"),
    [
        ("ap50_11pt", "ap_11pt", 0.5, None),
        ("ap05_area", "ap_area", 0.05, None),
        ("ap70_area", "ap_area", 0.7, None),
        ("corloc95", "corloc", 0.95, None),
        ("proposal_recall30", "proposal_recall", 0.3, "wsddn"),
        ("cls_ap", "cls_ap", None, None),
        ("point_ap", "point_ap", None, None),
        ("pointing_game", "pointing_game", None, None),
        ("maxboxacc_v2", "maxboxacc_v2", None, "localizer"),
    ],
)
def test_names(name: str, family: str, iou_threshold: float | None, only_task: str | None) -> None:
    metric = parse_metric(name)
    assert (metric.name, metric.family) == (name, family)
    assert (metric.iou_threshold, metric.only_task) == (iou_threshold, only_task)


def test_every_threshold_is_the_nearest_number_to_the_percentage() -> None:
    assert [parse_metric(f"corloc{percent:02}").iou_threshold for percent in range(5, 96)] == [
        percent / 100 for percent in range(5, 96)
    ]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ap50", "ap50_area"),
        ("ap30", "ap30_area"),
        ("ap_11pt", "ap50_11pt"),
        ("ap5_11pt", "ap50_11pt"),
        ("ap0.5_area", "ap50_area"),
        ("ap100_area", "ap95_area"),
        ("ap00_11pt", "ap05_11pt"),
        ("ap04_area", "ap05_area"),
        ("ap96_area", "ap95_area"),
        ("AP50_AREA", "ap50_area"),
        ("ap50_area/mean", "ap50_area"),
        ("ap50_area ", "ap50_area"),
        ("ap50_area\n", "ap50_area"),
        ("corloc", "corloc50"),
        ("corloc_70", "corloc70"),
        ("recall30", "proposal_recall30"),
        ("cls_pa", "cls_ap"),
        ("pointing", "pointing_game"),
        ("maxboxacc", "maxboxacc_v2"),
        ("MaxBoxAccV2", "maxboxacc_v2"),
    ],
)
def test_a_wrong_name_leads_to_the_nearest_right_one(name: str, nearest: str) -> None:
    expected = (
        "expected ap<NN>_11pt, ap<NN>_area, corloc<NN>, proposal_recall<NN>, cls_ap, point_ap, pointing_game or "
        f"maxboxacc_v2, with NN from 05 to 95; did you mean {nearest}?"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        parse_metric(name)


@pytest.mark.parametrize("name", ["", "accuracy", "/", "50", "²"])
def test_where_nothing_is_near_nothing_is_offered(name: str) -> None:
    with pytest.raises(ValueError, match="with NN from 05 to 95$"):
        parse_metric(name)


def test_metrics_of_a_task() -> None:
    assert metrics_of("wsddn") == METRICS_OF_TASK["wsddn"]
    extra = ("ap30_area", "cls_ap", "ap30_area")
    assert metrics_of("localizer", extra) == (*METRICS_OF_TASK["localizer"], "ap30_area")
    for task, names in METRICS_OF_TASK.items():
        assert all(parse_metric(name).only_task in (None, task) for name in names)
