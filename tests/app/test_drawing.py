"""Every line is exactly as wide as asked, whatever the names hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.color import Color
from textual.theme import BUILTIN_THEMES

from s2p_tui.app.text import alike, clip, fit, shorten, shorten_among
from s2p_tui.app.theme import ASCII, UNICODE, Symbols, quiet
from s2p_tui.app.widgets.frame import rule, top_line
from s2p_tui.app.widgets.lines import Lines
from s2p_tui.app.widgets.list_line import Needs, lay_out_columns
from s2p_tui.app.widgets.panels import Details
from s2p_tui.app.wording import unlike_axes
from s2p_tui.errors import printable
from tests.app.pairs import HOSTILE, hostile
from tests.helpers.running_app import Opened
from tests.helpers.sessions import fitting, linears


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


NEEDS = st.builds(Needs, st.integers(3, 90), st.integers(3, 20), st.integers(3, 40))


@given(st.integers(0, 400), st.integers(0, 10**6), NEEDS, NEEDS)
def test_columns_fill_the_line(width: int, rows: int, entry: Needs, leaf: Needs) -> None:
    columns = lay_out_columns(width, rows, entry, leaf)
    used = columns.left + columns.symbol + columns.leaf.width + columns.spare
    assert used == max(width, 9)
    assert columns.entry.name >= 1
    assert columns.leaf.name >= 1
    assert columns.entry.shape or not columns.entry.dtype
    assert bool(columns.entry.shape) is bool(columns.leaf.shape)


def test_dtypes_go_first_then_shapes_then_numbers() -> None:
    need = Needs(30, 7, 6)
    layouts = [lay_out_columns(width, 99, need, need) for width in (120, 76, 58, 40)]
    assert [(bool(c.number), bool(c.leaf.shape), bool(c.leaf.dtype)) for c in layouts] == [
        (True, True, True),
        (True, True, False),
        (False, True, False),
        (False, False, False),
    ]


def test_a_side_gets_what_it_needs_before_the_other_gets_more() -> None:
    layout = lay_out_columns(76, 99, Needs(12, 7, 4), Needs(60, 7, 4))
    assert layout.entry.name == 12
    assert layout.left + layout.symbol + layout.leaf.width == 76


@pytest.mark.parametrize("width", [100, 120, 200])
async def test_both_shapes_are_at_the_sign(opened: Opened, width: int) -> None:
    async with opened(linears(), size=(width, 30)) as (_, workspace):
        text = workspace.view.render_line(0).text
        assert "float32 2×3 ✗  4   float32 .first" in text
        assert text.index("4   float32") - text.index("2×3") < 10


async def test_details_stand_beside_the_list_where_there_is_room(opened: Opened) -> None:
    async with opened(linears(), size=(200, 30)) as (pilot, workspace):
        await pilot.press("g")
        aside = workspace.query_one("#aside", Details)
        assert aside.region.x > 120
        assert any("expected 4 (4 elements), got 2×3 (6)" in text for text in aside.texts)
        assert not workspace.query_one("#details").display
        await pilot.press("d")
        assert not aside.display
    async with opened(linears(), size=(120, 30)) as (_, workspace):
        assert not workspace.query_one("#aside").display


PARTS = ("attention.self.query", "attention.self.key", "attention.output.norm")
BLOCK = [
    f"{part}.{kind}"
    for part in (*PARTS, "norm1", "norm2", "output.norm")
    for kind in ("weight", "bias")
]


@pytest.mark.parametrize("width", range(16, 45))
@pytest.mark.parametrize("shape", ["encoder.layers.{}.{}", ".encoder.layers[{}].{}"])
def test_no_two_names_of_a_block_read_alike(width: int, shape: str) -> None:
    names = [shape.format(number, name) for number in range(9, 12) for name in BLOCK]
    short = [shorten_among(name, names, width) for name in names]
    assert len(set(short)) == len(names)
    assert all(len(one) <= width for one in short)


@given(st.lists(st.text("ab.[]0", min_size=1), max_size=9, unique=True), st.integers(1, 30))
def test_a_short_name_is_never_wider_than_asked(names: list[str], width: int) -> None:
    for name in names:
        short = shorten_among(name, names, width)
        assert cell_len(short) <= width
        assert short == name or len(name) > width


def test_what_a_name_shares_with_the_one_above_ends_with_a_segment() -> None:
    above = ".layers[0].norm1.weight"
    assert above[: alike(".layers[0].norm2.weight", above)] == ".layers[0]."
    assert above[: alike(".layers[0].norm1.bias", above)] == ".layers[0].norm1."
    assert alike(".layers[12].w", ".layers[1].w") == len(".layers[")
    assert alike("one", "one.more") == 0
    assert alike("same", "same") == 4


def test_axes_that_differ() -> None:
    assert unlike_axes((3, 5), (5, 3)) == {0, 1}
    assert unlike_axes((64, 3, 7, 7), (64, 3, 3, 3)) == {2, 3}
    assert unlike_axes((8, 1), (8,)) == {1}
    assert unlike_axes((8,), (8, 1)) == frozenset()


@pytest.mark.parametrize("name", [name for name in BUILTIN_THEMES if "ansi" not in name])
def test_signs_differ_in_colour_and_the_quiet_is_quieter(name: str) -> None:
    colours = BUILTIN_THEMES[name].to_color_system().generate()
    kinds = ("text-primary", "text-warning", "text-error", "text-success")
    assert len({colours[kind] for kind in kinds}) == 4
    back, text = Color.parse(colours["background"]), Color.parse(colours["foreground"])
    dimmed = Color.parse(quiet(colours["foreground"], colours["background"]))
    assert abs(dimmed.brightness - back.brightness) < abs(text.brightness - back.brightness)


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
@pytest.mark.slow("opens the app for every case")
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
@pytest.mark.slow("opens the app for every case")
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
        assert flags == [" ●", "  ", " ↕", "▸↕"]


async def test_bench_is_told_from_rows(opened: Opened) -> None:
    async with opened(linears()) as (_, workspace):
        text = workspace.view.render_line(6).text
        assert "left.over" in text
        assert "(bench ×1)" in text
