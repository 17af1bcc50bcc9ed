"""Which of the sampled trials in a folder still count, for which block."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.sampled_block import SampledBlock
from experiments.sealed import opened, sealed
from experiments.spec import SweepSpec
from experiments.store import StoredTrial, SweepStore
from experiments.sweep_plan import drawn_before, next_draw, search_plans, stored_configuration
from experiments.trial import Draw, Stage, configuration

Load = Callable[[str], SweepSpec]

ONE = """\
{EXPERIMENT}
search:
  - sample: {train.lr: {float: [0.1, 1.0]}}
    sampler: random
    trials: 3
seeds: 2
"""
TWO = """\
{EXPERIMENT}
search:
  - sample: {train.lr: {float: [0.1, 1.0]}}
    sampler: random
    trials: 3
  - sample: {train.lr: {float: [0.1, 1.0]}}
    sampler: random
    sampler_seed: 1
    trials: 3
"""


class Folder:
    """A sweep's trials as earlier runs of the command may have left them."""

    def __init__(self, folder: Path) -> None:
        self._store = SweepStore(folder)
        self._next = 0

    def put(
        self,
        block: SampledBlock,
        rate: float,
        draw: int,
        *,
        key: str | None = None,
        seeds: int | None = None,
        stage: Stage = "search",
    ) -> None:
        """Trials of a learning rate that a block has drawn, or one whose key was this."""
        drawn = Draw(block=block.key if key is None else key, number=draw)
        for plan in block.plans({"train.lr": rate}, drawn)[:seeds]:
            config = plan.config.model_dump(mode="json")
            self._store.create_trial(self._next, plan.signature, config, stage=stage, draw=drawn)
            self._next += 1

    @property
    def trials(self) -> list[StoredTrial]:
        return self._store.trials()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "results")


def rates(spec: SweepSpec, folder: Folder) -> list[list[float]]:
    """What counts for each block."""
    return [[one.point["train.lr"] for one in of_block] for of_block in drawn_before(spec, folder.trials)]


class TestDrawnBefore:
    def test_nothing_of_nothing(self, load: Load, folder: Folder) -> None:
        assert drawn_before(load(ONE), []) == [[]]
        assert drawn_before(load("{EXPERIMENT}\n"), []) == []

    def test_in_the_order_of_the_draws_each_once_with_all_of_its_replicates(self, load: Load, folder: Folder) -> None:
        """Whichever trial began first, and also where the second seed has not begun."""
        spec = load(ONE)
        (block,) = spec.blocks
        folder.put(block, 0.5, draw=7)
        folder.put(block, 0.25, draw=2, seeds=1)
        ((first, second),) = drawn_before(spec, folder.trials)
        assert (first.point, first.draw) == ({"train.lr": 0.25}, Draw(block.key, 2))
        assert (second.point, second.draw) == ({"train.lr": 0.5}, Draw(block.key, 7))
        assert list(first.plans) == block.plans({"train.lr": 0.25}, Draw(block.key, 2))
        assert [plan.config.seed for plan in first.plans] == [0, 1]

    def test_a_trial_that_no_sampler_drew_is_none(self, load: Load, tmp_path: Path) -> None:
        spec = load(ONE)
        store = SweepStore(tmp_path / "results")
        plan = spec.blocks[0].plans({"train.lr": 0.5})[0]
        store.create_trial(0, plan.signature, plan.config.model_dump(mode="json"))
        assert drawn_before(spec, store.trials()) == [[]]

    def test_belongs_to_the_block_that_drew_it_wherever_that_stands(self, load: Load, folder: Folder) -> None:
        """Both blocks have the same space."""
        spec = load(TWO)
        folder.put(spec.blocks[1], 0.5, draw=0)
        folder.put(spec.blocks[0], 0.25, draw=0)
        assert rates(spec, folder) == [[0.25], [0.5]]
        head, first, second = TWO.split("  - ")
        swapped = load(f"{head}  - {second}  - {first}")
        assert rates(swapped, folder) == [[0.5], [0.25]]

    def test_belongs_to_the_first_that_has_it_where_that_block_is_gone(self, load: Load, folder: Folder) -> None:
        spec = load(TWO.replace("[0.1, 1.0]", "[0.4, 1.0]", 1))
        for draw, rate in enumerate((0.5, 0.2, 0.3)):
            folder.put(spec.blocks[1], rate, draw, key="another")
        assert rates(spec, folder) == [[0.5], [0.2, 0.3]]

    def test_of_a_changed_range_are_those_inside(self, load: Load, folder: Folder) -> None:
        before = load(ONE).blocks[0]
        for draw, rate in enumerate((0.2, 0.5, 0.1, 1.0)):
            folder.put(before, rate, draw)
        assert rates(load(ONE.replace("[0.1, 1.0]", "[0.2, 0.9]")), folder) == [[0.2, 0.5]]

    def test_of_changed_rules_are_those_that_they_allow(self, load: Load, folder: Folder) -> None:
        """Rules are no part of a block's key: it is the same block still."""
        spec = load(ONE)
        folder.put(spec.blocks[0], 0.2, draw=0)
        folder.put(spec.blocks[0], 0.5, draw=1)
        strict = load(ONE.replace("    trials", "    exclude: [{train.lr: {max: 0.3}}]\n    trials"))
        assert strict.blocks[0].key == spec.blocks[0].key
        assert rates(strict, folder) == [[0.5]]

    def test_not_where_a_grid_has_it(self, load: Load, folder: Folder) -> None:
        spec = load(ONE.replace("search:\n", "search:\n  - grid: {train.lr: [0.5]}\n"))
        folder.put(spec.blocks[0], 0.5, draw=0)
        folder.put(spec.blocks[0], 0.25, draw=1)
        assert rates(spec, folder) == [[0.25]]

    def test_not_beyond_the_budget(self, load: Load, folder: Folder) -> None:
        """The first draws count."""
        spec = load(ONE)
        for draw, rate in enumerate((0.2, 0.3, 0.4, 0.5)):
            folder.put(spec.blocks[0], rate, 10 - draw)
        assert rates(spec, folder) == [[0.5, 0.4, 0.3]]

    def test_nor_for_another_block_when_that_one_has_enough(self, load: Load, folder: Folder) -> None:
        """It is no point that the other block drew: that goes on as it would have."""
        spec = load(TWO)
        for draw, rate in enumerate((0.2, 0.3, 0.4, 0.5)):
            folder.put(spec.blocks[0], rate, draw)
        assert rates(spec, folder) == [[0.2, 0.3, 0.4], []]

    def test_of_blocks_with_one_key_to_the_first_that_may_have_it(self, load: Load, folder: Folder) -> None:
        """They differ in their rules alone, or not at all."""
        alike = load(TWO.replace("    sampler_seed: 1\n", ""))
        for draw, rate in enumerate((0.2, 0.3, 0.4, 0.5)):
            folder.put(alike.blocks[0], rate, draw)
        assert rates(alike, folder) == [[0.2, 0.3, 0.4], [0.5]]
        parted = TWO.replace("    sampler_seed: 1\n", "    only: [{train.lr: {max: 0.3}}]\n")
        assert rates(load(parted.replace("trials: 3", "only: [{train.lr: {min: 0.3}}]\n    trials: 3", 1)), folder) == [
            [0.3, 0.4, 0.5],
            [0.2],
        ]

    def test_moves_on_to_the_next_block_when_the_first_is_full_of_moved_ones(self, load: Load, folder: Folder) -> None:
        spec = load(TWO)
        for draw, rate in enumerate((0.2, 0.3, 0.4, 0.5)):
            folder.put(spec.blocks[0], rate, draw, key="gone")
        assert rates(spec, folder) == [[0.2, 0.3, 0.4], [0.5]]

    def test_once_though_two_blocks_have_drawn_it(self, load: Load, folder: Folder) -> None:
        """The same configuration with two seeds, which different blocks came to in different runs."""
        spec = load(TWO + "seeds: 2\n")
        plans = [block.plans({"train.lr": 0.5}) for block in spec.blocks]
        assert plans[0] == plans[1]
        folder.put(spec.blocks[1], 0.5, draw=3, seeds=1)
        folder.put(spec.blocks[0], 0.25, draw=0)
        assert rates(spec, folder) == [[0.25], [0.5]]

    def test_not_of_the_final_stage(self, load: Load, folder: Folder) -> None:
        spec = load(ONE)
        folder.put(spec.blocks[0], 0.5, draw=0, stage="final")
        assert rates(spec, folder) == [[]]

    @pytest.mark.parametrize("change", ["an unknown key", "a wrong value", "nothing at all"])
    def test_not_the_config_of_another_version(self, load: Load, folder: Folder, change: str) -> None:
        spec = load(ONE)
        folder.put(spec.blocks[0], 0.25, draw=0)
        folder.put(spec.blocks[0], 0.5, draw=1)
        for trial in folder.trials[:2]:
            file = opened(json.loads(trial.paths.config.read_text()))
            assert file is not None
            file["config"] = changed(file["config"], change)
            trial.paths.config.write_text(json.dumps(sealed(file)))
        assert rates(spec, folder) == [[0.5]]
        assert [stored_configuration(trial) for trial in folder.trials[:2]] == [None, None]
        assert stored_configuration(folder.trials[2]) == configuration(
            spec.blocks[0].plans({"train.lr": 0.5})[0].config
        )

    def test_not_one_whose_other_keys_are_not_what_the_spec_says_now(self, load: Load, folder: Folder) -> None:
        folder.put(load(ONE).blocks[0], 0.5, draw=0)
        assert rates(load(ONE.replace("{EXPERIMENT}\n", "{EXPERIMENT}\n  train: {epochs: 3}\n")), folder) == [[]]


def changed(config: dict[str, Any], how: str) -> Any:
    if how == "nothing at all":
        return None
    return config | ({"of_another_version": 1} if how == "an unknown key" else {"task": "another"})


class TestNextDraw:
    def test_the_first(self, load: Load) -> None:
        assert next_draw(load(ONE).blocks[0], []) == 0

    def test_after_the_last_of_this_block(self, load: Load, folder: Folder) -> None:
        first, second = load(TWO).blocks
        folder.put(first, 0.5, draw=4)
        folder.put(first, 0.25, draw=2)
        folder.put(second, 0.75, draw=9)
        assert (next_draw(first, folder.trials), next_draw(second, folder.trials)) == (5, 10)

    def test_those_outside_the_spec_are_used_up_too(self, load: Load, folder: Folder) -> None:
        """A rule forbids it now; its number would lead to it again."""
        folder.put(load(ONE).blocks[0], 0.2, draw=6)
        strict = load(ONE.replace("    trials", "    exclude: [{train.lr: {max: 0.3}}]\n    trials"))
        assert rates(strict, folder) == [[]]
        assert next_draw(strict.blocks[0], folder.trials) == 7

    def test_another_range_begins_anew(self, load: Load, folder: Folder) -> None:
        folder.put(load(ONE).blocks[0], 0.5, draw=6)
        assert next_draw(load(ONE.replace("[0.1, 1.0]", "[0.2, 0.9]")).blocks[0], folder.trials) == 0


class TestSearchPlans:
    def test_grids_come_first_then_what_was_drawn_block_after_block(self, load: Load, folder: Folder) -> None:
        spec = load(TWO + "  - grid: {train.lr: [0.7]}\n")
        folder.put(spec.blocks[1], 0.5, draw=0)
        folder.put(spec.blocks[0], 0.25, draw=1)
        plans = search_plans(spec, drawn_before(spec, folder.trials))
        assert [plan.config.train.lr for plan in plans] == [0.7, 0.25, 0.5]
