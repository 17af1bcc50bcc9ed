"""GPU memory of this process: how much it may take, how much it has taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CONTEXT_BYTES = 640 * 2**20
"""What a process takes of a GPU besides tensors: CUDA's context, the libraries' kernels and workspaces.

An allowance, not a measurement: it depends on driver, GPU and libraries. What the driver says of the whole process is
more exact, where it can be asked.
"""


@contextmanager
def limited_memory(device: torch.device, memory_bytes: int | None) -> Iterator[None]:
    """While it lasts, this process may take so many bytes of a GPU, its context included; None: all that there are.

    Tensors beyond that raise `torch.cuda.OutOfMemoryError`, as on a smaller GPU. On the CPU nothing is limited. It
    starts CUDA, and threads with it.
    """
    if memory_bytes is None or device.type != "cuda":
        yield
        return
    before = torch.cuda.get_per_process_memory_fraction(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(share_of_tensors(memory_bytes, total_bytes=total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


def share_of_tensors(memory_bytes: int, *, total_bytes: int) -> float:
    """The fraction of a GPU, 0 to 1, that is left for tensors of a process that may take `memory_bytes`.

    Args:
        total_bytes: of the GPU, more than 0.
    """
    return min(1.0, max(0, memory_bytes - CONTEXT_BYTES) / total_bytes)


def peak_bytes(device: torch.device) -> int:
    """The most that this process has taken of a GPU so far, an allowance for its context included; 0 on the CPU.

    What the allocator has reserved counts, used or not: nobody else can have it.
    """
    return torch.cuda.max_memory_reserved(device) + CONTEXT_BYTES if device.type == "cuda" else 0
