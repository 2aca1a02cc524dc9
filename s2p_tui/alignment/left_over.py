"""Entries that no row uses, and the reason why each one may be left out.

As in PyTorch's `load_state_dict(strict=True)` both sides have to be accounted for. An unused entry
is explained (it is a used one again, or of a kind that holds no parameter, recognised by its name
*and* its dtype or shape), or the user accepted it, or it blocks a conversion. Rows that take a part
of an entry of which no row takes the rest are doubted in `verdicts`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from math import prod

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from s2p_tui.alignment.alignment import Alignment
from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.numbering import Numbers
from s2p_tui.alignment.state_dict import Entry, StateDict

NO_LEAF = "no leaf takes it"
_NO_STATISTIC = "a running statistic that the pytree has no leaf for"
_MASK = "a mask, which holds no parameter"
_ACCEPTED = "accepted as unused"
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
_ATTENTION_MASKS = frozenset(("tril", "triu", "attn_mask", "causal_mask", "attention_mask"))
# What `torch.nn.utils.prune` multiplies a parameter by: part of the parameter, not a buffer.
_PRUNED = frozenset(("weight_mask", "bias_mask"))
# GPT-2's causal mask goes by the name `bias`, in modules of these names.
_ATTENTION = frozenset(("attn", "attention", "self_attn", "self_attention"))
# One number each: GPT-2's value for masked scores, fairseq's markers, what thop counts.
_SINGLE = frozenset(("masked_bias", "_float_tensor", "version", "total_ops", "total_params"))
# Swin v2's table of distances, made from the window's size alone.
_GEOMETRY = frozenset(("relative_coords_table",))
_MOMENTS = frozenset(("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"))
_OPTIMISERS = frozenset(
    ("optimizer", "optimizer_state", "optimizer_states", "optim", "lr_scheduler", "lr_schedulers")
)
# An optimiser that is a network itself has parameters below its name, but no state there.
_OF_OPTIMISERS = frozenset(("state", "param_groups", "step"))
_STATISTICS = frozenset(("running_mean", "running_var"))
_MATRIX = 2


class LeftOver(Struct, frozen=True):
    """An entry that no row uses.

    Attributes:
        key: The entry.
        why: The reason it may be left out, or why it blocks.
        blocks: True if nothing explains it and nobody accepted it.
    """

    key: str
    why: str
    blocks: bool


_UNKNOWN, _PARAMETER, _NO_PARAMETER = range(3)
_ALONE = -1


class UnusedEntries:
    """The entries of one checkpoint that an alignment leaves over. Reads no tensor data.

    A bench may hold 100,000 of them, and a key press has 30 ms: what depends on an entry alone is
    found once, and nothing is done as long as the bench stays the same.

    Args:
        state_dict: The entries.
        alignment: The rows and the bench.

    Attributes:
        blocking: Indexes of the benched entries that block a conversion, ascending.
    """

    def __init__(self, state_dict: StateDict, alignment: Alignment) -> None:
        self._state_dict = state_dict
        self._alignment = alignment
        self._kinds = np.zeros(len(state_dict), np.uint8)
        self._storages: Numbers | None = None
        self._same: Numbers = np.empty(0, np.int32)
        self.blocking: NDArray[np.intp] = np.empty(0, np.intp)
        self._judge()

    def changed(self, alignment: Alignment) -> bool:
        """Judge the bench of another alignment; return True if it is another bench."""
        before, self._alignment = self._alignment, alignment
        if alignment.bench is before.bench and alignment.accepted is before.accepted:
            return False
        self._judge()
        return True

    def __len__(self) -> int:
        return len(self._alignment.bench)

    def __iter__(self) -> Iterator[LeftOver]:
        return map(self.at, range(len(self)))

    def at(self, index: int) -> LeftOver:
        """Return the account of the benched entry at an index of the bench."""
        key = self._alignment.bench[index]
        entry = self._state_dict[key]
        if why := explained(entry, self._state_dict):
            return LeftOver(key, why, blocks=False)
        if self._same[index] != _ALONE:
            same = self._state_dict.entries[int(self._same[index])].key
            return LeftOver(key, f"the same tensor as {same}, which is used", blocks=False)
        if key in self._alignment.accepted:
            return LeftOver(key, _ACCEPTED, blocks=False)
        is_statistic = _STEP.split(key)[-1] in _STATISTICS
        return LeftOver(key, _NO_STATISTIC if is_statistic else NO_LEAF, blocks=True)

    def blocking_entries(self) -> list[LeftOver]:
        """Return the entries that block a conversion, in the bench's order."""
        return list(map(self.at, self.blocking.tolist()))

    def _judge(self) -> None:
        bench, accepted = self._alignment.bench, self._alignment.accepted
        numbering = self._state_dict.numbering
        numbers = np.fromiter(map(numbering.entry, bench), np.int32, len(bench))
        unknown: list[int] = numbers[self._kinds[numbers] == _UNKNOWN].tolist()
        for number in unknown:
            is_explained = explained(self._state_dict.entries[number], self._state_dict)
            self._kinds[number] = _NO_PARAMETER if is_explained else _PARAMETER
        self._same = self._used_again(numbers)
        blocks = (self._kinds[numbers] == _PARAMETER) & (self._same == _ALONE)
        if accepted:
            blocks &= ~np.fromiter((key in accepted for key in bench), np.bool_, len(bench))
        self.blocking = np.flatnonzero(blocks)

    def _used_again(self, numbers: Numbers) -> Numbers:
        """Return the first used entry that is the same elements as each benched one."""
        if not len(numbers):
            return np.empty(0, np.int32)
        if self._storages is None:
            self._storages = _storages(self._state_dict)
        is_used = np.ones(len(self._storages), np.bool_)
        is_used[numbers] = False
        used = np.flatnonzero(is_used)[::-1]
        # The last place is that of `_ALONE`; of several entries the last one assigned stays.
        first = np.full(len(self._storages) + 1, _ALONE, np.int32)
        first[self._storages[used]] = used
        first[_ALONE] = _ALONE
        return first[self._storages[numbers]]


def _storages(state_dict: StateDict) -> Numbers:
    """Return a number per entry, equal where entries share elements; `_ALONE` without storage."""
    storages = [entry.storage for entry in state_dict]
    # Most formats tell of none, and a key press waits for the first one benched.
    if storages.count(None) == len(storages):
        return np.full(len(storages), _ALONE, np.int32)
    known: dict[Hashable, int] = {None: _ALONE}
    numbers = [known.setdefault(storage, len(known) - 1) for storage in storages]
    return np.array(numbers, np.int32)


def explained(entry: Entry, state_dict: StateDict) -> str:
    """Return the kind of an entry that holds no parameter, as `no_parameter` does.

    A mask of the shape of a weight may be a part of that weight.
    """
    why = no_parameter(entry)
    if why == _MASK and _STEP.split(entry.key)[-1].lower() not in _ATTENTION_MASKS:
        return "" if entry.shape in state_dict.shapes_of_weights else why
    return why


def no_parameter(entry: Entry) -> str:
    """Return the kind of an entry that holds no parameter; empty if it may hold one."""
    steps = _STEP.split(entry.key.lower())
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
    if _is_mask(steps, entry, whole=whole):
        return _MASK
    if last in _SINGLE and size == 1:
        return "a marker, which holds no parameter"
    if last in _GEOMETRY and len(shape) > _MATRIX:
        return "a table of distances, which holds no parameter"
    if last in _MOMENTS or (_OPTIMISERS & {*steps[:1]} and _OF_OPTIMISERS.intersection(steps)):
        return "state of an optimiser"
    return ""


def _is_mask(steps: Sequence[str], entry: Entry, *, whole: bool) -> bool:
    last, shape = steps[-1], entry.shape
    square = len(shape) >= _MATRIX and shape[-1] == shape[-2]
    if last == "bias" and len(shape) == 2 * _MATRIX and _ATTENTION.intersection(steps[-2:-1]):
        flat = square and prod(shape[:-2]) == 1
        # Its files hold it as numbers too.
        return flat and (entry.dtype in ("bool", "uint8") or shape[-1] > 1)
    if last in _ATTENTION_MASKS:
        return entry.dtype in ("bool", "uint8", "int8") if whole else square
    # One that is not square may leave out channels, heads or weights.
    is_mask = last == "mask" or last.endswith("_mask")
    return is_mask and square and last not in _PRUNED and entry.dtype in ("bool", "uint8", "int8")


class Group(Struct, frozen=True):
    """Entries left over for one reason whose keys differ by their numbers, or by their ends, alone.

    Attributes:
        name: All of them in one, `blocks.{0…11}.ls1.gamma` or `pooler.*`.
        glob: A pattern that names them, `blocks.*.ls1.gamma`.
        members: The entries.
    """

    name: str
    glob: str
    members: tuple[LeftOver, ...]

    @property
    def why(self) -> str:
        """The reason they have in common, and how many they are."""
        count, why = len(self.members), self.members[0].why
        return why if count == 1 else f"{count:,} entries: {why}"


def grouped(entries: Iterable[LeftOver], keys: Iterable[str] | None = None) -> list[Group]:
    """Return entries gathered by what their keys have in common, in the order of their first.

    Args:
        entries: The entries.
        keys: All keys of the checkpoint, so that modules left over as a whole become `pooler.*`.
    """
    entries = list(entries)
    modules = _whole_modules(entries, keys) if keys is not None else {}
    groups: dict[tuple[tuple[str, ...], bool, str], list[LeftOver]] = defaultdict(list)
    for one in entries:
        module = modules.get(one.key)
        between = tuple(_NUMBER.split(module or one.key))
        groups[between, module is not None, one.why].append(one)
    return [_group(members, modules) for members in groups.values()]


def _whole_modules(entries: Sequence[LeftOver], keys: Iterable[str]) -> dict[str, str]:
    """Return the outermost module of each entry of which all entries are left over alike."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    whole: dict[str, int] = defaultdict(int)
    for one in entries:
        for module in _modules(one.key):
            counts[module, one.why] += 1
    for key in keys:
        for module in _modules(key):
            whole[module] += 1
    return {
        one.key: module
        for one in entries
        for module in reversed(_modules(one.key))
        if counts[module, one.why] == whole[module] > 1
    }


def _modules(key: str) -> list[str]:
    """Return what a key begins with up to each of its dots, the outermost first."""
    return [key[:end] for end, letter in enumerate(key) if letter == "." and end]


def _group(members: Sequence[LeftOver], modules: Mapping[str, str]) -> Group:
    names = [modules.get(one.key, one.key) for one in members]
    rest = ".*" if members[0].key in modules else ""
    pieces = _NUMBER.split(names[0])
    columns = list(zip(*map(_NUMBER.findall, names), strict=True))
    name = glob = ""
    for number, piece in enumerate(pieces):
        name, glob = name + piece, glob + _as_glob(piece)
        if number < len(columns):
            values = tuple(dict.fromkeys(columns[number]))
            name += values[0] if len(values) == 1 else _braces(values)
            glob += values[0] if len(values) == 1 else "*"
    return Group(name + rest, glob + rest, tuple(members))


_NUMBERS_SHOWN = 4
# Python refuses to read whole numbers of more than 4,300 digits.
_LONGEST_NUMBER = 18


def _braces(texts: Sequence[str]) -> str:
    if max(map(len, texts)) <= _LONGEST_NUMBER:
        values = sorted(map(int, texts))
        is_run = values == list(range(values[0], values[0] + len(values)))
        if is_run and len(values) > 2 and len({*texts} - {*map(str, values)}) == 0:
            return f"{{{values[0]}…{values[-1]}}}"
    more = ",…" if len(texts) > _NUMBERS_SHOWN else ""
    return f"{{{','.join(texts[:_NUMBERS_SHOWN])}{more}}}"


def _as_glob(text: str) -> str:
    """Return a pattern of a text; a character that cannot be typed may be any."""
    plain = "".join(char if char.isprintable() else "\0" for char in text)
    return re.sub(r"([*?[])", r"[\1]", plain).replace("\0", "?")
