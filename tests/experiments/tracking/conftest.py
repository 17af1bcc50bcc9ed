"""Sweeps written by hand, and an environment in which no key of the user's is found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from written_sweep import WrittenSweep, write_data


@pytest.fixture(autouse=True)
def no_wandb_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NETRC", raising=False)


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "digits"
    write_data(root)
    return root


@pytest.fixture
def written(tmp_path: Path, small_root: Path) -> Callable[..., WrittenSweep]:
    """Makes a sweep in a folder of its own."""

    def make(name: str = "one", **options: str) -> WrittenSweep:
        (tmp_path / name).mkdir()
        return WrittenSweep(tmp_path / name, small_root, **options)

    return make
