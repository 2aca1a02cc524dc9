"""Every error a user can cause, and what each one means to a shell.

    S2PError                      exit
    ├── UsageError                2     the request itself makes no sense
    │   └── SettingsError               as does what the configuration file says
    ├── AlignmentError            3     rows are missing or doubtful, entries are left over
    ├── InputError                4     a file cannot be read, or must not be trusted
    │   ├── AmbiguousStateDictError     several state dicts in one checkpoint
    │   └── OtherFilesError             files that do not belong together
    ├── TransformError            4     a transform does not apply to these shapes
    ├── OutputError               5     the result cannot be written
    ├── ProposerError             7     Claude cannot be asked, or its answer cannot be used
    └── CancelledError            130   the user stopped it

Each holds one line that names the thing and the reason, and a `hint`: the way out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""The text with control, format and unassigned characters spelled out (`\\x1b`, `\\u202e`)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _OBEYED
        else character
        for character in text
    )


def one_line(text: str, longest: int) -> str:
    """The text made printable; of one that is too long, beginning and end."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} … {text[-half:]}"
    return printable(text)


_LONGEST = 2000


_MOST_ROWS = 20


class S2PError(Exception):
    """Base of all errors this package raises on purpose.

    What a file holds may be in them, so they are made one line of inert text of bounded length.

    Attributes:
        message: What is wrong, in one line, naming the thing.
        hint: What to do about it, or an empty string.
    """

    exit_code: int = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = one_line(message, _LONGEST)
        self.hint = one_line(hint, _LONGEST)

    @property
    def line(self) -> str:
        """Message and hint in one line."""
        return f"{self.message} {self.hint}".strip()

    def __str__(self) -> str:
        return self.line


def _inert(problems: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((where, one_line(why, _LONGEST)) for where, why in problems)


class UsageError(S2PError):
    """The request itself makes no sense, whatever the files hold."""

    exit_code = 2


class SettingsError(UsageError):
    """What the configuration file says makes no sense.

    Attributes:
        problems: One `(line, what is wrong with it)` each, in the file's order.
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = (), hint: str = ""):
        super().__init__(message, hint)
        self.problems = tuple(problems)


class AlignmentError(S2PError):
    """Rows, or entries that no row uses, stand in the way of a conversion.

    Attributes:
        problems: One `(leaf key path, reason)` per row, in leaf order; then one `(keys, reason)`
            per group of unused entries.
        unused: Patterns of keys that accept these entries, one per group.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        problems: Sequence[tuple[str, str]] = (),
        hint: str = "",
        unused: Sequence[str] = (),
    ) -> None:
        super().__init__(message, hint)
        self.problems = _inert(problems)
        self.unused = tuple(unused)

    def __str__(self) -> str:
        rows = [f"  {where}: {why}" for where, why in self.problems[:_MOST_ROWS]]
        if len(self.problems) > _MOST_ROWS:
            rows.append(f"  and {len(self.problems) - _MOST_ROWS} more")
        return "\n".join(part for part in (self.message, *rows, self.hint) if part)


class InputError(S2PError):
    """A file cannot be read, is not what it should be, or must not be trusted."""

    exit_code = 4


class AmbiguousStateDictError(InputError):
    """A checkpoint holds several state dicts.

    Attributes:
        choices: The `--key` of each candidate and its number of tensors.
    """

    def __init__(self, message: str, choices: Sequence[tuple[str, int]], hint: str = "") -> None:
        super().__init__(message, hint)
        self.choices = tuple(choices)


class OtherFilesError(InputError):
    """A mapping, skeleton and checkpoint that do not belong together.

    Attributes:
        problems: One `(where, difference)` each, `where` being a key path or a file's role.
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = (), hint: str = ""):
        super().__init__(message, hint)
        self.problems = _inert(problems)


class TransformError(S2PError):
    """A transform does not apply to the shapes it is given."""

    exit_code = 4

    def __init__(
        self,
        message: str,
        hint: str = "Choose another with t in the app, or mend the row in the mapping file.",
    ) -> None:
        super().__init__(message, hint)


class OutputError(S2PError):
    """The result cannot be written, or is not what it should be."""

    exit_code = 5


class ProposerError(S2PError):
    """Claude cannot be asked, or did not answer, or its answer cannot be used."""

    exit_code = 7


class CancelledError(S2PError):
    """The user or a signal stopped it; nothing was written."""

    def __init__(self, message: str, *, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
