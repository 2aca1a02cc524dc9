"""Fewer bytes to the terminal, and the same picture there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import get_character_cell_size

from s2p_tui.app.terminal.output_diff import Shown

_TOKEN = re.compile(r"\x1b\[(\d+);(\d+)H|\x1b\[(\d+)C|\x1b\[([\d;]*)m|(.)", re.DOTALL)
_CODE = re.compile(r"[34]8;2;\d+;\d+;\d+|[34]8;5;\d+|\d+")
_WIDTH, _HEIGHT = 24, 4
_SEEN_ON_BLANKS = ("4", "7", "9")
_ENDED_BY = {
    "22": ("1", "2"),
    "23": ("3",),
    "24": ("4", "21"),
    "25": ("5", "6"),
    "27": ("7",),
    "28": ("8",),
    "29": ("9",),
    "55": ("53",),
}
_RED, _BLUE = "38;2;200;0;0", "48;2;0;0;90"


class _Terminal:
    """Draws what it is sent, the plain way."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], object] = {}
        self.row = self.column = 1
        self.style: dict[str, str] = {}

    def feed(self, data: str) -> None:
        for row, column, forward, codes, char in _TOKEN.findall(data):
            if row:
                self.row, self.column = int(row), int(column)
            elif forward:
                self.column += int(forward)
            elif char == "\n":
                self.row, self.column = self.row + 1, 1
            elif char:
                self._draw(char)
            else:
                self._restyle(codes)

    def _draw(self, char: str) -> None:
        seen = {
            kind: code
            for kind, code in self.style.items()
            if char != " " or kind == "back" or self._is_marked
        }
        self.cells[self.row, self.column] = (char, tuple(sorted(seen.items())))
        self.column += get_character_cell_size(char)

    @property
    def _is_marked(self) -> bool:
        return any(code in self.style for code in _SEEN_ON_BLANKS)

    def _restyle(self, codes: str) -> None:
        for code in _CODE.findall(codes) or ["0"]:
            number = code.split(";")[0]
            if number == "0":
                self.style = {}
            elif number in ("39", "49"):
                self.style.pop("fore" if number == "39" else "back", None)
            elif number in _ENDED_BY:
                for attribute in _ENDED_BY[number]:
                    self.style.pop(attribute, None)
            elif int(number) < 30:
                self.style[code] = code
            else:
                self.style["fore" if number in ("31", "38", "92") else "back"] = code


_styles = st.sampled_from(
    [
        *("", "1", "4", "7", "1;4", "1;2", "2;3;9", "31", "92", "44", _RED, _BLUE),
        *(f"1;{_RED};{_BLUE}", f"{_RED};{_BLUE}", f"2;4;{_RED};{_BLUE}", "38;5;9;48;5;3"),
    ]
)
_texts = st.text(st.sampled_from("  aab─✓"), min_size=1, max_size=8)
_wide = st.text(st.sampled_from("a 漢"), min_size=1, max_size=4)
_spans = st.tuples(
    st.integers(1, _HEIGHT), st.integers(1, _WIDTH - 8), st.lists(st.tuples(_styles, _texts))
)
_odd_spans = st.tuples(
    st.integers(1, _HEIGHT),
    st.integers(1, _WIDTH - 8),
    st.lists(st.tuples(_styles, _wide), max_size=1),
)


def _as_sent(spans: list[tuple[int, int, list[tuple[str, str]]]]) -> str:
    lines: list[str] = []
    for row, column, parts in spans:
        drawn = "".join(f"\x1b[{style}m{text}\x1b[0m" if style else text for style, text in parts)
        lines.append(f"\x1b[{row};{column}H{drawn}")
    return "\n".join(lines) + "\x1b[1;1H"


@given(st.lists(st.lists(st.one_of(_spans, _odd_spans), max_size=4), max_size=5))
@pytest.mark.slow("draws many frames")
def test_the_terminal_shows_the_same(
    frames: list[list[tuple[int, int, list[tuple[str, str]]]]],
) -> None:
    plain, with_cell_diff, shown = _Terminal(), _Terminal(), Shown()
    for frame in frames:
        data = _as_sent(frame)
        plain.feed(data)
        with_cell_diff.feed(shown.update(data))
        assert with_cell_diff.cells == plain.cells
        assert (with_cell_diff.row, with_cell_diff.column, with_cell_diff.style) == (1, 1, {})


def test_what_ends_alone_is_sent_alone() -> None:
    shown = Shown()
    sent = shown.update(f"\x1b[3;2H\x1b[1;{_RED};{_BLUE}ma\x1b[0m\x1b[{_RED};{_BLUE}mb\x1b[0m")
    assert sent == f"\x1b[1;{_RED};{_BLUE}m\x1b[3;2Ha\x1b[22mb\x1b[0m"


def test_a_cell_that_differs_is_sent_alone() -> None:
    shown = Shown()
    style = f"\x1b[1;{_RED};{_BLUE}m"
    shown.update(f"\x1b[3;2H{style}conv1.weight  64×3\x1b[0m")
    sent = shown.update(f"\x1b[3;2H{style}conv2.weight  64×3\x1b[0m")
    assert sent == f"{style}\x1b[3;6H2\x1b[0m"


def test_cells_of_one_style_are_sent_together() -> None:
    shown = Shown()
    one, other = f"\x1b[{_RED}m", f"\x1b[{_BLUE}m"
    rows = [f"\x1b[{row};1H{one}a\x1b[0m  {other}b\x1b[0m {one}c\x1b[0m" for row in (1, 2, 3)]
    sent = shown.update("\n".join(rows))
    assert sent.count(_RED) == sent.count(_BLUE) == 1


def test_nothing_is_sent_for_what_is_there() -> None:
    shown, data = Shown(), "\x1b[3;2Hconv1\n\x1b[4;2H\x1b[31m✓\x1b[0m"
    shown.update(data)
    assert shown.update(data) == ""


def test_all_is_sent_again_once_the_window_has_changed() -> None:
    shown, data = Shown(), "\x1b[3;2Hconv1"
    shown.update(data)
    shown.forget()
    assert shown.update(data) == data


def test_modes_and_the_clipboard_pass_and_leave_what_is_known() -> None:
    shown, data = Shown(), "\x1b[3;2Hconv1"
    shown.update(data)
    for harmless in ("\x1b[?2026h", "\x1b[?25l", "\x1b]52;c;aGk=\x07", "\x1b[>1u"):
        assert shown.update(harmless) == harmless
    assert shown.update(data) == ""


def test_output_of_another_kind_passes_and_nothing_is_known_afterwards() -> None:
    shown, data = Shown(), "\x1b[3;2Hconv1"
    for other in (
        "\x1b[?1049h",
        "Traceback\n",
        "\x1b[2J",
        "\x1b[3;2H\x1b[38;9;1mred",
        "\x1b[3;2H\x1b[58m_",
    ):
        shown.update(data)
        assert shown.update(other) == other
        assert shown.update(data) == data
