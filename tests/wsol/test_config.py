from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from experiments.validation_messages import leaf_keys
from wsol.config import RESULT_NEUTRAL_KEYS, ExperimentConfig, check_class_names

SMALLEST: dict[str, Any] = {"task": "wsddn", "data": {"root": "digits"}}


def config(**sections: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({**SMALLEST, **sections})


def refused(match: str, **sections: Any) -> None:
    with pytest.raises(ValidationError, match=match):
        config(**sections)


class TestDefaults:
    def test_are_the_paper_recipe(self) -> None:
        """Bilen & Vedaldi 2016, section 4; the numbers that decide what an empty spec trains."""
        found = config()
        assert (found.seed, found.model.backbone, found.model.weights) == (0, "alexnet", "imagenet")
        assert (found.proposals.source, found.proposals.count) == ("selective_search", 2000)
        assert (found.train.epochs, found.train.optimizer, found.train.lr) == (20, "sgd", 1e-5)
        assert (found.train.momentum, found.train.weight_decay, found.train.batch_size) == (0.9, 5e-4, 1)
        assert found.train.scales_px == (480, 576, 688, 864, 1200)
        assert (found.data.train, found.data.eval, found.data.classes) == ("train", "val", "auto")
        assert found.evaluate.nms_iou == 0.4

    def test_are_themselves_valid(self) -> None:
        assert ExperimentConfig.model_validate(config().model_dump()) == config()

    @pytest.mark.parametrize("missing", ["task", "data"])
    def test_what_has_none(self, missing: str) -> None:
        with pytest.raises(ValidationError, match=missing):
            ExperimentConfig.model_validate({key: value for key, value in SMALLEST.items() if key != missing})


class TestTypes:
    @pytest.mark.parametrize(
        ("section", "key", "value"),
        [
            ("train", "epochs", "3"),
            ("train", "epochs", 3.0),
            ("train", "epochs", True),
            ("train", "lr", "0.1"),
            ("train", "lr", True),
            ("train", "lr", float("nan")),
            ("train", "lr", float("inf")),
            ("train", "flip", 1),
            ("train", "flip", "yes"),
            ("train", "scales_px", 480),
            ("train", "scales_px", [480.5]),
            ("train", "optimizer", "SGD"),
            ("data", "root", 3),
            ("data", "classes", "all"),
            ("model", "freeze_batchnorm", "auto"),
            ("proposals", "count", "all"),
        ],
    )
    def test_are_strict(self, section: str, key: str, value: object) -> None:
        base = {"root": "digits"} if section == "data" else {}
        refused(rf"{section}\.{key}", **{section: {**base, key: value}})

    def test_whole_numbers_for_fractions(self) -> None:
        assert config(train={"lr": 1}).train.lr == 1.0

    def test_lists_become_tuples(self) -> None:
        assert config(train={"scales_px": [128]}).train.scales_px == (128,)
        assert config(data={"root": "x", "classes": ["b", "a"]}).data.classes == ("b", "a")

    @pytest.mark.parametrize("section", ["data", "proposals", "model", "train", "evaluate"])
    def test_unknown_keys(self, section: str) -> None:
        base = {"root": "digits"} if section == "data" else {}
        refused(rf"{section}\.nothing", **{section: {**base, "nothing": 1}})
        refused("nothing", nothing=1)

    def test_is_frozen(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            config().train.lr = 1.0  # type: ignore[misc]


class TestRanges:
    """Of each limit the last value that is allowed, and the first that is not."""

    @pytest.mark.parametrize(
        ("key", "allowed", "not_allowed"),
        [
            ("seed", 0, -1),
            ("seed", 2**32 - 1, 2**32),
            ("data.workers", 0, -1),
            ("proposals.count", 1, 0),
            ("proposals.count", None, -1),
            ("proposals.resize_px", 1, 0),
            ("proposals.min_size_px", 0, -0.1),
            ("proposals.grid_scales", [1.0], [1.1]),
            ("proposals.grid_scales", [0.01], [0.0]),
            ("proposals.grid_scales", [0.5], []),
            ("proposals.grid_aspect_ratios", [9.0], [0.0]),
            ("proposals.grid_stride", 1.0, 1.1),
            ("proposals.grid_stride", 0.01, 0),
            ("model.dropout", 0, -0.1),
            ("model.dropout", 0.99, 1),
            ("model.hidden_channels", 1, 0),
            ("train.epochs", 1, 0),
            ("train.lr", 1e-300, 0),
            ("train.lr_milestones", [], [0]),
            ("train.lr_gamma", 1, 1.1),
            ("train.lr_gamma", 0.1, 0),
            ("train.momentum", 0, -0.1),
            ("train.momentum", 0.999, 1),
            ("train.weight_decay", 0, -1e-9),
            ("train.batch_size", 1, 0),
            ("train.scales_px", [1], [0]),
            ("train.scales_px", [1], []),
            ("train.max_side_px", 1, 0),
            ("evaluate.every", 1, 0),
            ("evaluate.scales_px", None, [0]),
            ("evaluate.scales_px", [1], []),
            ("evaluate.box_threshold", 0.01, 0),
            ("evaluate.box_threshold", 0.99, 1),
            ("evaluate.pictures", 0, -1),
            ("model.freeze", 1, 0),
            ("model.freeze", "all", "some"),
            ("model.freeze", 5, 6),  # alexnet has five stages
            ("model.stride", 8, 4),
            ("model.detection_temperature", 0.01, 0),
            ("model.size_prior", -3.0, float("inf")),
            ("model.refinement", 0, -1),
            ("model.refinement_foreground_iou", 0.99, 1.0),
            ("model.refinement_ignore_iou", 0, 1.0),
            ("model.maps_per_class", 1, 0),
            ("model.map_smoothing", 1, 0),
            ("model.map_smoothing", 3, 2),
            ("model.map_dropout", 0, 1),
            ("model.lse_r", 1e-6, 0),
            ("model.topk", 1, 0),
            ("model.topk", 0.99, 1.0),  # all cells, or one? neither is meant
            ("model.wildcat_k_max", 0.01, 0.0),
            ("model.wildcat_k_min", 1, -1),
            ("model.wildcat_alpha", 0, -0.1),
            ("model.generalized_mean_r", 0.1, 0),
            ("model.gwrp_decay", 0, -0.1),
            ("model.gwrp_decay", 1, 1.1),
            ("model.attention_dim", 1, 0),
            ("train.accumulate", 1, 0),
            ("train.warmup_steps", 0, -1),
            ("train.bias_lr_factor", 0.1, 0),
            ("train.rescale", [1.0, 1.0], [1.4, 0.7]),
            ("train.rescale", None, [0.0, 1.0]),
            ("train.spatial_weight", 0, -1e-9),
            ("train.spatial_iou", 0.5, 1.0),
            ("train.spatial_top", 2, 1),
            ("evaluate.batch_size", 1, 0),
            ("evaluate.nms_iou", 0, -0.1),
            ("evaluate.nms_iou", 1, 1.1),
            ("evaluate.score_threshold", 0, -0.1),
        ],
    )
    def test_limits(self, key: str, allowed: object, not_allowed: object) -> None:
        def with_value(value: object) -> dict[str, Any]:
            section, _, name = key.rpartition(".")
            base = {"root": "digits"} if section == "data" else {}
            return {section: {**base, name: value}} if section else {name: value}

        config(**with_value(allowed))
        refused(key.replace(".", r"\."), **with_value(not_allowed))


class TestClassNames:
    @pytest.mark.parametrize("names", [("cat",), ("cat", "Cat"), ("a/b", "a,b", 'say "x"', "Mean")])
    def test_that_can_be_told_apart(self, names: tuple[str, ...]) -> None:
        check_class_names(names)

    @pytest.mark.parametrize(
        ("names", "problem"),
        [
            (("cat", "dog", "cat"), "class 'cat' is listed twice"),
            (("cat", "mean"), "another name for class 'mean'"),
            (("cat", ""), "not empty"),
            (("cat", " \t"), "not empty"),
        ],
    )
    def test_that_cannot(self, names: tuple[str, ...], problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            check_class_names(names)
        refused(problem, data={"root": "digits", "classes": list(names)})

    def test_an_empty_list(self) -> None:
        refused("classes", data={"root": "digits", "classes": []})


class TestRules:
    def test_the_step_schedule_needs_its_length_and_no_other_has_one(self) -> None:
        config(train={"lr_schedule": "step", "lr_step_epochs": 3})
        refused("expected train.lr_step_epochs with train.lr_schedule: step", train={"lr_schedule": "step"})
        refused("expected train.lr_step_epochs with", train={"lr_schedule": "cosine", "lr_step_epochs": 3})

    def test_milestones_are_for_multistep(self) -> None:
        refused("expected no train.lr_milestones but", train={"lr_schedule": "cosine", "lr_milestones": [3]})

    def test_box_scores_need_a_file(self) -> None:
        message = "expected model.box_scores: none with proposals.source: selective_search, which gives no scores"
        refused(message, model={"box_scores": "score"})
        config(model={"box_scores": "score"}, proposals={"source": "file", "file": "boxes.mat"})

    def test_stages_are_named(self) -> None:
        refused("stages are stem, layer1, layer2, layer3", model={"backbone": "resnet18", "freeze": 5})
        config(model={"backbone": "timm/resnet18", "freeze": 5})  # known when the model is built

    def test_tiny_has_one_stride(self) -> None:
        refused(
            "expected model.stride: 8 with model.backbone: tiny",
            model={"backbone": "tiny", "weights": "none", "stride": 16},
        )

    def test_a_localizer_has_no_box_scores_to_check(self) -> None:
        config(task="localizer", model={"box_scores": "score"})

    @pytest.mark.parametrize("weights", ["imagenet", "none", "a.pth", "b.pt", "c/d.safetensors"])
    def test_weights(self, weights: str) -> None:
        assert config(model={"weights": weights}).model.weights == weights

    @pytest.mark.parametrize("weights", ["", "Imagenet", "a.bin", "a.pth.zip", "pth"])
    def test_other_weights(self, weights: str) -> None:
        refused(r"model\.weights", model={"weights": weights})

    def test_tiny_has_no_imagenet_weights(self) -> None:
        refused("tiny, which has no ImageNet weights", model={"backbone": "tiny"})
        config(model={"backbone": "tiny", "weights": "none"})
        config(model={"backbone": "tiny", "weights": "mine.pth"})

    def test_proposals_from_a_file(self) -> None:
        refused("expected proposals.file", proposals={"source": "file"})
        refused("expected no proposals.file", proposals={"source": "grid", "file": "a.npz"})
        config(proposals={"source": "file", "file": "a.npz"})

    @pytest.mark.parametrize(("backbone", "native"), [("alexnet", 6), ("vgg16", 7)])
    def test_a_pretrained_fc6_has_its_sizes(self, backbone: str, native: int) -> None:
        def model(**keys: Any) -> dict[str, Any]:
            return {"backbone": backbone, **keys}

        config(model=model(roi_size=native, fc_dim=4096))
        refused(f"expected model.roi_size: {native}", model=model(roi_size=native + 1))
        refused("expected model.fc_dim: 4096", model=model(fc_dim=1024))
        config(model=model(roi_size=native + 1, fc_dim=1024, weights="none"))
        config(task="localizer", model=model(roi_size=native + 1))

    def test_another_backbone_has_no_fc6(self) -> None:
        config(model={"backbone": "resnet18", "roi_size": 3, "fc_dim": 64})


class TestIdentity:
    def test_is_everything_but_the_neutral_keys(self) -> None:
        def flat(values: dict[str, Any], prefix: str = "") -> set[str]:
            found: set[str] = set()
            for key, value in values.items():
                found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
            return found

        assert flat(config().identity()) == set(leaf_keys(ExperimentConfig)) - RESULT_NEUTRAL_KEYS - {"code"}

    def test_has_the_generation_where_there_is_one(self) -> None:
        """Those of the first generation are as they were before the key was there."""
        changed = config(code="0123456789ab").identity()
        assert changed.pop("code") == "0123456789ab"
        assert changed == config().identity()

    def test_neutral_keys_exist(self) -> None:
        assert set(leaf_keys(ExperimentConfig)) >= RESULT_NEUTRAL_KEYS
        assert "data.workers" in RESULT_NEUTRAL_KEYS

    def test_leaves_the_config_alone(self) -> None:
        found = config(data={"root": "digits", "workers": 3})
        assert found.identity() == config().identity()
        assert found.data.workers == 3
