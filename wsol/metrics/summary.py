"""One number from a metric's per-class values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def mean_over_defined_classes(values: npt.NDArray[np.float64]) -> float:
    """The mean over the classes that have a value.

    Args:
        values: float64 `(C,)`, NaN for classes of which the split holds no instance.

    Returns:
        The mean of those that are not NaN; NaN if there is none.
    """
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
