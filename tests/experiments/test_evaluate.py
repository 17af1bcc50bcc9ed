"""Metrics of finished trials, computed again. Nothing is trained here: the trials' files are made by hand."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.errors import SpecError, UserError
from experiments.evaluate import EvaluateOptions, evaluate
from experiments.spec import load_spec
from experiments.store import StoredTrial, SweepStore, TrialResult, write_result
from experiments.trial import TrialState
from wsol.boxes import Detections
from wsol.data.digits import generate
from wsol.data.voc import EvaluationSplit, read_evaluation_split
from wsol.detections import HeatMaps, SplitDetections, measure, save_detections

CLASSES = ("digit_0", "digit_1", "digit_2")

SPEC = """\
name: tiny
experiment:
  task: localizer
  data: {root: data, classes: [digit_0, digit_1, digit_2]}
  model: {backbone: tiny, weights: none}
search:
  - grid: {train.lr: [0.1, 0.2, 0.3]}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    generate(folder, seed=0, train=4, val=12, test=1, image_px=48)
    return folder


@pytest.fixture
def folder(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a data set and a spec."""
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def split(folder: Path) -> EvaluationSplit:
    return read_evaluation_split(folder / "data", split="val", classes=CLASSES)


def found(split: EvaluationSplit, *, moved_px: float) -> SplitDetections:
    """Every object, so many pixels to the right of where it is; better scores where the class is."""
    count = len(split.images)
    shift = np.array([moved_px, 0, moved_px, 0], np.float32)
    top = np.full((count, len(CLASSES), 4), np.nan, np.float32)
    for image, truth in enumerate(split.ground_truth):
        top[image, truth.labels] = truth.boxes + shift
    pairs = np.argwhere(split.labels != -1)
    return SplitDetections(
        image_ids=tuple(record.id for record in split.images),
        classes=CLASSES,
        detections=tuple(
            Detections(boxes=truth.boxes + shift, scores=np.ones(len(truth.labels), np.float32), labels=truth.labels)
            for truth in split.ground_truth
        ),
        class_scores=split.labels.astype(np.float32),
        points=(top[:, :, :2] + top[:, :, 2:]) / 2,
        top_boxes=top,
        heat_maps=HeatMaps(np.zeros((len(pairs), 64, 64), np.float16), pairs[:, 0], pairs[:, 1]),
    )


def store_trial(number: int, *, state: TrialState = TrialState.COMPLETE) -> StoredTrial:
    """A trial of the spec that has ended, with metrics that are not those of its detections."""
    plan = load_spec(Path("tiny.yaml")).plans[number]
    trial = SweepStore(Path("results/tiny")).create_trial(number, plan.signature, {})
    metrics = {"cls_ap/mean": 0.123, "cls_ap/digit_0": 0.123}
    write_result(
        trial.paths,
        TrialResult(
            signature=plan.signature,
            state=state,
            stop_reason="" if state is TrialState.COMPLETE else "killed",
            attempts=1,
            metrics=metrics,
            epochs=1,
            duration_s=2.0,
        ),
    )
    return trial


@pytest.fixture
def trials(split: EvaluationSplit) -> list[StoredTrial]:
    """Trial 0 finds objects 6 pixels beside where they are, trial 1 finds them exactly, trial 2 never ran."""
    stored = []
    for number, moved_px in enumerate((6.0, 0.0)):
        stored.append(store_trial(number))
        save_detections(stored[-1].paths.detections, found(split, moved_px=moved_px))
    return stored


def rows(text: str) -> list[list[str]]:
    """The rows of the bodies of printed tables."""
    return [
        [cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines() if line.startswith("│")
    ]


def run(*metrics: str, results: Path = Path("results"), file: Path | None = None) -> int:
    return evaluate(Path("tiny.yaml"), EvaluateOptions(results=results, metrics=metrics, csv=file))


Printed = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("trials")
def test_the_best_by_the_first_metric_comes_first(split: EvaluationSplit, capsys: Printed) -> None:
    assert run("ap90_area", "corloc30", "ap90_area") == 0
    table, _, per_class = capsys.readouterr().out.partition("tiny: ap90_area per class (on split val)")
    values = [measure(found(split, moved_px=px), split, metrics=["ap90_area", "corloc30"]) for px in (6.0, 0.0)]
    moved, exact = ([f"{of_trial[f'{name}/mean']:.4f}" for name in ("ap90_area", "corloc30")] for of_trial in values)
    assert exact[0] == "1.0000"
    assert moved[0] == "0.0000"
    assert rows(table) == [["1", "0.2", *exact, "2 s"], ["0", "0.1", *moved, "2 s"]]
    assert re.search(r"trial +┃ +lr ┃ ap90_area ┃ corloc30 ┃", table)
    assert rows(per_class) == [[name, "1.0000", "0.0000"] for name in (*CLASSES, "mean")]
    assert "2 of 3 trials measured, 2 are complete" in per_class


def test_the_objectives_metric_unless_told_otherwise(
    trials: list[StoredTrial], split: EvaluationSplit, folder: Path, capsys: Printed
) -> None:
    save_detections(trials[0].paths.detections, found(split, moved_px=40.0))
    assert run() == 0
    assert "tiny: cls_ap per class" in capsys.readouterr().out
    minimized = SPEC + "objective: {metric: ap50_area/digit_0, direction: minimize}\n"
    (folder / "tiny.yaml").write_text(minimized)
    assert run() == 0
    text = capsys.readouterr().out
    assert "tiny: ap50_area per class" in text
    assert [row[0] for row in rows(text)[:2]] == ["0", "1"]
    assert run("ap80_area") == 0
    assert [row[0] for row in rows(capsys.readouterr().out)[:2]] == ["1", "0"]


@pytest.mark.usefixtures("trials")
def test_what_is_shown_is_measured_not_read(capsys: Printed) -> None:
    assert run("cls_ap") == 0
    assert "0.123" not in capsys.readouterr().out


def test_csv(trials: list[StoredTrial], folder: Path, capsys: Printed) -> None:
    before = {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}
    assert run("ap90_11pt", "cls_ap", file=Path("out.csv")) == 0
    with Path("out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["trial", "signature", "split", "class", "ap90_11pt", "cls_ap"]
    assert [(row["trial"], row["class"]) for row in table] == [(trial, name) for trial in "10" for name in CLASSES]
    assert {row["signature"] for row in table} == {trial.signature[:8] for trial in trials}
    assert [float(row["ap90_11pt"]) for row in table] == [1.0] * 3 + [0.0] * 3
    assert {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()} == before
    with pytest.raises(UserError, match=r"^data: cannot be written: Is a directory$"):
        run("cls_ap", file=Path("data"))


@pytest.mark.usefixtures("folder")
class TestTrialsThatCannotBeMeasured:
    def test_without_detections(self, trials: list[StoredTrial], capsys: Printed) -> None:
        trials[1].paths.detections.unlink()
        assert run("corloc50") == 1
        text = capsys.readouterr().out
        assert f"trial 1: no detections.npz in {trials[1].paths.folder}\n" in text
        assert [row[0] for row in rows(text)] == ["0", *CLASSES, "mean"]
        assert "1 of 3 trials measured, 2 are complete" in text

    def test_damaged(self, trials: list[StoredTrial], capsys: Printed) -> None:
        for trial in trials:
            trial.paths.detections.write_bytes(b"nothing")
        assert run("corloc50") == 1
        text = capsys.readouterr().out
        assert "trial 0: got results/tiny/trials/" in text
        assert "which does not hold the detections of a split" in text
        assert "0 of 3 trials measured, 2 are complete" in text

    def test_of_before_there_were_heat_maps(
        self, trials: list[StoredTrial], split: EvaluationSplit, capsys: Printed
    ) -> None:
        old = dataclasses.replace(found(split, moved_px=0.0), heat_maps=None)
        save_detections(trials[0].paths.detections, old)
        assert run("maxboxacc_v2") == 1
        assert "trial 0: got detections without heat maps, which maxboxacc_v2 needs" in capsys.readouterr().out
        assert run("corloc50") == 0

    @pytest.mark.usefixtures("trials")
    def test_whose_images_changed(self, folder: Path, split: EvaluationSplit, capsys: Printed) -> None:
        listed = folder / "data" / "ImageSets" / "Main" / "val.txt"
        first, *others = listed.read_text().splitlines()
        listed.write_text("\n".join(others) + "\n")
        assert run("cls_ap") == 1
        text = capsys.readouterr().out
        for number in (0, 1):
            expected = (
                f"trial {number}: got detections of 12 images, '{first}' among them; expected the 11 of split val"
            )
            assert expected in text

    def test_that_are_not_complete(self, split: EvaluationSplit, capsys: Printed) -> None:
        failed = store_trial(2, state=TrialState.FAIL)
        save_detections(failed.paths.detections, found(split, moved_px=0.0))
        assert run("cls_ap") == 1
        assert capsys.readouterr().out == "no trial of tiny is complete in results/tiny\n"
        store_trial(0)
        assert run("cls_ap") == 1
        assert "0 of 3 trials measured, 1 are complete" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_mended_annotations_count(trials: list[StoredTrial], folder: Path, capsys: Printed) -> None:
    """That is what the command is for, among other things."""
    run("ap90_area")
    before = capsys.readouterr().out
    for path in (folder / "data" / "Annotations").glob("*.xml"):
        shifted = re.sub(r"<(xm\w+)>(\d+)<", lambda m: f"<{m[1]}>{int(m[2]) + 6}<", path.read_text())
        path.write_text(shifted)
    assert run("ap90_area") == 0
    assert [row[0] for row in rows(before)[:2]] == ["1", "0"]
    assert [row[0] for row in rows(capsys.readouterr().out)[:2]] == ["0", "1"]


@pytest.mark.usefixtures("trials")
def test_another_results_folder(folder: Path, capsys: Printed) -> None:
    (folder / "results").rename(folder / "elsewhere")
    assert run("cls_ap", results=Path("elsewhere")) == 0
    assert run("cls_ap") == 1


class TestFaults:
    @pytest.mark.parametrize(
        ("metric", "message"),
        [
            ("ap30", r"^got 'ap30' for --metric; expected ap<NN>_11pt, .*; did you mean ap30_area\?$"),
            ("cls_ap/mean", r"^got 'cls_ap/mean' for --metric; .*did you mean cls_ap\?$"),
            (
                "proposal_recall50",
                "^got proposal_recall50 for --metric; expected a metric of task localizer: only trials of task wsddn "
                "can be measured by it$",
            ),
        ],
    )
    @pytest.mark.usefixtures("trials")
    def test_of_the_metric(self, metric: str, message: str, capsys: Printed) -> None:
        with pytest.raises(UserError, match=message):
            run("cls_ap", metric)
        assert capsys.readouterr().out == ""

    def test_of_the_spec(self, folder: Path) -> None:
        (folder / "tiny.yaml").write_text(SPEC.replace("epochs", "epoch").replace("train.lr", "train.rl"))
        with pytest.raises(SpecError, match=r"did you mean train\.lr\?"):
            run()

    @pytest.mark.usefixtures("trials")
    def test_of_the_data(self, folder: Path) -> None:
        shutil.rmtree(folder / "data")
        with pytest.raises(UserError, match="data"):
            run("cls_ap")


def test_a_sweep_of_both_tasks(folder: Path, split: EvaluationSplit, capsys: Printed) -> None:
    """A metric of one task is left out for the trials of the other."""
    source = "{values: [grid], when: {task: wsddn}}"
    grid = f"  - grid: {{task: [localizer, wsddn], proposals.source: {source}}}\n"
    (folder / "tiny.yaml").write_text(SPEC.partition("  - grid")[0] + grid)
    detections = found(split, moved_px=0.0)
    objects = sum(len(truth.labels) for truth in split.ground_truth)
    overlap = np.ones(objects, np.float32)
    for number, own in enumerate(({}, {"heat_maps": None, "proposal_overlap": overlap})):
        save_detections(store_trial(number).paths.detections, dataclasses.replace(detections, **own))
    assert run("proposal_recall50", "cls_ap") == 0
    table, _, _ = capsys.readouterr().out.partition("per class")
    assert [row[0] for row in rows(table)] == ["1", "0"]
    assert [row[3] for row in rows(table)] == ["1.0000", "-"]
