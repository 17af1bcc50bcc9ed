from __future__ import annotations

import random

import pytest

from experiments.watchdog import (
    BETWEEN_STEPS_S,
    DUMP_S,
    LEAST_S,
    SPARE,
    START_S,
    Promise,
    StepTimes,
    Watchdog,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestStepTimes:
    def test_the_first_step_of_a_pass_has_the_time_of_a_beginning(self, clock: Clock) -> None:
        assert StepTimes(clock).step() == BETWEEN_STEPS_S

    @pytest.mark.parametrize(
        ("durations", "limit"),
        [
            ([1.0], LEAST_S),
            ([6.0], LEAST_S),
            ([6.1], 61.0),
            ([20.0, 1.0, 30.0], 200.0),  # the median, whatever the last one took
            ([100.0, 1.0, 1.0], LEAST_S),
            ([10.0, 30.0], 200.0),
        ],
    )
    def test_ten_times_the_median_and_never_less_than_a_minute(
        self, clock: Clock, durations: list[float], limit: float
    ) -> None:
        times = StepTimes(clock)
        times.step()
        for duration in durations:
            clock.now += duration
            told = times.step()
        assert told == pytest.approx(limit)

    def test_each_pass_has_its_own_steps(self, clock: Clock) -> None:
        times = StepTimes(clock)
        times.step()
        clock.now += 0.1
        assert times.step() == LEAST_S
        clock.now += 1000.0  # metrics, a checkpoint: no step
        assert times.pass_ends() == BETWEEN_STEPS_S
        clock.now += 1000.0
        assert times.step() == BETWEEN_STEPS_S
        clock.now += 50.0
        assert times.step() == pytest.approx(500.0)

    def test_old_steps_are_forgotten(self, clock: Clock) -> None:
        times = StepTimes(clock)
        times.step()
        for duration in [1.0] * 200 + [20.0] * 101:
            clock.now += duration
            told = times.step()
        assert told == pytest.approx(200.0)


class TestPromise:
    def test_it_is_said_again_when_its_spare_time_is_used_up(self, clock: Clock) -> None:
        promise = Promise(clock)
        assert promise.renewed(60.0) == pytest.approx(66.0)
        clock.now += 6.0
        assert promise.renewed(60.0) is None
        clock.now += 0.1
        assert promise.renewed(60.0) == pytest.approx(66.0)

    def test_steps_that_take_longer_are_said_at_once(self, clock: Clock) -> None:
        promise = Promise(clock)
        promise.renewed(60.0)
        assert promise.renewed(66.0) is None
        assert promise.renewed(67.0) == pytest.approx(67.0 * (1 + SPARE))

    def test_a_promise_for_what_has_no_steps_does_not_hold_for_a_step(self, clock: Clock) -> None:
        promise = Promise(clock)
        assert promise.renewed(BETWEEN_STEPS_S) == pytest.approx(660.0)
        assert promise.renewed(60.0) == pytest.approx(66.0)
        assert promise.renewed(BETWEEN_STEPS_S) == pytest.approx(660.0)
        assert promise.renewed(330.1) is None
        assert promise.renewed(329.9) == pytest.approx(362.89)

    @pytest.mark.parametrize("seed", range(20))
    def test_nobody_is_overdue_who_keeps_to_its_times_and_a_hang_is_seen_soon(self, clock: Clock, seed: int) -> None:
        """Steps of any course, none longer than it may be; the last one never ends."""
        rng = random.Random(seed)
        dog, times, promise = Watchdog(clock), StepTimes(clock), Promise(clock)
        dog.started(0)
        said = 0
        for _ in range(400):
            limit = times.pass_ends() if rng.random() < 0.02 else times.step()
            if (within_s := promise.renewed(limit)) is not None:
                dog.expect(0, within_s)
                said += 1
            began = clock.now
            clock.now += rng.uniform(0.0, limit) * rng.choice([0.01, 0.02, 0.99])
            assert not dog.overdue(heard_until=clock.now), "it was within its time"
        assert said < 400
        clock.now = began + 2 * limit
        assert dog.overdue(heard_until=clock.now) == [0]


class TestWatchdog:
    def test_an_attempt_is_overdue_once_and_then_killed(self, clock: Clock) -> None:
        dog = Watchdog(clock)
        dog.started(3)
        dog.expect(3, 60.0)
        clock.now += 59.9
        assert dog.overdue(heard_until=clock.now) == []
        clock.now += 0.1
        assert dog.overdue(heard_until=clock.now) == [3]
        assert dog.overdue(heard_until=clock.now) == []
        assert dog.to_kill() == []
        clock.now += DUMP_S
        assert dog.to_kill() == [3]
        assert dog.ended(3)
        assert dog.to_kill() == []

    def test_a_sign_puts_it_off_until_it_is_too_late(self, clock: Clock) -> None:
        dog = Watchdog(clock)
        dog.started(3)
        clock.now += START_S - 1
        dog.expect(3, 60.0)
        clock.now += 59.0
        assert dog.overdue(heard_until=clock.now) == []
        dog.expect(3, 60.0)
        clock.now += 60.0
        assert dog.overdue(heard_until=clock.now) == [3]
        dog.expect(3, 60.0)  # it was already told to end
        clock.now += DUMP_S
        assert (dog.overdue(heard_until=clock.now), dog.to_kill()) == ([], [3])

    def test_attempts_are_told_apart_and_a_new_one_starts_anew(self, clock: Clock) -> None:
        dog = Watchdog(clock)
        for number in (1, 2, 5):
            dog.started(number)
            dog.expect(number, 60.0 * number)
        clock.now += 120.0
        assert dog.overdue(heard_until=clock.now) == [1, 2]
        assert dog.ended(1)
        assert not dog.ended(5)
        dog.started(1)
        clock.now += DUMP_S
        assert dog.to_kill() == [2]
        clock.now += START_S - DUMP_S
        assert dog.overdue(heard_until=clock.now) == [1]

    def test_an_end_that_nobody_waited_for(self, clock: Clock) -> None:
        assert not Watchdog(clock).ended(9)

    @pytest.mark.parametrize("seed", range(20))
    def test_whatever_happens_overdue_is_who_is_past_its_time(self, clock: Clock, seed: int) -> None:
        """Deadlines are kept so that not all are looked at each time; going through all gives the same."""
        rng = random.Random(seed)
        dog = Watchdog(clock)
        deadlines: dict[int, float] = {}
        found = 0
        for _ in range(300):
            number, within_s = rng.randrange(8), rng.choice([5.0, 20.0, 60.0])
            if number in deadlines and rng.random() < 0.2:
                del deadlines[number]
                dog.ended(number)
            else:
                dog.expect(number, within_s)
                deadlines[number] = clock.now + within_s
            clock.now += rng.choice([0.0, 1.0, 5.0])
            overdue = dog.overdue(heard_until=clock.now)
            assert sorted(overdue) == sorted(one for one, at in deadlines.items() if clock.now >= at)
            for one in overdue:
                del deadlines[one]
                assert dog.ended(one)
            found += len(overdue)
        assert found > 10
