"""Files of a sweep, torn and with turned bits: mended from what else is on disk, or named, and nothing overwritten."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from simulated_sweep import SimulatedSweep

from experiments.errors import UserError
from experiments.metrics_file import read_metrics
from experiments.store import TrialPaths, read_result
from experiments.trial import TrialState

SPEC = """\
name: sweep
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 3}
search:
  - grid: {train.lr: [0.1, 0.2]}
  - sample: {train.lr: {log_uniform: [0.001, 0.1]}}
    sampler: random
    trials: 2
"""

Damage = Callable[[Path, random.Random], None]


def _cut(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def _turn_a_bit(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _zeros(path: Path, rng: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


DAMAGE: list[Damage] = [_cut, _turn_a_bit, _zeros, _garbage]


def _objective(config: dict[str, dict[str, float]], epoch: int) -> float:
    return epoch * config["train"]["lr"]


@pytest.fixture
def sweep(tmp_path: Path) -> SimulatedSweep:
    return SimulatedSweep(tmp_path, _objective)  # type: ignore[arg-type]


@pytest.fixture
def finished(sweep: SimulatedSweep) -> SimulatedSweep:
    assert sweep.run(SPEC).finished
    return sweep


def _everything(sweep: SimulatedSweep) -> dict[str, object]:
    results = {trial.number: read_result(trial) for trial in sweep.store.trials()}
    return {
        number: (result.signature, result.state, result.metrics, result.epochs)
        for number, result in results.items()
        if result is not None
    }


def _trial(sweep: SimulatedSweep, number: int) -> TrialPaths:
    return next(trial.paths for trial in sweep.store.trials() if trial.number == number)


@pytest.mark.parametrize("number", [0, 2], ids=["grid", "sampled"])
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["result.json", "config.json", "metrics.jsonl"])
def test_a_trials_file_is_mended_from_the_others(
    finished: SimulatedSweep, name: str, damage: Damage, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """No trial runs anew from its start, none is lost, none gets another number, and no value changes."""
    before = _everything(finished)
    rng = random.Random(f"{name} {damage.__name__} {number}")
    for _ in range(3):
        path = _trial(finished, number).folder / name
        whole = path.read_bytes()
        damage(path, rng)
        if path.read_bytes() == whole:
            continue
        caplog.clear()
        run = finished.run(SPEC)
        assert run.finished
        assert len(run.launched) == (name == "result.json" and "result.json: " in caplog.text)
        assert _everything(finished) == before
        assert len(list((finished.store.folder / "trials").iterdir())) == 4
        if name != "result.json" or run.launched:
            readable = damage is _cut and name == "metrics.jsonl"  # cut at the end of a row, it is only shorter
            assert readable or name in caplog.text or path.read_bytes() == whole or _is_harmless(path, whole)
        path.write_bytes(whole)


def _is_harmless(path: Path, whole: bytes) -> bool:
    """A bit in the name of the checksum, which then is one more key, or in a row's end: the values are the same."""
    return b"checksum" not in path.read_bytes() or len(path.read_bytes()) == len(whole)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_turned_bit_never_changes_a_value(finished: SimulatedSweep, damage: Damage) -> None:
    trial = next(iter(finished.store.trials()))
    result, rows = read_result(trial), read_metrics(trial.paths)
    rng = random.Random(7)
    for path in (trial.paths.result, trial.paths.metrics):
        whole = path.read_bytes()
        for _ in range(200):
            path.write_bytes(whole)
            damage(path, rng)
            assert read_result(trial) in (result, None)
            for row in read_metrics(trial.paths):  # a bit in the name of the checksum leaves a key with another name
                assert any(row.items() >= good.items() for good in rows)
        path.write_bytes(whole)


def test_the_config_of_a_grids_trial_is_mended_without_the_study_too(finished: SimulatedSweep) -> None:
    before = _everything(finished)
    _trial(finished, 0).config.write_text("{")
    for file in finished.store.folder.glob("study.db*"):
        file.unlink()
    assert finished.run(SPEC).launched == []
    assert _everything(finished) == before


def test_the_study_is_rebuilt_from_the_folders(finished: SimulatedSweep) -> None:
    before = _everything(finished)
    for file in finished.store.folder.glob("study.db*"):
        file.unlink()
    assert finished.run(SPEC).launched == []
    assert _everything(finished) == before
    with finished._study(finished.spec(SPEC)) as study:
        assert {n: t.state for n, t in study.trials().items()} == dict.fromkeys(range(4), TrialState.COMPLETE)


@pytest.mark.parametrize("damage", [*DAMAGE, "directory"])
def test_a_study_that_cannot_be_read_is_named_and_left_alone(
    finished: SimulatedSweep, damage: Damage | str, caplog: pytest.LogCaptureFixture
) -> None:
    """Or it reads as before: a turned bit may lie where nothing is."""
    before = _everything(finished)
    rng = random.Random(5)
    for file in finished.store.folder.glob("study.db-*"):
        file.unlink()
    study = finished.store.study
    whole = study.read_bytes()
    refused = 0
    for _ in range(5):
        study.unlink()
        if callable(damage):
            study.write_bytes(whole)
            damage(study, rng)
        else:
            study.mkdir()
        left = study.read_bytes() if study.is_file() else None
        try:
            assert finished.run(SPEC).launched == []
        except UserError as error:
            refused += "move it away to have it rebuilt from the trial folders" in str(error)
            assert (study.read_bytes() if study.is_file() else None) == left  # noqa: PT017
        assert _everything(finished) == before
        if study.is_dir():
            study.rmdir()
            study.touch()
        for file in finished.store.folder.glob("study.db-*"):
            file.unlink()
    assert refused >= (0 if damage is _turn_a_bit else 4)


def test_a_result_of_another_trial_is_not_believed(finished: SimulatedSweep, caplog: pytest.LogCaptureFixture) -> None:
    before = _everything(finished)
    shutil.copy(_trial(finished, 1).result, _trial(finished, 0).result)
    with caplog.at_level(logging.WARNING):
        assert len(finished.run(SPEC).launched) == 1
    assert "belongs to another trial" in caplog.text
    assert _everything(finished) == before
