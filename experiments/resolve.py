"""What all trials share + the values of a cell -> resolved configs with their signatures.

A large grid changes few keys from cell to cell, so each section of a config is validated once for each set of values
that it gets, and its part of the signature's text is made once. What comes of it is what `ExperimentConfig` and
`signature` make of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ValidationError

from experiments.faults import config_error
from experiments.rules import ABSENT
from experiments.space import Cell
from experiments.trial import Draw, Stage, TrialPlan, identity_texts, signature_of
from experiments.validation_messages import section_models
from experiments.yaml_source import YamlSource
from wsol.config import ExperimentConfig

_SECTIONS = section_models(ExperimentConfig)


class Resolver:
    """Makes the plans of trials out of what they share and what their cells have.

    Args:
        shared: the values under `experiment`, not validated.
        source: of the spec, for the places of faults.
    """

    def __init__(self, shared: Mapping[str, Any], source: YamlSource) -> None:
        self._shared = shared
        self.source = source
        self._sections: dict[tuple[str, ...], BaseModel] = {}
        self._texts: dict[int, str] = {}  # by the id of a section, which `_sections` keeps alive

    def unswept(self, key: str) -> Any:
        """A config key's value where no block says otherwise: as `experiment` has it, else its default.

        Not validated; ABSENT for a key without default that is not given.
        """
        value: Any = self._shared
        for name in key.split("."):
            if not isinstance(value, Mapping) or name not in value:
                return _default(key)
            value = value[name]
        return value

    def plans(
        self, cell: Cell, seeds: Iterable[int], *, stage: Stage = "search", draw: Draw | None = None
    ) -> list[TrialPlan]:
        """The trials of a cell, one a seed.

        Raises:
            SpecError: where the values make no config.
        """
        values = self._with_sections(cell)
        if values is None:
            values = self._plain(cell)
        found = []
        configuration = ""
        for seed in seeds:
            values["seed"] = seed
            try:
                config = ExperimentConfig.model_validate(values)
            except ValidationError:
                config = self._validated(self._plain(cell) | {"seed": seed}, cell)
            texts = self._identity_texts(config)
            configuration = configuration or signature_of({**texts, "seed": ""})
            found.append(
                TrialPlan(
                    config=config,
                    swept=cell.values,
                    signature=signature_of(texts),
                    configuration=configuration,
                    cell=cell,
                    stage=stage,
                    draw=draw,
                )
            )
        return found

    def _validated(self, values: Mapping[str, Any], cell: Cell) -> ExperimentConfig:
        try:
            return ExperimentConfig.model_validate(values)
        except ValidationError as error:
            raise config_error(self.source, error, values=values, cell=cell) from None

    def _plain(self, cell: Cell) -> dict[str, Any]:
        values: Any = dict(self._shared)
        for key, value in cell.values.items():
            values = _with(values, key.split("."), value)
        plain: dict[str, Any] = values
        return plain

    def _with_sections(self, cell: Cell) -> dict[str, Any] | None:
        """The values of a config with every section validated already; None where one of them cannot be."""
        values = dict(self._unswept_sections)
        swept: dict[str, list[tuple[str, Any]]] = {}
        for key, value in cell.values.items():
            section_name, _, leaf = key.partition(".")
            if leaf:
                swept.setdefault(section_name, []).append((leaf, value))
            else:
                values[key] = value
        for name, items in swept.items():
            values[name] = self._section(name, items)
        return None if None in values.values() else values

    @cached_property
    def _unswept_sections(self) -> dict[str, Any]:
        """The shared values, with every section validated; None in place of one that is not valid by itself."""
        return {**self._shared, **{name: self._section(name, ()) for name in _SECTIONS}}

    def _section(self, name: str, swept: Sequence[tuple[str, Any]]) -> BaseModel | None:
        key = (name, *(text for leaf, value in swept for text in (leaf, repr(value))))
        if key not in self._sections:
            shared = self._shared.get(name, {})
            if not isinstance(shared, Mapping):
                return None
            try:
                self._sections[key] = _SECTIONS[name].model_validate({**shared, **dict(swept)})
            except ValidationError:
                return None
        return self._sections[key]

    def _identity_texts(self, config: ExperimentConfig) -> dict[str, str]:
        sections = [(name, getattr(config, name)) for name in _SECTIONS]
        if not all(id(section) in self._texts for _, section in sections):
            texts = identity_texts(config)
            kept = {id(section) for section in self._sections.values()}
            self._texts |= {id(section): texts.get(name, "") for name, section in sections if id(section) in kept}
            return texts
        texts = {name: self._texts[id(section)] for name, section in sections}
        code = f'"{config.code}"' if config.code else ""
        return {**texts, "seed": str(config.seed), "code": code, "task": f'"{config.task}"'}


def _default(key: str) -> Any:
    section, _, name = key.rpartition(".")
    field = (_SECTIONS[section] if section else ExperimentConfig).model_fields[name]
    return ABSENT if field.is_required() else field.default


def _with(values: Any, sections: list[str], value: Any) -> Any:
    """A copy of nested `values` in which one key has another value; what is no mapping stays, to be refused."""
    first, *rest = sections
    if not isinstance(values, dict):
        return values
    return {**values, first: _with(values.get(first, {}), rest, value) if rest else value}
