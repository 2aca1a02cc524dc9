"""Pairs of modules in which sources are tried: torch's inputs go in, its outputs are expected."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from s2p_tui.cli.check.arrays import Call, comparable, difference
from s2p_tui.cli.check.filled import UNCHANGED, Changes, FilledModel
from s2p_tui.cli.check.inputs import Examples
from s2p_tui.cli.check.jax_side import call_once
from s2p_tui.cli.check.replay import KeptCall, kept_calls

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What differs has to differ by more than what agrees may, and by far.
_APART = 10.0
_APART_FROM_ERROR = 100.0
WHOLE = ""
"""Path of the whole model."""


@dataclass(eq=False)
class Scope:
    """A torch module and its Equinox twin.

    Attributes:
        torch: Path of the torch module.
        jax: Key path of the Equinox module.
        rows: The leaves within it, its state's included.
        references: Torch's calls, the examples along the first axis.
        kept: Equinox's calls by call and example; none for the whole model.
        error: How far the outputs are apart, relative to the largest; None if they cannot be
            compared.
        inputs_agree: True if both are called with inputs that agree in the model's own forward.
    """

    torch: str
    jax: str
    rows: frozenset[int]
    references: Sequence[Call]
    kept: Sequence[Sequence[KeptCall]] = ()
    error: float | None = None
    inputs_agree: bool = True
    given: dict[tuple[int, int], list[NDArray[Any]]] = field(
        default_factory=dict[tuple[int, int], "list[NDArray[Any]]"]
    )
    """Inputs to call with instead of the kept ones, by call and example."""


class Bench:
    """All scopes of a pair of models, the smallest first, and the model that is tried in them.

    Args:
        model: The Equinox model, filled.
        examples: What both were run on.
        torch_calls: Path and call of torch's modules, in the order in which they returned.
        reference: What torch's whole model returned.
        tolerance: Largest relative difference that counts as agreement.
    """

    def __init__(
        self,
        model: FilledModel,
        examples: Examples,
        torch_calls: Sequence[tuple[str, Call]],
        reference: Sequence[NDArray[Any]],
        tolerance: float,
    ) -> None:
        self.model, self.examples, self.tolerance = model, examples, tolerance
        self._calls: defaultdict[str, list[Call]] = defaultdict(list)
        for path, call in torch_calls:
            self._calls[path].append(call)
        everything = frozenset(range(len(model.skeleton)))
        self.whole = Scope(WHOLE, WHOLE, everything, [Call([], list(reference))])
        self.scopes: list[Scope] = []
        self.trials: Counter[str] = Counter()

    def run(self, pairs: Mapping[str, str]) -> None:
        """Run the model as it is filled now, and compare every pair anew.

        Args:
            pairs: Key path of the Equinox module by path of the torch module.
        """
        kept = kept_calls(self.model.tree(), self.examples)
        known = set(self.model.modules)
        found: list[Scope] = []
        for torch, jax in pairs.items():
            calls = self._calls.get(torch, [])
            if jax and jax in known and calls and len(kept.get(jax, ())) == len(calls):
                rows = frozenset(self.model.rows_under(jax))
                found.append(Scope(torch, jax, rows, calls, kept[jax]))
        self.whole.kept = kept.get(WHOLE, ()) if WHOLE in known else ()
        self.scopes = [*sorted(found, key=lambda scope: len(scope.rows)), self.whole]
        for scope in self.scopes:
            self._choose_inputs(scope)
            scope.error = self.error(scope)
        self.scopes = [scope for scope in self.scopes if scope.error is not None]

    def _choose_inputs(self, scope: Scope) -> None:
        """Call with torch's inputs where Equinox's own are not the same, as behind a fault."""
        scope.given.clear()
        scope.inputs_agree = True
        for number, calls in enumerate(scope.kept):
            for example, call in enumerate(calls):
                wanted = [array[example] for array in scope.references[number].inputs if array.ndim]
                own = call.inputs
                if len(wanted) != len(own):
                    wanted, own = wanted[:1], own[:1]
                if not own or not comparable(own, wanted):
                    scope.inputs_agree = False
                elif not difference(own, wanted, cosine=False).relative <= self.tolerance:
                    scope.inputs_agree = False
                    scope.given[number, example] = wanted

    def error(
        self, scope: Scope, changes: Changes = UNCHANGED, *, most: float | None = None
    ) -> float | None:
        """Return how far a scope's outputs are from torch's; None if they cannot be compared.

        Args:
            scope: The pair of modules.
            changes: Leaves that are filled otherwise.
            most: Where they are further apart, other examples are not looked at: they would not
                be nearer. None is `far` of the scope where anything is filled otherwise.
        """
        self.trials[scope.jax] += 1
        if most is None:
            most = self.far(scope) if changes else float("inf")
        if not scope.kept:
            return self._error_of_all(scope, changes, most)
        module, state = self.model.module(scope.jax, changes)
        worst = 0.0
        for number, calls in enumerate(scope.kept):
            for example, call in enumerate(calls):
                found = call.again(module, state, scope.given.get((number, example)))
                apart = _apart(found, _of(scope.references[number], example))
                if apart is None:
                    return None
                worst = max(worst, apart)
                if worst > most:
                    return worst
        return worst

    def far(self, scope: Scope) -> float:
        """Return the error from which on a candidate differs beyond doubt."""
        return max(_APART * self.tolerance, _APART_FROM_ERROR * (scope.error or 0.0))

    def _error_of_all(self, scope: Scope, changes: Changes, most: float) -> float | None:
        tree = self.model.tree(changes)
        worst = 0.0
        for example in range(self.examples.count):
            found = call_once(tree, self.examples, example)
            apart = _apart(found, _of(scope.references[0], example))
            if apart is None:
                return None
            worst = max(worst, apart)
            if worst > most:
                break
        return worst

    def agrees(self, scope: Scope) -> bool:
        """Return True if a scope's outputs are within the tolerance."""
        return scope.error is not None and scope.error <= self.tolerance

    def around(self, rows: set[int] | frozenset[int], *, agreeing: bool = True) -> list[Scope]:
        """Return the scopes that hold all of some leaves, the smallest first."""
        return [
            scope
            for scope in self.scopes
            if rows <= scope.rows and (self.agrees(scope) or not agreeing)
        ]


def _of(call: Call, example: int) -> list[NDArray[Any]]:
    return [array[example] for array in call.outputs if array.ndim]


def _apart(found: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> float | None:
    if len(found) != len(reference):
        found, reference = found[:1], reference[:1]
    if not found or not comparable(found, reference):
        return None
    return difference(found, reference, cosine=False).relative
