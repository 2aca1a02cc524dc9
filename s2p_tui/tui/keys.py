"""The key table: bindings, footer and help screen are all made from it."""

from __future__ import annotations

from dataclasses import dataclass

from s2p_tui.tui.cursor import Mode


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the table.

    Attributes:
        keys: Textual's names of the keys, joined with commas.
        action: What they do on the main screen.
        shown: The keys as people read them; empty hides the line in the help.
        does: What they do, in words.
    """

    keys: str
    action: str
    shown: str = ""
    does: str = ""


GROUPS: dict[str, tuple[Key, ...]] = {
    "Go": (
        Key("down,j", "go(1)", "↓ ↑  j k", "one row down, up"),
        Key("up,k", "go(-1)"),
        Key("pagedown,ctrl+f", "page(2)", "PgDn PgUp  ctrl+f ctrl+b", "one page"),
        Key("pageup,ctrl+b", "page(-2)"),
        Key("ctrl+d", "page(1)", "ctrl+d ctrl+u", "half a page"),
        Key("ctrl+u", "page(-1)"),
        Key("home,g", "first", "g  Home", "first row"),
        Key("end,G", "last_or_typed", "G  End", "last row, or the typed row number"),
        Key("n", "next(1)", "n N", "next, previous blocking row, or match"),
        Key("N", "next(-1)"),
        Key("slash", "find", "/", "find by name, 10x10 or doubtful"),
        Key("i", "look", "i", "look: all about the row, and its numbers"),
        Key("", "", "0-9 Enter", "go to the row of that number"),
    ),
    "Mark": (
        Key("space", "mark", "Space", "mark the row and go down"),
        Key("v", "range", "v", "start a range of marks; again: end it"),
        Key("escape", "escape", "Esc", "put back, end the find, clear the marks"),
    ),
    "Arrange": (
        Key(
            "J,shift+down,alt+down", "shift(1)", "J K  shift+↓ ↑", "move the entry or marked block"
        ),
        Key("K,shift+up,alt+up", "shift(-1)"),
        Key("m", "pick", "m", "pick up; then go or type a number, and"),
        Key("", "", "  Enter", "put it there; those between shift"),
        Key("x", "swap", "  x", "swap it with the entry there"),
        Key("enter", "enter", "Enter", "choose this leaf's entry from a list"),
        Key("s", "gap", "s", "gap on, off: keep the skeleton's value"),
        Key("delete,backspace", "bench", "Del", "send the entry to the bench"),
        Key("t", "transform", "t", "choose the transform; join or split marked rows"),
        Key("y", "trust", "y", "trust a doubtful row; again: no longer"),
        Key("a", "match", "a", "line up by names and structure, after review"),
        Key("L", "lift", "L", "arrange the sibling blocks like this block"),
        Key("u,ctrl+z", "undo", "u  ctrl+z", "undo"),
        Key("ctrl+y,ctrl+r", "redo", "ctrl+y  ctrl+r", "redo"),
    ),
    "Finish": (
        Key("c", "convert", "c", "convert"),
        Key("ctrl+s", "save", "ctrl+s", "save the mapping"),
        Key("d", "details", "d", "details on and off"),
        Key("question_mark", "help", "?", "this help"),
        Key("q", "app.ask_quit", "q  ctrl+q", "quit"),
    ),
}

_HINTS: dict[Mode, tuple[tuple[str, str], ...]] = {
    "normal": (
        ("?", "help"),
        ("q", "quit"),
        ("c", "convert"),
        ("J/K", "move"),
        ("m", "pick up"),
        ("s", "gap"),
        ("a", "match"),
        ("Enter", "choose"),
        ("u", "undo"),
        ("n", "next problem"),
        ("t", "transform"),
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


def hints(mode: Mode, width: int) -> list[tuple[str, str]]:
    """The most useful keys now, as many as fit into `width` cells, two between each."""
    kept: list[tuple[str, str]] = []
    for key, words in _HINTS[mode]:
        width -= len(key) + len(words) + 3
        if width < 0:
            break
        kept.append((key, words))
    return kept
