from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from experiments import environment as module
from experiments.environment import environment, package_version


def test_what_computes_results_is_named() -> None:
    seen = environment()
    assert seen["python"] == platform.python_version()
    assert seen["packages"]["torch"] == version("torch")
    assert seen["packages"]["numpy"] == version("numpy")
    assert all(seen["packages"].values()), "each is installed, under this name"
    assert json.loads(json.dumps(seen)) == seen


def test_a_package_that_is_missing() -> None:
    assert package_version("no-such-package-anywhere") == ""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_and_what_differs_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "--quiet", "--no-gpg-sign", "--no-verify", "-m", "first")
    monkeypatch.setattr(module, "_REPOSITORY", tmp_path)
    assert environment()["commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert environment()["changed_files"] == []
    (tmp_path / "a.py").write_text("2")
    (tmp_path / "untracked.txt").write_text("")
    (changed,) = environment()["changed_files"]
    assert changed.split() == ["M", "a.py"]


def test_no_checkout_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(module, "_REPOSITORY", tmp_path)
    assert (environment()["commit"], environment()["changed_files"]) == ("", [])
    monkeypatch.setenv("PATH", "")
    assert (environment()["commit"], environment()["changed_files"]) == ("", [])
