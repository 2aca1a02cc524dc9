"""Garbage is collected between the keys, and the process gets its own thresholds back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager

from s2p_tui.app.tidying import Tidying
from tests.app.conftest import Opened, fitting, until


@contextmanager
def collections() -> Iterator[list[int]]:
    """The generations collected, as they are."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    try:
        yield seen
    finally:
        gc.callbacks.remove(note)


async def test_thresholds_are_raised_while_the_app_runs_only(opened: Opened) -> None:
    before = gc.get_threshold()
    async with opened(fitting()):
        assert gc.get_threshold()[0] >= 10 * before[0]
    assert gc.get_threshold() == before


async def test_the_pause_after_the_keys_is_used(opened: Opened) -> None:
    async with opened(fitting()) as (pilot, _):
        with collections() as seen:
            await pilot.press("j", "J", "K", "j")
            await until(pilot, lambda: 1 in seen)


async def test_all_is_collected_once_in_many_pauses() -> None:
    tidying = Tidying(pause=0, long_pause=0)
    with collections() as seen:
        async with asyncio.timeout(60):
            while 2 not in seen:
                tidying.soon()
                young = len(seen)
                while len(seen) == young:
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
    assert seen.count(1) >= 10


async def test_a_key_that_comes_puts_it_off() -> None:
    tidying = Tidying(pause=0)
    with collections() as seen:
        tidying.soon()
        tidying.wait()
        for _ in range(3):
            await asyncio.sleep(0)
        assert 1 not in seen
