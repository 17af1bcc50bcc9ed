"""What a trained model finds in any image: the same as in an evaluation of its trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wsol import checkpoint
from wsol.build import build_data, build_model, build_plan
from wsol.checkpoint import CheckpointError
from wsol.config import ExperimentConfig
from wsol.data import digits
from wsol.data.images import DataError, ImageRecord
from wsol.evaluation import detect
from wsol.heat_maps import min_max_scaled
from wsol.prediction import FoundInImage, load_model, predict_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    digits.generate(folder, seed=0, train=10, val=3, test=0, image_px=64)
    return folder


def config(root: Path, task: str, **evaluate: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "task": task,
            "data": {"root": str(root)},
            "proposals": {"source": "grid", "count": 20, "min_size_px": 4},
            "model": {"backbone": "tiny", "weights": "none", "fc_dim": 16, "roi_size": 3},
            "train": {"scales_px": [64]},
            "evaluate": evaluate,
        }
    )


def save_model(config: ExperimentConfig, folder: Path, *, num_classes: int = 10, number: int = 1) -> Path:
    """A checkpoint of an untrained model, whose scores are spread out."""
    model = build_model(config, num_classes=num_classes)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    checkpoint.save(folder, {"model": model.state_dict()}, number=number)
    return folder


def predicted(config: ExperimentConfig, folder: Path, images: list[ImageRecord], top: int = 3) -> list[FoundInImage]:
    return list(predict_images(load_model(config, folder, device=CPU), images, top=top))


@pytest.mark.parametrize("task", ["wsddn", "localizer"])
def test_the_same_as_in_an_evaluation(task: str, root: Path, tmp_path: Path) -> None:
    trial = config(root, task, scales_px=[64, 96], flip=True, score_threshold=0.0)
    trained = load_model(trial, save_model(trial, tmp_path), device=CPU)
    data = build_data(trial, pin_memory=False)
    expected = detect(
        trained.model,
        data.batches.evaluation_pass(),
        classes=data.classes,
        post_processing=build_plan(trial).post_processing,
        device=CPU,
        ground_truth=data.evaluation.ground_truth,
    )
    found = list(predict_images(trained, data.evaluation.images, top=2))
    assert trained.classes == data.classes
    assert len(found) == 3
    for index, image in enumerate(found):
        np.testing.assert_allclose(image.class_scores, expected.class_scores[index], rtol=1e-5)
        of_split = expected.detections[index]
        order = np.argsort(-of_split.scores, kind="stable")
        assert len(order) > 0
        np.testing.assert_allclose(image.detections.scores, of_split.scores[order], rtol=1e-5)
        assert image.detections.labels.tolist() == of_split.labels[order].tolist()
        np.testing.assert_allclose(image.detections.boxes, of_split.boxes[order], atol=1e-3)


@pytest.mark.parametrize("task", ["wsddn", "localizer"])
def test_heat_maps_of_the_likeliest_classes(task: str, root: Path, tmp_path: Path) -> None:
    trial = config(root, task)
    image = ImageRecord(id="val_0001", path=next(root.glob("JPEGImages/val_0001*")))
    folder = save_model(trial, tmp_path)
    (found,) = predicted(trial, folder, [image], top=4)
    assert list(found.heat_maps) == np.argsort(-found.class_scores, kind="stable")[:4].tolist()
    for heat_map in found.heat_maps.values():
        assert heat_map.dtype == np.float32
        assert heat_map.max() == 1.0
        assert heat_map.min() >= 0.0
    if task == "localizer":
        assert all(np.array_equal(some, min_max_scaled(some)) for some in found.heat_maps.values())
    (all_classes,) = predicted(trial, folder, [image], top=99)
    assert len(all_classes.heat_maps) == 10


def test_the_newest_checkpoint_counts(root: Path, tmp_path: Path) -> None:
    trial = config(root, "localizer")
    image = ImageRecord(id="x", path=next(root.glob("JPEGImages/val_0001*")))
    (first,) = predicted(trial, save_model(trial, tmp_path, number=1), [image])
    (second,) = predicted(trial, save_model(trial, tmp_path, number=2), [image])
    assert not np.allclose(first.class_scores, second.class_scores)
    (alone,) = predicted(trial, save_model(trial, tmp_path / "alone", number=2), [image])
    assert np.array_equal(second.class_scores, alone.class_scores)


def test_a_turned_photograph_is_seen_upright(root: Path, tmp_path: Path) -> None:
    """Boxes are in the frame of the image as it is looked at, whatever way its pixels are stored."""
    trial = config(root, "wsddn", score_threshold=0.0)
    pixels = np.random.default_rng(0).integers(0, 256, (80, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "turned.png", exif=exif)
    records = [ImageRecord(id="one", path=tmp_path / f"{name}.png") for name in ("upright", "turned")]
    upright, turned = predicted(trial, save_model(trial, tmp_path / "checkpoint"), records)
    assert np.array_equal(upright.class_scores, turned.class_scores)
    assert np.array_equal(upright.detections.boxes, turned.detections.boxes)
    assert upright.detections.boxes[:, 3].max() > 48


def test_an_image_of_one_pixel(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "pixel.png")
    record = ImageRecord(id="pixel", path=tmp_path / "pixel.png")
    for task in ("wsddn", "localizer"):
        trial = config(root, task)
        (found,) = predicted(trial, save_model(trial, tmp_path / task), [record])
        assert len(found.heat_maps) == 3


def test_no_images_at_all(root: Path, tmp_path: Path) -> None:
    trial = config(root, "localizer")
    assert predicted(trial, save_model(trial, tmp_path), []) == []


class TestFaults:
    def test_no_checkpoint(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"got no checkpoint in .*none; expected a trial that trained"):
            load_model(config(root, "wsddn"), tmp_path / "none", device=CPU)

    def test_a_checkpoint_of_another_model(self, root: Path, tmp_path: Path) -> None:
        trial = config(root, "localizer")
        with pytest.raises(CheckpointError, match="does not fit the trial's config and its 10 classes"):
            load_model(trial, save_model(trial, tmp_path, num_classes=3), device=CPU)

    def test_a_checkpoint_without_a_model(self, root: Path, tmp_path: Path) -> None:
        checkpoint.save(tmp_path, {"epoch": 1}, number=1)
        with pytest.raises(CheckpointError, match="does not fit"):
            load_model(config(root, "localizer"), tmp_path, device=CPU)

    def test_weights_that_have_diverged(self, root: Path, tmp_path: Path) -> None:
        trial = config(root, "localizer")
        model = build_model(trial, num_classes=10)
        state = {name: torch.full_like(value, torch.nan) for name, value in model.state_dict().items()}
        checkpoint.save(tmp_path, {"model": state}, number=1)
        image = ImageRecord(id="val_0001", path=next(root.glob("JPEGImages/val_0001*")))
        with pytest.raises(CheckpointError, match="NaN for image val_0001"):
            predicted(trial, tmp_path, [image])

    def test_a_missing_image(self, root: Path, tmp_path: Path) -> None:
        trial = config(root, "localizer")
        with pytest.raises(DataError, match=r"absent\.jpg"):
            predicted(trial, save_model(trial, tmp_path), [ImageRecord(id="absent", path=Path("absent.jpg"))])
