"""The transforms by which entries can fill one leaf: the list to choose from.

Best first: what it makes with the other parts of its layer, the entry as the leaf's layer needs it,
the layout changes between the two shapes, the same with kernels flipped or the elements of an axis
in another order, parts of a larger entry; of several entries, stacked, joined or added.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, permutations
from math import prod

from msgspec import Struct

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.composites import composed, composites_of
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import judge, landing, same_but_ones
from s2p_tui.alignment.layer_rules import rule_applied
from s2p_tui.alignment.layouts import Way, ways
from s2p_tui.alignment.rearrangements import offset, rearranged
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Shape,
    SpectralNorm,
    Split,
    Stack,
    Sum,
    Take,
    describe,
    keys_of,
    show,
)

MOST = 300
"""Choices listed at most."""
_MOST_PARTS = 128
_KERNEL_FROM = 3
_MATRIX = 2
_FUSED = (2, 3)
"""Parts that fused layers have: gates and their other halves; queries, keys and values."""
_SMALLEST_IMAGE = 4
# Nobody fuses layers with fewer outputs, and each part adds a dozen choices.
_SMALLEST_PART = 4
_MOST_HEADS = 128
# What rearranges heads is offered where a name speaks of attention, and one more or less where it
# speaks of a norm: elsewhere a list of a hundred would hide the few that are meant.
_OF_ATTENTION = frozenset(
    (
        *("attn", "attention", "mha", "heads", "qkv", "wqkv", "q", "k", "v", "wq", "wk", "wv"),
        *("query", "key", "value", "queries", "keys", "values"),
    )
)
_OF_NORMS = ("norm", "ln", "bn", "gn", "scale", "gamma")


class Choice(Struct, frozen=True):
    """One way to fill a leaf.

    Attributes:
        expr: The row's source.
        words: What is done, for people.
        verdict: How good such a row is.
    """

    expr: Expr
    words: str
    verdict: Verdict

    @property
    def doubtful(self) -> bool:
        """True if the row would have to be trusted."""
        return self.verdict.fit is Fit.DOUBTFUL


def choices(leaf: Leaf, keys: Sequence[str], state_dict: StateDict) -> tuple[Choice, ...]:
    """All sources over the entries of these keys that give the leaf's shape, best first.

    Reads no tensor data. What could never be converted, as for its dtype, is left out.
    """
    return tuple(islice(_choices(leaf, keys, state_dict), MOST))


def best_choice(leaf: Leaf, key: str, state_dict: StateDict) -> Choice | None:
    """The first of `choices` over one entry; None if nothing makes it fit."""
    return next(_choices(leaf, (key,), state_dict), None)


def _choices(leaf: Leaf, keys: Sequence[str], state_dict: StateDict) -> Iterator[Choice]:
    if not keys:
        return
    offered = chain(
        _of_parts(leaf, keys, state_dict),
        _of_one(leaf, keys[0], state_dict) if len(keys) == 1 else _of_many(leaf, keys, state_dict),
    )
    found: set[Expr] = set()
    for expr, part in offered:
        verdict = judge(leaf, Row(expr, by="user"), state_dict)
        if verdict.fit is Fit.MISMATCHED:
            continue
        done = landing(expr, leaf, state_dict)
        if done not in found:
            found.add(done)
            words = _in_words(expr, done, state_dict)
            yield Choice(expr, f"{part}{words}", verdict)


def _in_words(expr: Expr, done: Expr, state_dict: StateDict) -> str:
    match expr:
        case Reshape(Take(key), shape) if state_dict.shape(key) == shape:
            return "as it is, whatever its layer needs"
        case _:
            return describe(done) or "as it is"


def why_none(leaf: Leaf, keys: Sequence[str], state_dict: StateDict) -> str:
    """Return why `choices` is empty, in a sentence."""
    if not keys:
        return "No entry feeds this leaf."
    shapes = [state_dict.shape(key) for key in keys]
    if len(keys) == 1:
        if prod(shapes[0]) == prod(leaf.shape):
            why = judge(leaf, Row(Take(keys[0])), state_dict).why
            return f"{why[:1].upper()}{why[1:]}."
        return f"No layout change turns {show(shapes[0])} into {show(leaf.shape)}."
    different = ", ".join(dict.fromkeys(map(show, shapes[:4])))
    total = sum(map(prod, shapes))
    return (
        f"{len(keys)} entries ({different}: {total:,} elements) neither stack nor join nor add up "
        f"to {show(leaf.shape)} ({prod(leaf.shape):,})."
    )


def laid_out(leaf: Leaf, expr: Expr, shape: Shape, way: Way) -> Expr:
    """The expression of that shape, laid out for the leaf.

    A row that only needs another shape is left as it is: how doubtful that is, is for the
    judgement to say. Where the layer has a rule, a whole entry would stand for what the rule makes
    of it, so that leaving it alone has to be written out.
    """
    if way.moves:
        return way.of(expr, shape)
    stands_for_more = isinstance(expr, Take) and rule_applied(leaf, expr, shape) is not None
    return Reshape(expr, leaf.shape) if stands_for_more else expr


def alike(lists: Sequence[tuple[Way, ...]]) -> Iterator[tuple[Way, ...]]:
    """One way from each list that reorders axes as the others do, the first list's best first."""
    for first in lists[0]:
        chosen = [next((w for w in one if _alike(first, w)), None) for one in lists]
        complete = tuple(way for way in chosen if way is not None)
        if len(complete) == len(lists):
            yield complete


def _alike(first: Way, second: Way) -> bool:
    if not first.moves:
        return not second.moves
    return first.axes == second.axes and len(first.parts) == len(second.parts)


_Offer = tuple[Expr, str]


def _of_parts(leaf: Leaf, keys: Sequence[str], state_dict: StateDict) -> Iterator[_Offer]:
    """Return the transforms of an entry with its companions, given or not."""
    for composite in composites_of(keys, state_dict):
        others = [part for part in composite.parts if part not in keys]
        made = composed(leaf, composite, state_dict)
        if made is None or (others and len(keys) > 1) or len(keys_of(made.expr)) == 1:
            continue
        words = f"with {' and '.join(others)}: " if others else ""
        ruled = rule_applied(leaf, made.expr, made.shape)
        if ruled is not None:
            yield ruled, f"as its layer needs it, {words}" if words else "as its layer needs it: "
        exprs = [made.expr]
        if isinstance(made.expr, SpectralNorm) and made.shape[:1] == made.shape[1:2]:
            exprs.append(SpectralNorm(made.expr.of, 1 - made.expr.axis))
        for way in ways(made.shape, leaf.shape):
            yield from ((way.of(expr, made.shape), words) for expr in exprs)


def _of_one(leaf: Leaf, key: str, state_dict: StateDict) -> Iterator[_Offer]:
    whole, shape = Take(key), state_dict.shape(key)
    if prod(shape) == prod(leaf.shape):
        if rule_applied(leaf, whole, shape) is not None:
            yield whole, "as its layer needs it: "
        elif same_but_ones(shape, leaf.shape):
            yield whole, ""
        found = ways(shape, leaf.shape)
        yield from ((laid_out(leaf, whole, shape, way), "") for way in found)
        if axes := _kernel(shape):
            yield from ((way.of(Flip(whole, axes), shape), "") for way in found)
        for expr, words in _regrouped(whole, shape, state_dict):
            yield from ((way.of(expr, shape), words) for way in found)
        yield whole, ""
        named = _words_of(leaf, key)
        if named & _OF_ATTENTION:
            for expr, words in rearranged(whole, shape):
                yield from ((way.of(expr, shape), words) for way in found)
        if "Norm" in (leaf.owner or "") or any(word.endswith(_OF_NORMS) for word in named):
            yield from ((expr, "") for expr in offset(whole, shape))
    else:
        yield from _parts(leaf, whole, shape)
        yield from _of_heads(leaf, whole, shape)
        yield from _resized(leaf, whole, shape)


def _words_of(leaf: Leaf, key: str) -> set[str]:
    return set(re.split(r"[^a-z]+", f"{leaf.path} {key}".lower()))


def _regrouped(whole: Expr, shape: Shape, state_dict: StateDict) -> Iterator[_Offer]:
    """An entry with the elements of one axis in another order, of which its shape says nothing.

    A flattened image has its channels first, or last; parts of a fused layer follow each other in
    one order or another, whole or element by element.
    """
    channels = {size for entry in state_dict if len(entry.shape) > 2 for size in entry.shape[:2]}
    for axis, size in enumerate(shape[:_MATRIX]):
        for count in sorted(channels):
            if count > 1 and size % count == 0 and size >= _SMALLEST_IMAGE * count:
                made = _split_and_turned(whole, shape, axis, count)
                yield made, f"axis {axis} from {count} channels first to last: "
    size = shape[0] if shape else 0
    for count in _FUSED if len(shape) <= _MATRIX else ():
        if size % count or size < _SMALLEST_PART * count:
            continue
        parts = [
            Split(whole, 0, number * size // count, (number + 1) * size // count)
            for number in range(count)
        ]
        for order in permutations(range(count)):
            if order != tuple(range(count)):
                names = ", ".join(str(number + 1) for number in order)
                yield (
                    Concat(tuple(parts[n] for n in order), 0),
                    f"its {count} parts in the order {names}: ",
                )
        yield _split_and_turned(whole, shape, 0, count), f"its {count} parts interleaved: "
        made = _split_and_turned(whole, shape, 0, size // count)
        yield made, f"its {count} interleaved parts one after the other: "
        for heads in _divisors(size // count):
            split = (heads, count, size // count // heads, *shape[1:])
            made = Permute(Reshape(whole, split), (1, 0, *range(2, len(split))))
            yield (
                Reshape(made, shape),
                f"its {count} parts one after the other instead of head by head ({heads} heads): ",
            )


def _resized(leaf: Leaf, whole: Expr, shape: Shape) -> Iterator[_Offer]:
    """A table with its last rows left out, or with rows of zeros behind, as of a vocabulary."""
    if len(shape) != _MATRIX or len(leaf.shape) != _MATRIX or shape[1] != leaf.shape[1]:
        return
    here, wanted = shape[0], leaf.shape[0]
    if wanted < here:
        yield Split(whole, 0, 0, wanted), f"the last {here - wanted} rows left out: "
    else:
        zeros = Constant(0.0, (wanted - here, shape[1]))
        yield Concat((whole, zeros), 0), f"{wanted - here} rows of zeros behind: "


def _divisors(size: int) -> Iterator[int]:
    """Numbers of heads of which as many elements may be."""
    return (heads for heads in range(2, min(size, _MOST_HEADS + 1)) if size % heads == 0)


def _of_heads(leaf: Leaf, whole: Expr, shape: Shape) -> Iterator[_Offer]:
    """One of several parts that a fused entry holds head by head, not one after the other."""
    size = shape[0] if shape else 0
    count = prod(shape) // max(1, prod(leaf.shape))
    if count not in _FUSED or size % count or prod(shape[_MATRIX:]) > 1:
        return
    part = (size // count, *shape[1:])
    for heads in (*_divisors(size // count), size // count):
        split = Reshape(whole, (heads, count, size // count // heads, *shape[1:]))
        words = f" of {count} in each of {heads} heads: "
        for way in ways(part, leaf.shape):
            for number in range(count):
                made = Reshape(Split(split, 1, number, number + 1), part)
                yield way.of(made, part), f"part {number + 1}{words}"


def _split_and_turned(whole: Expr, shape: Shape, axis: int, count: int) -> Expr:
    """The entry with an axis of `count` times as many elements, the inner ones outside."""
    split = (*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])
    order = list(range(len(split)))
    order[axis], order[axis + 1] = axis + 1, axis
    return Reshape(Permute(Reshape(whole, split), tuple(order)), shape)


def _kernel(shape: Shape) -> tuple[int, ...]:
    """PyTorch's spatial axes, if there are elements to flip along them."""
    spatial = range(2, len(shape)) if len(shape) >= _KERNEL_FROM else ()
    return tuple(spatial) if any(shape[axis] > 1 for axis in spatial) else ()


def _parts(leaf: Leaf, whole: Expr, shape: Shape) -> Iterator[_Offer]:
    """One of n equal parts; all parts in one layout before the next layout."""
    if not prod(leaf.shape) or prod(shape) % prod(leaf.shape):
        return
    count = prod(shape) // prod(leaf.shape)
    if not 1 < count <= _MOST_PARTS:
        return
    axes = [axis for axis, size in enumerate(shape) if size % count == 0]
    layouts: list[tuple[int, Way | None]] = []
    for axis in axes:
        part = _with(shape, axis, shape[axis] // count)
        if rule_applied(leaf, whole, part) is not None:
            layouts.append((axis, None))
        layouts += [(axis, way) for way in ways(part, leaf.shape)]
    layouts.sort(key=lambda layout: layout[1] is not None and layout[1].moves)
    for axis, way in layouts:
        size = shape[axis] // count
        part = _with(shape, axis, size)
        for number in range(count):
            split = Split(whole, axis, number * size, (number + 1) * size)
            expr = (
                rule_applied(leaf, split, part) if way is None else laid_out(leaf, split, part, way)
            )
            if expr is not None:
                yield expr, f"part {number + 1} of {count}: "


def _of_many(leaf: Leaf, keys: Sequence[str], state_dict: StateDict) -> Iterator[_Offer]:
    takes = [Take(key) for key in keys]
    shapes = [state_dict.shape(key) for key in keys]
    for axis, size in enumerate(leaf.shape):
        if size == len(keys):
            inner = (*leaf.shape[:axis], *leaf.shape[axis + 1 :])
            one = Leaf(leaf.path, inner, leaf.dtype, leaf.kind, leaf.owner, leaf.config)
            for of in _each(one, takes, shapes, [inner] * len(keys)):
                yield Stack(of, axis), ""
    for axis in range(len(leaf.shape)):
        sizes = _lengths(leaf.shape, axis, shapes)
        if sizes is not None and set(sizes) != {1}:
            targets = [_with(leaf.shape, axis, size) for size in sizes]
            for of in _each(leaf, takes, shapes, targets):
                yield Concat(of, axis), ""
    if all(shape == shapes[0] for shape in shapes) and prod(shapes[0]) == prod(leaf.shape):
        added = Sum(tuple(takes))
        yield from (
            (laid_out(leaf, added, shapes[0], way), "") for way in ways(shapes[0], leaf.shape)
        )


def _each(
    leaf: Leaf, takes: Sequence[Take], shapes: Sequence[Shape], targets: Sequence[Shape]
) -> Iterator[tuple[Expr, ...]]:
    """Every entry laid out for its target, all in the same manner."""
    if targets[0] == leaf.shape:
        ruled = [rule_applied(leaf, take, shape) for take, shape in zip(takes, shapes, strict=True)]
        of = tuple(expr for expr in ruled if expr is not None)
        if len(of) == len(takes):
            yield of
    lists = [ways(shape, target) for shape, target in zip(shapes, targets, strict=True)]
    for chosen in alike(lists):
        yield tuple(
            way.of(take, shape) for way, take, shape in zip(chosen, takes, shapes, strict=True)
        )


def _lengths(whole: Shape, axis: int, shapes: Iterable[Shape]) -> list[int] | None:
    """Return each entry's reach along an axis of what they make up; None if they do not."""
    across = prod(_with(whole, axis, 1))
    if not across or any(prod(shape) % across for shape in shapes):
        return None
    sizes = [prod(shape) // across for shape in shapes]
    return sizes if sum(sizes) == whole[axis] else None


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])
