"""The offline matcher: pairs entries and leaves by names, shapes, layers and order."""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod

from s2p_tui.alignment.alignment import Alignment
from s2p_tui.alignment.evidence import Evidence, Suggestion, Suggestions, as_suggested
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.layer_rules import constant_for, rule_applied, rule_for
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.task import Task
from s2p_tui.alignment.transform import Expr, Flip, Permute, Shape, Take, keys_of, nodes_of
from s2p_tui.proposals.matcher.absent import (
    counts_of_keys,
    scalar_entries,
    tied_again,
    without_partner,
)
from s2p_tui.proposals.matcher.align import ORDER_ALONE, Aligner, Pair, in_sequence, say_nothing
from s2p_tui.proposals.matcher.buckets import NAMES_AGREE, SAME_NAME
from s2p_tui.proposals.matcher.doubts import (
    crossed,
    inconsistent,
    losses,
    lost_entries,
    numbered,
    turned,
    unequal,
)
from s2p_tui.proposals.matcher.likeness import Learned
from s2p_tui.proposals.matcher.orientation import Orientation
from s2p_tui.proposals.matcher.parts import as_leaf_takes, made_of_parts, steps_of_leaves
from s2p_tui.proposals.matcher.pieces import (
    Piece,
    entry_piece,
    may_alternate,
    parts_named,
    with_views,
)
from s2p_tui.proposals.matcher.tree import Node, let_go, tree_of
from s2p_tui.proposals.matcher.words import meanings, steps_of_key
from s2p_tui.proposals.proposal import Confidence, Proposal, proposed

_CERTAIN = 0.3
_ROUNDS = 4
_PARTS = ("weight_g", "weight_v", "weight_u", "weight_orig", "bias_ih", "bias_hh", "in_proj_")
_CONVOLUTIONS = frozenset(f"equinox.nn.{name}" for name in ("Conv", "Conv1d", "Conv2d", "Conv3d"))
_STATISTICS = frozenset(("mean", "var"))


@contextmanager
def gc_paused() -> Generator[None]:
    """Pause the garbage collector: many small objects and no garbage take half the time then."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@gc_paused()
def match(state_dict: StateDict, skeleton: Skeleton, task: Task | None = None) -> Evidence:
    """Propose an alignment. Reads names, shapes, dtypes and layers; no tensor data.

    The same input gives the same proposal. What cannot be settled is proposed and not certain.

    Args:
        state_dict: The entries.
        skeleton: The leaves.
        task: Kept up to date meanwhile.

    Raises:
        CancelledError: The task was cancelled.
    """
    task = task or Task()
    # Names are read, tensors paired twice, and pairs looked at.
    task.total = _ROUNDS * len(skeleton)
    suggestions: dict[int, Suggestion] = {}
    wanted: list[int] = []
    scalars, counts = scalar_entries(state_dict, skeleton), counts_of_keys(skeleton)
    for place, leaf in enumerate(skeleton):
        if (constant := constant_for(leaf)) is not None:
            suggestions[place] = Suggestion(constant[0], True, constant[1])
        elif place in scalars:
            reason = "the one element of the scalar's own name"
            suggestions[place] = Suggestion(Take(scalars[place]), True, reason)
        elif leaf.kind == "scalar":
            reason = "a Python scalar, and no entry of one element has its name"
            suggestions[place] = Suggestion(None, True, reason)
        elif place in counts and leaf.has_value:
            reason = "it counts what was drawn with the PRNG key beside it"
            suggestions[place] = Suggestion(None, True, reason)
        else:
            wanted.append(place)
    steps = steps_of_leaves(skeleton, wanted)
    task.check()
    pieces, left_over = _pieces(state_dict, skeleton, steps, frozenset(scalars.values()))
    task.done = len(skeleton)
    task.check()
    if wanted and pieces:
        _fill(suggestions, state_dict, skeleton, steps, pieces, task)
    task.check()
    used = {key for s in suggestions.values() if s.source for key in keys_of(s.source)}
    left_over = {key: why for key, why in left_over.items() if key not in used}
    for entry in state_dict:
        if entry.key not in used:
            left_over.setdefault(entry.key, "no leaf corresponds to it")
    suggestions |= without_partner(suggestions, skeleton, steps, state_dict, left_over)
    lost = lost_entries(state_dict, suggestions, left_over)
    told = unequal(suggestions, skeleton, steps, state_dict, lost)
    for place, why in (losses(state_dict, suggestions, lost) | told).items():
        suggestions[place] = replace(suggestions[place], certain=False, reason=why)
    task.done = task.total
    task.check()
    return Evidence(Suggestions(suggestions[place] for place in range(len(skeleton))), left_over)


def _pieces(
    state_dict: StateDict,
    skeleton: Skeleton,
    steps: Mapping[int, tuple[str, ...]],
    taken: frozenset[str],
) -> tuple[list[Piece], dict[str, str]]:
    roles = {role for path in steps.values() for role in meanings(path)[0][-1:]}
    useless = frozenset(("count",)) if roles & _STATISTICS else _STATISTICS | {"count"}
    left_over: dict[str, str] = {}
    pieces, covered = made_of_parts(state_dict, skeleton)
    wanted = Counter(prod(skeleton[place].shape) for place in steps)
    again = tied_again(state_dict, wanted)
    for entry in state_dict:
        if entry.key in covered or entry.key in taken:
            continue
        if entry.key in again:
            left_over[entry.key] = f"the same tensor as {again[entry.key]}"
            continue
        path = steps_of_key(entry.key)
        last = meanings(path)[0][-1:]
        if last and last[0] in useless and last[0] not in roles:
            left_over[entry.key] = "no leaf holds such a statistic"
        else:
            pieces.append(entry_piece(entry.key, path, entry.shape))
    targets = [(path, skeleton[place].shape) for place, path in steps.items()]
    return with_views(pieces, targets), left_over


def _fill(
    suggestions: dict[int, Suggestion],
    state_dict: StateDict,
    skeleton: Skeleton,
    steps: Mapping[int, tuple[str, ...]],
    pieces: Sequence[Piece],
    task: Task,
) -> None:
    target = tree_of((place, path, skeleton[place].shape) for place, path in steps.items())
    source = tree_of((n, piece.steps, piece.shape) for n, piece in enumerate(pieces))
    targets = [leaf.item for leaf in target.leaves()]
    sources = [leaf.item for leaf in source.leaves()]
    orientation = Orientation()

    def told(pairs: Sequence[Pair]) -> list[tuple[int, Piece, Pair]]:
        return [(targets[pair.target], pieces[sources[pair.source]], pair) for pair in pairs]

    def learn(orientation: Orientation, found: Sequence[tuple[int, Piece, Pair]]) -> None:
        orientation.learn(
            (steps[place], skeleton[place].shape, piece)
            for place, piece, pair in found
            if pair.margin >= _CERTAIN
        )

    nameless = say_nothing([piece.steps for piece in pieces], list(steps.values()))
    if nameless:
        found = [
            (
                place,
                piece,
                pair if len(piece.members) == 1 else replace(pair, margin=0.0, how=ORDER_ALONE),
            )
            for place, piece, pair in told(in_sequence(target, source, task.check))
        ]
    else:
        order = _orderly(pieces) and not _sorted_by_name(skeleton)
        fits = _Fits(skeleton, pieces)
        # Nothing is learned from guesses.
        first = Aligner(fits, task, order=order, guesses=False)
        found = told(first.align(target, source))
        if not all(pair.how == SAME_NAME for _, _, pair in found):
            learn(orientation, found)
            task.done = 2 * len(skeleton)
            known, out_last = _learned(first), orientation.common
            second = Aligner(fits, task, learned=known, order=order, out_last=out_last)
            found = told(second.align(target, source))
            orientation = Orientation()
    learn(orientation, found)
    task.done = 3 * len(skeleton)
    for tree in (target, source):
        let_go(tree)
    used = {id(piece) for _, piece, _ in found}
    left = (piece.shape for piece in pieces if id(piece) not in used)
    doubts = crossed({p: (skeleton[p].shape, piece.shape) for p, piece, _ in found}, left, steps)
    task.check()
    doubts |= turned({p: (skeleton[p], piece) for p, piece, _ in found}, (p.shape for p in pieces))
    sides = {} if nameless else {p: (steps[p], piece.steps) for p, piece, _ in found}
    doubts |= inconsistent(sides)
    by_number = numbered(sides)
    for place, piece, pair in found:
        task.check()
        task.done += 1
        leaf = skeleton[place]
        taken = as_leaf_takes(leaf, piece, state_dict)
        suggestion = taken and _suggestion(leaf, steps[place], taken, pair, orientation)
        if suggestion is not None:
            why, is_numbered = doubts.get(place), place in by_number
            if why is not None:
                suggestion = Suggestion(suggestion.source, False, why, False, is_numbered)
            elif is_numbered:
                suggestion = replace(suggestion, numbered=True)
            suggestions[place] = suggestion


def _is_part(steps: tuple[str, ...]) -> bool:
    """Return True if a tensor is one of several that a layer makes its weight from."""
    return "parametrizations" in steps or steps[-1].startswith(_PARTS)


def _fused(steps: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts of a fused tensor of these steps; empty for others."""
    return next((parts for step in steps if (parts := parts_named(step))), ())


def _suggestion(
    leaf: Leaf, steps: tuple[str, ...], piece: Piece, pair: Pair, orientation: Orientation
) -> Suggestion | None:
    sure = pair.margin >= _CERTAIN
    if not sure and pair.how == NAMES_AGREE:
        pair = replace(pair, how=f"{NAMES_AGREE}, but others nearly as well")
    fused = _fused(steps) and _fused(steps) == _fused(piece.steps)
    if _is_part(piece.steps) and not _is_part(steps) and not fused:
        layouts = piece.layouts(leaf.shape)
        return Suggestion(layouts[0][0], False, "only a part of a weight") if layouts else None
    (member, *more) = piece.members
    if not more and rule_for(leaf) is not None:
        turned = rule_applied(leaf, member, piece.shape)
        final = piece.composite is not None and not isinstance(member, Take)
        if isinstance(member, Take):
            return Suggestion(member, sure and turned is not None, pair.how)
        if turned is not None or (final and piece.shape == leaf.shape):
            return Suggestion(turned or member, sure, pair.how)
    known_layer = (leaf.owner or "").startswith("equinox.nn.")
    own_name = isinstance(member, Take) and not more and leaf.path == f"[{member.key!r}]"
    own_name = own_name and leaf.owner is None
    chosen = orientation.choose(
        steps, leaf.shape, piece, known_layer=known_layer, own_name=own_name
    )
    if chosen is None:
        return None
    expr, settled, why = chosen
    if leaf.owner in _CONVOLUTIONS and any(isinstance(n, Permute | Flip) for n in nodes_of(expr)):
        return Suggestion(expr, False, "this layer keeps PyTorch's layout", sure)
    if leaf.owner is None and _may_be_transposed_convolution(expr, leaf.shape):
        why = "nothing names this layer, and a transposed convolution's kernel is flipped too"
        return Suggestion(expr, False, why, sure)
    if may_alternate(expr):
        return Suggestion(expr, False, "heads may alternate in it: nothing shows it", sure)
    return Suggestion(expr, sure and settled, f"{pair.how}; {why}" if why else pair.how, sure)


def _may_be_transposed_convolution(expr: Expr, shape: Shape) -> bool:
    """Return True if a kernel's channels change places and its window has many elements."""
    turned = isinstance(expr, Permute) and expr.axes == (1, 0, *range(2, len(shape)))
    return turned and len(shape) > 2 and prod(shape[2:]) > 1


class _Fits:
    """Tells if pieces can fill leaves whose layers have rules of their own."""

    def __init__(self, skeleton: Skeleton, pieces: Sequence[Piece]) -> None:
        self._skeleton, self._pieces = skeleton, pieces

    def __call__(self, target: Node, source: Node) -> bool | None:
        leaf, piece = self._skeleton[target.item], self._pieces[source.item]
        member = piece.members[0]
        if rule_for(leaf) is None or len(piece.members) > 1:
            return None
        if piece.composite is not None and not isinstance(member, Take):
            return piece.shape == leaf.shape or None
        return rule_applied(leaf, member, piece.shape) is not None

    def kind_of_target(self, target: Node) -> Hashable:
        """Its shape; with a layer that has a rule of its own it is a kind of its own."""
        leaf = self._skeleton[target.item]
        return leaf.shape if rule_for(leaf) is None else target.item

    def kind_of_source(self, source: Node) -> Hashable:
        """The facts its layouts depend on."""
        piece = self._pieces[source.item]
        if piece.composite is not None:
            return source.item
        return piece.shape, piece.member, len(piece.members), piece.otherwise is None

    def turns(self, target: Node, source: Node) -> frozenset[bool]:
        """Return True if the output axis can come last in a leaf that takes the piece."""
        leaf, piece = self._skeleton[target.item], self._pieces[source.item]
        return piece.turns(leaf.shape)


def _learned(aligner: Aligner) -> Learned:
    votes: dict[tuple[tuple[str, ...], tuple[str, ...]], float] = defaultdict(float)
    total: dict[tuple[str, ...], float] = defaultdict(float)
    for target, source, weight in aligner.seen:
        votes[target, source] += weight
        total[target] += weight
    learned: dict[tuple[str, ...], dict[tuple[str, ...], float]] = defaultdict(dict)
    for (target, source), count in votes.items():
        learned[target][source] = count / total[target]
    return learned


def _orderly(pieces: Sequence[Piece]) -> bool:
    """Return True if a checkpoint's entries stand in the order its numbered modules do."""
    last: dict[tuple[str, ...], int] = {}
    steps = falls = 0
    for piece in pieces:
        for level, step in enumerate(piece.steps):
            if step.isdigit():
                before = last.get(piece.steps[:level], -1)
                steps += before != int(step)
                falls += int(step) < before
                last[piece.steps[:level]] = int(step)
                break
    return falls <= 0.05 * max(steps, 1)


def _sorted_by_name(skeleton: Skeleton) -> bool:
    """Return True if the leaves come from dicts, whose order means nothing: JAX sorts them."""
    paths = [leaf.path for leaf in skeleton]
    return sum("['" in path for path in paths) > len(paths) / 2


def propose(
    evidence: Evidence, state_dict: StateDict, skeleton: Skeleton, alignment: Alignment
) -> Proposal:
    """Return the evidence's rows that differ from the alignment's. Reads no tensor data.

    Rows that the user decided or trusted are given: they stay, and what they take stays theirs.
    One whose shape does not fit is no decision yet: its entry may be on its way elsewhere.
    """
    suggested = as_suggested(evidence, state_dict, skeleton).rows
    given = {
        index: row
        for index, row in enumerate(alignment.rows)
        if ((row.by == "user" and (row.gap or row.source is not None)) or row.trusted)
        and judge(skeleton[index], row, state_dict).fit is not Fit.MISMATCHED
    }
    # An entry that both have for the same row may be taken by others too: it is tied, or shared.
    taken = {key for row in given.values() for key in row.keys}
    taken -= {key for index in given for key in suggested[index].keys}
    wanted = [
        (index, row)
        for index, row in enumerate(suggested)
        if index not in given and taken.isdisjoint(row.keys)
    ]
    confidence = {
        place: confidence_of(suggestion) for place, suggestion in enumerate(evidence.suggestions)
    }
    return proposed("matcher", alignment, wanted, skeleton, confidence)


def confidence_of(suggestion: Suggestion) -> Confidence:
    """Certain where the matcher vouches for the row, likely where only its layout is open."""
    if suggestion.certain:
        return Confidence.CERTAIN
    return Confidence.LIKELY if suggestion.placed else Confidence.UNSURE
