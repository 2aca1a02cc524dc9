"""The user's configuration file: keys, and defaults for the command line's options."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from platformdirs import user_config_path

from s2p_tui.app.keys import RESERVED, Keymap, actions, key_named, show_key
from s2p_tui.errors import SettingsError

_SWITCHES = ("ascii", "mouse")
_HEADER = re.compile(r"\s*\[([^\[\]]+)\]")
_NAME = re.compile(r"""\s*["']?([\w.-]+)["']?\s*=""")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in the file.

    Attributes:
        ascii: Whether to use ASCII characters only; None where the terminal's locale says.
        mouse: Whether the mouse is used.
        theme: Name of one of Textual's themes; None for what suits the terminal.
        keymap: The keys of every action.
    """

    ascii: bool | None = None
    mouse: bool = True
    theme: str | None = None
    keymap: Keymap = field(default_factory=Keymap)


def settings_file() -> Path:
    """Return the file's path, existing or not."""
    return user_config_path("s2p-tui", appauthor=False) / "config.toml"


def load_settings(path: Path) -> Settings:
    """Read the file; nothing is set where there is none.

    Raises:
        SettingsError: It cannot be read, or says what cannot be; every problem is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(
            f"{path} cannot be read: {reason}.", hint="Mend it, or move it away: none is needed."
        ) from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"{path} is not TOML: {error}.",
            hint="Mend it there, or move it away: s2p-tui keys prints one to start from.",
        ) from None
    settings = _SettingsReader(_lines_of(text))
    made = settings.read(content)
    if settings.problems:
        raise SettingsError(
            f"{path} cannot be followed.",
            [(f"line {line}" if line else "file", why) for line, why in sorted(settings.problems)],
            "s2p-tui keys --shipped prints a file with every action and its keys.",
        )
    return made


def as_text(keymap: Keymap) -> Iterator[str]:
    """Yield the lines of a configuration file with every action's present keys."""
    yield "[keys]"
    width = max(len(key.id) for key in actions())
    for key in actions():
        keys = ", ".join(f'"{_written(pressed)}"' for pressed in keymap.keys(key))
        yield f"{key.id:<{width}} = {f'[{keys}]':<34} # {key.words}"


def _written(key: str) -> str:
    *modifiers, last = key.split("+")
    shown = show_key(last, ascii_only=True)
    return "+".join([*modifiers, last if len(shown) > 1 or shown in '"\\' else shown])


class _SettingsReader:
    """One reading of a file; collects what is wrong with it.

    Attributes:
        problems: Lines, 0 where unknown, and what is wrong there.
    """

    def __init__(self, lines: Mapping[tuple[str, str], int]) -> None:
        self.problems: list[tuple[int, str]] = []
        self._lines = lines

    def read(self, content: Mapping[str, object]) -> Settings:
        known = {*_SWITCHES, "theme", "keys"}
        for name in content.keys() - known:
            self._wrong("", name, f"there is no {name!r}; there are {', '.join(sorted(known))}")
        for name in _SWITCHES:
            if not isinstance(content.get(name, True), bool):
                self._wrong("", name, f"{name} is true or false")
        ascii_only, mouse, theme = (content.get(name) for name in (*_SWITCHES, "theme"))
        keys = content.get("keys", {})
        if not isinstance(keys, dict):
            self._wrong("", "keys", "keys is a table: [keys] on a line of its own")
            keys = {}
        return Settings(
            ascii_only if isinstance(ascii_only, bool) else None,
            mouse is not False,
            self._theme(theme),
            self._keymap(cast("dict[str, object]", keys)),
        )

    def _theme(self, theme: object) -> str | None:
        from textual.theme import BUILTIN_THEMES

        if theme is None or (isinstance(theme, str) and theme in BUILTIN_THEMES):
            return theme
        names = ", ".join(BUILTIN_THEMES)
        self._wrong("", "theme", f"there is no theme {theme!r}; there are {names}")
        return None

    def _keymap(self, table: Mapping[str, object]) -> Keymap:
        known = {key.id: key for key in actions()}
        moved: dict[str, tuple[str, ...]] = {}
        for name, value in table.items():
            if name not in known:
                self._wrong("keys", name, _unknown_action(name, known))
            elif (keys := self._keys(name, value)) is not None:
                moved[name] = keys
        keymap = Keymap(moved)
        for pressed, names in keymap.conflicts().items():
            blamed = next((name for name in names if name in moved), names[0])
            others = " and ".join(name for name in names if name != blamed)
            self._wrong(
                "keys",
                blamed,
                f"{show_key(pressed)} is for {others} too; give one of them another key",
            )
        return keymap

    def _keys(self, name: str, value: object) -> tuple[str, ...] | None:
        """The keys of one action; None, and a problem noted, where they are none."""
        texts = _texts_in(value)
        if texts is None:
            self._wrong("keys", name, 'a key is text, as "ctrl+n", several are a list of texts')
            return None
        keys: list[str] = []
        for text in texts:
            try:
                key = key_named(text)
            except ValueError as error:
                self._wrong("keys", name, f"{error}")
                return None
            if key in RESERVED:
                what = "a digit of a row number" if key.isdigit() else "always a way out"
                self._wrong("keys", name, f"{key} is {what} and cannot be bound")
                return None
            keys.append(key)
        return tuple(dict.fromkeys(keys))

    def _wrong(self, table: str, name: str, why: str) -> None:
        self.problems.append((self._lines.get((table, name), 0), why))


def _texts_in(value: object) -> list[str] | None:
    """The texts of a list of texts, or between the commas of one; None if it is neither."""
    if isinstance(value, str):
        return value.split(",") if value.strip() not in ("", ",") else list(value.strip())
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    texts = [item for item in items if isinstance(item, str)]
    return texts if len(texts) == len(items) else None


def _unknown_action(name: str, known: Mapping[str, object]) -> str:
    from rapidfuzz import process

    near = process.extractOne(name, list(known), score_cutoff=60)
    meant = f"; {near[0]} may be meant" if near else "; s2p-tui keys lists them"
    return f"there is no action {name!r}{meant}"


def _lines_of(text: str) -> dict[tuple[str, str], int]:
    """On which line each name of each table is set; TOML readers do not say."""
    lines: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1].strip()
            lines.setdefault(("", table), number)
        elif name := _NAME.match(line):
            lines.setdefault((table, name[1]), number)
    return lines


def locale_is_ascii(environ: Mapping[str, str] | None = None) -> bool:
    """Return True if the locale names a character set other than UTF-8.

    One that names none is taken for UTF-8: containers and `ssh` to them leave it unset, and no
    terminal of today is anything else.
    """
    given = _started_with() if environ is None else environ
    named = next((given[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if given.get(name)), "")
    charset = named.partition(".")[2].partition("@")[0].lower().replace("-", "")
    return named in ("C", "POSIX") or (bool(charset) and charset != "utf8")


def _started_with() -> Mapping[str, str]:
    """The environment before the interpreter itself has set LC_CTYPE, as it does in C locales."""
    try:
        with open("/proc/self/environ", "rb") as stream:
            pairs = (os.fsdecode(pair).partition("=") for pair in stream.read().split(b"\0"))
            return {name: value for name, _, value in pairs}
    except OSError:
        return os.environ
