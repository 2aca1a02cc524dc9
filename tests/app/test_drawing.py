"""Every line is exactly as wide as asked, whatever the names hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from s2p_tui.app.text import clip, fit, shorten
from s2p_tui.app.theme import ASCII, UNICODE, Symbols
from s2p_tui.app.widgets.alignment_view import lay_out_columns
from s2p_tui.app.widgets.frame import rule, top_line
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.errors import printable
from tests.app.conftest import Opened, fitting, linears
from tests.app.pairs import HOSTILE, hostile


def test_inert_spells_out_what_steers_a_terminal() -> None:
    assert printable("a\x1b[31m\n\x9b\u202e\U000e0001") == r"a\x1b[31m\n\x9b\u202e\U000e0001"
    assert printable("日本 é×") == "日本 é×"
    assert printable("é", ascii_only=True) == r"\xe9"


def test_shorten_keeps_the_tail() -> None:
    assert shorten("encoder.layers.0.attention.weight", 16) == "encod…ion.weight"
    assert shorten("encoder.weight", 14) == "encoder.weight"
    assert shorten("abcdef", 2, ellipsis="..") == "ef"


def test_combining_characters_stay_with_their_letters() -> None:
    assert shorten("e\u0301" * 9, 6)[-6:].startswith("e")
    assert "…\u0301" not in shorten("e\u0301" * 9, 6)


@given(st.text(), st.integers(0, 30))
def test_fit_is_exactly_as_wide_as_asked(text: str, width: int) -> None:
    assert cell_len(fit(printable(text), width)) == width
    assert cell_len(clip(printable(text), width)) <= width


@given(st.integers(0, 400), st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 20))
def test_columns_fill_the_line(width: int, rows: int, shape: int, dtype: int) -> None:
    columns = lay_out_columns(width, rows, shape, dtype)
    used = columns.left + columns.symbol + columns.side + columns.spare
    assert used == max(width, 10)
    assert columns.name >= 2
    assert columns.shape or not columns.dtype


def test_dtypes_go_first_then_shapes() -> None:
    layouts = [lay_out_columns(width, 99, 10, 7) for width in (120, 70, 40)]
    assert [(bool(c.number), bool(c.shape), bool(c.dtype)) for c in layouts] == [
        (True, True, True),
        (False, True, False),
        (False, False, False),
    ]


@pytest.mark.parametrize("symbols", [UNICODE, ASCII])
@pytest.mark.parametrize("width", [10, 24, 40, 80])
def test_frame_is_as_wide_as_asked(symbols: Symbols, width: int) -> None:
    titles = (("model\x1b.pt", "12 entries", "4.5 MB"), ("日本語.eqx", "12 leaves"))
    for middle in (1, width // 2, width):
        assert cell_len(top_line(symbols, titles, middle, width)) == width
    assert cell_len(rule(symbols, ("details",), "[]", width)) == width


def test_frame_leaves_facts_out_before_it_shortens_the_name() -> None:
    titles = (("model.pt", "12 entries"), ("m.eqx", "12 leaves"))
    assert top_line(UNICODE, titles, 15, 40) == "┌ model.pt ────┬ m.eqx · 12 leaves ────┐"


@pytest.mark.parametrize(
    ("size", "ascii_only", "no_color"),
    [
        ((120, 40), False, False),
        ((120, 40), True, True),
        ((80, 24), False, True),
        ((40, 10), True, False),
        ((20, 6), False, False),
    ],
)
async def test_hostile_names_are_drawn_as_inert_text(
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    ascii_only: bool,
    no_color: bool,
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    async with opened(hostile(), size=size, ascii_only=ascii_only) as (pilot, workspace):
        view = workspace.view
        width = view.scrollable_content_region.width
        for _ in HOSTILE:
            await pilot.press("space", "J")
            for y in range(view.size.height):
                strip = view.render_line(y)
                assert strip.cell_length == cell_len(strip.text) == width
                assert strip.text.isprintable()
                assert strip.text.isascii() or not ascii_only
                assert all(segment.style is not None for segment in strip)
        for lines in workspace.query(Lines):
            assert all(text.isprintable() for text in lines.texts)
            assert all(text.isascii() or not ascii_only for text in lines.texts)
        await pilot.press("m", "question_mark", "escape", "escape", "u", "n")
        assert not pilot.app._exception


@pytest.mark.parametrize("pressed", ["", "m 1", "slash x", "question_mark", "c", "J q"])
@pytest.mark.parametrize("size", [(80, 24), (50, 12)])
async def test_ascii_means_the_whole_screen(
    opened: Opened, pressed: str, size: tuple[int, int]
) -> None:
    async with opened(fitting(40), size=size, ascii_only=True) as (pilot, _):
        await pilot.press(*pressed.split())
        await pilot.pause()
        screen = pilot.app.screen
        for strip in screen._compositor.render_strips(screen.size):
            assert strip.text.isascii(), strip.text


async def test_signs_differ_by_shape(opened: Opened) -> None:
    for ascii_only, signs in ((False, "✗✗?✓·≈"), (True, "xx?=.~")):
        async with opened(linears(), ascii_only=ascii_only) as (_, workspace):
            left = workspace.view.columns.left
            drawn = [workspace.view.render_line(y).text[left + 1] for y in range(6)]
            assert "".join(drawn) == signs


async def test_marks_are_signs_too(opened: Opened) -> None:
    async with opened(linears()) as (pilot, workspace):
        await pilot.press("j", "j", "m", "g", "space", "j", "j")
        flags = [workspace.view.render_line(y).text[:2] for y in range(4)]
        assert flags == [" ●", "  ", " ↕", "▸ "]


async def test_bench_is_told_from_rows(opened: Opened) -> None:
    async with opened(linears()) as (_, workspace):
        text = workspace.view.render_line(6).text
        assert "left.over" in text
        assert "(bench)" in text
