"""The key table: bindings, footer and help screen are all made from it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from msgspec import Struct

from s2p_tui.app.cursor import Mode


class Key(Struct, frozen=True):
    """One line of the table.

    Attributes:
        keys: Textual's names of the keys, joined with commas.
        action: What they do on the main screen.
        shown: The keys as people read them, those of the lines without any that follow included;
            keys moved by the configuration file are shown in their place.
        does: What they do, in words.
        name: What the configuration file calls the action; made from `action` where empty.
        title: What the palette calls it, where that is not `does`.
    """

    keys: str
    action: str
    shown: str = ""
    does: str = ""
    name: str = ""
    title: str = ""

    @property
    def id(self) -> str:
        """The action's name in the configuration file."""
        if self.name:
            return self.name
        return re.sub(r"\W+", "_", self.action.rpartition(".")[2]).strip("_")

    @property
    def words(self) -> str:
        """The action's description in a list of single actions."""
        return self.title or self.does or self.id.replace("_", " ")


GROUPS: dict[str, tuple[Key, ...]] = {
    "Go": (
        Key("down,j", "go(1)", "↓ ↑  j k", "one row down, up", "cursor_down", "one row down"),
        Key("up,k", "go(-1)", name="cursor_up", title="one row up"),
        Key(
            "pagedown,ctrl+f",
            "page(2)",
            "PgDn PgUp  ctrl+f ctrl+b",
            "one page",
            "page_down",
            "one page down",
        ),
        Key("pageup,ctrl+b", "page(-2)", name="page_up", title="one page up"),
        Key(
            "ctrl+d",
            "page(1)",
            "ctrl+d ctrl+u",
            "half a page",
            "half_page_down",
            "half a page down",
        ),
        Key("ctrl+u", "page(-1)", name="half_page_up", title="half a page up"),
        Key("home,g", "first", "g  Home", "first row", "first_row"),
        Key("end,G", "last_or_typed", "G  End", "last row, or the typed row number", "last_row"),
        Key(
            "n",
            "next(1)",
            "n N",
            "next, previous blocking row, match or fit",
            "next_problem",
            "next blocking row, or match",
        ),
        Key("N", "next(-1)", name="previous_problem", title="previous blocking row, or match"),
        Key(
            "slash",
            "find",
            "/",
            "find: *.bias re:x 10x10 64 bfloat16 Linear trusted",
        ),
        Key("f", "filter", "f", "hide what / did not find, or what lines up"),
        Key("o", "kinds", "o", "one line per kind of row; keys act on all of it"),
        Key("i", "look", "i", "look: all about the row, and its numbers", title="look at the row"),
        Key("tab", "fold", "Tab", "unfold a repeated block, or fold it"),
        Key("shift+tab", "fold_around", "shift+Tab", "fold the block around this one"),
        Key("F", "fold_all", "F", "unfold everything; again: fold everything"),
        Key("", "", "0-9 Enter", "go to the row of that number"),
    ),
    "Mark": (
        Key("space", "mark", "Space", "mark the row and go down"),
        Key("v", "range", "v", "mark a range, up to the cursor", "mark_range"),
        Key("asterisk", "mark_all", "*", "mark what / found, or the rows of this kind"),
        Key("escape", "escape", "Esc", "put back, end the find, clear the marks"),
    ),
    "Arrange": (
        Key(
            "J,shift+down,alt+down",
            "shift(1)",
            "J K  shift+↓ ↑",
            "move the entry or marked block",
            "move_down",
            "move the entry or marked block down",
        ),
        Key(
            "K,shift+up,alt+up",
            "shift(-1)",
            name="move_up",
            title="move the entry or marked block up",
        ),
        Key(
            "m",
            "pick",
            "m",
            "pick up; then go or type a number, and",
            "pick_up",
            "pick up the entry, or put it back",
        ),
        Key("", "", "  Enter", "put it there; those between shift"),
        Key("x", "swap", "  x", "swap it with the entry there"),
        Key(
            "enter",
            "enter",
            "Enter",
            "choose this leaf's entry from a list",
            title="choose this leaf's entry, put down, or go to the typed row",
        ),
        Key("s", "gap", "s", "gap on, off: keep the skeleton's value"),
        Key("delete,backspace", "bench", "Del", "send the entry to the bench"),
        Key("t", "transform", "t", "choose the transform; join or split marked rows"),
        Key("y", "trust", "y", "trust a doubtful row, accept an unused entry"),
        Key("a", "match", "a", "line up by names and structure, after review"),
        Key("p", "claude", "p", "ask Claude about what is not settled"),
        Key("L", "lift", "L", "arrange the sibling blocks like this block"),
        Key("u,ctrl+z", "undo", "u  ctrl+z", "undo"),
        Key("ctrl+y,ctrl+r", "redo", "ctrl+y  ctrl+r", "redo"),
    ),
    "Finish": (
        Key("V", "check", "V", "run both models, compare them module by module"),
        Key("S", "settle", "S", "let the forward settle doubtful rows, after review"),
        Key("c", "convert", "c", "convert"),
        Key("ctrl+s", "save", "ctrl+s", "save the mapping; again: as a recipe", "save_mapping"),
        Key("ctrl+o", "load_mapping", "ctrl+o", "load a mapping or recipe"),
        Key("Y", "copy", "Y", "copy the row's key and key path"),
        Key("d", "details", "d", "details on and off"),
        Key("ctrl+p", "app.palette", "ctrl+p", "every action, by name"),
        Key("question_mark", "help", "?", "this help", title="help: keys and signs"),
        Key("q", "app.ask_quit", "q  ctrl+q", "quit", "quit"),
    ),
}

_HINTS: dict[Mode, tuple[tuple[str, str], ...]] = {
    "normal": (
        ("?", "help"),
        ("q", "quit"),
        ("c", "convert"),
        ("n", "next problem"),
        ("J/K", "move"),
        ("m", "pick up"),
        ("s", "gap"),
        ("a", "match"),
        ("p", "Claude"),
        ("t", "transform"),
        ("u", "undo"),
        ("Enter", "choose"),
        ("/", "find"),
        ("o", "kinds"),
        ("space", "mark"),
        ("y", "trust"),
        ("Del", "bench"),
        ("i", "look"),
        ("L", "lift"),
        ("V", "run both"),
        ("S", "settle"),
        ("d", "details"),
    ),
    "picked": (
        ("n", "next fit"),
        ("Enter", "put here"),
        ("x", "swap"),
        ("Esc", "cancel"),
        ("0-9", "row number"),
        ("t", "transform"),
        ("Del", "bench"),
    ),
    "range": (
        ("y", "trust"),
        ("space", "mark"),
        ("J/K", "move"),
        ("t", "join or split"),
        ("s", "gap"),
        ("Del", "bench"),
        ("Esc", "cancel"),
    ),
    "find": (
        ("n/N", "next match"),
        ("f", "hide others"),
        ("*", "mark all"),
        ("/", "find again"),
        ("Esc", "end find"),
        ("J/K", "move"),
        ("m", "pick up"),
        ("?", "help"),
    ),
}


def actions() -> Iterator[Key]:
    """The lines of the table that bind keys."""
    for group in GROUPS.values():
        yield from (key for key in group if key.keys)


_NAVIGATION = {
    "cursor_down": "go(1)",
    "cursor_up": "go(-1)",
    "page_down": "page(2)",
    "page_up": "page(-2)",
    "half_page_down": "page(1)",
    "half_page_up": "page(-1)",
    "first_row": "first",
    "last_row": "last",
}
_WHILE_TYPING = frozenset(_NAVIGATION) - {"half_page_down", "half_page_up"}


def navigation(*, typing: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the keys that go through the list and their actions, for lists on other screens.

    Args:
        typing: Leave out letters and the keys that edit a line of text.
    """
    for key in GROUPS["Go"]:
        if key.id in (_WHILE_TYPING if typing else _NAVIGATION):
            keys = [one for one in key.keys.split(",") if not (typing and len(one) == 1)]
            yield ",".join(keys), _NAVIGATION[key.id]


_MODIFIERS = ("ctrl", "alt", "shift", "super", "meta", "hyper")
_SAME_AS = {"ctrl+i": "tab", "ctrl+m": "enter", "ctrl+h": "backspace", "ctrl+[": "escape"}
# As Textual names characters, where that is not their name in Unicode.
_RENAMED = {
    "solidus": "slash",
    "reverse_solidus": "backslash",
    "commercial_at": "at",
    "hyphen_minus": "minus",
    "plus_sign": "plus",
    "low_line": "underscore",
}
_ARROWS = ("up", "down", "left", "right")
_SPECIAL = frozenset(
    (*_ARROWS, "home", "end", "pageup", "pagedown", "insert", "delete", "backspace", "enter")
) | {"escape", "tab", *(f"f{number}" for number in range(1, 25))}
_SHOWN = {
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "delete": "Del",
    "insert": "Ins",
    "escape": "Esc",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
}
_PLAIN = {"↑": "up", "↓": "down", "←": "left", "→": "right"}


def key_named(text: str) -> str:
    """A key as Textual calls it, from the way people write it: `?`, `ctrl+n`, `PageDown`.

    Raises:
        ValueError: There is no such key, or terminals cannot tell it from another; it says which.
    """
    text = text.strip()
    before, _, key = text.rpartition("+") if not text.endswith("+") else (text[:-1], "", "+")
    modifiers = [modifier.lower() for modifier in before.split("+") if modifier]
    if wrong := [modifier for modifier in modifiers if modifier not in _MODIFIERS]:
        raise ValueError(f"{wrong[0]!r} is no modifier; those are {', '.join(_MODIFIERS)}")
    name = _plain_key(key)
    if modifiers == ["shift"] and len(name) == 1 and name.isalpha():
        return name.upper()
    if "ctrl" in modifiers and len(name) == 1:
        name = name.lower()
    whole = "+".join([*sorted(modifiers, key=_MODIFIERS.index), name])
    if other := _SAME_AS.get(whole.replace("left_square_bracket", "[")):
        raise ValueError(f"terminals send {text} as {other}: write {other}")
    return whole


def _plain_key(key: str) -> str:
    if len(key) == 1 and key.isprintable():
        if key.isalnum():
            return key
        name = unicodedata.name(key, "").lower().replace("-", "_").replace(" ", "_")
        return _RENAMED.get(name, name)
    name = key.lower().replace("page_", "page")
    name = {"esc": "escape", "del": "delete", "pgup": "pageup", "pgdn": "pagedown"}.get(name, name)
    if name in _SPECIAL or _character(name):
        return name
    raise ValueError(f"{key!r} is no key")


def _character(name: str) -> str:
    """The character Textual has a name for; empty if there is none."""
    unicode = {short: long for long, short in _RENAMED.items()}.get(name, name)
    words = unicode.replace("_", " ")
    for spelled in (words, words.replace(" ", "-"), words.replace(" ", "-", 1)):
        try:
            return unicodedata.lookup(spelled.upper())
        except KeyError:
            continue
    return ""


def show_key(key: str, *, ascii_only: bool = False) -> str:
    """A key as people read it: `?`, `PgDn`, `ctrl+n`, `shift+↓`."""
    *modifiers, last = key.split("+")
    character = _character(last)
    shown = _SHOWN.get(last) or (
        character if character.isprintable() and character.strip() else last.capitalize()
    )
    if len(last) == 1 or modifiers:
        shown = last if last not in _SHOWN and not character else shown
    if ascii_only:
        shown = _PLAIN.get(shown, shown)
    return "+".join([*modifiers, shown])


RESERVED = frozenset({"ctrl+c", "ctrl+q", *"0123456789"})
"""Keys that no action can have: the ways out, and the digits of row numbers."""

_NEVER_PRESSED = "unbound"


@dataclass(frozen=True)
class Keymap:
    """The keys of every action, with the user's changes.

    Attributes:
        moved: Keys of the actions that have others than they are shipped with, by the actions'
            names, the keys as Textual calls them; none takes an action's keys away.
    """

    moved: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def keys(self, key: Key) -> tuple[str, ...]:
        """The keys of a line of the table, as Textual calls them."""
        return self.moved.get(key.id, tuple(key.keys.split(",")))

    @property
    def for_textual(self) -> dict[str, str]:
        """The keymap in Textual's form: a string of keys for each changed action."""
        return {name: ",".join(keys) or _NEVER_PRESSED for name, keys in self.moved.items()}

    def conflicts(self) -> dict[str, list[str]]:
        """Keys that several actions would have, with the actions' names."""
        takers: dict[str, list[str]] = {}
        for key in actions():
            for pressed in self.keys(key):
                takers.setdefault(pressed, []).append(key.id)
        return {pressed: names for pressed, names in takers.items() if len(set(names)) > 1}

    def hints(self, mode: Mode, *, ascii_only: bool = False) -> Iterator[tuple[str, str]]:
        """Yield keys and what they do now, the most useful first."""
        for shipped, words in _HINTS[mode]:
            if key := self._as_bound(shipped, ascii_only=ascii_only):
                yield key, words

    def action_of(self, mode: Mode, words: str) -> str:
        """The action of a hint, by what it says the key does; empty where it has none."""
        shipped = next((key for key, does in _HINTS[mode] if does == words), "")
        key = self._by_shown.get(shipped) or self._by_shown.get(shipped.split("/")[0])
        return key.action if key is not None else ""

    def help_lines(
        self, group: str, *, ascii_only: bool = False, briefly: bool = False
    ) -> Iterator[tuple[str, str]]:
        """Yield a group's keys and what they do, for the help; `briefly`, one key each."""
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
