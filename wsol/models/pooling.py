"""From a score map for each class to one score for the image.

x_i is the score of cell i, n the number of valid cells of an image, p_i = sigmoid(x_i). A pooling of probabilities
returns the logit of the pooled probability, since the loss is logistic on what comes out; all of it is computed from
log p and log(1 - p), so that it is exact where p itself would be rounded to 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CountOrFraction = int | float
"""An int counts cells, a float is a fraction of an image's valid cells, below 1."""


class ImagePooling(nn.Module):
    """Pools the cells of score maps.

    Promises:
        - `forward(scores, valid, features)`: `scores` (B, C, h, w), any floating dtype, up to 6e4 in size; `valid`
          bool (B, 1, h, w), at least one cell of an image being valid, or None when all are; `features` (B, D, h, w),
          from which the scores were computed, or None; only `AttentionPooling` needs them.
        - Returns (B, C), unbounded scores, computed in float32 (float64 for float64 scores).
        - A cell that is not valid neither counts nor gets a gradient, whatever its value.
        - The order of the cells does not matter.
    """

    def forward(self, scores: Tensor, valid: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """See the class."""
        return self.pool(*_cells(scores, valid))

    def pool(self, cells: Tensor, valid: Tensor) -> Tensor:
        """(B, C) from `cells` (B, C, N), 0 where not `valid` (bool, (B, 1, N))."""
        raise NotImplementedError


class MaxPooling(ImagePooling):
    """max_i x_i. The gradient goes to one cell: the first of those that are tied.

    Source: Oquab et al., Is object localization for free?, CVPR 2015, section 3 (recalled).
    """

    def pool(self, cells: Tensor, valid: Tensor) -> Tensor:
        """See `ImagePooling`."""
        return _valid_or_lowest(cells, valid).max(dim=2).values


class AveragePooling(ImagePooling):
    """(1/n) sum_i x_i.

    Source: Zhou et al., Learning deep features for discriminative localization, CVPR 2016, section 2.
    """

    def pool(self, cells: Tensor, valid: Tensor) -> Tensor:
        """See `ImagePooling`."""
        return cells.sum(dim=2) / valid.sum(dim=2)


class LogSumExpPooling(ImagePooling):
    """(1/r) log((1/n) sum_i exp(r x_i)): the average for r -> 0, the maximum for r -> infinity.

    Args:
        r: > 0. The paper has 5 (recalled).

    Source: Pinheiro & Collobert, From image-level to pixel-level labeling with convolutional networks, CVPR 2015.
    """

    def __init__(self, *, r: float) -> None:
        super().__init__()
        self.r = r

    def pool(self, cells: Tensor, valid: Tensor) -> Tensor:
        """See `ImagePooling`."""
        return _log_mean_exp(cells, valid, self.r)


class RankPooling(ImagePooling):
    """sum_j w_j x_(j), x_(1) being the highest score of an image, x_(n) its lowest; of tied cells the first counts as
    higher.
    """

    def pool(self, cells: Tensor, valid: Tensor) -> Tensor:
        """See `ImagePooling`."""
        ordered = _valid_or_lowest(cells, valid).sort(dim=2, descending=True, stable=True).values
        rank = torch.arange(cells.shape[2], device=cells.device)  # from 0
        count = valid.sum(dim=2, keepdim=True)  # (B, 1, 1)
        padding = rank >= count  # (B, 1, N)
        weights = self.weights(rank.double(), count.double()).masked_fill(padding, 0.0).to(cells.dtype)
        return (ordered.masked_fill(padding, 0.0) * weights).sum(dim=2)

    def weights(self, rank: Tensor, count: Tensor) -> Tensor:
        """(B, 1, N), the weights of ranks (N,), 0 the highest, in images with `count` (B, 1, 1) cells; all float64."""
        raise NotImplementedError


class TopKPooling(RankPooling):
    """(1/k) sum of the k highest x_i: the maximum for k = 1, the average for k = n.

    Args:
        k: a count of cells, n where there are fewer; or a fraction f of them: max(1, round(f n)), halves to even.

    Source: the formula without its lowest cells of Durand et al. (see `WildcatPooling`).
    """

    def __init__(self, *, k: CountOrFraction) -> None:
        super().__init__()
        self.k = k

    def weights(self, rank: Tensor, count: Tensor) -> Tensor:
        """See `RankPooling`."""
        k = _number_of_cells(self.k, count)
        return (rank < k) / k


class WildcatPooling(RankPooling):
    """(1/k+) sum of the k+ highest x_i + alpha (1/k-) sum of the k- lowest x_i. One cell may be in both sums.

    The code that its authors released (durandtibo/wildcat.pytorch, wildcat/pooling.py) halves this unless alpha is 0;
    here as in the paper it is not halved. The maps of a class are averaged before they come here.

    Args:
        k_max: k+, see `TopKPooling`. The released code has 0.2.
        k_min: k-, likewise.
        alpha: >= 0. The released code has 0.7.

    Source: Durand et al., WILDCAT: weakly supervised learning of deep ConvNets, CVPR 2017.
    """

    def __init__(self, *, k_max: CountOrFraction, k_min: CountOrFraction, alpha: float) -> None:
        super().__init__()
        self.k_max = k_max
        self.k_min = k_min
        self.alpha = alpha

    def weights(self, rank: Tensor, count: Tensor) -> Tensor:
        """See `RankPooling`."""
        k_max, k_min = _number_of_cells(self.k_max, count), _number_of_cells(self.k_min, count)
        return (rank < k_max) / k_max + self.alpha / k_min * (rank >= count - k_min)


class GlobalWeightedRankPooling(RankPooling):
    """sum_j d^(j-1) x_(j) / sum_j d^(j-1): the maximum for d = 0, the average for d = 1.

    The paper pools softmax probabilities, with d = 0.996 for classes that are there and 0 for those that are not
    (recalled); here scores are pooled, with one d.

    Args:
        decay: d, in [0, 1].

    Source: Kolesnikov & Lampert, Seed, expand and constrain, ECCV 2016.
    """

    def __init__(self, *, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def weights(self, rank: Tensor, count: Tensor) -> Tensor:
        """See `RankPooling`."""
        powers = torch.pow(self.decay, rank) * (rank < count)  # 0^0 = 1
        return powers / powers.sum(dim=2, keepdim=True)


class NoisyOrPooling(ImagePooling):
    """The logit of 1 - prod_i (1 - p_i). Saturates with many cells: of n scores of 0 it is log(2^n - 1).

    Source: Viola et al., Multiple instance boosting for object detection, NIPS 2005; Fang et al., From captions to
        visual concepts and back, CVPR 2015.
    """

    def pool(self, cells: Tensor, valid: Tensor) -> Tensor:
        """See `ImagePooling`."""
        log_absent = F.logsigmoid(-cells).masked_fill(~valid, 0.0).sum(dim=2)
        # Where P is so small that log(1 - P) cannot tell it from 0, it is the sum of the p_i.
        log_present = _log_complement(log_absent, if_tiny=_log_sum_exp(F.logsigmoid(cells), valid))
        return log_present - log_absent


class GeneralizedMeanPooling(ImagePooling):
    """The logit of ((1/n) sum_i p_i^r)^(1/r): of the mean probability for r = 1, towards the maximum for r -> infinity.

    Args:
        r: > 0. Where every p_i is within 1e-17 of 1, it counts as 1: to first order the pooled 1 - p does not depend
            on it.

    Source: Radenovic et al., Fine-tuning CNN image retrieval with no human annotation, TPAMI 2018 (generalized-mean
        pooling of features, r = 3 to begin with; recalled), here of probabilities.
    """

    def __init__(self, *, r: float) -> None:
        super().__init__()
        self.r = r

    def pool(self, cells: Tensor, valid: Tensor) -> Tensor:
        """See `ImagePooling`."""
        log_present = _log_mean_exp(F.logsigmoid(cells), valid, self.r)
        log_mean_absent = _log_sum_exp(F.logsigmoid(-cells), valid) - valid.sum(dim=2).to(cells.dtype).log()
        return log_present - _log_complement(log_present, if_tiny=log_mean_absent)


class LinearSoftmaxPooling(ImagePooling):
    """The logit of sum_i p_i^2 / sum_i p_i, which is log(sum_i p_i^2) - log(sum_i p_i (1 - p_i)).

    Source: Wang et al., A comparison of five multiple instance learning pooling functions for sound event detection
        with weak labeling, ICASSP 2019.
    """

    def pool(self, cells: Tensor, valid: Tensor) -> Tensor:
        """See `ImagePooling`."""
        log_p, log_not_p = F.logsigmoid(cells), F.logsigmoid(-cells)
        return _log_sum_exp(2 * log_p, valid) - _log_sum_exp(log_p + log_not_p, valid)


class AttentionPooling(ImagePooling):
    """sum_i a_i x_i, a = softmax over the valid cells of w^T tanh(V h_i), or of w^T (tanh(V h_i) * sigmoid(U h_i)).

    h_i are the features of cell i. There is one attention map for all classes. The paper pools features, not scores:
    the same thing where the scores are a linear function of the features.

    Args:
        in_channels: D, channels of the features.
        dim: rows of V and U.
        gated: whether there is U.

    Source: Ilse et al., Attention-based deep multiple instance learning, ICML 2018, section 2.4.
    """

    def __init__(self, *, in_channels: int, dim: int, gated: bool) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(in_channels, dim, kernel_size=1, bias=False)  # V
        self.gate = nn.Conv2d(in_channels, dim, kernel_size=1, bias=False) if gated else None  # U
        self.energy = nn.Conv2d(dim, 1, kernel_size=1, bias=False)  # w^T

    def forward(self, scores: Tensor, valid: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """See `ImagePooling`.

        Raises:
            ValueError: without `features`.
        """
        if features is None:
            raise ValueError("got None for features; expected the features (B, D, h, w) that attention pooling weighs")
        cells, mask = _cells(scores, valid)
        if valid is not None:  # so that what padding holds cannot reach a gradient
            features = features.masked_fill(~valid, 0.0)
        with torch.autocast(features.device.type, enabled=False):  # float16 would overflow
            energy = self._energy(features.to(self.hidden.weight.dtype))  # (B, 1, h, w)
        attention = _valid_or_lowest(energy.flatten(2).to(cells.dtype), mask).softmax(dim=2)
        return (attention * cells).sum(dim=2)

    def _energy(self, features: Tensor) -> Tensor:
        hidden = torch.tanh(self.hidden(features))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(features))
        energy: Tensor = self.energy(hidden)
        return energy


def build_pooling(
    name: str,
    *,
    lse_r: float,
    topk: CountOrFraction,
    wildcat_k_max: CountOrFraction,
    wildcat_k_min: CountOrFraction,
    wildcat_alpha: float,
    generalized_mean_r: float,
    gwrp_decay: float,
    attention_dim: int,
    attention_gated: bool,
    in_channels: int,
) -> ImagePooling:
    """The pooling called `name`. The other arguments are those of the config, each used by the pooling that it names.

    Args:
        in_channels: D, channels of the features that `attention` will be given.

    Raises:
        ValueError: for an unknown name.
    """
    poolings: dict[str, Callable[[], ImagePooling]] = {
        "max": MaxPooling,
        "average": AveragePooling,
        "lse": lambda: LogSumExpPooling(r=lse_r),
        "topk": lambda: TopKPooling(k=topk),
        "wildcat": lambda: WildcatPooling(k_max=wildcat_k_max, k_min=wildcat_k_min, alpha=wildcat_alpha),
        "noisy_or": NoisyOrPooling,
        "generalized_mean": lambda: GeneralizedMeanPooling(r=generalized_mean_r),
        "linear_softmax": LinearSoftmaxPooling,
        "gwrp": lambda: GlobalWeightedRankPooling(decay=gwrp_decay),
        "attention": lambda: AttentionPooling(in_channels=in_channels, dim=attention_dim, gated=attention_gated),
    }
    if name not in poolings:
        raise ValueError(f"got {name!r} for pooling; expected one of {', '.join(poolings)}")
    return poolings[name]()


def _cells(scores: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cells (B, C, N) in float32 or float64, 0 where not valid, and which are valid, bool (B, 1, N)."""
    cells = scores.flatten(2).to(torch.promote_types(scores.dtype, torch.float32))
    if valid is None:
        return cells, torch.ones_like(cells[:, :1], dtype=torch.bool)
    mask = valid.flatten(2)
    return cells.masked_fill(~mask, 0.0), mask


def _valid_or_lowest(cells: Tensor, valid: Tensor) -> Tensor:
    return cells.masked_fill(~valid, float("-inf"))


def _log_sum_exp(cells: Tensor, valid: Tensor) -> Tensor:
    return _valid_or_lowest(cells, valid).logsumexp(dim=2)


def _log_mean_exp(cells: Tensor, valid: Tensor, r: float) -> Tensor:
    """(1/r) log((1/n) sum exp(r x)) over the valid cells: (B, C) from (B, C, N), precise for every r > 0.

    With m the highest cell it is m + (1/r) log(1 + (1/n) sum expm1(r (x - m))), which holds its precision where r is
    so small that exp(r (x - m)) is 1 but for rounding. Where the sum is near -n that one loses digits instead.
    """
    r = min(max(r, 1e-30), 1e30)  # beyond, r or 1 / r would be infinite in float32; the limits are reached long before
    highest = _valid_or_lowest(cells, valid).amax(dim=2, keepdim=True).detach()  # its gradient would cancel out
    exponents = (r * (cells - highest)).masked_fill(~valid, 0.0)  # <= 0
    count = valid.sum(dim=2)
    shift = torch.expm1(exponents).sum(dim=2) / count  # in (-1, 0]
    # The clamp keeps the branch that is not taken from giving an infinite gradient, which times 0 would be NaN.
    near = torch.log1p(shift.clamp(min=-0.5))
    far = _log_sum_exp(exponents, valid) - count.to(cells.dtype).log()
    return highest.squeeze(2) + torch.where(shift > -0.5, near, far) / r


def _log_complement(log_p: Tensor, *, if_tiny: Tensor) -> Tensor:
    """log(1 - p) from log p <= 0, which is `if_tiny` where 1 - p is below e^-40.

    There log p loses all its digits before long, so the caller gives the first order of log(1 - p). What the first
    order leaves out is of relative size e^-40 as well, less than float64 resolves.
    """
    tiny = 4e-18  # e^-40
    return torch.where(log_p < -tiny, torch.log(-torch.expm1(log_p.clamp(max=-tiny))), if_tiny)


def _number_of_cells(k: CountOrFraction, count: Tensor) -> Tensor:
    """`k` as a number of cells of images with `count` of them, 1 to `count`; float64 in, float64 out."""
    return count.clamp(max=k) if isinstance(k, int) else (k * count).round().clamp(min=1.0)
