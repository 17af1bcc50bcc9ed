"""Random specs over random specs: `extends` against a slow loop over leaves, places, and the text of it all."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.spec_source import read_spec
from experiments.yaml_source import KeyPath, Place, YamlSource, read_yaml

SEEDS = range(40)


def tree(random_: random.Random, depth: int = 3) -> Any:
    """A mapping of mappings, of lists and of text that is easily taken for something else."""
    if depth == 0 or (depth < 3 and random_.random() < 0.4):
        texts = ["1e5", "-.5E3", "no", "~", "", "007", "${X}", "$${", "a: b", "# c", "x\n\ny ", "é\u2028", "<<", "[1"]
        return random_.choice([0, 1.5, 1e-5, True, None, [], [1, [2, "on"]], *texts])
    return {key: tree(random_, depth - 1) for key in random_.sample("abcd", random_.randrange(4))}


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Whatever is no mapping, and the empty mappings."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from leaves(below, (*path, key))
    else:
        yield path, value


def slow_merge(base: Any, own: Any) -> dict[KeyPath, tuple[Any, str]]:
    """The leaves of `own` over `base`, each with the name of the tree that it is of."""
    merged = {path: (value, "base") for path, value in leaves(base)}
    for path, value in leaves(own):
        for other in list(merged):
            is_above, is_below = path[: len(other)] == other, other[: len(path)] == path
            keeps = value == {} and is_below and (merged[other][0] == {} or other != path)
            if (is_above or is_below) and not keeps:
                del merged[other]
        if not any(other[: len(path)] == path and other != path for other in merged):
            merged[path] = (value, "own")
    return merged


def merged(folder: Path, base: Any, own: Any) -> YamlSource:
    """base.yaml with own.yaml over it; every value stands on a line of its own."""

    def text(value: Any) -> str:
        return json.dumps(value, indent=1, ensure_ascii=False).replace("${", "$${")

    (folder / "base.yaml").write_text(text(base), "utf-8")
    (folder / "own.yaml").write_text(text(own), "utf-8")
    (folder / "x.yaml").write_text(text({"extends": "base.yaml", **own}), "utf-8")
    source = read_spec(folder / "x.yaml", environment={})
    return replace(source, places={path: as_if_in_own(place) for path, place in source.places.items()})


def as_if_in_own(place: Place) -> Place:
    """x.yaml is own.yaml with one line more."""
    assert isinstance(place.file, Path)
    assert place.line is not None
    is_base = place.file.name == "base.yaml"
    return place if is_base else Place(place.file.with_name("own.yaml"), place.line - 1)


def paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Of every value, mappings and lists included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from paths(below, (*path, key))


@pytest.mark.parametrize("seed", SEEDS)
class TestMerged:
    def test_against_a_slow_loop(self, tmp_path: Path, seed: int) -> None:
        random_ = random.Random(seed)
        base, own = tree(random_), tree(random_)
        source, expected = merged(tmp_path, base, own), slow_merge(base, own)
        assert dict(leaves(source.value)) == {path: value for path, (value, _) in expected.items()}
        files = {name: read_yaml(tmp_path / f"{name}.yaml").places for name in ("base", "own")}
        for path, (_, origin) in expected.items():
            for other in files[origin]:
                if other and other[: len(path)] == path:
                    assert source.places[other] == files[origin][other]

    def test_there_is_a_place_for_what_is_there_and_for_nothing_else(self, tmp_path: Path, seed: int) -> None:
        random_ = random.Random(seed)
        source = merged(tmp_path, tree(random_), tree(random_))
        assert source.places.keys() == set(paths(source.value))

    def test_the_text_read_again_gives_the_same(self, tmp_path: Path, seed: int) -> None:
        random_ = random.Random(seed)
        source = merged(tmp_path, tree(random_), tree(random_))
        (tmp_path / "spec.yaml").write_text(source.text, "utf-8")
        again = read_spec(tmp_path / "spec.yaml", environment={}).value
        assert json.dumps(again) == json.dumps(source.value)  # 1 == 1.0 == True, but not here
