"""Image-level losses of weakly supervised models. A label of 0 (seen only as `difficult`) costs nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

CERTAINTY = 1e-6
"""No probability of `multi_label_log_loss` counts as above 1 - CERTAINTY.

float32 resolves 1 - 6e-8, so the clamp is real there: 1 - 1e-10, seen in released code, is 1.0 and clamps nothing.
Source: 1e-6 is what ppengtang/pcl.pytorch clamps to.
"""


def multi_label_logistic_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over classes of log(1 + exp(-y f)), a logistic classifier for each class.

    Args:
        logits: (B, C) f, any finite value.
        labels: (B, C) y, each 1, 0 or -1; 0 is left out of the sum.

    Returns:
        (B,) the loss of each image, >= 0.

    Source: Oquab et al., Is object localization for free?, CVPR 2015, section 3.
    """
    return (-F.logsigmoid(labels * logits) * (labels != 0)).sum(dim=1)


def multi_label_log_loss(log_probability: Tensor, labels: Tensor) -> Tensor:
    """Sum over classes of -log(p) where the label is 1, and -log(1 - p) where it is -1.

    The probability comes as a logarithm, so that a small one keeps its gradient. It is clamped to
    1 - CERTAINTY: a class costs at most 13.8 where it is absent, and -log(p) where it is present.

    Args:
        log_probability: (B, C) log p; may exceed 0 by rounding.
        labels: (B, C), each 1, 0 or -1; 0 is left out of the sum.

    Returns:
        (B,) the loss of each image, >= 0.

    Source: Bilen & Vedaldi, Weakly supervised deep detection networks, CVPR 2016, section 3.4.
    """
    log_p = log_probability.clamp(max=math.log1p(-CERTAINTY))
    loss = torch.where(labels > 0, -log_p, -_log1mexp(log_p))  # (B, C)
    return (loss * (labels != 0)).sum(dim=1)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends.

    Source: Maechler, Accurately computing log(1 - exp(-|a|)), 2012, equation 7.
    """
    return torch.where(x > -math.log(2.0), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
