"""One line of the list: an entry, the sign of its fit, a leaf; or a folded block of them.

Both sides are mirrored, so that the shapes meet at the sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.transform import Shape, describe, show
from s2p_tui.app import wording
from s2p_tui.app.cursor import Cursor
from s2p_tui.app.text import ShortNames, alike, fit
from s2p_tui.app.theme import Symbols
from s2p_tui.app.wording import part_taken, together
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.alignment.alignment import Row
    from s2p_tui.app.agreement import Agreement
    from s2p_tui.app.folding import Fold
    from s2p_tui.session.session import Session

# The number of a row is worth four cells where a name still gets twenty.
_NUMBERS_FROM = 60
# Below these a name says less than what would stand beside it: of a transformer's block, 16 cells
# still tell every name from the others.
_NAME_WITH_SHAPE = 16
_NAME_WITH_DTYPE = 20
_MAX_SHAPE = 16
_MAX_DTYPE = 10
# Where there are cells to spare, a slice (` [:,0:10]`) is seen behind the longest name.
_PART = 8
_FLAGS = 3
_SYMBOL = 4


class Needs(Struct, frozen=True):
    """Cells that the contents of one side take at most."""

    name: int
    dtype: int
    shape: int


class Side(Struct, frozen=True):
    """Cells of one side's columns; 0 for one that is left out, else with a space beside it."""

    name: int
    dtype: int
    shape: int

    @property
    def width(self) -> int:
        return self.name + self.dtype + self.shape


class Columns(Struct, frozen=True):
    """Cells of each column: flags, number, entry, sign, leaf, and what is left over.

    Attributes:
        flags: Cursor and mark, with the space after them.
        number: The row's number, with the space after it.
        entry: The left side: name, dtype, shape.
        symbol: The fit's sign, with the spaces around it.
        leaf: The right side: shape, dtype, name.
        spare: Cells left over at the right end.
    """

    flags: int
    number: int
    entry: Side
    symbol: int
    leaf: Side
    spare: int

    @property
    def left(self) -> int:
        """Cells before the sign."""
        return self.flags + self.number + self.entry.width


def lay_out_columns(
    width: int, rows: int, entry: Needs, leaf: Needs, flags: int = _FLAGS
) -> Columns:
    """Divide a line: names first, then shapes, then dtypes, each as wide as it needs to be.

    Where names need more than there is, the side that needs less gets what it needs.
    """
    number = len(str(rows)) + 1 if width >= _NUMBERS_FROM else 0
    room = max(2, width - flags - number - _SYMBOL)
    names, shapes, dtypes = room, (0, 0), (0, 0)
    wanted = min(entry.shape, _MAX_SHAPE) + 1, min(leaf.shape, _MAX_SHAPE) + 1
    if _have_room(names - sum(wanted), entry, leaf, _NAME_WITH_SHAPE):
        names, shapes = names - sum(wanted), wanted
        wanted = min(entry.dtype, _MAX_DTYPE) + 1, min(leaf.dtype, _MAX_DTYPE) + 1
        if _have_room(names - sum(wanted), entry, leaf, _NAME_WITH_DTYPE):
            names, dtypes = names - sum(wanted), wanted
    left, right = _shared(names, entry.name, leaf.name)
    left += min(_PART, names - left - right)
    sides = Side(left, dtypes[0], shapes[0]), Side(right, dtypes[1], shapes[1])
    return Columns(flags, number, sides[0], _SYMBOL, sides[1], names - left - right)


def _have_room(room: int, entry: Needs, leaf: Needs, least: int) -> bool:
    return room >= min(entry.name, least) + min(leaf.name, least)


def _shared(room: int, first: int, second: int) -> tuple[int, int]:
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    return (room - second, second) if second <= half else (room - half, half)


def widest(texts: Iterable[str]) -> int:
    """Cells of the longest of some ASCII-like texts, at least 3."""
    return max(3, max(map(len, texts), default=3))


_MIXED = "mixed"


class _Cells(NamedTuple):
    """The cells of one side of a line.

    Attributes:
        name: As it is shown.
        shape: The shape; None where there is none, or several.
        shown: The shape in words.
        dtype: The dtype, or empty.
    """

    name: str
    shape: Shape | None
    shown: str
    dtype: str


class ListLine:
    """Draws lines of a session where the cursor is.

    Attributes:
        agreement: The rows whose modules agreed when both models were run, if they were.
    """

    def __init__(
        self, session: Session, cursor: Cursor, symbols: Symbols, style: Callable[..., Style]
    ) -> None:
        self.session = session
        self.cursor = cursor
        self.agreement: Agreement | None = None
        self._symbols = symbols
        self._style = style
        entries, leaves = session.checkpoint.state_dict.entries, session.target.skeleton
        self._keys = ShortNames(
            len(entries), lambda n: self._printable(entries[n].key), symbols.ellipsis
        )
        self._paths = ShortNames(
            len(leaves), lambda n: self._printable(leaves[n].path), symbols.ellipsis
        )

    def columns(self, width: int) -> Columns:
        """The layout of a line of so many cells."""
        flags = _FLAGS if self.agreement is None else _FLAGS + 1
        return lay_out_columns(width, len(self.session.alignment.rows), *self._needs, flags)

    @cached_property
    def _needs(self) -> tuple[Needs, Needs]:
        entries, leaves = self.session.checkpoint.state_dict, self.session.target.skeleton
        keys, paths = (entry.key for entry in entries), (leaf.path for leaf in leaves)
        return (
            _needs(keys, {(entry.dtype, entry.shape) for entry in entries}),
            _needs(paths, {(leaf.dtype, leaf.shape) for leaf in leaves}),
        )

    def _printable(self, text: str) -> str:
        return printable(text, ascii_only=self._symbols.is_ascii)

    def draw(self, index: int, width: int) -> Strip:
        """The line that shows an index, exactly as wide as it is to be."""
        columns = self.columns(width)
        folding = self.cursor.folding
        fold = folding.shut_at(index) if folding is not None else None
        strip = self._row(index, columns) if fold is None else self._fold(fold, columns)
        return strip.adjust_cell_length(width, self._style())

    def _fold(self, fold: Fold, columns: Columns) -> Strip:
        span, symbols = range(fold.start, fold.stop), self._symbols
        states = self._states(span)
        plain = self._style(*states)
        muted = self._style("muted", *states) if not states else plain
        segments = [Segment(self._flags(span, is_folded=True), plain)]
        if columns.number:
            number = f"{fold.start + 1} " if fold.blocks else ""
            segments.append(Segment(number.rjust(columns.number), muted))
        taken = wording.entries(self.session, span, symbols) or symbols.nothing
        left, dots = columns.entry, symbols.ellipsis
        rows = wording.rows_in_words(fold)
        if left.shape and len(rows) <= left.dtype + left.shape - 1:
            name = fit(self._printable(taken), left.name, ellipsis=dots)
            segments += [
                Segment(name, plain),
                Segment(rows.rjust(left.dtype + left.shape), muted),
            ]
        else:
            segments.append(Segment(fit(self._printable(taken), left.width, ellipsis=dots), plain))
        worst = self.session.verdicts.worst(span) if fold.blocks else self._worst_unused()
        if worst is None:
            segments.append(Segment(" " * columns.symbol, muted))
        else:
            segments.append(self._sign(worst, states, columns))
        segments += self._contents(fold, columns, states, plain)
        return Strip(Segment.simplify(segments))

    def _contents(
        self, fold: Fold, columns: Columns, states: tuple[str, ...], plain: Style
    ) -> list[Segment]:
        """Return how many rows of a folded block are how good, and its name."""
        right, dots = columns.leaf, self._symbols.ellipsis
        signs = wording.signs_of(self.session, fold, self._symbols, self.agreement)
        counts: list[Segment] = []
        used, room = 0, max(right.shape + right.dtype - 1, right.width // 3)
        for text, name in signs:
            more = f" {text}" if counts else text
            if used + cell_len(more) > room:
                break
            counts.append(Segment(more, self._style(name, *states)))
            used += cell_len(more)
        start = max(right.shape + right.dtype, used + 1 if used else 0)
        title = self._printable(wording.title(fold, self._symbols))
        title = fit(title, right.width + columns.spare - start, ellipsis=dots)
        return [*counts, Segment(" " * (start - used), plain), Segment(title, plain)]

    def _fit_unused(self, index: int) -> Fit | None:
        """Return the fit whose symbol a benched entry has: accepted is left out on purpose."""
        account = self.session.unused_at(index)
        if account is None or account.key in self.session.alignment.accepted:
            return Fit.GAP
        return Fit.DOUBTFUL if account.blocks else None

    def _worst_unused(self) -> Verdict | None:
        return Verdict(Fit.DOUBTFUL, blocks=True) if len(self.session.unused.blocking) else None

    def _row(self, index: int, columns: Columns) -> Strip:
        span = range(index, index + 1)
        states = self._states(span)
        plain = self._style(*states)
        muted = self._style("muted", *states) if not states else plain
        row = self.session.row(index)
        segments = [Segment(self._flags(span), plain)]
        if columns.number:
            number = f"{index + 1:>{columns.number - 1}} " if row is not None else ""
            segments.append(Segment(number.rjust(columns.number), muted))
        entry, leaf = self._entry_cells(index, columns), self._leaf_cells(index, columns)
        above = self._above(index, columns) if not states else ("", "")
        verdict = self.session.verdicts.sign(index) if row is not None else None
        coloured = self._style(_style_of(verdict), *states) if verdict is not None else plain
        ours, theirs = frozenset[int](), frozenset[int]()
        if entry.shape is not None and leaf.shape is not None:
            ours = wording.unlike_axes(entry.shape, leaf.shape)
            theirs = wording.unlike_axes(leaf.shape, entry.shape)
        segments += self._name(entry.name, columns.entry.name, above[0], plain, muted)
        if columns.entry.dtype:
            text = fit(entry.dtype, columns.entry.dtype - 1, ellipsis=self._symbols.ellipsis)
            segments.append(Segment(f" {text}", muted))
        if columns.entry.shape:
            shape = self._shape(entry, columns.entry, ours, plain, coloured)
            missing = columns.entry.shape - sum(map(len, (one.text for one in shape)))
            segments += [Segment(" " * missing, plain), *shape]
        if verdict is None:
            segments += self._unused(index, columns, states, muted)
            return Strip(Segment.simplify(segments))
        segments.append(self._sign(verdict, states, columns))
        if columns.leaf.shape:
            shape = self._shape(leaf, columns.leaf, theirs, plain, coloured)
            missing = columns.leaf.shape - sum(map(len, (one.text for one in shape)))
            segments += [*shape, Segment(" " * missing, plain)]
        if columns.leaf.dtype:
            text = fit(leaf.dtype, columns.leaf.dtype - 1, ellipsis=self._symbols.ellipsis)
            segments.append(Segment(f"{text} ", muted))
        segments += self._name(leaf.name, columns.leaf.name, above[1], plain, muted)
        segments.append(Segment(" " * columns.spare, plain))
        return Strip(Segment.simplify(segments))

    def _unused(
        self, index: int, columns: Columns, states: tuple[str, ...], muted: Style
    ) -> list[Segment]:
        fit_of = self._fit_unused(index)
        symbol = self._symbols.fits[fit_of] if fit_of is not None else ""
        style = self._style(fit_of.value, *states) if fit_of is not None else muted
        words, dots = (
            wording.bench_heading(self.session, index, self._symbols),
            self._symbols.ellipsis,
        )
        return [
            Segment(fit(f" {symbol}", columns.symbol), style),
            Segment(fit(words, columns.leaf.width + columns.spare, ellipsis=dots), muted),
        ]

    def _sign(self, verdict: Verdict, states: tuple[str, ...], columns: Columns) -> Segment:
        text = f" {self._symbols.sign(verdict)}".ljust(columns.symbol)
        return Segment(text, self._style(_style_of(verdict), *states))

    def _name(self, name: str, width: int, above: str, plain: Style, muted: Style) -> list[Segment]:
        """Return a name, quiet where it is as in the line above."""
        shared = alike(name, above) if above else 0
        rest = fit(name[shared:], width - cell_len(name[:shared]), ellipsis=self._symbols.ellipsis)
        return [Segment(name[:shared], muted), Segment(rest, plain)]

    def _shape(
        self, cells: _Cells, side: Side, axes: frozenset[int], plain: Style, coloured: Style
    ) -> list[Segment]:
        """Return a shape, its axes that differ from the other side's in the fit's colour."""
        text = self._symbols.plain(cells.shown)
        short = fit(text, min(len(text), side.shape - 1), ellipsis=self._symbols.ellipsis)
        if short != text or not axes or not cells.shape:
            return [Segment(short, coloured if axes else plain)]
        segments: list[Segment] = []
        for axis, size in enumerate(cells.shape):
            if axis:
                segments.append(Segment(self._symbols.times, plain))
            segments.append(Segment(str(size), coloured if axis in axes else plain))
        return segments

    def _above(self, index: int, columns: Columns) -> tuple[str, str]:
        """Return the names in the line above, as they are shown; empty in the first."""
        folding = self.cursor.folding
        above = index - 1 if folding is None else folding.above(index)
        if above is None or above < 0:
            return "", ""
        return self._entry_cells(above, columns).name, self._leaf_cells(above, columns).name

    def _entry_cells(self, index: int, columns: Columns) -> _Cells:
        row, benched, width = self.session.row(index), self.session.benched(index), columns.entry
        keys = (benched,) if benched is not None else row.keys if row is not None else ()
        if not keys:
            constant = describe(row.source) if row is not None and row.source is not None else ""
            return _Cells(constant or self._symbols.nothing, None, "", "")
        state_dict = self.session.checkpoint.state_dict
        entries = [state_dict[key] for key in keys]
        dtypes = {entry.dtype for entry in entries}
        shapes = {entry.shape for entry in entries}
        shape = shapes.pop() if len(shapes) == 1 else None
        return _Cells(
            self._key(keys, row, width.name),
            shape,
            show(shape) if shape is not None else _MIXED,
            dtypes.pop() if len(dtypes) == 1 else _MIXED,
        )

    def _key(self, keys: tuple[str, ...], row: Row | None, width: int) -> str:
        state_dict, dots = self.session.checkpoint.state_dict, self._symbols.ellipsis
        key, *others = keys
        if others:
            name = self._printable(together(keys, dots))
            return fit(name, min(width, cell_len(name)), ellipsis=dots)
        part = part_taken(row.source) if row is not None and row.source is not None else ""
        room = width - len(part)
        if part and room < len(part):
            return fit(self._printable(key) + part, width, ellipsis=dots).rstrip()
        return self._keys.at(state_dict.index(key), room) + part

    def _leaf_cells(self, index: int, columns: Columns) -> _Cells:
        skeleton = self.session.target.skeleton
        if index >= len(skeleton):
            return _Cells("", None, "", "")
        leaf = skeleton[index]
        name = self._paths.at(index, columns.leaf.name)
        return _Cells(name, leaf.shape, show(leaf.shape), leaf.dtype)

    def _flags(self, span: range, *, is_folded: bool = False) -> str:
        symbols, cursor = self._symbols, self.cursor
        here = symbols.cursor if cursor.index in span else " "
        sign = symbols.folded if is_folded else " "
        if self.agreement is not None:
            said = None if is_folded else self.agreement.of(span.start)
            sign = f"{sign if said is None else symbols.agreement[said]} "
        if cursor.picked is not None and (cursor.picked in span or cursor.index in span):
            return f"{here}{symbols.picked}{sign}"
        if cursor.marks_in(span):
            return f"{here}{symbols.marked}{sign}"
        return f"{here}{symbols.match if self._is_pointed_at(span) else ' '}{sign}"

    def _is_pointed_at(self, span: range) -> bool:
        """Return True for what was found, or where what is picked up would fit."""
        cursor = self.cursor
        if cursor.picked is not None:
            return cursor.fits_in(span)
        return cursor.filtering is None and cursor.matches_in(span)

    def _states(self, span: range) -> tuple[str, ...]:
        cursor = self.cursor
        states: list[str] = []
        if cursor.filtering is None and cursor.matches_in(span):
            states.append("match")
        if cursor.marks_in(span):
            states.append("marked")
        if cursor.index in span:
            states.append("cursor")
        if cursor.picked is not None and cursor.picked in span:
            states.append("picked")
        return tuple(states)


def _needs(names: Iterable[str], kinds: set[tuple[str, Shape]]) -> Needs:
    dtypes, shapes = {dtype for dtype, _ in kinds}, {shape for _, shape in kinds}
    return Needs(widest(names), widest(dtypes), widest(map(show, shapes)))


def _style_of(verdict: Verdict) -> str:
    """Return the style of a fit; trusted rows are as quiet as those that do not block."""
    return Fit.EXACT.value if verdict.is_trusted else verdict.fit.value
