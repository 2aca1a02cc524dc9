"""A Textual driver mixin that sends only changed cells.

Textual sends whole parts of lines, and all colours again with each of them. Over a slow line that
is several times what has changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct
from rich.cells import get_character_cell_size
from rich.segment import Segment
from textual.driver import Driver
from textual.strip import Strip

_ENDS = {
    "1": "22",
    "2": "22",
    "3": "23",
    "4": "24",
    "21": "24",
    "5": "25",
    "6": "25",
    "7": "27",
    "8": "28",
    "9": "29",
    "53": "55",
}
"""Attributes and the codes that end them, some of them two."""
_SHOWN_ON_BLANKS = frozenset(("4", "5", "6", "7", "9", "21", "53"))
_PARTS = {"2": 4, "5": 2}
"""Numbers that follow `38` or `48`: how a colour is given, and the colour."""


class CellStyle(Struct, frozen=True):
    """The style of a cell; codes are kept as they are sent.

    Attributes:
        attributes: Codes of bold, underline and the like.
        fore: The code of the foreground; None where it makes no difference.
        back: The code of the background.
    """

    attributes: frozenset[str] = frozenset()
    fore: str | None = "39"
    back: str = "49"

    @property
    def on_blank(self) -> CellStyle:
        """The part of the style that is visible on a space."""
        if self.attributes & _SHOWN_ON_BLANKS:
            return self
        return CellStyle(frozenset(), None, self.back)


PLAIN = CellStyle()


class UnknownStyleError(ValueError):
    """Codes that are not known here."""


@lru_cache(maxsize=1024)
def parse(codes: str) -> CellStyle:
    """The style that codes such as `1;38;2;224;224;224` give a cell after a reset.

    Raises:
        UnknownStyleError: One of them is not known.
    """
    attributes, fore, back = set[str](), "39", "49"
    for code in _codes(codes):
        first = code.partition(";")[0]
        number = int(first) if first.isdecimal() else -1
        if number == 0:
            attributes, fore, back = set[str](), "39", "49"
        elif first in _ENDS:
            attributes.add(first)
        elif 30 <= number <= 39 or 90 <= number <= 97:
            fore = code
        elif 40 <= number <= 49 or 100 <= number <= 107:
            back = code
        else:
            raise UnknownStyleError(code)
    return CellStyle(frozenset(attributes), fore, back)


def _codes(codes: str) -> Iterator[str]:
    """The codes one by one, a colour's numbers together."""
    parts = codes.split(";") if codes else ["0"]
    index = 0
    while index < len(parts):
        count = 1
        if parts[index] in ("38", "48"):
            kind = parts[index + 1] if index + 1 < len(parts) else ""
            count += _PARTS.get(kind, 0)
            if count == 1 or index + count > len(parts):
                raise UnknownStyleError(codes)
        yield ";".join(parts[index : index + count])
        index += count


@lru_cache(maxsize=4096)
def transition(now: CellStyle, then: CellStyle) -> tuple[str, CellStyle]:
    """Return the codes that change one style to another, and the resulting style.

    Nothing is sent for what makes no difference.
    """
    superfluous = now.attributes - then.attributes
    if then.fore is None:
        superfluous &= _SHOWN_ON_BLANKS
    ended = {_ENDS[attribute] for attribute in superfluous}
    left = frozenset(one for one in now.attributes if _ENDS[one] not in ended)
    kept = _sent_after(sorted(ended), CellStyle(left, now.fore, now.back), then)
    # To end a few attributes is shorter than a reset where colours stay.
    return min(kept, _sent_after(["0"], PLAIN, then), key=lambda sent: len(sent[0]))


def _sent_after(codes: list[str], now: CellStyle, then: CellStyle) -> tuple[str, CellStyle]:
    codes += sorted(then.attributes - now.attributes)
    fore = now.fore if then.fore is None else then.fore
    if fore is not None and fore != now.fore:
        codes.append(fore)
    if then.back != now.back:
        codes.append(then.back)
    result = CellStyle(now.attributes | then.attributes, fore, then.back)
    return (f"\x1b[{';'.join(codes)}m" if codes else ""), result


_TOKEN = re.compile(r"\x1b\[(\d+);(\d+)H|\x1b\[([\d;]*)m|(\n)|([^\x00-\x1f\x7f-\x9f]+)")
# Modes such as mouse reports or synchronised output, and what the clipboard is to hold.
_HARMLESS = re.compile(
    r"(?:\x1b\[[?<>=](?!1049|1047|47[hl])[\d;$]*[A-Za-z]|\x1b\]52;[^\x1b\x07]*\x07)*"
)
_BRIDGED = 4
"""Cells that are as shown already and are sent all the same, as to step over them takes as much."""

Cell = tuple[str, CellStyle]


class _Run(NamedTuple):
    """Text of one style, as Textual wants it drawn."""

    row: int
    column: int
    text: str
    style: CellStyle


class _UnknownOutputError(ValueError):
    """Output other than text at known cells."""


class Shown:
    """The cells that a terminal shows, as far as they are known."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[int, Cell]] = {}

    def forget(self) -> None:
        """Take everything for unknown, as after the window's size has changed."""
        self._rows = {}

    def update(self, data: str) -> str:
        """Return what to send in place of some output.

        Output that draws nothing, or draws in a way not known here, is returned as it is.
        """
        if _HARMLESS.fullmatch(data):
            return data
        try:
            runs, last = _parsed(data)
        except (_UnknownOutputError, UnknownStyleError):
            self.forget()
            return data
        return "".join(self._changed(runs, last))

    def _changed(self, runs: list[_Run], last: str) -> Iterator[str]:
        by_row: dict[int, list[_Run]] = {}
        for run in runs:
            by_row.setdefault(run.row, []).append(run)
        style = PLAIN
        by_style: dict[CellStyle, list[_Run]] = {}
        for row, of_row in by_row.items():
            if not all(_is_simple(run.text) for run in of_row):
                # How wide a terminal draws such characters is its own affair.
                self._rows.pop(row, None)
                for run in of_row:
                    codes, style = transition(style, run.style)
                    yield f"\x1b[{row};{run.column}H{codes}{run.text}"
                continue
            known, wanted = self._rows.setdefault(row, {}), dict[int, Cell]()
            for run in of_row:
                blank = (" ", run.style.on_blank)
                for column, char in enumerate(run.text, run.column):
                    wanted[column] = blank if char == " " else (char, run.style)
            differing = [column for column, cell in wanted.items() if known.get(column) != cell]
            differing.sort()
            known.update(wanted)
            for run in _differing(row, differing, known):
                by_style.setdefault(run.style, []).append(run)
        # A colour takes three times the bytes that a step to another row takes.
        at = 0, 0
        for wanted_style, of_style in by_style.items():
            codes, style = transition(style, wanted_style)
            yield codes
            for row, column, text, _ in of_style:
                if at[0] == row and column > at[1]:
                    yield f"\x1b[{column - at[1]}C"
                elif at != (row, column):
                    yield f"\x1b[{row};{column}H"
                yield text
                at = row, column + len(text)
        yield transition(style, PLAIN)[0] + last


def _differing(row: int, columns: list[int], cells: dict[int, Cell]) -> Iterator[_Run]:
    """Yield what brings columns of a row up to date, each run as long as its style allows."""
    start, text, style = 0, "", PLAIN
    for column in columns:
        between = [cells.get(index) for index in range(start + len(text), column)] if text else []
        joins = text and len(between) <= _BRIDGED
        if joins and all(_goes_on(cell, style) for cell in (*between, cells[column])):
            text += "".join(cell[0] for cell in between if cell) + cells[column][0]
            continue
        if text:
            yield _Run(row, start, text, style)
        start, (text, style) = column, cells[column]
    if text:
        yield _Run(row, start, text, style)


def _goes_on(cell: Cell | None, style: CellStyle) -> bool:
    """Return True if a cell can be sent again in the present style."""
    return cell is not None and not transition(style, cell[1])[0]


def _parsed(data: str) -> tuple[list[_Run], str]:
    """Return the runs of text, and the cursor movement that ends the output, if one does."""
    runs: list[_Run] = []
    row, column, style, end, last = 0, 0, PLAIN, 0, ""
    for token in _TOKEN.finditer(data):
        if token.start() != end:
            break
        end = token.end()
        to_row, to_column, codes, newline, text = token.groups()
        last = ""
        if to_row:
            row, column, last = int(to_row), int(to_column), token[0]
        elif codes is not None:
            if style is not PLAIN and codes not in ("", "0"):
                break
            style = parse(codes) if codes not in ("", "0") else PLAIN
        elif newline:
            row = 0
        elif row:
            runs.append(_Run(row, column, text, style))
            column += len(text) if _is_simple(text) else sum(map(get_character_cell_size, text))
        else:
            break
    else:
        if end == len(data):
            return runs, last
    raise _UnknownOutputError


@lru_cache(maxsize=4096)
def _is_simple(text: str) -> bool:
    """Return True if every character takes one cell everywhere."""
    return text.isascii() or all(get_character_cell_size(char) == 1 for char in text)


class CellDiffDriver(Driver):
    """Mixed into a driver, sends the cells that differ."""

    shown: Shown | None = None

    def write(self, data: str) -> None:
        if self.shown is None:
            self.shown = Shown()
        changed = self.shown.update(data)
        if changed:
            super().write(changed)

    def forget(self) -> None:
        """Draw everything the next time, whatever the terminal may show."""
        if self.shown is not None:
            self.shown.forget()


def with_cell_diff(driver: type[Driver]) -> type[Driver]:
    """The driver, sending the cells that differ."""
    return type(f"CellDiffDriver{driver.__name__}", (CellDiffDriver, driver), {})


def difference(old: Strip, new: Strip) -> tuple[int, int]:
    """The cells outside which two strips of one width are alike."""
    before, after = list(old), list(new)
    start = _alike(before, after)
    end = _alike(before[::-1], after[::-1], from_right=True)
    return min(start, new.cell_length - 1), max(start + 1, new.cell_length - end)


def _alike(first: list[Segment], second: list[Segment], *, from_right: bool = False) -> int:
    cells = 0
    for one, other in zip(first, second, strict=False):
        # Most styles are the same object, and to compare two takes longer than a text.
        alike = one.style is other.style or one.style == other.style
        if alike and one.text == other.text:
            cells += one.cell_length
            continue
        if alike and one.text.isascii() and other.text.isascii():
            texts = (one.text[::-1], other.text[::-1]) if from_right else (one.text, other.text)
            pairs = zip(*texts, strict=False)
            differing = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
            cells += min(map(len, texts)) if differing is None else differing
        break
    return cells
