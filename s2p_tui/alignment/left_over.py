"""Entries, and parts of entries, that no row uses, and the reason why each one may be left out.

As in PyTorch's `load_state_dict(strict=True)` both sides have to be accounted for. An unused entry
is explained (it is another used one again, or of a kind that holds no parameter, told by its name
*and* its dtype or shape), or the user accepted it, or it blocks a conversion.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from s2p_tui.alignment.alignment import Alignment, Rows
from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Expr, Split, Take, operands

NO_LEAF = "no leaf takes it"
_STEP = re.compile(r"[./]")
_NUMBER = re.compile(r"\d+")
_COUNTERS = frozenset(
    (
        *("num_batches_tracked", "num_updates", "n_averaged", "counter", "count"),
        *("step", "steps", "num_steps", "global_step", "initialized", "initted"),
    )
)
_POSITIONS = frozenset(
    (
        *("position_ids", "pos_ids", "token_type_ids", "cache_position", "positions"),
        *("relative_position_index", "rel_pos_index", "relative_position_bucket", "rp_bucket"),
    )
)
_FREQUENCIES = frozenset(("inv_freq", "original_inv_freq", "inv_freqs"))
_ROTARY = frozenset(
    (
        *("cos_cached", "sin_cached", "cos_cache", "sin_cache", "cos_sin_cache"),
        *("freqs_cis", "freqs_cos", "freqs_sin"),
    )
)
_MASKS = frozenset(("mask", "tril", "triu", "attn_mask", "causal_mask", "attention_mask"))
_PRUNED = frozenset(("weight_mask", "bias_mask"))
"""What `torch.nn.utils.prune` multiplies a parameter by: part of the parameter, not a buffer."""
_SINGLE = frozenset(("masked_bias", "_float_tensor", "version", "total_ops", "total_params"))
"""One number each: GPT-2's value for masked scores, fairseq's markers, what thop counts."""
_GEOMETRY = frozenset(("relative_coords_table",))
"""Swin v2's table of distances, made from the window's size alone."""
_MOMENTS = frozenset(("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"))
_OPTIMISERS = frozenset(
    ("optimizer", "optimizer_state", "optimizer_states", "optim", "lr_scheduler", "lr_schedulers")
)
_STATISTICS = frozenset(("running_mean", "running_var"))
_MATRIX = 2


@dataclass(frozen=True, slots=True)
class LeftOver:
    """An entry that no row uses, or of which rows use parts alone.

    Attributes:
        key: The entry.
        why: The reason it may be left out, or what is left over.
        blocks: Nothing explains it and nobody accepted it.
        is_part: Rows use another part of it.
    """

    key: str
    why: str
    blocks: bool
    is_part: bool = False


def left_over(
    state_dict: StateDict, alignment: Alignment, known: dict[str, LeftOver] | None = None
) -> list[LeftOver]:
    """Everything that rows leave over, in the bench's order, parts last. Reads no tensor data.

    Args:
        state_dict: The entries.
        alignment: The rows and the bench.
        known: Remembers accounts that depend on their entry alone, for the next alignment of the
            same entries: a bench may hold 100,000 of them, and a key press has 30 ms.
    """
    known = {} if known is None else known
    found: list[LeftOver] = []
    for key in alignment.bench:
        one = known.get(key)
        if one is None or (one.blocks and key in alignment.accepted):
            one = benched(key, state_dict, alignment)
            if key not in alignment.accepted and not state_dict.tied(state_dict[key]):
                known[key] = one
        found.append(one)
    for key, words in parts_unused(alignment.rows, state_dict).items():
        accepted = key in alignment.accepted
        found.append(LeftOver(key, f"{words} is used by no row", not accepted, is_part=True))
    return found


def blocking(state_dict: StateDict, alignment: Alignment) -> list[LeftOver]:
    """Those of `left_over` that stand in the way of a conversion."""
    return [one for one in left_over(state_dict, alignment) if one.blocks]


def benched(key: str, state_dict: StateDict, alignment: Alignment) -> LeftOver:
    """The account of one entry that no row uses."""
    entry = state_dict[key]
    if why := no_parameter(entry):
        return LeftOver(key, why, blocks=False)
    for other in state_dict.tied(entry):
        if alignment.uses.count(other):
            return LeftOver(key, f"the same tensor as {other}, which is used", blocks=False)
    if key in alignment.accepted:
        return LeftOver(key, "accepted as unused", blocks=False)
    last = _STEP.split(key)[-1]
    is_statistic = last in _STATISTICS
    why = "a running statistic that the pytree has no leaf for" if is_statistic else NO_LEAF
    return LeftOver(key, why, blocks=True)


def no_parameter(entry: Entry) -> str:
    """The kind of an entry that holds no parameter; empty if it may hold one."""
    steps = [step.lower() for step in _STEP.split(entry.key)]
    last, shape = steps[-1], entry.shape
    size, dtype = prod(shape), dtype_named(entry.dtype)
    whole = not dtype.is_floating and dtype.kind not in ("complex", "packed")
    if not size:
        return "it holds no numbers"
    if last in _COUNTERS and size == 1 and whole:
        return "a counter"
    if last in _POSITIONS and whole:
        return "positions, which hold no parameter"
    if (last in _FREQUENCIES and len(shape) == 1) or (last in _ROTARY and len(shape) >= _MATRIX):
        return "a table of rotary frequencies, which holds no parameter"
    if _is_mask(last, steps, entry, whole=whole):
        return "a mask, which holds no parameter"
    if last in _SINGLE and size == 1:
        return "a marker, which holds no parameter"
    if last in _GEOMETRY and len(shape) > _MATRIX:
        return "a table of distances, which holds no parameter"
    if last in _MOMENTS or _OPTIMISERS.intersection(steps[:1]):
        return "state of an optimiser"
    return ""


def _is_mask(last: str, steps: Sequence[str], entry: Entry, *, whole: bool) -> bool:
    shape = entry.shape
    square = len(shape) >= _MATRIX and shape[-1] == shape[-2]
    flat = square and prod(shape[:-2]) == 1
    if last == "bias" and len(shape) == 2 * _MATRIX and flat and steps[-2:-1] == ["attn"]:
        # GPT-2's causal mask goes by the name of a bias; its files hold it as numbers too.
        return entry.dtype in ("bool", "uint8") or shape[-1] > 1
    if last in _PRUNED or not (last in _MASKS or last.endswith("_mask")):
        return False
    if whole:
        return entry.dtype in ("bool", "uint8", "int8")
    return square and last != "mask" and last in _MASKS


_Ranges = list[tuple[int, int, int]]


def parts_unused(rows: Rows, state_dict: StateDict) -> dict[str, str]:
    """Entries of which rows take parts alone and not all of them: what is left, in words, by key.

    Parts along several axes of one entry are not added up. Reads no tensor data.
    """
    ranges: dict[str, _Ranges] = defaultdict(list)
    whole: set[str] = set()
    for source in rows.made(range(len(rows))):
        _collect(source, ranges, whole)
    if ranges:
        whole.update(held for held in rows.held if isinstance(held, str))
    found: dict[str, str] = {}
    for key, taken in ranges.items():
        axes = {axis for axis, _, _ in taken}
        if key in whole or len(axes) > 1:
            continue
        (axis,) = axes
        if left := _left(taken, state_dict.shape(key)[axis]):
            words = " and ".join(f"{start}:{stop}" for start, stop in left)
            found[key] = f"{words} of axis {axis}"
    return found


def _collect(expr: Expr, ranges: dict[str, _Ranges], whole: set[str]) -> None:
    match expr:
        case Take(key):
            whole.add(key)
        case Split(Take(key), axis, start, stop):
            ranges[key].append((axis, start, stop))
        case _:
            for operand in operands(expr):
                _collect(operand, ranges, whole)


def _left(taken: _Ranges, size: int) -> list[tuple[int, int]]:
    """The ranges of an axis that are not taken."""
    left: list[tuple[int, int]] = []
    position = 0
    for _, start, stop in sorted(taken, key=lambda part: part[1]):
        if start > position:
            left.append((position, start))
        position = max(position, stop)
    if position < size:
        left.append((position, size))
    return left


@dataclass(frozen=True, slots=True)
class Group:
    """Entries whose keys differ by their numbers alone.

    Attributes:
        name: All of them in one, `blocks.{0…11}.ls1.gamma`.
        glob: A pattern that accepts them, `blocks.*.ls1.gamma`.
        members: The entries.
    """

    name: str
    glob: str
    members: tuple[LeftOver, ...]

    @property
    def why(self) -> str:
        """What is left over of them, in words."""
        count = len(self.members)
        first = self.members[0].why
        if self.members[0].is_part:
            return f"{first}" if count == 1 else f"of each of {count}, {first}"
        return first if count == 1 else f"{count} entries: {first}"


def grouped(entries: Iterable[LeftOver]) -> list[Group]:
    """Entries gathered by what their keys have in common, in the order of their first."""
    groups: dict[tuple[str, str], list[LeftOver]] = defaultdict(list)
    for one in entries:
        groups[_NUMBER.sub("#", one.key), one.why].append(one)
    return [_group(members) for members in groups.values()]


def _group(members: Sequence[LeftOver]) -> Group:
    pieces = _NUMBER.split(members[0].key)
    columns = list(zip(*(_NUMBER.findall(one.key) for one in members), strict=True))
    name = glob = ""
    for number, piece in enumerate(pieces):
        name, glob = name + piece, glob + _escaped(piece)
        if number < len(columns):
            values = sorted({int(value) for value in columns[number]})
            same = len(values) == 1
            name += columns[number][0] if same else _braces(values)
            glob += columns[number][0] if same else "*"
    return Group(name, glob, tuple(members))


def _braces(values: Sequence[int]) -> str:
    runs = len(values) == values[-1] - values[0] + 1
    if runs and len(values) > _MATRIX:
        return f"{{{values[0]}…{values[-1]}}}"
    shown = ",".join(map(str, values[:4]))
    return f"{{{shown}{',…' if len(values) > 4 else ''}}}"


def _escaped(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def matching(globs: Iterable[str], entries: Iterable[LeftOver]) -> Iterator[str]:
    """Keys of the entries that one of the patterns, or of the keys, names."""
    patterns = tuple(globs)
    for one in entries:
        if any(one.key == glob or fnmatchcase(one.key, glob) for glob in patterns):
            yield one.key
