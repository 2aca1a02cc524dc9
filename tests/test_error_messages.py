"""Every error message names the thing, the reason and the way out, in the package's own words."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import pytest
from rapidfuzz import fuzz

from s2p_tui.formats.atomic import output_error
from tests.helpers.error_messages import Message, class_names, messages, package_sources

SOURCES = package_sources()
MESSAGES = messages(SOURCES)
OURS = class_names(SOURCES)

HANDED_ON = {
    "{error.message}": "the message of another error, which is listed itself",
    "{message}": "the last attempt's own, which is listed itself",
}
"""Messages that are another's, and why that is so."""

NAMELESS = {
    "Anthropic refuses the request as too large.": "there is one request",
    "Anthropic's rate limit is reached.": "there is one service",
    "Claude is overloaded.": "there is one service",
    "Claude refuses to answer.": "there is one answer",
    "Claude's answer is empty.": "there is one answer",
    "Claude's proposal has to be confirmed, and there is no terminal to ask on.": "the terminal",
    "The address to reach Claude at cannot be used.": "the hint names where it is set",
    "The app cannot start inside a running event loop, as a notebook's.": "the app",
    "The app runs in the main thread only.": "the app",
    "The connection broke off in the middle of Claude's answer.": "there is one connection",
    "The request is too large for this model.": "the model is on the screen",
    "another s2p-tui is at work on the same pair.": "there is one pair; said after a colon",
}
"""Messages that name nothing by its name, and what there is but one of."""

ONE_SIDED = {
    "--model and --yes go with --arrange claude alone.": "the other side is the user's own words",
    "{file} was changed while it was open.": "how, nobody can tell from a size and a time",
    "{path} is a pickle, but not one written by torch.save.": "magic numbers say nothing",
    "{path} is a zip archive, but not one written by torch.save.": "the hint says what is",
    "{where} does not exist.": "no comparison of values",
    "Claude took longer than {self._budget.deadline} s.": "the time it took is that, and no answer",
    "Claude's answer is longer than {self._budget.answer_bytes} bytes, more than any could need.": (
        "it is not read to its end"
    ),
    "There is nothing here.": "the cursor is on no row",
    "There is no row here: go to one.": "the cursor is on no row",
    "{path} is cut short: storage {key} ends behind the end of the file.": "where it ends is wrong",
}
"""Messages on a comparison that show one of its sides alone, and why the other says nothing."""

SAID_BY_ITSELF = {
    "It is in the first row already.": "the way out is down",
    "It is in the last row already.": "the way out is up",
    "It is on the bench already.": "it is where it was sent",
    "Pick an entry up first, with m.": "the way out is all it says",
    "There is nothing here.": "the cursor is on no row",
    "{verdict.why[:1].upper()}{verdict.why[1:]}.": "the row's own reason, beside the choices left",
}
"""Messages of the app's status line without a second half, and why they need none."""

_WORDS_OF_PYTHON = re.compile(
    r"Traceback|NoneType|Errno|Exception|\bself\b|object at 0x|\bassert|\b[A-Z]\w+Error\b"
)
_OPTION = re.compile(r"--[a-z]|[a-z_]+=|\b[A-Z]{2,}(_[A-Z]+)+\b|\.[a-z]{3,}\b|[a-z]_[a-z]")
_FROM_YOUR_CODE = re.compile(r"raised \{|imported: \{|Unexpected \{|Unexpected ")


def unhinted(found: Iterable[Message]) -> list[str]:
    """Messages without a way out. Cancelling is the user's own wish, and the app's status line
    has one line for both, where the way out follows a colon or a semicolon.
    """
    return [
        message.place
        for message in found
        if not message.hint and message.kind not in ("CancelledError", "ImpossibleError")
    ]


def nameless(found: Iterable[Message]) -> list[str]:
    """Messages that name no path, key, key path, option or argument."""
    return [
        f"{message.place}: {message.text}"
        for message in found
        if message.kind not in ("CancelledError", "ImpossibleError")
        and not message.inserted
        and not _OPTION.search(message.text)
        and message.text not in NAMELESS
    ]


def unended(found: Iterable[Message]) -> list[str]:
    """Messages and ways out that are no whole sentences."""
    return [
        f"{message.place}: {text}"
        for message in found
        for text in (message.text, *message.hint.split(" | "))
        if text
        and text not in HANDED_ON
        and not text.endswith((".", ".{way_out}"))
        and not re.fullmatch(r"\{[\w.]*hint\}", text)
    ]


def one_sided(found: Iterable[Message]) -> list[str]:
    """Messages raised on a comparison that do not show both sides of it."""
    return [
        f"{message.place}: {message.text}  [if {message.compared}]"
        for message in found
        if message.compared
        and len(message.inserted) + len(re.findall(r"\d|expected|at least", message.line)) < 2
        and message.text not in ONE_SIDED
    ]


def in_words_of_python(found: Iterable[Message], classes: Iterable[str]) -> list[str]:
    """Messages with the words of a traceback, or with names of this package's classes.

    The name of an exception's class is told where code of the user's own raised it.
    """
    ours = re.compile(rf"\b({'|'.join(sorted(classes))})\b")
    wrong: list[str] = []
    for message in found:
        words = re.sub(r"\{[^}]*\}", "", message.line)
        named = [one for one in message.inserted if "error).__name__" in one]
        # What is a class of ours and a word of the field's too begins no sentence of ours.
        compound = [name for name in ours.findall(words) if re.search(r"[a-z][A-Z]", name)]
        if (
            _WORDS_OF_PYTHON.search(words)
            or compound
            or (named and not _FROM_YOUR_CODE.search(message.text))
        ):
            wrong.append(f"{message.place}: {message.text}")
    return wrong


def unexplained(found: Iterable[Message]) -> list[str]:
    """Messages of the app's status line without the half that says why, or what to do."""
    return [
        f"{message.place}: {message.text}"
        for message in found
        if message.kind == "ImpossibleError"
        and not re.search("[:;] ", message.text)
        and message.text not in SAID_BY_ITSELF
    ]


def alike(found: Iterable[Message]) -> list[str]:
    """Pairs of messages that say the same in other words.

    What is interpolated, which option it is, and one place's words for one and for many differ.
    """
    texts: dict[str, str] = {}
    for message in found:
        if message.text not in HANDED_ON:
            plain = re.sub(r" \(\{[^}]*\}\)|: \{[^}]*\}(?=\.$)", "", message.text)
            plain = re.sub(r"(The )?\{[^}]*\}|--[a-z-]*kwargs", "…", plain)
            texts.setdefault(plain, message.place)
    return [
        f"{texts[one]}: {one}  ~  {texts[other]}: {other}"
        for one, other in combinations(texts, 2)
        if texts[one] != texts[other] and fuzz.token_sort_ratio(one, other) > _ALIKE
    ]


_ALIKE = 90
"""Of 100; the closest that mean different things have 88."""


def test_each_has_a_way_out() -> None:
    assert unhinted(MESSAGES) == []


def test_each_names_the_thing() -> None:
    assert nameless(MESSAGES) == []


def test_each_is_a_sentence() -> None:
    assert unended(MESSAGES) == []


def test_what_is_compared_is_shown() -> None:
    assert one_sided(MESSAGES) == []


def test_none_speaks_python() -> None:
    assert in_words_of_python(MESSAGES, OURS) == []


def test_none_says_the_same_in_other_words() -> None:
    assert alike(MESSAGES) == []


def test_the_status_line_says_why_or_what_to_do() -> None:
    assert unexplained(MESSAGES) == []


def test_exceptions_to_the_rules_are_in_use() -> None:
    """A reworded message takes its exception with it."""
    texts = {message.text for message in MESSAGES}
    listed = {*HANDED_ON, *NAMELESS, *ONE_SIDED, *SAID_BY_ITSELF}
    assert listed - texts == set()


def test_each_error_of_the_operating_system_has_a_way_out(tmp_path: Path) -> None:
    for number in errno.errorcode:
        error = output_error(OSError(number, os.strerror(number)), tmp_path)
        assert str(tmp_path) in error.message
        assert error.message.endswith(".")
        assert error.hint.endswith(".")


BAD = {
    "no way out": ('raise InputError(f"{path} is empty.")', unhinted),
    "an empty way out": ('raise InputError(f"{path} is empty.", "")', unhinted),
    "no way out of a helper's": (
        "def damaged(why):\n    return InputError(f'{path} is {why}.')\n\n"
        "def read():\n    raise damaged('too short')",
        unhinted,
    ),
    "no thing": ('raise UsageError("It makes no sense.", "Give another.")', nameless),
    "no full stop": ('raise OutputError(f"{path} is full", "Free some space.")', unended),
    "no full stop in the way out": ('raise OutputError(f"{path} is full.", "Free it")', unended),
    "one side of two": (
        'if size != wanted:\n    raise InputError(f"{path} has the wrong size.", "Copy it again.")',
        one_sided,
    ),
    "a class of Python's": (
        'raise InputError(f"{path}: {type(error).__name__}: {error}.", "Copy it again.")',
        lambda found: in_words_of_python(found, OURS),
    ),
    "a class of ours": (
        'raise InputError(f"{path} is no StateDict.", "Copy it again.")',
        lambda found: in_words_of_python(found, OURS),
    ),
    "a traceback": (
        'raise InputError(f"{path}: Traceback below.", "Copy it again.")',
        lambda found: in_words_of_python(found, OURS),
    ),
    "other words": (
        'raise InputError(f"{path} is a folder, a file is expected.", "Give a file in it.")',
        alike,
    ),
    "a subclass's": (
        "class OursError(InputError):\n    pass\n\nraise OursError(f'{path} is empty.')",
        unhinted,
    ),
    "a status line's": ('raise ImpossibleError("It cannot be done.")', unexplained),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_message_is_found(bad: str) -> None:
    source, check = BAD[bad]
    few = {name: SOURCES[f"s2p_tui/{name}"] for name in ("core/errors.py", "formats/sniff.py")}
    wrong = check(messages(few | {"bad.py": source}))
    assert len(wrong) == 1
    assert "bad.py:" in wrong[0]


def test_a_helper_is_listed_once_for_each_place_that_gives_it_words() -> None:
    source = """
def damaged(path, why):
    return InputError(f"{path} is damaged: {why}.", AGAIN)

AGAIN = "Copy it again."

def read(path, size):
    if not size:
        raise damaged(path, "it is empty")
    raise damaged(path, f"it has {size} bytes")
"""
    found = messages({"errors.py": SOURCES["s2p_tui/core/errors.py"], "bad.py": source})
    assert [(message.place, message.kind, message.status) for message in found] == [
        ("bad.py:9", "InputError", "4"),
        ("bad.py:10", "InputError", "4"),
    ]
    assert [message.line for message in found] == [
        "{path} is damaged: it is empty. Copy it again.",
        "{path} is damaged: it has {size} bytes. Copy it again.",
    ]
