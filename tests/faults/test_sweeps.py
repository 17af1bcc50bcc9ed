"""The real command with real processes, ended by real signals: nothing is lost, nothing runs twice, nothing stays."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_sweep import Sweep, all_gone, undisturbed_sweep

from wsol.data.digits import generate

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and waits on process descriptors"),
]
REPOSITORY = Path(__file__).resolve().parents[2]
TRIALS, EPOCHS = 4, 4
GONE_WITHIN_S = 3.0
"""For what works on trials. The servers, which only wait, need longer to give back all that they have imported."""
AT_MOST_S = 60.0

SPEC = f"""\
name: digits
experiment:
  task: wsddn
  data: {{root: ROOT, workers: 0}}
  proposals: {{source: grid, count: 30, min_size_px: 8}}
  model: {{backbone: tiny, weights: none, roi_size: 3, fc_dim: 16}}
  train: {{epochs: {EPOCHS}, optimizer: adam, scales_px: [48, 64], batch_size: 2}}
  evaluate: {{batch_size: 6}}
search:
  - grid: {{train.lr: [1.0e-3, 3.0e-3, 1.0e-2, 3.0e-2]}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=12, val=6, test=6, image_px=64)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Sweep]:
    """What every sweep below must come to."""
    with undisturbed_sweep(tmp_path_factory.mktemp("undisturbed"), root, SPEC) as sweep:
        yield sweep


@pytest.fixture
def make_sweep(tmp_path: Path, root: Path) -> Iterator[Callable[..., Sweep]]:
    sweeps: list[Sweep] = []

    def make(text: str = SPEC, *, root: Path = root) -> Sweep:
        sweeps.append(Sweep(tmp_path / f"sweep{len(sweeps)}", root, text))
        return sweeps[-1]

    yield make
    for sweep in sweeps:
        sweep.clean_up()


def is_the_same(sweep: Sweep, undisturbed: Sweep) -> None:
    assert sweep.outcome() == undisturbed.outcome()
    assert (sweep.folder / "per_class_ap.csv").read_bytes() == (undisturbed.folder / "per_class_ap.csv").read_bytes()
    assert len(list(sweep.folder.glob("trials/*"))) == TRIALS
    assert [sweep.epochs(number) for number in range(TRIALS)] == [list(range(1, EPOCHS + 1))] * TRIALS


def test_undisturbed(undisturbed: Sweep) -> None:
    rows = undisturbed.rows()
    assert sorted(row["trial"] for row in rows) == ["0", "1", "2", "3"]
    assert {(row["state"], row["stop_reason"], row["attempts"]) for row in rows} == {("COMPLETE", "", "1")}
    assert {row["train.lr"] for row in rows} == {"0.001", "0.003", "0.01", "0.03"}
    values = [float(row["ap50_11pt/mean"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == TRIALS
    with (undisturbed.folder / "per_class_ap.csv").open() as file:
        per_class = list(csv.DictReader(file))
    assert len(per_class) == TRIALS * 10
    assert [row["class"] for row in per_class[:10]] == [f"digit_{digit}" for digit in range(10)]
    for row in rows:
        of_trial = [line["ap50_11pt"] for line in per_class if line["trial"] == row["trial"] and line["ap50_11pt"]]
        assert sum(map(float, of_trial)) / len(of_trial) == pytest.approx(float(row["ap50_11pt/mean"]), abs=1e-12)


def test_a_second_run_starts_nothing_and_writes_no_result(undisturbed: Sweep) -> None:
    before = undisturbed.results_as_written()
    leaderboard = (undisturbed.folder / "leaderboard.csv").read_bytes()
    status, runner = undisturbed.run()
    assert status == 0
    assert runner.lines[0] == "sweep digits: 4 trials, 4 finished before, 0 to run"
    assert " starts on " not in runner.output
    assert undisturbed.results_as_written() == before
    assert (undisturbed.folder / "leaderboard.csv").read_bytes() == leaderboard
    assert runner.errors == ""


def test_a_killed_runner_takes_everything_with_it_and_the_command_goes_on(
    make_sweep: Callable[..., Sweep], undisturbed: Sweep
) -> None:
    """With loader processes, which are the attempts' children. The second run has none: that changes no result."""
    sweep = make_sweep(SPEC.replace("workers: 0", "workers: 2"))
    runner = sweep.start()
    first = runner.until("^trial ([01]) epoch 1/")[1]
    runner.until(f"^trial {1 - int(first)} epoch 1/")
    alive = runner.processes()
    attempts = {sweep.process_of(0), sweep.process_of(1)}
    assert {runner.process.pid} | attempts < alive
    assert len(alive) >= 1 + 2 + 2 * 2, "the command, the attempts, their loader processes"
    servers = alive - {pid for pid in alive if os.getsid(pid) in attempts} - {runner.process.pid}
    os.kill(sweep.process_of(1), signal.SIGSTOP)  # in a step that takes for ever: it will not look around
    runner.process.kill()
    assert all_gone(runner, but=servers, within_s=GONE_WITHIN_S), runner.processes()
    assert all_gone(runner, within_s=AT_MOST_S), runner.processes()
    assert runner.end() == -signal.SIGKILL
    sweep.write(SPEC)
    status, again = sweep.run()
    assert status == 0, again.errors
    assert again.errors == ""
    is_the_same(sweep, undisturbed)
    assert {row["attempts"] for row in sweep.rows()} == {"1", "2"}


def test_a_runner_killed_in_its_preparation_takes_everything_with_it(
    make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    generate(tmp_path / "data", seed=1, train=16, val=8, test=1, image_px=256)
    text = SPEC.replace("source: grid", "source: selective_search, quality: quality")
    sweep = make_sweep(text, root=tmp_path / "data")
    runner = sweep.start()
    runner.until("^proposals: ")
    alive = runner.processes()
    servers = {pid for pid in alive if os.getsid(pid) == os.getsid(runner.process.pid)} - {runner.process.pid}
    assert len(alive - servers) >= 3, "the command, the preparation, one that computes proposals"
    runner.process.kill()
    assert all_gone(runner, but=servers, within_s=GONE_WITHIN_S), runner.processes()
    assert all_gone(runner, within_s=AT_MOST_S), runner.processes()
    assert " to run" not in runner.output
    assert not (sweep.folder / "trials").exists()


def test_a_killed_worker_is_tried_again_and_a_second_runner_is_kept_out(
    make_sweep: Callable[..., Sweep], undisturbed: Sweep
) -> None:
    sweep = make_sweep()
    runner = sweep.start()
    runner.until("^trial 1 epoch 1/")
    os.kill(sweep.process_of(1), signal.SIGKILL)
    runner.process.send_signal(signal.SIGSTOP)  # it can be slow: it holds the sweep all the same
    status, second = sweep.run()
    runner.process.send_signal(signal.SIGCONT)
    assert status == 2
    assert second.lines == []
    assert f"this sweep is being run by process {runner.process.pid} on " in second.errors
    assert len(second.errors.splitlines()) == 1
    assert runner.end() == 0, runner.errors
    assert "trial 1 starts again: its process was ended by SIGKILL" in runner.output
    assert re.search(r"^trial 1 starts on cpu \d \(attempt 2\): ", runner.output, re.M)
    assert {row["trial"]: row["attempts"] for row in sweep.rows()} == {"0": "1", "1": "2", "2": "1", "3": "1"}
    assert sweep.metrics(1) == undisturbed.metrics(1)
    is_the_same(sweep, undisturbed)


def test_a_killed_fork_server_is_replaced(make_sweep: Callable[..., Sweep], undisturbed: Sweep) -> None:
    """All attempts die with it; none of them is to blame."""
    sweep = make_sweep()
    runner = sweep.start()
    number = int(runner.until(r"^trial (\d) epoch 1/")[1])
    status = Path(f"/proc/{sweep.process_of(number)}/status").read_text()
    server = int(re.findall(r"^PPid:\s*(\d+)$", status, re.M)[0])
    assert server in runner.processes() - {runner.process.pid}
    os.kill(server, signal.SIGKILL)
    assert runner.end() == 0, runner.output + runner.errors
    assert f"trial {number} starts again: its process was ended by SIGKILL" in runner.output
    is_the_same(sweep, undisturbed)


def test_a_sweep_that_is_stopped_again_and_again_loses_nothing(
    make_sweep: Callable[..., Sweep], undisturbed: Sweep
) -> None:
    """Ctrl-C; then a batch system's SIGTERM and an impatient Ctrl-C after it."""
    sweep = make_sweep()
    for first, second in ((signal.SIGINT, None), (signal.SIGTERM, signal.SIGINT)):
        runner = sweep.start()
        number = int(runner.until(r"^trial (\d) epoch ")[1])
        runner.signal(first)
        runner.until("^stopping: running trials save and end ")
        if second is not None:
            runner.signal(second)
        assert runner.end() == 130, runner.errors
        assert runner.errors == ""
        assert "stopped; it continues with the same command" in runner.output
        assert all_gone(runner, within_s=AT_MOST_S), runner.processes()
        assert sweep.epochs(number)[0] == 1
        assert len(sweep.rows()) == len(list(sweep.folder.glob("trials/*"))) <= TRIALS
    status, runner = sweep.run()
    assert status == 0, runner.errors
    is_the_same(sweep, undisturbed)


def test_a_failed_trial_waits_for_retry_failed(make_sweep: Callable[..., Sweep], root: Path, tmp_path: Path) -> None:
    """One of two trials trains on an image that is cut in half."""
    data = tmp_path / "data"
    shutil.copytree(root, data)
    image = data / "JPEGImages" / f"{(data / 'ImageSets/Main/test.txt').read_text().split()[0]}.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    text = re.sub(r"train\.lr: .*", "data.train: [test, train]}", SPEC)
    sweep = make_sweep(text, root=data)
    status, runner = sweep.run()
    assert status == 1
    failed = rf"^trial 0 failed \(data\): DataError: .*{image.name}.*; see .*0000-.*/log\.txt$"
    assert re.search(failed, runner.output, re.M), runner.output
    assert {row["trial"]: row["state"] for row in sweep.rows()} == {"0": "FAIL", "1": "COMPLETE"}
    good = sweep.results_as_written()[sweep.trial(1).name]

    image.write_bytes(whole)
    status, runner = sweep.run()
    assert (status, runner.lines[0]) == (1, "sweep digits: 2 trials, 2 finished before, 0 to run")
    status, runner = sweep.run("--retry-failed")
    assert (status, runner.lines) == (2, []), "the data are not those of the other trial"
    assert "JPEGImages changed; nothing was started" in runner.errors
    status, runner = sweep.run("--retry-failed", "--code", "keep")
    assert status == 0, runner.output + runner.errors
    assert "sweep digits: 2 trials, 1 finished before, 1 to run" in runner.lines
    assert {row["trial"]: (row["state"], row["attempts"]) for row in sweep.rows()} == {
        "0": ("COMPLETE", "2"),
        "1": ("COMPLETE", "1"),
    }
    assert sweep.results_as_written()[sweep.trial(1).name] == good
    assert sweep.epochs(0) == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize("fault", ["image cut in half", "no annotation"])
def test_a_fault_of_the_data_is_found_before_the_first_trial(
    make_sweep: Callable[..., Sweep], root: Path, tmp_path: Path, fault: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(root, data)
    image = (data / "ImageSets/Main/val.txt").read_text().split()[1]
    if fault == "no annotation":
        broken = data / "Annotations" / f"{image}.xml"
        broken.unlink()
    else:
        broken = data / "JPEGImages" / f"{image}.jpg"
        broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    sweep = make_sweep(SPEC.replace("source: grid", "source: selective_search"), root=data)
    status, runner = sweep.run()
    assert status == 2
    assert re.fullmatch(rf"error: .*\b{broken.stem}\b.*\n", runner.errors), runner.errors
    assert not (sweep.folder / "trials").exists()
    assert all_gone(runner, within_s=AT_MOST_S), runner.processes()
