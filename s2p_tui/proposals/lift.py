"""Block lift: what was done in one numbered block, applied to its siblings.

What is learnt of a block is, per leaf, the source with the block's number taken out of the keys.
Which of a key's numbers is the block's is settled by what the block's keys have in common and by
which number, counted on, names entries for the most siblings; the two sides may count from
different numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct, structs

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.edits import SetRows, apply
from s2p_tui.alignment.evidence import Evidence
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.layers import is_statistic
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Take, rename, show
from s2p_tui.alignment.verdicts import Verdicts
from s2p_tui.proposals.proposal import Change, Confidence, Proposal, proposed, same_source

_INDEX = re.compile(r"(?<=\[)\d{1,18}(?=\])|(?<=\[')\d{1,18}(?='\])")
_SUFFIX = re.compile(r"(?<=_)\d{1,18}(?='\]|[.\[])")
_NUMBER = re.compile(r"\d{1,18}")
_ROOT = re.compile(r"\[\d+\](?=[.\[])")
_MOST_NAMED = 8


class Block(NamedTuple):
    """A numbered block of the pytree: all leaves whose key paths begin alike.

    Attributes:
        head: The key path before the number.
        number: The number.
        tail: What closes it.
        depth: How many numbered blocks it is in.
    """

    head: str
    number: int
    tail: str
    depth: int

    @property
    def prefix(self) -> str:
        """The beginning of its leaves' key paths."""
        return f"{self.head}{self.number}{self.tail}"


class Slot(NamedTuple):
    """One number in a key."""

    before: str
    digits: str
    after: str
    depth: int

    def on(self, steps: int, state_dict: StateDict) -> str:
        """The key so many numbers on, zero-padded if need be; empty if there is none."""
        number = int(self.digits) + steps
        for width in (0, len(self.digits)):
            key = f"{self.before}{number:0{width}}{self.after}"
            if number >= 0 and key in state_dict:
                return key
        return ""

    def named(self, steps: int) -> str:
        """Return the key so many numbers on, or why there cannot be one."""
        number = int(self.digits) + steps
        if number < 0:
            return f"number before {self.before}0{self.after}"
        return f"{self.before}{number}{self.after}"


class Within(NamedTuple):
    """The position of a leaf in a block.

    Attributes:
        root: What its key path begins with in another tree, as Equinox's state is; else empty.
        rest: The key path from the block on.
    """

    root: str
    rest: str

    def path(self, block: Block) -> str:
        """The key path of the leaf at the same place in another block."""
        prefix = block.prefix
        if self.root and (match := _ROOT.match(prefix)):
            prefix = self.root + prefix[match.end() :]
        return prefix + self.rest


class _Pattern(Struct, frozen=True):
    """A block's leaf and what it takes.

    Attributes:
        rest: The leaf's key path within the block; see `_within`.
        index: The leaf's index.
        row: Its row.
        slots: By key, the number that is the block's.
    """

    rest: Within
    index: int
    row: Row
    slots: dict[str, Slot]


def blocks_at(skeleton: Skeleton, index: int) -> tuple[Block, ...]:
    """The numbered blocks a leaf is in that have siblings, the innermost first."""
    found = list(_blocks(skeleton[index].path))
    return tuple(block for block in reversed(found) if len(_numbers(skeleton, block)) > 1)


def _blocks(path: str) -> Iterator[Block]:
    matches = list(_INDEX.finditer(path)) or list(_SUFFIX.finditer(path))
    for depth, match in enumerate(matches):
        tail = {"[": "]", "'": "']"}.get(path[match.start() - 1], "")
        tail = tail or ("']" if path[match.end()] == "'" else "")
        if match.group() == str(int(match.group())) and path != f"[{match.group()}]":
            yield Block(path[: match.start()], int(match.group()), tail, depth)


def _numbers(skeleton: Skeleton, block: Block) -> list[int]:
    inside = re.compile(
        re.escape(block.head) + r"(\d{1,18})" + re.escape(block.tail) + r"(?:[.\[]|$)"
    )
    found = (inside.match(leaf.path) for leaf in skeleton)
    return sorted({int(match.group(1)) for match in found if match})


def lift(
    state_dict: StateDict,
    skeleton: Skeleton,
    alignment: Alignment,
    block: Block,
    evidence: Evidence | None = None,
    verdicts: Verdicts | None = None,
) -> Proposal:
    """Propose a block's arrangement for its siblings. Reads no tensor data.

    A sibling of which an entry is missing or does not fit as its counterpart does is left as it is
    and named in the notes; so are leaves whose entries have no number to count on.

    Args:
        state_dict: The entries.
        skeleton: The leaves.
        alignment: The rows as they are.
        block: The block to learn from, one of `blocks_at`.
        evidence: What else is known; rows it speaks against are unsure.
        verdicts: The rows' fits by that evidence, if they are known.
    """
    numbers = [number for number in _numbers(skeleton, block) if number != block.number]
    patterns, alone = _learn(state_dict, skeleton, alignment, block, numbers)
    wanted: dict[int, Row] = {}
    given = {key for pattern in patterns for key in pattern.row.keys}
    differing: list[str] = []
    for number in numbers:
        sibling = block._replace(number=number)
        rows, why = _applied(state_dict, skeleton, alignment, block, sibling, patterns)
        keys = {key for row in rows.values() for key in row.keys}
        why = why or next((f"{key} would be taken twice" for key in sorted(keys & given)), "")
        if why:
            differing.append(f"{sibling.prefix} differs: {why}")
        else:
            wanted |= rows
            given |= keys
    changed = [
        (index, row)
        for index, row in wanted.items()
        if not same_source(alignment.rows[index], row)
        or (row.trusted and not alignment.rows[index].trusted)
    ]
    start = Alignment.of(
        alignment.rows, alignment.bench, state_dict.numbering, skeleton.layers, alignment.accepted
    )
    after = apply(start, SetRows(tuple(changed))).rows
    if changed and verdicts is None:
        verdicts = Verdicts(state_dict, skeleton, after, evidence)
    doubts = {
        index: verdict.why
        for index, _ in changed
        if verdicts is not None
        and (verdict := verdicts.of(index, after)).fit in (Fit.DOUBTFUL, Fit.MISMATCHED)
    }
    sure = {
        index: Confidence.UNSURE if index in doubts else Confidence.CERTAIN for index, _ in changed
    }
    notes = [*_summary(block, len(numbers), differing), *alone] if patterns else []
    if trusted := sum(row.trusted for _, row in changed):
        rows = "row is" if trusted == 1 else "rows are"
        notes.append(f"{trusted:,} {rows} trusted as in {block.prefix}")
    proposal = proposed("user", alignment, wanted.items(), skeleton, sure, notes)
    return _with_doubts(proposal, doubts)


def counterparts(
    state_dict: StateDict, skeleton: Skeleton, alignment: Alignment, index: int, row: Row
) -> dict[int, Row]:
    """Return the rows of the same leaf in sibling blocks, of all levels, as one row is.

    Args:
        state_dict: The entries.
        skeleton: The leaves.
        alignment: The rows as they are.
        index: The row's index.
        row: The row; of blocks whose entries it has no number for nothing is known.
    """
    found = {index: row}
    numbers: dict[tuple[str, str], list[int]] = {}
    for level in range(len(blocks_at(skeleton, index))):
        for mine, one in list(found.items()):
            block = blocks_at(skeleton, mine)[level]
            around = block.head, block.tail
            if around not in numbers:
                numbers[around] = _numbers(skeleton, block)
            others = [number for number in numbers[around] if number != block.number]
            slots = _slots(state_dict, one.keys, block, others)
            within = _within(skeleton[mine], block)
            if within is None or len(slots) < len(one.keys):
                continue
            patterns = [_Pattern(within, mine, one, slots)]
            for number in others:
                sibling = block._replace(number=number)
                applied = _applied(state_dict, skeleton, alignment, block, sibling, patterns)
                found |= {at: new for at, new in applied[0].items() if at not in found}
    del found[index]
    return found


def _learn(
    state_dict: StateDict,
    skeleton: Skeleton,
    alignment: Alignment,
    block: Block,
    numbers: list[int],
) -> tuple[list[_Pattern], list[str]]:
    """The patterns of a block, and notes on the leaves that have none."""
    rows = [
        (index, within, alignment.rows[index])
        for index, leaf in enumerate(skeleton)
        if (within := _within(leaf, block))
    ]
    rows = [
        (index, rest, row)
        for index, rest, row in rows
        if not row.fixed and (row.gap or row.source is not None)
    ]
    keys = dict.fromkeys(key for *_, row in rows for key in row.keys)
    slots = _slots(state_dict, keys, block, numbers)
    patterns: list[_Pattern] = []
    alone: list[str] = []
    for index, rest, row in rows:
        mine = {key: slots[key] for key in row.keys if key in slots}
        if len(mine) == len(row.keys):
            patterns.append(_Pattern(rest, index, row, mine))
        else:
            key = next(key for key in row.keys if key not in slots)
            path = skeleton[index].path
            alone.append(f"{path} is left alone: no other block has a counterpart of {key}")
    return patterns, _few(alone, "more leaves are left alone")


def _within(leaf: Leaf, block: Block) -> Within | None:
    """Return where a leaf is in a block, None if it is not.

    A layer's statistics may be kept in a tree of their own: those of `[0].layers[3].norm` at
    `[1].layers[3].norm`.
    """
    prefix, root = block.prefix, ""
    if not leaf.path.startswith(prefix) and is_statistic(leaf.path):
        ours, theirs = _ROOT.match(prefix), _ROOT.match(leaf.path)
        if ours and theirs:
            root = theirs.group()
            prefix = root + prefix[ours.end() :]
    rest = leaf.path[len(prefix) :]
    is_in = leaf.path.startswith(prefix) and rest[:1] in ("", ".", "[")
    return Within(root, rest) if is_in else None


def _slots(
    state_dict: StateDict, keys: Iterable[str], block: Block, numbers: list[int]
) -> dict[str, Slot]:
    """Return the block's number in each key, without keys that no sibling has one like.

    The one that most keys of the block have in common; else the one most siblings have one like.
    """
    found: dict[str, list[tuple[int, Slot]]] = {}
    votes = Counter[tuple[str, str]]()
    for key in keys:
        for depth, match in enumerate(_NUMBER.finditer(key)):
            slot = Slot(key[: match.start()], match.group(), key[match.end() :], depth)
            count = sum(bool(slot.on(number - block.number, state_dict)) for number in numbers)
            if count:
                found.setdefault(key, []).append((count, slot))
                votes[slot.before, slot.digits] += 1

    def order(candidate: tuple[int, Slot]) -> tuple[int, ...]:
        count, slot = candidate
        offset = abs(int(slot.digits) - block.number)
        return (-votes[slot.before, slot.digits], -count, abs(slot.depth - block.depth), offset)

    return {key: min(candidates, key=order)[1] for key, candidates in found.items()}


def _applied(
    state_dict: StateDict,
    skeleton: Skeleton,
    alignment: Alignment,
    block: Block,
    sibling: Block,
    patterns: Sequence[_Pattern],
) -> tuple[dict[int, Row], str]:
    """A sibling's rows, or why it is left as it is."""
    rows: dict[int, Row] = {}
    steps = sibling.number - block.number
    why = f"as in {block.prefix}"
    whose: dict[str, str] = {}
    for pattern in patterns:
        path = pattern.rest.path(sibling)
        if path not in skeleton:
            continue
        index = skeleton.index(path)
        if alignment.rows[index].fixed:
            continue
        names: dict[str, str] = {}
        for key, slot in pattern.slots.items():
            name = slot.on(steps, state_dict)
            if not name:
                return {}, f"there is no {slot.named(steps)} for {path}"
            if whose.setdefault(name, key) != key:
                return {}, f"{name} would be taken twice"
            names[key] = name
        source = pattern.row.source and rename(pattern.row.source, names)
        chosen = pattern.row.by in ("user", "forward") or pattern.row.trusted
        by = "user" if chosen else "moved"
        row = Row(source, pattern.row.gap, by=by, why=why, trusted=pattern.row.trusted)
        if misfit := _misfit(state_dict, skeleton, pattern, index, row, names):
            return {}, misfit
        rows[index] = row
    return rows, ""


def _misfit(
    state_dict: StateDict,
    skeleton: Skeleton,
    pattern: _Pattern,
    index: int,
    row: Row,
    names: dict[str, str],
) -> str:
    """Return why a row does not fit its leaf as the pattern fits its own; empty if it does."""
    before, leaf = skeleton[pattern.index], skeleton[index]
    for key, name in names.items():
        old, new = state_dict[key], state_dict[name]
        if (old.shape, before.shape) != (new.shape, leaf.shape) and not (
            isinstance(row.source, Take) and _fits_alike(state_dict, before, leaf, pattern.row, row)
        ):
            return f"{name} is {show(new.shape)} for {show(leaf.shape)}, {key} is {show(old.shape)}"
    if row.gap and _fits_worse(state_dict, before, leaf, pattern.row, row):
        return f"the skeleton has no value for {leaf.path}"
    return ""


def _fits_alike(state_dict: StateDict, before: Leaf, leaf: Leaf, old: Row, new: Row) -> bool:
    return judge(before, old, state_dict).fit is judge(leaf, new, state_dict).fit


def _fits_worse(state_dict: StateDict, before: Leaf, leaf: Leaf, old: Row, new: Row) -> bool:
    fits = judge(before, old, state_dict).fit, judge(leaf, new, state_dict).fit
    return fits[1] is Fit.MISMATCHED and fits[0] is not Fit.MISMATCHED


def _with_doubts(proposal: Proposal, doubts: dict[int, str]) -> Proposal:
    def doubted(change: Change) -> Change:
        why = doubts.get(change.index)
        return structs.replace(change, objection=why) if why else change

    if not doubts:
        return proposal
    hunks = (
        structs.replace(hunk, changes=tuple(map(doubted, hunk.changes))) for hunk in proposal.hunks
    )
    return structs.replace(proposal, hunks=tuple(hunks))


def _summary(block: Block, count: int, differing: list[str]) -> list[str]:
    agree = count - len(differing)
    said = f"{agree:,} of {count:,} agree with {block.prefix}"
    if not differing:
        return [said]
    return [f"{said}, {differing[0]}", *_few(differing[1:], "more blocks differ")]


def _few(notes: list[str], more: str) -> list[str]:
    if len(notes) <= _MOST_NAMED:
        return notes
    return [*notes[:_MOST_NAMED], f"{len(notes) - _MOST_NAMED:,} {more}"]
