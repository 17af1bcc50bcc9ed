"""The real command with real processes, ended by real signals: nothing is lost, nothing runs twice, nothing stays."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

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


class Runner:
    """The command as a process in a process group of its own, as a shell starts it. Its lines are read as they come."""

    def __init__(self, spec: Path, results: Path, *options: str, cache: Path) -> None:
        self.lines: list[str] = []
        self._marker = f"WSOL_CACHE={cache}".encode()
        self._errors = results.parent / "stderr.txt"
        results.parent.mkdir(parents=True, exist_ok=True)
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "runner.py", str(spec), "--results", str(results), "--cpu-slots", "2", *options],
                cwd=REPOSITORY,
                env={**os.environ, "WSOL_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": ""},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                process_group=0,
            )

    def until(self, pattern: str) -> re.Match[str]:
        """Reads on to the first line that matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"no line {pattern!r} in\n{self.output}\n{self.errors}")

    def end(self) -> int:
        """Reads to the end of the output, which comes when the last process that could write to it has ended."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def processes(self) -> set[int]:
        """Everything alive that has this command's environment: the command and all that came of it."""
        return {int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self._marker in _environment(folder)}

    def signal(self, number: signal.Signals) -> None:
        """As a person or a system would: a Ctrl-C is a SIGINT for everything in the foreground."""
        if number is signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)


def _environment(process: Path) -> list[bytes]:
    """Of a process as it was started; empty for a zombie, and for one that is gone or another user's."""
    with contextlib.suppress(OSError):
        return (process / "environ").read_bytes().split(b"\0")
    return []


def all_gone(runner: Runner, *, within_s: float, but: Collection[int] = ()) -> bool:
    """Waits until nothing of `runner` runs any more, leaving out `but`, on the processes themselves."""
    deadline = time.monotonic() + within_s
    while pids := runner.processes().difference(but):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(min(pids))
            ended, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            os.close(descriptor)
            if not ended:
                return False
    return True


class Sweep:
    """A spec in a folder of its own, with its results."""

    def __init__(self, folder: Path, root: Path, text: str = SPEC) -> None:
        self.results = folder / "results"
        self.folder = self.results / "digits"
        self._spec = folder / "digits.yaml"
        self._root = root
        self._runners: list[Runner] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.write(text)

    def write(self, text: str) -> None:
        self._spec.write_text(text.replace("ROOT", str(self._root)))

    def start(self, *options: str) -> Runner:
        cache = self.results.parent / f"cache{len(self._runners)}"
        self._runners.append(Runner(self._spec, self.results, *options, cache=cache))
        return self._runners[-1]

    def run(self, *options: str) -> tuple[int, Runner]:
        runner = self.start(*options)
        return runner.end(), runner

    def clean_up(self) -> None:
        """Whatever a failed test left."""
        for runner in self._runners:
            for pid in runner.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            runner.process.wait()
            assert runner.process.stdout is not None
            runner.process.stdout.close()

    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "leaderboard.csv").open() as file:
            return list(csv.DictReader(file))

    def outcome(self) -> list[dict[str, str]]:
        """The leaderboard, less what tells how often and how fast."""
        return [{key: row[key] for key in row if key not in ("attempts", "duration_s")} for row in self.rows()]

    def trial(self, number: int) -> Path:
        (folder,) = self.folder.glob(f"trials/{number:04d}-*")
        return folder

    def epochs(self, number: int) -> list[int]:
        return [json.loads(line)["epoch"] for line in (self.trial(number) / "metrics.jsonl").read_text().splitlines()]

    def metrics(self, number: int) -> dict[str, float | None]:
        metrics: dict[str, float | None] = json.loads((self.trial(number) / "result.json").read_text())["metrics"]
        return metrics

    def process_of(self, number: int) -> int:
        """Of the trial's last attempt."""
        log = (self.trial(number) / "log.txt").read_text()
        return int(re.findall(r"^--- attempt \d+, process (\d+) of ", log, re.M)[-1])

    def results_as_written(self) -> dict[str, tuple[bytes, int]]:
        files = sorted(self.folder.glob("trials/*/result.json"))
        return {file.parent.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=12, val=6, test=6, image_px=64)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Sweep]:
    """What every sweep below must come to."""
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"), root)
    status, runner = sweep.run()
    assert status == 0, runner.output + runner.errors
    yield sweep
    sweep.clean_up()


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
