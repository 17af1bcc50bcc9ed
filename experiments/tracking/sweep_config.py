"""What a W&B sweep says of this one: its parameters, so that W&B's parallel coordinates and importance find them. Pure.

The method is `custom` with a local controller: nobody at W&B schedules anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.parameters import Choice, Number, Parameter
from experiments.rules import same_value
from experiments.spec import SweepSpec

Values = dict[str, Any]


def sweep_config(spec: SweepSpec) -> Values:
    """Of a spec, as `wandb.sweep` takes it. Parameters are nested as in the runs' configs."""
    sampled = [parameter for block in spec.blocks for parameter in block.parameters]
    parameters: Values = {}
    for key in spec.swept_keys:
        listed = [plan.value(key) for plan in spec.plans if key in plan.swept]
        _put(parameters, key.split("."), _parameter(listed, [one for one in sampled if one.key == key]))
    seeds = sorted({*spec.seeds, *spec.final_seeds})
    _put(parameters, ["seed"], {"values": seeds})
    return {
        "method": "custom",
        "controller": {"type": "local"},
        "name": spec.name,
        "description": spec.question,
        "metric": {"name": spec.objective.metric, "goal": spec.objective.direction},
        "parameters": parameters,
    }


def _put(into: Values, path: Sequence[str], parameter: Values) -> None:
    for name in path[:-1]:
        into = into.setdefault(name, {"parameters": {}})["parameters"]
    into[path[-1]] = parameter


def _parameter(listed: Sequence[Any], sampled: Sequence[Parameter]) -> Values:
    """One key's values: those that grids and zips list, and what samplers may choose. A range covers all of it."""
    numbers = [one for one in sampled if isinstance(one, Number)]
    values = [*listed, *(value for one in sampled if isinstance(one, Choice) for value in one.values)]
    if not numbers or not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return {"values": _distinct([*values, *(end for one in numbers for end in (one.low, one.high))])}
    low = min([*values, *(one.low for one in numbers)])
    high = max([*values, *(one.high for one in numbers)])
    if low == high:
        return {"values": [low]}
    return {**_distribution(numbers, low), **_range(numbers, low, high)}


def _distribution(numbers: Sequence[Number], low: float) -> Values:
    if all(one.log for one in numbers) and low > 0:
        return {"distribution": "log_uniform_values"}
    is_whole = all(one.integer for one in numbers)
    return {"distribution": "int_uniform" if is_whole else "uniform"}


def _range(numbers: Sequence[Number], low: float, high: float) -> Mapping[str, Any]:
    if all(one.integer for one in numbers) and float(low).is_integer() and float(high).is_integer():
        return {"min": int(low), "max": int(high)}
    return {"min": float(low), "max": float(high)}


def _distinct(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        plain = list(value) if isinstance(value, tuple) else value
        if not any(same_value(plain, other) for other in found):
            found.append(plain)
    return found
