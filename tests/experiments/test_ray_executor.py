"""What Ray's executor alone has, on a real cluster: shares of GPUs, nodes that come and go, contact that is lost."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpu_witness import run_hosted_witness
from ray_cluster import RayCluster

from experiments.errors import UserError
from experiments.executors.base import AttemptEnded, AttemptRequest, EpochDone, Event, Executor, SlotsChanged
from experiments.executors.ray_bundles import Share
from experiments.executors.ray_connection import connected
from experiments.metrics_file import append_metrics
from experiments.slots import Slot
from experiments.store import TrialPaths
from experiments.trial import signature
from wsol.config import ExperimentConfig
from wsol.data.digits import generate
from wsol.parent_death import STOPPING_SIGNALS

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and waits on process descriptors"),
]
AT_MOST_S = 150.0
LEASE_S = 4.0


@pytest.fixture(scope="module")
def cluster(ray_cluster: RayCluster) -> Iterator[RayCluster]:
    """With this process connected."""
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    with connected(ray_cluster.address):
        after = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
        assert after == before, "signals are the runner's"
        yield ray_cluster


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=8, val=4, test=1, image_px=48)
    return folder


def attempt(number: int, slot: Slot, folder: Path, root: Path) -> AttemptRequest:
    """One that trains for as long as it is let."""
    config = ExperimentConfig.model_validate(
        {
            "task": "wsddn",
            "data": {"root": str(root), "workers": 0},
            "proposals": {"source": "grid", "count": 10, "min_size_px": 8},
            "model": {"backbone": "tiny", "weights": "none", "roi_size": 2, "fc_dim": 8},
            "train": {"epochs": 1000, "optimizer": "adam", "scales_px": [48], "batch_size": 4},
            "evaluate": {"batch_size": 4},
        }
    )
    of_trial = folder / f"trial{number}"
    of_trial.mkdir(exist_ok=True)
    return AttemptRequest(number, signature(config), 1, config.model_dump(mode="json"), of_trial, slot)


def until(executor: Executor, kind: type[Event], *, count: int = 1) -> list[Event]:
    """Events up to the `count`th of a kind."""
    found: list[Event] = []
    deadline = time.monotonic() + AT_MOST_S
    while sum(isinstance(event, kind) for event in found) < count:
        assert time.monotonic() < deadline, f"only {found}"
        found += executor.wait(1.0)
    return found


def attempt_process(request: AttemptRequest) -> int:
    log = TrialPaths(request.folder).log.read_text()
    return int(re.findall(r"^--- attempt \d+, process (\d+) of runner \d+$", log, re.M)[-1])


def ray_worker(request: AttemptRequest) -> int:
    log = TrialPaths(request.folder).log.read_text()
    return int(re.findall(r"^--- attempt \d+, process \d+ of runner (\d+)$", log, re.M)[-1])


def ends(pid: int, *, within_s: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ended, _, _ = select.select([descriptor], [], [], within_s)
    os.close(descriptor)
    return bool(ended)


def test_trials_share_the_gpu_that_their_slots_name_on_nodes_that_come_and_go(
    cluster: RayCluster, tmp_path: Path
) -> None:
    """Fake GPUs, as Ray counts what it is told; what is asked is which one each attempt sees."""
    import ray

    from experiments.executors.ray_executor import RayExecutor

    said: list[str] = []
    with cluster.node(num_cpus=4, num_gpus=2):
        executor = RayExecutor(folder=tmp_path, say=said.append, share=Share(places=2))
        executor._task = ray.remote(max_retries=0, max_calls=0)(run_hosted_witness)
        slots = executor.slots
        assert [slot.index for slot in slots] == [0, 1, 2, 3], "the head's core is not used beside GPUs"
        assert [slot.threads for slot in slots] == [1] * 4
        assert len({slot.node for slot in slots}) == 1
        assert sorted(slot.visible_devices for slot in slots) == ["0", "0", "1", "1"]
        assert [slot.device for slot in slots] == [f"{slot.node}/{slot.visible_devices}" for slot in slots]
        for slot in slots:  # one after the other: each warm Ray worker has had another GPU before
            executor.launch(attempt(slot.index, slot, tmp_path, Path("/nowhere")))
            assert until(executor, AttemptEnded) == [AttemptEnded(slot.index, exit_code=0)]
            gpu = slot.visible_devices
            assert (tmp_path / f"trial{slot.index}" / "seen").read_text() == f"{gpu} {gpu} 1"
    assert until(executor, SlotsChanged) == [SlotsChanged()]
    assert executor.slots == ()
    assert said == [f"node {slots[0].node} of the Ray cluster is gone; its trials go on elsewhere"]
    executor.launch(attempt(0, slots[0], tmp_path, Path("/nowhere")))
    assert until(executor, AttemptEnded) == [AttemptEnded(0, exit_code=-signal.SIGKILL)], "its node went a moment ago"
    with cluster.node(num_cpus=1, num_gpus=1):
        assert until(executor, SlotsChanged) == [SlotsChanged()]
        assert [slot.index for slot in executor.slots] == [4, 5], (
            "the numbers of slots that went stand for them for ever"
        )
        executor.close()
    assert len(said) == 1


def test_nothing_is_offered_where_there_is_nothing(cluster: RayCluster, tmp_path: Path) -> None:
    from experiments.executors.ray_executor import RayExecutor

    with pytest.raises(UserError, match=r"^got a Ray cluster of 1 node, none with GPUs for trials; expected one"):
        RayExecutor(folder=tmp_path, say=print, share=Share(on_gpus=True))
    assert list(tmp_path.iterdir()) == []


def test_an_attempt_without_the_runners_answers_ends_by_itself(cluster: RayCluster, tmp_path: Path, root: Path) -> None:
    """The runner's side of the network is gone: here its mailbox, which neither answers nor dies."""
    import ray

    from experiments.executors.ray_executor import RayExecutor

    said: list[str] = []
    executor = RayExecutor(folder=tmp_path, say=said.append, lease_s=LEASE_S)
    (slot,) = executor.slots
    request = attempt(0, slot, tmp_path, root)
    executor.launch(request)
    until(executor, EpochDone)
    mailbox = ray.get(executor._mailbox.__ray_call__.remote(lambda _self: os.getpid()))
    leader = attempt_process(request)
    os.kill(mailbox, signal.SIGSTOP)
    try:
        assert ends(leader, within_s=5 * LEASE_S)
    finally:
        os.kill(mailbox, signal.SIGCONT)
    (end,) = [event for event in until(executor, AttemptEnded) if isinstance(event, AttemptEnded)]
    assert (end.number, end.exit_code, end.error) == (0, -signal.SIGKILL, None)

    executor.launch(request)  # it goes on from its checkpoint
    until(executor, EpochDone)
    os.kill(mailbox, signal.SIGKILL)
    found = until(executor, AttemptEnded)
    assert isinstance(found[-1], AttemptEnded)
    assert found[-1].exit_code == -signal.SIGKILL
    assert said == ["the mailbox between the runner and its trials was killed: they start again"]
    executor.launch(request)
    until(executor, EpochDone)
    executor.close()


def test_a_ray_worker_that_dies_takes_its_attempt_with_it(cluster: RayCluster, tmp_path: Path, root: Path) -> None:
    """No trial is given back while its attempt may run; the epochs that nobody was told of come before the end."""
    from experiments.executors.ray_executor import RayExecutor

    executor = RayExecutor(folder=tmp_path, say=print, lease_s=LEASE_S)
    (slot,) = executor.slots
    request = attempt(0, slot, tmp_path, root)
    executor.launch(request)
    found = until(executor, EpochDone)
    leader = attempt_process(request)
    os.kill(leader, signal.SIGSTOP)  # in the midst of something that takes for ever
    os.kill(ray_worker(request), signal.SIGKILL)
    assert ends(leader, within_s=LEASE_S)
    while executor._running[0].lost_until is None:
        found += executor.wait(0.1)
    assert executor._running[0].lost_until > executor._clock(), "it is gone, but who knows that here"
    untold = {"epoch": 999, "loss": 1.0, "lr": 0.1, "duration_s": 0.1, "time": 1.0, "metrics": {}}
    append_metrics(TrialPaths(request.folder), untold)
    found += until(executor, AttemptEnded)
    assert isinstance(found[-1], AttemptEnded)
    assert (found[-1].exit_code, found[-1].error) == (-signal.SIGKILL, None)
    epochs = [event.row["epoch"] for event in found if isinstance(event, EpochDone)]
    assert epochs == [*range(1, len(epochs)), 999]
    assert executor.slots == (slot,), "the node is well"
    assert not any(isinstance(event, SlotsChanged) for event in found)
    executor.launch(request)
    until(executor, EpochDone)

    executor._nodes._here = "the id of a node that was here"
    with pytest.raises(UserError, match=r"^Ray on this machine has ended, .* the same command goes on$"):
        until(executor, AttemptEnded)
    executor.close()
