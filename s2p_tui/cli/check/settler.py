"""The forward decides: sources of doubtful rows, and of rows in modules that differ.

Every pair of modules is called with torch's own inputs, the smallest first, so that a fault is
looked for where it is and the work grows with the number of modules. A source is taken where its
module agrees then and agrees with no other candidate; in the end both models have to agree on
other inputs as well, and each row's rivals have to differ, or it stays as doubtful as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from s2p_tui.alignment.judge import is_padded
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr, Scale, describe, keys_of
from s2p_tui.cli.check.candidates import Candidate, Candidates
from s2p_tui.cli.check.filled import Changes
from s2p_tui.cli.check.scopes import Bench, Scope

# Times the model is looked through: each finds the faults that an earlier one hid.
_MOST_ROUNDS = 6
# Forwards of one module, and of one that holds other pairs, which takes longer.
_MOST_TRIALS, _MOST_TRIALS_AROUND = 2000, 700
_MOST_PAIRED = 14
_MOST_RIVALS = 80
_MOST_PARTNERS = 8
# A row whose numbers are half as large again has to make a difference.
_LOUDER = 1.5


@dataclass(frozen=True, slots=True)
class SettledRow:
    """A row that the forward has decided.

    Attributes:
        index: The leaf.
        source: What fills it.
        error: How far its module's outputs are from torch's.
        next_best: How far they are with the best other candidate.
        module: Key path of the Equinox module that it was tried in; empty for the whole model.
        changed: True if another source was there before.
    """

    index: int
    source: Expr
    error: float
    next_best: float
    module: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """All that the forward decided.

    Attributes:
        settled: The rows that it decided.
        open: Why it could not decide others, by leaf.
        trials: Modules called with other sources, in all.
    """

    settled: tuple[SettledRow, ...]
    open: Mapping[int, str]
    trials: int


class Settler:
    """Looks for sources with which the modules agree.

    Args:
        bench: The model and the pairs of modules.
        state_dict: The entries.
        prefix: What the checkpoint's keys have before the torch module's own.
        pair: Gives key paths of Equinox modules by path of the torch module, as the sources are.
        narrate: Told of each step: its words, how much of it is done, and how much there is.

    Attributes:
        repairs: What was done, in words.
    """

    def __init__(
        self,
        bench: Bench,
        state_dict: StateDict,
        prefix: str,
        pair: Callable[[Sequence[Expr | None]], Mapping[str, str]],
        narrate: Callable[[str, int, int], None],
    ) -> None:
        self._bench, self._state_dict, self._prefix = bench, state_dict, prefix
        self._pair, self._narrate = pair, narrate
        self._skeleton: Skeleton = bench.model.skeleton
        self._candidates = Candidates(state_dict, self._skeleton)
        self._before = list(bench.model.sources)
        self.repairs: list[str] = []
        self._exchanged: dict[frozenset[int], float | None] = {}

    @property
    def sources(self) -> Sequence[Expr | None]:
        """The source of each leaf now."""
        return self._bench.model.sources

    @property
    def changed(self) -> list[int]:
        """The leaves that something else fills than in the beginning."""
        pairs = zip(self._before, self.sources, strict=True)
        return [index for index, (old, new) in enumerate(pairs) if old != new]

    def take_back(self) -> None:
        """Fill all leaves as in the beginning."""
        before = {index: self._before[index] for index in self.changed}
        self._bench.model.take({i: source for i, source in before.items() if source is not None})

    def repair(self) -> bool:
        """Look for other sources until the whole model agrees; return True if it does."""
        bench = self._bench
        bench.run(self._pair(self._before))
        for number in range(_MOST_ROUNDS):
            if bench.agrees(bench.whole):
                return True
            if not self._one_round(number):
                return False
            self._narrate("running both models again", number + 1, _MOST_ROUNDS)
            bench.run(self._pair(self._before))
        return bench.agrees(bench.whole)

    def _one_round(self, number: int) -> bool:
        """Repair what can be repaired; return True if anything was."""
        bench, found = self._bench, False
        count = len(bench.scopes)
        for place, scope in enumerate(bench.scopes):
            self._narrate(f"trying {scope.jax or 'the whole model'}", place, count)
            scope.error = bench.error(scope)
            if bench.agrees(scope) or any(map(bench.agrees, self._around(scope))):
                continue
            found = self._repair(scope, number) or found
        return found

    def _around(self, scope: Scope) -> list[Scope]:
        """Return the larger scopes that hold a scope."""
        return [one for one in self._bench.scopes if scope.rows < one.rows]

    def _inside(self, scope: Scope) -> list[Scope]:
        return [one for one in self._bench.scopes if one.rows < scope.rows]

    def _repair(self, scope: Scope, number: int) -> bool:
        inner = self._inside(scope)
        most = _MOST_TRIALS_AROUND if inner else _MOST_TRIALS
        held = frozenset[int]().union(*(one.rows for one in inner))
        own = [i for i in sorted(scope.rows) if i not in held and self.sources[i] is not None]
        others = [i for i in sorted(held) if self.sources[i] is not None]
        for lot in (
            self._singles(scope, own, others),
            self._pairs(scope, own),
            self._deep_pairs(own, others) if number else iter(()),
        ):
            found = self._best(scope, lot, most)
            if found is not None:
                changes = dict(found.changes)
                self._bench.model.take(changes)
                scope.error = self._bench.error(scope)
                self.repairs.append(found.words)
                return True
        return False

    def _best(self, scope: Scope, lot: Iterable[Candidate], most: int) -> Candidate | None:
        """Return the one candidate with which a scope agrees; None if there is none, or several."""
        agreeing: list[Candidate] = []
        for tried, candidate in enumerate(lot):
            if tried == most:
                break
            error = self._error(scope, dict(candidate.changes), self._bench.tolerance)
            if error is not None and error <= self._bench.tolerance:
                if not any(self._same(candidate, other) for other in agreeing):
                    agreeing.append(candidate)
                if len(agreeing) > 1:
                    return None
        return agreeing[0] if agreeing else None

    def _error(self, scope: Scope, changes: Changes, most: float | None = None) -> float | None:
        with np.errstate(all="ignore"):
            try:
                return self._bench.error(scope, changes, most=most)
            except (ValueError, TypeError, OverflowError):
                return None

    def _same(self, first: Candidate, second: Candidate) -> bool:
        """Return True if two candidates give all leaves the same numbers."""
        one, other = dict(first.changes), dict(second.changes)
        return all(
            self._equal(index, one.get(index), other.get(index)) for index in one.keys() | other
        )

    def _equal(self, index: int, first: Expr | None, second: Expr | None) -> bool:
        model = self._bench.model
        sources = [self.sources[index] if source is None else source for source in (first, second)]
        if sources[0] == sources[1]:
            return True
        one, other = (
            None if source is None else np.asarray(model.leaf(index, source)) for source in sources
        )
        return one is not None and other is not None and np.array_equal(one, other)

    def _options(self, scope: Scope, index: int, most: int) -> list[tuple[Expr, str]]:
        """Return other sources for a row: of the entries of its torch module, then of its own."""
        source = self.sources[index]
        assert source is not None
        before = f"{self._prefix}{scope.torch}." if scope.torch else self._prefix
        near = [entry.key for entry in self._state_dict if entry.key.startswith(before)]
        current = set(keys_of(source))
        keys = [key for key in near if key not in current] if len(near) <= _MOST_PAIRED else []
        found = dict(self._candidates.of_entries(index, keys, 3))
        for other, words in self._candidates.of_row(index, source):
            found.setdefault(other, words)
        found.pop(source, None)
        return list(found.items())[:most]

    def _singles(
        self, scope: Scope, own: Sequence[int], others: Sequence[int]
    ) -> Iterator[Candidate]:
        yield from self._candidates.exchanges([*own, *others], self.sources)
        yield from self._candidates.reordered([*own, *others], self.sources)
        lists = [
            [(index, option) for option in self._options(scope, index, 400)]
            for index in (*own, *others)
        ]
        # The likeliest of every row before the next of any.
        for place in range(max(map(len, lists), default=0)):
            for options in lists:
                if place < len(options):
                    index, (source, words) = options[place]
                    yield self._one(index, source, words)

    def _one(self, index: int, source: Expr, words: str) -> Candidate:
        path = self._skeleton[index].path
        done = words.removesuffix(": ") or describe(source) or "as it is"
        return Candidate(((index, source),), f"{path}: {done}")

    def _pairs(self, scope: Scope, rows: Sequence[int]) -> Iterator[Candidate]:
        """Two rows otherwise at once; an exchange, and another row or one of these otherwise."""
        options = {index: self._options(scope, index, _MOST_PAIRED) for index in rows}
        for first, second in combinations(rows, 2):
            for (one, words), (other, more) in product(options[first], options[second]):
                both = f"{self._skeleton[first].path}: {words}; {self._skeleton[second].path}: "
                yield Candidate(((first, one), (second, other)), f"{both}{more}")

    def _deep_pairs(self, own: Sequence[int], others: Sequence[int]) -> Iterator[Candidate]:
        """An exchange, and then a row otherwise."""
        rows = [*own, *others]
        for exchange in list(self._candidates.exchanges(rows, self.sources))[:60]:
            changed = dict(exchange.changes)
            for index, source in changed.items():
                for other, words in self._candidates.of_row(index, source)[:_MOST_PAIRED]:
                    changes = tuple((changed | {index: other}).items())
                    yield Candidate(changes, f"{exchange.words}; {words}")

    def prove(self, rows: Sequence[int]) -> Settlement:
        """Settle rows of a model that agrees, each against its rivals."""
        if self.changed:
            # Modules that go together now are smaller than what held those that did before.
            self._bench.run(self._pair(self.sources))
        settled: list[SettledRow] = []
        left: dict[int, str] = {}
        for number, index in enumerate(rows):
            self._narrate(f"rivals of {self._skeleton[index].path}", number, len(rows))
            found = self._proven(index)
            if isinstance(found, str):
                left[index] = found
            else:
                settled.append(found)
        return Settlement(tuple(settled), left, sum(self._bench.trials.values()))

    def _proven(self, index: int) -> SettledRow | str:
        source = self.sources[index]
        if source is None:
            return "nothing of the checkpoint fills it"
        if is_padded(source):
            return "no input calls for the rows that are made up"
        scopes = self._bench.around({index})
        if not scopes:
            return "no pair of modules that agrees holds it"
        scope = scopes[0]
        if not self._is_heard(scope, scopes[1:]):
            return f"nothing outside {scope.jax} depends on what it returns"
        errors: list[tuple[float, str]] = []
        louder = self._error(scope, {index: Scale(source, _LOUDER)})
        if louder is not None:
            errors.append((louder, "the numbers make no difference"))
        for other, words in self._options(scope, index, _MOST_RIVALS):
            if not self._equal(index, other, source):
                error = self._error(scope, {index: other})
                if error is not None:
                    done = words.removesuffix(": ") or describe(other) or "as it is"
                    errors.append((error, f"as another candidate ({done}) it does as well"))
        for partner in self._partners(index):
            error = self._exchange_error(index, partner)
            if error is not None:
                path = self._skeleton[partner].path
                errors.append((error, f"exchanged with {path} it does as well"))
        if not errors:
            return "there is nothing to compare it with"
        best, words = min(errors)
        if best <= self._bench.far(scope):
            return f"its module agrees within {scope.error:.1g}, but {words} ({best:.1g})"
        return SettledRow(
            index,
            source,
            scope.error or 0.0,
            best,
            scope.jax,
            source != self._before[index],
        )

    def _is_heard(self, scope: Scope, around: Sequence[Scope]) -> bool:
        """Return True if what a scope returns makes a difference to the whole model."""
        for outer in around:
            if outer.rows == scope.rows:
                continue
            filled = [i for i in sorted(scope.rows) if self.sources[i] is not None][:4]
            key = frozenset((-1, id(scope), id(outer)))
            if key not in self._exchanged:
                errors = (self._error(outer, {i: self._louder(i)}) or 0.0 for i in filled)
                heard = next((error for error in errors if error > self._bench.far(outer)), None)
                self._exchanged[key] = heard
            if self._exchanged[key] is None:
                return False
            scope = outer
        return True

    def _louder(self, index: int) -> Expr:
        source = self.sources[index]
        assert source is not None
        return Scale(source, _LOUDER)

    def _partners(self, index: int) -> list[int]:
        """Return leaves of the same shape that could be taken for this one, the nearest first."""
        leaf = self._skeleton[index]
        alike = [
            other
            for other, one in enumerate(self._skeleton)
            if other != index
            and sorted(one.shape) == sorted(leaf.shape)
            and self.sources[other] is not None
        ]
        nearest = sorted(alike, key=lambda other: self._candidates.distance(index, other))
        return nearest[:_MOST_PARTNERS]

    def _exchange_error(self, index: int, partner: int) -> float | None:
        """Return how far a scope is apart where two rows take each other's source."""
        both = frozenset((index, partner))
        if both not in self._exchanged:
            self._exchanged[both] = self._error_of_exchange(index, partner)
        return self._exchanged[both]

    def _error_of_exchange(self, index: int, partner: int) -> float | None:
        candidate = self._candidates.exchange(index, partner, self.sources)
        if candidate is None:
            return None
        changes = dict(candidate.changes)
        if all(self._equal(n, source, None) for n, source in changes.items()):
            return 0.0
        scopes = self._bench.around({index, partner})
        return self._error(scopes[0], changes) if scopes else None
