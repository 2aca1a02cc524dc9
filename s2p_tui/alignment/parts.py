"""Parts of tensors: the numbers known of a tensor, box by box, and the tensor put together of them.

To undo a row is to ask each step of its source, outermost first, for the parts of its operands that
a part of its result is made of (`undone`), until the entries are reached. An entry is then joined
from the parts that all leaves know of it (`joined`). A value is an expression over the leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from math import prod

from s2p_tui.alignment.transform import (
    Broadcast,
    Concat,
    Constant,
    EntryShape,
    Expr,
    Flip,
    Norm,
    Permute,
    Reshape,
    Scale,
    Shape,
    Split,
    Sum,
    Take,
    keys_of,
    nodes_of,
    show,
)
from s2p_tui.errors import TransformError

Box = tuple[tuple[int, int], ...]
"""`(start, stop)` per axis."""
_MOST = 4096
"""Parts of one tensor. Real ones have up to a few hundred (one per head and projection); each is a
node of an expression that every region of the output asks."""


@dataclass(frozen=True, slots=True)
class Part:
    """The numbers in a box of a tensor.

    Attributes:
        shape: The tensor's shape.
        value: The numbers, in the shape of the box.
        factors: Each axis as the product of the axes that the box is one of; its own size alone as
            long as no reshape cut it.
        box: The box, over all factors in a row.
        chosen: The choice that was made where others give the same result, in words; else empty.
    """

    shape: Shape
    value: Expr
    factors: tuple[Shape, ...]
    box: Box
    chosen: str = ""

    @classmethod
    def whole(cls, shape: Shape, value: Expr) -> Part:
        """All of a tensor."""
        return cls(shape, value, tuple((size,) for size in shape), _all_of(shape))

    @property
    def sizes(self) -> Shape:
        """Shape of the box."""
        return _sizes(self.box)

    @property
    def is_whole(self) -> bool:
        """True if the box is all of the tensor."""
        return prod(self.sizes) == prod(self.shape)

    def shared_out(self, of: Sequence[Expr], entry_shape: EntryShape) -> list[tuple[Expr, Part]]:
        """Return the summands of which this is the sum: one has all of it, the others are 0."""
        whole = min(of, key=_as_summand)
        others = [operand for operand in of if operand is not whole]
        rest = self
        for operand in others:
            if any(isinstance(node, Constant) and node.value for node in nodes_of(operand)):
                rest = rest.plus(Scale(_emptied(operand, entry_shape), -1.0))
        chosen = f"0, as {' and '.join(keys_of(whole))} has the whole sum"
        zeros = replace(self, value=Constant(0.0, self.sizes), chosen=chosen)
        return [(whole, rest), *((operand, zeros) for operand in others)]

    def norms(self, shape: Shape, chosen: str) -> Part:
        """Return the magnitudes of a weight norm, of that shape, if this is all of the weight.

        Raises:
            TransformError: It is a part of it.
        """
        if not self.is_whole:
            raise TransformError("A part of a weight with a weight norm has no norms of its own.")
        weight = _as(self.value, self.sizes, self.shape)
        along = range(len(self.shape))
        if prod(shape) != 1:
            along = [axis for axis, size in enumerate(shape) if size == 1]
        kept = tuple(1 if axis in along else size for axis, size in enumerate(self.shape))
        value = _as(Norm(weight, tuple(along)), kept, shape)
        return replace(Part.whole(shape, value), chosen=chosen)

    def plus(self, tensor: Expr) -> Part:
        """Return the same box with the numbers added that a tensor of the same shape has there."""
        flat = tuple(chain.from_iterable(self.factors))
        return replace(
            self, value=Sum((self.value, _taken(_as(tensor, self.shape, flat), self.box)))
        )

    def scaled(self, factor: float) -> Part:
        """Return the same box with all numbers multiplied."""
        return replace(self, value=Scale(self.value, factor))

    def permuted(self, axes: Sequence[int]) -> Part:
        """Return the part of the tensor with its axes reordered, as `numpy.transpose` does."""
        spans = _spans(self.factors)
        order = tuple(chain.from_iterable(spans[axis] for axis in axes))
        value = self.value
        if order != tuple(range(len(order))):
            value = Permute(value, order)
        return replace(
            self,
            shape=tuple(self.shape[axis] for axis in axes),
            value=value,
            factors=tuple(self.factors[axis] for axis in axes),
            box=tuple(self.box[axis] for axis in order),
        )

    def flipped(self, axes: Iterable[int]) -> Part:
        """Return the part of the tensor with axes reversed."""
        spans, sizes = _spans(self.factors), tuple(chain.from_iterable(self.factors))
        inner = tuple(place for axis in axes for place in spans[axis])
        box = tuple(
            (sizes[place] - stop, sizes[place] - start) if place in inner else (start, stop)
            for place, (start, stop) in enumerate(self.box)
        )
        return replace(self, value=Flip(self.value, inner) if inner else self.value, box=box)

    def within(self, axis: int, start: int, size: int) -> list[Part]:
        """Return the parts of a tensor of which this one is what lies at `start` along an axis."""
        return self._moved(axis, start, (0, self.shape[axis]), size)

    def cut(self, axis: int, start: int, stop: int) -> list[Part]:
        """Return the parts of what lies at `start:stop` along an axis, none if it has none."""
        return self._moved(axis, -start, (start, stop), stop - start)

    def _moved(self, axis: int, by: int, keep: tuple[int, int], size: int) -> list[Part]:
        """Return the parts within a range of an axis, moved along it, the axis of another size."""
        _, *rest = self.factors[axis]
        step = prod(rest)
        if any(number % step for number in (by, *keep, size)):
            merged = _merged(self, axis)
            return list(chain.from_iterable(part._moved(axis, by, keep, size) for part in merged))
        place = _spans(self.factors)[axis].start
        start, stop = self.box[place]
        low, high = max(start, keep[0] // step), min(stop, keep[1] // step)
        if low >= high:
            return []
        part = _narrowed(self, place, low, high)
        factors, box, shape = list(self.factors), list(part.box), list(self.shape)
        factors[axis], shape[axis] = (size // step, *rest), size
        box[place] = (low + by // step, high + by // step)
        return [replace(part, shape=tuple(shape), factors=tuple(factors), box=tuple(box))]

    def without(self, axis: int) -> Part:
        """Return the part of a tensor that lacks an axis of size 1."""
        shape = (*self.shape[:axis], *self.shape[axis + 1 :])
        span = _spans(self.factors)[axis]
        box = (*self.box[: span.start], *self.box[span.stop :])
        factors = (*self.factors[:axis], *self.factors[axis + 1 :])
        return replace(
            self,
            shape=shape,
            factors=factors,
            box=box,
            value=_as(self.value, self.sizes, _sizes(box)),
        )

    def reshaped(self, shape: Shape) -> list[Part]:
        """Return the parts of the same elements under another shape.

        Raises:
            TransformError: The box is none there, nor a few.
        """
        if self.is_whole:
            value = _as(self.value, self.sizes, shape)
            return [replace(Part.whole(shape, value), chosen=self.chosen)]
        flat = tuple(chain.from_iterable(self.factors))
        kept = [place for place, size in enumerate(flat) if size != 1]
        box = tuple(self.box[place] for place in kept)
        sizes = tuple(flat[place] for place in kept)
        bare = replace(
            self,
            shape=sizes,
            factors=tuple((size,) for size in sizes),
            box=box,
            value=_as(self.value, self.sizes, _sizes(box)),
        )
        return [part for one in _cut_at(bare, shape) for part in (_grouped(one, shape),)]


def _emptied(expr: Expr, entry_shape: EntryShape) -> Expr:
    """Return what an expression makes of entries that are all 0."""
    if isinstance(expr, Take):
        return Constant(0.0, entry_shape(expr.key))
    return expr.with_operands(tuple(_emptied(operand, entry_shape) for operand in expr.operands))


_HIDDEN_BIAS = "bias_hh"


def _as_summand(expr: Expr) -> tuple[bool, bool]:
    """Return the order in which operands of a sum are chosen to have the whole of it.

    One that can be anything comes first: not what is filled up with a constant, or repeated. Then
    PyTorch's names decide: of the two biases of a recurrent layer it is that of the input.
    """
    is_free = not any(isinstance(node, Constant | Broadcast) for node in nodes_of(expr))
    return not is_free, any(_HIDDEN_BIAS in key for key in keys_of(expr))


def _all_of(shape: Shape) -> Box:
    return tuple((0, size) for size in shape)


def _sizes(box: Box) -> Shape:
    return tuple(stop - start for start, stop in box)


def _as(value: Expr, sizes: Shape, shape: Shape) -> Expr:
    """Return an expression of one shape under another."""
    if sizes == shape:
        return value
    if isinstance(value, Constant):
        return Constant(value.value, shape)
    return Reshape(value, shape)


def _spans(factors: Sequence[Shape]) -> list[range]:
    ends = list(accumulate(map(len, factors), initial=0))
    return [range(start, stop) for start, stop in pairwise(ends)]


def _narrowed(part: Part, place: int, low: int, high: int) -> Part:
    """Return what of a part lies at `low:high` of one factor."""
    start, stop = part.box[place]
    if (low, high) == (start, stop):
        return part
    value = part.value
    box = (*part.box[:place], (low, high), *part.box[place + 1 :])
    if isinstance(value, Constant):
        return replace(part, value=Constant(value.value, _sizes(box)), box=box)
    return replace(part, value=Split(value, place, low - start, high - start), box=box)


def _merged(part: Part, axis: int) -> list[Part]:
    """Return a part as parts of which one axis is not cut into factors."""
    first, *rest = part.factors[axis]
    if not rest:
        return [part]
    span = _spans(part.factors)[axis]
    start, stop = part.box[span.start]
    inner = part.box[span.start + 1 : span.stop]
    if stop - start > 1 and inner != _all_of(tuple(rest)):
        if stop - start > _MOST:
            raise _too_many(part.shape)
        rows = (_narrowed(part, span.start, row, row + 1) for row in range(start, stop))
        return [one for row in rows for one in _merged(row, axis)]
    # The first two factors become one; then the rest.
    size, second = rest[0], part.box[span.start + 1]
    low, high = (
        (start * size, stop * size)
        if stop - start != 1
        else (
            start * size + second[0],
            start * size + second[1],
        )
    )
    box = (*part.box[: span.start], (low, high), *part.box[span.start + 2 :])
    factors = (*part.factors[:axis], (first * size, *rest[1:]), *part.factors[axis + 1 :])
    value = _as(part.value, part.sizes, _sizes(box))
    return _merged(replace(part, factors=factors, box=box, value=value), axis)


def _too_many(shape: Shape) -> TransformError:
    return TransformError(
        f"A tensor of shape {show(shape)} was cut into more than {_MOST:,} parts, which are not "
        "put together again."
    )


def _suffixes(sizes: Sequence[int]) -> list[int]:
    """Return the number of elements behind each axis: `(4, 3, 2)` gives `[6, 2, 1]`."""
    return [prod(sizes[axis + 1 :]) for axis in range(len(sizes))]


def _cut_at(part: Part, shape: Shape) -> list[Part]:
    """Return a part, of a shape of which each axis is one factor, as parts cut where `shape` is."""
    flat = part.shape
    done = [part]
    for step in sorted({*_suffixes(shape)} - {*_suffixes(flat)}, reverse=True):
        if step == prod(shape):
            continue
        done = [one for each in done for one in _cut_once(each, step)]
        if len(done) > _MOST:
            raise _too_many(shape)
    return done


def _cut_once(part: Part, step: int) -> list[Part]:
    """Return a part cut so that an axis ends before `step` elements.

    Where neither number of elements divides the other, the axes between are taken as one if the
    box has all of them.
    """
    suffixes = _suffixes(part.shape)
    if step in suffixes:
        return [part]
    place = next(axis for axis, behind in enumerate(suffixes) if behind < step)
    behind = suffixes[place]
    inner = step // behind
    if step % behind or part.shape[place] % inner:
        return _cut_across(part, step)
    start, stop = part.box[place]
    outer = part.shape[place] // inner
    shape = (*part.shape[:place], outer, inner, *part.shape[place + 1 :])

    def box_of(one: Part, rows: tuple[int, int], columns: tuple[int, int]) -> Part:
        box = (*one.box[:place], rows, columns, *one.box[place + 1 :])
        value = _as(one.value, one.sizes, _sizes(box))
        return replace(
            one, shape=shape, factors=tuple((size,) for size in shape), box=box, value=value
        )

    first, last = start // inner, (stop - 1) // inner
    if first == last:
        return [box_of(part, (first, first + 1), (start - first * inner, stop - first * inner))]
    found: list[Part] = []
    low, high = -(-start // inner), stop // inner
    if start < low * inner:
        head = _narrowed(part, place, start, low * inner)
        found.append(box_of(head, (first, first + 1), (start - first * inner, inner)))
    if low < high:
        body = _narrowed(part, place, low * inner, high * inner)
        found.append(box_of(body, (low, high), (0, inner)))
    if high * inner < stop:
        tail = _narrowed(part, place, high * inner, stop)
        found.append(box_of(tail, (high, high + 1), (0, stop - high * inner)))
    return found


def _cut_across(part: Part, step: int) -> list[Part]:
    suffixes = [prod(part.shape), *_suffixes(part.shape)]
    # The shortest run of axes that begins and ends at multiples of the step.
    start = max(n for n, behind in enumerate(suffixes) if behind % step == 0)
    stop = min(n for n, behind in enumerate(suffixes) if step % behind == 0)
    run = part.shape[start:stop]
    if part.box[start:stop] != _all_of(run):
        raise TransformError(
            f"A part of a tensor of shape {show(part.shape)} does not lie in a box of the shape "
            "that it was reshaped from."
        )
    size = prod(run)
    shape = (*part.shape[:start], size, *part.shape[stop:])
    box = (*part.box[:start], (0, size), *part.box[stop:])
    value = _as(part.value, part.sizes, _sizes(box))
    merged = replace(part, shape=shape, factors=tuple((n,) for n in shape), box=box, value=value)
    return _cut_once(merged, step)


def _grouped(part: Part, shape: Shape) -> Part:
    """Return a part that is cut where `shape` is as one of that shape."""
    factors: list[Shape] = []
    box: list[tuple[int, int]] = []
    place = 0
    for size in shape:
        group: list[int] = []
        while prod(group) < size:
            group.append(part.shape[place])
            box.append(part.box[place])
            place += 1
        if not group:
            group.append(1)
            box.append((0, 1))
        factors.append(tuple(group))
    value = _as(part.value, part.sizes, _sizes(tuple(box)))
    return replace(part, shape=shape, factors=tuple(factors), box=tuple(box), value=value)


def undone(expr: Expr, part: Part, entry_shape: EntryShape) -> Iterator[tuple[str, Part]]:
    """The parts of entries that a part of an expression's result is made of, by key.

    Nothing is known of the elements that the expression leaves out or merely measures.

    Raises:
        TransformError: Parts cannot be put back where they were taken from; or a step does not
            apply to the shape it meets.
    """
    if not prod(part.sizes):
        return
    if isinstance(expr, Take):
        yield expr.key, part
        return
    for operand, inner in expr.undo(part, entry_shape):
        yield from undone(operand, inner, entry_shape)


@dataclass(frozen=True, slots=True)
class Joined:
    """A tensor made of parts.

    Attributes:
        value: It; None if elements are missing.
        chosen: The choices that were made, in words.
        has_gaps: Whether elements are in no part.
    """

    value: Expr | None
    chosen: tuple[str, ...] = ()
    has_gaps: bool = False


def joined(shape: Shape, parts: Iterable[Part], rest: Expr | None) -> Joined:
    """The whole of a tensor from its parts; of parts that overlap the first counts.

    Args:
        shape: The tensor's shape.
        parts: The parts. Those that were chosen give way to others.
        rest: The tensor from which elements come that no part has; None if there is none.
    """
    if not prod(shape):
        return Joined(Constant(0.0, shape))
    known = sorted(parts, key=lambda part: part.chosen != "")
    if known and known[0].is_whole:
        first = known[0]
        chosen = (first.chosen,) if first.chosen else ()
        return Joined(_as(first.value, first.sizes, shape), chosen)
    view, boxes = _in_one_view(shape, known)
    joining = _Joining(boxes, None if rest is None else _as(rest, shape, view))
    made = joining.at(_all_of(view))
    value = None if made is None else _as(made, view, shape)
    return Joined(value, tuple(dict.fromkeys(joining.chosen)), joining.has_gaps)


def _in_one_view(shape: Shape, parts: Sequence[Part]) -> tuple[Shape, list[Part]]:
    """Return a view in which all parts are boxes, and the parts there."""
    if all(len(factors) == 1 for part in parts for factors in part.factors):
        return shape, list(parts)
    steps: set[int] = set()
    for part in parts:
        steps.update(_suffixes(tuple(chain.from_iterable(part.factors))))
    chain_of = [*sorted(steps | {1, prod(shape)}, reverse=True)]
    if any(larger % smaller for larger, smaller in pairwise(chain_of)):
        merged = [one for part in parts for one in _all_merged(part)]
        if len(merged) > _MOST:
            raise _too_many(shape)
        return shape, merged
    view = tuple(a // b for a, b in pairwise(chain_of))
    return view, [one for part in parts for one in part.reshaped(view)]


def _all_merged(part: Part) -> list[Part]:
    done = [part]
    for axis in range(len(part.shape)):
        done = [one for each in done for one in _merged(each, axis)]
    return done


class _Joining:
    """Puts boxes of one view together.

    Attributes:
        chosen: The choices of the parts that were used.
        has_gaps: Whether there were elements that no part has.
    """

    def __init__(self, parts: Sequence[Part], rest: Expr | None) -> None:
        self.chosen: list[str] = []
        self.has_gaps = False
        self._parts = parts
        self._rest = rest

    def at(self, box: Box) -> Expr | None:
        """The elements of a box; None if some are missing."""
        return self._of(box, self._parts)

    def _of(self, box: Box, parts: Sequence[Part]) -> Expr | None:
        there = [part for part in parts if _overlap(part.box, box)]
        if not there:
            self.has_gaps = True
            return None if self._rest is None else _taken(self._rest, box)
        # Parts behind the first that has all of it do not count.
        if _holds(there[0].box, box):
            part = there[0]
            if part.chosen:
                self.chosen.append(part.chosen)
            inner = part
            for place, (low, high) in enumerate(box):
                inner = _narrowed(inner, place, low, high)
            return inner.value
        axis, points = self._cuts(box, there)
        ends = [box[axis][0], *points, box[axis][1]]
        slabs = [self._of((*box[:axis], slab, *box[axis + 1 :]), there) for slab in pairwise(ends)]
        known = [slab for slab in slabs if slab is not None]
        return Concat(tuple(known), axis) if len(known) == len(slabs) else None

    def _cuts(self, box: Box, parts: Sequence[Part]) -> tuple[int, list[int]]:
        """Return the axis along which to cut a box, and where: through no part if possible."""
        found: list[tuple[bool, int, list[int]]] = []
        for axis, (start, stop) in enumerate(box):
            ends = sorted({end for part in parts for end in part.box[axis] if start < end < stop})
            if ends:
                through = any(
                    low < end < high for low, high in (p.box[axis] for p in parts) for end in ends
                )
                found.append((through, axis, ends))
        _, axis, points = min(found)
        return axis, points


def _overlap(one: Box, other: Box) -> bool:
    return all(max(a, c) < min(b, d) for (a, b), (c, d) in zip(one, other, strict=True))


def _holds(whole: Box, box: Box) -> bool:
    return all(a <= c and d <= b for (a, b), (c, d) in zip(whole, box, strict=True))


def _taken(expr: Expr, box: Box) -> Expr:
    for axis, (start, stop) in enumerate(box):
        expr = Split(expr, axis, start, stop)
    return expr
