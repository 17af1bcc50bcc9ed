from __future__ import annotations

import pytest

from experiments.patience import LOOK_FOR_A_STOP_EVERY_S, PatientWriter


class Wall:
    """An obstacle that is gone after so many looks."""

    over_text = "over: it"
    look_every_s = 2.0

    def __init__(self, fault: type[Exception], *, looks: int = 0) -> None:
        self._fault, self._looks = fault, looks

    def stopped(self, error: Exception) -> bool:
        return isinstance(error, self._fault)

    def paused_text(self, error: Exception) -> str:
        return f"paused: {error}"

    def may_be_gone(self) -> bool:
        self._looks -= 1
        return self._looks < 0


class Action:
    """Fails with what it is told to fail with, then works."""

    def __init__(self, *faults: Exception) -> None:
        self._faults = list(faults)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self._faults:
            raise self._faults.pop(0)
        return 7


class Told:
    """What a writer said, and how long it slept."""

    def __init__(self, *walls: Wall, stop_after_s: float = 1000.0) -> None:
        self.lines: list[str] = []
        self.slept: list[float] = []
        self._writer = PatientWriter(
            *walls,
            say=self.lines.append,
            must_stop=lambda: sum(self.slept) >= stop_after_s,
            sleep=self.slept.append,
        )

    def write(self, action: Action) -> int:
        return self._writer.write(action)


def test_what_works_is_done_once_without_a_word() -> None:
    told = Told(Wall(OSError))
    assert told.write(action := Action()) == 7
    assert (action.calls, told.lines, told.slept) == (1, [], [])


def test_another_fault_is_raised() -> None:
    told = Told(Wall(OSError), Wall(KeyError))
    with pytest.raises(ValueError, match="mine"):
        told.write(Action(ValueError("mine")))
    assert told.lines == []


def test_it_is_said_once_and_tried_again_until_it_works() -> None:
    told = Told(Wall(OSError))
    assert told.write(action := Action(OSError("full"), OSError("still full"))) == 7
    assert action.calls == 3
    assert told.lines == ["paused: full", "over: it"]
    assert sum(told.slept) == 4.0


def test_it_is_not_tried_while_that_is_known_to_be_in_vain() -> None:
    told = Told(Wall(OSError, looks=3))
    assert told.write(action := Action(OSError("full"))) == 7
    assert action.calls == 2
    assert sum(told.slept) == 4 * 2.0


def test_each_obstacle_is_named() -> None:
    told = Told(Wall(OSError), Wall(KeyError))
    assert told.write(Action(OSError("full"), KeyError("away"), KeyError("away"))) == 7
    assert told.lines == ["paused: full", "paused: 'away'", "over: it"]


@pytest.mark.parametrize(("stop_after_s", "slept"), [(0.0, 0), (LOOK_FOR_A_STOP_EVERY_S, 1), (1.2, 3)])
def test_a_stop_is_obeyed_soon(stop_after_s: float, slept: int) -> None:
    told = Told(Wall(OSError), stop_after_s=stop_after_s)
    action = Action(OSError("full"))
    with pytest.raises(KeyboardInterrupt, match="^$"):
        told.write(action)
    assert action.calls == 1
    assert told.slept == [LOOK_FOR_A_STOP_EVERY_S] * slept
