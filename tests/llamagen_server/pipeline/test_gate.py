"""The gate that closes for changes."""

from __future__ import annotations

import asyncio

import pytest

from llamagen_server.pipeline.gate import Gate


class Work:
    """Work that passes a gate and stays inside until it may leave."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.is_inside, self.may_leave = gate, False, asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.gate.passing():
            self.is_inside = True
            await self.may_leave.wait()
        self.is_inside = False


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_closing_waits_for_what_is_inside_and_keeps_the_rest_out() -> None:
    gate = Gate()
    first, second = Work(gate), Work(gate)
    await settle()
    closing = asyncio.create_task(gate.close("a"))
    await settle()
    late = Work(gate)
    first.may_leave.set()
    await settle()
    assert not closing.done()
    assert not late.is_inside
    second.may_leave.set()
    await closing
    assert not late.is_inside
    gate.open("a")
    await settle()
    assert late.is_inside
    late.may_leave.set()
    await late.task


async def test_it_opens_when_the_last_holder_lets_go() -> None:
    gate = Gate()
    await gate.close("a")
    await gate.close("a")  # twice is once
    async with gate.closed():
        gate.open("a")
        work = Work(gate)
        await settle()
        assert not work.is_inside
        assert not gate.is_held_by("a")
    await settle()
    assert work.is_inside
    work.may_leave.set()
    await work.task


async def test_closing_that_is_cancelled_opens_it_again() -> None:
    gate = Gate()
    work = Work(gate)
    await settle()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(gate.close("a"), 0.01)
    late = Work(gate)
    await settle()
    assert late.is_inside
    for one in (work, late):
        one.may_leave.set()
        await one.task


async def test_work_that_is_cancelled_leaves() -> None:
    gate = Gate()
    work = Work(gate)
    await settle()
    work.task.cancel()
    await asyncio.wait_for(gate.close("a"), 1)
