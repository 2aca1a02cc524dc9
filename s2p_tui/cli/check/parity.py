"""Agreement of each pair of modules, and the rows that each is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from s2p_tui.cli.check.arrays import Difference, worst
from s2p_tui.cli.check.result import Pair, numbers

if TYPE_CHECKING:
    from s2p_tui.cli.check.gradients import GradientParity


@dataclass(frozen=True, slots=True)
class ModuleParity:
    """A torch module and its Equinox twin, all their calls together.

    Attributes:
        torch: Path of the torch module.
        jax: Key path of the Equinox module.
        calls: How often each is called.
        outputs: How far what they returned is apart at most.
        inputs: How far what they were called with is apart; None if it cannot be compared.
        dtypes: Of what torch's module and Equinox's returned.
        rows: Key paths of the leaves in the Equinox module that are in no smaller pair.
        agrees: True if the outputs are within the tolerance.
        gradients: How far the gradients of these leaves are apart; None where none were compared.
    """

    torch: str
    jax: str
    calls: int
    outputs: Difference
    inputs: Difference | None
    dtypes: tuple[str, str]
    rows: tuple[str, ...]
    agrees: bool
    gradients: Difference | None = None

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; numbers that are not finite are null."""
        return {
            "torch": self.torch,
            "jax": self.jax,
            "agrees": self.agrees,
            **numbers(self.outputs),
            "cosine": self.outputs.cosine,
            "inputs": None if self.inputs is None else numbers(self.inputs),
            "dtypes": {"torch": self.dtypes[0], "jax": self.dtypes[1]},
            "calls": self.calls,
            "rows": list(self.rows),
            **({} if self.gradients is None else {"gradients": numbers(self.gradients)}),
        }


def parity_of(
    calls: Iterable[Pair], leaves: Sequence[str], skipped: int, tolerance: float
) -> tuple[ModuleParity, ...]:
    """Sum up compared calls by module, in the order in which the modules first returned.

    Args:
        calls: In the order in which they returned.
        leaves: Key paths of all leaves.
        skipped: Letters before a leaf's key path within the model.
        tolerance: Largest relative difference that counts as agreement.
    """
    by_module: defaultdict[tuple[str, str], list[Pair]] = defaultdict(list)
    for call in calls:
        by_module[call.torch, call.jax].append(call)
    rows = _rows({jax for _, jax in by_module}, leaves, skipped)
    found: list[ModuleParity] = []
    for (torch, jax), lot in by_module.items():
        outputs = worst([call.outputs for call in lot])
        inputs = [call.inputs for call in lot if call.inputs is not None]
        agrees = outputs.relative <= tolerance
        found.append(
            ModuleParity(
                torch,
                jax,
                len(lot),
                outputs,
                worst(inputs) if len(inputs) == len(lot) else None,
                lot[0].dtypes,
                tuple(rows[jax]),
                agrees,
            )
        )
    return tuple(found)


def _rows(modules: set[str], leaves: Sequence[str], skipped: int) -> defaultdict[str, list[str]]:
    """Return the leaves by the innermost module that holds them."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for leaf in leaves:
        within = leaf[skipped:]
        above = (within[:end] for end in range(len(within), 0, -1) if within[end : end + 1] in ".[")
        holder = next((path for path in above if path in modules), None)
        if holder is not None:
            found[holder].append(leaf)
    return found


def with_gradients(
    modules: Sequence[ModuleParity], gradients: Iterable[GradientParity], head: str
) -> tuple[ModuleParity, ...]:
    """Return the modules with the gradients of the leaves that are in no smaller pair.

    Args:
        modules: The modules.
        gradients: Of the parameters.
        head: What leaves' key paths have before their paths within the model.
    """
    by_leaf: defaultdict[str, list[Difference]] = defaultdict(list)
    for one in gradients:
        for path in one.leaves:
            by_leaf[head + path].append(one.apart)
    found: list[ModuleParity] = []
    for module in modules:
        apart = [one for row in module.rows for one in by_leaf.get(row, ())]
        found.append(replace(module, gradients=worst(apart) if apart else None))
    return tuple(found)


def worst_first(modules: Sequence[ModuleParity]) -> list[ModuleParity]:
    """Put those that differ first, each half in the order of the forward."""
    return sorted(modules, key=lambda module: module.agrees)
