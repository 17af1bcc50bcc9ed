"""24 trials whose runner and workers are killed -9 at random instants come to the undisturbed leaderboard."""

from __future__ import annotations

import os
import random
import re
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_sweep import DIFFERS_EACH_TIME, Runner, Sweep, undisturbed_sweep

from wsol.data.digits import generate

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc"),
]
TRIALS, SLOTS = 24, 3
WORKERS_TO_A_RUNNER = 6
"""A killed worker costs a second, a killed runner several: it must import everything again."""

SPEC = """\
name: digits
experiment:
  task: wsddn
  data: {root: ROOT, workers: 0}
  proposals: {source: grid, count: 20, min_size_px: 8}
  model: {backbone: tiny, weights: none, roi_size: 2, fc_dim: 8}
  train: {epochs: 3, optimizer: adam, scales_px: [48], batch_size: 2}
  evaluate: {batch_size: 4, pictures: 1}
search:
  - grid: {train.lr: [1.0e-3, 3.0e-3, 1.0e-2, 3.0e-2], model.detection_temperature: [1.0, 2.0]}
seeds: 3
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=8, val=4, test=1, image_px=48)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Sweep]:
    with undisturbed_sweep(tmp_path_factory.mktemp("undisturbed"), root, SPEC, slots=SLOTS) as sweep:
        yield sweep


def _lines_then_an_instant(runner: Runner, rng: random.Random) -> bool:
    """Lets some lines come, then a moment pass. False when the runner has come to its end."""
    assert runner.process.stdout is not None
    for _ in range(rng.randint(1, 8)):
        line = runner.process.stdout.readline()
        if not line:
            return False
        runner.lines.append(line.rstrip("\n"))
    return not select.select([runner.process.stdout], [], [], rng.uniform(0.0, 0.2))[0] or True


def _attempts(sweep: Sweep, runner: Runner) -> list[int]:
    """Processes of trials that run."""
    logs = [file.read_text(errors="replace") for file in sweep.folder.glob("trials/*/log.txt")]
    started = {int(pid) for log in logs for pid in re.findall(r"^--- attempt \d+, process (\d+) of ", log, re.M)}
    return sorted(started & runner.processes())


def _kill_until(sweep: Sweep, rng: random.Random, kills: int) -> tuple[int, dict[str, tuple[bytes, int]]]:
    """Runs the command until it comes to its end or so many kills are done: how many, and the results seen."""
    done, seen = 0, {}
    while done < kills:
        runner = sweep.start(slots=SLOTS)
        while _lines_then_an_instant(runner, rng):
            seen.update({k: v for k, v in sweep.results_as_written().items() if k not in seen})
            attempts = _attempts(sweep, runner)
            kills_runner = rng.randrange(1 + WORKERS_TO_A_RUNNER) == 0 or done + 1 == kills
            if kills_runner:
                runner.process.kill()
            elif attempts:
                try:
                    os.kill(rng.choice(attempts), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            else:
                continue
            done += 1
            if kills_runner:
                break
        runner.end()
        if runner.process.returncode == 0:
            return done, seen
        assert runner.process.returncode == -signal.SIGKILL, runner.output + runner.errors
    return done, seen


@pytest.mark.parametrize("kills", [12, *(pytest.param(kills, marks=pytest.mark.slow) for kills in (50, 200))])
def test_killed_at_random_instants(tmp_path: Path, root: Path, undisturbed: Sweep, kills: int) -> None:
    rng = random.Random(kills)
    done = 0
    while done < kills:
        sweep = Sweep(tmp_path / f"sweep{done}", root, SPEC)
        try:
            more, seen = _kill_until(sweep, rng, kills - done)
            done += more
            runner = sweep.start(slots=SLOTS)
            assert runner.end() == 0, runner.output + runner.errors
            assert sweep.outcome() == undisturbed.outcome()
            for name in ("leaderboard.csv", "per_class_ap.csv"):
                assert _comparable(sweep, name) == _comparable(undisturbed, name)
            written = sweep.results_as_written()
            assert len(written) == len(list(sweep.folder.glob("trials/*"))) == TRIALS, "none lost, none twice"
            assert {name: written[name] for name in seen} == seen, "no finished trial ran again"
            assert [sweep.epochs(number) for number in range(TRIALS)] == [[1, 2, 3]] * TRIALS
        finally:
            sweep.clean_up()


def _comparable(sweep: Sweep, name: str) -> list[bytes]:
    """A table's lines, byte by byte, less what differs each time."""
    header, *rows = (sweep.folder / name).read_bytes().splitlines()
    names = header.split(b",")
    left_out = [names.index(column.encode()) for column in DIFFERS_EACH_TIME if column.encode() in names]
    return [b",".join(cell for i, cell in enumerate(row.split(b",")) if i not in left_out) for row in [header, *rows]]
