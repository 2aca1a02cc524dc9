"""The fits of all rows at once, one byte each.

A fit depends on the kinds of leaf and source, on the decision and on the evidence. `weigh` is asked
once for each pair of kinds, and for rows of which their kinds do not say enough; everything else
is looked up by arrays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from s2p_tui.alignment.alignment import Row, Rows
from s2p_tui.alignment.company import Company
from s2p_tui.alignment.composites import composite_of
from s2p_tui.alignment.evidence import Columns, Evidence, weigh
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.layer_rules import rule_for
from s2p_tui.alignment.numbering import FACTS, GAP, NOTHING, Flags, Numbers
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr, Take, keys_of

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

_Codes = NDArray[np.uint8]
_NO_ENTRY, _MANY_ENTRIES = -1, -2


def _code(verdict: Verdict) -> int:
    code = _CODES[verdict.fit]
    return _TRUSTED if code == _DOUBTFUL and not verdict.blocks else code


class _Kinds:
    """Leaves and sources as numbers that are equal where `judge` cannot tell them apart."""

    def __init__(self, state_dict: StateDict, skeleton: Skeleton) -> None:
        self._state_dict, self._skeleton = state_dict, skeleton
        self._numbering = state_dict.numbering
        known: dict[Hashable, int] = {}
        kinds = [known.setdefault(_leaf_kind(leaf), len(known)) for leaf in skeleton]
        self.leaves = np.array(kinds, np.int64)
        self.leaf_count = len(known)
        sizes = [prod(leaf.shape) for leaf in skeleton]
        self.leaf_sizes = np.array(sizes, np.float64)
        self.has_rule = np.array([rule_for(leaf) is not None for leaf in skeleton], np.bool_)
        self.has_value = np.array([leaf.has_value for leaf in skeleton], np.bool_)
        self._known: dict[Hashable, int] = {}
        self._sources = np.empty(0, np.int64)
        self.sizes = np.array([prod(entry.shape) for entry in state_dict], np.float64)
        parts = [
            number
            for number, entry in enumerate(state_dict)
            if composite_of(entry.key, state_dict) is not None or entry.key in state_dict.encoded
        ]
        self._parts = frozenset(state_dict.entries[number].key for number in parts)
        entries = [
            self._known.setdefault((entry.shape, entry.dtype), len(self._known))
            for entry in state_dict
        ]
        self.entries = np.array(entries, np.int64)
        self.is_special = np.zeros(len(state_dict), np.bool_)
        self.is_special[parts] = True
        self.made = np.empty(0, np.int64)
        self.made_entry = np.empty(0, np.int64)
        self.made_special = np.empty(0, np.bool_)

    @property
    def count(self) -> int:
        """How many kinds of source there are."""
        return len(self._known)

    def learn(self) -> None:
        """Find the kinds of expressions that were numbered since."""
        new = self._numbering.expressions[len(self.made) :]
        if not new:
            return
        kinds: list[int] = []
        entries: list[int] = []
        special: list[bool] = []
        for source in new:
            keys = keys_of(source)
            shapes = tuple((self._state_dict[k].shape, self._state_dict[k].dtype) for k in keys)
            kind = _template(source, keys), shapes
            kinds.append(self._known.setdefault(kind, len(self._known)))
            one = self._numbering.entry(keys[0]) if len(keys) == 1 else _MANY_ENTRIES
            entries.append(one if keys else _NO_ENTRY)
            special.append(not self._parts.isdisjoint(keys))
        self.made = np.append(self.made, kinds)
        self.made_entry = np.append(self.made_entry, entries)
        self.made_special = np.append(self.made_special, special)


def _leaf_kind(leaf: Leaf) -> Hashable:
    rule = rule_for(leaf)
    ruled = None if rule is None else (leaf.owner, rule.role, id(leaf.config))
    return leaf.shape, leaf.dtype, leaf.has_value, ruled


def _template(source: Expr, keys: tuple[str, ...]) -> Hashable:
    """Return an expression with its keys left out."""
    if isinstance(source, Take):
        return keys.index(source.key)
    own = tuple(getattr(source, name) for name in _own_fields(type(source)))
    return (type(source), own, *(_template(operand, keys) for operand in source.operands))


def _own_fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(name for name in kind.__dataclass_fields__ if name != "of")


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
        # The fit by kinds alone, by leaf kind, source kind, and if the layer's rule decided.
        self._by_kind: dict[int, int] = {}
        self._codes = bytearray(len(skeleton))
        self._kept: dict[int, Verdict] = {}
        self._rows, self._evidence = rows, evidence
        self.company = Company(state_dict, skeleton)
        self._mixed = self._wasteful = np.zeros(len(skeleton), np.bool_)
        self.judge_all(rows, evidence)

    def __len__(self) -> int:
        return len(self._codes)

    def judge_all(self, rows: Rows, evidence: Evidence | None) -> None:
        """Judge all rows."""
        self._evidence = evidence
        self.changed(rows, range(len(rows)))

    def changed(self, rows: Rows, span: range) -> range:
        """Judge the rows of a range, which may have changed, and those that this affects.

        Returns:
            All rows that may be judged otherwise now, with those between.
        """
        self._rows = rows
        before = self._mixed, self._wasteful
        self._mixed, self._wasteful = self.company.doubted(rows)
        affected = np.flatnonzero((self._mixed != before[0]) | (self._wasteful != before[1]))
        if len(affected):
            low, high = int(affected[0]), int(affected[-1]) + 1
            span = range(min(span.start, low), max(span.stop, high)) if span else range(low, high)
        if len(span) < _MOST_KEPT:
            for index in span:
                self._kept.pop(index, None)
        else:
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
            verdict = self._kept[index] = self._weigh(index)
        return verdict

    def fit(self, index: int) -> Fit:
        """Return the fit of a row."""
        fit = _FITS[self._codes[index]]
        assert fit is not None
        return fit

    @property
    def counts(self) -> Counter[Fit]:
        """Rows per fit."""
        return self.counts_in(range(len(self)))

    @property
    def trusted(self) -> int:
        """Rows that are doubtful and trusted."""
        return self._codes.count(_TRUSTED)

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
        return sum(map(self._codes.count, _BLOCKING))

    def worst(self, span: range) -> Verdict | None:
        """Return the worst fit of a range's rows, without a reason; None if it has none."""
        code = next((c for c in range(_MISMATCHED, 0, -1) if self._find(c, span) >= 0), 0)
        fit = _FITS[code]
        return None if fit is None else Verdict(fit, blocks=code in _BLOCKING)

    def blocking_set(self) -> set[int]:
        """Return all rows that block a conversion."""
        codes = np.frombuffer(self._codes, np.uint8)
        return set(np.flatnonzero(np.isin(codes, _BLOCKING)).tolist())

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

    def _weigh(self, index: int) -> Verdict:
        return self.of(index, self._rows)

    def of(self, index: int, rows: Rows) -> Verdict:
        """Return the verdict on one of other rows, as if they were the session's."""
        row, evidence = rows[index], self._evidence
        verdict = weigh(index, row, self._state_dict, self._skeleton, evidence)
        if verdict.fit is Fit.MISMATCHED or row.fixed:
            return verdict
        suggestion = evidence.suggestions[index] if evidence is not None else None
        is_named = suggestion is not None and suggestion.certain and suggestion.source == row.source
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
            codes[number] = _code(self._weigh(span.start + number))
        return codes

    def _fits(self, span: range, sources: Numbers, facts: _Facts) -> tuple[_Codes, Any]:
        """Return the codes that `judge` speaks of, and which rows it has to be asked about."""
        kinds, there = self._kinds, slice(span.start, span.stop)
        codes = np.full(len(span), _MISMATCHED, np.uint8)
        codes[(sources == GAP) & kinds.has_value[there]] = _GAP
        whole, made = np.flatnonzero(sources >= 0), np.flatnonzero(sources < GAP)
        apart = np.zeros(len(span), np.bool_)
        source_kinds = np.full(len(span), -1, np.int64)
        entries, expressions = sources[whole], -3 - sources[made]
        source_kinds[whole] = kinds.entries[entries]
        apart[whole] = kinds.is_special[entries]
        source_kinds[made] = kinds.made[expressions]
        apart[made] = kinds.made_special[expressions]
        asked = np.concatenate([
            whole[
                (kinds.sizes[entries] == kinds.leaf_sizes[there][whole])
                | kinds.has_rule[there][whole]
            ],
            made,
        ])  # fmt: skip
        asked = asked[~apart[asked]]
        pairs = (kinds.leaves[there][asked] * 2 + facts.ruled[asked]) * 2**40 + source_kinds[asked]
        found, first, places = np.unique(pairs, return_index=True, return_inverse=True)
        fits = np.empty(len(found), np.uint8)
        for number, (pair, example) in enumerate(zip(found.tolist(), first.tolist(), strict=True)):
            code = self._by_kind.get(pair)
            if code is None:
                code = self._by_kind[pair] = self._fit(span.start + int(asked[example]))
            fits[number] = code
        codes[asked] = fits[places]
        return codes, apart

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
        taken, suggested = self._entry_of(sources), self._entry_of(wanted)
        is_source = (sources != NOTHING) & (sources != GAP)
        agrees = is_source & (sources == wanted)
        others = is_source & ~agrees
        claims = np.append(known.claims, [NOTHING, NOTHING])[taken]
        claimed = (claims != NOTHING) & (claims != np.arange(span.start, span.stop))
        loose = others & ~settled & ~claimed
        doubted = agrees & ~(certain | facts.user)
        doubted |= (sources == GAP) & ~(facts.user | (certain & (wanted == NOTHING)))
        doubted |= others & (settled | claimed)
        doubted |= loose & ~facts.user
        alike = (taken == suggested) & (taken >= 0)
        many = (taken == _MANY_ENTRIES) | (suggested == _MANY_ENTRIES) | (taken == _NO_ENTRY)
        apart = is_source & facts.claude
        apart |= others & (alike | many)
        return doubted, apart

    def _entry_of(self, sources: Numbers) -> NDArray[np.int64]:
        """Return the one entry that each source reads; `_NO_ENTRY` and `_MANY_ENTRIES` are others.

        They are indexes from the end of a table that has two more items than there are entries.
        """
        found = sources.astype(np.int64)
        made = sources < GAP
        found[made] = self._kinds.made_entry[-3 - sources[made]]
        found[sources == GAP] = _NO_ENTRY
        return found


class _Facts:
    """What the decisions on a range of rows say."""

    def __init__(self, rows: Rows, there: slice) -> None:
        flags = rows.numbering.facts[:, rows.in_force(there)]
        facts: dict[str, Flags] = dict(zip(FACTS, flags, strict=True))
        self.fixed, self.trusted = facts["fixed"], facts["trusted"]
        self.user, self.claude = facts["user"], facts["claude"]
        self.ruled = facts["ruled"]
