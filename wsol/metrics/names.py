"""The flat names of metrics, `<metric>/<class>` and `<metric>/mean`. docs/protocol.md defines each."""

from __future__ import annotations

from typing import Literal

DETECTION_METRICS = ("ap50_11pt", "ap50_area", "corloc50")
"""Measured on boxes: by tasks that predict boxes."""
IMAGE_METRICS = ("cls_ap", "point_ap")
"""Measured on image scores and points: by every task."""

METRICS_OF_TASK: dict[Literal["wsddn", "localizer"], tuple[str, ...]] = {
    "wsddn": DETECTION_METRICS + IMAGE_METRICS,
    "localizer": IMAGE_METRICS,
}
"""The first one is the default objective."""
