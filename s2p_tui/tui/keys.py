"""The key table: bindings, footer and help screen are all made from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from s2p_tui.tui.cursor import Mode


@dataclass(frozen=True, slots=True)
class Key:
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
        """What the configuration file calls the action."""
        if self.name:
            return self.name
        return re.sub(r"\W+", "_", self.action.rpartition(".")[2]).strip("_")

    @property
    def words(self) -> str:
        """What the action does, for a list of single actions."""
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
            "next, previous blocking row, or match",
            "next_problem",
            "next blocking row, or match",
        ),
        Key("N", "next(-1)", name="previous_problem", title="previous blocking row, or match"),
        Key("slash", "find", "/", "find by name, 10x10 or doubtful"),
        Key("i", "look", "i", "look: all about the row, and its numbers", title="look at the row"),
        Key("tab", "fold", "Tab", "unfold a repeated block, or fold it"),
        Key("shift+tab", "fold_around", "shift+Tab", "fold the block around this one"),
        Key("F", "fold_all", "F", "unfold everything; again: fold everything"),
        Key("", "", "0-9 Enter", "go to the row of that number"),
    ),
    "Mark": (
        Key("space", "mark", "Space", "mark the row and go down"),
        Key("v", "range", "v", "start a range of marks; again: end it", "mark_range"),
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
        Key("y", "trust", "y", "trust a doubtful row; again: no longer"),
        Key("a", "match", "a", "line up by names and structure, after review"),
        Key("p", "claude", "p", "ask Claude about what is not settled"),
        Key("L", "lift", "L", "arrange the sibling blocks like this block"),
        Key("u,ctrl+z", "undo", "u  ctrl+z", "undo"),
        Key("ctrl+y,ctrl+r", "redo", "ctrl+y  ctrl+r", "redo"),
    ),
    "Finish": (
        Key("c", "convert", "c", "convert"),
        Key("ctrl+s", "save", "ctrl+s", "save the mapping", "save_mapping"),
        Key("ctrl+o", "load_mapping", "ctrl+o", "load a mapping file"),
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
        ("space", "mark"),
        ("y", "trust"),
        ("Del", "bench"),
        ("i", "look"),
        ("L", "lift"),
        ("d", "details"),
    ),
    "picked": (
        ("Enter", "put here"),
        ("x", "swap"),
        ("Esc", "cancel"),
        ("0-9", "row number"),
        ("t", "transform"),
        ("Del", "bench"),
    ),
    "range": (
        ("v", "end range"),
        ("J/K", "move"),
        ("t", "join or split"),
        ("s", "gap"),
        ("Del", "bench"),
        ("Esc", "cancel"),
    ),
    "find": (
        ("n/N", "next match"),
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


def hints_of(mode: Mode) -> tuple[tuple[str, str], ...]:
    """Keys as they are shipped and what they do now, the most useful first."""
    return _HINTS[mode]
