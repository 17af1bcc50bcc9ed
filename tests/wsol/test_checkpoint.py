"""Checkpoints: whole or not there, the last two, no code from files."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_calls import KilledError, kill_before

from wsol.checkpoint import CheckpointError, is_weights_alone, keep_weights, load, load_latest, save, weights_size
from wsol.checkpoint_files import PENDING


def _state(number: int) -> dict[str, Any]:
    return {"epoch": number, "model": {"weight": torch.full((3, 2), float(number))}, "config": {"lr": 0.1, "x": None}}


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.iterdir())


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_a_saved_state_comes_back(tmp_path: Path) -> None:
    path = save(tmp_path / "new" / "folder", _state(3), number=3)
    for state in (load(path), load_latest(path.parent)):
        assert state is not None
        assert state["epoch"] == 3
        assert state["config"] == {"lr": 0.1, "x": None}
        assert torch.equal(state["model"]["weight"], torch.full((3, 2), 3.0))


def test_optimizer_and_schedule_states_can_be_read_back(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 1, 3], gamma=0.5)
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    schedule.step()
    save(tmp_path, {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, number=1)
    state = load_latest(tmp_path)
    assert state is not None
    assert state["schedule"] == schedule.state_dict()
    assert state["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]


def test_nothing_saved(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "missing") is None


def test_the_last_two_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    for number in (9, 999_999, 1_000_000):
        save(tmp_path, _state(number), number=number)
    assert _numbers(tmp_path) == [999_999, 1_000_000]
    state = load_latest(tmp_path)
    assert state is not None
    assert state["epoch"] == 1_000_000


@pytest.mark.parametrize("damage", [_flip_a_bit, _cut_in_half, _empty, _make_a_folder])
def test_a_damaged_file_is_passed_over_with_a_warning(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, _state(1), number=1)
    last = save(tmp_path, _state(2), number=2)
    damage(last)
    with pytest.raises(CheckpointError, match=last.name):
        load(last)
    with caplog.at_level(logging.WARNING, logger="wsol.checkpoint"):
        state = load_latest(tmp_path)
    assert state is not None
    assert state["epoch"] == 1
    assert last.name in caplog.text


def test_nothing_is_left_when_both_are_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        _flip_a_bit(save(tmp_path, _state(number), number=number))
    assert load_latest(tmp_path) is None
    assert len(caplog.records) == 2


def test_after_going_back_the_damaged_files_are_replaced(tmp_path: Path) -> None:
    save(tmp_path, _state(1), number=1)
    _flip_a_bit(save(tmp_path, _state(2), number=2))
    save(tmp_path, _state(2) | {"other": 1}, number=2)  # the same number, other bytes
    assert _numbers(tmp_path) == [1, 2]
    state = load_latest(tmp_path)
    assert state is not None
    assert state["other"] == 1


def test_a_broken_future_is_removed(tmp_path: Path) -> None:
    save(tmp_path, _state(4), number=4)
    save(tmp_path, _state(5), number=5)
    save(tmp_path, _state(1), number=1)
    assert _numbers(tmp_path) == [1]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, _state(1), number=1)

    def full_disk(state: object, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, _state(2), number=2)
    assert _numbers(tmp_path) == [1]  # no temporary file either


def test_a_leftover_of_a_killed_process_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / PENDING).write_bytes(b"x" * 100_000)
    save(tmp_path, _state(1), number=1)
    assert _numbers(tmp_path) == [1]
    assert load_latest(tmp_path) is not None


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def recorded(name: str) -> None:
        original = getattr(os, name)

        def call(*arguments: Any) -> Any:
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace", "unlink"):
        recorded(name)
    save(tmp_path, _state(1), number=1)
    assert calls[:4] == ["fsync", "replace", "fsync", "unlink"]  # the bytes, the name, the folder; then older ones go


class _Attack:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (os.mkdir, ("attacked",))


@pytest.mark.parametrize("write", [torch.save, functools.partial(pickle.dump, protocol=2)])
def test_code_in_a_file_is_not_run(tmp_path: Path, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "attack").open("wb") as file:
        write({"model": _Attack()}, file)
    digest = hashlib.sha256((tmp_path / "attack").read_bytes()).hexdigest()
    path = (tmp_path / "attack").rename(tmp_path / f"checkpoint-000001-{digest}.pt")
    with pytest.raises(CheckpointError, match=path.name):
        load(path)
    assert not (tmp_path / "attacked").exists()


def test_a_file_of_another_name_or_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"weights\.pt; expected a name like"):
        load(tmp_path / "weights.pt")
    torch.save([1], tmp_path / "list")
    digest = hashlib.sha256((tmp_path / "list").read_bytes()).hexdigest()
    path = (tmp_path / "list").rename(tmp_path / f"checkpoint-000001-{digest}.pt")
    with pytest.raises(CheckpointError, match="got a list"):
        load(path)


def _trained(folder: Path) -> None:
    """Two checkpoints with as much optimizer as model."""
    for number in (1, 2):
        moments = {"state": {0: {"exp_avg": torch.ones(30_000)}}}
        state = {
            "model": {"weight": torch.full((10_000,), float(number))},
            "identity": {"lr": 0.1},
            "optimizer": moments,
        }
        save(folder, state | {"schedule": {}, "progress": {"epoch": number}}, number=number)


def _weight(folder: Path) -> float:
    """Of the model that is found."""
    state = load_latest(folder)
    assert state is not None
    return float(state["model"]["weight"][0])


class TestWeightsAlone:
    def test_one_file_is_left_with_the_model_of_the_last_step(self, tmp_path: Path) -> None:
        _trained(tmp_path)
        before = sum(path.stat().st_size for path in tmp_path.iterdir())
        size = keep_weights(tmp_path)
        (path,) = tmp_path.iterdir()
        assert path.name == f"weights-000002-{hashlib.sha256(path.read_bytes()).hexdigest()}.pt"
        assert path.stat().st_size == size < before / 7
        assert load(path).keys() == {"model", "identity"}
        assert _weight(tmp_path) == 2.0
        assert keep_weights(tmp_path) == size, "a second call finds it done"
        assert list(tmp_path.iterdir()) == [path]

    def test_they_are_told_from_a_checkpoint(self, tmp_path: Path) -> None:
        _trained(tmp_path)
        whole = load_latest(tmp_path)
        keep_weights(tmp_path)
        alone = load_latest(tmp_path)
        assert whole is not None
        assert alone is not None
        assert (is_weights_alone(whole), is_weights_alone(alone)) == (False, True)

    @pytest.mark.parametrize("call", range(10))
    def test_killed_before_any_file_operation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        _trained(tmp_path)
        with monkeypatch.context() as patch:
            kill_before(call, "fsync", "replace", "unlink", patch=patch)
            with pytest.raises(KilledError, match="^$"):
                keep_weights(tmp_path)
        assert _weight(tmp_path) == 2.0
        assert not caplog.records, "no file is broken at any instant"
        keep_weights(tmp_path)
        assert _weight(tmp_path) == 2.0
        (path,) = tmp_path.iterdir()
        assert path.name.startswith("weights-000002-")

    def test_there_is_no_other_file_operation(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _trained(tmp_path)
        kill_before(10, "fsync", "replace", "unlink", patch=monkeypatch)
        keep_weights(tmp_path)

    def test_a_damaged_last_step_keeps_everything(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The step before has another model, and the training can go on from there."""
        _trained(tmp_path)
        _flip_a_bit(max(tmp_path.iterdir()))
        for call in (keep_weights, weights_size):
            with pytest.raises(CheckpointError, match="got no whole file of the last step in .*; expected one"):
                call(tmp_path)
        assert _numbers(tmp_path) == [1, 2]

    def test_damaged_weights_are_made_again_while_the_checkpoint_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _trained(tmp_path)
        with monkeypatch.context() as patch:
            kill_before(
                7, "fsync", "replace", "unlink", patch=patch
            )  # they have their name; the checkpoint is still there
            with pytest.raises(KilledError, match="^$"):
                keep_weights(tmp_path)
        (weights,) = tmp_path.glob("weights-*")
        _flip_a_bit(weights)
        keep_weights(tmp_path)
        assert list(tmp_path.iterdir()) == [weights]
        assert _weight(tmp_path) == 2.0

    def test_a_full_disk_leaves_the_newest_which_makes_room(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _trained(tmp_path)

        def full_disk(state: object, file: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            keep_weights(tmp_path)
        assert _numbers(tmp_path) == [2]
        assert load_latest(tmp_path) is not None

    def test_what_another_folder_shares_stays_there(self, tmp_path: Path) -> None:
        _trained(tmp_path / "one")
        (tmp_path / "other").mkdir()
        for path in (tmp_path / "one").iterdir():
            os.link(path, tmp_path / "other" / path.name)
        before = {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()}
        keep_weights(tmp_path / "one")
        assert {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()} == before
        assert load_latest(tmp_path / "other") is not None

    def test_the_size_beforehand(self, tmp_path: Path) -> None:
        _trained(tmp_path)
        expected = weights_size(tmp_path)
        assert _numbers(tmp_path) == [1, 2]
        assert keep_weights(tmp_path) == expected == weights_size(tmp_path)

    def test_of_nothing(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "missing"):
            assert keep_weights(folder) == weights_size(folder) == 0
            assert load_latest(folder) is None

    def test_of_something_without_a_model(self, tmp_path: Path) -> None:
        save(tmp_path, {"epoch": 1}, number=1)
        with pytest.raises(CheckpointError, match=r"got no model in .*checkpoint-000001-.*; expected a trial's"):
            keep_weights(tmp_path)
        assert _numbers(tmp_path) == [1]
