from __future__ import annotations

from pathlib import Path

import pytest

from wsol.cache_dir import cache_dir


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"WSOL_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/wsol"),
        ({"HOME": "/c"}, "/c/.cache/wsol"),
        ({"WSOL_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/wsol"),
        ({"WSOL_CACHE": "~/d", "HOME": "/c"}, "/c/d"),
    ],
)
def test_follows_the_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str) -> None:
    for name in ("WSOL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(folder)


def test_makes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WSOL_CACHE", str(tmp_path / "cache"))
    cache_dir()
    assert list(tmp_path.iterdir()) == []
