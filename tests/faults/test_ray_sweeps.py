"""The real command on a real Ray cluster, some of whose nodes come, die, or are not as they must be."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray_cluster import RayCluster
from real_sweep import Runner, Sweep, undisturbed_sweep

from wsol.data.digits import generate

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and waits on process descriptors"),
]
REPOSITORY = Path(__file__).resolve().parents[2]
TRIALS, EPOCHS = 5, 10
GONE_WITHIN_S = 5.0

SPEC = f"""\
name: digits
experiment:
  task: wsddn
  data: {{root: ROOT, workers: 0}}
  proposals: {{source: grid, count: 30, min_size_px: 8}}
  model: {{backbone: tiny, weights: none, roi_size: 3, fc_dim: 16}}
  train: {{epochs: {EPOCHS}, optimizer: adam, scales_px: [48], batch_size: 2}}
  evaluate: {{batch_size: 6}}
search:
  - grid: {{train.lr: [1.0e-3, 2.0e-3, 3.0e-3, 1.0e-2, 3.0e-2]}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=12, val=6, test=6, image_px=64)
    return folder


@pytest.fixture(scope="module")
def on_this_machine(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Sweep]:
    """What every sweep below must come to."""
    with undisturbed_sweep(tmp_path_factory.mktemp("local"), root, SPEC) as sweep:
        yield sweep


@pytest.fixture
def sweep(tmp_path: Path, root: Path) -> Iterator[Sweep]:
    sweep = Sweep(tmp_path / "sweep", root, SPEC)
    yield sweep
    sweep.clean_up()


@pytest.fixture
def start(sweep: Sweep, ray_cluster: RayCluster) -> Callable[..., Runner]:
    """Starts the command, a trial a core."""
    return lambda *options: sweep.start(*("--executor", "ray", "--ray-address", ray_cluster.address), *options, slots=1)


def is_the_same(sweep: Sweep, other: Sweep) -> None:
    """Nothing is lost, and nothing ran twice."""
    assert sweep.outcome() == other.outcome()
    assert (sweep.folder / "per_class_ap.csv").read_bytes() == (other.folder / "per_class_ap.csv").read_bytes()
    assert len(list(sweep.folder.glob("trials/*"))) == TRIALS
    assert [sweep.epochs(number) for number in range(TRIALS)] == [list(range(1, EPOCHS + 1))] * TRIALS
    assert not list(sweep.folder.glob(".*")), "nothing of the check of the nodes stays"


def node_of(runner: Runner, number: int) -> str:
    """Where a trial's last attempt was started."""
    return re.findall(rf"^trial {number} starts on cpu \d+ of (\S+?)[ :]", runner.output, re.M)[-1]


def nodes_of(runner: Runner) -> set[str]:
    return set(re.findall(r"^trial \d starts on cpu \d+ of (\S+?)[ :]", runner.output, re.M))


def ends(pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ended, _, _ = select.select([descriptor], [], [], GONE_WITHIN_S)
    os.close(descriptor)
    return bool(ended)


def test_a_node_joins_and_one_is_killed_and_the_tables_are_those_of_one_machine(
    start: Callable[..., Runner], sweep: Sweep, on_this_machine: Sweep, ray_cluster: RayCluster
) -> None:
    with ray_cluster.node() as node:
        runner = start()
        runner.until("^trial [01] epoch 1/")
        first = {node_of(runner, 0), node_of(runner, 1)}
        assert len(first) == 2
        name = next(name for name in first if name.endswith(f"-{node.node_id[:6]}"))
        with ray_cluster.node() as joined:
            runner.until(rf"^trial \d starts on cpu 2 of \S+-{joined.node_id[:6]}: ")
            number = -1
            while number < 0 or node_of(runner, number) != name:  # a trial that is well begun there
                number = int(runner.until(rf"^trial (\d) epoch [2-{EPOCHS - 2}]/")[1])
            process = sweep.process_of(number)
            ray_cluster.kill(node)
            assert ends(process), "with its node"
            runner.until(rf"^node {name} of the Ray cluster is gone; its trials go on elsewhere$")
            runner.until(rf"^trial {number} starts again: its process was ended by SIGKILL$")
            assert runner.end() == 0, runner.output + runner.errors
    assert runner.errors == ""
    assert node_of(runner, number) != name
    assert "raylet" not in runner.output, "Ray's own pages"
    is_the_same(sweep, on_this_machine)
    attempts = {int(row["trial"]): int(row["attempts"]) for row in sweep.rows()}
    assert attempts == {other: 2 if other == number else 1 for other in range(TRIALS)}


def test_a_sweep_is_killed_and_stopped_and_goes_on_with_and_without_the_cluster(
    start: Callable[..., Runner], sweep: Sweep, on_this_machine: Sweep
) -> None:
    """kill -9 of the runner; then a batch system's SIGTERM, which Ray would like to have for itself."""
    runner = start()
    runner.until("^trial 0 epoch 1/")
    process = sweep.process_of(0)
    os.kill(process, signal.SIGSTOP)  # in a step that takes for ever: it will not look around
    runner.process.kill()
    assert ends(process), "with its runner"
    assert runner.end() == -signal.SIGKILL

    runner = start()
    runner.until(f"^trial 0 epoch {EPOCHS // 2}/")
    runner.signal(signal.SIGTERM)
    runner.until("^stopping: running trials save and end ")
    assert runner.end() == 130, runner.errors
    assert runner.errors == ""
    assert "stopped; it continues with the same command" in runner.output
    assert ends(sweep.process_of(0))

    status, runner = sweep.run()
    assert status == 0, runner.output + runner.errors
    assert runner.errors == ""
    is_the_same(sweep, on_this_machine)


@pytest.fixture
def mounts() -> None:
    """Where a node can have files of its own."""
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
        ).returncode
    ):
        pytest.skip("needs the right to mount in a namespace of its own")


@pytest.mark.usefixtures("mounts")
def test_a_node_without_the_results_folder_is_refused(
    start: Callable[..., Runner], sweep: Sweep, ray_cluster: RayCluster
) -> None:
    sweep.results.mkdir()
    with ray_cluster.node_with_mounts(f"-t tmpfs tmpfs {sweep.results}"):
        assert ray_cluster.alive() == 2
        runner = start()
        assert runner.end() == 2
    refusal = (
        rf"error: node \S+ of the Ray cluster cannot be used: {sweep.folder} there is not the folder that the runner"
        r" writes; expected a file system that all nodes share: give one by --results"
        r" \(No such file or directory for .*\)\n"
    )
    assert re.fullmatch(refusal, runner.errors), runner.errors
    assert " starts on " not in runner.output
    assert not (sweep.folder / "trials").exists()


@pytest.mark.usefixtures("mounts")
def test_a_node_with_another_source_that_joins_is_not_used(
    start: Callable[..., Runner], sweep: Sweep, on_this_machine: Sweep, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    changed = tmp_path / "losses.py"
    changed.write_text((REPOSITORY / "wsol" / "losses.py").read_text() + "# another one\n")
    runner = start()
    runner.until("^trial 0 starts ")
    with ray_cluster.node_with_mounts(f"--bind {changed} {REPOSITORY / 'wsol' / 'losses.py'}"):
        said = runner.until("^warning: node (\\S+) of the Ray cluster is not used: (.*)$")
        assert runner.end() == 0, runner.output + runner.errors
    assert "something else than the runner (runner -> node: wsol/losses.py changed); expected" in said[2]
    assert said[1] not in nodes_of(runner)
    assert runner.output.count("is not used") == 1
    is_the_same(sweep, on_this_machine)
