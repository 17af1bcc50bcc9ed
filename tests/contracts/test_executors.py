"""What `Executor` promises, held by every implementation, with real attempts of the smallest trial there is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_executor import LineExecutor
from ray_cluster import RayCluster

from experiments.executors.base import AttemptEnded, AttemptRequest, EpochDone, Event, Executor, Measured, SignOfLife
from experiments.executors.local import LocalExecutor
from experiments.executors.ray_connection import connected
from experiments.failures import FailureKind, classify
from experiments.metrics_file import read_metrics
from experiments.slots import cpu_slots
from experiments.store import StoredTrial, TrialPaths, read_result
from experiments.trial import TrialState, signature
from wsol.config import ExperimentConfig
from wsol.data.digits import generate
from wsol.parent_death import STOPPING_SIGNALS

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and waits on process descriptors"),
]
REPOSITORY = Path(__file__).resolve().parents[2]
AT_MOST_S = 150.0
GONE_WITHIN_S = 3.0

IMPLEMENTATIONS = ("lines", "local", "ray")
"""Each has a fixture that makes executors with two slots, and a script in OWNER."""


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def implementation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def make_executor(implementation: str, request: pytest.FixtureRequest) -> Callable[[Path], Executor]:
    """Makes one for a folder."""
    made: Callable[[Path], Executor] = request.getfixturevalue(f"make_{implementation}_executor")
    return made


@pytest.fixture(scope="module")
def make_local_executor() -> Callable[[Path], Executor]:
    return lambda _folder: LocalExecutor(slots=cpu_slots(2, cores=2))


@pytest.fixture(scope="module")
def make_lines_executor() -> Iterator[Callable[[Path], Executor]]:
    yield lambda _folder: LineExecutor(slots=cpu_slots(2, cores=2))
    LineExecutor.end_server()


@pytest.fixture(scope="module")
def address(ray_cluster: RayCluster) -> Iterator[str]:
    """Of a cluster of two nodes with a core each."""
    with ray_cluster.node():
        yield ray_cluster.address


@pytest.fixture(scope="module")
def make_ray_executor(address: str) -> Iterator[Callable[[Path], Executor]]:
    from experiments.executors.ray_executor import RayExecutor

    with connected(address):
        yield lambda folder: RayExecutor(folder=folder, say=print)


@pytest.fixture
def executor(make_executor: Callable[[Path], Executor], tmp_path: Path) -> Iterator[Executor]:
    made = make_executor(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=8, val=4, test=1, image_px=48)
    return folder


@pytest.fixture
def make_request(root: Path, tmp_path: Path) -> Callable[..., AttemptRequest]:
    """A request for an attempt, made of few keywords."""

    def make(
        number: int = 0,
        *,
        epochs: int = 3,
        attempt: int = 1,
        workers: int = 0,
        lr: float = 1e-3,
    ) -> AttemptRequest:
        folder = tmp_path / f"trial{number}"
        folder.mkdir(exist_ok=True)
        values = config(root, epochs=epochs, workers=workers, lr=lr)
        return AttemptRequest(
            number=number,
            signature=signature(ExperimentConfig.model_validate(values)),
            attempt=attempt,
            config=values,
            folder=folder,
            slot=cpu_slots(2, cores=2)[number % 2],
        )

    return make


def config(root: Path, *, epochs: int, workers: int, lr: float) -> dict[str, Any]:
    values = {
        "task": "wsddn",
        "data": {"root": str(root), "workers": workers},
        "proposals": {"source": "grid", "count": 10, "min_size_px": 8},
        "model": {"backbone": "tiny", "weights": "none", "roi_size": 2, "fc_dim": 8},
        "train": {"epochs": epochs, "optimizer": "adam", "lr": lr, "scales_px": [48], "batch_size": 4},
        "evaluate": {"batch_size": 4},
    }
    return ExperimentConfig.model_validate(values).model_dump(mode="json")


def events(executor: Executor, *, until: Callable[[Event], bool]) -> list[Event]:
    """What comes out of `wait`, up to the first event that `until` wants."""
    found: list[Event] = []
    deadline = time.monotonic() + AT_MOST_S
    while not any(until(event) for event in found):
        assert time.monotonic() < deadline, f"only {found}"
        found += executor.wait(0.2)
    return found


def to_the_end(executor: Executor, *numbers: int) -> list[Event]:
    """All events, until each of `numbers` has ended."""
    left = set(numbers)

    def is_last(event: Event) -> bool:
        if isinstance(event, AttemptEnded):
            left.discard(event.number)
        return not left

    return events(executor, until=is_last)


def first_epoch(event: Event) -> bool:
    return isinstance(event, EpochDone)


def the_end(found: Sequence[Event], number: int = 0) -> AttemptEnded:
    """The one `AttemptEnded` of a trial, which is its last event."""
    of_trial = [event for event in found if event.number == number]
    last = of_trial[-1]
    assert isinstance(last, AttemptEnded)
    assert [event for event in of_trial if isinstance(event, AttemptEnded)] == [last]
    return last


def rows_of(found: Sequence[Event], number: int = 0) -> list[Any]:
    return [event.row for event in found if isinstance(event, EpochDone) and event.number == number]


def attempt_process(request: AttemptRequest) -> int:
    log = TrialPaths(request.folder).log.read_text()
    return int(re.findall(r"^--- attempt \d+, process (\d+) of runner \d+$", log, re.M)[-1])


def group_of(leader: int) -> set[int]:
    """Processes in the group of `leader`, zombies left out: the attempt and its loader processes."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                found.add(int(stat.parent.name))
    return found


def all_gone(leader: int) -> bool:
    """Waits, on the processes themselves, until nothing of the group of `leader` runs."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while pids := group_of(leader):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(min(pids))
            ended, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            os.close(descriptor)
            if not ended:
                return False
    return True


def result_of(request: AttemptRequest) -> Any:
    paths = TrialPaths(request.folder)
    return read_result(StoredTrial(number=request.number, signature=request.signature, paths=paths))


def test_slots_are_those_given(executor: Executor) -> None:
    assert [slot.index for slot in executor.slots] == [0, 1]


def test_launch_returns_before_the_attempt_is_over_and_all_is_told_once_and_in_order(
    executor: Executor, make_request: Callable[..., AttemptRequest]
) -> None:
    request = make_request()
    executor.launch(request)
    assert result_of(request) is None
    found: list[Event] = []
    while not any(isinstance(event, AttemptEnded) for event in found):
        new = executor.wait(0.2)
        told = [event.row for event in new if isinstance(event, EpochDone)]
        on_disk = read_metrics(TrialPaths(request.folder))
        assert all(row in on_disk for row in told), "a row is on disk before anyone is told"
        found += new
    assert [row["epoch"] for row in rows_of(found)] == [1, 2, 3]
    assert the_end(found) == AttemptEnded(number=0, exit_code=0, error=None)
    result = result_of(request)
    assert (result.state, result.attempts, result.epochs) == (TrialState.COMPLETE, 1, 3)
    assert result.metrics == rows_of(found)[-1]["metrics"]
    assert executor.wait(0.0) == []
    assert all_gone(attempt_process(request))


def test_wait_with_nothing_running(executor: Executor) -> None:
    assert executor.wait(0.0) == []
    before = time.monotonic()
    assert executor.wait(0.05) == []
    assert time.monotonic() - before >= 0.05, "it blocks until the time is over"


def test_attempts_at_once_are_told_apart(executor: Executor, make_request: Callable[..., AttemptRequest]) -> None:
    good, bad = make_request(3, epochs=2), make_request(4, epochs=1)
    bad = dataclasses.replace(bad, config={**bad.config, "data": {**bad.config["data"], "root": "/nowhere"}})
    executor.launch(good)
    executor.launch(bad)
    found = to_the_end(executor, 3, 4)
    assert the_end(found, 3).exit_code == 0
    assert [row["epoch"] for row in rows_of(found, 3)] == [1, 2]
    assert the_end(found, 4).exit_code == 1
    assert rows_of(found, 4) == []


@pytest.mark.parametrize("how", ["from outside", "kill"])
def test_a_killed_attempt_ends_once_with_all_its_processes(
    executor: Executor, make_request: Callable[..., AttemptRequest], how: str
) -> None:
    request = make_request(epochs=1000, workers=2)
    executor.launch(request)
    found = events(executor, until=first_epoch)
    leader = attempt_process(request)
    assert len(group_of(leader)) == 3, "the attempt and two loader processes"
    if how == "kill":
        executor.kill(0)
    else:
        os.kill(leader, signal.SIGKILL)
    found += to_the_end(executor, 0)
    end = the_end(found)
    assert (end.exit_code, end.error) == (-signal.SIGKILL, None)
    assert classify(end) is FailureKind.KILLED
    assert all_gone(leader), group_of(leader)
    assert result_of(request) is None
    assert executor.wait(0.0) == []


def test_an_attempt_that_is_killed_before_it_did_anything(
    executor: Executor, make_request: Callable[..., AttemptRequest]
) -> None:
    executor.launch(make_request(epochs=1000))
    executor.kill(0)
    assert the_end(to_the_end(executor, 0)).exit_code == -signal.SIGKILL


def test_a_stopped_attempt_saves_and_the_next_one_goes_on(
    executor: Executor, make_request: Callable[..., AttemptRequest]
) -> None:
    whole = make_request(1, epochs=40)
    executor.launch(whole)
    stopped = make_request(0, epochs=40)
    executor.launch(stopped)
    found = events(executor, until=lambda event: first_epoch(event) and event.number == 0)
    executor.stop(0)
    found += to_the_end(executor, *({0, 1} - {event.number for event in found if isinstance(event, AttemptEnded)}))
    end = the_end(found)
    assert end.error is not None
    assert (end.exit_code, end.error.kind) == (1, FailureKind.INTERRUPTED)
    assert result_of(stopped) is None
    done = len(rows_of(found))
    assert 1 <= done < 40

    executor.launch(dataclasses.replace(stopped, attempt=2))
    found = to_the_end(executor, 0)
    assert the_end(found).exit_code == 0
    assert [row["epoch"] for row in rows_of(found)] == list(range(done + 1, 41))
    assert result_of(stopped).attempts == 2
    assert result_of(stopped).metrics == result_of(whole).metrics


def test_a_failure_is_told_in_the_attempts_own_words(
    executor: Executor, make_request: Callable[..., AttemptRequest]
) -> None:
    request = make_request(lr=1e30)
    executor.launch(request)
    end = the_end(to_the_end(executor, 0))
    assert end.error is not None
    assert (end.exit_code, end.error.kind) == (1, FailureKind.NON_FINITE_LOSS)
    assert re.match(r"NonFiniteLossError: .*epoch 1", end.error.message)
    assert "\n" not in end.error.message
    assert end.error.details.startswith("Traceback")
    assert "NonFiniteLossError" in TrialPaths(request.folder).log.read_text()
    assert result_of(request) is None


def test_signs_of_life_come_and_say_when_to_expect_the_next(
    executor: Executor, make_request: Callable[..., AttemptRequest]
) -> None:
    executor.launch(make_request(epochs=3))
    signs = [event for event in to_the_end(executor, 0) if isinstance(event, SignOfLife)]
    assert len(signs) >= 3
    assert {sign.number for sign in signs} == {0}
    assert all(66.0 <= sign.next_within_s <= 660.0 for sign in signs)


@pytest.mark.parametrize("probe", [False, True])
def test_what_an_attempt_takes_is_told_and_kept(
    executor: Executor, make_request: Callable[..., AttemptRequest], probe: bool
) -> None:
    request = dataclasses.replace(make_request(epochs=2, workers=1), probe=probe)
    executor.launch(request)
    found = [event for event in to_the_end(executor, 0) if isinstance(event, EpochDone | Measured)]
    told = [event.usage for event in found if isinstance(event, Measured)]
    assert isinstance(found[0], Measured), "before the first epoch is over"
    assert {event.number for event in found} == {0}
    assert [usage.device_bytes for usage in told] == [0] * len(told)
    host = [usage.host_bytes for usage in told]
    assert host == sorted(host)
    assert 20e6 < host[0] <= host[-1] < 2e9, "two processes that have imported torch, its shared pages divided"
    assert all(0 < usage.step_s < AT_MOST_S for usage in told)
    rows = read_metrics(TrialPaths(request.folder))
    assert [row["usage"].keys() for row in rows] == [{"device_bytes", "host_bytes", "step_s"}] * 2
    result = result_of(request)
    assert result.usage.host_bytes == max(row["usage"]["host_bytes"] for row in rows) >= host[-1]
    assert result.usage.step_s > 0


@pytest.mark.parametrize("metric", ["ap50_11pt", "maxboxacc_v2", ""])
def test_what_a_report_resamples_is_made_by_the_attempt(
    executor: Executor, make_request: Callable[..., AttemptRequest], metric: str
) -> None:
    request = dataclasses.replace(make_request(epochs=1), metric=metric)
    executor.launch(request)
    assert the_end(to_the_end(executor, 0)).exit_code == 0
    paths = TrialPaths(request.folder)
    made = sorted(path.name for path in request.folder.glob("*resampled*"))
    assert made == (["resampled-ap50_11pt.npz"] if metric == "ap50_11pt" else []), paths.log.read_text()
    assert "warning" not in paths.log.read_text()
    if made:
        with np.load(paths.record(metric)) as record:
            own = result_of(request).metrics[f"{metric}/{record['classes'][0]}"]
            assert record["values"][0] == pytest.approx(own, abs=1e-12)


def test_an_attempt_writes_down_its_stacks_whatever_it_is_doing(
    executor: Executor, make_request: Callable[..., AttemptRequest]
) -> None:
    request = make_request(epochs=1000)
    executor.launch(request)
    events(executor, until=first_epoch)
    log = TrialPaths(request.folder).log
    executor.dump_stacks(0)
    deadline = time.monotonic() + AT_MOST_S
    while "wsol/training.py" not in log.read_text():  # the outermost frames come last
        assert time.monotonic() < deadline, log.read_text()
        executor.wait(0.05)
    assert "most recent call first" in log.read_text()
    executor.kill(0)
    assert the_end(to_the_end(executor, 0)).exit_code == -signal.SIGKILL
    executor.dump_stacks(0)


@pytest.mark.parametrize("number", [n for n in STOPPING_SIGNALS if n is not signal.SIGINT])
def test_what_a_batch_system_sends_to_every_process_saves_and_ends(
    executor: Executor, make_request: Callable[..., AttemptRequest], number: signal.Signals
) -> None:
    """The attempt, its loader processes and what started it."""
    request = make_request(epochs=1000, workers=2)
    executor.launch(request)
    found = events(executor, until=first_epoch)
    leader = attempt_process(request)
    parent = int(re.findall(r"^PPid:\s*(\d+)$", Path(f"/proc/{leader}/status").read_text(), re.M)[0])
    assert parent != os.getpid()
    for pid in [parent, *sorted(group_of(leader) - {leader}), leader]:
        os.kill(pid, number)
    end = the_end(found + to_the_end(executor, 0))
    assert end.error is not None
    assert (end.exit_code, end.error.kind) == (1, FailureKind.INTERRUPTED)
    assert all_gone(leader), group_of(leader)
    executor.launch(make_request(1, epochs=1))
    assert the_end(to_the_end(executor, 1), 1).exit_code == 0


def test_stop_and_kill_of_what_does_not_run(executor: Executor, make_request: Callable[..., AttemptRequest]) -> None:
    executor.stop(7)
    executor.kill(7)
    executor.launch(make_request(epochs=1))
    to_the_end(executor, 0)
    executor.stop(0)
    executor.kill(0)
    assert executor.wait(0.0) == []


def test_close_kills_what_runs(executor: Executor, make_request: Callable[..., AttemptRequest]) -> None:
    request = make_request(epochs=1000, workers=1)
    executor.launch(request)
    events(executor, until=first_epoch)
    leader = attempt_process(request)
    executor.close()
    assert all_gone(leader), group_of(leader)
    assert executor.wait(0.0) == []
    executor.close()


OWNER = """
    import json, sys
    from pathlib import Path
    from experiments.executors.base import AttemptRequest, EpochDone
    from experiments.executors.ray_connection import connected
    from experiments.slots import cpu_slots
    from experiments.trial import signature
    from wsol.config import ExperimentConfig

    def own(executor):
        identity = signature(ExperimentConfig.model_validate(config))
        executor.launch(AttemptRequest(0, identity, 1, config, folder, executor.slots[0]))
        while not any(isinstance(event, EpochDone) for event in executor.wait(1.0)):
            pass
        print("epoch", flush=True)
        while True:
            executor.wait(1.0)

    if __name__ == "__main__":
        config, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
        {make}
    """
MADE_BY_OWNER = {
    "lines": "from line_executor import LineExecutor; own(LineExecutor(slots=cpu_slots(1, cores=1)))",
    "local": "from experiments.executors.local import LocalExecutor; own(LocalExecutor(slots=cpu_slots(1, cores=1)))",
    "ray": """with connected(sys.argv[3]):
            from experiments.executors.ray_executor import RayExecutor
            own(RayExecutor(folder=folder.parent, say=print))""",
}


def test_attempts_die_with_the_owner(
    implementation: str,
    make_request: Callable[..., AttemptRequest],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    attempt = make_request(epochs=1000, workers=2)
    script = tmp_path / "owner.py"
    script.write_text(textwrap.dedent(OWNER).replace("{make}", MADE_BY_OWNER[implementation]))
    address = [request.getfixturevalue("address")] if implementation == "ray" else []
    owner = subprocess.Popen(
        [sys.executable, str(script), json.dumps(attempt.config), str(attempt.folder), *address],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests/support")])},
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        try:
            assert owner.stdout.readline() == "epoch\n"
            leader = attempt_process(attempt)
            assert len(group_of(leader)) == 3
            os.kill(leader, signal.SIGSTOP)  # in a step that takes for ever: it will not look around
        finally:
            owner.kill()
        left = set() if all_gone(leader) else group_of(leader)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == set()
        assert owner.stdout.read() == "", "the end of the output: nobody is left who could write"
