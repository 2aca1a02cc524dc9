"""Slow work beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a thread of its own.

    Unlike with `asyncio.to_thread` the program can end before the function does, as it must when a
    network disk hangs. For work that may be cut off anywhere; a conversion may not.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def unless_done(settle: Callable[[], None]) -> None:
        if not future.done():
            settle()

    def run() -> None:
        try:
            settle = partial(future.set_result, function())
        except BaseException as error:
            settle = partial(future.set_exception, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(unless_done, settle)

    threading.Thread(target=run, daemon=True, name="s2p-open").start()
    return await future
