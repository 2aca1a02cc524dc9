"""Text about a session: titles, details, counts and messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from rich.cells import cell_len

from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.sharing import parts_dropped
from s2p_tui.alignment.transform import Expr, Shape, Split, Take, nodes_of, show
from s2p_tui.app.folding import Fold
from s2p_tui.app.text import clip, many, size_in_words, wrap
from s2p_tui.app.theme import Symbols
from s2p_tui.errors import printable
from s2p_tui.session import find

if TYPE_CHECKING:
    from s2p_tui.alignment.alignment import Alignment, Author, Row
    from s2p_tui.app.agreement import Agreement
    from s2p_tui.app.cursor import Cursor
    from s2p_tui.session.session import Session

_MOST_NAMED = 4


def in_braces(keys: Sequence[str], ellipsis: str = "…") -> str:
    """`layers.{0…11}.weight` or `attn.{q,k,v}.bias`; empty if that would not name every key."""
    names = [key.split(".") for key in keys]
    if len(names) < 2 or any(len(name) != len(names[0]) for name in names):
        return ""
    differing = [n for n, column in enumerate(zip(*names, strict=True)) if len(set(column)) > 1]
    if len(differing) != 1:
        return ""
    (index,) = differing
    middle = [name[index] for name in names]
    if _counts_up(middle):
        inner = f"{middle[0]}{ellipsis}{middle[-1]}" if len(middle) > 2 else ",".join(middle)
    elif len(names[0]) > 1 and len(middle) <= _MOST_NAMED:
        inner = ",".join(middle)
    else:
        return ""
    return ".".join([*names[0][:index], "{" + inner + "}", *names[0][index + 1 :]])


def _counts_up(words: Sequence[str]) -> bool:
    if not all(
        word.isascii() and word.isdecimal() and len(word) < 19 and str(int(word)) == word
        for word in words
    ):
        return False
    numbers = [int(word) for word in words]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def together(keys: Sequence[str], ellipsis: str = "…") -> str:
    """In braces where that names them all, else the first and how many more."""
    if len(keys) == 1:
        return keys[0]
    return in_braces(keys, ellipsis) or f"{keys[0]} +{len(keys) - 1}"


def part_taken(source: Expr) -> str:
    """` [0:10]` or ` [:,0:10]` for a source that takes one part of an entry; else empty."""
    splits = [node for node in nodes_of(source) if isinstance(node, Split)]
    if len(splits) != 1 or not isinstance(splits[0].of, Take):
        return ""
    part = splits[0]
    return f" [{':,' * part.axis}{part.start}:{part.stop}]"


_MOST_KEYS = 64
_MOST_LINES = 4
_INPUTS = re.compile(r", inputs [0-9a-f]+(?: [0-9a-f]+)*$")
_WORST_FIRST = (Fit.MISMATCHED, Fit.DOUBTFUL, Fit.GAP, Fit.TRANSFORMED, Fit.EXACT)
AUTHORS: dict[Author, str] = {
    "order": "by order",
    "user": "by you",
    "matcher": "by the matcher",
    "claude": "by Claude",
    "rule": "by a rule",
    "moved": "moved by you",
    "recipe": "by a recipe",
    "pattern": "proposed, not settled",
    "forward": "by the forward",
}


def name_at(session: Session, index: int) -> str:
    """Key of the first entry at an index; empty if there is none."""
    if index >= len(session):
        return ""
    row = session.row(index)
    if row is None:
        return session.benched(index) or ""
    return row.keys[0] if row.keys else ""


def reason_of(row: Row) -> str:
    """Return why a row holds what it holds, to follow the words for its author.

    Without what these say already, and without the digests of the inputs that both models ran on.
    """
    return _INPUTS.sub("", row.why.removeprefix("forward: "))


def titles(session: Session) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Headings of the two sides: a name, then facts."""
    checkpoint, target = session.checkpoint, session.target
    size = size_in_words(checkpoint.size or checkpoint.state_dict.nbytes)
    entries = many(len(checkpoint.state_dict), "entry", "entries")
    name = f"{checkpoint.label}:{checkpoint.key}" if checkpoint.key else checkpoint.label
    leaves = many(len(target.skeleton), "leaf", "leaves")
    return (name, entries, size), (target.label, leaves)


def tally(session: Session, symbols: Symbols) -> str:
    """Rows per fit with their signs, bench and edits: `✗2 ?1 ✓119  bench 3 ?1  edits 5`.

    Trusted rows are counted apart; behind the bench, the entries on it that block.
    """
    counts = fits_in(session, range(len(session.verdicts)), symbols)
    if session.awaits_evidence:
        counts = f"{counts} {symbols.ellipsis}".strip()
    parts = [counts] if counts else []
    if session.alignment.bench:
        unused = len(session.unused.blocking)
        sign = f" {symbols.fits[Fit.DOUBTFUL]}{unused:,}" if unused else ""
        parts.append(f"bench {len(session.alignment.bench):,}{sign}")
    if len(session.history):
        parts.append(f"edits {len(session.history):,}")
    return "  ".join(parts)


def fits_in(session: Session, span: range, symbols: Symbols) -> str:
    """Rows per fit with their signs, worst first: `✗2 ?1 ✓*3 ✓119`."""
    return " ".join(text for text, _ in _signs_in(session, span, symbols))


def _signs_in(session: Session, span: range, symbols: Symbols) -> list[tuple[str, str]]:
    """Return a sign and a count for each fit that rows of a range have, and its style's name."""
    counts, trusted = session.verdicts.counts_in(span), session.verdicts.trusted_in(span)
    counts[Fit.DOUBTFUL] -= trusted
    signs = [(symbols.fits[fit], counts[fit], fit) for fit in _WORST_FIRST]
    signs.insert(2, (symbols.trusted, trusted, Fit.EXACT))
    return [(f"{sign}{count:,}", fit.value) for sign, count, fit in signs if count]


def signs_of(
    session: Session, fold: Fold, symbols: Symbols, agreement: Agreement | None = None
) -> list[tuple[str, str]]:
    """Return signs and counts of what is folded, worst first, with the names of their styles."""
    if fold.blocks:
        span = range(fold.start, fold.stop)
        signs = _signs_in(session, span, symbols)
        if agreement is None:
            return signs
        differing, agreeing = agreement.counts(span)
        first = [(f"{symbols.agreement[False]}{differing:,}", Fit.MISMATCHED.value)]
        last = [(f"{symbols.agreement[True]}{agreeing:,}", "muted")]
        return [*(first if differing else ()), *signs, *(last if agreeing else ())]
    blocking = len(session.unused.blocking)
    unused = (f"{symbols.fits[Fit.DOUBTFUL]}{blocking:,}", Fit.DOUBTFUL.value)
    return [unused] if blocking else []


def bench_heading(session: Session, index: int, symbols: Symbols) -> str:
    """Return what stands beside a benched entry: beside the first one, how many there are."""
    if index > len(session.alignment.rows):
        return "(bench)"
    return f"(bench {symbols.times}{len(session.alignment.bench):,})"


def location(session: Session, index: int) -> str:
    """`3/122` for the third row, `bench 1/4` below the rows; empty where there is nothing."""
    rows, bench = len(session.alignment.rows), len(session.alignment.bench)
    if index < rows:
        return f"{index + 1}/{rows}"
    return f"bench {index - rows + 1}/{bench}" if bench else ""


def situation(session: Session) -> str:
    """Return a sentence on whether the session can be converted."""
    if session.awaits_evidence:
        return "Matching by names and structure …"
    unused = many(len(session.unused.blocking), "unused entry", "unused entries")
    if session.is_complete:
        return "Every row lines up: c converts."
    if not session.blocking:
        return f"{unused} to place, or to accept with y."
    more = f", {unused}" if len(session.unused.blocking) else ""
    return f"{many(session.blocking, 'row')} of {len(session.alignment.rows):,} to line up{more}."


def problem_number(session: Session, index: int) -> str:
    """Return which problem is at an index, of all of them: `3 of 30`."""
    number = find.problem_number(session, index)
    return f"{number:,} of {session.problem_count:,} that block."


def blocked(session: Session, index: int) -> str:
    """Return why a row or benched entry blocks the conversion, and how many others do."""
    verdict = session.verdict(index)
    if (account := session.unused_at(index)) is not None:
        others = len(session.unused.blocking) - 1
        more = f" And {many(others, 'other entry', 'other entries')}." if others else ""
        return f"{printable(account.key)}: {account.why} (y accepts that).{more}"
    why = deciding(session, index, verdict) if verdict is not None else ""
    others = session.blocking - 1
    if verdict is not None and verdict.fit is Fit.DOUBTFUL:
        why += " (y trusts it)"
    more = f" And {many(others, 'other row')}." if others else ""
    return f"Row {index + 1}: {printable(why)}.{more}"


def unlike_axes(shape: Shape, other: Shape) -> frozenset[int]:
    """Return the axes of a shape that differ from those of another one."""
    if len(shape) == len(other):
        pairs = zip(shape, other, strict=True)
        return frozenset(axis for axis, (one, two) in enumerate(pairs) if one != two)
    found = SequenceMatcher(None, shape, other, autojunk=False).get_matching_blocks()
    alike = {axis for block in found for axis in range(block.a, block.a + block.size)}
    return frozenset(range(len(shape))) - alike


def after_edit(before: Alignment, after: Alignment, changed: range, said: str) -> str:
    """Return the message, with the shared entries of which a part is unused now."""
    dropped = before.rows.has_made(changed) and parts_dropped(
        before.rows, after.rows, changed, after.bench
    )
    if not dropped:
        return said
    return f"{said} A part of {printable(together(dropped))} feeds no row now.".lstrip()


def in_hand(session: Session, cursor: Cursor) -> str:
    """Return what is picked up, marked, searched for or typed; empty if nothing is."""
    typed = f" to row {cursor.typed}" if cursor.typed else ""
    if cursor.picked is not None:
        where = many(len(cursor.fits), "row") if cursor.fits else "no other row"
        return f"Picked up {printable(name_at(session, cursor.picked))}{typed}: fits {where}"
    if typed:
        return f"Go{typed}: Enter"
    if cursor.anchor is not None:
        return f"Marking {many(len(cursor.marked()), 'row')}"
    if cursor.query:
        found = many(len(cursor.matches), "match", "matches")
        if number := cursor.match_number:
            found = f"{number:,} of {len(cursor.matches):,}"
        alone = ", others hidden" if cursor.filtering is not None else ""
        return f"/{printable(cursor.query)}: {found}{alone}"
    if cursor.marks:
        return f"{many(len(cursor.marks), 'row')} marked"
    return ""


def deciding(session: Session, index: int, verdict: Verdict) -> str:
    """Return the reason that decides how good a row is, of all that speak for or against it.

    What the matcher says of a row ends with what makes it doubtful; other doubts come first.
    """
    if verdict.fit is not Fit.DOUBTFUL:
        return verdict.why
    evidence = session.evidence
    said = evidence.suggestions[index].reason if evidence is not None else ""
    if said and verdict.why.startswith(said):
        # What becomes of a leaf without a source follows its reason.
        rest = verdict.why[len(said) :].partition("; ")[0]
        return said.rpartition("; ")[2] + rest
    return verdict.why.partition("; ")[0]


def details(
    session: Session,
    index: int,
    symbols: Symbols,
    width: int = 0,
    agreement: Agreement | None = None,
) -> list[str]:
    """Lines about an index: the entries, the leaf, the fit, who decided it and what a run found.

    Four, and a few more where several entries, or what is done to them, do not fit into `width`.
    """
    if not len(session):
        return ["There are no leaves and no entries.", "", "", ""]
    row, verdict = session.row(index), session.verdict(index)
    key = session.benched(index)
    if row is None or verdict is None:
        entry, account = _entry(session, key or ""), session.unused_at(index)
        why = printable(account.why) if account is not None else ""
        if account is not None and account.blocks:
            sign = symbols.fits[Fit.DOUBTFUL]
            ways = "m picks it up; y accepts that the model does not need it."
            return [entry, f"{sign} On the bench: {why}.", ways, ""]
        return [entry, f"On the bench: {why}. m picks it up.", "", ""]
    leaf = session.target.skeleton[index]
    owner = f"  {printable(leaf.owner)}" if leaf.owner else ""
    kind = "  Python scalar" if leaf.kind == "scalar" else ""
    shape = f"{show(leaf.shape)} {leaf.dtype}"
    entries = _entries(session, row.keys, symbols, width)
    reason = deciding(session, index, verdict)
    why = f": {printable(reason)}" if reason else ""
    why += " (i shows more)" if len(reason) < len(verdict.why) else ""
    decided = AUTHORS[row.by] + (", trusted" if row.trusted else "")
    decided += f": {printable(reason_of(row))}" if row.why and row.why not in verdict.why else ""
    fit = f"{symbols.sign(verdict)} {verdict.fit}{why}"
    if agreement is not None and (found := agreement.words(index)):
        decided = f"{found}; {decided}"
    return [
        *(entries or [symbols.nothing]),
        f"{symbols.arrow} {printable(leaf.path)}  {shape}{kind}{owner}",
        *wrap(fit, width, _MOST_LINES),
        f"row {index + 1:,}, {decided}",
    ]


def _entry(session: Session, key: str) -> str:
    entry = session.checkpoint.state_dict[key]
    return f"{printable(key)}  {show(entry.shape)} {entry.dtype}"


def _entries(session: Session, keys: tuple[str, ...], symbols: Symbols, width: int) -> list[str]:
    """Every key: in braces where they differ by a number, else one after the other."""
    if len(keys) < 2:
        return [_entry(session, key) for key in keys]
    state_dict = session.checkpoint.state_dict
    kinds = {(state_dict[key].shape, state_dict[key].dtype) for key in keys}
    if len(kinds) > 1:
        return _listed([_entry(session, key) for key in keys], f" {symbols.dot} ", width)
    shape, dtype = kinds.pop()
    kind = f"{len(keys):,} of {show(shape)} {dtype}"
    if name := in_braces(keys, symbols.ellipsis):
        return wrap(f"{printable(name)}  {kind}", width, _MOST_LINES)
    return _listed([f"{kind}: {printable(keys[0])}", *map(printable, keys[1:])], ", ", width)


def _listed(names: list[str], between: str, width: int) -> list[str]:
    """Names one after the other in a few lines, and how many more there are."""
    lines: list[str] = []
    for count in range(1, len(names) + 1):
        more = len(names) - count
        rest = [f"and {more:,} more"] if more else []
        longer = wrap(between.join([*names[:count], *rest]), width, _MOST_LINES)
        if lines and (cell_len(longer[-1]) > max(width, _MOST_KEYS) or count > _MOST_KEYS):
            break
        lines = longer
    return lines


def left_and_right(
    text: str, style: str, counts: str, room: int, ellipsis: str
) -> tuple[tuple[str, str], ...]:
    """A sentence and, at the right end where there is room for both, the counts."""
    spare = room - cell_len(text) - cell_len(counts)
    if spare < 2:
        short = clip(text, room, ellipsis=ellipsis)
        return ((short, style),)
    return ((text, style), (" " * spare, ""), (counts, ""))


_FAR = 64
"""Rows without entries that are looked past for the first and last one of a block."""


def title(fold: Fold, symbols: Symbols) -> str:
    """`.layers[0 … 60] ×61`, `.layers[3]`; `bench ×12` for the bench."""
    if not fold.blocks:
        return f"bench {symbols.times}{len(fold):,}"
    words = symbols.plain(fold.title())
    return words if fold.blocks == 1 else f"{words} {symbols.times}{fold.blocks:,}"


def rows_in_words(fold: Fold) -> str:
    """`775 rows`."""
    return many(len(fold), "row") if fold.blocks else ""


def entries(session: Session, span: range, symbols: Symbols) -> str:
    """Return the common part of the entries' keys: `layers.3`, `layers.0 … 60`; possibly empty."""
    first = _first_key(session, span)
    last = _first_key(session, reversed(span))
    if not first or not last:
        return first or last
    one, other = first.split("."), last.split(".")
    alike = 0
    while alike < min(len(one), len(other)) and one[alike] == other[alike]:
        alike += 1
    common = ".".join(one[:alike])
    if first == last or alike == len(one) or alike == len(other):
        return common
    low, high = one[alike], other[alike]
    if low.isdecimal() and high.isdecimal():
        return f"{common}.{low} {symbols.ellipsis} {high}".lstrip(".")
    return common or f"{first} {symbols.ellipsis} {last}"


def _first_key(session: Session, indices: Iterable[int]) -> str:
    for passed, index in enumerate(indices):
        if passed > _FAR:
            break
        row = session.row(index)
        keys = row.keys if row is not None else (session.benched(index) or "",)
        if keys:
            return keys[0]
    return ""


def folded_details(session: Session, fold: Fold, symbols: Symbols) -> list[str]:
    """Lines about a folded block: its entries, its leaves, how good they are, and the way in."""
    span = range(fold.start, fold.stop)
    taken = printable(entries(session, span, symbols)) or symbols.nothing
    if not fold.blocks:
        unused = f"{many(len(fold), 'entry', 'entries')} on the bench: no leaf takes them"
        blocking = many(len(session.unused.blocking), "entry blocks", "entries block")
        ways = f"{symbols.fits[Fit.DOUBTFUL]} {blocking}: y accepts all that do"
        return [taken, unused, ways if len(session.unused.blocking) else "", "Tab unfolds it"]
    blocks = f"{many(fold.blocks, 'block')}, " if fold.blocks > 1 else ""
    fits = fits_in(session, span, symbols)
    return [
        taken,
        f"{symbols.arrow} {printable(fold.title())}  {blocks}{many(len(fold), 'row')}",
        fits,
        f"rows {fold.start + 1:,} to {fold.stop:,}, folded: Tab unfolds",
    ]
