"""Which backbone names exist, known without importing torch or timm (so that a spec is checked at once)."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from pathlib import Path

BACKBONE_STAGES = {
    "tiny": ("conv1", "conv2", "conv3", "conv4"),
    "alexnet": ("conv1", "conv2", "conv3", "conv4", "conv5"),
    "vgg16": ("block1", "block2", "block3", "block4", "block5"),
    "resnet18": ("stem", "layer1", "layer2", "layer3"),
    "resnet50": ("stem", "layer1", "layer2", "layer3"),
}
"""The stages of the built-in backbones, from the image up. Those of a timm model are the stages that timm names."""
BUILT_IN_BACKBONES = tuple(BACKBONE_STAGES)
TIMM_PREFIX = "timm/"

_REGISTERED_MODEL = re.compile(r"^@register_model\s+def\s+(\w+)\(", re.MULTILINE)


@functools.cache
def timm_model_names() -> frozenset[str]:
    """The architectures that the installed timm registers, read from its source.

    `timm.list_models()` gives the same names but imports torch, which takes seconds; a dry run has
    a second in all. Empty where timm is not installed.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    folder = Path(spec.submodule_search_locations[0]) / "models"
    return frozenset(
        name for path in folder.glob("*.py") for name in _REGISTERED_MODEL.findall(path.read_text("utf-8"))
    )


def check_backbone_name(name: str) -> str:
    """Returns `name` if such a backbone exists.

    Raises:
        ValueError: with what is allowed and the nearest name.
    """
    if name in BUILT_IN_BACKBONES:
        return name
    if name.startswith(TIMM_PREFIX):
        architecture = name.removeprefix(TIMM_PREFIX).split(".")[0]  # "resnet50.a1_in1k" names weights after the dot
        if architecture in timm_model_names():
            return name
    raise ValueError(f"expected one of {', '.join(BUILT_IN_BACKBONES)} or timm/<model>{_nearest(name)}")


def _nearest(name: str) -> str:
    candidates = [*BUILT_IN_BACKBONES, *(TIMM_PREFIX + model for model in timm_model_names())]
    near = difflib.get_close_matches(name, candidates, n=1) or difflib.get_close_matches(
        TIMM_PREFIX + name, candidates, n=1
    )
    return f"; did you mean {near[0]}?" if near else ""
