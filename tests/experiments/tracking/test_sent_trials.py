"""The memory of what was sent: it may be lost in part, and then says less, never more."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.store import TrialPaths
from experiments.tracking.sent_trials import SentTrials, result_digest


def test_it_remembers(tmp_path: Path) -> None:
    file = tmp_path / "sent.jsonl"
    sent = SentTrials(file, place="here")
    assert not sent.has("a", "1")
    sent.add("a", "1")
    sent.add("b", "1")
    sent.add("a", "2")
    for found in (sent, SentTrials(file, place="here")):
        assert found.has("a", "2")
        assert found.has("b", "1")
        assert not found.has("a", "1"), "its result is another one now"
        assert not found.has("c", "1")
    assert not SentTrials(file, place="there").has("a", "2")
    sent.forget("a")
    sent.forget("nobody")
    assert not sent.has("a", "2")


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_torn_line_is_as_if_it_were_not_there(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "sent.jsonl"
    sent = SentTrials(file, place="p")
    sent.add("a", "1")
    sent.add("b", "2")
    file.write_bytes(file.read_bytes()[:-cut])
    found = SentTrials(file, place="p")
    assert (found.has("a", "1"), found.has("b", "2")) == (True, False) if cut <= 16 else True
    found.add("c", "3")
    again = SentTrials(file, place="p")
    assert again.has("c", "3")
    assert again.has("a", "1") or cut > 16


@pytest.mark.parametrize("line", [b"{", b"[]", b"[1]", b"null", b"\xff", b'["p", "a"]', b""])
def test_a_damaged_line_says_nothing(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "sent.jsonl"
    file.write_bytes(line + b'\n["p", "b", "2"]\n')
    assert SentTrials(file, place="p").has("b", "2")


def test_digests(tmp_path: Path) -> None:
    paths = TrialPaths(tmp_path)
    assert result_digest(paths) is None
    paths.result.write_text("1")
    first = result_digest(paths)
    paths.result.write_text("2")
    assert first != result_digest(paths) is not None
