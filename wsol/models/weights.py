"""Reading weights, and fitting them strictly into the part of a classifier that a backbone keeps."""

from __future__ import annotations

import http.client
import itertools
import pickle
import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_SHOWN_KEYS = 4
_DAMAGED = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.PickleError,
    struct.error,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
"""What torch.load raises for files that are no checkpoints: the restricted unpickler stumbles in many ways."""


class WeightsError(ValueError):
    """Weights that cannot be had, or do not fit the architecture."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth, .pt or .safetensors file, on the CPU.

    A state dict inside `state_dict`, `model` or `model_state_dict` is taken out, a common prefix `module.`
    (from DataParallel) is taken off. Nothing in the file is executed.

    Raises:
        WeightsError: when the file is missing, of another kind, damaged, or holds no state dict.
    """
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise WeightsError(f"got {path} for model.weights; expected a file ending in .pth, .pt or .safetensors")
    if not path.is_file():
        raise WeightsError(f"got {path} for model.weights; expected a file, and there is none")
    return _unwrap(_read(path), path)


def _read(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGED, SafetensorError) as error:
        raise WeightsError(
            f"got {path} for model.weights, which cannot be read ({_first_line(error)}); "
            "expected a whole file of tensors (code in a checkpoint is refused)"
        ) from error


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"got {path} for model.weights, which holds no named tensors; expected a state dict")
    state = {str(key): value for key, value in content.items()}
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(f"got {path} for model.weights with {_listed(others)} no tensors; expected a state dict")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def torchvision_imagenet_weights(name: str) -> dict[str, Tensor]:
    """torchvision's best ImageNet weights of the architecture `name`, from torch hub's cache or the network.

    Raises:
        WeightsError: when they cannot be downloaded or read; says where the file may be put by hand.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)["DEFAULT"]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True))
    except (*_DAMAGED, http.client.HTTPException) as error:
        raise WeightsError(
            f"got imagenet for model.weights, but those of {name} cannot be loaded ({_first_line(error)}); expected "
            f"{weights.url} within reach, or that file at {cached}, or anywhere with its path as model.weights"
        ) from error


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], *, keys: Mapping[str, str], known: Collection[str], source: str
) -> None:
    """Copies weights into `module`, all or none of it.

    Args:
        module: Takes the values in place, in its own dtype and on its own device.
        state: The weights of the architecture, whole or cut.
        keys: For each key of `module`, the key that `state` has for it. BatchNorm's `num_batches_tracked` may be
            absent from `state`, as it is from old files; it is then 0.
        known: Every key of the whole architecture. Those that `module` has no use for are passed over.
        source: What an error message calls `state`, and for which architecture: "FILE, for alexnet,".

    Raises:
        WeightsError: names the missing keys, those of another shape, and those that the architecture does not know.
    """
    own = module.state_dict()
    values: dict[str, Tensor] = {}
    missing, misshapen = [], []
    for key, tensor in own.items():
        value = state.get(keys[key])
        if value is None and key.endswith("num_batches_tracked"):
            value = torch.zeros_like(tensor)
        if value is None:
            missing.append(keys[key])
        elif value.shape != tensor.shape:
            misshapen.append(f"{keys[key]}: got {tuple(value.shape)}, expected {tuple(tensor.shape)}")
        else:
            values[key] = value
    unknown = [key for key in state if key not in known]
    problems = {"missing": missing, "of another shape": misshapen, "unknown": unknown}
    if any(problems.values()):
        text = "; ".join(f"{_listed(found)} {kind}" for kind, found in problems.items() if found)
        raise WeightsError(f"got {source} for model.weights with {text}; expected the weights of that architecture")
    module.load_state_dict(values)


def _listed(items: Collection[str]) -> str:
    """How many, and the first few: `6 (a, b, c, d, ...)`."""
    shown: Iterable[str] = itertools.islice(items, _SHOWN_KEYS)
    return f"{len(items)} ({', '.join(shown)}{', ...' if len(items) > _SHOWN_KEYS else ''})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
