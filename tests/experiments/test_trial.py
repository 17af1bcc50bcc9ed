from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.trial import TrialPlan, TrialState, identity_texts, signature, signature_of
from experiments.validation_messages import leaf_keys
from wsol.config import RESULT_NEUTRAL_KEYS, ExperimentConfig

REPOSITORY = Path(__file__).resolve().parents[2]

BASE: dict[str, Any] = {
    "task": "wsddn",
    "data": {"root": "digits", "classes": ["cat", "dog"]},
    "proposals": {"source": "file", "file": "a.npz"},
    "model": {"backbone": "resnet18", "weights": "none"},
}

OTHER_VALUES: dict[str, Any] = {
    "task": "localizer",
    "seed": 1,
    "data.root": "elsewhere",
    "data.train": "trainval",
    "data.eval": "test",
    "data.classes": ["dog", "cat"],  # another order: another meaning of the network's outputs
    "data.workers": 3,
    "proposals.source": "grid",
    "proposals.quality": "quality",
    "proposals.resize_px": 500,
    "proposals.file": "b.npz",
    "proposals.count": None,
    "proposals.min_size_px": 21,
    "proposals.grid_scales": [0.25, 0.5],
    "proposals.grid_aspect_ratios": [1.0],
    "proposals.grid_stride": 0.5,
    "model.backbone": "resnet50",
    "model.weights": "imagenet",
    "model.freeze": 2,
    "model.freeze_batchnorm": False,
    "model.stride": 8,
    "model.dropout": 0.25,
    "model.roi_op": "roi_align",
    "model.roi_size": 5,
    "model.fc_dim": 64,
    "model.detection_temperature": 2.0,
    "model.box_scores": "score",
    "model.size_prior": -1.0,
    "model.context": "contrastive",
    "model.refinement": 3,
    "model.refinement_foreground_iou": 0.6,
    "model.refinement_ignore_iou": 0.0,
    "model.head": "oquab",
    "model.hidden_channels": 128,
    "model.maps_per_class": 8,
    "model.map_smoothing": 3,
    "model.map_dropout": 0.3,
    "model.pooling": "average",
    "model.lse_r": 10.0,
    "model.topk": 1,
    "model.wildcat_k_max": 5,
    "model.wildcat_k_min": 5,
    "model.wildcat_alpha": 0,
    "model.generalized_mean_r": 1,
    "model.gwrp_decay": 0.5,
    "model.attention_dim": 64,
    "model.attention_gated": True,
    "train.epochs": 21,
    "train.optimizer": "adam",
    "train.lr": 1.0000001e-05,
    "train.lr_schedule": "cosine",
    "train.lr_milestones": [10],
    "train.lr_step_epochs": 5,
    "train.lr_gamma": 0.5,
    "train.warmup_steps": 100,
    "train.backbone_lr_factor": 0.1,
    "train.head_lr_factor": 10,
    "train.refinement_lr_factor": 10,
    "train.bias_lr_factor": 2,
    "train.momentum": 0,
    "train.weight_decay": 0,
    "train.batch_size": 2,
    "train.accumulate": 2,
    "train.resize": "square",
    "train.scales_px": [480],
    "train.max_side_px": 1000,
    "train.pad_square": True,
    "train.rescale": [0.7, 1.4],
    "train.flip": False,
    "train.spatial_weight": 0.0001,
    "train.spatial_iou": 0.5,
    "train.spatial_top": 5,
    "evaluate.every": 2,
    "evaluate.scales_px": [600],
    "evaluate.flip": True,
    "evaluate.combine": "sum",
    "evaluate.batch_size": 2,
    "evaluate.nms_iou": 0.3,
    "evaluate.score_threshold": 0,
    "evaluate.box_threshold": 0.2,
    "evaluate.box_components": "all",
    "evaluate.metrics": ["ap30_area"],
    "evaluate.pictures": 0,
    "checkpoint.every": "10 minutes",
    "code": "0123456789ab",
}


def config(**changes: Any) -> ExperimentConfig:
    values = copy.deepcopy(BASE)
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        section = values
        for name in sections:
            section = section.setdefault(name, {})
        section[leaf] = value
    if "train.lr_step_epochs" in changes:
        values["train"]["lr_schedule"] = "step"  # which alone has such a length
    if values["proposals"]["source"] != "file":
        del values["proposals"]["file"]
    return ExperimentConfig.model_validate(values)


class TestSignature:
    def test_every_key_has_another_value_here(self) -> None:
        assert list(OTHER_VALUES) == list(leaf_keys(ExperimentConfig))

    @pytest.mark.parametrize("key", OTHER_VALUES)
    def test_every_key_but_the_neutral_ones_changes_it(self, key: str) -> None:
        changed = signature(config(**{key: OTHER_VALUES[key]}))
        assert (changed == signature(config())) == (key in RESULT_NEUTRAL_KEYS)

    def test_no_two_of_these_are_equal(self) -> None:
        signatures = {signature(config(**{key: value})) for key, value in OTHER_VALUES.items()}
        unchanged = len(RESULT_NEUTRAL_KEYS) - 1  # one of the neutral keys stands for the unchanged config
        assert len(signatures) == len(OTHER_VALUES) - unchanged

    def test_an_empty_code_is_no_part_of_it(self) -> None:
        """Trials that are older than the key keep their signatures."""
        texts = {name: text for name, text in identity_texts(config()).items() if name != "code"}
        assert signature(config()) == signature_of(texts)

    def test_is_64_hex_digits(self) -> None:
        assert len(signature(config())) == 64
        int(signature(config()), 16)

    def test_a_default_written_out_is_the_default(self) -> None:
        assert signature(config(**{"train.lr": 1e-5, "train.epochs": 20, "seed": 0})) == signature(config())

    def test_whole_numbers_for_fractions(self) -> None:
        assert signature(config(**{"train.lr": 1})) == signature(config(**{"train.lr": 1.0}))

    def test_order_of_keys(self) -> None:
        backwards = {key: dict(reversed(v.items())) if isinstance(v, dict) else v for key, v in reversed(BASE.items())}
        assert list(backwards) != list(BASE)
        assert signature(ExperimentConfig.model_validate(backwards)) == signature(config())

    def test_of_a_config_that_came_back_from_json(self) -> None:
        plain = config(**{"train.lr": 1e-7}).model_dump(mode="json")
        assert signature(ExperimentConfig.model_validate(plain)) == signature(config(**{"train.lr": 1e-7}))

    def test_in_another_process_with_another_hash_seed(self) -> None:
        program = (
            "import json, sys\nfrom experiments.trial import signature\nfrom wsol.config import ExperimentConfig\n"
            "print(signature(ExperimentConfig.model_validate_json(sys.argv[1])))"
        )
        found = [
            subprocess.run(
                [sys.executable, "-c", program, config().model_dump_json()],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for seed in ("1", "2")
        ]
        assert found == [signature(config())] * 2


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "1E-03", ".001", "+1.e-3"])
def test_spellings_of_a_number_are_one_trial(load: Any, text: str) -> None:
    search = "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [%s]}\n"
    assert load(search % text).plans[0].signature == load(search % "0.001").plans[0].signature


def test_the_signature_does_not_depend_on_where_the_value_stands(load: Any) -> None:
    swept = load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.5]}\n").plans[0]
    shared = load("{EXPERIMENT}\n  train: {lr: 0.5}\n").plans[0]
    assert swept.signature == shared.signature


def test_states_that_end_a_trial() -> None:
    assert [state for state in TrialState if state.is_finished] == ["COMPLETE", "PRUNED", "FAIL"]


def test_the_value_of_a_key_that_is_not_swept() -> None:
    plan = TrialPlan(config=config(), swept={"train.lr": 1e-5}, signature="", configuration="")
    assert plan.value("train.epochs") == 20
    assert plan.value("seed") == 0
    assert plan.value("data.classes") == ("cat", "dog")
