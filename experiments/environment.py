"""What a sweep ran on: versions, machine, code. Written beside the results, read by people."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "torchvision", "timm", "optuna", "numpy", "scikit-learn", "opencv-contrib-python-headless")
_REPOSITORY = Path(__file__).resolve().parent.parent


def environment() -> dict[str, Any]:
    """Versions of what computes results, the machine, and the commit of this code."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "commit": git("rev-parse", "HEAD"),
        "changed_files": git("status", "--porcelain", "--untracked-files=no").splitlines(),
    }


def package_version(package: str) -> str:
    """As it is installed; empty for one that is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def git(*arguments: str) -> str:
    """A git command's output, less the newline at its end; empty where this is no checkout or git is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_REPOSITORY), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.rstrip("\n")
