"""Seeds for every random choice, derived from (seed, purpose), so that no choice disturbs another."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on nothing but its arguments (not on PYTHONHASHSEED, platform or process).

    Example:
        `derive_seed(config_seed, "augmentation", epoch, image_index)`
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, *purpose))
