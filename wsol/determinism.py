"""Torch's global state during a training: deterministic algorithms, generators, threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch.utils import deterministic as determinism


@contextmanager
def reproducible(device: torch.device, *, threads: int | None) -> Iterator[None]:
    """Deterministic algorithms and so many threads; global generators and all else come back as they were."""
    on_cuda = device.type == "cuda"
    with ExitStack() as stack:
        if on_cuda:
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_cuda else []))
        if threads is not None:
            stack.enter_context(threadpool_limits(threads))  # numpy's, and whatever else has come with the imports
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        stack.enter_context(_deterministic_algorithms(warn_only=on_cuda))  # CUDA has none for the RoI operations
        yield


@contextmanager
def _deterministic_algorithms(*, warn_only: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    fill = determinism.fill_uninitialized_memory  # type: ignore[attr-defined]  # a property of the module
    try:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)
        torch.backends.cudnn.benchmark = False
        determinism.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs time
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)
        torch.backends.cudnn.benchmark = benchmark
        determinism.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def seed_torch(seed: int, device: torch.device) -> None:
    """Seeds the global generators that dropout draws from: that of the CPU, and of the GPU in use."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
