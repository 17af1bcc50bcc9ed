"""From a spec's file to one tree of values: `extends` merged, `--set` applied. Every value keeps its own place."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.errors import SpecError, shown
from experiments.yaml_source import KeyPath, Place, YamlSource, dump_yaml, parse_yaml, read_yaml

MAX_EXTENDS = 20
_EXTENDS = "extends"
_NOT_INHERITED = ("name", _EXTENDS)
"""A spec that extends another one is another sweep, with a folder of its own."""
_KEY = re.compile(r"[^\s=.\[\]]+(\.[^\s=.\[\]]+|\[[0-9]{1,9}\])*")


def read_spec(
    file: Path,
    settings: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
    *,
    spec_keys: Collection[str] = (),
) -> YamlSource:
    """Reads a spec, merges it over what it extends, and sets what the command line sets.

    Mappings merge key by key; everything else, lists too, is replaced whole by the file that extends, and by `--set`.

    Args:
        file: of the spec.
        settings: `KEY=VALUE` each, in this order. KEY is a key of a spec, such as `seeds` or `search[0].trials`, or a
            config key, such as `train.epochs`, which means the one under `experiment`. VALUE is YAML.
        environment: of `${NAME}`.
        spec_keys: the keys of a spec, which those of a config are told from.

    Returns:
        `text` is what the file says, or all of it put together as YAML, where that is not the same.

    Raises:
        SpecError: for whatever is wrong; it names the file and line, or the setting.
    """
    source = _merged(file, environment, chain=())
    for setting in settings:
        source = _with_setting(source, setting, environment, spec_keys)
    is_one_file = {place.file for place in source.places.values()} <= {file}
    return source if is_one_file and not source.substituted else _put_together(source)


def _merged(file: Path, environment: Mapping[str, str], *, chain: tuple[Path, ...]) -> YamlSource:
    """A file over everything that it extends. `chain`: the files that led to this one."""
    source = read_yaml(file, environment)
    if not isinstance(source.value, dict) or _EXTENDS not in source.value:
        return source
    given = source.value[_EXTENDS]
    if not isinstance(given, str) or not given:
        raise source.error(f"got {shown(given)} for extends; expected the file of another spec", (_EXTENDS,))
    base_file = file.parent / given
    seen = [*chain, file]
    if not _is_file(base_file):
        raise source.error(
            f"got {shown(given)} for extends; expected a file, there is none at {base_file}", (_EXTENDS,)
        )
    if base_file.resolve() in {path.resolve() for path in seen}:
        circle = " -> ".join(str(path) for path in [*seen, base_file])
        raise source.error(f"got extends in a circle: {circle}", (_EXTENDS,))
    if len(seen) == MAX_EXTENDS:
        raise source.error(f"got more than {MAX_EXTENDS} files that extend each other", (_EXTENDS,))
    base = _merged(base_file, environment, chain=tuple(seen))
    if not isinstance(base.value, dict):
        raise base.error("expected a mapping of keys to values, since another spec extends it")
    return _over(base, source)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system, a folder that may not be entered
        return False


def _over(base: YamlSource, source: YamlSource) -> YamlSource:
    """`source` merged over `base`."""
    inherited = {key: value for key, value in base.value.items() if key not in _NOT_INHERITED}
    places = {path: place for path, place in base.places.items() if path and path[0] not in _NOT_INHERITED}
    own = {key: value for key, value in source.value.items() if key != _EXTENDS}
    value = _merge(inherited, own, (), places)
    places |= {path: place for path, place in source.places.items() if path[:1] != (_EXTENDS,)}
    substituted = source.substituted or base.substituted
    return _put_together(replace(source, value=value, places=places, substituted=substituted))


def _put_together(source: YamlSource) -> YamlSource:
    """With a text that says all of the value by itself."""
    return replace(source, text=f"# {source.file} as it was run, put together\n{dump_yaml(source.value)}")


def _merge(base: Any, own: Any, path: KeyPath, places: dict[KeyPath, Place]) -> Any:
    """Takes the places below what is replaced out of `places`."""
    if isinstance(base, dict) and isinstance(own, dict):
        merged = dict(base)
        for key, value in own.items():
            merged[key] = _merge(base[key], value, (*path, key), places) if key in base else value
        return merged
    for replaced in [other for other in places if other[: len(path)] == path]:
        del places[replaced]
    return own


def _with_setting(
    source: YamlSource, setting: str, environment: Mapping[str, str], spec_keys: Collection[str]
) -> YamlSource:
    label = f"--set {setting}"
    key, equals, text = setting.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise SpecError("expected KEY=VALUE, such as train.epochs=3 or seeds=[0,1]", file=label)
    if key == _EXTENDS:
        raise SpecError("got extends as a setting; expected it in the spec's file", file=label)
    if not isinstance(source.value, dict):
        return source  # refused later, at its own place
    given = parse_yaml(text, label, environment) if text.strip() else None
    path = _path(key, source.value, label, spec_keys)
    places = {other: place for other, place in source.places.items() if other[: len(path)] != path}
    if given is not None:
        places |= {path + below: place for below, place in given.places.items()}
    else:
        places[path] = Place(file=label, line=None)
    value = _replaced(source.value, path, None if given is None else given.value)
    substituted = source.substituted or (given is not None and given.substituted)
    return replace(source, value=value, places=places, substituted=substituted)


def _path(key: str, value: dict[str, Any], label: str, spec_keys: Collection[str]) -> KeyPath:
    """Where a key leads in the spec. A name with dots that is there (a swept key, say) is one step."""
    path: list[str | int] = []
    at: Any = value
    names = re.findall(r"\[\d+\]|[^.\[\]]+", key)
    if names[0] not in spec_keys:
        path, at = ["experiment"], value.get("experiment")
    while names:
        if names[0].startswith("["):
            index = int(names.pop(0)[1:-1])
            if not isinstance(at, list) or index >= len(at):
                count = len(at) if isinstance(at, list) else 0
                raise SpecError(f"got item [{index}] of a list of {count}; expected one that is there", file=label)
            path.append(index)
            at = at[index]
        elif isinstance(at, list):
            raise SpecError(
                f"got {names[0]} of a list of {len(at)}; expected one of its items, such as [0]", file=label
            )
        else:
            step, taken = _step(names, at)
            del names[:taken]
            path.append(step)
            at = at.get(step) if isinstance(at, dict) else None
    return tuple(path)


def _step(names: Sequence[str], at: Any) -> tuple[str, int]:
    """The longest key of `at` that the next names spell, else the next name; and how many names it takes."""
    plain = next((index for index, name in enumerate(names) if name.startswith("[")), len(names))
    for count in range(plain, 1, -1):
        if isinstance(at, dict) and (joined := ".".join(names[:count])) in at:
            return joined, count
    return names[0], 1


def _replaced(value: Any, path: KeyPath, new: Any) -> Any:
    """A copy of nested values with another value at `path`; what is no mapping on the way becomes one."""
    if not path:
        return new
    first, *rest = path
    if isinstance(value, list):
        assert isinstance(first, int)
        return [*value[:first], _replaced(value[first], tuple(rest), new), *value[first + 1 :]]
    values = value if isinstance(value, dict) else {}
    return {**values, str(first): _replaced(values.get(str(first)), tuple(rest), new)}
