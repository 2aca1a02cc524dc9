"""Slow work in threads, and typed access to the running app."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import Struct

from s2p_tui.app.failures import UnexpectedError, in_words_of_the_app, unexpected
from s2p_tui.app.keys import Keymap
from s2p_tui.errors import CancelledError, S2PError

if TYPE_CHECKING:
    from textual.app import App
    from textual.dom import DOMNode

    from s2p_tui.alignment.task import Task
    from s2p_tui.session.journal import Beginning, Journal
    from s2p_tui.session.opening import Findings
    from s2p_tui.session.session import Session

T = TypeVar("T")


async def in_thread(
    function: Callable[[], T],
    doing: str,
    *,
    expected: type[Exception] = S2PError,
    is_private: bool = False,
) -> T:
    """Run a function in a thread of its own.

    Unlike with `asyncio.to_thread` the program can end before the function does, as it must when a
    network disk hangs. For work that may be cut off anywhere; a conversion may not.

    Args:
        function: The work.
        doing: Its name, as the beginning of a sentence that ends in "failed".
        expected: Errors that the caller words itself, beside those a user can cause.
        is_private: True if the message of another error must be neither shown nor logged.

    Raises:
        S2PError: The work's error, in the app's words; any fault of the program is logged and
            becomes one.
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
        except expected as error:
            settle = partial(future.set_exception, error)
        except Exception as error:
            failure = unexpected(error, doing, is_private=is_private)
            settle = partial(future.set_exception, failure)
        except BaseException as error:
            settle = partial(future.set_exception, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(unless_done, settle)

    threading.Thread(target=run, daemon=True, name="s2p-open").start()
    return await future


WAIT = "Matching is still running; try again when it finishes. Esc stops it."
TAKEN = "Lined up by names and structure."
STARTED = "Matching by names and structure again ..."
STOPPED = "Matching stopped: a starts it again. Until then the rows are doubtful."
AGAIN = "a tries again."
DOUBTFUL = "Until then the rows are doubtful."
OFFERED = "Matched by names and structure; your rows stay, a shows what that would change."


class _Found(Struct, frozen=True):
    findings: Findings
    beginning: Beginning | None
    can_begin: bool


def words_without(error: S2PError) -> str:
    """Return the message after the matcher was stopped, or failed."""
    if isinstance(error, CancelledError):
        return STOPPED
    log = error.log if isinstance(error, UnexpectedError) else error.hint
    return f"{error.message} {AGAIN} {log} {DOUBTFUL}"


async def match(
    session: Session, journal: Journal | None, may_take: Callable[[], bool], task: Task
) -> bool:
    """Gather evidence in a thread and judge the session's rows by it.

    Args:
        session: The session.
        journal: Its journal, if it has one.
        may_take: Called when the evidence is there: True if rows may be changed then, False while a
            choice made from the rows as they are is open.
        task: Kept up to date; ends the thread when it is cancelled.

    Returns:
        True if its alignment was taken over, as nobody had touched the rows; the journal begins
        with it then.

    Raises:
        S2PError: It was cancelled, or failed. Rows stay as they are then.
    """

    def found() -> _Found:
        findings = session.gather_evidence(task)
        # Tuples that wait to be used again keep pages all over: 110 bytes a row at 100,000 rows.
        gc.collect()
        try:
            beginning = None if journal is None else journal.prepare(findings.suggested)
        except OSError:
            return _Found(findings, None, can_begin=False)
        return _Found(findings, beginning, can_begin=True)

    gathered = await in_thread(found, "Matching")
    may_change = gathered.can_begin and may_take()
    is_taken = session.take_evidence(gathered.findings, keep_rows=not may_change)
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
