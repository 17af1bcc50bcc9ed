"""The runner's side: it waits for nothing but, for a bounded time, the end."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import mirror_stand_ins
import pytest
from written_sweep import WrittenSweep

from experiments.spec import SweepSpec
from experiments.stopping import StopRequest
from experiments.store import SweepStore
from experiments.tracking import supervision
from experiments.tracking.connection import choose_connection
from experiments.tracking.session import mirror_orders
from experiments.tracking.supervision import MAX_RESTARTS, MirrorSupervisor, mirrored

Supervise = Callable[..., MirrorSupervisor]


@pytest.fixture
def said() -> queue.Queue[str]:
    return queue.Queue()


@pytest.fixture
def supervise(written: Callable[..., WrittenSweep], said: queue.Queue[str]) -> Iterator[Supervise]:
    sweep = written()
    sweep.store.folder.mkdir(parents=True)
    connection = choose_connection(sweep.spec.tracking.wandb, {"WANDB_API_KEY": "k"}, home=sweep.folder)
    orders = mirror_orders(sweep.spec, sweep.store, connection)
    supervisors = []

    def start(target: Callable[..., None]) -> MirrorSupervisor:
        supervisors.append(MirrorSupervisor(orders, say=said.put, sync_command="sync x.yaml", target=target))
        supervisors[-1].start()
        return supervisors[-1]

    yield start
    for supervisor in supervisors:
        supervisor.close()


def ends(pid: int) -> bool:
    """Whether a process of ours is over within the test's time."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return True
    return True


def lines(said: queue.Queue[str]) -> list[str]:
    return [said.get_nowait() for _ in range(said.qsize())]


def test_what_it_says_is_passed_on(supervise: Supervise, said: queue.Queue[str]) -> None:
    supervisor = supervise(mirror_stand_ins.polite)
    assert said.get(timeout=60) == "hello"
    supervisor.wait_for_the_end()
    supervisor.close()
    assert lines(said) == []


def test_what_is_not_sent_is_said(
    supervise: Supervise, said: queue.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "END_UNWELL_WITHIN_S", 60.0)
    supervise(mirror_stand_ins.with_rest).wait_for_the_end()
    assert lines(said) == ["W&B: 3 trials are not sent yet; `python runner.py sync x.yaml` sends what is missing"]


@pytest.mark.parametrize("target", [mirror_stand_ins.deaf, mirror_stand_ins.deaf_but_well])
def test_one_that_never_answers_is_not_waited_for(
    supervise: Supervise, said: queue.Queue[str], monkeypatch: pytest.MonkeyPatch, target: Callable[..., None]
) -> None:
    monkeypatch.setattr(supervision, "END_WITHIN_S", 0.1)
    monkeypatch.setattr(supervision, "END_UNWELL_WITHIN_S", 0.1)
    supervisor = supervise(target)
    pid = int(said.get(timeout=60).removeprefix("process "))
    supervisor.wait_for_the_end()
    assert Path(f"/proc/{pid}").exists(), "it was given up, not waited for"
    assert lines(said) == ["W&B: trials are not sent yet; `python runner.py sync x.yaml` sends what is missing"]
    supervisor.close()
    assert ends(pid)


def test_who_wants_to_be_gone_at_once(supervise: Supervise, said: queue.Queue[str]) -> None:
    supervisor = supervise(mirror_stand_ins.deaf_but_well)
    said.get(timeout=60)
    supervisor.wait_for_the_end(must_stop=lambda: True)
    assert "not sent yet" in said.get_nowait()


def test_one_that_died_is_started_again(supervise: Supervise, said: queue.Queue[str]) -> None:
    supervise(mirror_stand_ins.killed_once)
    assert said.get(timeout=60) == "hello"


def test_not_for_ever(supervise: Supervise, said: queue.Queue[str], tmp_path: Path) -> None:
    supervise(mirror_stand_ins.killed)
    assert f"has ended {1 + MAX_RESTARTS} times and is not started again" in said.get(timeout=120)
    (starts,) = tmp_path.rglob("starts.txt")
    assert starts.read_text() == "started\n" * (1 + MAX_RESTARTS)


class TestMirrored:
    @pytest.fixture(autouse=True)
    def no_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise AssertionError("a mirror was started")

        monkeypatch.setattr(supervision, "MirrorSupervisor", fail)

    def use(self, spec: SweepSpec, store: SweepStore, *, is_work_left: bool = True) -> None:
        with mirrored(spec, store, say=print, is_work_left=is_work_left, stop=StopRequest()):
            pass

    def test_who_has_no_key_has_no_mirror(self, written: Callable[..., WrittenSweep]) -> None:
        sweep = written(tracking="")
        self.use(sweep.spec, sweep.store)
        assert not sweep.store.wandb.exists()

    def test_who_has_one_does(self, written: Callable[..., WrittenSweep], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "k")
        sweep = written(tracking="")
        with pytest.raises(AssertionError, match="a mirror was started"):
            self.use(sweep.spec, sweep.store)
        self.use(sweep.spec, sweep.store, is_work_left=False)

    @pytest.mark.parametrize("name", ["WANDB_MODE", "WANDB_DISABLED"])
    def test_who_switches_it_off_has_none(
        self, written: Callable[..., WrittenSweep], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "k")
        monkeypatch.setenv(name, "disabled" if name == "WANDB_MODE" else "true")
        sweep = written()
        self.use(sweep.spec, sweep.store)
