"""`runner.py predict`: which trial, which files, what is printed, what is refused."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import runner
from experiments.errors import UserError
from experiments.executors.base import AttemptError
from experiments.failures import FailureKind
from experiments.predict import Options, _follow, _with_pictures, predict
from experiments.prediction_process import Predicted, _predicted
from experiments.spec import load_spec
from experiments.store import StoredTrial, SweepStore, TrialResult, write_result
from experiments.trial import TrialState
from wsol import checkpoint
from wsol.build import build_model
from wsol.data import digits

SPEC = """\
experiment:
  task: wsddn
  data: {root: DATA}
  proposals: {source: grid, count: 20, min_size_px: 4}
  model: {backbone: tiny, weights: none, fc_dim: 16, roi_size: 3}
  train: {epochs: 1, scales_px: [64]}
search:
  - grid: {train.lr: [0.1, 0.2, 0.3, 0.4]}
"""
VALUES = {0: 0.2, 1: 0.6, 2: 0.9}
"""Trial 2 has the best value but failed; trial 3 has no result; trial 0 has no checkpoint."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a spec, and the results of four trials of models with random weights."""
    folder = tmp_path_factory.mktemp("sweep")
    digits.generate(folder / "data", seed=0, train=10, val=1, test=0, image_px=64)
    (folder / "mine.yaml").write_text(SPEC.replace("DATA", str(folder / "data")))
    _fill(folder, "mine.yaml")
    file_spec = (folder / "mine.yaml").read_text().replace("grid, count", f"file, file: {folder}/boxes.npz, count")
    (folder / "file.yaml").write_text(file_spec)
    box = np.array([[0, 0, 9, 9]], np.float32)
    np.savez(folder / "boxes.npz", ids=np.array(["other"]), offsets=np.array([0, 1]), boxes=box)
    _fill(folder, "file.yaml")
    for name in ("a", "b"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "a" / "photo.png")
    Image.fromarray(rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)).save(folder / "b" / "photo.jpg")
    return folder


def _fill(folder: Path, spec_file: str) -> None:
    spec = load_spec(folder / spec_file)
    store = SweepStore(folder / "results" / spec.name)
    for number, plan in enumerate(spec.plans):
        trial = store.create_trial(number, plan.signature, plan.config.model_dump(mode="json"))
        if number > 0:
            model = build_model(plan.config, num_classes=10)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1 + number)
            checkpoint.save(trial.paths.checkpoint, {"model": model.state_dict()}, number=1)
        if number in VALUES:
            _write_result(trial, VALUES[number], TrialState.FAIL if number == 2 else TrialState.COMPLETE)


def _write_result(trial: StoredTrial, value: float, state: TrialState) -> None:
    result = TrialResult(
        signature=trial.signature,
        state=state,
        stop_reason="" if state is TrialState.COMPLETE else "error",
        attempts=1,
        metrics={"ap50_11pt/mean": value},
        epochs=1,
        duration_s=1.0,
    )
    write_result(trial.paths, result)


def run(
    sweep: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.chdir(sweep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    status = runner.main(["predict", *arguments])
    output, errors = capfd.readouterr()
    return status, output, errors


def test_the_best_complete_trial_looks_at_two_images_of_one_name(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    images = ["a/photo.png", "b/photo.jpg"]
    status, output, errors = run(sweep, "mine.yaml", *images, monkeypatch=monkeypatch, capfd=capfd)
    assert (status, errors.splitlines()[-1].partition(",")[0]) == (0, "trial 1 of sweep mine")
    documents = json.loads(output)
    assert [document["image"] for document in documents] == images
    assert [document["picture"] for document in documents] == [
        f"results/mine/predictions/trial-1-photo{suffix}.png" for suffix in ("", "-2")
    ]
    for document, size in zip(documents, [(64, 64), (80, 40)], strict=True):
        assert list(document) == ["image", "trial", "picture", "class_scores", "detections"]
        assert document["trial"] == 1
        assert list(document["class_scores"]) == [f"digit_{digit}" for digit in range(10)]
        scores = [detection["score"] for detection in document["detections"]]
        assert scores == sorted(scores, reverse=True) != []
        for detection in document["detections"]:
            x1, y1, x2, y2 = detection["box"]
            assert 0 <= x1 < x2 <= size[0]
            assert 0 <= y1 < y2 <= size[1]
            assert [round(corner, 2) for corner in detection["box"]] == detection["box"]
        with Image.open(sweep / document["picture"]) as picture:
            assert picture.format == "PNG"
            assert picture.width > 4 * 240, "the boxes, and maps of three classes"


def test_a_trial_by_number_into_another_folder(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    arguments = ["mine.yaml", "a/photo.png", "--trial", "3", "--out", str(out), "--top", "1"]
    status, output, _ = run(sweep, *arguments, monkeypatch=monkeypatch, capfd=capfd)
    assert status == 0
    (document,) = json.loads(output)
    assert document["trial"] == 3
    assert [str(path) for path in out.iterdir()] == [document["picture"]]
    with Image.open(document["picture"]) as picture:
        assert 2 * 240 < picture.width < 3 * 240, "the boxes, and the map of one class"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["mine.yaml", "a/photo.png", "absent.jpg"],
            r"got 'No such file or directory' for absent\.jpg; expected an im",
        ),
        (["mine.yaml", "mine.yaml"], r"got a damaged or unreadable image in mine\.yaml"),
        (["mine.yaml", "a/photo.png", "--trial", "7"], r"got 7 for --trial; expected .*results/mine: 0, 1, 2, 3$"),
        (["mine.yaml", "a/photo.png", "--trial", "0"], r"got no checkpoint in .*/checkpoint; expected a trial that tr"),
        (["file.yaml", "a/photo.png"], r"got image id 'photo', which .*boxes\.npz lacks; expected one of its 1 ids"),
        (
            ["mine.yaml", "a/photo.png", "--results", "x"],
            r"got no complete trial of mine\.yaml in x/mine; expected one",
        ),
        (["mine.yaml", "a/photo.png", "--out", "mine.yaml"], r"got 'File exists' for mine\.yaml; expected a folder"),
        (["absent.yaml", "a/photo.png"], r"absent\.yaml"),
    ],
    ids=["missing", "no image", "no such trial", "no checkpoint", "no proposals", "nothing complete", "out", "spec"],
)
def test_faults_of_the_user(
    arguments: list[str],
    message: str,
    sweep: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One message, exit status 2, nothing on standard output."""
    status, output, errors = run(sweep, *arguments, monkeypatch=monkeypatch, capfd=capfd)
    assert (status, output) == (2, "")
    (line,) = [line for line in errors.splitlines() if not line.startswith("trial ")]
    assert line.startswith("error: ")
    assert re.search(message, line), line


def test_a_config_of_another_version(sweep: Path, tmp_path: Path) -> None:
    spec = load_spec(sweep / "mine.yaml")
    SweepStore(tmp_path / "mine").create_trial(0, spec.plans[0].signature, {"task": "wsddn", "new": 1})
    with pytest.raises(UserError, match=r"config\.json that this version cannot use: data: Field required"):
        predict(sweep / "mine.yaml", [sweep / "a" / "photo.png"], Options(results=tmp_path, trial=0))


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["x/a.jpg", "y/a.png", "a.jpg"], ["a", "a-2", "a-3"]),
        (["a.jpg", "a-2.jpg", "b/a.jpg"], ["a", "a-2", "a-3"]),
        (["A.jpg", "a.jpg"], ["A", "a-2"]),
        (["a.b.jpg", "a.jpg"], ["a.b", "a"]),
    ],
)
def test_no_picture_overwrites_another(images: list[str], names: list[str]) -> None:
    trial: Any = SimpleNamespace(number=3)
    paired = list(_with_pictures([Path(image) for image in images], folder=Path("out"), trial=trial))
    assert paired == [(Path(i), Path(f"out/trial-3-{n}.png")) for i, n in zip(images, names, strict=True)]


def followed(messages: Sequence[object], *, exit_code: int = 0) -> list[Any]:
    """What is gathered when the process sends `messages` and ends."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    for message in messages:
        theirs.send(message)
    theirs.close()
    process: Any = SimpleNamespace(join=lambda: None, exitcode=exit_code)
    with ours:
        return list(_follow(process, ours))


class TestMessages:
    def test_warnings_go_to_standard_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = Predicted(class_scores={"cat": None}, detections=[])
        assert followed(["old file", found]) == [{"class_scores": {"cat": None}, "detections": []}]
        assert capsys.readouterr() == ("", "warning: old file\n")

    @pytest.mark.parametrize("name", ["DataError", "CheckpointError", "WeightsError"])
    def test_a_fault_of_the_files_is_the_users(self, name: str) -> None:
        error = AttemptError(kind=FailureKind.DATA, message=f"{name}: got x: y", details="Traceback")
        with pytest.raises(UserError, match=r"^got x: y$"):
            followed([error])

    def test_any_other_fault_comes_with_its_traceback(self) -> None:
        error = AttemptError(kind=FailureKind.ERROR, message="KeyError: 'x'", details="Traceback of it")
        with pytest.raises(RuntimeError, match="prediction failed:\nTraceback of it"):
            followed([error])

    @pytest.mark.parametrize("exit_code", [1, -9])
    def test_a_process_that_ends_without_a_word(self, exit_code: int) -> None:
        with pytest.raises(RuntimeError, match=f"ended with status {exit_code}$"):
            followed([], exit_code=exit_code)


def test_infinite_scores_are_null() -> None:
    from wsol.boxes import Detections
    from wsol.prediction import FoundInImage

    found = FoundInImage(
        class_scores=np.array([-np.inf, 0.5], np.float32),
        detections=Detections(
            boxes=np.array([[0.004, 1.006, 2.5, 3.333]], np.float32),
            scores=np.array([0.25], np.float32),
            labels=np.array([1]),
        ),
        heat_maps={},
    )
    sent = _predicted(found, ["cat", "dog"])
    assert sent.class_scores == {"cat": None, "dog": 0.5}
    assert sent.detections == [{"class": "dog", "score": 0.25, "box": [0.0, 1.01, 2.5, 3.33]}]
