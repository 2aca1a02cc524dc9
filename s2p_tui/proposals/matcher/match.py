"""The offline matcher: pairs entries and leaves by names, shapes, layers and order."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod

from msgspec import structs

from s2p_tui.alignment.evidence import Evidence, Suggestion, Suggestions
from s2p_tui.alignment.layer_rules import constant_for, other_layouts, rule_applied, rule_for
from s2p_tui.alignment.layers import ALONE, module_of
from s2p_tui.alignment.left_over import explained
from s2p_tui.alignment.proof import UNPROVEN, Answer, Proof, Question, proven_by
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.task import Task, gc_paused
from s2p_tui.alignment.transform import Expr, Flip, Permute, Shape, Split, Take, keys_of, nodes_of
from s2p_tui.proposals.matcher.absent import (
    counts_of_keys,
    scalar_entries,
    tied_again,
    without_partner,
)
from s2p_tui.proposals.matcher.align import (
    LEFT_BY_OTHERS,
    ONLY_PART,
    ONLY_SIZE,
    ONLY_SIZE_HERE,
    ORDER_ALONE,
    SAME_PLACE,
    Aligner,
    Pair,
    in_sequence,
    say_nothing,
)
from s2p_tui.proposals.matcher.alternating import alternating, crossing
from s2p_tui.proposals.matcher.buckets import NAMES_AGREE, SAME_NAME
from s2p_tui.proposals.matcher.channels import Kernels, flattened
from s2p_tui.proposals.matcher.classes import (
    called_otherwise,
    own_cells,
    scales_less_one,
    tables_and_layers,
)
from s2p_tui.proposals.matcher.consumers import reading_channels
from s2p_tui.proposals.matcher.conventions import gated_by_number, up_by_name
from s2p_tui.proposals.matcher.doubts import (
    crossed,
    inconsistent,
    losses,
    lost_entries,
    turned,
    unequal,
)
from s2p_tui.proposals.matcher.fused import may_alternate, order_is_open
from s2p_tui.proposals.matcher.indices import misnumbered
from s2p_tui.proposals.matcher.likeness import Learned
from s2p_tui.proposals.matcher.nesting import as_nested, crosswise
from s2p_tui.proposals.matcher.norms import other_order
from s2p_tui.proposals.matcher.offsets import falling, unexplained_offsets
from s2p_tui.proposals.matcher.orientation import Orientation, attentions
from s2p_tui.proposals.matcher.parts import as_leaf_takes, made_of_parts, steps_of_leaves
from s2p_tui.proposals.matcher.pieces import (
    Fits,
    Piece,
    entry_piece,
    is_part,
    is_whole,
    parts_named,
)
from s2p_tui.proposals.matcher.renamed import other_roles, renamed
from s2p_tui.proposals.matcher.rotary import in_pairs
from s2p_tui.proposals.matcher.siblings import unlike_siblings
from s2p_tui.proposals.matcher.stacks import stacked_by_name
from s2p_tui.proposals.matcher.support import (
    exchangeable,
    namesakes,
    reordered,
    unlike_parameters,
    unsupported,
)
from s2p_tui.proposals.matcher.templates import Pairs, words_of
from s2p_tui.proposals.matcher.torn import from_two_members, torn_apart
from s2p_tui.proposals.matcher.tree import let_go, tree_of
from s2p_tui.proposals.matcher.views import with_views
from s2p_tui.proposals.matcher.words import (
    FAINT,
    Steps,
    name_of,
    steps_of_key,
    steps_of_path,
)

# The margin from which a pair's names say which entry it is: less is sure of nearly equal names. Of
# the real pairs one more row is certain at 0.18, and none fewer at 0.48
# (`python -m tests.benchmarks.alignment`).
_CERTAIN = 0.3
# For progress: names are read, tensors paired twice, and pairs looked at.
_ROUNDS = 4
_MATRIX = 2
_BY_LAYER = proven_by(Answer.LAYER)
_SCALAR = Proof(None, Answer.ONE_AXIS, Answer.WHOLE)
_SAME_INSIDE = "the same name inside modules that go together"
_ENTRY_ANSWERS = {
    SAME_NAME: Answer.SAME_NAME,
    _SAME_INSIDE: Answer.SAME_INSIDE,
    NAMES_AGREE: Answer.NAMES,
    ONLY_PART: Answer.STRUCTURE,
    ONLY_SIZE: Answer.SIZE,
    ONLY_SIZE_HERE: Answer.SIZE,
    LEFT_BY_OTHERS: Answer.NAMES,
}
"""The answer that a pair's `how` gives where its margin is large; nothing else gives one."""
_BY_NAME = (Answer.SAME_NAME, Answer.SAME_INSIDE, Answer.NAMES)
_SEVERAL = "its layer takes from several modules, and nothing shows which"
_CONVOLUTIONS = frozenset(f"equinox.nn.{name}" for name in ("Conv", "Conv1d", "Conv2d", "Conv3d"))
_STATISTICS = frozenset(("mean", "var"))
_WRAPPER = re.compile(r"(?:module|_orig_mod|model)\.")


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
    task.total = _ROUNDS * len(skeleton)
    suggestions: dict[int, Suggestion] = {}
    wanted: list[int] = []
    scalars, counts = scalar_entries(state_dict, skeleton), counts_of_keys(skeleton)
    for index, leaf in enumerate(skeleton):
        if (constant := constant_for(leaf)) is not None:
            suggestions[index] = Suggestion(constant[0], _BY_LAYER, constant[1])
        elif index in scalars:
            reason = "the one element of the scalar's own name"
            is_same = steps_of_path(leaf.path) == steps_of_key(scalars[index])
            proof = _SCALAR.answered(entry=Answer.SAME_NAME if is_same else Answer.NAMES)
            suggestions[index] = Suggestion(Take(scalars[index]), proof, reason)
        elif leaf.kind == "scalar":
            reason = "a Python scalar, and no entry of one element has its name"
            suggestions[index] = Suggestion(None, _BY_LAYER, reason)
        elif index in counts and leaf.has_value:
            reason = "it counts what was drawn with the PRNG key beside it"
            suggestions[index] = Suggestion(None, _BY_LAYER, reason)
        else:
            wanted.append(index)
    entries = (steps_of_key(entry.key) for entry in state_dict)
    steps = as_nested(steps_of_leaves(skeleton, wanted), entries)
    task.check()
    pieces, left_over = _pieces(state_dict, skeleton, steps, frozenset(scalars.values()))
    task.done = len(skeleton)
    task.check()
    torn: Collection[int] = ()
    if wanted and pieces:
        torn = _fill(suggestions, state_dict, skeleton, steps, pieces, task)
    task.check()
    used = {key for s in suggestions.values() if s.source for key in keys_of(s.source)}
    left_over = {key: why for key, why in left_over.items() if key not in used}
    for entry in state_dict:
        if entry.key not in used:
            left_over.setdefault(entry.key, "no leaf corresponds to it")
    suggestions |= _with_modules(suggestions, skeleton, left_over, torn)
    suggestions |= without_partner(suggestions, skeleton, steps, state_dict, left_over)
    lost = lost_entries(state_dict, suggestions, left_over)
    told = unequal(suggestions, skeleton, steps, state_dict, lost)
    for index, why in (losses(state_dict, suggestions, lost) | told).items():
        one = suggestions[index]
        proof = one.proof.without(Question.LEFT_OVER)
        suggestions[index] = structs.replace(one, proof=proof, reason=why)
    task.done = task.total
    task.check()
    return Evidence(Suggestions(suggestions[index] for index in range(len(skeleton))), left_over)


def _pieces(
    state_dict: StateDict,
    skeleton: Skeleton,
    steps: Mapping[int, Steps],
    taken: frozenset[str],
) -> tuple[list[Piece], dict[str, str]]:
    roles = {role for path in steps.values() for role in words_of(path)[-1:]}
    useless = frozenset(("count",)) if roles & _STATISTICS else _STATISTICS | {"count"}
    left_over: dict[str, str] = {}
    pieces, covered = made_of_parts(state_dict, skeleton)
    wanted = Counter(prod(skeleton[index].shape) for index in steps)
    again = tied_again(state_dict, wanted)
    for entry in state_dict:
        if entry.key in covered or entry.key in taken:
            continue
        if entry.key in again:
            left_over[entry.key] = f"the same tensor as {again[entry.key]}"
            continue
        path = steps_of_key(entry.key)
        last = words_of(path)[-1:]
        if last and last[0] in useless and last[0] not in roles:
            left_over[entry.key] = "no leaf holds such a statistic"
        else:
            pieces.append(entry_piece(entry.key, path, entry.shape))
    targets = [(path, skeleton[index].shape) for index, path in steps.items()]
    return with_views(pieces, targets), left_over


def _fill(
    suggestions: dict[int, Suggestion],
    state_dict: StateDict,
    skeleton: Skeleton,
    steps: Mapping[int, Steps],
    pieces: Sequence[Piece],
    task: Task,
) -> Collection[int]:
    """Suggest what the leaves take; return the indices of those whose layers are torn apart."""
    target = tree_of((index, path, skeleton[index].shape) for index, path in steps.items())
    source = tree_of((n, piece.steps, piece.shape) for n, piece in enumerate(pieces))
    targets = [leaf.item for leaf in target.leaves()]
    sources = [leaf.item for leaf in source.leaves()]
    useless = {steps_of_key(entry.key) for entry in state_dict if explained(entry, state_dict)}
    keys = [entry.key for entry in state_dict]
    attention = attentions(steps.values())
    orientation = Orientation(attention)

    def told(pairs: Sequence[Pair]) -> list[tuple[int, Piece, Pair]]:
        return [(targets[pair.target], pieces[sources[pair.source]], pair) for pair in pairs]

    def learn(orientation: Orientation, found: Sequence[tuple[int, Piece, Pair]]) -> None:
        orientation.learn(
            (steps[index], skeleton[index].shape, piece, skeleton[index].owner)
            for index, piece, pair in found
            if pair.margin >= _CERTAIN
        )

    nameless = say_nothing([piece.steps for piece in pieces], list(steps.values()))
    if nameless:
        found = [
            (
                index,
                piece,
                pair
                if len(piece.members) == 1
                else structs.replace(pair, margin=0.0, how=ORDER_ALONE),
            )
            for index, piece, pair in told(in_sequence(target, source, task.check))
        ]
    else:
        order = _orderly(pieces) and not _sorted_by_name(skeleton) and keys != sorted(keys)
        fits = Fits(skeleton, pieces, steps, useless)
        # Nothing is learned from guesses.
        first = Aligner(fits, task, order=order, guesses=False)
        found = told(first.align(target, source))
        if not all(pair.how == SAME_NAME for _, _, pair in found):
            learn(orientation, found)
            task.done = 2 * len(skeleton)
            known, out_last = _learned(first), orientation.common
            by_name = first.by_name
            second = Aligner(
                fits, task, learned=known, order=order, out_last=out_last, by_name=by_name
            )
            found = told(second.align(target, source))
            orientation = Orientation(attention)
    learn(orientation, found)
    task.done = 3 * len(skeleton)
    for tree in (target, source):
        let_go(tree)
    used = {id(piece) for _, piece, _ in found}
    left = (piece.shape for piece in pieces if id(piece) not in used)
    shapes = {p: (skeleton[p].shape, piece.shape) for p, piece, _ in found}
    layers = {p: (skeleton[p], piece) for p, piece, _ in found}
    sides = Pairs({} if nameless else {p: (steps[p], piece.steps) for p, piece, _ in found})
    whole = Pairs({p: sides[p] for p, piece, _ in found if p in sides and is_whole(piece)})
    task.check()
    # The last one is the reason that is given.
    doubts = _Doubts()
    doubts.add(Question.ENTRY, crossed(shapes, left, steps))
    doubts.add(Question.GROUPING, reading_channels(layers, steps) | flattened(layers, steps))
    doubts.add(Question.AXES, turned(layers, (piece.shape for piece in pieces)))
    contradicted, by_number = inconsistent(sides, shapes)
    doubts.add(Question.ENTRY, contradicted)
    torn = torn_apart(sides)
    doubts.add(Question.MODULE, torn)
    of_leaves = {p: skeleton[p].shape for p in whole}
    paths = [steps_of_key(key) for key in keys]
    if nameless:
        bare = Pairs({p: (steps[p], piece.steps) for p, piece, _ in found if is_whole(piece)})
        doubts.add(Question.ENTRY, unlike_parameters(bare))
    held = Counter(piece.shape for piece in pieces)
    doubts.add(Question.ENTRY, unsupported(whole, useless, of_leaves, held))
    doubts.add(Question.ENTRY, exchangeable(whole, of_leaves))
    taken = {p: piece.shape for p, piece, _ in found}
    doubts.add(Question.ENTRY, unlike_siblings(sides, taken, held))
    named = {piece.steps: prod(piece.shape) for piece in pieces if is_whole(piece)}
    doubts.add(Question.ENTRY, falling(whole, of_leaves, named))
    doubts.add(Question.ENTRY, misnumbered(whole, of_leaves, steps.values(), paths))
    sizes = {p: prod(shape) for p, shape in of_leaves.items()}
    doubts.add(Question.ENTRY, namesakes(whole, named, sizes, steps.values()))
    doubts.add(Question.ENTRY, gated_by_number(whole, taken))
    taking = {p: piece for p, piece, _ in found}
    doubts.add(Question.ENTRY, crosswise(taking, steps, paths))
    known = {p: (skeleton[p].owner or "").startswith("equinox.nn.") for p in whole}
    doubts.add(Question.ENTRY, up_by_name(whole, shapes, known))
    doubts.add(Question.ENTRY, alternating(whole, of_leaves) | crossing(whole, of_leaves))
    doubts.add(Question.ENTRY, renamed(whole) | other_roles(whole) | from_two_members(whole))
    doubts.add(Question.ENTRY, unexplained_offsets(whole, of_leaves, named))
    in_order = not _sorted_by_name(skeleton)
    doubts.add(Question.ENTRY, other_order(whole, paths, leaves_in_order=in_order))
    doubts.add(Question.GROUPING, reordered(whole))
    doubts.add(Question.GROUPING, in_pairs(layers, steps, state_dict) | own_cells(layers))
    doubts.add(Question.AXES, tables_and_layers(layers, state_dict))
    doubts.add(Question.AXES, called_otherwise(layers, steps))
    doubts.add(Question.ENTRY, scales_less_one(layers, steps, state_dict))
    doubts.add(Question.GROUPING, stacked_by_name({p: (steps[p], piece) for p, piece, _ in found}))
    task.check()
    kernels, own_names = Kernels(state_dict), _own_names(keys)
    for index, piece, pair in found:
        task.check()
        task.done += 1
        leaf = skeleton[index]
        taken = as_leaf_takes(leaf, _in_named_order(piece, steps[index]), state_dict)
        own_name = own_names.get(leaf.path)
        suggestion = taken and _suggestion(
            leaf, steps[index], taken, pair, orientation, kernels, own_name
        )
        if suggestion is not None:
            is_numbered = index in by_number
            proof, reason = suggestion.proof, suggestion.reason
            is_placed = suggestion.placed
            if (why := doubts.words.get(index)) is not None:
                proof, reason, is_placed = doubts.opened(index, proof), why, False
            suggestions[index] = Suggestion(
                suggestion.source, proof, reason, is_placed, is_numbered
            )
    return torn


def _own_names(keys: Sequence[str]) -> dict[str, str]:
    """The keys by the paths that a plain dict has for them, without what all of them begin with.

    That is no name: wrappers around models put it before every key.
    """
    outer = ""
    while wrapper := _WRAPPER.match(keys[0], len(outer)):
        if not all(key.startswith(wrapper[0], len(outer)) for key in keys):
            break
        outer += wrapper[0]
    return {f"[{name!r}]": key for key in keys for name in (key, key.removeprefix(outer))}


class _Doubts:
    """Questions about pairs that something speaks against the answer of, and what that is."""

    def __init__(self) -> None:
        self.words: dict[int, str] = {}
        self._questions: dict[int, set[Question]] = defaultdict(set)

    def add(self, question: Question, found: Mapping[int, str]) -> None:
        """Open a question about pairs."""
        self.words |= found
        for index in found:
            self._questions[index].add(question)

    def opened(self, index: int, proof: Proof) -> Proof:
        """Return a proof without the answers that are in doubt."""
        for question in sorted(self._questions[index]):
            proof = proof.without(question)
        return proof


def _in_named_order(piece: Piece, steps: Steps) -> Piece:
    """The piece with its members in the order in which the leaf's name has their words.

    `up_gate` holds up before gate.
    """
    if len(piece.members) < 2:
        return piece
    words = [_own_words(member) for member in piece.members]
    for step in reversed(steps):
        # Part by part: as a whole `gate_up_proj` is read as `up_proj` first.
        named = [word for part in step.split("_") for word in name_of(part).words]
        indices = [next((n for n, w in enumerate(named) if w in own), -1) for own in words]
        if min(indices) >= 0 and len(set(indices)) == len(indices):
            order = sorted(range(len(indices)), key=indices.__getitem__)
            return structs.replace(piece, members=tuple(piece.members[n] for n in order))
    return piece


def _own_words(member: Expr) -> set[str]:
    """The meanings of the module's name that a member of several comes from."""
    key = next(iter(keys_of(member)), "")
    steps = steps_of_key(key)[-2:]
    split = next((node for node in nodes_of(member) if isinstance(node, Split)), None)
    if split is not None and (parts := _fused(steps)):
        part = parts[split.start // (split.stop - split.start) % len(parts)]
        return {*name_of(part).words} - FAINT
    return {word for step in steps for word in name_of(step).words} - FAINT


def _fused(steps: Steps) -> Steps:
    """Return the parts of a fused tensor of these steps; empty for others."""
    return next((parts for step in steps if (parts := parts_named(step))), ())


def _are_fused_alike(first: Steps, second: Steps) -> bool:
    return bool(parts := _fused(first)) and parts == _fused(second)


def _suggestion(
    leaf: Leaf,
    steps: Steps,
    piece: Piece,
    pair: Pair,
    orientation: Orientation,
    kernels: Kernels,
    kept: str | None,
) -> Suggestion | None:
    """Return what a leaf takes of a piece, and the answers that prove it.

    Args:
        leaf: The leaf.
        steps: Its steps.
        piece: What it takes.
        pair: What spoke for it.
        orientation: How others are laid out.
        kernels: The kernels of the checkpoint.
        kept: The key of the entry that a plain dict would keep under the leaf's name.
    """
    if pair.how == SAME_NAME and steps != piece.steps:
        pair = structs.replace(pair, how=_SAME_INSIDE)
    entry = _entry_answer(pair)
    sure = entry is not None
    if not sure and pair.how == NAMES_AGREE:
        pair = structs.replace(pair, how=f"{NAMES_AGREE}, but others nearly as well")
    if is_part(piece.steps) and not is_part(steps) and not _are_fused_alike(steps, piece.steps):
        layouts = piece.layouts(leaf.shape)
        why = "only a part of a weight"
        return Suggestion(layouts[0][0], UNPROVEN, why) if layouts else None
    (member, *more) = piece.members
    rule = rule_for(leaf)
    is_open = rule is not None and bool(other_layouts(leaf, member, piece.shape))
    if not more and rule is not None and not is_open:
        # A gate is laid out already, and being square may fit the other way round as well.
        is_laid_out = piece.composite is not None and piece.composite.kind == "recurrent weight"
        turned = None if is_laid_out else rule_applied(leaf, member, piece.shape)
        final = piece.composite is not None and not isinstance(member, Take)
        by_rule = Proof(entry, Answer.LAYER, Answer.LAYER)
        if isinstance(member, Take):
            if turned is None or _may_be_input_first(piece):
                by_rule = by_rule.without(Question.AXES)
            return Suggestion(member, by_rule, pair.how)
        if turned is not None or (final and piece.shape == leaf.shape):
            return Suggestion(turned or member, by_rule, pair.how)
    own_name = isinstance(member, Take) and not more and member.key == kept
    own_name = own_name and leaf.owner is None
    chosen = orientation.choose(steps, leaf.shape, piece, leaf.owner, own_name=own_name)
    if chosen is None:
        return None
    expr, why = chosen.expr, f"{pair.how}; {chosen.why}" if chosen.why else pair.how
    proof = Proof(entry, chosen.axes, chosen.grouping)
    known_layer = (leaf.owner or "").startswith("equinox.nn.")
    if leaf.owner in _CONVOLUTIONS and any(isinstance(n, Permute | Flip) for n in nodes_of(expr)):
        why = "this layer keeps PyTorch's layout"
        proof = proof.without(Question.AXES)
    elif not known_layer and _may_be_transposed_convolution(expr, leaf.shape):
        why = "nothing names this layer, and a transposed convolution's kernel is flipped too"
        proof = proof.without(Question.AXES)
    elif (
        not known_layer and _is_turned_kernel(expr, piece) and (odd := kernels.doubt(piece, steps))
    ):
        why = odd
        proof = proof.without(Question.AXES)
    elif may_alternate(expr, steps, kernels.entries):
        why = "heads may alternate in it: nothing shows it"
        proof = proof.without(Question.GROUPING)
    elif order_is_open(expr):
        why = "models with this name have either part first"
        proof = proof.without(Question.GROUPING)
    return Suggestion(expr, proof, why, sure)


def _entry_answer(pair: Pair) -> Answer | None:
    """Return what proves that an entry belongs to a leaf; None if others fit nearly as well."""
    if pair.margin < _CERTAIN:
        return None
    if pair.how.startswith(SAME_PLACE):
        return Answer.PLACE
    return _ENTRY_ANSWERS.get(pair.how)


def _may_be_input_first(piece: Piece) -> bool:
    """Return True for a square matrix that is no layer's weight by its name."""
    is_square = len(piece.member) == _MATRIX and len({*piece.member}) == 1
    return is_square and piece.member[0] > 1 and piece.is_bare and not piece.is_input_first


def _may_be_transposed_convolution(expr: Expr, shape: Shape) -> bool:
    """Return True if a kernel's channels change places and its window has many elements."""
    turned = isinstance(expr, Permute) and expr.axes == (1, 0, *range(2, len(shape)))
    return turned and len(shape) > 2 and prod(shape[2:]) > 1


def _is_turned_kernel(expr: Expr, piece: Piece) -> bool:
    """Return True for a kernel whose axes change places, and whose window is not flipped."""
    nodes = [*nodes_of(expr)]
    moves = any(isinstance(node, Permute) for node in nodes)
    return moves and len(piece.member) > _MATRIX and not any(isinstance(n, Flip) for n in nodes)


def _learned(aligner: Aligner) -> Learned:
    votes: dict[tuple[Steps, Steps], float] = defaultdict(float)
    total: dict[Steps, float] = defaultdict(float)
    for target, source, weight in aligner.seen:
        votes[target, source] += weight
        total[target] += weight
    learned: dict[Steps, dict[Steps, float]] = defaultdict(dict)
    for (target, source), count in votes.items():
        learned[target][source] = count / total[target]
    return learned


def _orderly(pieces: Sequence[Piece]) -> bool:
    """Return True if a checkpoint's entries stand in the order its numbered modules do."""
    last: dict[Steps, int] = {}
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


def _with_modules(
    suggestions: Mapping[int, Suggestion],
    skeleton: Skeleton,
    left_over: Iterable[str],
    torn: Collection[int],
) -> dict[int, Suggestion]:
    """Return suggestions whose proofs say where their layers come from, and what is left there.

    Args:
        suggestions: By place; only those that take entries are looked at.
        skeleton: The leaves.
        left_over: The keys of all entries that no leaf takes.
        torn: Places of leaves whose layers go with more than one.
    """
    taken = {
        place: frozenset(map(module_of, keys))
        for place, one in suggestions.items()
        if one.source is not None and (keys := keys_of(one.source))
    }
    layers: dict[int, dict[int, frozenset[str]]] = defaultdict(dict)
    for place, modules in taken.items():
        if (layer := int(skeleton.layers[place])) != ALONE:
            layers[layer][place] = modules
    answers: dict[int, Answer | None] = dict.fromkeys(taken, Answer.ALONE)
    for members in layers.values():
        if len({*members.values()}) == 1:
            answers |= dict.fromkeys(members, Answer.ONE_MODULE)
        else:
            answers |= {place: _leaf_by_leaf(suggestions[place].proof) for place in members}
    answers |= dict.fromkeys(torn)
    left = {module_of(key) for key in left_over}
    found: dict[int, Suggestion] = {}
    # Most of the proofs are a few, and a new one takes ten times as long to make as to find.
    known: dict[tuple[Proof, Answer | None, bool], Proof] = {}
    for place, modules in taken.items():
        one, module, is_left = suggestions[place], answers[place], not left.isdisjoint(modules)
        if (proof := known.get((one.proof, module, is_left))) is None:
            accounted = Answer.ACCOUNTED if is_left else Answer.NOTHING
            proof = one.proof.answered(module=module, left_over=accounted)
            known[one.proof, module, is_left] = proof
        is_open = module is None and proof.open == (Question.MODULE,) and place not in torn
        reason = _SEVERAL if is_open else one.reason
        found[place] = Suggestion(one.source, proof, reason, one.placed, one.numbered)
    return found


def _leaf_by_leaf(proof: Proof) -> Answer | None:
    """Return what proves a leaf whose layer takes from several modules."""
    if proof.entry in _BY_NAME:
        return Answer.LEAF_BY_LEAF
    return Answer.SIZE if proof.entry is Answer.SIZE else None
