"""`--code new` as a whole: a generation is a sweep that begins anew, in the folder of the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from simulated_sweep import SimulatedSweep

from experiments.cleaning import CleaningOptions, clean
from experiments.code_version import present_version
from experiments.errors import SpecError, UserError
from experiments.report.entries import Entry, has_work_left
from experiments.spec import load_spec, spec_name
from experiments.spec_of_sweep import load_spec_of_sweep
from experiments.store import SweepStore, read_config, read_result
from experiments.stored_code import store_code
from experiments.trial import TrialState

GENERATION = "0123456789ab"
HEAD = """\
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 2}
"""
GRID = HEAD + "search:\n  - grid: {train.lr: [0.1, 0.2]}\nseeds: 2\n"
FINAL = GRID + "final: {train: trainval, eval: test, seeds: 2}\n"
SAMPLED = HEAD + "search:\n  - sample: {train.lr: {float: [0.1, 0.9]}}\n    sampler: %s\n    trials: 12\n"
FINITE = HEAD + (
    "search:\n  - grid: {train.lr: [0.1, 0.2]}\n  - sample: {train.lr: {choice: [0.1, 0.2, 0.3]}}\n    trials: 3\n"
)


def objective(config: Mapping[str, Any], epoch: int) -> float:
    return float(config["train"]["lr"]) + epoch / 100


@pytest.fixture
def sweep(tmp_path: Path) -> SimulatedSweep:
    return SimulatedSweep(tmp_path, objective)


def rates(entries: list[Entry]) -> list[float]:
    return [entry.plan.config.train.lr for entry in entries]


class TestTrials:
    def test_all_run_anew_and_the_old_ones_stay(self, sweep: SimulatedSweep) -> None:
        before = sweep.run(FINAL).launched
        old = {trial.paths.folder: read_result(trial) for trial in sweep.store.trials()}
        run = sweep.run(FINAL, generation=GENERATION)
        assert len(run.launched) == len(before) == run.total == 6
        assert not set(run.launched) & set(before)
        assert {trial.paths.folder: read_result(trial) for trial in sweep.store.trials()[:6]} == old
        assert [trial.number for trial in sweep.store.trials()] == list(range(12))

    def test_tables_show_the_present_generation_alone(self, sweep: SimulatedSweep) -> None:
        before = sweep.run(FINAL).launched
        now = sweep.run(FINAL, generation=GENERATION).launched
        assert {entry.plan.signature for entry in sweep.entries(FINAL, generation=GENERATION)} == set(now)
        assert {entry.plan.signature for entry in sweep.entries(FINAL)} == set(before)
        assert all(entry.state is TrialState.COMPLETE for entry in sweep.entries(FINAL, generation=GENERATION))

    def test_a_trial_says_which_it_is_of(self, sweep: SimulatedSweep) -> None:
        """So does its checkpoint, whose identity is the config: training never goes on from one of another."""
        sweep.run(GRID)
        sweep.run(GRID, generation=GENERATION)
        configs = [read_config(trial) for trial in sweep.store.trials()]
        assert [config["code"] for config in configs] == [""] * 4 + [GENERATION] * 4

    def test_a_second_run_starts_nothing(self, sweep: SimulatedSweep) -> None:
        sweep.run(FINAL)
        sweep.run(FINAL, generation=GENERATION)
        assert sweep.run(FINAL, generation=GENERATION).launched == []
        assert sweep.run(FINAL).launched == []

    def test_the_split_of_the_final_stage_was_seen_before(self, sweep: SimulatedSweep) -> None:
        sweep.run(FINAL)
        assert "it is no longer unseen" in sweep.run(FINAL, generation=GENERATION).said


class TestSampled:
    @pytest.mark.parametrize("sampler", ["random", "tpe"])
    def test_the_whole_budget_as_in_a_folder_of_its_own(self, tmp_path: Path, sampler: str) -> None:
        text = SAMPLED % sampler
        (tmp_path / "alone").mkdir()
        fresh = SimulatedSweep(tmp_path / "alone", objective).run(text, generation=GENERATION)
        sweep = SimulatedSweep(tmp_path, objective)
        first = sweep.run(text)
        run = sweep.run(text, generation=GENERATION)
        assert len(first.launched) == run.total == 12
        assert run.launched == fresh.launched
        assert rates(sweep.entries(text, generation=GENERATION)) == rates(sweep.entries(text))

    def test_killed_again_and_again_it_draws_the_same(self, tmp_path: Path, sweep: SimulatedSweep) -> None:
        text = SAMPLED % "tpe"
        sweep.run(text)
        sweep.run_in_pieces(text, every=5, generation=GENERATION)
        assert rates(sweep.entries(text, generation=GENERATION)) == rates(sweep.entries(text))
        assert len(sweep.store.trials()) == 24


class TestWorkLeft:
    @pytest.mark.parametrize("text", [GRID, FINAL, SAMPLED % "random", FINITE])
    def test_as_long_as_a_run_would_start_something(self, sweep: SimulatedSweep, text: str) -> None:
        for steps in range(1, 60, 6):
            is_left = has_work_left(sweep.spec(text), sweep.store)
            run = sweep.run(text, kill_after=steps)
            assert is_left or (run.finished and not run.launched)
            if run.finished:
                break
        assert run.finished
        assert not has_work_left(sweep.spec(text), sweep.store)
        assert has_work_left(sweep.spec(text, generation=GENERATION), sweep.store)

    def test_nothing_is_read_where_a_trial_has_no_folder(
        self, sweep: SimulatedSweep, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep.run(GRID, kill_after=9)
        assert 0 < len(sweep.store.trial_names()) < 4
        spec = sweep.spec(GRID)
        monkeypatch.setattr(SweepStore, "trials", lambda _: pytest.fail("it reads the trials"))
        assert has_work_left(spec, sweep.store)

    def test_a_space_that_is_used_up(self, sweep: SimulatedSweep) -> None:
        """The block may try three, of which the grid has two."""
        assert len(sweep.run(FINITE).launched) == 3
        assert not has_work_left(sweep.spec(FINITE), sweep.store)

    def test_what_is_to_run_again(self, sweep: SimulatedSweep) -> None:
        sweep.run(GRID)
        assert has_work_left(sweep.spec(GRID), sweep.store, again=[TrialState.COMPLETE])
        assert not has_work_left(sweep.spec(GRID), sweep.store, again=[TrialState.FAIL, TrialState.PRUNED])


class TestOtherSweeps:
    @pytest.mark.parametrize(("code", "launched"), [("source-packages-data", 0), ("other-packages-data", 4), ("", 4)])
    def test_only_what_ran_as_it_would_here_is_taken(self, tmp_path: Path, code: str, launched: int) -> None:
        SimulatedSweep(tmp_path, objective).run(GRID, code=code)
        assert len(SimulatedSweep(tmp_path, objective, name="second").run(GRID, reuse=True).launched) == launched

    def test_one_that_went_on_with_another_source_ran_as_nothing_would(self, tmp_path: Path) -> None:
        first = SimulatedSweep(tmp_path, objective)
        first.run(GRID, code="first", kill_after=2)
        first.run(GRID, code="second")
        for number, code in enumerate(("first", "second")):
            other = SimulatedSweep(tmp_path, objective, name=f"other{number}")
            assert len(other.run(GRID, reuse=True, code=code).launched) == (4 if code == "first" else 1)

    def test_what_was_taken_can_be_taken_again(self, tmp_path: Path) -> None:
        SimulatedSweep(tmp_path, objective, name="z").run(GRID)
        assert SimulatedSweep(tmp_path, objective, name="a").run(GRID, reuse=True).launched == []
        assert SimulatedSweep(tmp_path, objective, name="b").run(GRID, reuse=True).launched == []


def test_gc_takes_the_trials_of_earlier_generations_alone(sweep: SimulatedSweep, tmp_path: Path) -> None:
    """And those when asked for what the spec has no more."""
    sweep.run(GRID)
    now = sweep.run(GRID, generation=GENERATION).launched
    store_code(sweep.store, present_version([]), generation=GENERATION)
    left_over = sweep.store.snapshot("0" * 64).with_name(".000000000000.tmp")
    left_over.mkdir()
    assert clean(sweep.spec(GRID).file, CleaningOptions(results=tmp_path / "results", dropped=True)) == 0
    assert sweep.signatures() == now
    assert not left_over.exists()
    assert sweep.store.code.exists()


class TestSpec:
    def test_is_read_as_its_sweep_has_it(self, sweep: SimulatedSweep, tmp_path: Path) -> None:
        spec = sweep.spec(GRID)
        assert load_spec_of_sweep(spec.file, [], tmp_path / "results").plans == spec.plans
        store_code(sweep.store, present_version([]), generation=GENERATION)
        found = load_spec_of_sweep(spec.file, ["train.epochs=3"], tmp_path / "results")
        assert found.code == GENERATION
        assert {(plan.config.code, plan.config.train.epochs) for plan in found.plans} == {(GENERATION, 3)}
        assert "code" not in found.text, "so that the kept spec can be run"

    def test_not_with_a_damaged_record(self, sweep: SimulatedSweep, tmp_path: Path) -> None:
        spec = sweep.spec(GRID)
        SweepStore(tmp_path / "results" / spec.name).code.parent.mkdir(parents=True)
        sweep.store.code.write_text("{")
        with pytest.raises(UserError, match=r"code\.json: damaged"):
            load_spec_of_sweep(spec.file, [], tmp_path / "results")

    def test_signatures_differ_in_the_generation_alone(self, sweep: SimulatedSweep) -> None:
        """With the identity taken in parts, and as a whole."""
        found = [sweep.spec(GRID, generation=code) for code in ("", GENERATION, "ba9876543210")]
        signatures = {plan.signature for spec in found for plan in spec.plans}
        assert len(signatures) == 12
        assert len({plan.configuration for spec in found for plan in spec.plans}) == 6

    @pytest.mark.parametrize("value", [GENERATION, '""', "null"])
    def test_nobody_sets_it_in_the_file(self, fault: Callable[[str], str], value: str) -> None:
        text = f"experiment:\n  task: wsddn\n  code: {value}\n  data: {{root: digits}}\n"
        assert fault(text) == (
            "sweep.yaml:3: got a value for experiment.code; expected it to be left out: `--code new` sets it"
        )

    def test_nor_on_the_command_line(self, sweep: SimulatedSweep) -> None:
        with pytest.raises(SpecError, match=r"--set code=.*: got a value for experiment\.code"):
            load_spec(sweep.spec(GRID).file, [f"code={GENERATION}"])

    @pytest.mark.parametrize("block", ["grid: {code: [a]}", "sample: {code: {choice: [a, b]}}\n    trials: 2"])
    def test_nobody_sweeps_it(self, fault: Callable[[str], str], block: str) -> None:
        assert "got code as a swept key; expected it to be left out" in fault("{EXPERIMENT}\nsearch:\n  - " + block)

    def test_no_rule_names_it(self, fault: Callable[[str], str]) -> None:
        block = "grid: {train.lr: [0.1]}\n    exclude: [{code: a}]"
        assert "got unknown key 'code'" in fault("{EXPERIMENT}\nsearch:\n  - " + block)

    def test_its_name_needs_no_config(self, sweep: SimulatedSweep) -> None:
        """A stored source may know keys that the present one does not."""
        file = sweep.folder / "other.yaml"
        file.write_text("experiment: {task: unheard, of: 3}\n")
        assert spec_name(file) == "other"
        assert spec_name(file, ["name=another"]) == "another"
