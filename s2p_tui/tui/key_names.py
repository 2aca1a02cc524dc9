"""Names of keys: as people write and read them, and as Textual calls them."""

from __future__ import annotations

import unicodedata

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
