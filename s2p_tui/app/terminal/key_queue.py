"""A queue of keys: each is dispatched once the effect of the one before can be seen."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from msgspec import Struct, structs
from textual import events
from textual.app import App, ReturnType
from textual.await_complete import AwaitComplete
from textual.dom import DOMNode
from textual.message import Message
from textual.screen import Screen

_LOST_AFTER = 0.5
_MOST_WAITS = 6


class Turn(Struct, frozen=True):
    """A key on its way.

    Attributes:
        number: Which one it is.
        screen: The screen it was sent to.
        target: The focused widget, or that screen.
        is_answered: Whether messages that the key has made the target send have passed too.
    """

    number: int
    screen: Screen[object]
    target: DOMNode
    is_answered: bool


class KeyQueue(App[ReturnType]):
    """An app that queues keys until the previous key's effect is on the screen.

    Textual sends keys to the screen that is there when they come, so that those typed on after the
    key that opens a list or a line, or closes it, would do something else in the screen behind, or
    close that one too. A slow line delivers keys in just such bursts.
    """

    @dataclass
    class Passed(Message):
        """Follows a key on its way from its target to the app."""

        turn: Turn

    def __init__(self, *, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self._keys: deque[events.Key] = deque()
        self._turn = 0
        self._rescue: asyncio.TimerHandle | None = None

    @property
    def keys_are_done(self) -> bool:
        """True if no key is on its way or queued."""
        return self._rescue is None and not self._keys

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key) or event.is_forwarded:
            await super().on_event(event)
        elif self._rescue is not None:
            self._keys.append(event)
        else:
            await self._dispatch(event)

    def press_next(self, *keys: events.Key) -> None:
        """Dispatch keys before those that are queued."""
        if self._rescue is None:
            for key in keys:
                self.post_message(key)
        else:
            self._keys.extendleft(reversed(keys))

    async def _dispatch(self, key: events.Key) -> None:
        self._turn += 1
        target = self.focused or self.screen
        turn = Turn(self._turn, self.screen, target, is_answered=target is self.screen)
        self._await_end(turn)
        await super().on_event(key)
        self._follow(turn)

    def _await_end(self, turn: Turn, waits: int = 0) -> None:
        self._rescue = asyncio.get_running_loop().call_later(
            _LOST_AFTER, self._rescue_from, turn, waits
        )

    def _rescue_from(self, turn: Turn, waits: int) -> None:
        """Dispatch the next key if a widget went away with what follows this one.

        One that is there still is only slow: the next key would come to the wrong screen.
        """
        if turn.number != self._turn or self._rescue is None:
            return
        if turn.target.is_running and waits < _MOST_WAITS:
            self._await_end(turn, waits + 1)
        else:
            self.call_later(self._next_key, turn)

    def pop_screen(self) -> AwaitComplete:
        """Close the screen on top; what follows a key there will not arrive."""
        closed = self.screen
        popped = super().pop_screen()
        if self._rescue is not None:
            self.call_later(self._settle, Turn(self._turn, closed, closed, is_answered=True))
        return popped

    def _follow(self, turn: Turn) -> None:
        if not turn.target.post_message(self.Passed(turn)):
            self.call_later(self._settle, structs.replace(turn, is_answered=True))

    async def on_key_queue_passed(self, event: Passed) -> None:
        """Behind what the key has asked of the app, such as another focus."""
        event.stop()
        self.call_later(self._settle, event.turn)

    async def _settle(self, turn: Turn) -> None:
        if not turn.is_answered:
            self._follow(structs.replace(turn, is_answered=True))
        elif self.screen is turn.screen:
            await self._next_key(turn)
        else:
            # A new screen chooses its focus when it is first drawn.
            self.screen.call_after_refresh(self.call_later, self._next_key, turn)

    async def _next_key(self, turn: Turn) -> None:
        if turn.number != self._turn or self._rescue is None:
            return
        self._rescue.cancel()
        self._rescue = None
        if self._keys:
            await self._dispatch(self._keys.popleft())
