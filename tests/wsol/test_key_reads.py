"""Which keys a trial reads: the markers, and for every one of them trials that are trained with and without a change.

A trial here is the smallest there is, so it shows a change only if it is looked at closely: two trials are alike where
weights, losses, learning rates, metrics and detections are, to the bit. Trials of other backbones than `tiny` are there
for keys that mean nothing to `tiny`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import timeit
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.validation_messages import leaf_keys
from wsol import checkpoint
from wsol.backbone_names import BACKBONE_STAGES, check_backbone_name
from wsol.build import build_model
from wsol.config import RESULT_NEUTRAL_KEYS, ExperimentConfig
from wsol.data import digits
from wsol.data.proposal_formats import write_proposal_npz
from wsol.data.proposals import Proposals
from wsol.key_reads import Except, ReadWhen, marked_keys, unread_keys
from wsol.models import backbones
from wsol.models.architectures import plan_architecture
from wsol.models.backbones import build_backbone
from wsol.seeding import generator
from wsol.training import EpochRecord, Watch, fit

Context = Mapping[str, Any]
"""What a config has besides `BASE`, by dotted key."""

CLASSES = ("digit_0", "digit_1", "digit_2")
IMAGE_WIDTH, IMAGE_HEIGHT = 72, 48

# FOLDER is that of the files below. With no epochs to spare, the learning rate is large.
BASE: Context = {
    "task": "wsddn",
    "data.root": "FOLDER/data",
    "data.classes": CLASSES,
    "proposals.source": "grid",
    "proposals.count": 12,
    "proposals.min_size_px": 10.0,
    "model.backbone": "tiny",
    "model.weights": "none",
    "model.roi_size": 3,
    "model.fc_dim": 8,
    "model.hidden_channels": 8,
    "model.attention_dim": 4,
    "train.epochs": 1,
    "train.lr": 0.05,
    "train.batch_size": 2,
    "train.scales_px": (60, 80),
}
WSDDN: Context = {}
LOC = {"task": "localizer"}
SEARCH = {"proposals.source": "selective_search"}
FILE = {"proposals.source": "file", "proposals.file": "FOLDER/a.npz"}
REFINED = {"model.refinement": 2}
SPATIAL = {"train.spatial_weight": 1.0, "train.spatial_iou": 0.2}
LINEAR, OQUAB = LOC | {"model.head": "linear"}, LOC | {"model.head": "oquab"}
ALEXNET, RESNET, TIMM = ({"model.backbone": name} for name in ("alexnet", "resnet18", "timm/test_resnet"))
FEATURES = ALEXNET | {"model.weights": "FOLDER/alexnet.pth"}  # a file without fc6 and fc7
IMAGENET = {"model.weights": "imagenet"}
TWO_EPOCHS = {"train.epochs": 2}
COSINE = {"train.lr_schedule": "cosine"}
STEP = {"train.lr_schedule": "step", "train.lr_step_epochs": 1}
VIEWS = {"evaluate.scales_px": (60, 80)}
FLIPPED = {"evaluate.flip": True}
PEAKS = {"evaluate.box_threshold": 0.6, "evaluate.scales_px": (160,)}  # on a finer map, of which a class has several


def frozen(stages: int | str) -> dict[str, Any]:
    return {"model.freeze": stages}


def pooled(name: str) -> dict[str, Any]:
    return {"model.pooling": name}


def of_pooling(name: str, key: str, to: Any) -> tuple[str, Any, list[Context], list[Context]]:
    return key, to, [LOC | pooled(name)], [LOC, pooled(name)]


# Key, another value, configs that read the key, configs that do not.
TABLE: list[tuple[str, Any, list[Context], list[Context]]] = [
    ("proposals.source", "selective_search", [WSDDN], [LOC]),
    ("proposals.quality", "quality", [SEARCH], [WSDDN, LOC | SEARCH]),
    ("proposals.resize_px", 100, [SEARCH], [WSDDN, LOC | SEARCH]),
    ("proposals.file", "FOLDER/b.npz", [FILE], [LOC | FILE]),
    ("proposals.count", 5, [WSDDN, SEARCH, FILE], [LOC]),
    ("proposals.min_size_px", 20.0, [WSDDN, SEARCH, FILE], [LOC]),
    ("proposals.grid_scales", (0.5,), [WSDDN], [SEARCH, FILE, LOC]),
    ("proposals.grid_aspect_ratios", (1.5,), [WSDDN], [SEARCH, FILE, LOC]),
    ("proposals.grid_stride", 0.5, [WSDDN], [SEARCH, FILE, LOC]),
    (
        "model.freeze_batchnorm",
        True,
        [RESNET, RESNET | frozen(3), TIMM],
        [WSDDN, LOC, ALEXNET, RESNET | frozen("all"), LOC | RESNET | frozen(4), TIMM | frozen("all")],
    ),
    ("model.stride", 8, [ALEXNET, LOC | RESNET, TIMM], [WSDDN, LOC]),
    ("model.dropout", 0.0, [WSDDN, {"model.head": "linear"}, LOC, OQUAB], [LINEAR]),
    ("model.roi_op", "roi_align", [WSDDN], [LOC]),
    ("model.roi_size", 2, [WSDDN, {"model.weights": "FOLDER/tiny.pth"}, RESNET, ALEXNET], [LOC, OQUAB]),
    ("model.fc_dim", 16, [WSDDN, ALEXNET, RESNET | IMAGENET], [LOC, LINEAR]),
    (
        "model.fc_dim",
        16,
        [OQUAB, OQUAB | ALEXNET, OQUAB | FEATURES, OQUAB | RESNET | IMAGENET],
        [OQUAB | ALEXNET | IMAGENET],
    ),
    ("model.detection_temperature", 2.0, [WSDDN], [LOC]),
    ("model.box_scores", "score", [FILE], [LOC, LOC | FILE]),
    ("model.size_prior", 1.0, [WSDDN], [LOC]),
    ("model.context", "contrastive", [WSDDN], [LOC]),
    ("model.refinement", 2, [WSDDN], [LOC]),
    ("model.refinement_foreground_iou", 0.2, [REFINED], [WSDDN, LOC | REFINED]),
    ("model.refinement_ignore_iou", 0.4, [REFINED], [WSDDN, LOC | REFINED]),
    ("model.head", "linear", [LOC], [WSDDN]),
    ("model.hidden_channels", 16, [LOC, OQUAB], [WSDDN, LINEAR]),
    ("model.maps_per_class", 2, [LOC, LINEAR], [WSDDN]),
    ("model.map_smoothing", 3, [LOC, LINEAR], [WSDDN]),
    ("model.map_dropout", 0.5, [LOC, LINEAR], [WSDDN]),
    ("model.pooling", "average", [LOC, LINEAR], [WSDDN]),
    of_pooling("lse", "model.lse_r", 1.0),
    of_pooling("topk", "model.topk", 5),
    of_pooling("wildcat", "model.wildcat_k_max", 5),
    of_pooling("wildcat", "model.wildcat_k_min", 5),
    ("model.wildcat_k_min", 5, [], [LOC | pooled("wildcat") | {"model.wildcat_alpha": 0.0}]),
    of_pooling("wildcat", "model.wildcat_alpha", 0.0),
    of_pooling("generalized_mean", "model.generalized_mean_r", 1.0),
    of_pooling("gwrp", "model.gwrp_decay", 0.5),
    of_pooling("attention", "model.attention_dim", 2),
    of_pooling("attention", "model.attention_gated", True),
    ("train.lr_milestones", (1,), [TWO_EPOCHS], []),
    ("train.lr_step_epochs", 2, [TWO_EPOCHS | STEP], []),
    (
        "train.lr_gamma",
        0.5,
        [TWO_EPOCHS | STEP, TWO_EPOCHS | {"train.lr_milestones": (1,)}],
        [TWO_EPOCHS, TWO_EPOCHS | COSINE],
    ),
    (
        "train.backbone_lr_factor",
        0.1,
        [WSDDN, frozen(3), LOC | frozen(1), ALEXNET, ALEXNET | frozen(4), RESNET | frozen(3), TIMM, TIMM | frozen(1)],
        [frozen("all"), frozen(4), LOC | frozen(4), ALEXNET | frozen(5), RESNET | frozen(4), TIMM | frozen("all")],
    ),
    ("train.refinement_lr_factor", 10.0, [REFINED], [WSDDN, LOC | REFINED]),
    ("train.momentum", 0.5, [WSDDN, LOC], [{"train.optimizer": "adam"}, LOC | {"train.optimizer": "adamw"}]),
    (
        "train.max_side_px",
        70,
        [{"train.resize": "shorter"}, LOC | {"train.resize": "shorter"}],
        [WSDDN, LOC, {"train.resize": "square"}, LOC | {"train.resize": "square"}],
    ),
    (
        "train.pad_square",
        True,
        [WSDDN, LOC, {"train.resize": "shorter"}],
        [{"train.resize": "square"}, LOC | {"train.resize": "square", "train.rescale": (0.7, 1.4)} | VIEWS | FLIPPED],
    ),
    ("train.spatial_weight", 1.0, [WSDDN], [LOC]),
    ("train.spatial_iou", 0.4, [SPATIAL], [WSDDN, LOC | SPATIAL]),
    ("train.spatial_top", 2, [SPATIAL], [WSDDN, LOC | SPATIAL]),
    ("evaluate.combine", "sum", [VIEWS, FLIPPED, FLIPPED | REFINED], [WSDDN, LOC, LOC | VIEWS, LOC | FLIPPED]),
    (
        "evaluate.nms_iou",
        0.0,
        [WSDDN, LINEAR | PEAKS | {"evaluate.box_components": "all"}],
        [LOC, LINEAR | PEAKS, OQUAB],
    ),
    ("evaluate.box_threshold", 0.9, [LOC, LOC | {"evaluate.box_components": "all"}], [WSDDN]),
    ("evaluate.box_components", "all", [LINEAR | PEAKS], [WSDDN, FLIPPED]),
]

# Key, any other value, a config that does not read the key and may have no other value of it, and why.
FORCED: list[tuple[str, Any, Context, str]] = [
    ("proposals.file", "FOLDER/b.npz", WSDDN, "expected no proposals.file with proposals.source: grid"),
    ("proposals.file", "FOLDER/b.npz", SEARCH, "expected no proposals.file with proposals.source: selective_search"),
    ("model.box_scores", "score", WSDDN, "expected model.box_scores: none with proposals.source: grid"),
    ("train.lr_milestones", (1,), COSINE, "expected no train.lr_milestones but with train.lr_schedule: multistep"),
    ("train.lr_milestones", (1,), STEP, "expected no train.lr_milestones but with train.lr_schedule: multistep"),
    ("train.lr_step_epochs", 1, WSDDN, "expected train.lr_step_epochs with train.lr_schedule: step, and with no other"),
    ("train.lr_step_epochs", 1, COSINE, "expected train.lr_step_epochs with train.lr_schedule: step, and with no othe"),
]

# For the keys without a marker, which every trial of either task reads, another value (and what else it takes).
UNMARKED: dict[str, tuple[Any, Context]] = {
    "seed": (1, {}),
    "data.root": ("FOLDER/other", {}),
    "data.train": ("trainval", {}),
    "data.eval": ("trainval", {}),
    "data.classes": (CLASSES[:2], {}),
    "model.backbone": ("alexnet", {}),
    "model.weights": ("FOLDER/tiny.pth", {}),
    "model.freeze": (1, {}),
    "train.epochs": (2, {}),
    "train.optimizer": ("adam", {}),
    "train.lr": (0.02, {}),
    "train.lr_schedule": ("cosine", {}),
    "train.warmup_steps": (2, {}),
    "train.head_lr_factor": (0.1, {}),
    "train.bias_lr_factor": (2.0, {}),
    "train.weight_decay": (0.1, {}),
    "train.batch_size": (3, {}),
    "train.accumulate": (2, {}),
    "train.resize": ("shorter", {}),
    "train.scales_px": ((60,), {}),
    "train.rescale": ((0.7, 1.4), {}),
    "train.flip": (False, {}),
    "evaluate.every": (2, TWO_EPOCHS),
    "evaluate.scales_px": ((60,), {}),
    "evaluate.flip": (True, {}),
    "evaluate.score_threshold": (0.9, {}),
    "evaluate.metrics": (("ap30_area",), {}),
}
NOT_SEEN = {
    "code",  # it tells sources apart and is nothing that a source reads
    "task",  # it is what UNMARKED is tried with, and half of TABLE differs by it
    *RESULT_NEUTRAL_KEYS,  # loader processes, and pictures that are drawn when all is over
    "evaluate.batch_size",  # changes rounding on some machines and models, and nothing at all on others
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is claimed of `key`, when it changes to `to` in a config of `context`."""

    key: str
    to: Any
    context: Context


READ = [Claim(key, to, context) for key, to, read, _ in TABLE for context in read]
UNREAD = [Claim(key, to, context) for key, to, _, unread in TABLE for context in unread]
ALWAYS_READ = [Claim(k, to, {**task, **more}) for k, (to, more) in UNMARKED.items() for task in (WSDDN, LOC)]


def named(claim: Claim) -> str:
    return "-".join([claim.key, *(str(value).rpartition("/")[2] for value in claim.context.values())])


class Lab:
    """Trains trials, each once, and says what is to be seen of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[ExperimentConfig, dict[str, str]] = {}

    def config(self, context: Context, changes: Context) -> ExperimentConfig:
        values: dict[str, Any] = {}
        for key, value in {**BASE, **context, **changes}.items():
            section, _, name = key.rpartition(".")
            target = values.setdefault(section, {}) if section else values
            target[name] = value.replace("FOLDER", str(self._folder)) if isinstance(value, str) else value
        return ExperimentConfig.model_validate(values)

    def pair(self, claim: Claim) -> tuple[ExperimentConfig, ExperimentConfig]:
        """Without and with the change."""
        before, after = self.config(claim.context, {}), self.config(claim.context, {claim.key: claim.to})
        assert before != after
        return before, after

    def seen(self, config: ExperimentConfig) -> dict[str, str]:
        if config not in self._seen:
            too_large = config.model.weights == "imagenet"
            self._seen[config] = _built(config) if too_large else self._trained(config)
        return self._seen[config]

    def _trained(self, config: ExperimentConfig) -> dict[str, str]:
        records: list[EpochRecord] = []
        states: list[dict[str, Any]] = []
        with pytest.MonkeyPatch.context() as patch:  # kept here, which takes no time; files have tests of their own
            patch.setattr(checkpoint, "save", lambda folder, state, *, number: states.append(state))
            result = fit(
                config,
                checkpoint_dir=self._folder / "no checkpoints",
                device=torch.device("cpu"),
                on_epoch=records.append,
                watch=Watch(lambda: False),
                threads=1,
            )
        return {
            "weights": _digest(states[-1]["model"]),
            "losses": repr([(record.lr, record.loss, record.losses) for record in records]),
            "metrics": repr([*(record.metrics for record in records), result.metrics]),
            "detections": _digest(result.detections),
        }


def _built(config: ExperimentConfig) -> dict[str, str]:
    """The initial model alone, since fc6 and fc7 of published size take long to train, and ImageNet's are not here.

    Zeros stand for ImageNet's weights. What these keys decide is the size of layers and where weights come from.
    """

    def zeros(name: str) -> dict[str, Tensor]:
        with torch.device("meta"):
            whole = getattr(torchvision.models, name)(weights=None)
        return {key: torch.zeros(value.shape) for key, value in whole.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "torchvision_imagenet_weights", zeros)
        model = build_model(config, num_classes=len(CLASSES))
    return {"layers": repr(model), "weights": _digest(model.state_dict())}


def _digest(value: Any) -> str:
    """Of arrays to the bit, with their names, types and shapes."""
    found = hashlib.blake2b()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).data.cast("B") if value.size else b""
    elif dataclasses.is_dataclass(value):
        yield from _parts({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        yield from (part for key, item in value.items() for part in (key.encode(), *_parts(item)))
    elif isinstance(value, list | tuple):
        yield from (part for item in value for part in _parts(item))
    else:
        yield repr(value).encode()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    for seed, name in enumerate(("data", "other")):
        digits.generate(folder / name, seed=seed, train=4, val=3, test=0, image_px=IMAGE_HEIGHT)
        _widen(folder / name)
    ids = sorted(path.stem for path in (folder / "data" / "JPEGImages").iterdir())
    for seed, name in enumerate(("a.npz", "b.npz")):
        write_proposal_npz(folder / name, {image_id: _boxes(seed, image_id) for image_id in ids})
    tiny = build_backbone(name="tiny", weights="none", freeze="none", freeze_batchnorm=None)
    _save_weights(folder / "tiny.pth", tiny.body.state_dict())
    with torch.device("meta"):
        features = torchvision.models.alexnet(weights=None).features
    _save_weights(folder / "alexnet.pth", {f"features.{key}": value for key, value in features.state_dict().items()})
    return Lab(folder)


def _widen(root: Path) -> None:
    """Square images look alike in every `train.resize`; these get a strip on the right."""
    for path in (root / "JPEGImages").iterdir():
        with Image.open(path) as image:
            strip = ((0, 0), (0, IMAGE_WIDTH - IMAGE_HEIGHT), (0, 0))
            pixels = np.pad(np.asarray(image), strip, mode="reflect")
        Image.fromarray(pixels).save(path, quality=95)
    for path in (root / "Annotations").iterdir():
        text = path.read_text("utf-8")
        path.write_text(text.replace(f"<width>{IMAGE_HEIGHT}<", f"<width>{IMAGE_WIDTH}<"), "utf-8")


def _boxes(seed: int, image_id: str) -> Proposals:
    rng = generator(seed, "test boxes", image_id)
    corners = rng.uniform(0, 0.5, (15, 2))
    fractions = np.concatenate([corners, corners + rng.uniform(0.2, 0.5, (15, 2))], axis=1)
    boxes = fractions * np.tile([IMAGE_WIDTH, IMAGE_HEIGHT], 2)
    return Proposals(boxes.astype(np.float32), rng.random(15, dtype=np.float32))


def _save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    rng = torch.Generator().manual_seed(1)
    torch.save({key: 0.05 * torch.randn(value.shape, generator=rng) for key, value in state.items()}, path)


class TestProof:
    @pytest.mark.parametrize("claim", UNREAD, ids=named)
    def test_what_is_declared_unread_changes_no_bit(self, lab: Lab, claim: Claim) -> None:
        before, after = lab.pair(claim)
        assert claim.key in unread_keys(before)
        assert claim.key in unread_keys(after)
        assert lab.seen(after) == lab.seen(before)

    @pytest.mark.parametrize("claim", READ, ids=named)
    def test_what_is_declared_read_shows(self, lab: Lab, claim: Claim) -> None:
        before, after = lab.pair(claim)
        assert claim.key not in unread_keys(before)
        assert claim.key not in unread_keys(after)
        assert lab.seen(after) != lab.seen(before)

    @pytest.mark.parametrize(("key", "to", "context", "message"), FORCED)
    def test_what_may_have_no_other_value(self, lab: Lab, key: str, to: Any, context: Context, message: str) -> None:
        assert key in unread_keys(lab.config(context, {}))
        with pytest.raises(ValidationError, match=message):
            lab.config(context, {key: to})

    @pytest.mark.parametrize("claim", ALWAYS_READ, ids=named)
    def test_what_has_no_marker_shows(self, lab: Lab, claim: Claim) -> None:
        before, after = lab.pair(claim)
        assert claim.key not in unread_keys(before)
        assert lab.seen(after) != lab.seen(before)

    def test_every_key_is_tried(self) -> None:
        marked = marked_keys(ExperimentConfig).keys()
        assert {claim.key for claim in READ} == marked
        assert {claim.key for claim in UNREAD} | {key for key, *_ in FORCED} == marked
        assert UNMARKED.keys() | NOT_SEEN == set(leaf_keys(ExperimentConfig)) - marked
        assert not UNMARKED.keys() & NOT_SEEN

    @pytest.mark.parametrize("key", marked_keys(ExperimentConfig))
    def test_every_condition_is_tried(self, lab: Lab, key: str) -> None:
        """Each alternative holds in a config that reads the key, each of its conditions fails in one that does not."""
        read = [lab.config(claim.context, {}) for claim in READ if claim.key == key]
        unread = [lab.config(claim.context, {}) for claim in UNREAD if claim.key == key]
        unread += [lab.config(context, {}) for forced, _, context, _ in FORCED if forced == key]
        for alternative in marked_keys(ExperimentConfig)[key].alternatives:
            assert any(all(_holds(*condition, config) for condition in alternative) for config in read), alternative
            for condition in alternative:
                assert any(not _holds(*condition, config) for config in unread), condition


def _holds(key: str, wanted: Any, config: BaseModel) -> bool:
    value = functools.reduce(getattr, key.split("."), config)
    if isinstance(wanted, Except):
        return value not in wanted.values
    return value in wanted if isinstance(wanted, tuple) else bool(value == wanted)


class TestBackbones:
    """Which backbones train, and have BatchNorm that does, is known to the markers by name and number of stages."""

    @pytest.mark.parametrize(
        ("name", "freeze"),
        [
            (name, freeze)
            for name, stages in BACKBONE_STAGES.items()
            for freeze in ("none", *range(1, len(stages) + 1), "all")
        ],
    )
    def test_built_in_ones(self, lab: Lab, name: str, freeze: Any) -> None:
        unread = unread_keys(lab.config({"model.backbone": name}, frozen(freeze)))
        backbone = build_backbone(name=name, weights="none", freeze=freeze, freeze_batchnorm=False).train()
        trains = any(parameter.requires_grad for parameter in backbone.body.parameters())
        updates = any(layer.training for layer in backbone.body.modules() if isinstance(layer, _BatchNorm))
        assert ("train.backbone_lr_factor" not in unread, "model.freeze_batchnorm" not in unread) == (trains, updates)

    @pytest.mark.parametrize("name", sorted(BACKBONE_STAGES.keys() - {"tiny"}))
    def test_pretrained_fc_layers(self, lab: Lab, name: str) -> None:
        """Those of vgg16 are too large to be tried like alexnet's."""
        has_fc = plan_architecture(name, pretrained=True, stride=None).fc is not None
        oquab = OQUAB | IMAGENET | {"model.backbone": name}
        assert ("model.fc_dim" in unread_keys(lab.config(oquab, {}))) == has_fc

    def test_of_others_only_the_name_is_known(self, lab: Lab) -> None:
        """timm/test_resnet has BatchNorm and four stages, timm/test_vit neither; nobody says so without torch."""
        for name in ("timm/test_resnet", "timm/test_vit"):
            unread = unread_keys(lab.config({"model.backbone": name}, frozen(4)))
            assert not {"train.backbone_lr_factor", "model.freeze_batchnorm", "model.stride"} & unread.keys()


class TestMarkersOfTheConfig:
    def test_name_keys_that_there_are_and_values_that_they_may_have(self) -> None:
        for marker in marked_keys(ExperimentConfig).values():
            for key, wanted in (condition for alternative in marker.alternatives for condition in alternative):
                for value in wanted.values if isinstance(wanted, Except) else _tuple(wanted):
                    _check_value(key, value)

    @pytest.mark.parametrize(
        ("key", "value", "fault"),
        [
            ("model.poling", "max", "poling"),
            ("model.pooling", "best", "Input should be 'max'"),
            ("train.spatial_weight", "0", "valid number"),
            ("model.backbone", "lenet", "expected one of tiny"),
        ],
    )
    def test_what_this_finds(self, key: str, value: Any, fault: str) -> None:
        with pytest.raises((KeyError, ValueError), match=fault):
            _check_value(key, value)

    def test_no_marker_depends_on_its_own_key(self) -> None:
        """An unread key then stays unread whatever it is set to."""
        for key, marker in marked_keys(ExperimentConfig).items():
            assert key not in {name for alternative in marker.alternatives for name, _ in alternative}

    def test_pydantic_validates_as_without_them(self) -> None:
        for section in (ExperimentConfig, *(field.annotation for field in ExperimentConfig.model_fields.values())):
            for field in getattr(section, "model_fields", {}).values():
                others = [item for item in field.metadata if not isinstance(item, ReadWhen)]
                marked, plain = (_annotated(field.annotation, items) for items in (field.metadata, others))
                assert _comparable(marked.core_schema) == _comparable(plain.core_schema)

    def test_it_is_told_in_microseconds(self, lab: Lab) -> None:
        """10,000 configs are to cost less than a second; less than a tenth of it on an idle machine."""
        configs = [lab.config(task, pooled(name)) for task in (WSDDN, LOC) for name in ("max", "topk", "lse")]
        calls = 200 * len(configs)
        duration_s = min(timeit.repeat(lambda: [unread_keys(config) for config in configs], number=200, repeat=5))
        assert duration_s / calls < 100e-6


def _tuple(wanted: Any) -> tuple[Any, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _annotated(annotation: Any, metadata: list[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[(annotation, *metadata)] if metadata else annotation)


def _comparable(schema: Any) -> str:
    """As text, since pydantic makes some functions anew each time; typing, with its cache, may give 0 for 0.0."""
    return re.sub(r" at 0x[0-9a-f]+|(?<=\d)\.0\b", "", repr(schema))


def _check_value(key: str, value: Any) -> None:
    """Raises KeyError for a key that there is not, ValueError for a value that it may not have."""
    *sections, name = key.split(".")
    model: Any = ExperimentConfig
    for section in sections:
        model = model.model_fields[section].annotation
    field = model.model_fields[name]
    _annotated(field.annotation, field.metadata).validate_python(value, strict=True)
    if key == "model.backbone":
        check_backbone_name(value)


class Engine(BaseModel):
    fuel: Literal["petrol", "diesel", "none"] = "petrol"
    valves: Annotated[int, ReadWhen({"engine.fuel": Except("none")})] = 4
    spark_plugs: Annotated[int, ReadWhen({"engine.fuel": "petrol", "engine.valves": (2, 4)})] = 4


class Car(BaseModel):
    engine: Engine = Engine()
    doors: int = 4
    trailer: Annotated[str | None, ReadWhen({"doors": Except(2, 3)}, {"engine.fuel": "diesel"})] = None
    hitch: Annotated[str, ReadWhen({"trailer": Except(None)})] = "ball"
    seats: Annotated[tuple[int, ...], ReadWhen({"doors": (2,)})] = ()
    rows: Annotated[int, ReadWhen({"seats": Except(())})] = 2
    belts: Annotated[int, ReadWhen({"seats": ((), (1, 1))})] = 5


class TestUnreadKeys:
    @pytest.mark.parametrize(
        ("car", "unread"),
        [
            (Car(), {"hitch", "seats", "rows"}),
            (Car(trailer="horse"), {"seats", "rows"}),
            (Car(doors=2), {"trailer", "hitch", "rows"}),
            (Car(doors=3, engine=Engine(fuel="diesel")), {"engine.spark_plugs", "hitch", "seats", "rows"}),
            (Car(engine=Engine(fuel="diesel")), {"engine.spark_plugs", "hitch", "seats", "rows"}),  # both alternatives
            (Car(engine=Engine(valves=3)), {"engine.spark_plugs", "hitch", "seats", "rows"}),
            (Car(engine=Engine(fuel="none")), {"engine.valves", "engine.spark_plugs", "hitch", "seats", "rows"}),
            (Car(seats=(1, 1)), {"hitch", "seats"}),
            (Car(seats=(1,)), {"hitch", "seats", "belts"}),
        ],
    )
    def test_by_hand(self, car: Car, unread: set[str]) -> None:
        assert unread_keys(car).keys() == unread

    def test_come_with_their_markers_in_the_order_of_the_fields(self) -> None:
        found = unread_keys(Car(doors=2, engine=Engine(fuel="none", valves=2), trailer="boat"))
        assert list(found.items()) == [
            ("engine.valves", ReadWhen({"engine.fuel": Except("none")})),
            ("engine.spark_plugs", ReadWhen({"engine.fuel": "petrol", "engine.valves": (2, 4)})),
            ("trailer", ReadWhen({"doors": Except(2, 3)}, {"engine.fuel": "diesel"})),
            ("rows", ReadWhen({"seats": Except(())})),
        ]

    def test_are_the_callers_own(self) -> None:
        unread_keys(Car()).clear()
        assert unread_keys(Car())

    def test_whole_numbers_are_the_fractions_that_they_equal(self) -> None:
        class Loss(BaseModel):
            weight: float
            top: Annotated[int, ReadWhen({"weight": Except(0)})] = 3

        assert unread_keys(Loss(weight=0.0)).keys() == {"top"}
        assert not unread_keys(Loss(weight=1e-9))

    def test_of_a_class_without_markers(self) -> None:
        class Plain(BaseModel):
            value: int = 1

        assert unread_keys(Plain()) == {}

    def test_a_marker_that_names_no_key(self) -> None:
        class Wrong(BaseModel):
            value: Annotated[int, ReadWhen({"engine.fuel": "petrol"})] = 1

        with pytest.raises(AttributeError, match="engine"):
            unread_keys(Wrong())

    def test_the_users_example(self, lab: Lab) -> None:
        marker = unread_keys(lab.config(LOC, {"model.topk": 5}))["model.topk"]
        assert marker.text() == "{task: localizer, model.pooling: topk}"
        assert "model.topk" not in unread_keys(lab.config(LOC, pooled("topk")))


class TestReadWhen:
    @pytest.mark.parametrize(
        ("marker", "text"),
        [
            (ReadWhen({"model.pooling": "topk"}), "{model.pooling: topk}"),
            (ReadWhen({"model.refinement": Except(0)}), "{model.refinement: not 0}"),
            (ReadWhen({"task": "wsddn"}, {"head": ("a", "b")}), "{task: wsddn} or {head: [a, b]}"),
            (ReadWhen({"flip": True, "size": Except(None)}), "{flip: true, size: not null}"),
            (ReadWhen({"list": Except(())}), "{list: not []}"),
            (ReadWhen({"list": ((), (1, 2.5))}), "{list: [[], [1, 2.5]]}"),
            (ReadWhen({"freeze": Except("all", 4)}), "{freeze: not [all, 4]}"),
            (ReadWhen({"one": ("a",), "flip": False}), "{one: a, flip: false}"),
        ],
    )
    def test_text(self, marker: ReadWhen, text: str) -> None:
        assert marker.text() == text

    @pytest.mark.parametrize("alternatives", [(), ({},), ({"task": "wsddn"}, {}), ({"task": ()},)])
    def test_that_always_or_never_holds(self, alternatives: tuple[Context, ...]) -> None:
        with pytest.raises(ValueError, match="expected alternatives with entries that allow some value each"):
            ReadWhen(*alternatives)

    def test_except_nothing(self) -> None:
        with pytest.raises(ValueError, match=r"Except\(\), which everything is"):
            Except()

    def test_is_a_value(self) -> None:
        mapping: dict[str, Any] = {"task": "wsddn"}
        marker = ReadWhen(mapping)
        mapping["task"] = "localizer"
        assert marker == ReadWhen({"task": "wsddn"})
        assert len({marker, ReadWhen({"task": "wsddn"}), ReadWhen({"task": Except("wsddn")})}) == 2
        with pytest.raises(dataclasses.FrozenInstanceError, match="alternatives"):
            marker.alternatives = ()  # type: ignore[misc]
