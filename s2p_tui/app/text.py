"""Text cut, padded and wrapped to a number of terminal cells; amounts in words."""

from __future__ import annotations

from itertools import accumulate

from rich.cells import cell_len, get_character_cell_size, set_cell_size

_WORDS_FROM = 8


def shorten(text: str, width: int, *, ellipsis: str = "…") -> str:
    """The text in at most `width` cells, cut in the middle so that most of its tail stays.

    Where it is cut numbers are spared, as in `model.layers.17…rse_moe.experts.30`.
    """
    if cell_len(text) <= width:
        return text
    room = width - cell_len(ellipsis)
    if room < 2:
        return _tail(text, width)
    head = _head(text, _before_the_cut(text, room) if text.isascii() else room // 3)
    return f"{head}{ellipsis}{_tail(text, room - cell_len(head))}"


def _before_the_cut(text: str, room: int) -> int:
    """Return how many characters to keep before the cut: a third, or so that digits stay."""
    lost, usual = len(text) - room, room // 3
    digits = [0, *accumulate(map(str.isdigit, text))]
    return min(
        range(room // 4, room - usual + 1),
        key=lambda start: (digits[start + lost] - digits[start], abs(start - usual)),
    )


def fit(text: str, width: int, *, ellipsis: str = "…", right: bool = False) -> str:
    """The text in exactly `width` cells: shortened in the middle, or padded."""
    if width <= 0:
        return ""
    short = shorten(text, width, ellipsis=ellipsis)
    missing = width - cell_len(short)
    if missing < 0:
        return set_cell_size(short, width)
    return " " * missing + short if right else short + " " * missing


def clip(text: str, width: int, *, ellipsis: str = "…") -> str:
    """The text in at most `width` cells, cut at its end: for sentences, not for names."""
    if cell_len(text) <= width:
        return text
    if width <= cell_len(ellipsis):
        return _head(text, max(0, width))
    return _head(text, width - cell_len(ellipsis)) + ellipsis


def wrap(text: str, width: int, most: int) -> list[str]:
    """The text in lines of at most `width` cells, broken at spaces where there are any.

    No more than `most` lines; what is left stays on the last, to be clipped. One line if `width`
    is too small for words.
    """
    lines: list[str] = []
    while len(lines) < most - 1 and width >= _WORDS_FROM and cell_len(text) > width:
        head = _head(text, width)
        space = head.rfind(" ") if text[len(head) : len(head) + 1] != " " else len(head)
        cut = space if space > width // 3 else len(head)
        lines.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*lines, text]


def _head(text: str, width: int) -> str:
    used = 0
    for index, char in enumerate(text):
        used += get_character_cell_size(char)
        if used > width:
            return text[:index]
    return text


def _tail(text: str, width: int) -> str:
    used = 0
    for index in range(len(text) - 1, -1, -1):
        used += get_character_cell_size(text[index])
        if used > width:
            return _without_orphans(text[index + 1 :])
    return text


def _without_orphans(text: str) -> str:
    """The text without combining characters at its start, which would join what is before it."""
    start = 0
    while start < len(text) and not get_character_cell_size(text[start]):
        start += 1
    return text[start:]


_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size_in_words(count: float) -> str:
    """Bytes in decimal units: `44.7 MB`."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if not unit else f"{count:.1f} {_UNITS[unit]}"


def many(count: int, word: str, plural: str = "") -> str:
    """`1 leaf`, `2 leaves`."""
    return f"{count:,} {word if count == 1 else plural or word + 's'}"
