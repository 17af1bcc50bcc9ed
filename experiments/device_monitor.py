"""What the scheduler asks of the machine's devices while it runs: their memory, and what other sweeps were promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from experiments.placement import Reading


@dataclass(frozen=True)
class Claim:
    """What one sweep's trials have of a device.

    Attributes:
        promised_bytes: that they may grow to.
        used_bytes: that they were last seen to use.
    """

    promised_bytes: int
    used_bytes: int


class DeviceMonitor(Protocol):
    """Tells of memory. Keys are those of `Slot.device`."""

    def read(self) -> Mapping[str, Reading]:
        """Every device whose memory can be read, as it is now. Takes milliseconds; never fails: what cannot be read is
        missing.
        """

    @contextmanager
    def claims(self) -> Iterator[Claims | None]:
        """While it lasts, no other sweep of this machine can promise memory.

        None: another sweep did not give way within seconds. Start nothing this time, and ask again.
        """


class Claims(Protocol):
    """Promises of memory on a machine's devices, while nobody else can make any."""

    @property
    def of_others(self) -> Mapping[str, Claim]:
        """The sums over all other sweeps that are alive."""

    def publish(self, own: Mapping[str, Claim]) -> None:
        """Replaces what this sweep has promised. It ends with this process, however that ends."""
