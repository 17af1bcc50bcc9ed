"""A stand-in for the server of W&B and a reader of its offline logs, which are kept beside the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

KEY = "a" * 40


def wandb_tool(shared: Path, name: str) -> ModuleType:
    """`fake_wandb` or `wandb_log`."""
    spec = importlib.util.spec_from_file_location(name, shared / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
