"""What a node says of itself, on this machine; tests/faults/test_ray_sweeps.py has nodes that differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.executors import ray_check
from experiments.executors.ray_check import Terms, clear_terms, look_at_node, objection, show_terms

NODE = "0123456789abcdef"


@pytest.fixture
def terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terms:
    monkeypatch.setattr(ray_check, "_SEEN_WITHIN_S", 0.0)
    return show_terms(tmp_path / "results" / "sweep", lease_s=10.0)


def found_on(node_terms: Terms, terms: Terms) -> str:
    """What is objected to a node that sees `node_terms`."""
    return objection(terms, look_at_node(node_terms, NODE), node=NODE)


def test_a_node_like_the_runners(terms: Terms) -> None:
    assert found_on(terms, terms) == ""
    assert terms.working_directory == Path.cwd()


def test_paths_are_absolute_whatever_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WSOL_CACHE", "cache")
    terms = show_terms(Path("results/sweep"), lease_s=10.0)
    assert (terms.folder, terms.cache) == (tmp_path / "results/sweep", tmp_path / "cache")


def test_files_that_a_killed_runner_left_go_with_ours(terms: Terms) -> None:
    look_at_node(terms, NODE)
    (terms.folder / "spec.yaml").write_text("name: sweep")
    again = show_terms(terms.folder, lease_s=10.0)
    assert again.token != terms.token
    assert {file.name for file in terms.folder.iterdir()} == {"spec.yaml", again.shown_file.name}
    clear_terms(again)
    assert {file.name for file in terms.folder.iterdir()} == {"spec.yaml"}


@pytest.mark.parametrize("content", [None, "of another runner"])
def test_a_folder_that_is_not_shared(terms: Terms, tmp_path: Path, content: str | None) -> None:
    other = replace(terms, folder=tmp_path / "other")
    other.folder.mkdir()
    if content is not None:
        other.shown_file.write_text(content)
    reason = found_on(other, terms)
    assert reason.startswith(f"{other.folder} there is not the folder that the runner writes; expected a file system")
    assert "--results" in reason


def test_a_folder_that_is_not_there(terms: Terms, tmp_path: Path) -> None:
    reason = found_on(replace(terms, folder=tmp_path / "nowhere"), terms)
    assert "is not the folder that the runner writes" in reason
    assert "No such file or directory" in reason


def test_an_answer_that_the_runner_does_not_see(terms: Terms) -> None:
    """The node read a copy, and wrote into it."""
    report = look_at_node(terms, NODE)
    terms.answer_file(NODE).unlink()
    assert "is not the folder that the runner writes" in objection(terms, report, node=NODE)
    terms.answer_file(NODE).write_text("")
    assert "is not the folder that the runner writes" in objection(terms, report, node=NODE)


def test_a_working_directory_that_is_not_there(terms: Terms) -> None:
    reason = found_on(replace(terms, working_directory=Path("/nowhere")), terms)
    assert reason.startswith("there is no folder /nowhere, where the command was started; expected the same paths")


def test_a_source_somewhere_else(terms: Terms) -> None:
    reason = found_on(replace(terms, repository=Path("/elsewhere")), terms)
    assert f"imports the source in {ray_check.REPOSITORY}; expected that in /elsewhere" in reason


def test_another_source(terms: Terms) -> None:
    files = {**terms.version.files, "wsol/losses.py": "0" * 64, "experiments/view.py": "0" * 64}
    reason = found_on(terms, replace(terms, version=replace(terms.version, files=files)))
    assert "(runner -> node: wsol/losses.py changed)" in reason, "what only shows results may differ"
    assert "the same checkout and packages on every node" in reason


def test_other_packages(terms: Terms) -> None:
    packages = dict.fromkeys(terms.version.packages, "1.0")
    reason = found_on(terms, replace(terms, version=replace(terms.version, packages=packages)))
    assert "python 1.0 -> " in reason
    assert f"and {len(packages) - 4} more" in reason
