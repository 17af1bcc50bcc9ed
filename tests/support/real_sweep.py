"""The real command in a process of its own, as a shell starts it, and the folder that it works on."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SUPPORT = Path(__file__).resolve().parent
COMMAND = ("runner.py",)
DIFFERS_EACH_TIME = ("attempts", "duration_s", "gpu_memory_gb", "host_memory_gb")
"""Columns of the leaderboard that tell how often, how fast and with how much memory."""


class Runner:
    """The command as a process in a process group of its own, without a page. Its lines are read as they come.

    Args:
        command: what Python runs, in the repository's root.
        before: a command that is to run Python.
    """

    def __init__(
        self,
        spec: Path,
        results: Path,
        *options: str,
        cache: Path,
        slots: int = 2,
        command: Sequence[str] = COMMAND,
        before: Sequence[str] = (),
    ) -> None:
        self.lines: list[str] = []
        self._marker = f"WSOL_CACHE={cache}".encode()
        self._errors = results.parent / "stderr.txt"
        results.parent.mkdir(parents=True, exist_ok=True)
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [
                    *before,
                    sys.executable,
                    *command,
                    str(spec),
                    *("--results", str(results), "--cpu-slots", str(slots), "--no-report"),
                    *options,
                ],
                cwd=REPOSITORY,
                env={
                    **os.environ,
                    "WSOL_CACHE": str(cache),
                    "CUDA_VISIBLE_DEVICES": "",
                    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(SUPPORT)]),
                },
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

    def __init__(self, folder: Path, root: Path, text: str) -> None:
        self.results = folder / "results"
        self.folder = self.results / "digits"
        self._spec = folder / "digits.yaml"
        self._root = root
        self._runners: list[Runner] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.write(text)

    def write(self, text: str) -> None:
        self._spec.write_text(text.replace("ROOT", str(self._root)))

    def start(
        self, *options: str, slots: int = 2, command: Sequence[str] = COMMAND, before: Sequence[str] = ()
    ) -> Runner:
        cache = self.results.parent / f"cache{len(self._runners)}"
        runner = Runner(self._spec, self.results, *options, cache=cache, slots=slots, command=command, before=before)
        self._runners.append(runner)
        return runner

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
        """The leaderboard, less what differs each time."""
        return [{key: row[key] for key in row if key not in DIFFERS_EACH_TIME} for row in self.rows()]

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


@contextlib.contextmanager
def undisturbed_sweep(folder: Path, root: Path, text: str, *, slots: int = 2) -> Iterator[Sweep]:
    """One that ran to its end on this machine: what others must come to."""
    sweep = Sweep(folder, root, text)
    runner = sweep.start(slots=slots)
    assert runner.end() == 0, runner.output + runner.errors
    yield sweep
    sweep.clean_up()
