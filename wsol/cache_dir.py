"""Where generated data sets and proposals are kept, shared by all trials and sweeps of a user."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$WSOL_CACHE`, else `$XDG_CACHE_HOME/wsol`, else `~/.cache/wsol`. Everything in it can be made again."""
    if explicit := os.environ.get("WSOL_CACHE"):
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "wsol"
