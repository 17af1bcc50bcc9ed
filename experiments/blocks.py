"""Search blocks of a spec -> cells to run, or a space to sample from; every fault of a block is found here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from experiments.errors import SpecError, did_you_mean
from experiments.generators import axis_values
from experiments.resolve import Resolver
from experiments.rules import ABSENT, Rule, holds, rule_text
from experiments.space import Axis, Cell, KeyPath, WhenError, grid_cells, zip_cells
from experiments.spec_document import NEVER_SWEPT, GeneratedValues, SearchBlock
from experiments.validation_messages import dotted, leaf_keys
from experiments.yaml_source import YamlSource
from wsol.config import RESULT_NEUTRAL_KEYS, ExperimentConfig

CONFIG_KEYS = tuple(leaf_keys(ExperimentConfig))
_SWEEPABLE_KEYS = tuple(key for key in CONFIG_KEYS if key not in NEVER_SWEPT)


@dataclass(frozen=True)
class Excluded:
    """Cells that a rule leaves out.

    Attributes:
        where: such as `search[0].exclude[1]`.
        rule: as the spec has it, or what `only` comes to.
        cells: how many.
    """

    where: str
    rule: str
    cells: int


@dataclass(frozen=True)
class BlockReader:
    """Reads one block of `search`."""

    block: SearchBlock
    index: int
    source: YamlSource
    resolver: Resolver

    @property
    def kind(self) -> Literal["grid", "zip", "sample"]:
        """Which of the three the block is."""
        return "grid" if self.block.grid is not None else "zip" if self.block.zip is not None else "sample"

    @property
    def path(self) -> KeyPath:
        """Of the block's mapping of keys."""
        return ("search", self.index, self.kind)

    @property
    def keys(self) -> list[str]:
        """The swept keys, in the spec's order."""
        return list(self.block.grid or self.block.zip or self.block.sample or {})

    @property
    def always_swept(self) -> list[str]:
        """Those that every cell or point has."""
        swept = {**(self.block.grid or self.block.zip or {}), **(self.block.sample or {})}
        return [key for key, values in swept.items() if isinstance(values, list) or values.when is None]

    def cells(self) -> tuple[list[Cell], list[Excluded]]:
        """The cells of a grid or zip that its rules leave, and what the rules left out.

        Raises:
            SpecError: for a fault of the block.
        """
        axes = {key: self._axis(axis) for key, axis in (self.block.grid or self.block.zip or {}).items()}
        self.check_keys({key: axis.when for key, axis in axes.items()})
        expand = grid_cells if self.kind == "grid" else zip_cells
        try:
            cells = list(expand(axes, path=self.path, unswept=self.resolver.unswept))
        except WhenError as error:
            raise self.error(str(error), error.key, "when") from None
        except ValueError as error:
            raise self.error(str(error)) from None
        for key, axis in axes.items():
            if axis.when is not None and not any(key in cell.values for cell in cells):
                raise self.never(axis.when, key)
        return self._narrowed(cells, axes)

    def error(self, message: str, *below: str | int) -> SpecError:
        """A SpecError somewhere below the block's mapping of keys."""
        return self.source.error(message, (*self.path, *below))

    def never(self, when: Rule, key: str) -> SpecError:
        """A SpecError for a `when` that holds nowhere."""
        return self.error(
            f"got when: {rule_text(when)} for {key}, which never holds in this block; expected values that its keys can"
            " have here",
            key,
            "when",
        )

    def check_keys(self, conditions: Mapping[str, Rule | None]) -> None:
        """Checks the swept keys, and the keys that `when`, `exclude` and `only` name."""
        for key, when in conditions.items():
            self._check_swept_key(key)
            for name in when or ():
                self._check_rule_key(name, (*self.path, key, "when"))
        for kind, rules in (("exclude", self.block.exclude), ("only", self.block.only)):
            for position, rule in enumerate(rules):
                for name in rule:
                    self._check_rule_key(name, ("search", self.index, kind, position))

    def _check_swept_key(self, key: str) -> None:
        path = (*self.path, key)
        if key == "seed":
            raise self.source.error("got seed as a swept key; expected replicates as `seeds: [0, 1, 2]`", path)
        if key == "code":
            raise self.source.error("got code as a swept key; expected it to be left out: `--code new` sets it", path)
        if key in RESULT_NEUTRAL_KEYS:
            raise self.source.error(
                f"got {key} as a swept key; expected a key that can change a result: all its cells would be one trial",
                path,
            )
        if key not in _SWEEPABLE_KEYS:
            raise self.source.error(f"got unknown key {key!r} in {dotted(self.path)}; {_expected_key(key)}", path)

    def _check_rule_key(self, key: str, path: KeyPath) -> None:
        if key not in _SWEEPABLE_KEYS:
            raise self.source.error(f"got unknown key {key!r} in {dotted(path)}; {_expected_key(key)}", (*path, key))

    def _axis(self, axis: list[Any] | GeneratedValues) -> Axis:
        return Axis(values=axis_values(axis), when=None if isinstance(axis, list) else axis.when)

    def _narrowed(self, cells: list[Cell], axes: Mapping[str, Axis]) -> tuple[list[Cell], list[Excluded]]:
        """The cells that `exclude` and `only` leave. Each cell counts for the first rule that leaves it out."""
        left = cells
        excluded = []
        for position, rule in enumerate(self.block.exclude):
            matching = [holds(rule, self._value_in(cell, axes)) for cell in left]
            if not any(matching) and not any(holds(rule, self._value_in(cell, axes)) for cell in cells):
                raise self.no_cell("exclude", position, rule)
            left = [cell for cell, out in zip(left, matching, strict=True) if not out]
            where = dotted(("search", self.index, "exclude", position))
            excluded.append(Excluded(where=where, rule=rule_text(rule), cells=sum(matching)))
        if self.block.only:
            hits = [[holds(rule, self._value_in(cell, axes)) for rule in self.block.only] for cell in left]
            for position, rule in enumerate(self.block.only):
                if not any(hit[position] for hit in hits):
                    raise self.no_cell("only", position, rule)
            where, rules = dotted(("search", self.index, "only")), " or ".join(map(rule_text, self.block.only))
            excluded.append(Excluded(where=where, rule=f"not {rules}", cells=sum(not any(hit) for hit in hits)))
            left = [cell for cell, hit in zip(left, hits, strict=True) if any(hit)]
        if not left:
            raise self.source.error(
                f"got no cell in {dotted(self.path)} that its exclude leaves; expected at least one", self.path
            )
        return left, [one for one in excluded if one.cells]

    def _value_in(self, cell: Cell, axes: Mapping[str, Axis]) -> Callable[[str], Any]:
        def value_of(key: str) -> Any:
            return cell.values.get(key, ABSENT) if key in axes else self.resolver.unswept(key)

        return value_of

    def no_cell(self, kind: str, position: int, rule: Rule) -> SpecError:
        """A SpecError for an `exclude` or `only` that holds nowhere."""
        return self.source.error(
            f"got {kind} {rule_text(rule)}, which holds nowhere in {dotted(self.path)}; expected values that it has",
            ("search", self.index, kind, position),
        )


def _expected_key(key: str) -> str:
    by_leaf = [name for name in _SWEEPABLE_KEYS if name.rpartition(".")[2] == key]
    return "expected a config key" + (
        f"; did you mean {by_leaf[0]}?" if by_leaf else did_you_mean(key, _SWEEPABLE_KEYS)
    )
