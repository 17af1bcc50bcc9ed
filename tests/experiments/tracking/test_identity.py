"""What a sweep is at W&B: once drawn, for ever."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.tracking.identity import Identity, identity_of, read_identity, write_identity
from experiments.tracking.paths import WandbPaths


def test_it_is_drawn_once(tmp_path: Path) -> None:
    paths = WandbPaths(tmp_path / "wandb")
    assert read_identity(paths) is None
    first = identity_of(paths)
    assert re.fullmatch("[0-9a-f]{8}", first.id)
    assert identity_of(paths) == read_identity(paths) == first
    assert identity_of(WandbPaths(tmp_path / "other")) != first, "a sweep of the same name elsewhere"


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"[]", b'{"id": "x"}', b'{"id": "0123456789"}'])
def test_a_damaged_one_is_refused(tmp_path: Path, damage: bytes) -> None:
    paths = WandbPaths(tmp_path)
    identity_of(paths)
    paths.identity.write_bytes(damage)
    with pytest.raises(UserError, match=r"identity\.json: damaged.*bring it back, or remove it"):
        identity_of(paths)


def test_a_turned_bit_is_seen(tmp_path: Path) -> None:
    paths = WandbPaths(tmp_path)
    write_identity(paths, Identity("0" * 8))
    paths.identity.write_text(paths.identity.read_text().replace("0" * 8, "1" * 8))
    with pytest.raises(UserError, match="damaged"):
        read_identity(paths)


@pytest.mark.parametrize("name", ["a", "x" * 100, "a.b/c d?", "é" * 50])
def test_ids_of_runs(name: str) -> None:
    found = Identity("01234567").run_id(name, "89abcdef" * 8)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found)
    assert found.endswith("-01234567-89abcdef")


def test_another_place_knows_nothing_of_it() -> None:
    here = Identity("0" * 8, base_url="u", entity="e", project="p", sweep="s", report="r")
    assert here.at(base_url="u", entity="e", project="p") is here
    assert here.at(base_url="u", entity="", project="p") is here
    for other in ({"base_url": "v"}, {"entity": "f"}, {"project": "q"}):
        moved = here.at(**{"base_url": "u", "entity": "e", "project": "p", **other})
        assert (moved.id, moved.sweep, moved.report) == (here.id, "", "")
