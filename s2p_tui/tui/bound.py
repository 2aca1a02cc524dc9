"""Which keys do what in this run, and how they are shown: the table with the user's changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from s2p_tui.tui.cursor import Mode
from s2p_tui.tui.key_names import show_key
from s2p_tui.tui.keys import GROUPS, Key, actions, hints_of

RESERVED = frozenset({"ctrl+c", "ctrl+q", *"0123456789"})
"""Keys that no action can have: the ways out, and the digits of row numbers."""

_NEVER_PRESSED = "unbound"


@dataclass(frozen=True)
class Bound:
    """The keys of every action.

    Attributes:
        moved: Keys of the actions that have others than they are shipped with, by the actions'
            names, the keys as Textual calls them; none takes an action's keys away.
    """

    moved: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def keys(self, key: Key) -> tuple[str, ...]:
        """The keys of a line of the table, as Textual calls them."""
        return self.moved.get(key.id, tuple(key.keys.split(",")))

    @property
    def keymap(self) -> dict[str, str]:
        """What Textual is told: a string of keys for each action that has others."""
        return {name: ",".join(keys) or _NEVER_PRESSED for name, keys in self.moved.items()}

    def conflicts(self) -> dict[str, list[str]]:
        """Keys that several actions would have, with the actions' names."""
        takers: dict[str, list[str]] = {}
        for key in actions():
            for pressed in self.keys(key):
                takers.setdefault(pressed, []).append(key.id)
        return {pressed: names for pressed, names in takers.items() if len(set(names)) > 1}

    def hints(self, mode: Mode, width: int, *, ascii_only: bool = False) -> list[tuple[str, str]]:
        """The most useful keys now, as many as fit into `width` cells, two between each."""
        kept: list[tuple[str, str]] = []
        for shipped, words in hints_of(mode):
            key = self._as_bound(shipped, ascii_only=ascii_only)
            if not key:
                continue
            width -= len(key) + len(words) + 3
            if width < 0:
                break
            kept.append((key, words))
        return kept

    def help_lines(
        self, group: str, *, ascii_only: bool = False, briefly: bool = False
    ) -> Iterator[tuple[str, str]]:
        """Keys and what they do, one line each, as the help shows them.

        Args:
            group: A title of the table.
            ascii_only: Spell arrows out.
            briefly: One key of each action only.
        """
        table = GROUPS[group]
        for number, key in enumerate(table):
            if not key.shown:
                continue
            end = next((n for n in range(number + 1, len(table)) if table[n].shown), len(table))
            line = [one for one in (key, *table[number + 1 : end]) if one.keys]
            shown = key.shown
            if not line:
                indent = " " * (len(shown) - len(shown.lstrip()))
                shown = indent + self._as_bound(shown.strip(), ascii_only=ascii_only)
            elif briefly or any(one.id in self.moved for one in line):
                most, between = (1, " ") if briefly else (2, "  ")
                shown = between.join(self.shown(one, most, ascii_only=ascii_only) for one in line)
            if ascii_only:
                shown = shown.replace("↓ ↑", "down up")
            yield shown, key.does

    def shown(self, key: Key, most: int, *, ascii_only: bool = False) -> str:
        """The first keys of an action, as people read them."""
        return " ".join(show_key(one, ascii_only=ascii_only) for one in self.keys(key)[:most])

    def _as_bound(self, shipped: str, *, ascii_only: bool) -> str:
        """`J/K`, as the table of hints has it, with the keys those actions have now."""
        parts = [shipped] if shipped in self._by_shown else shipped.split("/")
        now: list[str] = []
        for part in parts:
            key = self._by_shown.get(part)
            if key is None or key.id not in self.moved:
                now.append(part)
            elif self.keys(key):
                now.append(show_key(self.keys(key)[0], ascii_only=ascii_only))
        return "/".join(now)

    @cached_property
    def _by_shown(self) -> dict[str, Key]:
        """Lines of the table by their shipped keys as people read them."""
        found: dict[str, Key] = {}
        for key in actions():
            for pressed in key.keys.split(","):
                shown = show_key(pressed)
                found.setdefault(shown, key)
                if len(shown) > 1:
                    found.setdefault(shown.lower(), key)
        return found
