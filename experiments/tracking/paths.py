"""The files of the W&B mirror, in a folder of the sweep's that W&B keeps its own runs in, too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WandbPaths:
    """Every file of the mirror.

    Attributes:
        folder: `SweepStore.wandb`.
    """

    folder: Path

    @property
    def identity(self) -> Path:
        """What the sweep is at W&B: see `Identity`."""
        return self.folder / "identity.json"

    @property
    def sent(self) -> Path:
        """A line for each trial that was sent: see `SentTrials`."""
        return self.folder / "sent.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the process that writes to W&B."""
        return self.folder / "mirror.lock"

    @property
    def log(self) -> Path:
        """What the mirror and W&B printed."""
        return self.folder / "mirror.log"
