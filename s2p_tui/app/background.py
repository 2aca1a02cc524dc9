"""Slow work in threads, and typed access to the running app."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from s2p_tui.app.hints import in_words_of_the_app
from s2p_tui.app.keys import Keymap
from s2p_tui.errors import S2PError

if TYPE_CHECKING:
    from textual.app import App
    from textual.dom import DOMNode

    from s2p_tui.alignment.alignment import Alignment
    from s2p_tui.alignment.evidence import Evidence
    from s2p_tui.session.journal import Beginning, Journal
    from s2p_tui.session.session import Session

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a thread of its own.

    Unlike with `asyncio.to_thread` the program can end before the function does, as it must when a
    network disk hangs. For work that may be cut off anywhere; a conversion may not. Errors come
    back in the app's words.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def unless_done(settle: Callable[[], None]) -> None:
        if not future.done():
            settle()

    def run() -> None:
        try:
            settle = partial(future.set_result, function())
        except S2PError as error:
            settle = partial(future.set_exception, in_words_of_the_app(error))
        except BaseException as error:
            settle = partial(future.set_exception, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(unless_done, settle)

    threading.Thread(target=run, daemon=True, name="s2p-open").start()
    return await future


WAIT = "Matching is still running; try again when it finishes."
TAKEN = "Lined up by names and structure."
OFFERED = "Matched by names and structure; your rows stay, a shows what that would change."


@dataclass(frozen=True, slots=True)
class _Found:
    evidence: Evidence
    suggested: Alignment
    beginning: Beginning | None
    can_begin: bool


async def match(session: Session, journal: Journal | None, may_take: Callable[[], bool]) -> bool:
    """Gather evidence in a thread and judge the session's rows by it.

    Args:
        session: The session.
        journal: Its journal, if it has one.
        may_take: Called when the evidence is there: True if rows may be changed then, False while a
            choice made from the rows as they are is open.

    Returns:
        True if its alignment was taken over, as nobody had touched the rows; the journal begins
        with it then.
    """

    def found() -> _Found:
        evidence, suggested = session.gather_evidence()
        try:
            beginning = None if journal is None else journal.prepare(suggested)
        except OSError:
            return _Found(evidence, suggested, None, can_begin=False)
        return _Found(evidence, suggested, beginning, can_begin=True)

    gathered = await in_thread(found)
    is_taken = session.take_evidence(
        gathered.evidence, gathered.suggested if gathered.can_begin and may_take() else None
    )
    if journal is not None and gathered.beginning is not None:
        if is_taken:
            journal.begin_with(gathered.beginning)
        else:
            gathered.beginning.discard()
    return is_taken


def app_of(node: DOMNode) -> App[object]:
    """The node's app; Textual itself leaves open what it returns."""
    untyped: Any = node
    return untyped.app


_AS_SHIPPED = Keymap()


def keymap_of(node: DOMNode) -> Keymap:
    """The keys of the node's app; as they are shipped where the app has none of its own."""
    return cast("Keymap", getattr(app_of(node), "keymap", _AS_SHIPPED))
