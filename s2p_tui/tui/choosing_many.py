"""What `t` offers on a folded block: for all its rows that allow it, or for those of one kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s2p_tui.core.choices import MOST, Choice, choices
from s2p_tui.core.errors import TransformError
from s2p_tui.core.fit import landing
from s2p_tui.core.pytree import Leaf
from s2p_tui.core.rows import Row
from s2p_tui.core.transform import Expr, Split, nodes_of, rename
from s2p_tui.core.verdict import Fit
from s2p_tui.tui.amounts import many
from s2p_tui.tui.choosing import Changes, Offer, Option
from s2p_tui.tui.moves import ImpossibleError
from s2p_tui.tui.text import inert

if TYPE_CHECKING:
    from s2p_tui.session import Session
    from s2p_tui.tui.cursor import Cursor

_INDEX = re.compile(r"(?<=\[)\d+(?=\])|(?<=\[')\d+(?='\])|(?<=\.)\d+(?=[.\[]|$)")
_BLOCK = re.compile(r"^(?:\['?\*'?\]|\.\*)")
_WORST_LAST = (Fit.EXACT, Fit.TRANSFORMED, Fit.GAP, Fit.DOUBTFUL, Fit.MISMATCHED)


@dataclass(slots=True)
class _Kind:
    """Rows that are alike but for the numbers in their names.

    Attributes:
        name: Their leaves' key path below the block, numbers aside.
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


def offer_many(session: Session, cursor: Cursor) -> Offer:
    """What can be chosen for the rows of the folded block under the cursor.

    Of rows that take one entry: those that are alike allow the same. Slow in a large block; changes
    nothing, for a thread.

    Raises:
        ImpossibleError: No row of it leaves a choice.
    """
    here, position = cursor.here, cursor.position
    fold = cursor.folding.shut_at(position) if cursor.folding is not None else None
    if fold is None or session.row(position) is None:
        raise ImpossibleError("A benched entry has no leaf: Tab unfolds the bench.")
    kinds = [kind for kind in _kinds(session, here, fold.prefix) if len(kind.choices) > 1]
    if not kinds:
        raise ImpossibleError(
            "No row of this block leaves a choice: Tab unfolds it, t then chooses for one leaf."
        )
    together = list(_options(session, kinds))
    apart = [
        option
        for kind in kinds
        for option in _options(session, [kind], f"{inert(_BLOCK.sub('', kind.name))}: ")
        if len(kinds) > 1
    ]
    count = sum(len(kind.rows) for kind in kinds)
    entries = f"{many(count, 'row')} of {many(len(here), 'row')}"
    leaf = session.target.skeleton[position]
    options = (*together, *apart)[:MOST]
    return Offer(position, entries, leaf, options, "", None, block=fold.title())


def _kinds(session: Session, here: range, prefix: str) -> Iterable[_Kind]:
    state_dict, skeleton = session.checkpoint.state_dict, session.target.skeleton
    kinds: dict[object, _Kind] = {}
    for place in here:
        row, leaf = session.alignment.rows[place], skeleton[place]
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
        kind.rows.append((place, keys[0], row.source))
    return kinds.values()


def _options(session: Session, kinds: list[_Kind], before: str = "") -> Iterable[Option]:
    """What the kinds' choices amount to, one line for each that is described alike."""
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
        yield Option(f"{before}{words} ({many(count, 'row')})", verdict, tuple(changes))


def _changes(session: Session, kind: _Kind, choice: Choice) -> Changes:
    """The rows of a kind that a choice would change."""
    wanted = _landing(session, kind.leaf, choice.expr)
    known: dict[Expr, bool] = {}
    found: list[tuple[int, Row]] = []
    for place, key, source in kind.rows:
        as_first = rename(source, {key: kind.key})
        if as_first not in known:
            known[as_first] = _landing(session, kind.leaf, as_first) == wanted
        if not known[as_first]:
            found.append((place, Row(rename(choice.expr, {kind.key: key}), by="user")))
    return tuple(found)


def _landing(session: Session, leaf: Leaf, source: Expr) -> Expr | None:
    try:
        return landing(source, leaf, session.checkpoint.state_dict)
    except TransformError:
        return None
