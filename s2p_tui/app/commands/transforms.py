"""The transforms that `t` lists, and the edit that each choice makes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import isfinite, prod
from typing import TYPE_CHECKING

from msgspec import Struct, field, structs

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.block_numbers import by_number
from s2p_tui.alignment.choices import MOST, Choice, choices, why_none
from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.edits import apply
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import as_taken, judge, landing
from s2p_tui.alignment.layers import module_of
from s2p_tui.alignment.sharing import divisions, sharing
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Scale,
    Split,
    Stack,
    Take,
    describe,
    nodes_of,
    rename,
    show,
)
from s2p_tui.app.commands.arrange import ImpossibleError, Move
from s2p_tui.app.text import many
from s2p_tui.app.wording import together
from s2p_tui.errors import TransformError, printable

if TYPE_CHECKING:
    from s2p_tui.app.cursor import Cursor
    from s2p_tui.session.session import Session

Changes = tuple[tuple[int, Row], ...]
_FITTING = (Fit.EXACT, Fit.TRANSFORMED)


class TransformOption(Struct, frozen=True):
    """One line of the list.

    Attributes:
        words: What is done.
        verdict: How good the row, or the worst of the rows, would be.
        changes: The rows' new contents; empty for what is there already.
    """

    words: str
    verdict: Verdict
    changes: Changes

    @property
    def is_current(self) -> bool:
        """True if it changes nothing."""
        return not self.changes


class TransformOffer(Struct, frozen=True):
    """The transforms that a row, or a folded block, allows.

    Attributes:
        index: The row.
        entries: What would fill it, in words.
        leaf: Its leaf.
        options: Best first.
        none: Why there are no options; empty if there are.
        source: What the row takes now, if that could be multiplied.
        block: The folded block whose rows it is about; empty for one row.
    """

    index: int
    entries: str
    leaf: Leaf
    options: tuple[TransformOption, ...]
    none: str
    source: Expr | None
    block: str = ""


def offer(session: Session, cursor: Cursor) -> TransformOffer:
    """Return the transforms for the cursor's leaf.

    From the entry that is picked up; else from the marked entries together; else from the row's
    own. One entry on the row, picked up, or marked on the bench, can be split over marked rows.

    Raises:
        ImpossibleError: There is no leaf here, or its layer's rule fills it.
    """
    index, state_dict = cursor.index, session.checkpoint.state_dict
    if cursor.is_block:
        raise ImpossibleError(
            "A picked-up entry can only go to a single leaf. Press Tab to unfold the block."
        )
    row = session.row(index)
    if row is None:
        raise ImpossibleError(
            "Benched entries have no transform yet. Mark or pick up the entry, go to a row, "
            "then press t."
        )
    if row.fixed:
        way_out = " If it should, press s on it." if row.gap else ""
        raise ImpossibleError(f"Row {index + 1} takes no entry: {row.why}.{way_out}")
    leaf = session.target.skeleton[index]
    marked = [mark for mark in cursor.marked() if mark != index or len(cursor.marked()) > 1]
    held = row.keys if cursor.picked is None else _keys_at(session, cursor.picked)
    benched = [key for mark in marked if (key := session.benched(mark)) is not None]
    if not held and len(benched) == 1 < len(marked):
        held = (benched[0],)
    keys = held
    if marked and cursor.picked is None:
        keys = tuple(dict.fromkeys(key for mark in marked for key in _keys_at(session, mark)))
    own = cursor.picked in (None, index) and set(keys) == set(row.keys)
    biases = _Biases(session)
    options = list(_divided(session, index, marked, held, biases))
    offered = _in_both_orders(leaf, keys, state_dict)
    for choice in offered:
        if own and _lands_alike(session, leaf, row.source, choice.expr):
            options.append(TransformOption(choice.words, choice.verdict, ()))
        else:
            changes = ((index, Row(choice.expr, by="user")),)
            options.append(biases.option(choice.words, choice.verdict, changes))
    verdict = session.verdict(index)
    fits = own and verdict is not None and row.source is not None and not _is_bad(verdict)
    if fits and row.source is not None and not any(option.is_current for option in options):
        words = describe(as_taken(row.source, leaf, state_dict))
        options.append(
            TransformOption(words or "as it is", verdict or judge(leaf, row, state_dict), ())
        )
    none = "" if options else _why_none(session, leaf, marked, held, keys)
    entries = _in_words(session, held if options and not offered else keys)
    return TransformOffer(index, entries, leaf, tuple(options), none, row.source if fits else None)


def _in_both_orders(leaf: Leaf, keys: tuple[str, ...], state_dict: StateDict) -> tuple[Choice, ...]:
    """The choices for entries as they are listed, and those by number first where that differs.

    Files with sorted names list `layers.10` before `layers.2`; a stack in that order would load
    and be wrong.
    """
    listed, numbered = choices(leaf, keys, state_dict), by_number(keys)
    if numbered == keys:
        return listed
    joined = [
        structs.replace(choice, words=f"in list order: {choice.words}")
        for choice in listed
        if any(isinstance(node, Stack | Concat) for node in nodes_of(choice.expr))
    ]
    return (
        *(
            structs.replace(choice, words=f"by number: {choice.words}") if joined else choice
            for choice in choices(leaf, numbered, state_dict)
        ),
        *joined,
    )


def _in_words(session: Session, keys: tuple[str, ...]) -> str:
    if not keys:
        return "no entry"
    shapes = {session.checkpoint.state_dict.shape(key) for key in keys}
    return printable(together(keys)) + (f"  {show(shapes.pop())}" if len(shapes) == 1 else "")


def _keys_at(session: Session, index: int) -> tuple[str, ...]:
    row, benched = session.row(index), session.benched(index)
    return row.keys if row is not None else (benched,) if benched is not None else ()


def _is_bad(verdict: Verdict) -> bool:
    return verdict.fit is Fit.MISMATCHED


def _lands_alike(session: Session, leaf: Leaf, first: Expr | None, second: Expr) -> bool:
    state_dict = session.checkpoint.state_dict
    try:
        return first is not None and landing(first, leaf, state_dict) == landing(
            second, leaf, state_dict
        )
    except TransformError:
        return False


def _targets(session: Session, index: int, marked: Sequence[int], size: int) -> list[int]:
    """The rows to split over: the marked ones, with the cursor's own if that makes the size."""
    rows = [mark for mark in marked if session.row(mark) is not None]
    skeleton = session.target.skeleton
    if sum(prod(skeleton[row].shape) for row in rows) != size and index not in rows:
        rows = sorted((*rows, index))
    return rows


def _divided(
    session: Session,
    index: int,
    marked: Sequence[int],
    held: tuple[str, ...],
    biases: _Biases,
) -> tuple[TransformOption, ...]:
    if not marked or len(held) != 1:
        return ()
    state_dict, skeleton = session.checkpoint.state_dict, session.target.skeleton
    rows = _targets(session, index, marked, prod(state_dict.shape(held[0])))
    if any(session.alignment.rows[row].fixed for row in rows):
        return ()
    return tuple(
        biases.option(
            division.words,
            division.verdict,
            tuple(
                (row, Row(expr, by="user")) for row, expr in zip(rows, division.exprs, strict=True)
            ),
        )
        for division in divisions([skeleton[row] for row in rows], held[0], state_dict)
    )


class _Biases:
    """Splits a bias as its weight is split, where that is the only way.

    An entry of the weight's module goes along if its first axis is as long as the one that is
    split, which is the weight's only axis of that length, and exactly one leaf of each row's layer
    can take its part.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._modules: dict[str, tuple[str, ...]] = {}

    def option(self, words: str, verdict: Verdict, changes: Changes) -> TransformOption:
        """Return the option of some changes, with those of a bias."""
        parts = [(index, part) for index, row in changes if (part := _one_part(row.source))]
        if len(parts) < len(changes) or len({part.of for _, part in parts}) != 1:
            return TransformOption(words, verdict, changes)
        key, axis = changes[0][1].keys[0], parts[0][1].axis
        shape = self._session.checkpoint.state_dict.shape(key)
        found: list[tuple[str, Changes]] = []
        for other in self._beside(key) if shape.count(shape[axis]) == 1 else ():
            along = [self._part_along(other, shape[axis], *one) for one in parts]
            taken = tuple(change for change in along if change)
            if len(taken) == len(parts) and self._is_free(other, taken):
                found.append((other, taken))
        if len(found) != 1:
            return TransformOption(words, verdict, changes)
        name, along = found[0]
        return TransformOption(f"{words}, with {printable(name)}", verdict, (*changes, *along))

    def _beside(self, key: str) -> tuple[str, ...]:
        """Return the other entries of an entry's module."""
        module = module_of(key)
        if module not in self._modules:
            entries = self._session.checkpoint.state_dict if module else ()
            self._modules[module] = tuple(e.key for e in entries if module_of(e.key) == module)
        return tuple(other for other in self._modules[module] if other != key)

    def _part_along(self, key: str, size: int, index: int, part: Split) -> tuple[int, Row] | None:
        """Return the one row of a row's layer that can take the same part of another entry."""
        session, state_dict = self._session, self._session.checkpoint.state_dict
        if state_dict.shape(key)[:1] != (size,):
            return None
        row = Row(Split(Take(key), 0, part.start, part.stop), by="user")
        fits = [
            other
            for other in session.verdicts.company.siblings(index)
            if not session.alignment.rows[other].fixed
            and judge(session.target.skeleton[other], row, state_dict).fit in _FITTING
        ]
        return (fits[0], row) if len(fits) == 1 else None

    def _is_free(self, key: str, taking: Changes) -> bool:
        """Return True if no settled row would lose an entry, by the change or to it."""
        rows, verdicts = self._session.alignment.rows, self._session.verdicts
        indices = {index for index, _ in taking}
        others = set(rows.taking([rows.numbering.entry(key)])) - indices
        decided = any(rows[at].by == "user" and key not in rows[at].keys for at in indices)
        return not decided and all(verdicts.at(index).blocks for index in others)


def _one_part(source: Expr | None) -> Split | None:
    """Return the one slice of an entry that a source takes; None if it takes anything else."""
    nodes = list(nodes_of(source)) if source is not None else []
    splits = [node for node in nodes if isinstance(node, Split)]
    takes = [node for node in nodes if isinstance(node, Take)]
    is_one = len(splits) == len(takes) == 1 and isinstance(splits[0].of, Take)
    return splits[0] if is_one else None


def _why_none(
    session: Session,
    leaf: Leaf,
    marked: Sequence[int],
    held: tuple[str, ...],
    keys: tuple[str, ...],
) -> str:
    state_dict, skeleton = session.checkpoint.state_dict, session.target.skeleton
    rows = [mark for mark in marked if session.row(mark) is not None]
    if rows and len(held) == 1 and prod(state_dict.shape(held[0])) > prod(leaf.shape):
        shape = state_dict.shape(held[0])
        size = sum(prod(skeleton[row].shape) for row in rows)
        return (
            f"{printable(held[0])} ({show(shape)}: {prod(shape):,} elements) cannot be cut along "
            f"an axis to fill the {len(rows)} marked rows ({size:,})."
        )
    return why_none(leaf, keys, state_dict)


def scaled(session: Session, offered: TransformOffer, text: str) -> TransformOption:
    """The row's source multiplied by the number in a text; an earlier factor is replaced.

    Raises:
        ImpossibleError: It is not a number, or what the row takes cannot be multiplied.
    """
    source = offered.source
    if source is None:
        raise ImpossibleError("This row takes nothing to multiply: Enter chooses its entry.")
    factor = _number(text)
    before = source.of if isinstance(source, Scale) else source
    made = as_taken(before, offered.leaf, session.checkpoint.state_dict)
    return _option(session, offered, before if factor == 1 else Scale(made, factor))


def constant(session: Session, offered: TransformOffer, text: str) -> TransformOption:
    """The leaf filled with the number in a text.

    Raises:
        ImpossibleError: It is not a number, or the leaf's dtype cannot hold it.
    """
    value, dtype = _number(text), dtype_named(offered.leaf.dtype)
    low, high = {
        "bool": (0, 1),
        "uint": (0, 2**dtype.bits - 1),
        "int": (-(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1),
    }.get(dtype.kind, (value, value))
    if not dtype.is_floating and (value != int(value) or not low <= value <= high):
        raise ImpossibleError(
            f"A leaf of {dtype.name} cannot hold {value:g}: type a whole number from {low} to "
            f"{high}."
        )
    return _option(session, offered, Constant(value, offered.leaf.shape))


def _number(text: str) -> float:
    try:
        value = float(text.strip())
    except ValueError:
        raise ImpossibleError(
            f"{text.strip()!r} is no number: type one such as 0.5 or 1e-3."
        ) from None
    if not isfinite(value):
        raise ImpossibleError(f"{text.strip()} is not finite: type a number such as 0.5 or 1e-3.")
    return value


def _option(session: Session, offered: TransformOffer, expr: Expr) -> TransformOption:
    row = Row(expr, by="user")
    verdict = judge(offered.leaf, row, session.checkpoint.state_dict)
    if _is_bad(verdict):
        raise ImpossibleError(f"{verdict.why[:1].upper()}{verdict.why[1:]}.")
    return TransformOption(describe(expr) or "as it is", verdict, ((offered.index, row),))


def take(session: Session, offered: TransformOffer, option: TransformOption) -> Move:
    """The edit of a choice; entries that lose their rows go to the bench."""
    here = offered.index
    edit = sharing(session.alignment, option.changes)
    before, after = set(session.alignment.bench), apply(session.alignment, edit)
    fell = [key for key in after.bench if key not in before]
    said = f"Row {here + 1}: {option.words}."
    if offered.block:
        said = f"{many(len(option.changes), 'row')} changed: {option.words}."
    if option.verdict.fit is Fit.DOUBTFUL:
        said = f"Doubtful, y trusts it. {said}"
    if fell:
        said = f"{printable(together(fell))} went to the bench. {said}"
    return Move(edit, here, frozenset(), said)


_INDEX = re.compile(r"(?<=\[)\d+(?=\])|(?<=\[')\d+(?='\])|(?<=\.)\d+(?=[.\[]|$)")
_BLOCK = re.compile(r"^(?:\['?\*'?\]|\.\*)")
_WORST_LAST = (Fit.EXACT, Fit.TRANSFORMED, Fit.GAP, Fit.DOUBTFUL, Fit.MISMATCHED)


class _Kind(Struct):
    """Rows that are alike but for the numbers in their names.

    Attributes:
        name: Their leaves' key path below the block, without numbers.
        leaf: The first row's leaf.
        key: The entry it takes.
        choices: What could be done to that.
        rows: Places, keys and sources of all.
    """

    name: str
    leaf: Leaf
    key: str
    choices: tuple[Choice, ...]
    rows: list[tuple[int, str, Expr]] = field(default_factory=list[tuple[int, str, Expr]])


def offer_many(session: Session, cursor: Cursor) -> TransformOffer:
    """Return the transforms for the rows of the folded block under the cursor; see `offer_rows`."""
    index = cursor.index
    fold = cursor.folding.shut_at(index) if cursor.folding is not None else None
    if fold is None or session.row(index) is None:
        raise ImpossibleError(
            "Benched entries have no transform yet. Press Tab to unfold the bench."
        )
    try:
        return offer_rows(session, cursor.here, fold.title(), fold.prefix)
    except ImpossibleError as reason:
        raise ImpossibleError(f"{reason} Tab unfolds it, t then chooses for one leaf.") from None


def offer_rows(
    session: Session, here: Sequence[int], title: str, prefix: str = ""
) -> TransformOffer:
    """Return the transforms for several rows together.

    Of rows that take one entry: those that are alike allow the same. Slow for many; changes
    nothing, for a thread.

    Args:
        session: The session.
        here: The rows.
        title: What they are, in words.
        prefix: What all their names begin with, which options leave out.

    Raises:
        ImpossibleError: No row of them leaves a choice.
    """
    index = here[0]
    if session.row(index) is None:
        raise ImpossibleError("Benched entries have no transform yet.")
    kinds = [kind for kind in _kinds(session, here, prefix) if len(kind.choices) > 1]
    if not kinds:
        raise ImpossibleError(f"No row of {printable(title)} leaves a choice.")
    together = list(_options(session, kinds))
    apart = [
        option
        for kind in kinds
        for option in _options(session, [kind], f"{printable(_BLOCK.sub('', kind.name))}: ")
        if len(kinds) > 1
    ]
    count = sum(len(kind.rows) for kind in kinds)
    entries = many(len(here), "row")
    if count != len(here):
        entries = f"{count:,} of {entries}"
    leaf = session.target.skeleton[index]
    options = (*together, *apart)[:MOST]
    return TransformOffer(index, entries, leaf, options, "", None, block=title)


def _kinds(session: Session, here: Sequence[int], prefix: str) -> Iterable[_Kind]:
    state_dict, skeleton = session.checkpoint.state_dict, session.target.skeleton
    kinds: dict[object, _Kind] = {}
    for index in here:
        row, leaf = session.alignment.rows[index], skeleton[index]
        if row.fixed or row.source is None or len(keys := row.keys) != 1:
            continue
        entry, name = state_dict[keys[0]], _INDEX.sub("*", leaf.path[len(prefix) :])
        alike = (
            name,
            leaf.shape,
            leaf.dtype,
            leaf.owner,
            id(leaf.config),
            entry.shape,
            entry.dtype,
        )
        kind = kinds.get(alike)
        if kind is None:
            whole = tuple(
                choice
                for choice in choices(leaf, keys, state_dict)
                if not any(isinstance(node, Split) for node in nodes_of(choice.expr))
            )
            kind = kinds[alike] = _Kind(name, leaf, keys[0], whole)
        kind.rows.append((index, keys[0], row.source))
    return kinds.values()


def _options(session: Session, kinds: list[_Kind], before: str = "") -> Iterable[TransformOption]:
    """Yield one option for all choices with the same description."""
    described: dict[str, list[tuple[_Kind, Choice]]] = {}
    for kind in kinds:
        for choice in kind.choices:
            described.setdefault(choice.words, []).append((kind, choice))
    for words, chosen in described.items():
        count = sum(len(kind.rows) for kind, _ in chosen)
        changes = sorted(
            (change for one in chosen for change in _changes(session, *one)),
            key=lambda change: change[0],
        )
        verdict = max(
            (choice.verdict for _, choice in chosen),
            key=lambda verdict: _WORST_LAST.index(verdict.fit),
        )
        yield TransformOption(f"{before}{words} ({many(count, 'row')})", verdict, tuple(changes))


def _changes(session: Session, kind: _Kind, choice: Choice) -> Changes:
    """Return the rows of a kind that a choice would change, changed."""
    wanted = _landing(session, kind.leaf, choice.expr)
    known: dict[Expr, bool] = {}
    found: list[tuple[int, Row]] = []
    for index, key, source in kind.rows:
        as_first = rename(source, {key: kind.key})
        if as_first not in known:
            known[as_first] = _landing(session, kind.leaf, as_first) == wanted
        if not known[as_first]:
            found.append((index, Row(rename(choice.expr, {kind.key: key}), by="user")))
    return tuple(found)


def _landing(session: Session, leaf: Leaf, source: Expr) -> Expr | None:
    try:
        return landing(source, leaf, session.checkpoint.state_dict)
    except TransformError:
        return None
