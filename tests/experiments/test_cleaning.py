"""`runner.py gc`: what is removed and what is never touched. Nothing is trained here; checkpoints are real."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killed_calls import KilledError, kill_before
from trained_folders import kinds, trained

import runner
from experiments import cleaning, shrinking
from experiments.cleaning import CleaningOptions, clean
from experiments.lock import sweep_lock
from experiments.metrics_file import append_metrics
from experiments.spec import SweepSpec, load_spec
from experiments.store import StoredTrial, SweepStore, TrialResult, read_config, write_result
from experiments.trial import Draw, TrialPlan, TrialState
from wsol.checkpoint import keep_weights, load_latest
from wsol.checkpoint_files import checkpoint_files

SPEC = """\
name: tiny
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
search:
  - grid: {train.lr: [0.1, 0.2, 0.3]}
seeds: 2
"""
STATES = [TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.FAIL]
VALUES = [0.9, 0.1, 0.6, 0.7, 0.2, None]
"""Trial 0 is the best one; of the configurations the second is, trials 2 and 3."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a spec."""
    (tmp_path / "tiny.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> SweepStore:
    """A finished sweep, each trial with two checkpoints."""
    store = SweepStore(Path("results/tiny"))
    for number, plan in enumerate(spec().plans):
        end(store, number, plan, STATES[number], VALUES[number])
    return store


def spec() -> SweepSpec:
    return load_spec(Path("tiny.yaml"))


def end(
    store: SweepStore,
    number: int,
    plan: TrialPlan,
    state: TrialState | None = TrialState.COMPLETE,
    value: float | None = 0.5,
    *,
    draw: Draw | None = None,
) -> StoredTrial:
    config = plan.config.model_dump(mode="json")
    trial = store.create_trial(number, plan.signature, config, stage=plan.stage, draw=draw)
    append_metrics(trial.paths, {"epoch": 1, "duration_s": 1.0, "metrics": {}})
    trial.paths.detections.write_bytes(b"detections")
    trained(trial.paths.checkpoint, value=float(number))
    if state is not None:
        reason = "" if state is TrialState.COMPLETE else "a reason"
        write_result(trial.paths, TrialResult(plan.signature, state, reason, 1, {"ap50_11pt/mean": value}, 1, 1.0))
    return trial


def left(store: SweepStore) -> list[str]:
    """What each trial's checkpoints are, by number."""
    return [kinds(trial.paths.checkpoint) for trial in store.trials()]


def records(store: SweepStore) -> dict[str, bytes]:
    """All that has to stay as it is."""
    return {
        str(path): path.read_bytes()
        for path in sorted(store.folder.rglob("*"))
        if path.is_file() and path.parent.name != "checkpoint" and path != store.lock
    }


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that shrinks, in this process."""

    def shrink(folders: list[Path], *, warn: Callable[[str], None], dry_run: bool) -> dict[Path, int]:
        assert not dry_run
        return {folder: keep_weights(folder) for folder in folders}

    monkeypatch.setattr(cleaning, "shrink", shrink)


def numbers(text: str) -> dict[str, int]:
    """Files of each kind, from the printed table."""
    return {row[0].strip(): int(row[1]) for row in re.findall(r"^│ (.*?) │ +(\d+) │", text, re.MULTILINE)}


class TestByDefault:
    def test_what_nothing_can_need(self, store: SweepStore, capsys: pytest.CaptureFixture[str]) -> None:
        before = records(store)
        assert clean(Path("tiny.yaml"), CleaningOptions()) == 0
        assert left(store) == ["w", "w", "w", "w", "c", "c"]
        assert records(store) == before
        output = capsys.readouterr().out
        assert numbers(output) == {"older checkpoints": 6, "optimizer states": 4, "in all": 10}
        assert re.search(r"^results/tiny: \d+ kB before, \d+ kB after$", output, re.MULTILINE)
        for trial in store.trials()[:4]:
            state = load_latest(trial.paths.checkpoint)
            assert state is not None
            assert float(state["model"]["weight"][0]) == trial.number
            assert state["identity"] == {"value": trial.number}

    def test_twice(
        self, store: SweepStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clean(Path("tiny.yaml"), CleaningOptions())
        capsys.readouterr()
        monkeypatch.setattr(shrinking, "warm_context", lambda: pytest.fail("a process"))
        assert clean(Path("tiny.yaml"), CleaningOptions()) == 0
        assert capsys.readouterr().out.startswith("nothing to remove\nresults/tiny: ")

    def test_a_dry_run_says_the_same_and_removes_nothing(
        self, store: SweepStore, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (store.folder / ".spec.yaml.7.tmp").write_bytes(b"12345")
        assert clean(Path("tiny.yaml"), CleaningOptions(dry_run=True)) == 0
        dry = capsys.readouterr().out
        assert left(store) == ["cc"] * 6
        assert (store.folder / ".spec.yaml.7.tmp").exists()
        clean(Path("tiny.yaml"), CleaningOptions())
        wet = capsys.readouterr().out
        assert "dry run: nothing was removed" in dry
        assert [line for line in dry.splitlines() if line.startswith("│")] == [
            line for line in wet.splitlines() if line.startswith("│")
        ]
        assert re.findall(r"\d+ kB", dry.splitlines()[-1]) == re.findall(r"\d+ kB", wet.splitlines()[-1])

    def test_leftovers_of_killed_processes(self, store: SweepStore, capsys: pytest.CaptureFixture[str]) -> None:
        trial = store.trials()[5].paths
        trial.result.unlink()  # it goes on: its checkpoints stay, both of them
        leftovers = [
            store.folder / ".leaderboard.csv.12.tmp",
            trial.folder / ".result.json.12.tmp",
            trial.folder / ".detections.npz.pending",
            trial.checkpoint / ".checkpoint.pending",
            trial.folder / ".images.pending" / "a.jpg",
            store.folder / "trials" / ".0007-01234567.tmp" / "config.json",
        ]
        others = [store.folder / ".notes", trial.folder / "a.tmp", store.folder / "trials" / "notes" / ".a.tmp"]
        for path in [*leftovers, *others]:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"half")
        assert clean(Path("tiny.yaml"), CleaningOptions()) == 0
        assert not any(path.exists() for path in leftovers)
        assert not leftovers[-1].parent.exists()
        assert all(path.exists() for path in others)
        assert left(store)[5] == "cc"
        assert numbers(capsys.readouterr().out)["temporary files"] == len(leftovers)

    def test_a_dropped_trial_shrinks_like_any_other(self, store: SweepStore) -> None:
        assert clean(Path("tiny.yaml"), CleaningOptions(settings=("search[0].grid.train.lr=[0.2]",))) == 0
        assert left(store) == ["w", "w", "w", "w", "c", "c"]

    @pytest.mark.parametrize(("keep", "expected"), [("all", ["cc"] * 6), ("none", ["", "", "", "", "c", "c"])])
    def test_the_spec_says_what_stays(self, store: SweepStore, keep: str, expected: list[str]) -> None:
        clean(Path("tiny.yaml"), CleaningOptions(settings=(f"resources.keep_checkpoints={keep}",)))
        assert left(store) == expected


class TestOptions:
    def test_the_best_configuration_and_the_best_trial_keep_weights(self, store: SweepStore) -> None:
        clean(Path("tiny.yaml"), CleaningOptions(weights="best"))
        assert left(store) == ["w", "", "w", "w", "c", "c"]

    def test_where_less_is_better(self, store: SweepStore) -> None:
        least = ("objective={metric: ap50_11pt/mean, direction: minimize}",)
        clean(Path("tiny.yaml"), CleaningOptions(weights="best", settings=least))
        assert left(store) == ["w", "w", "", "", "c", "c"]

    def test_nobody_keeps_weights(self, store: SweepStore, capsys: pytest.CaptureFixture[str]) -> None:
        clean(Path("tiny.yaml"), CleaningOptions(weights="none"))
        assert left(store) == ["", "", "", "", "c", "c"]
        assert numbers(capsys.readouterr().out)["weights of complete trials"] == 8

    def test_the_option_wins_over_the_spec(self, store: SweepStore) -> None:
        settings = ("resources.keep_checkpoints=all",)
        clean(Path("tiny.yaml"), CleaningOptions(weights="all", settings=settings))
        assert left(store) == ["w", "w", "w", "w", "c", "c"]

    @pytest.mark.parametrize(
        ("option", "number", "line"),
        [
            ("pruned", 4, "pruned trials start anew with --continue-pruned"),
            ("failed", 5, "failed trials start anew with --retry-failed"),
        ],
    )
    def test_trials_that_will_not_be_taken_up(
        self,
        store: SweepStore,
        option: Any,
        number: int,
        line: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        without_torch(monkeypatch)
        before = records(store)
        clean(Path("tiny.yaml"), CleaningOptions(**{option: True}))
        expected = ["w", "w", "w", "w", "c", "c"]
        expected[number] = ""
        assert left(store) == expected
        assert line in capsys.readouterr().out.splitlines()
        assert records(store) == before


class TestDropped:
    OPTIONS = CleaningOptions(dropped=True, settings=("search[0].grid.train.lr=[0.2]", "seeds=[0]"))

    def test_they_are_listed_and_deleted(
        self, store: SweepStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        without_torch(monkeypatch)
        names = store.trial_names()
        assert clean(Path("tiny.yaml"), self.OPTIONS) == 0
        assert [trial.number for trial in store.trials()] == [2]
        assert os.listdir(store.folder / "trials") == [names[2]]
        output = capsys.readouterr().out
        for number in (0, 1, 3, 4, 5):
            line = rf"^trial {number} goes: {STATES[number]}, \d+ kB in results/tiny/trials/{names[number]}$"
            assert re.search(line, output, re.MULTILINE), output
        assert numbers(output)["trials that the spec does not have"] == 5 * 6

    def test_a_dry_run_lists_them(self, store: SweepStore, capsys: pytest.CaptureFixture[str]) -> None:
        clean(Path("tiny.yaml"), CleaningOptions(**{**vars(self.OPTIONS), "dry_run": True}))
        assert len(store.trials()) == 6
        assert "trial 0 would go: COMPLETE" in capsys.readouterr().out

    def test_one_without_a_result_goes_too_and_one_without_a_config_does_not(
        self, store: SweepStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        without_torch(monkeypatch)
        store.trials()[0].paths.result.unlink()
        store.trials()[1].paths.config.write_text("{")
        names = store.trial_names()
        clean(Path("tiny.yaml"), self.OPTIONS)
        assert store.trial_names() == names[1:3]
        assert "trial 0 goes: not finished" in capsys.readouterr().out

    def test_sampled_trials_of_the_spec_stay(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        without_torch(monkeypatch)
        sampled = SPEC.replace(
            "grid: {train.lr: [0.1, 0.2, 0.3]}", "sample: {train.lr: {float: [0.05, 0.25]}}\n    trials: 9"
        )
        store = SweepStore(Path("results/tiny"))
        plans = spec().plans
        (folder / "tiny.yaml").write_text(sampled)
        (block,) = spec().blocks
        for number, plan in enumerate(plans):
            end(store, number, plan, draw=Draw(block=block.key, number=number // 2))
        clean(Path("tiny.yaml"), CleaningOptions(dropped=True))
        assert [trial.number for trial in store.trials()] == [0, 1, 2, 3], "0.3 lies outside of the space"

    @pytest.mark.parametrize("waits", [False, True])
    def test_the_final_stage_stays_also_while_it_waits_for_the_search(
        self, folder: Path, waits: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_torch(monkeypatch)
        (folder / "tiny.yaml").write_text(SPEC + "final: {train: trainval, eval: test, seeds: 1}\n")
        store = SweepStore(Path("results/tiny"))
        plans = spec().plans
        for number, plan in enumerate(plans):
            end(store, number, plan, None if waits and number == 0 else TrialState.COMPLETE, value=number / 10)
        (final,) = spec().final_plans(plans[4])
        (earlier,) = spec().final_plans(plans[0])
        end(store, 6, final)
        end(store, 7, earlier)
        clean(Path("tiny.yaml"), CleaningOptions(dropped=True, weights="best"))
        assert left(store) == ["cc" if waits else "", "", "", "", "w", "w", "w", "w"]
        (folder / "tiny.yaml").write_text(SPEC)
        clean(Path("tiny.yaml"), CleaningOptions(dropped=True))
        assert [trial.number for trial in store.trials()] == [0, 1, 2, 3, 4, 5]


class TestShared:
    """Trials that another sweep has taken over, as hard links."""

    @pytest.fixture
    def other(self, store: SweepStore) -> SweepStore:
        other = SweepStore(Path("results/other"))
        for number, found in enumerate(store.trials()[:2]):
            other.adopt(number, found, stage="search", draw=None)
        return other

    @pytest.mark.parametrize("weights", ["all", "none"])
    def test_the_other_sweep_keeps_its_files(
        self, store: SweepStore, other: SweepStore, weights: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {str(path): path.read_bytes() for path in other.folder.rglob("*") if path.is_file()}
        assert left(other) == ["cc", "cc"]
        clean(Path("tiny.yaml"), CleaningOptions(weights=weights))
        assert {str(path): path.read_bytes() for path in other.folder.rglob("*") if path.is_file()} == before
        assert re.search(r"^\d+ kB of that is shared with other sweeps and stays there$", capsys.readouterr().out, re.M)

    def test_dropping_it_leaves_the_other_one_whole(
        self, store: SweepStore, other: SweepStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_torch(monkeypatch)
        before = {str(path): path.read_bytes() for path in other.folder.rglob("*") if path.is_file()}
        clean(Path("tiny.yaml"), TestDropped.OPTIONS)
        assert {str(path): path.read_bytes() for path in other.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "options",
    [CleaningOptions(weights="best", pruned=True), TestDropped.OPTIONS],
    ids=["checkpoints", "trials"],
)
def test_killed_between_any_two_file_operations(
    store: SweepStore, options: CleaningOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is half there at any instant, and the next call comes to what an undisturbed one does."""
    without_torch(monkeypatch)
    shutil.copytree(store.folder, "copy")
    clean(Path("tiny.yaml"), options)
    expected, expected_records = left(store), records(store)
    for call in range(1000):
        shutil.rmtree(store.folder)
        shutil.copytree("copy", store.folder)
        with monkeypatch.context() as patch:
            kill_before(call, "replace", "rename", "unlink", "rmdir", patch=patch)
            try:
                clean(Path("tiny.yaml"), options)
            except KilledError:
                pass
            else:
                break
        for trial in store.trials():
            assert read_config(trial) is not None
            assert trial.paths.detections.exists()
            assert trial.paths.result.exists()
            if trial.number in (2, 3):
                state = load_latest(trial.paths.checkpoint)
                assert state is not None
                assert float(state["model"]["weight"][0]) == trial.number
        clean(Path("tiny.yaml"), options)
        assert left(store) == expected
        assert records(store) == expected_records
    assert call > 10


class TestFaults:
    def test_what_cannot_be_removed_is_a_warning_and_the_rest_goes(
        self, store: SweepStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        without_torch(monkeypatch)
        stuck = checkpoint_files(store.trials()[4].paths.checkpoint)[0].path
        unlink = Path.unlink

        def refuse(path: Path, missing_ok: bool = False) -> None:
            if path == stuck:
                raise PermissionError(13, "Permission denied")
            unlink(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", refuse)
        assert clean(Path("tiny.yaml"), CleaningOptions()) == 1
        assert left(store) == ["w", "w", "w", "w", "cc", "c"]
        assert f"{stuck} stays: Permission denied" in caplog.text

    def test_a_damaged_last_checkpoint_is_a_warning(self, store: SweepStore, caplog: pytest.LogCaptureFixture) -> None:
        folder = store.trials()[1].paths.checkpoint
        checkpoint_files(folder)[-1].path.write_bytes(b"")
        assert clean(Path("tiny.yaml"), CleaningOptions()) == 1
        assert left(store) == ["w", "cc", "w", "w", "c", "c"]
        assert f"the checkpoints in {folder} could not be shrunk" in caplog.text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["absent.yaml"], "absent.yaml"),
            (["tiny.yaml", "--results", "x"], "got no results of tiny.yaml in x/tiny; expected those of a sweep that"),
            (["tiny.yaml", "--set", "seeds=x"], "got 'x' for seeds"),
        ],
    )
    def test_of_the_user(
        self, store: SweepStore, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert runner.main(["gc", *arguments]) == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert re.fullmatch(rf"error: .*{re.escape(message)}.*\n", errors), errors
        assert left(store) == ["cc"] * 6

    def test_an_unknown_choice(self, store: SweepStore, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="^2$"):
            runner.main(["gc", "tiny.yaml", "--weights", "some"])
        assert "invalid choice: 'some' (choose from 'best', 'all', 'none')" in capsys.readouterr().err

    def test_a_sweep_that_is_running(self, store: SweepStore, capsys: pytest.CaptureFixture[str]) -> None:
        with sweep_lock(store.lock):
            assert runner.main(["gc", "tiny.yaml"]) == 2
        assert "results/tiny: this sweep is being run by process" in capsys.readouterr().err
        assert left(store) == ["cc"] * 6


def test_the_command_takes_every_option(store: SweepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CleaningOptions] = []
    monkeypatch.setattr(cleaning, "clean", lambda file, options: seen.append(options) or 0)
    given = ["--dry-run", "--weights", "best", "--pruned", "--failed", "--dropped", "--results", "x", "--set", "a=1"]
    assert runner.main(["gc", "tiny.yaml", *given]) == 0
    assert seen == [
        CleaningOptions(
            results=Path("x"),
            settings=("a=1",),
            dry_run=True,
            weights="best",
            pruned=True,
            failed=True,
            dropped=True,
        )
    ]
