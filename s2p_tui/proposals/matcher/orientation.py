"""The orientation of a weight, where its shape alone does not show it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from math import prod

from msgspec import Struct, structs

from s2p_tui.alignment.proof import Answer
from s2p_tui.alignment.transform import (
    Concat,
    Expr,
    Flip,
    Permute,
    Reshape,
    Shape,
    Split,
    Stack,
    Take,
)
from s2p_tui.proposals.matcher.pieces import Piece, parts_named
from s2p_tui.proposals.matcher.templates import template, words_of
from s2p_tui.proposals.matcher.words import Steps, name_of, remembered

_AS_IT_IS = frozenset(("embed", "pos", "token", "class", "table", "norm", "relative", "register"))
_TABLES = frozenset(("embedding", "table"))
"""Names of tables themselves, and of no other weight."""
_NO_TABLE = frozenset(("kernel", "w"))
"""Names of weights of dense layers and convolutions, not of tables."""
_WEIGHTS = frozenset(("w", "g", "alpha", "scale", "gamma"))
_HEADS = ("query", "key", "value", "attn")
_INWARD = frozenset(("query", "key", "value", "qkv", "kv"))
_APART = ("query", "key", "value")
_KERNELS = frozenset(("kernel", "w"))
_MATRIX = 2
_LINEAR = "equinox.nn.Linear"
_SPLIT = "an axis is split into several, and nothing shows in which order"
_OWN_NAMES = "a dict that keeps entries under their own names keeps PyTorch's layout"
_UNSHOWN = "square, and nothing shows whether it is transposed"
_NO_VOTES = (0, 0)


_ALIKE = {
    "same leaf": "this leaf in other blocks",
    "same module": "others of this module",
    "same modules": "others of such modules",
    "same layers": "others of such layers",
    "same rank": "others of this name and rank",
    "same name": "others of this name",
}


class Layout(Struct, frozen=True):
    """The layout of a piece in a leaf.

    Attributes:
        expr: The piece as the leaf takes it.
        axes: The proof that its axes are in the right order; None if there is none.
        grouping: The proof that it is split, merged or stacked rightly; None if there is none.
        why: What speaks for it, or what is open, in words.
    """

    expr: Expr
    axes: Answer | None
    grouping: Answer | None = Answer.WHOLE
    why: str = ""


def _classes(
    steps: Steps, shape: Shape, piece: Piece, owner: str | None
) -> tuple[tuple[str, *tuple[object, ...]], ...]:
    """Return the classes a leaf shares with ever more leaves of its owner's class, nearest first.

    Weights whose names say that they hold the input axis first are of another kind than others:
    a model may have layers of both; and a user's own parameters are of another kind than the
    weights of PyTorch's layers. A class of layers says nothing of another class.
    """
    pattern, last = template(steps), (steps[-1], piece.is_input_first, piece.is_bare)
    rank = len(shape)
    return (
        ("same leaf", owner, pattern),
        ("same module", owner, steps[:-2], last),
        ("same modules", owner, pattern[:-2], last),
        ("same layers", owner, pattern[:-1][-1:], last, rank),
        ("same rank", owner, last, rank),
        ("same name", owner, last),
    )


def _own(steps: Steps, owner: str | None) -> tuple[object, ...]:
    """The class of what a user keeps in one class of modules, or one dict, under any names."""
    return ("owner", owner, template(steps)[:-1] if owner is None else ())


def attentions(paths: Iterable[Steps]) -> frozenset[Steps]:
    """Return the modules that have queries, keys and values in them, each in a module of its own.

    Args:
        paths: Steps of all leaves.
    """
    found: dict[Steps, set[str]] = defaultdict(set)
    for path in paths:
        if len(path) > 1:
            found[path[:-2]] |= {*words_of(path[-2:-1])}.intersection(_APART)
    return frozenset(module for module, words in found.items() if len(words) == len(_APART))


class Orientation:
    """Learns from weights that go in one way only how the others of their kind go in.

    Args:
        attentions: Modules that have queries, keys and values in them.
    """

    def __init__(self, attentions: Collection[Steps] = ()) -> None:
        self._attentions = attentions
        self._votes: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0, 0])
        self._stacked: set[int] = set()
        self._orders: dict[tuple[object, ...], set[tuple[int, ...]]] = defaultdict(set)

    def learn(self, pairs: Iterable[tuple[Steps, Shape, Piece, str | None]]) -> None:
        """Count the weights whose shapes leave no choice."""
        for steps, shape, piece, owner in pairs:
            # An entry stacks nothing, and most pieces are entries.
            if not _is_entry(piece) and len(axes := _stacking(piece.layouts(shape))) == 1:
                self._stacked |= axes
            if len(piece.member) > _MATRIX:
                orders = _orders(piece.layouts(shape), piece.member)
                if len(orders) == 1:
                    self._orders[owner, steps[-1], len(piece.member)] |= {*orders}
                    self._orders[owner, len(piece.member)] |= {*orders}
            is_table = keeps_rows(steps, owner) and not _is_codebook(steps, piece)
            if sum(size > 1 for size in piece.member) < 2 or is_table:
                continue
            ways = piece.turns(shape)
            if len(ways) == 1:
                (out_last,) = ways
                own = _own(steps, owner), ("any", owner)
                for group in (*_classes(steps, shape, piece, owner), *own):
                    self._votes[group][out_last] += 1

    @property
    def common(self) -> bool | None:
        """The orientation of nearly all weights; None if they differ."""
        votes = [0, 0]
        for group, counts in self._votes.items():
            if group[0] == "same name":
                votes = [votes[0] + counts[0], votes[1] + counts[1]]
        return _verdict(votes)

    def choose(
        self,
        steps: Steps,
        shape: Shape,
        piece: Piece,
        owner: str | None,
        *,
        own_name: bool = False,
    ) -> Layout | None:
        """The layout of a piece for a leaf; None if none has the leaf's shape.

        Args:
            steps: The leaf's steps.
            shape: Its shape.
            piece: What it takes.
            owner: The class of the layer it is of.
            own_name: Whether it is kept in a plain dict under the very key of the entry.
        """
        layouts = piece.layouts(shape)
        if len(piece.members) > 1 and len(_stacking(layouts)) > 1:
            if len(self._stacked) != 1:
                why = "more than one axis has room for as many, stacked"
                return Layout(layouts[0][0], None, None, why)
            layouts = [found for found in layouts if _stacking([found]) == self._stacked]
        if not layouts:
            return None
        known_layer = (owner or "").startswith("equinox.nn.")
        is_attention = steps[:-2] in self._attentions
        if by_heads := _by_heads(layouts, steps, piece, is_attention=is_attention):
            return by_heads
        others_turned = self._votes.get(("any", owner), _NO_VOTES)[True]
        orders = self._known_orders(steps, piece, owner)
        in_order = all(order == tuple(sorted(order)) for order in orders)
        if own_name and shape == piece.member and in_order and not others_turned:
            expr = _first(layouts, out_last=False)
            return Layout(expr, Answer.OWN_NAME, Answer.WHOLE, _OWN_NAMES)
        if (kernel := _kernel_as_it_is(layouts, steps, shape, piece)) is not None:
            why = "the axes of a window stay beside each other"
            return Layout(kernel, Answer.SIZES, Answer.WHOLE, why)
        if len({out_last for _, out_last in layouts}) == 1:
            layouts, order = self._in_order(layouts, steps, piece, owner)
            only = _only(layouts[0][0], layouts, steps, piece, known_layer=known_layer)
            order = order or self._may_be_turned(steps, piece, owner)
            return only if order is None else structs.replace(only, axes=None, why=order)
        grouping = _grouping(layouts)
        is_codebook = not (known_layer or own_name) and _is_codebook(steps, piece)
        if keeps_rows(steps, owner) and not is_codebook:
            expr = _first(layouts, out_last=False)
            return Layout(expr, Answer.TABLE, grouping, "tables keep their rows")
        if known_layer and (shown := _shown(piece)) is not None:
            expr = _first(layouts, out_last=shown)
            return Layout(expr, Answer.PARTS, grouping, "its parts lie along the output axis")
        groups = _classes(steps, shape, piece, owner)
        for group in groups:
            verdict = _verdict(self._votes.get(group, _NO_VOTES))
            if verdict is not None:
                why = f"laid out as {_ALIKE[group[0]]}, whose sizes leave no choice"
                turned = [(expr, last) for expr, last in layouts if last == verdict]
                turned, order = self._in_order(turned, steps, piece, owner)
                axes = Answer.SAME_CLASS if order is None else None
                return Layout(turned[0][0], axes, grouping, order or why)
        if is_codebook:
            why = "a square codebook, whose codes may be its rows or its columns"
            return Layout(_first(layouts, out_last=False), None, grouping, why)
        last = steps[-1]
        turned = self._votes.get(groups[-1], _NO_VOTES)[True]
        own_turned = self._votes.get(_own(steps, owner), _NO_VOTES)[True]
        beside = others_turned if own_name else own_turned
        if beside and not known_layer:
            why = "other weights beside it are transposed, and nothing shows whether this one is"
            return Layout(_first(layouts, out_last=True), None, grouping, why)
        if own_name and not turned:
            return Layout(_first(layouts, out_last=False), Answer.OWN_NAME, grouping, _OWN_NAMES)
        if known_layer:
            first = piece.is_input_first
            if first or piece.may_be_input_first:
                why = "by its name it may hold the input axis first"
                return Layout(_first(layouts, out_last=first), None, grouping, why)
            why = "some weights of this name are transposed, and nothing shows whether this one is"
            why = why if turned else "the layer keeps PyTorch's layout"
            if piece.is_bare and not turned:
                why = "it is no layer's weight by its name, and may hold the input axis first"
            axes = None if turned or piece.is_bare else Answer.KEPT
            return Layout(_first(layouts, out_last=False), axes, grouping, why)
        if name_of(last).words[-1:] != ("weight",):
            same = last in (piece.steps[-1] if piece.steps else "",)
            axes = Answer.OWN_NAME if same else None
            why = "kept as it is under the same name" if same else _UNSHOWN
            return Layout(_first(layouts, out_last=False), axes, grouping, why)
        if last == (piece.steps[-1] if piece.steps else "") and not _is_weight(last):
            why = "kept as it is under its own name"
            return Layout(_first(layouts, out_last=False), Answer.OWN_NAME, grouping, why)
        return Layout(_first(layouts, out_last=last == "kernel"), None, grouping, _UNSHOWN)

    def _may_be_turned(self, steps: Steps, piece: Piece, owner: str | None) -> str | None:
        """Return why a weight of more axes may have equal ones exchanged; None if it has not."""
        *_, first, last = (0, 0, *(size for size in piece.member if size > 1))
        if len(piece.members) > 1 or len(piece.member) <= _MATRIX or first != last:
            return None
        if owner == _LINEAR:
            return "several weights in one may hold the input axis first, and are square"
        turned = (owner or "").startswith("equinox.nn.") or self._votes.get(_own(steps, owner))
        if turned is True or not turned or not turned[True] or piece.member[0] != last:
            return None
        return "other weights beside it are transposed, and nothing shows whether this one is"

    def _in_order(
        self,
        layouts: list[tuple[Expr, bool]],
        steps: Steps,
        piece: Piece,
        owner: str | None,
    ) -> tuple[list[tuple[Expr, bool]], str | None]:
        """The layouts of the one order of axes that others of the class show; else what is open.

        Flax's and Haiku's kernels of images have one order, whatever their sizes.
        """
        orders = _orders(layouts, piece.member) if len(piece.member) > _MATRIX else {}
        if (owner or "").startswith("equinox.nn."):
            return layouts, None
        if len(orders) == 1 and _permutation(_inner(layouts[0][0]), piece.member):
            # Others have the axes of a window in another order.
            return [*orders.values()], None
        if len(orders) < _MATRIX:
            return layouts, None
        as_it_is = tuple(axis for axis, size in enumerate(piece.member) if size > 1)
        known = self._known_orders(steps, piece, owner)
        shown = [orders[order] for order in known if order in orders]
        if len(known) == len(shown) == 1:
            return shown, None
        # Of a kernel the channels may be after the window, of three colours by three by three;
        # of experts as wide inside as outside the input may come before the output. A `weight` of
        # three axes may be PyTorch's bilinear layer's, which has one order.
        last, rank = steps[-1], len(piece.member)
        is_layer = _is_weight(last) and (owner is not None or last not in _KERNELS)
        is_layer = is_layer and (rank > _MATRIX + 1 or last != "weight")
        is_first_alone = as_it_is in orders and piece.member.count(piece.member[0]) == 1
        around = self._orders.get((owner, rank), set()) if owner else ()
        is_open = is_layer or any(order != tuple(sorted(order)) for order in around)
        if not known and is_first_alone and not is_open:
            return [orders[as_it_is]], None
        if owner is None and steps[-1] in _KERNELS and len(piece.member) > _MATRIX + 1:
            return layouts, None
        return layouts, "more than one order of its axes has this shape"

    def _known_orders(self, steps: Steps, piece: Piece, owner: str | None) -> set[tuple[int, ...]]:
        """The orders of axes wider than 1 that others of a leaf's class show."""
        wide = {axis for axis, size in enumerate(piece.member) if size > 1}
        every = self._orders.get((owner, steps[-1], len(piece.member)), set())
        known = {tuple(axis for axis in order if axis in wide) for order in every}
        return {order for order in known if len(order) == len(wide)}


def _orders(
    layouts: Sequence[tuple[Expr, bool]], member: Shape
) -> dict[tuple[int, ...], tuple[Expr, bool]]:
    """The layouts that only permute axes, those of a window in their order, by the permutation.

    It is that of the axes wider than 1.
    """
    found: dict[tuple[int, ...], tuple[Expr, bool]] = {}
    for layout in layouts:
        axes = _permutation(_inner(layout[0]), member)
        window = [axis for axis in axes if axis >= _MATRIX]
        if axes and window == sorted(window):
            found.setdefault(axes, layout)
    return found


def _permutation(made: Expr, member: Shape) -> tuple[int, ...]:
    """The axes of an entry that are wider than 1 as a layout has them; none if it mixes some."""
    wide = [axis for axis, size in enumerate(member) if size > 1]
    node = made.of if isinstance(made, Reshape) and isinstance(made.of, Permute) else made
    inner = node.of if isinstance(node, Permute) else node
    parts = inner.shape if isinstance(inner, Reshape) else member
    if [size for size in parts if size > 1] != [member[axis] for axis in wide]:
        return ()
    order = node.axes if isinstance(node, Permute) else range(len(parts))
    places = iter(wide)
    axis_of = {place: next(places) for place, size in enumerate(parts) if size > 1}
    return tuple(axis_of[place] for place in order if place in axis_of)


def _kernel_as_it_is(
    layouts: Sequence[tuple[Expr, bool]], steps: Steps, shape: Shape, piece: Piece
) -> Expr | None:
    """Return a kernel of which only its own order of axes keeps those of the window together.

    Sizes alone may leave another one: of 3 by 5 by 3 by 3 the first may go into the window.
    """
    is_kernel = len(shape) > _MATRIX + 1 and steps[-1] == piece.steps[-1] == "weight"
    if not is_kernel or shape != piece.member or not _is_entry(piece):
        return None
    kept = tuple(axis for axis, size in enumerate(shape) if size > 1)
    together: list[tuple[int, ...]] = []
    for order in _orders(layouts, shape):
        places = [place for place, axis in enumerate(order) if axis >= _MATRIX]
        if not places or places[-1] - places[0] < len(places):
            together.append(order)
    return piece.members[0] if together == [kept] else None


def _is_weight(name: str) -> bool:
    """Return True for a name that weights of any layer may have."""
    return name.lower() in _WEIGHTS or "weight" in name.lower() or "kernel" in name.lower()


def _grouping(layouts: Sequence[tuple[Expr, bool]]) -> Answer:
    """The proof for a weight of which only the order of its two axes is open."""
    is_whole = not any(isinstance(expr, Stack | Concat) for expr, _ in layouts)
    return Answer.WHOLE if is_whole else Answer.ONE_WAY


def _shown(piece: Piece) -> bool | None:
    """Return True if a fused matrix's part has its output axis last; None if not shown."""
    part = piece.members[0]
    if len(piece.members) > 1 or len(piece.member) != _MATRIX or piece.otherwise is not None:
        return None
    return part.axis == 1 if isinstance(part, Split) and isinstance(part.of, Take) else None


def _by_heads(
    layouts: Sequence[tuple[Expr, bool]], steps: Steps, piece: Piece, *, is_attention: bool
) -> Layout | None:
    """The layout that splits heads out of the axis they are on, where another one does not.

    Queries, keys and values have them on the output axis, what attention gives out takes them in.
    """
    if len(layouts) == 1:
        return None
    split = [(expr, _axis_split(expr, piece.member)) for expr, _ in layouts]
    if all(axis is None for _, axis in split):
        return None
    axis = _axis_of_heads(steps, piece.steps, is_attention=is_attention)
    found = [expr for expr, other in split if other == axis]
    if axis is None or len(found) != 1:
        return None
    if _factors(found[0], piece.member) > _MATRIX:
        return Layout(found[0], Answer.HEADS, None, _SPLIT)
    why = f"heads are on the {('output', 'input')[axis]} axis"
    return Layout(found[0], Answer.HEADS, Answer.ONE_WAY, why)


def _axis_of_heads(*names: Steps, is_attention: bool) -> int | None:
    words = [set(words_of(steps)) for steps in names]
    inward = any(_INWARD & found for found in words)
    outward = any({"attn", "out"} <= found for found in words)
    outward |= is_attention and "out" in words_of(names[0][-2:-1])
    return None if inward == outward else 0 if inward else 1


def _axis_split(expr: Expr, member: Shape) -> int | None:
    """Return the axis of a matrix that a layout splits; None if neither, or it does not show."""
    inner: Expr | None = expr.of[0] if isinstance(expr, Stack) else expr
    if isinstance(inner, Permute):
        inner = inner.of
    if not isinstance(inner, Reshape) or len(member) != _MATRIX or len(inner.shape) <= _MATRIX:
        return None
    first, *middle, last = inner.shape
    ways = (first * prod(middle), last) == member, (first, prod(middle) * last) == member
    return ways.index(True) if sum(ways) == 1 else None


def _only(
    expr: Expr,
    layouts: Sequence[tuple[Expr, bool]],
    steps: Steps,
    piece: Piece,
    *,
    known_layer: bool,
) -> Layout:
    """The layout of a weight whose output axis can go to one place alone.

    It is settled if the order of all other axes is too: sizes may leave several orders of the same
    axes, of which the layouts hold the most natural ones only.
    """
    grouping = _grouping(layouts)
    if not known_layer and (flipped := _transposed_convolution(expr, piece)) is not None:
        if steps[-1] == "kernel":
            why = "its axes show a transposed convolution, whose window is flipped"
            return Layout(flipped, Answer.FLIPPED, grouping, why)
        why = "a transposed convolution's window may have to be flipped too"
        return Layout(flipped, None, grouping, why)
    if _merges(expr, piece.member):
        why = "axes run together, and nothing shows in which order"
        return Layout(expr, Answer.SIZES, None, why)
    factors = _factors(expr, piece.member)
    if factors > _MATRIX or (factors == _MATRIX and not _is_split_by_name(expr, steps, piece)):
        return Layout(expr, Answer.SIZES, None, _SPLIT)
    axes = Answer.SIZES if sum(size > 1 for size in piece.member) > 1 else Answer.ONE_AXIS
    return Layout(expr, axes, grouping if _one_order(layouts, piece) else None)


def _is_split_by_name(expr: Expr, steps: Steps, piece: Piece) -> bool:
    """Return True if names show which of the two factors of an axis comes first.

    Heads are on the outside, as the parts of fused weights are; rows of tables are in order.
    """
    if _is_table(steps[-2:]) or _is_table(piece.steps[-2:]):
        return True
    if {*_HEADS} & {word for path in (steps, piece.steps) for word in words_of(path)}:
        return True
    made = _inner(expr)
    made = made.of if isinstance(made, Permute) else made
    parts = {len(found) for path in (steps, piece.steps) for s in path if (found := parts_named(s))}
    return isinstance(made, Reshape) and len(made.shape) > 1 and made.shape[0] in parts


def _transposed_convolution(expr: Expr, piece: Piece) -> Expr | None:
    """A kernel whose axes show that PyTorch's (in, out, *window) becomes (*window, in, out)."""
    rank = len(piece.member)
    channels = (*range(2, rank), 0, 1)
    if not isinstance(expr, Permute) or expr.axes != channels or rank <= _MATRIX:
        return None
    first, second, *window = piece.member
    if min(first, second) == 1 or prod(window) == 1:
        return None
    return Permute(Flip(expr.of, tuple(range(2, rank))), expr.axes)


def _stacking(layouts: Iterable[tuple[Expr, bool]]) -> set[int]:
    """The axes on which the layouts stack several members."""
    return {expr.axis for expr, _ in layouts if isinstance(expr, Stack)}


def _is_entry(piece: Piece) -> bool:
    return len(piece.members) == 1 and isinstance(piece.members[0], Take)


def _inner(expr: Expr) -> Expr:
    return expr.of[0] if isinstance(expr, Stack | Concat) else expr


def _merges(expr: Expr, member: Shape) -> bool:
    """Return True if several axes of a kernel, none of them the output's, become one."""
    made = _inner(expr)
    wide = [size for size in member if size > 1]
    if len(member) <= _MATRIX or not isinstance(made, Reshape):
        return False
    return sum(size > 1 for size in made.shape) < len(wide)


def _factors(expr: Expr, member: Shape) -> int:
    """Into how many wide factors the layout splits an axis at the most."""
    made = _inner(expr)
    made = made.of if isinstance(made, Permute) else made
    if not isinstance(made, Reshape) or len(made.shape) <= len(member):
        return 1
    most, sizes = 1, iter(size for size in made.shape if size > 1)
    for axis in member:
        left, count = axis, 0
        while left > 1 and (size := next(sizes, 0)):
            left, count = left // size, count + 1
        most = max(most, count)
    return most


def _one_order(layouts: Sequence[tuple[Expr, bool]], piece: Piece) -> bool:
    return len(layouts) == 1 or len(piece.member) > 2 or len(layouts) <= 2


def _first(layouts: Sequence[tuple[Expr, bool]], *, out_last: bool) -> Expr:
    return next(expr for expr, last in layouts if last == out_last)


def _verdict(votes: Sequence[int]) -> bool | None:
    """Return the layout that all votes are for; None if there is none, or they differ."""
    return votes[1] > 0 if sum(votes) and not min(votes) else None


def keeps_rows(steps: Steps, owner: str | None) -> bool:
    """Return True if a weight's axes stay in their order, as those of tables and norms do.

    Its owner's class says so; of a class of a user's own a name may say nothing. Of leaves in
    dictionaries and the like only names are known.
    """
    if (owner or "").startswith("equinox.nn."):
        kind = (owner or "").rpartition(".")[2]
        return kind == "Embedding" or kind.endswith("Norm")
    if owner is not None:
        return steps[-1] in _TABLES
    return _is_table(template(steps[-2:]))


def _is_codebook(steps: Steps, piece: Piece) -> bool:
    """Return True if the name of either side is that of a vector quantiser's table."""
    paths = steps, piece.steps
    near = {word for path in paths for word in words_of(path[-2:])}
    words = {word for path in paths for word in words_of(path)}
    return "quantizer" in words and not near.isdisjoint(("quantizer", "embed", "table"))


@remembered
def _is_table(steps: Steps) -> bool:
    if steps[-1] in _NO_TABLE:
        return "norm" in words_of(steps[-2:-1])
    words = words_of(steps[-2:])
    head = words_of(steps[-1:])
    return bool(_AS_IT_IS & set(head)) or (
        "norm" in words
        or (
            bool(_AS_IT_IS & set(words))
            and "proj" not in words
            and "conv" not in words
            and "patch" not in words
        )
    )
