"""The limit of GPU memory, and what is taken of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from wsol.device_memory import CONTEXT_BYTES, limited_memory, peak_bytes, share_of_tensors

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
GIB = 2**30


@pytest.mark.parametrize(
    ("memory_bytes", "share"),
    [
        (CONTEXT_BYTES + 4 * GIB, 0.25),
        (CONTEXT_BYTES + 16 * GIB, 1.0),
        (16 * GIB, 1 - CONTEXT_BYTES / (16 * GIB)),
        (CONTEXT_BYTES + 17 * GIB, 1.0),
        (CONTEXT_BYTES, 0.0),
        (1, 0.0),
    ],
)
def test_the_share_that_is_left_for_tensors(memory_bytes: int, share: float) -> None:
    assert share_of_tensors(memory_bytes, total_bytes=16 * GIB) == share


@pytest.mark.parametrize("memory_bytes", [None, 2 * GIB])
def test_the_cpu_has_no_limit_and_no_peak(memory_bytes: int | None) -> None:
    with limited_memory(CPU, memory_bytes):
        assert peak_bytes(CPU) == 0
    assert not torch.cuda.is_initialized()


def test_a_gpu_is_limited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CUDA that only notes what it is told."""
    told: list[float] = []
    properties = SimpleNamespace(total_memory=8 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.875)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: told.append(share))
    with limited_memory(GPU, None):
        assert told == []
    with limited_memory(GPU, CONTEXT_BYTES + 2 * GIB):
        assert told == [0.25]
    assert told == [0.25, 0.875]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_more_than_the_limit_is_out_of_memory() -> None:
    with limited_memory(GPU, CONTEXT_BYTES + 256 * 2**20):
        with pytest.raises(torch.cuda.OutOfMemoryError, match="CUDA out of memory"):
            torch.empty(512 * 2**20, dtype=torch.uint8, device=GPU)
        kept = torch.empty(128 * 2**20, dtype=torch.uint8, device=GPU)
        assert peak_bytes(GPU) >= CONTEXT_BYTES + kept.numel()
    assert torch.empty(512 * 2**20, dtype=torch.uint8, device=GPU).numel()
