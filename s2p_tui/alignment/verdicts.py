"""The fits of all rows at once, one byte each.

A fit depends on the kinds of leaf and source, on the decision and on the evidence. `weigh` is asked
once for each pair of kinds, and for rows of which their kinds do not say enough; everything else
is looked up by arrays.

`Company` adds the doubts that other rows give rise to, whoever chose a row: the leaves of one layer
come from one module of the checkpoint, and an entry that a row slices is used up by slices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from s2p_tui.alignment.alignment import Row, Rows
from s2p_tui.alignment.composites import composite_of
from s2p_tui.alignment.evidence import Columns, Evidence, weigh
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import is_mask_of_bytes, judge
from s2p_tui.alignment.layer_rules import RULED, rule_for
from s2p_tui.alignment.layers import ALONE, module_of
from s2p_tui.alignment.layouts import is_input_first
from s2p_tui.alignment.numbering import FACTS, GAP, NOTHING, Flags, Numbers, SourceTable, are_in
from s2p_tui.alignment.sharing import covered_keys
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Expr, Split, Take, keys_of, nodes_of

Modules = tuple[str, ...]
_NO_MODULE = -1


def modules_of(source: Expr) -> Modules:
    """Return the modules that a source reads, each once."""
    return tuple(dict.fromkeys(module_of(key) for key in keys_of(source)))


class Company:
    """Doubts about the rows of one pair that come from other rows.

    Args:
        state_dict: The entries.
        skeleton: The leaves.
    """

    def __init__(self, state_dict: StateDict, skeleton: Skeleton) -> None:
        self._state_dict, self._skeleton = state_dict, skeleton
        layers = skeleton.layers
        together = np.flatnonzero(layers != ALONE)
        self._members = together[np.argsort(layers[together], kind="stable")]
        self._sorted = layers[self._members]
        self._is_ascending = bool((self._members[1:] > self._members[:-1]).all())
        self._layer_of = layers
        # Names of modules are not kept: those of 100,000 take more memory than all arrays.
        known: dict[str, int] = {}
        modules = [known.setdefault(module_of(entry.key), len(known)) for entry in state_dict]
        self._modules = SourceTable(modules, _NO_MODULE)
        self._module_count = len(known)
        self._several: dict[tuple[int, ...], int] = {}
        self._slices = np.empty(0, np.bool_)
        self._mixed = np.zeros(len(skeleton), np.bool_)
        self._seen: tuple[bytes, Numbers] = (b"", np.empty(0, np.int32))

    def _module(self, source: Expr) -> int:
        """Return the number of the module that a source reads, or of the several that it reads."""
        entries = np.fromiter(map(self._state_dict.index, keys_of(source)), np.int32)
        modules = tuple(dict.fromkeys(self._modules.of(entries).tolist()))
        if len(modules) > 1:
            return self._several.setdefault(modules, self._module_count + len(self._several))
        return modules[0] if modules else _NO_MODULE

    def _learn(self) -> None:
        new = self._state_dict.numbering.expressions[len(self._slices) :]
        if new:
            self._modules.add([self._module(source) for source in new])
            self._slices = np.append(self._slices, [_has_slice(source) for source in new])

    def doubted(self, rows: Rows, span: range) -> tuple[Flags, Flags]:
        """Return which rows have siblings from other modules, and which leave a part unused.

        Args:
            rows: All rows.
            span: Those that may have changed since this was last asked.
        """
        self._learn()
        found = self._members_of(span)
        if found.start < found.stop:
            members: Any = self._members[found]
            if self._is_ascending and members[-1] - members[0] == len(members) - 1:
                # All rows of a range: a slice takes a tenth of the time.
                members = slice(int(members[0]), int(members[-1]) + 1)
            self._mixed = self._mixed.copy()
            self._mixed[members] = self._are_mixed(rows.sources[members], self._sorted[found])
        return self._mixed, self._left_over(rows.sources)

    def _members_of(self, span: range) -> slice:
        """Return a part of `_members` that holds the layers of a range's rows whole."""
        layers = self._layer_of[span.start : span.stop]
        low, high = (int(layers.min()), int(layers.max())) if len(layers) else (ALONE, ALONE)
        return slice(*np.searchsorted(self._sorted, [low, high + 1]).tolist())

    def _are_mixed(self, sources: Numbers, layers: Numbers) -> Flags:
        all_layers, modules = layers, self._modules.of(sources)
        known = modules != _NO_MODULE
        if not known.all():
            modules, layers = modules[known], layers[known]
        # Where neighbours within a layer have one module each, all of the layer have.
        differ = (modules[1:] != modules[:-1]) & (layers[1:] == layers[:-1])
        return are_in(all_layers, layers[1:][differ]) & known

    def _left_over(self, sources: Numbers) -> Flags:
        """Return the rows that take a slice of an entry of which no row takes the rest."""
        made = sources < GAP
        if not self._slices.any() or not made.any():
            return np.zeros(len(sources), np.bool_)
        present = np.zeros(len(self._slices), np.bool_)
        present[-3 - sources[made]] = True
        sliced = np.flatnonzero(present & self._slices)
        numbering = self._state_dict.numbering
        entries = numbering.read_by((-3 - sliced).astype(np.int32))
        whole = entries[are_in(entries, sources[sources >= 0])]
        sharing = (-3 - numbering.reading(entries)).astype(np.int32)
        sharing = sharing[sharing >= 0]
        sharing = sharing[present[sharing]]
        key = sharing.tobytes() + b"|" + whole.tobytes()
        if self._seen[0] != key:
            self._seen = key, self._wasteful(sharing, whole)
        return are_in(sources, (-3 - self._seen[1]).astype(np.int32))

    def _wasteful(self, sharing: Numbers, whole: Numbers) -> Numbers:
        """Return the expressions that take slices of entries that are not used up."""
        numbering = self._state_dict.numbering
        chosen: dict[int, Expr] = {n: numbering.expressions[n] for n in sharing.tolist()}
        covered = covered_keys(chosen.values(), self._state_dict)
        covered |= {key for number in whole.tolist() for key in numbering.keys_of(number)}
        found = [
            n for n in chosen if self._slices[n] and not covered.issuperset(keys_of(chosen[n]))
        ]
        return np.array(found, np.int32)

    def why(self, index: int, rows: Rows, *, is_named: bool) -> str:
        """Return why other rows speak against a row; empty if none does.

        Args:
            index: The row.
            rows: All rows.
            is_named: True if names say that it takes what it should.
        """
        source = rows[index].source
        if source is None:
            return ""
        mixed = "" if is_named else self._other_module(index, source, rows)
        return "; ".join(filter(None, (mixed, self._unused_part(source, rows))))

    def _other_module(self, index: int, source: Expr, rows: Rows) -> str:
        mine, layer = modules_of(source), self._layer_of[index]
        if not mine or layer == ALONE:
            return ""
        for other in self.siblings(index):
            theirs = rows[other].source
            if theirs is not None and (modules := modules_of(theirs)) and modules != mine:
                name = self._skeleton[other].path
                return f"{name} of the same layer takes {keys_of(theirs)[0]} of another module"
        return ""

    def siblings(self, index: int) -> list[int]:
        """Return the other leaves of a leaf's layer."""
        layer = self._layer_of[index]
        if layer == ALONE:
            return []
        start, stop = np.searchsorted(self._sorted, [layer, layer + 1])
        return [other for other in self._members[start:stop].tolist() if other != index]

    def _unused_part(self, source: Expr, rows: Rows) -> str:
        if not _has_slice(source):
            return ""
        numbering = rows.numbering
        sharing = rows.taking(map(numbering.entry, keys_of(source)))
        sources = [row for index in sharing if (row := rows[index].source) is not None]
        covered = covered_keys(sources, self._state_dict)
        left = [key for key in keys_of(source) if key not in covered]
        return f"no row takes the rest of {left[0]}" if left else ""


def _has_slice(source: Expr) -> bool:
    return any(isinstance(node, Split) for node in nodes_of(source))


_MOST_KEPT = 2048
"""Verdicts in words that are kept: more than any screen shows."""
_EXACT, _TRANSFORMED, _GAP, _TRUSTED, _DOUBTFUL, _MISMATCHED = range(1, 7)
_CODES = {
    Fit.EXACT: _EXACT,
    Fit.TRANSFORMED: _TRANSFORMED,
    Fit.GAP: _GAP,
    Fit.DOUBTFUL: _DOUBTFUL,
    Fit.MISMATCHED: _MISMATCHED,
}
_FITS = (
    None, Fit.EXACT, Fit.TRANSFORMED, Fit.GAP, Fit.DOUBTFUL, Fit.DOUBTFUL, Fit.MISMATCHED,
)  # fmt: skip
_BYTES = tuple(bytes((code,)) for code in range(len(_FITS)))
_BLOCKING = (_DOUBTFUL, _MISMATCHED)
# By code: of 100,000 rows `np.isin` takes 1.6 ms.
_BLOCKS = np.isin(np.arange(len(_FITS)), _BLOCKING)
_SIGNS = tuple(Verdict(fit or Fit.GAP, blocks=code in _BLOCKING) for code, fit in enumerate(_FITS))

# A table of 4 MB; pairs of as many kinds as leaves and entries are sorted, which takes 6 ms more.
_LARGEST_TABLE = 2**22
_Codes = NDArray[np.uint8]
_Kind = NDArray[np.int32]
_NO_ENTRY, _MANY_ENTRIES = -1, -2
_NO_SOURCE, _PART = 0, 1
"""Kinds of a source: none at all, and what reads parts of a composite, each of which is its own."""


def _code(verdict: Verdict) -> int:
    code = _CODES[verdict.fit]
    return _TRUSTED if code == _DOUBTFUL and not verdict.blocks else code


class _Kinds:
    """Leaves and sources as numbers that are equal where `judge` cannot tell them apart.

    Attributes:
        leaves: The kind of each leaf.
        leaf_count: How many kinds of leaf there are.
        has_value: See `Leaf`.
    """

    def __init__(self, state_dict: StateDict, skeleton: Skeleton) -> None:
        self._state_dict = state_dict
        known: dict[Hashable, int] = {}
        kinds = [known.setdefault(_leaf_kind(leaf), len(known)) for leaf in skeleton]
        self.leaves = np.array(kinds, np.int32)
        self.leaf_count = len(known)
        self.has_value = np.array([leaf.has_value for leaf in skeleton], np.bool_)
        self._known: dict[Hashable, int] = {"nothing": _NO_SOURCE, "part": _PART}
        self._parts = set(state_dict.encoded)
        entries: list[int] = []
        for entry in state_dict:
            if entry.key in self._parts or composite_of(entry.key, state_dict):
                self._parts.add(entry.key)
                entries.append(_PART)
            else:
                entries.append(self._known.setdefault(_entry_kind(entry), len(self._known)))
        self._sources = SourceTable(entries, _NO_SOURCE)
        self._entries = SourceTable(range(len(entries)), _NO_ENTRY)

    @property
    def count(self) -> int:
        """Number of kinds of source."""
        return len(self._known)

    def learn(self) -> None:
        """Find the kinds of expressions that were numbered since."""
        new = self._state_dict.numbering.expressions[self._sources.expressions :]
        if not new:
            return
        kinds: list[int] = []
        entries: list[int] = []
        for source in new:
            keys = keys_of(source)
            shapes = tuple(_entry_kind(self._state_dict[key]) for key in keys)
            kind = _template(source, keys), shapes
            is_part = not self._parts.isdisjoint(keys)
            kinds.append(_PART if is_part else self._known.setdefault(kind, len(self._known)))
            one = self._state_dict.index(keys[0]) if len(keys) == 1 else _MANY_ENTRIES
            entries.append(one if keys else _NO_ENTRY)
        self._sources.add(kinds)
        self._entries.add(entries)

    def sources(self, sources: Numbers) -> _Kind:
        """Return the kind of each source."""
        return self._sources.of(sources)

    def entries(self, sources: Numbers) -> NDArray[np.int32]:
        """Return the one entry that each source reads; `_NO_ENTRY` and `_MANY_ENTRIES` are others.

        They are indexes from the end of a table that has two more items than there are entries.
        """
        if len(sources) and sources.min() >= GAP:
            # Whole entries, which is quicker than to look each one up.
            return np.maximum(sources, _NO_ENTRY)
        return self._entries.of(sources)


def _leaf_kind(leaf: Leaf) -> Hashable:
    rule = rule_for(leaf) if leaf.owner in RULED else None
    ruled = None if rule is None else (leaf.owner, rule.role, id(leaf.config))
    return leaf.shape, leaf.dtype, leaf.has_value, ruled


def _entry_kind(entry: Entry) -> Hashable:
    is_mask = entry.dtype == "uint8" and is_mask_of_bytes(entry)
    return entry.shape, entry.dtype, is_mask, is_input_first(entry.key)


def _template(source: Expr, keys: tuple[str, ...]) -> Hashable:
    """Return an expression with its keys left out."""
    if isinstance(source, Take):
        return keys.index(source.key)
    own = tuple(getattr(source, name) for name in _own_fields(type(source)))
    return (type(source), own, *(_template(operand, keys) for operand in source.operands))


def _own_fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(name for name in kind.__struct_fields__ if name != "of")


class Verdicts:
    """The fits of a session's rows. Reasons in words are found when asked for.

    Args:
        state_dict: The entries.
        skeleton: The leaves.
        rows: The rows, numbered as the entries are.
        evidence: What is known of names and structure.
    """

    def __init__(
        self, state_dict: StateDict, skeleton: Skeleton, rows: Rows, evidence: Evidence | None
    ) -> None:
        self._state_dict, self._skeleton = state_dict, skeleton
        self._kinds = _Kinds(state_dict, skeleton)
        # The fit by kind of leaf, twice as it may be decided by the layer's rule, and of source.
        self._table = np.zeros((2 * self._kinds.leaf_count, 0), np.uint8)
        self._by_pair: dict[tuple[int, int], int] = {}
        self._codes = bytearray(len(skeleton))
        self._kept: dict[int, Verdict] = {}
        self._rows, self._evidence = rows, evidence
        self._suggested: Numbers | None = None
        self.company = Company(state_dict, skeleton)
        self._mixed = self._wasteful = np.zeros(len(skeleton), np.bool_)
        self.judge_all(rows, evidence)

    def __len__(self) -> int:
        return len(self._codes)

    def judge_all(self, rows: Rows, evidence: Evidence | None) -> None:
        """Judge all rows."""
        self._evidence, self._suggested = evidence, None
        self.changed(rows, range(len(rows)))

    def changed(self, rows: Rows, span: range) -> range:
        """Judge the rows of a range, which may have changed, and those that this affects.

        Returns:
            All rows that may be judged otherwise now, with those between.
        """
        self._rows = rows
        before = self._mixed, self._wasteful
        self._mixed, self._wasteful = self.company.doubted(rows, span)
        affected = np.flatnonzero((self._mixed != before[0]) | (self._wasteful != before[1]))
        if len(affected):
            low, high = int(affected[0]), int(affected[-1]) + 1
            span = range(min(span.start, low), max(span.stop, high)) if span else range(low, high)
        # Reasons name other rows, wherever these are.
        self._kept.clear()
        codes = np.frombuffer(self._codes, np.uint8)
        codes[span.start : span.stop] = self._judged(span)
        return span

    def at(self, index: int) -> Verdict:
        """Return the verdict on a row, in words too."""
        verdict = self._kept.get(index)
        if verdict is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            verdict = self._kept[index] = self.of(index, self._rows)
        return verdict

    def fit(self, index: int) -> Fit:
        """Return the fit of a row."""
        return self.sign(index).fit

    def sign(self, index: int) -> Verdict:
        """Return the verdict on a row without its reason, which takes longer to find."""
        return _SIGNS[self._codes[index]]

    @property
    def counts(self) -> Counter[Fit]:
        """Rows per fit."""
        return self.counts_in(range(len(self)))

    def trusted_in(self, span: range) -> int:
        """Return how many rows of a range are doubtful and trusted."""
        return self._codes.count(_TRUSTED, span.start, span.stop)

    def counts_in(self, span: range) -> Counter[Fit]:
        """Return the rows of a range per fit."""
        codes = self._codes[span.start : span.stop]
        found = Counter[Fit]()
        for code, fit in enumerate(_FITS):
            if fit is not None and (count := codes.count(code)):
                found[fit] += count
        return found

    @property
    def blocking(self) -> int:
        """Rows that block a conversion."""
        return self.blocking_count(range(len(self)))

    def blocking_count(self, span: range) -> int:
        """Return how many rows of a range block a conversion."""
        return sum(self._codes.count(code, span.start, span.stop) for code in _BLOCKING)

    def worst(self, span: range) -> Verdict | None:
        """Return the worst fit of a range's rows, without a reason; None if it has none."""
        code = next((c for c in range(_MISMATCHED, 0, -1) if self._find(c, span) >= 0), 0)
        return _SIGNS[code] if code else None

    def blocking_set(self) -> set[int]:
        """Return all rows that block a conversion."""
        codes = np.frombuffer(self._codes, np.uint8)
        return set(np.flatnonzero(_BLOCKS[codes]).tolist())

    def settled(self, indexes: Numbers) -> Numbers:
        """Return those of some rows that do not block a conversion."""
        return indexes[~_BLOCKS[np.frombuffer(self._codes, np.uint8)[indexes]]]

    def next_blocking(self, index: int, step: Literal[1, -1]) -> int | None:
        """Return the nearest row after (or before) an index that blocks, going round."""
        count = len(self._codes)
        here = min(index, count)
        if step > 0:
            spans = range(here + 1, count), range(min(here + 1, count))
        else:
            above = range(max(0, here))
            spans = above, range(above.stop, count)
        return next(
            (found for span in spans if (found := self.blocking_in(span, step)) is not None), None
        )

    def blocking_in(self, span: range, step: Literal[1, -1] = 1) -> int | None:
        """Return the first row (or the last) of a range that blocks a conversion."""
        indexes = [self._find(code, span, step) for code in _BLOCKING]
        found = [index for index in indexes if index >= 0]
        if not found:
            return None
        return min(found) if step > 0 else max(found)

    def _find(self, code: int, span: range, step: Literal[1, -1] = 1) -> int:
        find = self._codes.find if step > 0 else self._codes.rfind
        return find(_BYTES[code], span.start, span.stop)

    def of(self, index: int, rows: Rows) -> Verdict:
        """Return the verdict on one of other rows, as if they were the session's."""
        row, evidence = rows[index], self._evidence
        verdict = weigh(index, row, self._state_dict, self._skeleton, evidence)
        if verdict.fit is Fit.MISMATCHED or row.fixed:
            return verdict
        suggestion = evidence.suggestions[index] if evidence is not None else None
        is_named = row.by == "forward" or (
            suggestion is not None and suggestion.certain and suggestion.source == row.source
        )
        doubt = self.company.why(index, rows, is_named=is_named)
        if not doubt:
            return verdict
        whys = (verdict.why, doubt) if verdict.fit is Fit.DOUBTFUL else (doubt, verdict.why)
        why = "; ".join(filter(None, whys))
        return Verdict(Fit.DOUBTFUL, why, blocks=not row.trusted)

    def _judged(self, span: range) -> _Codes:
        """Return the codes of a range's rows."""
        if self._evidence is not None:
            self._evidence.columns(self._state_dict)
        self._kinds.learn()
        rows, there = self._rows, slice(span.start, span.stop)
        sources = rows.sources[there]
        facts = _Facts(rows, there)
        codes, apart = self._fits(span, sources, facts)
        apart |= facts.forward & ~facts.fixed & (codes != _MISMATCHED)
        doubted = self._mixed[there]
        if self._evidence is not None:
            known = self._evidence.columns(self._state_dict)
            doubted = doubted & ~(known.certain[there] & (known.sources[there] == sources))
            more, unclear = self._doubted(span, sources, facts, known)
            doubted |= more
            apart |= unclear & ~facts.fixed & (codes != _MISMATCHED)
        doubted = doubted | self._wasteful[there]
        codes[doubted & ~facts.fixed & (codes != _MISMATCHED)] = _DOUBTFUL
        codes[(codes == _DOUBTFUL) & facts.trusted] = _TRUSTED
        for number in np.flatnonzero(apart).tolist():
            codes[number] = _code(self.of(span.start + number, rows))
        return codes

    def _fits(self, span: range, sources: Numbers, facts: _Facts) -> tuple[_Codes, Any]:
        """Return the codes that `judge` speaks of, and which rows it has to be asked about."""
        kinds, there = self._kinds, slice(span.start, span.stop)
        source_kinds = kinds.sources(sources)
        leaf_kinds = kinds.leaves[there] * 2 + facts.ruled
        codes = self._by_kinds(span.start, leaf_kinds, source_kinds)
        codes[(sources == GAP) & kinds.has_value[there]] = _GAP
        return codes, source_kinds == _PART

    def _by_kinds(self, start: int, leaf_kinds: _Kind, source_kinds: _Kind) -> _Codes:
        """Return codes by the kinds of leaf and source; 0 in the table is a pair not yet seen."""
        count, table = self._kinds.count, self._table
        if table.shape[0] * count > _LARGEST_TABLE:
            return self._by_pairs(start, leaf_kinds, source_kinds)
        if table.shape[1] < count:
            table = np.pad(table, ((0, 0), (0, 2 * count - table.shape[1])))
            table[:, :2] = _MISMATCHED
            self._table = table
        flat, pairs = table.ravel(), leaf_kinds * table.shape[1] + source_kinds
        codes = flat.take(pairs)
        unseen = np.flatnonzero(codes == 0)
        if len(unseen):
            new, first = np.unique(pairs[unseen], return_index=True)
            flat[new] = [self._fit(start + number) for number in unseen[first].tolist()]
            codes = flat.take(pairs)
        return codes

    def _by_pairs(self, start: int, leaf_kinds: _Kind, source_kinds: _Kind) -> _Codes:
        """Return the same of too many kinds for a table."""
        both = leaf_kinds.astype(np.int64) * self._kinds.count + source_kinds
        pairs, first, places = np.unique(both, return_index=True, return_inverse=True)
        fits = np.full(len(pairs), _MISMATCHED, np.uint8)
        for number, example in enumerate(first.tolist()):
            key = int(leaf_kinds[example]), int(source_kinds[example])
            if key[1] > _PART:
                if key not in self._by_pair:
                    self._by_pair[key] = self._fit(start + example)
                fits[number] = self._by_pair[key]
        return fits[places]

    def _fit(self, index: int) -> int:
        row = self._rows[index]
        row = Row(row.source, by="rule" if row.by == "rule" else "user", why=row.why)
        return _CODES[judge(self._skeleton[index], row, self._state_dict).fit]

    def _doubted(
        self, span: range, sources: Numbers, facts: _Facts, known: Columns
    ) -> tuple[Any, Any]:
        """Return which rows the evidence doubts, and which it has to be asked about."""
        there = slice(span.start, span.stop)
        wanted, certain = known.sources[there], known.certain[there]
        settled = (wanted != NOTHING) & (certain | known.placed[there])
        if self._suggested is None:
            self._suggested = self._kinds.entries(known.sources)
        taken, suggested = self._kinds.entries(sources), self._suggested[there]
        is_source = (sources != NOTHING) & (sources != GAP)
        agrees = is_source & (sources == wanted)
        others = is_source & ~agrees
        claims = known.claims.take(taken)
        own = np.arange(span.start, span.stop, dtype=np.int32)
        claimed = (claims != NOTHING) & (claims != own)
        loose = others & ~settled & ~claimed
        doubted = agrees & ~(certain | facts.user)
        chosen = facts.user | facts.recipe
        doubted |= (sources == GAP) & ~(chosen | (certain & (wanted == NOTHING)))
        doubted |= others & (settled | claimed)
        doubted |= loose & ~facts.user
        alike = (taken == suggested) & (taken >= 0)
        many = (taken == _MANY_ENTRIES) | (suggested == _MANY_ENTRIES) | (taken == _NO_ENTRY)
        apart = is_source & (facts.claude | facts.recipe)
        apart |= others & (alike | many)
        return doubted, apart


class _Facts:
    """Flags of the decisions on a range of rows."""

    def __init__(self, rows: Rows, there: slice) -> None:
        # Looking up one byte a row, not a flag for each fact, takes a third of the time.
        bits = np.packbits(rows.numbering.facts, axis=0, bitorder="little")[0]
        found = bits.take(rows.in_force(there))
        facts = {name: found & (1 << number) != 0 for number, name in enumerate(FACTS)}
        self.fixed, self.trusted = facts["fixed"], facts["trusted"]
        self.user, self.claude = facts["user"], facts["claude"]
        self.recipe, self.forward = facts["recipe"], facts["forward"]
        self.ruled = facts["ruled"]
