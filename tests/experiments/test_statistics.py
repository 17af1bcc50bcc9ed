"""The statistics of sweeps as their folders have them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finished_sweep import Size, make

from experiments.report.entries import Entry, entries
from experiments.report.match_records import NoRecords, RecordReader, TrialRecord
from experiments.report.resampling import Resampling
from experiments.report.statistics import Interval, SweepStatistics, statistics_of, sweep_statistics
from experiments.spec import SweepSpec, load_spec
from experiments.store import SweepStore, TrialResult
from experiments.trial import TrialState

Load = Callable[[str], SweepSpec]
RESAMPLING = Resampling(resamples=60, splits=4)
GRID = "name: sweep\n{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [%s]}\nseeds: %d\n"
Metrics = dict[str, float | None]


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(tmp_path / "results")


def no_record(_: Entry) -> TrialRecord:
    raise NoRecords("there is no detections.npz")


def done(store: SweepStore, spec: SweepSpec, *values: float | None | TrialState | Metrics) -> list[Entry]:
    """Trials in the order of the spec; a number is the mean of a complete one."""
    found = []
    for number, (plan, value) in enumerate(zip(spec.plans, values, strict=True)):
        state = value if isinstance(value, TrialState) else TrialState.COMPLETE
        if isinstance(value, dict):
            metrics = value
        else:
            metrics = {} if isinstance(value, TrialState) else {"ap50_11pt/mean": value}
        result = TrialResult(plan.signature, state, "", 1, metrics, 3, 1.0)
        trial = store.create_trial(number, plan.signature, {})
        found.append(Entry(plan, trial, None if state is TrialState.RUNNING else result))
    return found


def seeds_alone(spec: SweepSpec, found: Sequence[Entry]) -> SweepStatistics:
    return statistics_of(spec, found, read=no_record, resampling=RESAMPLING)


class TestConfigurations:
    def test_best_first(self, load: Load, store: SweepStore) -> None:
        spec = load(GRID % ("0.1, 0.2, 0.3", 2))
        found = seeds_alone(spec, done(store, spec, 0.1, 0.2, 0.5, 0.6, 0.3, 0.3))
        assert [dict(one.swept) for one in found.configurations] == [{"train.lr": v} for v in (0.2, 0.3, 0.1)]
        assert [one.trials for one in found.configurations] == [(2, 3), (4, 5), (0, 1)]
        assert [one.values for one in found.configurations] == [(0.5, 0.6), (0.3, 0.3), (0.1, 0.2)]
        assert [one.seeds for one in found.configurations] == [2, 2, 2]
        assert found.best is found.configurations[0]
        assert found.best.key == spec.plans[2].configuration
        assert (found.metric, found.direction, found.split) == ("ap50_11pt/mean", "maximize", "val")
        assert found.best.mean == found.best.objective
        assert found.best.value == pytest.approx(0.55)

    def test_where_less_is_better(self, load: Load, store: SweepStore) -> None:
        spec = load(GRID % ("0.1, 0.2", 3) + "objective: {metric: ap50_11pt/mean, direction: minimize}\n")
        found = seeds_alone(spec, done(store, spec, 0.5, 0.51, 0.52, 0.1, 0.11, 0.12))
        assert found.best is not None
        assert found.best.trials == (3, 4, 5)
        assert found.comparisons[0].difference.estimate == pytest.approx(0.4)
        assert found.comparisons[0].difference.low > 0
        assert not found.comparisons[0].tied

    def test_a_class_may_be_the_objective(self, load: Load, store: SweepStore) -> None:
        spec = load(GRID % ("0.1, 0.2", 2) + "objective: {metric: ap50_11pt/cat}\n")
        metrics: list[Metrics] = [
            {"ap50_11pt/cat": cat, "ap50_11pt/dog": None, "ap50_11pt/mean": mean}
            for cat, mean in ((0.1, 0.9), (0.2, 0.9), (0.3, 0.4), (0.4, 0.5))
        ]
        found = seeds_alone(spec, done(store, spec, *metrics))
        assert found.best is not None
        assert found.best.values == (0.3, 0.4)
        assert found.best.objective is not None
        assert found.best.objective.estimate == pytest.approx(0.35)
        assert found.best.mean is not None
        assert found.best.mean.estimate == pytest.approx(0.45)
        assert found.best.per_class["dog"] is None
        assert found.choice is None

    @pytest.mark.parametrize(
        ("values", "warning"),
        [
            ((0.1, TrialState.FAIL), "left out: 1 configuration with a failed trial"),
            ((TrialState.PRUNED, TrialState.PRUNED), "left out: 1 configuration that was pruned"),
            ((0.1, TrialState.RUNNING), "left out: 1 configuration of which not all seeds are complete"),
            ((0.1, None), "left out: 1 configuration without ap50_11pt/mean"),
        ],
    )
    def test_that_are_not_complete_are_left_out_and_counted(
        self, load: Load, store: SweepStore, values: tuple[float | TrialState | None, ...], warning: str
    ) -> None:
        spec = load(GRID % ("0.1, 0.2", 2))
        found = seeds_alone(spec, done(store, spec, *values, 0.2, 0.3))
        assert [one.trials for one in found.configurations] == [(2, 3)]
        assert warning in found.warnings

    def test_of_the_final_stage_do_not_count(self, load: Load, store: SweepStore) -> None:
        spec = load(GRID % ("0.1", 2) + "final: {train: trainval, eval: test, seeds: 1}\n")
        found = done(store, spec, 0.2, 0.3)
        final = [
            Entry(plan, store.create_trial(9, plan.signature, {}), replace(found[0].result, metrics={}))  # type: ignore[type-var]
            for plan in spec.final_plans(spec.plans[0])
        ]
        assert seeds_alone(spec, [*found, *final]) == seeds_alone(spec, found)

    def test_none(self, load: Load, store: SweepStore) -> None:
        spec = load(GRID % ("0.1", 1))
        for given in ([], done(store, spec, TrialState.FAIL)):
            found = seeds_alone(spec, given)
            assert (found.best, found.configurations, found.tied) == (None, (), ())
            assert found.sentence == "No configuration is complete yet."


class TestTies:
    def test_are_named_best_first(self, load: Load, store: SweepStore) -> None:
        spec = load(GRID % ("0.1, 0.2, 0.3", 3))
        found = seeds_alone(spec, done(store, spec, 0.50, 0.51, 0.52, 0.1, 0.11, 0.12, 0.495, 0.505, 0.515))
        keys = [spec.plans[index].configuration for index in (0, 6, 3)]
        assert list(found.tied) == keys[:2]
        assert [(one.key, one.tied) for one in found.comparisons] == [(keys[1], True), (keys[2], False)]
        assert found.sentence == (
            "lr=0.1 is best: ap50_11pt/mean 0.5100 (95 % 0.4959 to 0.5241, 3 seeds, on val); better than 1 other; tied"
            " with lr=0.3."
        )

    def test_with_too_few_seeds_say_how_many_it_would_take(self, load: Load, store: SweepStore) -> None:
        spec = load(GRID % ("0.1, 0.2", 2))
        found = seeds_alone(spec, done(store, spec, 0.50, 0.51, 0.49, 0.50))
        assert (
            "2 seeds are too few to tell lr=0.1 from lr=0.2: about 4 would be needed if they differ as they seem to"
            in (found.warnings)
        )

    def test_of_equal_values(self, load: Load, store: SweepStore) -> None:
        spec = load(GRID % ("0.1, 0.2", 2))
        found = seeds_alone(spec, done(store, spec, 0.5, 0.5, 0.5, 0.5))
        assert len(found.tied) == 2
        assert any("more would not be enough" in warning for warning in found.warnings)

    def test_one_seed_cannot_tell(self, load: Load, store: SweepStore) -> None:
        spec = load(GRID % ("0.1, 0.2", 1))
        found = seeds_alone(spec, done(store, spec, 0.5, 0.1))
        assert found.comparisons[0].tied
        assert found.comparisons[0].p_value == 1
        assert found.best is not None
        assert found.best.objective is None
        assert found.sentence == (
            "lr=0.1 is best: ap50_11pt/mean 0.5000 (one seed, on val); whether it is better than the 1 other cannot be"
            " told."
        )
        assert found.warnings[-1] == (
            "too few seeds to say how much of a difference is chance: 2 configurations have one seed (seeds: 3, or"
            " more)"
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make(folder, Size(rates=4, decays=1, seeds=3, images=30, classes=3, detections_per_image=8))
    return folder


class TestFolder:
    """With images resampled."""

    @pytest.fixture
    def read(self, made: Path, tmp_path: Path) -> Callable[[], SweepStatistics]:
        """The sweep's results are a copy that may be broken; the data stay."""
        shutil.copytree(made / "results", tmp_path / "results")
        spec = load_spec(made / "sweep.yaml")
        store = SweepStore(tmp_path / "results" / "sweep")
        return lambda: sweep_statistics(spec, entries(spec, store), resampling=RESAMPLING)

    def test_nothing_is_warned_of_but_seeds(self, read: Callable[[], SweepStatistics]) -> None:
        found = read()
        assert len(found.configurations) == 4
        assert all("seeds are too few" in warning for warning in found.warnings)
        for one in found.configurations:
            assert one.mean is not None
            assert 0 <= one.mean.low < one.mean.estimate < one.mean.high <= 1
            assert one.mean.estimate == pytest.approx(one.value)
            assert one.per_class.keys() == {"aeroplane", "bicycle", "bird"}
            assert all(isinstance(interval, Interval) for interval in one.per_class.values())

    def test_the_choice_per_class(self, read: Callable[[], SweepStatistics]) -> None:
        found = read()
        assert found.choice is not None
        assert found.choice.best.keys() == {"aeroplane", "bicycle", "bird"}
        for name, keys in found.choice.best.items():
            of_class = {one.key: one.per_class[name] for one in found.configurations}
            estimates = [interval.estimate for key in keys if (interval := of_class[key]) is not None]
            assert estimates == sorted(estimates, reverse=True)
            assert estimates[0] == max(one.estimate for one in of_class.values() if one is not None)
        assert found.choice.gain is not None
        assert f"{found.choice.gain.low:.4f} to {found.choice.gain.high:.4f}" in found.choice.note

    def test_a_class_that_no_image_shows_has_no_figures(self, made: Path) -> None:
        spec = load_spec(made / "sweep.yaml")
        found = entries(spec, SweepStore(made / "results" / "sweep"))
        reader = RecordReader("ap50_11pt", RESAMPLING)

        def without_birds(entry: Entry) -> Entry:
            assert entry.result is not None
            kept = {name: None if name.endswith("/bird") else value for name, value in entry.result.metrics.items()}
            others = [value for name, value in kept.items() if re.fullmatch("ap50_11pt/(aeroplane|bicycle)", name)]
            kept["ap50_11pt/mean"] = float(np.mean(np.array(others, np.float64)))
            return replace(entry, result=replace(entry.result, metrics=kept))

        def read(entry: Entry) -> TrialRecord:
            record = reader.read(entry)
            missing = np.array(record.classes) == "bird"
            values = np.where(missing, np.nan, record.values)
            resampled = np.where(missing[:, None], np.float32(np.nan), record.resampled)
            return replace(record, values=values, resampled=resampled, shown=np.where(missing, 0, record.shown))

        statistics = statistics_of(spec, [without_birds(entry) for entry in found], read=read, resampling=RESAMPLING)
        assert not any("images:" in warning for warning in statistics.warnings), "they were resampled"
        for one in statistics.configurations:
            assert one.per_class["bird"] is None
            assert one.per_class["bicycle"] is not None
            assert one.mean is not None
            assert one.mean.low < one.mean.estimate < one.mean.high

    def test_the_same_files_give_the_same_figures(self, read: Callable[[], SweepStatistics]) -> None:
        assert read() == read()

    def test_a_trial_without_detections_takes_the_images_from_all(
        self, read: Callable[[], SweepStatistics], tmp_path: Path
    ) -> None:
        with_images = read()
        for name in sorted(os.listdir(tmp_path / "results/sweep/trials"))[5:7]:
            (tmp_path / "results/sweep/trials" / name / "detections.npz").unlink()
        found = read()
        assert "the intervals cover seeds alone, not images: there is no detections.npz (trial 5 and 1 more)" in (
            found.warnings
        )
        assert found.choice is not None
        assert found.choice.gain is None
        assert [one.values for one in found.configurations] == [one.values for one in with_images.configurations]

    def test_intervals_cover_images_too(self, read: Callable[[], SweepStatistics], tmp_path: Path) -> None:
        with_images = read()
        for record in (tmp_path / "results/sweep/trials").glob("*/resampled-*.npz"):
            record.unlink()
        for name in os.listdir(tmp_path / "results/sweep/trials"):
            (tmp_path / "results/sweep/trials" / name / "detections.npz").unlink()
        without = read()
        widths = [
            np.mean([one.mean.high - one.mean.low for one in found.configurations if one.mean is not None])
            for found in (with_images, without)
        ]
        assert widths[0] > widths[1]


def test_trials_on_different_images_are_compared_by_seeds_alone(load: Load, store: SweepStore) -> None:
    spec = load("{EXPERIMENT}\nsearch:\n  - grid: {data.eval: [val, test]}\nseeds: 2\n")
    found = seeds_alone(spec, done(store, spec, 0.1, 0.2, 0.5, 0.6))
    assert found.split == "test + val"
    assert (
        "the intervals cover seeds alone, not images: the trials are measured on different images (test and val)"
        in found.warnings
    )
