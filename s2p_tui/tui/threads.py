"""Slow work beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a thread of its own.

    Unlike with `asyncio.to_thread` the program can end before the function does, as it must when a
    network disk hangs. For work that may be cut off anywhere; a conversion may not.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # pyright: ignore[reportArgumentType]

    def run() -> None:
        result, caught = None, None
        try:
            result = function()
        except BaseException as error:
            caught = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, caught)

    threading.Thread(target=run, daemon=True, name="s2p-open").start()
    return await future
