from __future__ import annotations

import numpy as np

from wsol.metrics.summary import mean_over_defined_classes


def test_absent_classes_are_left_out_not_counted_as_zero() -> None:
    assert mean_over_defined_classes(np.array([0.5, np.nan, 0.0, 1.0])) == 0.5


def test_no_class_has_a_value() -> None:
    assert np.isnan(mean_over_defined_classes(np.array([np.nan, np.nan])))
    assert np.isnan(mean_over_defined_classes(np.zeros(0)))


def test_is_a_plain_float() -> None:
    assert type(mean_over_defined_classes(np.array([0.5]))) is float
