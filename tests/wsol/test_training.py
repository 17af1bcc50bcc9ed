"""Training: it learns, it sees no boxes, and it goes on after any stop as if there had been none."""

from __future__ import annotations

import dataclasses
import random
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor, nn

from wsol import checkpoint, training
from wsol.build import build_data, build_plan
from wsol.checkpoint import CheckpointError
from wsol.config import ExperimentConfig
from wsol.data import digits
from wsol.data.batch import ImageBatch
from wsol.data.voc import read_image_level_split
from wsol.detections import measure
from wsol.evaluation import NonFinitePredictionError
from wsol.models.detector import ImagePrediction
from wsol.models.wsddn import Wsddn
from wsol.training import EpochRecord, FitResult, Interrupted, NonFiniteLossError, Watch, fit

CLASSES = ("digit_0", "digit_1", "digit_2")
TASKS = ["wsddn", "localizer"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 6 evaluation images of 64 px."""
    folder = tmp_path_factory.mktemp("digits") / "data"
    digits.generate(folder, seed=0, train=12, val=6, test=0, image_px=64)
    return folder


def _config(root: Path, task: str = "wsddn", **changes: Any) -> ExperimentConfig:
    """A small trial with everything random in it: order, flip, scales, a subset of the proposals, dropout.

    `changes` are dotted keys with `__` for the dot.
    """
    values: dict[str, Any] = {
        "task": task,
        "data": {"root": str(root), "classes": CLASSES},
        "proposals": {"source": "grid", "count": 12, "min_size_px": 10},
        "model": {"backbone": "tiny", "weights": "none", "roi_size": 3, "fc_dim": 16, "hidden_channels": 8},
        "train": {"epochs": 4, "lr": 0.01, "lr_milestones": (2,), "batch_size": 5, "scales_px": (48, 56, 64)},
        "evaluate": {"every": 3, "batch_size": 4},
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return ExperimentConfig.model_validate(values)


@dataclass
class Attempts:
    """Calls `fit` on one folder and keeps records like a file that outlives each attempt."""

    folder: Path
    rows: list[EpochRecord] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)

    def run(
        self,
        config: ExperimentConfig,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
        device: str = "cpu",
        images_at_a_time: int | None = None,
        rehearse: int = 0,
        threads: int = 1,
        memory_bytes: int | None = None,
        **looks_on: Callable[..., None],
    ) -> FitResult:
        def keep(record: EpochRecord) -> None:
            self.rows.append(record)
            on_epoch(record)

        return fit(
            config,
            checkpoint_dir=self.folder,
            device=torch.device(device),
            on_epoch=keep,
            watch=Watch(should_stop, **looks_on),
            on_resume=self._cut,
            threads=threads,
            images_at_a_time=images_at_a_time,
            rehearse=rehearse,
            memory_bytes=memory_bytes,
        )

    def state(self) -> dict[str, Any]:
        state = checkpoint.load_latest(self.folder)
        assert state is not None
        return state

    def _cut(self, epochs: int) -> None:
        self.resumed_at.append(epochs)
        del self.rows[epochs:]


def _after(calls: int) -> Callable[[], bool]:
    """False so often, then True."""
    answers = iter([False] * calls)
    return lambda: next(answers, True)


def _bits(value: Any) -> Any:
    """Something that compares bit by bit (NaN equals NaN)."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if dataclasses.is_dataclass(value):
        return {f.name: _bits(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "duration_s"}
    if isinstance(value, dict):
        return {key: _bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bits(item) for item in value]
    return value


def _everything(attempts: Attempts, result: FitResult) -> dict[str, Any]:
    found = (result.metrics, result.detections)  # the split lies elsewhere in some tests
    return {"state": _bits(attempts.state()), "rows": _bits(attempts.rows), "result": _bits(found)}


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the trial of each task leaves when nothing stops it."""
    left = {}
    for task in TASKS:
        attempts = Attempts(tmp_path_factory.mktemp(task))
        left[task] = _everything(attempts, attempts.run(_config(root, task)))
    return left


@pytest.mark.parametrize(("task", "lr", "batch_size", "epochs"), [("wsddn", 3e-3, 2, 22), ("localizer", 5e-3, 3, 30)])
def test_it_learns_more_than_how_frequent_the_classes_are(
    root: Path, tmp_path: Path, task: str, lr: float, batch_size: int, epochs: int
) -> None:
    config = _config(
        root,
        task,
        proposals__source="selective_search",
        proposals__count=30,
        model__fc_dim=64,
        model__hidden_channels=64,
        model__dropout=0.0,
        train__epochs=epochs,
        train__optimizer="adam",
        train__lr=lr,
        train__lr_milestones=(epochs - 4,),
        train__batch_size=batch_size,
        train__scales_px=(64,),
        train__flip=False,
        evaluate__every=epochs,
    )
    attempts = Attempts(tmp_path)
    attempts.run(config)
    shown = (read_image_level_split(root, split="train", classes=CLASSES).labels == 1).mean(axis=0)
    loss_of_frequencies = -(shown * np.log(shown) + (1 - shown) * np.log(1 - shown)).sum()
    assert attempts.rows[-1].loss < 0.7 * loss_of_frequencies


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("task", TASKS)
def test_after_stops_it_goes_on_as_if_there_had_been_none(
    root: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]], task: str, workers: int
) -> None:
    config = _config(root, task, data__workers=workers)
    attempts = Attempts(tmp_path)
    with pytest.raises(Interrupted, match="stopped on request"):
        attempts.run(config, should_stop=_after(2))  # in the third of three steps of epoch 1

    def crash(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt  # the record is out, the checkpoint is not

    with pytest.raises(KeyboardInterrupt, match="^$"):
        attempts.run(config, on_epoch=crash)
    assert [row.epoch for row in attempts.rows] == [1, 2]
    with pytest.raises(Interrupted, match="stopped on request"):
        attempts.run(config, should_stop=_after(3 + 3 + 1))  # in the evaluation after epoch 3
    result = attempts.run(config)
    assert attempts.resumed_at == [0, 0, 1, 2]
    assert _everything(attempts, result) == undisturbed[task]


EVERYTHING = {
    "wsddn": {
        "model__refinement": 2,
        "model__context": "contrastive",
        "model__size_prior": 0.5,
        "train__spatial_weight": 1e-3,
        "evaluate__combine": "sum",
    },
    "localizer": {"model__pooling": "attention", "model__map_dropout": 0.3, "model__map_smoothing": 3},
}


@pytest.mark.parametrize("task", TASKS)
def test_so_it_does_with_everything_switched_on(root: Path, tmp_path: Path, task: str) -> None:
    config = _config(
        root,
        task,
        train__batch_size=2,
        train__accumulate=2,
        train__rescale=(0.7, 1.4),
        train__pad_square=True,
        train__lr_schedule="cosine",
        train__lr_milestones=(),
        train__warmup_steps=4,
        train__epochs=3,
        evaluate__scales_px=(48, 64),
        evaluate__flip=True,
        **EVERYTHING[task],
    )
    whole, pieces = Attempts(tmp_path / "whole"), Attempts(tmp_path / "pieces")
    expected = _everything(whole, whole.run(config))
    with pytest.raises(Interrupted, match="stopped on request"):
        pieces.run(config, should_stop=_after(6 + 3))  # in the second epoch
    result = pieces.run(config)
    assert pieces.resumed_at == [0, 1]
    assert _everything(pieces, result) == expected


THREE_STEPS = {"train__batch_size": 1, "train__accumulate": 5, "train__epochs": 3}
"""Steps of 5, 5 and 2 batches of one image."""


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    attempts = Attempts(tmp_path_factory.mktemp("whole"))
    return _everything(attempts, attempts.run(_config(root, **THREE_STEPS)))


def test_stopped_again_and_again_it_goes_on_at_the_step(root: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    """No stop loses a step: each attempt makes at least one, and 9 steps and 3 evaluations are soon made."""
    config = _config(root, **THREE_STEPS)
    attempts = Attempts(tmp_path)
    steps = []
    for stop in range(40):
        try:
            result = attempts.run(config, should_stop=_after(7 + stop % 3))
            break
        except Interrupted:
            progress = attempts.state()["progress"]
            steps.append((progress["epoch"], progress["batches"]))
    assert steps == sorted(steps)
    assert {5, 0} <= {batches for _, batches in steps}  # in the midst of an epoch, and between two
    assert _everything(attempts, result) == whole


@pytest.mark.parametrize(
    ("every", "saved"),
    [("1 epoch", [7, 13, 19]), ("2 epochs", [13, 19]), ("5 epochs", [19]), ("1 minute", [4, 8, 12, 16, 19])],
)
def test_checkpoints_come_as_often_as_they_are_to(
    root: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, every: str, saved: list[int]
) -> None:
    """Three steps an epoch; the clock goes 30 s a step."""
    numbers, clock = [], [0.0]
    save, step = checkpoint.save, torch.optim.SGD.step

    def noted(folder: Path, state: dict[str, Any], *, number: int) -> Path:
        numbers.append(number)
        return save(folder, state, number=number)

    def timed(self: torch.optim.SGD, closure: None = None) -> None:
        clock[0] += 30.0
        step(self, closure)

    monkeypatch.setattr(checkpoint, "save", noted)
    monkeypatch.setattr(torch.optim.SGD, "step", timed)
    monkeypatch.setattr("wsol.training.time.monotonic", lambda: clock[0])
    attempts = Attempts(tmp_path)
    result = attempts.run(_config(root, **THREE_STEPS, checkpoint__every=every))
    assert numbers == saved
    assert _everything(attempts, result) == whole


def test_accumulated_batches_are_one_large_batch(root: Path, tmp_path: Path) -> None:
    """12 images: two steps of 6 an epoch, however they are cut."""
    weights = []
    for batch_size, accumulate in ((6, 1), (2, 3), (3, 2)):
        attempts = Attempts(tmp_path / f"{batch_size}")
        attempts.run(
            _config(
                root,
                train__batch_size=batch_size,
                train__accumulate=accumulate,
                train__epochs=2,
                model__dropout=0.0,
                evaluate__every=9,
            )
        )
        weights.append(attempts.state()["model"])
    for other in weights[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, weights[0][name], rtol=1e-4, atol=1e-6, msg=name)


OF_ONE_SIZE = {"train__resize": "square", "train__scales_px": (64,)}
"""So that a localizer pads nothing: it pads what goes through together to one size."""


@pytest.mark.parametrize("task", TASKS)
def test_fewer_images_at_a_time_are_the_same_step(root: Path, tmp_path: Path, task: str) -> None:
    """Batches of 5, 5 and 2 images, in parts of 2, 2 and 1; evaluation in twos instead of fours."""
    found = []
    for images in (None, 2, 1):
        attempts = Attempts(tmp_path / f"{images}")
        config = _config(root, task, **OF_ONE_SIZE, train__epochs=2, model__dropout=0.0, evaluate__every=9)
        result = attempts.run(config, images_at_a_time=images)
        found.append((attempts.state()["model"], attempts.rows[-1].loss, result.metrics))
    weights, loss, metrics = found[0]
    for other, its_loss, its_metrics in found[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-6, msg=name)
        assert its_loss == pytest.approx(loss, rel=1e-5)
        assert its_metrics == pytest.approx(metrics, rel=1e-3, nan_ok=True)


def test_the_last_step_of_an_epoch_weighs_its_images_alike(root: Path, tmp_path: Path) -> None:
    """12 images in batches of 5, two a step: steps of 10 and of 2 images."""
    steps, shares = [], []
    attempts = Attempts(tmp_path)
    optimizer_step, backward = torch.optim.SGD.step, Tensor.backward

    def counted(self: torch.optim.SGD, closure: None = None) -> None:
        steps.append(len(shares))
        optimizer_step(self, closure)

    def weighed(self: Tensor) -> None:
        shares.append(round(self.item(), 6))
        backward(self)  # type: ignore[no-untyped-call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Wsddn, "training_losses", lambda self, batch: {"image": self.head.classification.bias.sum() * 0 + 1}
        )
        patch.setattr(torch.optim.SGD, "step", counted)
        patch.setattr(Tensor, "backward", weighed)
        attempts.run(_config(root, train__epochs=1, train__accumulate=2))
    assert shares == [0.5, 0.5, 1.0]
    assert steps == [2, 3]


def test_another_seed_gives_something_else(root: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]) -> None:
    attempts = Attempts(tmp_path)
    attempts.run(_config(root, seed=1))
    assert _bits(attempts.state())["model"] != undisturbed["wsddn"]["state"]["model"]


def test_a_finished_trial_is_only_evaluated(root: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]) -> None:
    attempts = Attempts(tmp_path)
    attempts.run(_config(root))
    result = attempts.run(_config(root))
    assert attempts.resumed_at == [0, 4]
    assert _everything(attempts, result) == undisturbed["wsddn"]


def test_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(
    root: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    attempts = Attempts(tmp_path)
    attempts.run(_config(root))
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    result = attempts.run(_config(root))
    assert attempts.resumed_at == [0, 3]
    assert _everything(attempts, result) == undisturbed["wsddn"]


def test_records_say_what_happened(root: Path, tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    saved_before: list[list[str]] = []
    result = attempts.run(
        _config(root), on_epoch=lambda record: saved_before.append(sorted(p.name[:17] for p in tmp_path.iterdir()))
    )
    assert [row.epoch for row in attempts.rows] == [1, 2, 3, 4]
    assert [row.lr for row in attempts.rows] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert [bool(row.metrics) for row in attempts.rows] == [False, False, True, True]  # every 3, and the last
    assert all(row.loss == sum(row.losses.values()) > 0 for row in attempts.rows)
    assert all(row.duration_s > 0 for row in attempts.rows)
    assert saved_before[:3] == [[], ["checkpoint-000007"], ["checkpoint-000007", "checkpoint-000013"]]
    assert result.metrics == attempts.rows[-1].metrics


def test_the_loss_is_the_mean_over_images(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[int, float]] = []
    original = Wsddn.training_losses

    def recorded(self: Wsddn, batch: ImageBatch) -> dict[str, Tensor]:
        losses = original(self, batch)
        assert self.training
        batches.append((len(batch), losses["image"].item()))
        return losses | {"extra": 2 * losses["image"]}

    monkeypatch.setattr(Wsddn, "training_losses", recorded)
    attempts = Attempts(tmp_path)
    attempts.run(_config(root, train__epochs=1))
    assert [count for count, _ in batches] == [5, 5, 2]
    mean = sum(count * loss for count, loss in batches) / 12
    assert attempts.rows[0].losses == pytest.approx({"image": mean, "extra": 2 * mean})
    assert attempts.rows[0].loss == pytest.approx(3 * mean)


def test_the_result_can_be_measured_again_without_the_model(root: Path, tmp_path: Path) -> None:
    config = _config(root, train__epochs=1)
    result = Attempts(tmp_path).run(config)
    split = build_data(config, pin_memory=False).evaluation
    assert measure(result.detections, split, metrics=build_plan(config).metrics) == result.metrics
    assert set(result.metrics) >= {"ap50_11pt/mean", "corloc50/digit_0", "point_ap/mean", "cls_ap/digit_2"}


def _scramble_boxes(root: Path, split: str) -> int:
    """Writes nonsense into every box of a split."""
    changed = 0
    for image_id in (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        path = root / "Annotations" / f"{image_id}.xml"
        text, count = re.subn(r"<(xmin|ymin|xmax|ymax)>[^<]*<", r"<\1>-7<", path.read_text())
        path.write_text(text)
        changed += count
    return changed


@pytest.mark.parametrize("task", TASKS)
def test_training_does_not_see_boxes(
    root: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]], task: str
) -> None:
    scrambled = tmp_path / "data"
    shutil.copytree(root, scrambled)
    for path in (scrambled / "ImageSets" / "Main").glob("digit_*"):
        path.unlink()  # labels then come from the very files that hold the boxes
    assert _scramble_boxes(scrambled, "train") >= 4 * 12
    attempts = Attempts(tmp_path / "checkpoint")
    result = attempts.run(_config(scrambled, task))
    assert _bits(attempts.state()["model"]) == undisturbed[task]["state"]["model"]
    assert _bits((result.metrics, result.detections)) == undisturbed[task]["result"]


def test_global_state_is_given_back(root: Path, tmp_path: Path) -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    during: list[tuple[bool, int]] = []
    threads = torch.get_num_threads()

    def state() -> list[Any]:
        return [
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # type: ignore[index]
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.get_num_threads(),
            _pools(),
        ]

    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(2)
    before = state()
    attempts = Attempts(tmp_path)
    config = _config(root, train__epochs=2)
    with pytest.raises(Interrupted, match="stopped"):
        attempts.run(
            config,
            should_stop=_after(4),
            on_epoch=lambda record: during.append(
                (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), _pools())
            ),
            threads=3,
        )
    assert state() == before
    attempts.run(config, threads=3)
    assert state() == before
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads)
    assert during == [(True, 3, {"openblas": 3, "openmp": 3})]


def _pools() -> dict[str, int]:
    """The threads of every library that has a pool of them and tells."""
    return {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}


def test_what_is_drawn_does_not_depend_on_global_generators(
    root: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    torch.manual_seed(99)
    np.random.seed(99)
    attempts = Attempts(tmp_path)
    assert _everything(attempts, attempts.run(_config(root))) == undisturbed["wsddn"]


class TestRehearsal:
    """An evaluation of a few images before the first step, for the memory that it takes."""

    @pytest.mark.parametrize("task", TASKS)
    def test_it_changes_no_bit(
        self, root: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]], task: str
    ) -> None:
        config = _config(root, task)
        attempts = Attempts(tmp_path)
        with pytest.raises(Interrupted, match="stopped on request"):
            attempts.run(config, rehearse=1, should_stop=_after(1 + 2))  # a batch of it, then in the third step
        result = attempts.run(config, rehearse=6)
        assert attempts.resumed_at == [0, 0]
        assert _everything(attempts, result) == undisturbed[task]

    def test_it_leaves_the_statistics_of_batch_normalisation(self, root: Path, tmp_path: Path) -> None:
        config = _config(root, model__backbone="resnet18", model__freeze_batchnorm=False, train__epochs=1)
        left = []
        for images in (0, 2):
            attempts = Attempts(tmp_path / str(images))
            left.append(_everything(attempts, attempts.run(config, rehearse=images)))
        assert left[0] == left[1]
        means = [value for name, value in left[0]["state"]["model"].items() if name.endswith("running_mean")]
        assert any(set(mean[2]) != {0} for mean in means), "they are learnt"

    def test_it_is_the_first_pass_and_stops_like_the_others(self, root: Path, tmp_path: Path) -> None:
        passes: list[str] = []
        config = _config(root, train__epochs=2, evaluate__every=2)
        attempts = Attempts(tmp_path)
        with pytest.raises(Interrupted, match="stopped on request"):
            attempts.run(config, rehearse=6, should_stop=_after(1), on_pass_end=passes.append)
        assert (passes, checkpoint.load_latest(tmp_path)) == ([], None)
        attempts.run(config, rehearse=6, on_pass_end=passes.append)
        assert passes == ["rehearsal", "training", "training", "evaluation"]

    def test_none_where_nothing_is_left_to_train(self, root: Path, tmp_path: Path) -> None:
        passes: list[str] = []
        attempts = Attempts(tmp_path)
        attempts.run(_config(root, train__epochs=1))
        attempts.run(_config(root, train__epochs=1), rehearse=6, on_pass_end=passes.append)
        assert passes == ["evaluation"]

    def test_a_prediction_of_nan_is_left_to_training(
        self, root: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original, calls = training.detect, []

        def detect(*arguments: Any, **options: Any) -> Any:
            calls.append(options)
            if len(calls) == 1:
                raise NonFinitePredictionError("got a score of NaN")
            return original(*arguments, **options)

        monkeypatch.setattr(training, "detect", detect)
        attempts = Attempts(tmp_path)
        assert _everything(attempts, attempts.run(_config(root), rehearse=1)) == undisturbed["wsddn"]
        assert len(calls) == 3

    @pytest.mark.parametrize(("optimizer", "fresh", "resumed"), [("sgd", 2, 1), ("adam", 3, 1)])
    def test_gradients_and_the_optimizers_state_have_their_place_in_it(
        self,
        root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        optimizer: str,
        fresh: int,
        resumed: int,
    ) -> None:
        made: list[Tensor] = []
        rehearsed: list[int] = []
        ones_like, rehearse = torch.ones_like, training._rehearse

        def noted(like: Tensor, **options: Any) -> Tensor:
            made.append(like)
            return ones_like(like, **options)

        monkeypatch.setattr(torch, "ones_like", noted)

        def counted(run: Any, images: int) -> None:
            made.clear()
            rehearse(run, images)
            weights = [weight for group in run.optimizer.param_groups for weight in group["params"]]
            rehearsed.append(sum(like is weight for like in made for weight in weights) // len(weights))

        monkeypatch.setattr(training, "_rehearse", counted)
        config = _config(root, train__optimizer=optimizer, train__epochs=2)
        attempts = Attempts(tmp_path)
        with pytest.raises(Interrupted, match="stopped on request"):
            attempts.run(config, rehearse=1, should_stop=_after(1 + 2))
        attempts.run(config, rehearse=1)
        assert rehearsed == [fresh, resumed]


def test_the_limit_of_memory_is_set_once_the_loader_processes_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts CUDA, and threads with it."""
    order: list[Any] = []
    build = training.build_data

    def noted(*arguments: Any, **options: Any) -> Any:
        order.append("loaders")
        return build(*arguments, **options)

    monkeypatch.setattr(training, "build_data", noted)
    monkeypatch.setattr(training, "limited_memory", lambda *given: order.append(given) or nullcontext())
    attempts = Attempts(tmp_path)
    attempts.run(_config(root, train__epochs=1), memory_bytes=7)
    assert order == ["loaders", (torch.device("cpu"), 7)]


def test_each_step_of_the_optimizer_is_timed_and_none_of_a_checkpoint(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    step, after = training._step, training._Checkpoints.after_step

    def half_a_second(*arguments: Any) -> Any:
        clock[0] += 0.5
        return step(*arguments)

    def ten_seconds(*arguments: Any) -> None:
        clock[0] += 10.0
        after(*arguments)

    monkeypatch.setattr(training, "_step", half_a_second)
    monkeypatch.setattr(training._Checkpoints, "after_step", ten_seconds)
    seconds: list[float] = []
    attempts = Attempts(tmp_path)
    attempts.run(_config(root, train__epochs=2, train__accumulate=2), on_trained=seconds.append)
    assert seconds == [0.5] * 4, "of three batches an epoch, two at a time"


def test_a_trial_that_diverges_says_where(root: Path, tmp_path: Path) -> None:
    where = r"loss of (nan|inf) in epoch \d, step \d, images train_\d+|NaN for image val_\d+.* after epoch \d"
    with pytest.raises(NonFiniteLossError, match=where):
        Attempts(tmp_path).run(_config(root, "localizer", train__lr=1e25))


def test_a_loss_that_is_not_finite_does_not_reach_the_weights(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Wsddn.training_losses
    seen: list[tuple[nn.Module, bytes, list[str]]] = []

    def third_is_nan(self: Wsddn, batch: ImageBatch) -> dict[str, Tensor]:
        losses = original(self, batch)
        seen.append((self, b"".join(p.detach().numpy().tobytes() for p in self.parameters()), batch.image_ids))
        return {"image": losses["image"] * float("nan")} if len(seen) == 6 else losses

    monkeypatch.setattr(Wsddn, "training_losses", third_is_nan)
    attempts = Attempts(tmp_path)
    with pytest.raises(NonFiniteLossError, match="loss of nan in epoch 2, step 3") as raised:
        attempts.run(_config(root))
    model, weights, image_ids = seen[-1]
    assert str(raised.value).endswith(", ".join(image_ids))
    assert b"".join(p.detach().numpy().tobytes() for p in model.parameters()) == weights
    assert attempts.state()["progress"]["epoch"] == 2


def test_predictions_of_nan_stop_the_trial_like_a_loss(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Wsddn.predict

    def diverged(self: Wsddn, batch: ImageBatch) -> list[ImagePrediction]:
        return [dataclasses.replace(p, class_scores=p.class_scores * float("nan")) for p in original(self, batch)]

    monkeypatch.setattr(Wsddn, "predict", diverged)
    attempts = Attempts(tmp_path)
    with pytest.raises(NonFiniteLossError, match="NaN for image val_.*, in the evaluation after epoch 3"):
        attempts.run(_config(root))
    assert attempts.state()["progress"]["epoch"] == 3


def test_a_checkpoint_of_another_trial_is_refused(root: Path, tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.run(_config(root, train__epochs=1))
    with pytest.raises(CheckpointError, match=r"checkpoint with train\.epochs=1 in .*; expected 2"):
        attempts.run(_config(root, train__epochs=2))
    assert attempts.run(_config(root, train__epochs=1, data__workers=1)).metrics  # workers change no result


def test_a_checkpoint_of_another_version_is_refused(root: Path, tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    config = _config(root, train__epochs=1)
    attempts.run(config)
    state = attempts.state()
    state["model"]["renamed.weight"] = state["model"].pop(next(iter(state["model"])))
    checkpoint.save(tmp_path, state, number=1)
    with pytest.raises(CheckpointError, match=r"(?s)that this version cannot use: .*renamed\.weight"):
        attempts.run(config)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:.*determinis")
@pytest.mark.parametrize("task", TASKS)
def test_on_a_gpu(root: Path, tmp_path: Path, task: str) -> None:
    attempts = Attempts(tmp_path)
    with pytest.raises(Interrupted, match="stopped"):
        attempts.run(_config(root, task, data__workers=2), should_stop=_after(4), device="cuda")
    result = attempts.run(_config(root, task, data__workers=2), device="cuda")
    assert attempts.resumed_at == [0, 1]
    assert all(np.isfinite(row.loss) for row in attempts.rows)
    assert result.metrics == attempts.rows[-1].metrics


def test_weights_alone_are_enough_where_only_the_result_was_lost(
    root: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    attempts = Attempts(tmp_path)
    attempts.run(_config(root))
    checkpoint.keep_weights(tmp_path)
    with pytest.raises(Interrupted, match="stopped on request"):
        attempts.run(_config(root), should_stop=_after(1))
    result = attempts.run(_config(root))
    assert attempts.resumed_at == [0, 4, 4]
    found = _everything(attempts, result)
    assert (found["rows"], found["result"]) == (undisturbed["wsddn"]["rows"], undisturbed["wsddn"]["result"])
    assert found["state"]["model"] == undisturbed["wsddn"]["state"]["model"]
