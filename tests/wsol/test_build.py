"""From a config to data, model and optimizer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from wsol.build import build_data, build_model, build_optimizer, build_plan, evaluation_views, prepare_data
from wsol.config import ExperimentConfig
from wsol.data import digits
from wsol.data.batch import ImageBatch
from wsol.data.images import DataError
from wsol.data.proposals import Proposals
from wsol.data.transforms import View
from wsol.evaluation import PostProcessing
from wsol.metrics.names import METRICS_OF_TASK
from wsol.models.localizer import Localizer
from wsol.models.pooling import TopKPooling
from wsol.models.wsddn import SpatialRegularizer, TwoStreamHead, Wsddn


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    digits.generate(folder, seed=0, train=3, val=2, test=1, image_px=64)
    return folder


def _config(root: Path | str = "unused", **sections: Any) -> ExperimentConfig:
    values: dict[str, Any] = {
        "task": "wsddn",
        "data": {"root": str(root)},
        "proposals": {"source": "grid", "min_size_px": 0},
        "model": {"backbone": "tiny", "weights": "none", "fc_dim": 8, "roi_size": 2},
        "train": {"scales_px": (32, 64, 96, 128)},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return ExperimentConfig.model_validate(values)


def _ids(root: Path, split: str) -> list[str]:
    return (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()


def _evaluated(config: ExperimentConfig) -> ImageBatch:
    """The first evaluation batch."""
    ((_, batch), *_) = next(iter(build_data(config, pin_memory=False).batches.evaluation_pass()))
    return batch


def test_the_plan_holds_what_the_loop_needs() -> None:
    plan = build_plan(
        _config(
            seed=3,
            train={"epochs": 7, "lr": 0.5, "accumulate": 4},
            evaluate={"every": 2, "nms_iou": 0.3, "score_threshold": 0.01, "combine": "sum", "metrics": ["ap30_area"]},
        )
    )
    assert (plan.seed, plan.epochs, plan.evaluate_every, plan.lr, plan.accumulate) == (3, 7, 2, 0.5, 4)
    assert plan.post_processing == PostProcessing(
        score_threshold=0.01, nms_iou=0.3, combine="sum", box_threshold=0.5, box_components="largest"
    )
    assert plan.metrics == (*METRICS_OF_TASK["wsddn"], "ap30_area")


@pytest.mark.parametrize(("probability", "logit"), [(0.0, -math.inf), (0.5, 0.0), (0.1, -math.log(9)), (1.0, math.inf)])
def test_a_localizers_score_threshold_is_a_probability(probability: float, logit: float) -> None:
    config = _config(task="localizer", evaluate={"score_threshold": probability, "box_components": "all"})
    post_processing = build_plan(config).post_processing
    assert post_processing.score_threshold == pytest.approx(logit)
    assert post_processing.box_components == "all"


def test_a_trial_is_its_config_less_what_changes_no_result() -> None:
    first, second = (build_plan(_config(data={"root": "x", "workers": workers})).identity for workers in (0, 4))
    assert first == second == json.loads(json.dumps(first))
    assert "workers" not in first["data"]
    assert first != build_plan(_config(data={"root": "y"})).identity


def test_data_has_the_splits_of_the_config(root: Path) -> None:
    data = build_data(
        _config(root, data={"train": "val", "eval": "test", "classes": ("digit_1", "digit_0")}), pin_memory=False
    )
    assert data.classes == data.evaluation.classes == ("digit_1", "digit_0")
    trained = [image_id for batch in data.batches.training_epoch(1) for image_id in batch.image_ids]
    evaluated = [image_id for ((_, batch),) in data.batches.evaluation_pass() for image_id in batch.image_ids]
    assert sorted(trained) == _ids(root, "val")
    assert evaluated == [record.id for record in data.evaluation.images] == _ids(root, "test")


@pytest.mark.parametrize(
    ("train", "scales_px", "expected"),
    [
        ({}, None, 96),  # of four scales the upper median
        ({"scales_px": (128, 32, 64)}, None, 64),
        ({}, (48,), 48),
        ({"resize": "shorter", "max_side_px": 40}, (48,), 40),
    ],
)
def test_the_evaluation_scale(
    root: Path, train: dict[str, Any], scales_px: tuple[int, ...] | None, expected: int
) -> None:
    batch = _evaluated(_config(root, train=train, evaluate={"scales_px": scales_px}))
    assert batch.images[0].shape == (3, expected, expected)


def test_evaluation_views_are_scales_times_flips() -> None:
    views = evaluation_views(_config(evaluate={"scales_px": (48, 32), "flip": True}))
    assert views == [View(48), View(32), View(48, flip=True), View(32, flip=True)]


def test_batch_sizes_and_augmentation(root: Path) -> None:
    config = _config(root, train={"batch_size": 2, "scales_px": (40,), "flip": False}, evaluate={"batch_size": 3})
    batches = build_data(config, pin_memory=False).batches
    assert [len(batch) for batch in batches.training_epoch(1)] == [2, 1]
    assert [len(batch) for ((_, batch),) in batches.evaluation_pass()] == [2]
    assert batches.batches_per_epoch == 2
    sizes = {tuple(image.shape) for batch in batches.training_epoch(1) for image in batch.images}
    assert sizes == {(3, 40, 40)}


def _grid(root: Path, **proposals: Any) -> torch.Tensor:
    boxes: torch.Tensor = _evaluated(_config(root, proposals=proposals, evaluate={"scales_px": (64,)})).proposals[0]
    return boxes


def test_proposals_are_those_of_the_config(root: Path) -> None:
    every = _grid(root, count=None)
    assert len(_grid(root, count=5)) == 5
    assert len(_grid(root, count=None, grid_scales=(0.5,))) < len(every)
    assert len(_grid(root, count=None, grid_aspect_ratios=(1.0,))) < len(every)
    assert len(_grid(root, count=None, grid_stride=0.5)) < len(every)
    large = _grid(root, count=None, min_size_px=20)
    assert 0 < len(large) < len(every)
    assert (large[:, 2:] - large[:, :2]).min() >= 20


def test_selective_search_is_stored_where_all_trials_find_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSOL_CACHE", str(tmp_path))
    config = _config(root, proposals={"source": "selective_search", "count": None})
    progress: list[tuple[int, int]] = []
    prepare_data([config], workers=0, on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(done, 5) for done in range(1, 6)]
    stored = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(stored) == 5
    assert len(_evaluated(config).proposals[0]) > 0
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == stored


def test_what_trials_share_is_prepared_once(root: Path) -> None:
    progress: list[tuple[int, int]] = []
    configs = [_config(root, seed=seed) for seed in range(3)] + [_config(root, task="localizer")]
    other = _config(root, proposals={"grid_stride": 0.5})
    prepare_data([*configs, other], workers=0, on_progress=lambda done, total: progress.append((done, total)))
    assert progress == 2 * [(done, 5) for done in range(1, 6)]


def test_a_file_of_proposals_that_is_missing(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "boxes.npz"
    config = _config(root, proposals={"source": "file", "file": str(path)})
    with pytest.raises(DataError, match=r"boxes\.npz"):
        prepare_data([config], workers=0)


def test_the_localizer_never_asks_for_proposals(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSOL_CACHE", str(tmp_path))
    for proposals in ({"source": "file", "file": "missing.npz"}, {"source": "selective_search"}):
        config = _config(root, task="localizer", proposals=proposals)
        prepare_data([config], workers=0)
        assert _evaluated(config).proposals[0].shape == (0, 4)
    assert list(tmp_path.iterdir()) == []


def test_the_digits_are_generated_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSOL_CACHE", str(tmp_path))
    monkeypatch.setattr(digits, "DEFAULTS", {"seed": 0, "train": 2, "val": 1, "test": 0, "image_px": 32})
    data = build_data(_config("digits"), pin_memory=False)
    assert len(data.evaluation.images) == 1
    assert data.evaluation.images[0].path.is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"root": "nowhere"}, "nowhere"),
        ({"train": "trian"}, "did you mean 'train'"),
        ({"eval": "vla"}, "did you mean 'val'"),
    ],
)
def test_faults_in_the_data_are_found_before_a_trial(root: Path, data: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare_data([_config(root, data=data)], workers=0)


def test_wsddn_is_built_from_its_keys() -> None:
    model = build_model(
        _config(
            model={
                "roi_size": 3,
                "fc_dim": 5,
                "dropout": 0.25,
                "freeze": "all",
                "roi_op": "roi_align",
                "detection_temperature": 2.0,
                "size_prior": 1.5,
                "context": "contrastive",
                "refinement": 3,
                "refinement_foreground_iou": 0.6,
                "refinement_ignore_iou": 0.2,
            },
            train={"spatial_weight": 1e-4, "spatial_iou": 0.7, "spatial_top": 5, "pad_square": True},
        ),
        num_classes=4,
    )
    assert isinstance(model, Wsddn)
    layers = model.regions.layers
    assert layers.get_submodule("fc6").weight.shape == (5, 3 * 3 * model.backbone.out_channels)
    assert layers.get_submodule("dropout7").p == 0.25
    assert type(model.regions.roi_op).__name__ == "RoIAlign"
    assert model.regions.rings
    assert isinstance(model.head, TwoStreamHead)
    assert (model.head.temperature, model.head.size_prior, model.head.contrastive) == (2.0, 1.5, True)
    assert model.refinement is not None
    assert len(model.refinement.classifiers) == 3
    assert (model.refinement.foreground_iou, model.refinement.ignore_iou) == (0.6, 0.2)
    assert model.spatial == SpatialRegularizer(weight=1e-4, iou=0.7, top=5)
    assert model.backbone.pad_square
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_plain_wsddn_has_nothing_of_its_successors() -> None:
    model = build_model(_config(), num_classes=4)
    assert isinstance(model, Wsddn)
    assert (model.refinement, model.spatial, model.regions.rings) == (None, None, False)


def test_the_localizer_is_built_from_its_keys() -> None:
    model = build_model(
        _config(
            task="localizer",
            model={
                "hidden_channels": 6,
                "pooling": "topk",
                "topk": 3,
                "dropout": 0.1,
                "maps_per_class": 2,
                "map_smoothing": 3,
                "map_dropout": 0.3,
            },
        ),
        num_classes=4,
    )
    assert isinstance(model, Localizer)
    assert isinstance(model.pooling, TopKPooling)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.1, 0.1]
    convolutions = [module for module in model.head.modules() if isinstance(module, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [6, 6, 8]
    assert (model.smoothing, model.map_dropout) == (3, 0.3)
    oquab = build_model(_config(task="localizer", model={"head": "oquab"}), num_classes=4)
    assert isinstance(oquab, Localizer)
    assert oquab.stride == 2 * oquab.backbone.stride


@pytest.mark.parametrize("task", ["wsddn", "localizer"])
def test_initial_weights_depend_on_the_seed_alone(task: str) -> None:
    def weights(seed: int) -> list[bytes]:
        torch.randn(3)
        before = torch.get_rng_state()
        model = build_model(_config(task=task, seed=seed), num_classes=2)
        assert torch.equal(torch.get_rng_state(), before)
        return [value.numpy().tobytes() for value in model.state_dict().values()]

    assert weights(0) == weights(0)
    assert weights(0) != weights(1)


def test_the_optimizer_has_the_rates_of_the_config() -> None:
    factors = {"backbone_lr_factor": 0.1, "head_lr_factor": 10.0, "refinement_lr_factor": 5.0, "bias_lr_factor": 2.0}
    config = _config(
        model={"refinement": 2},
        train={"optimizer": "sgd", "lr": 1.0, "momentum": 0.75, "weight_decay": 0.125, **factors},
    )
    model = build_model(config, num_classes=2)
    optimizer, _ = build_optimizer(config, model, batches_per_epoch=7)
    assert isinstance(optimizer, SGD)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    for name, expected in {
        "backbone.body.conv1.0.weight": (0.1, 0.125),
        "regions.layers.fc6.weight": (1.0, 0.125),
        "regions.layers.fc6.bias": (2.0, 0.0),
        "head.detection.weight": (10.0, 0.125),
        "refinement.classifiers.1.weight": (5.0, 0.125),
        "refinement.classifiers.1.bias": (10.0, 0.0),
    }.items():
        assert rates[id(named[name])] == pytest.approx(expected), name


def test_the_schedule_counts_steps_of_the_optimizer() -> None:
    """7 batches, 2 a step: 4 steps an epoch. The rate falls after 2 epochs, after a warm-up of 2 steps."""
    config = _config(train={"lr": 1.0, "lr_milestones": (2,), "lr_gamma": 0.5, "accumulate": 2, "warmup_steps": 2})
    optimizer, schedule = build_optimizer(config, nn.Linear(2, 2), batches_per_epoch=7)
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [0.5] + [1.0] * 7 + [0.5] * 2


def test_proposals_of_a_type(root: Path) -> None:
    """What the loader gets is what the shared cache gives, less what the trial does not keep."""
    config = _config(root, proposals={"count": 7})
    training = build_data(config, pin_memory=False).batches._data.training
    assert training.propose is not None
    kept = training.propose(training.images[0])
    assert isinstance(kept, Proposals)
    assert kept.boxes.shape == (7, 4)
    assert np.array_equal(kept.boxes, training.propose(training.images[0]).boxes)
