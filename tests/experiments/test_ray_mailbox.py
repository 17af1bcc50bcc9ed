from __future__ import annotations

import asyncio

from experiments.executors.base import EpochDone, SignOfLife
from experiments.executors.ray_mailbox import Mailbox

FAR_OFF_S = 60.0
"""Nothing here waits so long: what is waited for comes."""
EPOCH, SIGN = EpochDone(3, {"epoch": 1}), SignOfLife(3, 60.0)


class TestEvents:
    def test_come_in_order_and_once(self) -> None:
        async def play() -> None:
            mailbox = Mailbox()
            await mailbox.tell(1, [SIGN, EPOCH])
            await mailbox.tell(2, [SIGN])
            assert await mailbox.collect(FAR_OFF_S) == [(1, SIGN), (1, EPOCH), (2, SIGN)]
            assert await mailbox.collect(0.0) == []

        asyncio.run(play())

    def test_end_the_wait(self) -> None:
        async def play() -> None:
            mailbox = Mailbox()
            collected = asyncio.create_task(mailbox.collect(FAR_OFF_S))
            await asyncio.sleep(0)
            assert not collected.done()
            await mailbox.tell(1, [EPOCH])
            assert await collected == [(1, EPOCH)]

        asyncio.run(play())


class TestOrders:
    def test_go_to_their_attempt_in_order_and_once(self) -> None:
        async def play() -> None:
            mailbox = Mailbox()
            await mailbox.order(1, "dump_stacks")
            await mailbox.order(1, "kill")
            assert await mailbox.orders(2, 0.0) == []
            assert await mailbox.orders(1, FAR_OFF_S) == ["dump_stacks", "kill"]
            assert await mailbox.orders(1, 0.0) == []

        asyncio.run(play())

    def test_end_the_wait(self) -> None:
        async def play() -> None:
            mailbox = Mailbox()
            asked = asyncio.create_task(mailbox.orders(1, FAR_OFF_S))
            await asyncio.sleep(0)
            await mailbox.order(1, "stop")
            assert await asked == ["stop"]

        asyncio.run(play())


class TestGivingUp:
    def test_one_that_was_never_answered_may_never_begin(self) -> None:
        async def play() -> None:
            mailbox = Mailbox()
            assert await mailbox.give_up(1) is None
            assert await mailbox.orders(1, FAR_OFF_S) == ["kill"]
            assert await mailbox.orders(2, 0.0) == [], "others go on"

        asyncio.run(play())

    def test_says_for_how_long_it_was_not_answered(self) -> None:
        async def play() -> None:
            now = 100.0
            mailbox = Mailbox(lambda: now)
            await mailbox.orders(1, 0.0)
            now = 103.0
            assert await mailbox.give_up(1) == 3.0
            now = 104.0
            assert await mailbox.orders(1, 0.0) == ["kill"]
            assert await mailbox.give_up(1) == 4.0, "the order to end is no answer that lets it go on"

        asyncio.run(play())

    def test_one_that_waits_is_told_at_once(self) -> None:
        async def play() -> None:
            mailbox = Mailbox()
            asked = asyncio.create_task(mailbox.orders(1, FAR_OFF_S))
            await asyncio.sleep(0)
            assert await mailbox.give_up(1) is None
            assert await asked == ["kill"]

        asyncio.run(play())
