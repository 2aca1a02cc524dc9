"""Every error a user can cause, and its exit status.

    S2PError                      exit
    ├── UsageError                2     the request itself makes no sense
    │   └── SettingsError               the configuration file has invalid settings
    ├── AlignmentError            3     rows do not line up, or entries are left over
    ├── InputError                4     a file cannot be read, or must not be trusted
    │   ├── AmbiguousStateDictError     several state dicts in one checkpoint
    │   ├── NoStateDictError            nothing in it maps names to tensors
    │   ├── MissingEntriesError         an index names entries that are not there
    │   └── OtherFilesError             files that do not belong together
    ├── TransformError            4     a transform does not apply to these shapes
    ├── OutputError               5     the result cannot be written
    ├── ProposerError             7     Claude cannot be asked, or its answer cannot be used
    └── CancelledError            130   the user stopped it

Each holds one line that names the thing and the reason, and a `hint`: the way out. Where that
depends on the door the user came through (an option, an argument, a key), the hint is a `Code` with
facts, which the command line, the Python calls and the app put into their own words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self


def printable(text: str, *, ascii_only: bool = False) -> str:
    r"""The text with everything that could steer a terminal spelled out: `\x1b`, `\n`, `\u202e`.

    Spaces other than the plain one, which look like it, are spelled out as well: `\xa0`, `\u3000`.

    Args:
        text: Any text, possibly from a hostile file.
        ascii_only: Spell out everything beyond ASCII.
    """
    if text.isprintable() and (not ascii_only or text.isascii()):
        return text
    return "".join(
        char
        if char.isprintable() and (not ascii_only or char.isascii())
        else char.encode("unicode_escape").decode()
        for char in text
    )


def one_line(text: str, longest: int) -> str:
    """Return the text made printable, its middle cut out if it is too long."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} … {text[-half:]}"
    return printable(text)


def some(names: Sequence[str], between: str = ", ", most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


# A name in a file may have a million characters; a terminal shows two thousand in 25 lines.
_LONGEST = 2000
_MOST_ROWS = 20


class Code(StrEnum):
    """Ways out that each door words in its own language.

    The value is the wording for callers without a door, such as a script that uses a `Session`.
    Facts stand in braces.
    """

    CHOOSE_STATE_DICT = "Choose one of them: {choices}."
    ALLOW_MISSING = "Copy or download the whole set again, or allow that they are missing."
    NO_NESTED_STATE_DICT = "Do not name a state dict within it."
    SWAPPED_SIDES = "The checkpoint comes first, then the skeleton."
    NO_NAMES_FOR_LEAVES = "Leave the names out: the leaves have their own."
    SAVED_MAPPING = "Give a mapping file that a conversion or the app saved."
    SAVED_RECIPE = "Give a recipe that was saved from a mapping."
    OTHER_FILES = (
        "Use the files it names, or align these anew. For another depth or width make a recipe of "
        "it."
    )
    LINE_UP_ROWS = "Line them up, follow a mapping, or trust rows that are only doubtful."
    LINE_UP_MISMATCHED_ROWS = "Line them up, or follow a mapping."
    LINE_UP_NAMELESS_ROWS = (
        "Line them up, follow a mapping, or trust rows that are only doubtful. The leaves of a "
        "plain .eqx can be named by the model that was saved."
    )
    ACCEPT_UNUSED = "Accept entries that the model does not need as unused: {unused}."
    MERGE_ADAPTER = (
        "Some are a LoRA adapter's, which has to be merged: give the base model's checkpoint with "
        "the adapter beside it, or merge them with PEFT (merge_and_unload) first."
    )
    ALLOW_OVERFLOW = "Write a dtype with room for them, or allow overflow."
    LOADABLE_DTYPE = "Write bfloat16, or a .safetensors file."
    VERIFY_OR_NO_CERTIFICATE = "Verify the file, or leave the certificate out."
    SAME_AS_CONVERTED = (
        "Give the checkpoint, skeleton, mapping and dtype that it was converted with, or convert "
        "again."
    )
    WRITE_MISSING = "Write again: what is there is kept."
    MERGE_FIRST = "Merge what the workers wrote first."
    VERIFY_FIRST = "Verify every part first."
    SAME_PLAN = (
        "Give every worker the same checkpoint, skeleton, mapping, dtype and chunk size, or remove "
        "what is there."
    )
    OVERWRITE_CHUNKS = "Choose another folder, or allow that these are replaced."
    NOBODY_TO_ASK = "Run it in a terminal, or answer beforehand."
    TURN_ROUND = "Give the mapping that the conversion saved, or convert these rows otherwise."
    NO_ROOM_IN_ENTRIES = (
        "Make them agree before they are exported, or convert into a pytree without them."
    )
    GIVE_ORIGINAL = "Give the original checkpoint, too."
    SETTLE_BY_FORWARD = "Or let the forward of both models settle rows that are only doubtful."
    SETTLE_MAPPING = "Give the mapping that the conversion saved, or trust rows that are doubtful."
    ALLOW_ENTRY_OVERFLOW = "Scale them down first, or allow overflow."
    ANOTHER_PROGRAM = "Quit that one and start again, or save a mapping file."


@dataclass(frozen=True, slots=True)
class Hint:
    """A way out as a code and the facts it is worded with.

    Attributes:
        code: The way out.
        facts: What stands in braces in its wording.
        more: Another way out, for another part of the problem.
    """

    code: Code
    facts: Mapping[str, object] = field(default_factory=dict[str, object])
    more: Hint | None = None

    def worded(self, words: Mapping[Code, str]) -> str:
        """Return the hint in a door's words; in the code's own where the table has none."""
        here = words.get(self.code, self.code.value).format_map(self.facts)
        return f"{here} {self.more.worded(words)}" if self.more is not None else here


_PATTERNS_SHOWN = 8


class Patterns(tuple[str, ...]):
    """Patterns of keys as a fact of a hint.

    `{0}` quotes them for Python, `{0:--option }` for a shell, each behind the option.
    """

    __slots__ = ()

    def __format__(self, option: str) -> str:
        quoted = _for_shell if option else json.dumps
        shown = [f"{option}{quoted(pattern)}" for pattern in self[:_PATTERNS_SHOWN]]
        more = len(self) - _PATTERNS_SHOWN
        return (" " if option else ", ").join([*shown, *([f"and {more:,} more"] * (more > 0))])


def _for_shell(text: str) -> str:
    return "'{}'".format(text.replace("'", "'\"'\"'"))


class S2PError(Exception):
    """Base of all errors this package raises on purpose.

    Names from files may be in them, so they become one line of inert text of bounded length.

    Attributes:
        message: The thing and its problem, in one line.
        hint: The way out, or an empty string.
    """

    exit_code: int = 1

    def __init__(self, message: str, hint: str | Hint = "") -> None:
        super().__init__(message)
        self.message = one_line(message, _LONGEST)
        self._hint = hint
        self.hint = ""
        self.put_into({})

    @property
    def code(self) -> Code | None:
        """The code of the way out; None where it reads the same at every door."""
        return self._hint.code if isinstance(self._hint, Hint) else None

    def put_into(self, words: Mapping[Code, str]) -> Self:
        """Word the hint as a door does; returns this error.

        Args:
            words: The door's wording of each code, facts in braces.
        """
        hint = self._hint.worded(words) if isinstance(self._hint, Hint) else self._hint
        self.hint = one_line(hint, _LONGEST)
        return self

    def or_else(self, code: Code) -> Self:
        """Add a way out to a hint that has a code; returns this error."""
        hint = self._hint
        if isinstance(hint, Hint):
            more = Hint(code, more=hint.more)
            self._hint = Hint(hint.code, hint.facts, more)
        return self.put_into({})

    @property
    def line(self) -> str:
        """Message and hint in one line."""
        return f"{self.message} {self.hint}".strip()

    def __str__(self) -> str:
        return self.line


def _bounded(problems: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((where, one_line(why, _LONGEST)) for where, why in problems)


class UsageError(S2PError):
    """A request that makes no sense, whatever the files hold."""

    exit_code = 2


class SettingsError(UsageError):
    """A configuration file with invalid settings.

    Attributes:
        problems: One `(line, problem)` each, in the file's order.
    """

    def __init__(
        self, message: str, problems: Sequence[tuple[str, str]] = (), hint: str | Hint = ""
    ):
        super().__init__(message, hint)
        self.problems = tuple(problems)


class AlignmentError(S2PError):
    """Rows, or entries that no row uses, that block a conversion.

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
        hint: str | Hint = "",
        unused: Sequence[str] = (),
    ) -> None:
        super().__init__(message, hint)
        self.problems = _bounded(problems)
        self.unused = tuple(unused)

    def __str__(self) -> str:
        shown = self.problems[:_MOST_ROWS]
        rows = [f"  {one_line(where, _LONGEST)}: {why}" for where, why in shown]
        if len(self.problems) > _MOST_ROWS:
            rows.append(f"  and {len(self.problems) - _MOST_ROWS} more")
        return "\n".join(part for part in (self.message, *rows, self.hint) if part)


class InputError(S2PError):
    """A file that cannot be read, is not what it should be, or must not be trusted."""

    exit_code = 4


class AmbiguousStateDictError(InputError):
    """A checkpoint that holds several state dicts.

    Attributes:
        choices: Where each is, as a dotted path, and its number of tensors.
        meanings: What a candidate is, by its path, where that is known.
    """

    def __init__(
        self,
        message: str,
        choices: Sequence[tuple[str, int]],
        *,
        meanings: Mapping[str, str] | None = None,
    ) -> None:
        paths = ", ".join(repr(path) for path, _ in choices)
        super().__init__(message, Hint(Code.CHOOSE_STATE_DICT, {"choices": paths}))
        self.choices = tuple(choices)
        self.meanings = dict(meanings or {})


class NoStateDictError(InputError):
    """A file is sound, but nothing in it maps names to tensors."""


class MissingEntriesError(InputError):
    """A checkpoint's own list names entries that none of its files holds.

    Attributes:
        entries: Their names.
    """

    def __init__(
        self,
        message: str,
        entries: Sequence[str],
    ) -> None:
        super().__init__(message, Hint(Code.ALLOW_MISSING))
        self.entries = tuple(entries)


class OtherFilesError(InputError):
    """A mapping, skeleton and checkpoint that do not belong together.

    Attributes:
        problems: One `(where, difference)` each, `where` being a key path or a file's role.
    """

    def __init__(
        self, message: str, problems: Sequence[tuple[str, str]] = (), hint: str | Hint = ""
    ):
        super().__init__(message, hint)
        self.problems = _bounded(problems)


class TransformError(S2PError):
    """A transform that does not apply to the shapes it is given."""

    exit_code = 4

    def __init__(
        self,
        message: str,
        hint: str | Hint = "Choose another transform, or fix the row in the mapping file.",
    ) -> None:
        super().__init__(message, hint)


class OutputError(S2PError):
    """A result that cannot be written, or is not what it should be."""

    exit_code = 5


class ProposerError(S2PError):
    """Claude cannot be asked, did not answer, or its answer cannot be used."""

    exit_code = 7


class CancelledError(S2PError):
    """A stop by the user or a signal; nothing was written."""

    def __init__(self, message: str, *, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
